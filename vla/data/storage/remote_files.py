"""Files of a dataset that lies elsewhere: on the Hugging Face hub, or wherever fsspec reaches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vla.data.errors import DataError

T = TypeVar("T")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/+(.+)")
_ATTEMPTS = 4
_FIRST_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 20.0  # some file systems try again by themselves
_TEMPORARY = (408, 425, 429)


def as_url(root: str | Path) -> str | None:
    """`root` as a URL, such as `hf://datasets/USER/NAME`; None if it is a path of this machine.

    A `Path` made of a URL has lost a slash, which is put back.
    """
    found = _URL.fullmatch(str(root))
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2].rstrip("/")
    return f"file:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


class RemoteFiles:
    """The files below a URL, read in pieces, again where the network fails for a moment.

    Datasets on the hub are pinned to the commit that is the newest when they are opened.

    Args:
        url: a folder.

    Attributes:
        sizes: path of each file below the folder -> bytes.
        version: changes whenever the files do.

    Raises:
        DataError: the folder does not exist, cannot be reached, or needs a package that is not
            installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = _file_system(url)
        self._path, revision = self._patiently("listed", lambda: _pinned(self._fs, self._path))
        found = self._patiently("listed", lambda: self._fs.find(self._path, detail=True))
        base = self._path.rstrip("/") + "/"
        self.sizes = {
            name.removeprefix(base): int(facts["size"])
            for name, facts in sorted(found.items())
            if name.startswith(base) and facts.get("size") is not None
        }
        if not self.sizes:
            raise DataError(f"{url}: no such folder, or nothing is in it; correct the address")
        facts = [[name, size, _stamp(found[base + name])] for name, size in self.sizes.items()]
        self.version = revision or hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file. Raises DataError."""

        def once() -> bytes:
            # one request per piece: what comes next in the file is seldom what is asked for next
            with self._fs.open(f"{self._path}/{name}", "rb", cache_type="none") as file:
                file.seek(start)
                data = bytes(file.read(stop - start))
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data)} of {stop - start} bytes came")
            return data

        return self._patiently(f"read ({name})", once) if stop > start else b""

    def _patiently(self, done: str, action: Callable[[], T]) -> T:
        begin = time.monotonic()
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except DataError:
                raise
            except FileNotFoundError as error:
                raise DataError(
                    f"{self.url}: cannot be {done}: not found; correct the address"
                ) from error
            except Exception as error:  # each file system has errors of its own
                tired = attempt == _ATTEMPTS - 1 or time.monotonic() - begin > _PATIENCE_SECONDS
                if tired or not _may_pass(error):
                    raise DataError(
                        f"{self.url}: cannot be {done}: {_told(error)}; {_remedy(error)}"
                    ) from error
            time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise DataError(f"{url}: {error}; or download the dataset and name its folder") from error
    except (ValueError, OSError) as error:
        raise DataError(
            f"{url}: {error}; expected hf://datasets/USER/NAME or another URL that fsspec reads"
        ) from error


def _pinned(fs: Any, path: str) -> tuple[str, str | None]:
    """The path at one commit, and the commit; the path itself for what is not on the hub."""
    if "hf" not in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
        return path, None
    from huggingface_hub import HfApi

    place = fs.resolve_path(path)
    info = HfApi(endpoint=fs.endpoint, token=fs.token).repo_info(
        place.repo_id, repo_type=place.repo_type, revision=place.revision
    )
    return dataclasses.replace(place, revision=info.sha, _raw_revision=None).unresolve(), info.sha


def _stamp(facts: dict[str, Any]) -> str:
    """What else tells one state of a file from another, where the file system knows it."""
    return str(
        next(
            (
                facts[key]
                for key in ("ETag", "etag", "mtime", "LastModified", "created")
                if key in facts
            ),
            "",
        )
    )


def _status(error: Exception) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(
        error, "status", None
    )
    return status if isinstance(status, int) else None


def _may_pass(error: Exception) -> bool:
    """Whether it may go better a moment later."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TEMPORARY
    return isinstance(error, OSError | TimeoutError) and not isinstance(
        error, PermissionError | NotADirectoryError | IsADirectoryError
    )


def _told(error: Exception) -> str:
    return next(
        (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
    )


def _remedy(error: Exception) -> str:
    if isinstance(error, PermissionError) or _status(error) in (401, 403, 404):
        return "correct the address, or log in (`hf auth login`) where it is private"
    return "check the network, or download the dataset and name its folder"

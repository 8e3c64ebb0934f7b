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
    scheme = found[1].lower()
    rest = found[2].rstrip("/")
    return f"file:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


class RemoteFiles:
    """The files below a URL, read in pieces, again if the network fails for a moment.

    Datasets on the hub are pinned to the commit that is the newest when they are opened, so that
    files of two versions never mix.

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
        self.version = revision or self._digest({n: _stamp(found[base + n]) for n in self.sizes})

    def _digest(self, stamps: dict[str, str]) -> str:
        """Of names, sizes and stamps, for what has no commit to name its state."""
        facts = [[name, size, stamps[name]] for name, size in self.sizes.items()]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file. Raises DataError."""

        def once() -> bytes:
            # one request per piece: what comes next in the file is seldom what is asked for next
            with self._fs.open(f"{self._path}/{name}", "rb", cache_type="none") as file:
                file.seek(start)
                data = bytes(file.read(stop - start))
            # some file systems end a broken transfer as if the file ended
            if len(data) != stop - start:
                raise ConnectionError(f"{len(data)} of {stop - start} bytes came")
            return data

        return self._patiently(f"read ({name})", once) if stop > start else b""

    def _patiently(self, done: str, action: Callable[[], T]) -> T:
        """What `action` returns, tried again after pauses if its error may pass."""
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
                last = attempt == _ATTEMPTS - 1
                last = last or time.monotonic() - begin > _PATIENCE_SECONDS
                if last or not _may_pass(error):
                    raise DataError(
                        f"{self.url}: cannot be {done}: {_first_line(error)}; {_remedy(error)}"
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
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if "hf" not in protocols:
        return path, None
    from huggingface_hub import HfApi

    place = fs.resolve_path(path)
    info = HfApi(endpoint=fs.endpoint, token=fs.token).repo_info(
        place.repo_id, repo_type=place.repo_type, revision=place.revision
    )
    # _raw_revision is what the user wrote behind `@`, and would win over the commit
    pinned = dataclasses.replace(place, revision=info.sha, _raw_revision=None)
    return pinned.unresolve(), info.sha


def _stamp(facts: dict[str, Any]) -> str:
    """What else tells one state of a file from another; empty if the file system has nothing."""
    for key in ("ETag", "etag", "mtime", "LastModified", "created"):
        if key in facts:
            return str(facts[key])
    return ""


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of requests, httpx or aiohttp carries."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _may_pass(error: Exception) -> bool:
    """Whether it may go better a moment later."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _TEMPORARY
    lasting = PermissionError | NotADirectoryError | IsADirectoryError
    return isinstance(error, OSError | TimeoutError) and not isinstance(error, lasting)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _remedy(error: Exception) -> str:
    # 404 too: the hub answers so for a private dataset, not to tell strangers that it exists
    if isinstance(error, PermissionError) or _status(error) in (401, 403, 404):
        return "correct the address, or log in (`hf auth login`) where it is private"
    return "check the network, or download the dataset and name its folder"

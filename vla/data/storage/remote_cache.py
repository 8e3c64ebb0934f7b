"""A folder on this machine that stands for a dataset elsewhere, and is filled as its frames are
asked for.

It holds every file in its true size, so every reader and tool works on it unchanged. Tables and
numbers are there from the start; of images, which are most of the bytes, there are holes until they
are fetched: row groups of parquet files one by one, other files as a whole. What was fetched stays.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla.common.atomic import replace_file, write_json
from vla.common.foreign.json_files import read_json
from vla.data.errors import DataError
from vla.data.storage.file_lock import FileLock
from vla.data.storage.remote_files import RemoteFiles

_FOLDERS = ("meta", "data", "videos", "images")
_FOOTER_GUESS = 2**16  # that many bytes hold most footers: one request instead of two
_GAP = 2**16  # two pieces closer than this are read in one
_CHUNK = 16 * 2**20
_CONNECTIONS = 8
_SPARE_BYTES = 2**28
# Fingerprints of datasets hold times of change. Fetching must not look like a change, or decoded
# frames would be decoded again: all files have one fixed time.
_FIXED_TIMES = (0, 0)


def cache_folder() -> Path:
    """The folder in the variable VLA_CACHE, or `vla` in the user's cache folder."""
    own = os.environ.get("VLA_CACHE")
    if own:
        return Path(own)
    # an empty XDG_CACHE_HOME counts as unset, says the XDG specification
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vla"


class RemoteCache:
    """The cache of the dataset at `url`; opening it fetches tables and numbers, unless they are
    here.

    Without a network what was fetched before is used. Several processes may use one cache at a
    time.

    Args:
        url: folder of a LeRobot dataset.
        folder: where caches lie; see `cache_folder`.

    Attributes:
        root: the folder that stands for the dataset.

    Raises:
        DataError: the dataset cannot be reached, or the disk is full.
    """

    def __init__(self, url: str, folder: Path | None = None) -> None:
        self.url = url
        base = (folder or cache_folder()) / "remote" / _digest(url)
        try:
            base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"{base}: cannot be made: {error.strerror}; set VLA_CACHE to a folder to write in"
            ) from error
        self._remote: RemoteFiles | None = None
        self._locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        with FileLock(base / "lock"):
            self._open(base)

    def fetch(self, file: Path) -> None:
        """Fetches the whole of one of the files, unless it is here."""
        mark = self._mark(file)
        with self._lock(mark):
            if mark.exists():
                return
            size = file.stat().st_size
            self._check_space(size)
            # Beside the file, under a name of this process's own: two may fetch at a time, and the
            # later rename puts the same bytes there.
            part = file.with_name(f".{file.name}.{os.getpid()}")
            with open(part, "wb") as out:
                for start in range(0, size, _CHUNK):
                    out.write(self._read(self._name(file), start, min(start + _CHUNK, size)))
            self._put(part, file)
            _touch(mark)

    def fetch_column(self, file: Path, group: int, column: str) -> None:
        """Fetches a column's bytes in one row group of a parquet file, unless they are here."""
        mark = self._mark(file).with_suffix(f".{group}.{_digest(column)}")
        if mark.exists() or self._mark(file).exists():
            return
        with self._lock(mark):
            if mark.exists():
                return
            wanted = []
            for chunk in _chunks(pq.read_metadata(file), [group]):
                # with the dot, so that `top` does not take `top_left` along; a column of structs
                # lies as one chunk per field
                if f"{chunk.path_in_schema}.".startswith(f"{column}."):
                    wanted.append(_byte_range(chunk))
            self._check_space(_total(wanted))
            # Into the hole, in place, since others may have the file open. The mark comes last, so
            # a piece that was cut off is fetched again.
            with open(file, "r+b") as out:
                self._fill(out, self._name(file), wanted)
            os.utime(file, _FIXED_TIMES)
            _touch(mark)

    # --- opening ----------------------------------------------------------------------------------

    def _open(self, base: Path) -> None:
        listing = base / "listing.json"
        try:
            self._remote = RemoteFiles(self.url)
        except DataError:
            known = _read_listing(listing)
            if known is None:
                raise
            # the listing was written last, when all tables and numbers were here
            self._place(base, known["version"])
            return
        self._place(base, self._remote.version)
        names = [name for name in self._remote.sizes if _is_wanted(name)]
        if not any(name.startswith("meta/") for name in names):
            raise DataError(
                f"{self.url}: no LeRobot dataset is here: it has no meta/info.json; correct the "
                "address"
            )
        with ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="remote") as pool:
            # list: errors of the threads are raised only as results are taken
            list(pool.map(self._prepare, names))
        write_json(listing, {"url": self.url, "version": self._remote.version})

    def _place(self, base: Path, version: str) -> None:
        home = base / _digest(version)
        name = self.url.partition("@")[0].rpartition("/")[2]
        # Its own name for the last part: messages and tools call a dataset by its folder.
        self.root = home / name
        self._fetched = home / ".fetched"  # empty files that mark what is here

    def _prepare(self, name: str) -> None:
        assert self._remote is not None
        file = self.root / name
        size = self._remote.sizes[name]
        # The server says the names: none may write elsewhere on this machine.
        if not file.resolve().is_relative_to(self.root.resolve()) or ".." in Path(name).parts:
            raise DataError(
                f"{self.url}: has a file {name!r}, which leads out of the dataset's folder"
            )
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{os.getpid()}")
        with open(part, "wb") as out:
            out.truncate(size)  # a hole, which takes no room on the disk
            if name.startswith("meta/"):
                self._fill(out, name, [(0, size)])
        if name.startswith("data/") and name.endswith(".parquet"):
            self._prepare_parquet(part, name, size)
        self._put(part, file)

    def _prepare_parquet(self, part: Path, name: str, size: int) -> None:
        """Fills in the footer and all columns but images; everything, if images are the smaller
        part."""
        with open(part, "r+b") as out:
            begin = max(0, size - _FOOTER_GUESS)
            tail = self._read(name, begin, size)
            out.seek(begin)
            out.write(tail)
            # Parquet ends with the footer, its length (4 bytes) and the letters PAR1.
            if tail[-4:] == b"PAR1":
                footer = int.from_bytes(tail[-8:-4], "little") + 8
                if footer > len(tail):
                    self._fill(out, name, [(max(0, size - footer), begin)])
            try:
                metadata = pq.read_metadata(part)
                chunks = _chunks(metadata, range(metadata.num_row_groups))
                wanted = [_byte_range(chunk) for chunk in chunks if not _is_image(chunk)]
                wanted.append((0, min(4, size)))  # it begins with these letters, too
            except (pa.ArrowException, OSError):
                wanted = [(0, size)]  # damaged: the reader is to say so
            if 2 * _total(wanted) >= size:
                wanted = [(0, size)]
                _touch(self._mark(self.root / name))
            self._check_space(_total(wanted))
            self._fill(out, name, wanted)

    # --- bytes ------------------------------------------------------------------------------------

    def _read(self, name: str, start: int, stop: int) -> bytes:
        if self._remote is None:
            self._remote = RemoteFiles(self.url)
        return self._remote.read(name, start, stop)

    def _fill(
        self,
        out: Any,
        name: str,
        ranges: Iterable[tuple[int, int]],
    ) -> None:
        for start, stop in _joined(ranges):
            for lower in range(start, stop, _CHUNK):
                out.seek(lower)
                out.write(self._read(name, lower, min(lower + _CHUNK, stop)))

    def _put(self, part: Path, file: Path) -> None:
        os.utime(part, _FIXED_TIMES)
        # not durable: what a power cut takes is fetched again
        replace_file(part, file, durable=False)

    def _check_space(self, needed: int) -> None:
        # Holes take no room, so a full disk would show only in the middle of a training.
        folder = next(p for p in (self.root, *self.root.parents) if p.exists())
        free = shutil.disk_usage(folder).free
        if needed + _SPARE_BYTES > free:
            raise DataError(
                f"{folder}: {free / 2**30:.1f} GiB are free, the next part of {self.url} needs "
                f"{needed / 2**30:.1f} GiB and some room; free some, set VLA_CACHE to a larger "
                "disk, or choose fewer episodes"
            )

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _mark(self, file: Path) -> Path:
        return self._fetched / (self._name(file) + ".whole")

    def _lock(self, mark: Path) -> threading.Lock:
        # defaultdict alone would let two threads make two locks for one file
        with self._guard:
            return self._locks[mark]


def _is_wanted(name: str) -> bool:
    folder, *inner = name.split("/")
    hidden = any(part.startswith(".") for part in inner)
    return folder in _FOLDERS and not hidden


def _chunks(metadata: Any, groups: Iterable[int]) -> list[Any]:
    """Column chunks of these row groups: parquet's unit of bytes on disk."""
    found = []
    for number in groups:
        group = metadata.row_group(number)
        found += [group.column(i) for i in range(group.num_columns)]
    return found


def _is_image(chunk: Any) -> bool:
    return chunk.physical_type == "BYTE_ARRAY" and str(chunk.path_in_schema).endswith(".bytes")


def _byte_range(chunk: Any) -> tuple[int, int]:
    # the dictionary, if there is one, lies before the data
    start = int(chunk.data_page_offset)
    if chunk.dictionary_page_offset is not None:
        start = min(start, int(chunk.dictionary_page_offset))
    return start, start + int(chunk.total_compressed_size)


def _total(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in order; those that touch or nearly do as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start - joined[-1][1] <= _GAP:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


def _touch(mark: Path) -> None:
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_listing(path: Path) -> dict[str, Any] | None:
    try:
        value = read_json(path)
        return value if isinstance(value.get("version"), str) else None
    except (OSError, ValueError, AttributeError):
        return None

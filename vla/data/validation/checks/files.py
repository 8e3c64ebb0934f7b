"""Checks of files as such: where they lie, whether they are whole, and which are there for
nothing."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vla.common.atomic import TEMPORARY_SUFFIX
from vla.data import schema
from vla.data.episode import decode_image
from vla.data.errors import DataError
from vla.data.formats.common.files import inside, parse_json
from vla.data.formats.lerobot_parts.paths import opened_parquet
from vla.data.storage.checksums import CHECKSUM, is_whole
from vla.data.validation.examined import Examined
from vla.data.validation.registry import Finding, check
from vla.data.validation.repair_names import REMOVE_LEFTOVERS

PICTURES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_WRITTEN = (".json", ".parquet", ".mp4", ".bin", ".safetensors")
_ROWS = 256
_RESTORE = "copy the file from the dataset's source"


@check("links", "files and links that lead out of the dataset, or nowhere")
def links(examined: Examined) -> Iterator[Finding]:
    for path in examined.files:
        if path.is_symlink() and path != examined.root:
            try:
                inside(examined.root, path)
                if not path.exists():
                    raise DataError(f"{path}: a link that leads nowhere; put the file itself there")
            except DataError as error:
                yield Finding("links", "error", examined.name(path), str(error))


@check("leftovers", "files that a killed process did not finish")
def leftovers(examined: Examined) -> Iterator[Finding]:
    for path in examined.files:
        if is_leftover(path):
            message = f"{path}: a process was killed while it wrote this file; nothing reads it"
            yield Finding("leftovers", "warning", examined.name(path), message, REMOVE_LEFTOVERS)


def is_leftover(path: Path) -> bool:
    """Whether a file is an unfinished one of a writer here."""
    return (
        path.name.endswith(TEMPORARY_SUFFIX)
        and Path(path.stem).suffix in _WRITTEN
        and not path.is_symlink()
    )


@check(
    "checksums", "every byte of the files that carry a checksum of themselves", formats=("lerobot",)
)
def checksums(examined: Examined) -> Iterator[Finding]:
    if not examined.is_ours:
        return
    for name in (schema.SPEC, schema.METADATA):
        path = examined.root / name
        if not path.exists():
            yield Finding(
                "checksums",
                "error",
                name,
                f"{path}: no such file; restore it from a copy or its source",
            )
    for path in examined.files:
        name = examined.name(path)
        if (
            path.is_symlink()
            or path.suffix not in (".json", ".parquet", ".mp4")
            or name == schema.STATS
        ):
            continue
        try:
            whole = is_whole(path)
        except OSError as error:
            yield Finding(
                "checksums", "error", name, f"{path}: cannot be read: {error}; {_RESTORE}"
            )
            continue
        if whole is None and name.startswith(("meta/", "data/", "videos/")):
            message = (
                f"{path}: has no checksum, others of the dataset have: another program wrote or "
                "changed it, or an older version of this one; compare it with its source"
            )
            yield Finding("checksums", "warning", name, message)
        elif whole is False:
            edited = (
                f", or remove its key {CHECKSUM!r} if you edited it yourself"
                if path.suffix == ".json"
                else ""
            )
            message = (
                f"{path}: is not what was written (its checksum differs); restore it from a copy "
                f"or its source{edited}"
            )
            yield Finding("checksums", "error", name, message)


@check("readable", "every file by itself, so that one that is damaged does not hide the next")
def readable(examined: Examined) -> Iterator[Finding]:
    for path in examined.files:
        read = _READERS.get(_kind(path))
        if read is None or (path.is_symlink() and not _lies_inside(examined.root, path)):
            continue
        for message in read(examined, path):
            yield Finding("readable", "error", examined.name(path), message)


def _kind(path: Path) -> str:
    return ".tfrecord" if ".tfrecord" in path.name else path.suffix.lower()


def _lies_inside(root: Path, path: Path) -> bool:
    try:
        inside(root, path)
    except DataError:
        return False
    return True


def _told(read: Callable[[Examined, Path], Any]) -> Callable[[Examined, Path], Iterator[str]]:
    """A reader of one file that yields what it raises."""

    def tell(examined: Examined, path: Path) -> Iterator[str]:
        try:
            read(examined, path)
        except DataError as error:
            yield str(error)
        except OSError as error:
            yield f"{path}: cannot be read: {error}; {_RESTORE}"

    return tell


def _json(examined: Examined, path: Path) -> None:
    data = path.read_bytes()
    if data[:1] != b"[":
        parse_json(data, str(path))


def _json_lines(examined: Examined, path: Path) -> None:
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            parse_json(line, f"{path}: line {number}")


def _parquet(examined: Examined, path: Path) -> Iterator[str]:
    """By row groups. Of data files the numbers have been read; their images are left to who decodes
    them, if anyone does."""
    problems = []
    if examined.lerobot is not None:
        problems = [p for part in examined.lerobot.data if part.path == path for p in part.problems]
        yield from problems
    is_data = examined.name(path).startswith("data/")
    if problems or (is_data and (examined.dataset is not None or not examined.deep)):
        return
    try:
        with opened_parquet(path, _RESTORE) as parquet:
            groups, images = parquet.metadata.num_row_groups, _image_columns(parquet)
    except DataError as error:
        yield str(error)
        return
    for group in range(groups):
        try:
            with opened_parquet(path, _RESTORE) as parquet:
                table = parquet.read_row_group(group, use_threads=False)
                table.validate(full=True)
        except DataError as error:
            yield f"{error} (row group {group} of {groups})"
            continue
        for name in images if is_data else ():
            for row, value in enumerate(table.column(name)):
                data = (value.as_py() or {}).get("bytes")
                try:
                    _ = None if data is None else decode_image(data)
                except DataError as error:
                    yield f"{path}: row group {group}, row {row}: {name!r} is {error}"


def _image_columns(parquet: Any) -> list[str]:
    import pyarrow as pa

    kinds = [(f.name, f.type) for f in parquet.schema_arrow]
    return [
        name
        for name, kind in kinds
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    ]


def _picture(examined: Examined, path: Path) -> None:
    if examined.deep and examined.dataset is None:
        try:
            decode_image(path.read_bytes())
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _video(examined: Examined, path: Path) -> None:
    from vla.data.storage.video import VideoReader

    with VideoReader(path) as video:
        if examined.deep and examined.dataset is None:
            for _ in video.frames():
                pass


def _steps(examined: Examined, path: Path) -> None:
    from vla.data.formats.common.steps_csv import read_steps

    if path.name == "steps.csv":
        read_steps(examined.root, path)


def _tfrecord(examined: Examined, path: Path) -> Iterator[str]:
    """Record by record; a dataset that could be opened has read them all."""
    from vla.data.formats.rlds_parts.tfrecord import index_records, read_record

    if examined.dataset is not None:
        return
    try:
        places = index_records(path)
    except DataError as error:
        yield str(error)
        return
    with open(path, "rb") as file:
        for number, (place, length) in enumerate(places):
            try:
                read_record(file, place, length, f"{path}: record {number}")
            except DataError as error:
                yield str(error)


def _npz(examined: Examined, path: Path) -> Iterator[str]:
    """Array by array: each has a checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                try:
                    archive.read(name)
                except (
                    zipfile.BadZipFile,
                    zlib.error,
                    OSError,
                    EOFError,
                    NotImplementedError,
                ) as error:
                    yield f"{path}: {name}: {error}; {_RESTORE}"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, MemoryError) as error:
        yield f"{path}: is damaged or no .npz archive ({error}); {_RESTORE}"


def _hdf5(examined: Examined, path: Path) -> Iterator[str]:
    """Dataset by dataset."""
    from vla.data.formats.common.hdf5 import check_stored, leaves, opened

    try:
        with opened(path) as file:
            names = list(leaves(file))
    except DataError as error:
        yield str(error)
        return
    for name in names:
        try:
            with opened(path) as file:
                check_stored(file[name])
                # pictures of a dataset that could be opened are left to who decodes them
                if file[name].ndim < 4 or (examined.deep and examined.dataset is None):
                    for at in range(0, len(file[name]) if file[name].ndim else 1, _ROWS):
                        _ = file[name][at : at + _ROWS] if file[name].ndim else file[name][()]
        except DataError as error:
            yield f"{path}: {name}: {error}"


_READERS: dict[str, Callable[[Examined, Path], Iterator[str]]] = {
    ".json": _told(_json),
    ".jsonl": _told(_json_lines),
    ".parquet": _parquet,
    ".csv": _told(_steps),
    ".tfrecord": _tfrecord,
    ".hdf5": _hdf5,
    ".h5": _hdf5,
    ".npz": _npz,
    **dict.fromkeys(PICTURES, _told(_picture)),
    **dict.fromkeys(VIDEOS, _told(_video)),
}

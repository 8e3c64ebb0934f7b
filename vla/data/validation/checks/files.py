"""Checks of files as such: where they lie, whether they are whole, and which are there for
nothing."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vla.common.atomic import TEMPORARY_SUFFIX
from vla.common.foreign.sizes import why_too_large
from vla.common.registry import register
from vla.data import schema
from vla.data.episode import decode_image
from vla.data.errors import DataError
from vla.data.formats.common.files import inside, parse_json
from vla.data.formats.lerobot_parts.paths import opened_parquet
from vla.data.storage.checksums import CHECKSUM, is_whole
from vla.data.validation.check import Finding, Severity, check
from vla.data.validation.examined import Examined
from vla.data.validation.repair_names import REMOVE_LEFTOVERS

IMAGES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov")
_WRITTEN = (".json", ".parquet", ".mp4", ".bin", ".safetensors")
_PIECE = 2**22  # bytes that are read at a time
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),
    *(NotImplementedError, RuntimeError, MemoryError),
)
"""What reading a damaged member of an archive raises; RuntimeError of one that is encrypted."""
_RESTORE = "copy the file from the dataset's source"
_TABLES = ("meta/episodes.jsonl", "meta/tasks.jsonl")
"""Without rows in these a dataset cannot be read."""


@register("checks", "links")
@check("files and links that lead out of the dataset, or nowhere")
def links(examined: Examined) -> Iterator[Finding]:
    """No link leads out of the dataset: a copy of the folder would lack the file."""
    for path in examined.files:
        if path.is_symlink() and path != examined.root:
            try:
                inside(examined.root, path)
                if not path.exists():
                    raise DataError(f"{path}: a link that leads nowhere; put the file itself there")
            except DataError as error:
                yield Finding("links", "error", examined.name(path), str(error))


@register("checks", "leftovers")
@check("files that a killed process did not finish")
def leftovers(examined: Examined) -> Iterator[Finding]:
    """No temporary file of a killed writer is left."""
    for path in examined.files:
        if is_leftover(path):
            message = f"{path}: a process was killed while it wrote this file; nothing reads it"
            yield Finding("leftovers", "warning", examined.name(path), message, REMOVE_LEFTOVERS)


def is_leftover(path: Path) -> bool:
    """Whether a file is an unfinished one of a writer here."""
    # by both suffixes: `notes.tmp` may be a user's own file, and the repair deletes what is named
    # here
    is_temporary = path.name.endswith(TEMPORARY_SUFFIX) and Path(path.stem).suffix in _WRITTEN
    return is_temporary and not path.is_symlink()


@register("checks", "checksums")
@check("every byte of the files that carry a checksum of themselves", formats=("lerobot",))
def checksums(examined: Examined) -> Iterator[Finding]:
    """Every file of a dataset that was written here has the checksum that stands in it."""
    if not examined.is_ours:
        return
    for name in (schema.SPEC, schema.METADATA):
        path = examined.root / name
        if not path.exists():
            message = f"{path}: no such file; restore it from a copy or its source"
            yield Finding("checksums", "error", name, message)
    for path in examined.files:
        name = examined.name(path)
        if path.is_symlink() or path.suffix not in (".json", ".parquet", ".mp4"):
            continue
        if name == schema.STATS:  # has none: it is compared with the frames
            continue
        try:
            whole = is_whole(path)
        except OSError as error:
            message = f"{path}: cannot be read: {error}; {_RESTORE}"
            yield Finding("checksums", "error", name, message)
            continue
        # beside these folders users keep files of their own
        if whole is None and name.startswith(("meta/", "data/", "videos/")):
            message = (
                f"{path}: has no checksum, others of the dataset have: another program wrote or "
                "changed it, or an older version of this one; compare it with its source"
            )
            yield Finding("checksums", "warning", name, message)
        elif whole is False:
            message = (
                f"{path}: is not what was written (its checksum differs); restore it from a copy "
                "or its source"
            )
            if path.suffix == ".json":
                message += f", or remove its key {CHECKSUM!r} if you edited it yourself"
            yield Finding("checksums", "error", name, message)


@register("checks", "readable")
@check("every file by itself, so that one that is damaged does not hide the next")
def readable(examined: Examined) -> Iterator[Finding]:
    """Each file opens and holds what its kind of file holds."""
    foreign = set(foreign_files(examined))
    for path, problem in examined.odd_files.items():
        yield Finding("readable", "error", examined.name(path), f"{path}: {problem}")
    for path in examined.files:
        read = _READERS.get(_kind(path))
        if read is None or (path.is_symlink() and not _lies_inside(examined.root, path)):
            continue
        for message in read(examined, path):
            # what nothing reads may be damaged
            severity: Severity = "note" if path in foreign else "error"
            yield Finding("readable", severity, examined.name(path), message)


def foreign_files(examined: Examined) -> list[Path]:
    """Files in the folders of data and videos of a LeRobot dataset that no episode is in."""
    parts = examined.lerobot
    if parts is None or parts.info is None or not parts.data_files:
        return []
    used = set(parts.data_files.values())
    for name, feature in parts.info.features.items():
        if feature.dtype == "video":
            used |= set(parts.video_files(name).values())
    normal = {os.path.normpath(path) for path in used}
    found = []
    for path in examined.files:
        is_data = examined.name(path).startswith(("data/", "videos/")) and not is_leftover(path)
        if is_data and os.path.normpath(path) not in normal:
            found.append(path)
    return found


def _kind(path: Path) -> str:
    # names of shards go on after it: data.tfrecord-00000-of-00008
    return ".tfrecord" if ".tfrecord" in path.name else path.suffix.lower()


def _lies_inside(root: Path, path: Path) -> bool:
    try:
        inside(root, path)
    except DataError:
        return False
    return True


def _as_messages(
    read: Callable[[Examined, Path], Any],
) -> Callable[[Examined, Path], Iterator[str]]:
    """A reader of one file that yields what `read` raises."""

    def messages(examined: Examined, path: Path) -> Iterator[str]:
        try:
            read(examined, path)
        except DataError as error:
            yield str(error)
        except OSError as error:
            yield f"{path}: cannot be read: {error}; {_RESTORE}"

    return messages


def _json(examined: Examined, path: Path) -> None:
    data = path.read_bytes()
    if data[:1] != b"[":  # other tools' lists are no business of ours
        parse_json(data, str(path))


def _json_lines(examined: Examined, path: Path) -> None:
    if examined.name(path) in _TABLES and not path.read_bytes().strip():
        raise DataError(f"{path}: is empty; {_RESTORE}")
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            parse_json(line, f"{path}: line {number}")


def _parquet(examined: Examined, path: Path) -> Iterator[str]:
    """By row groups, so that damage in one does not hide the others."""
    problems: list[str] = []
    for part in examined.lerobot.data if examined.lerobot is not None else ():
        if part.path == path:
            problems += part.problems
    yield from problems
    # The numbers of data files have been read for these problems. Their images are left to the
    # check `images` if the dataset opens, and to nobody if nothing is to be decoded.
    is_data = examined.name(path).startswith("data/")
    if problems or (is_data and (examined.dataset is not None or not examined.deep)):
        return
    try:
        with opened_parquet(path, _RESTORE) as parquet:
            groups = parquet.metadata.num_row_groups
            images = _image_columns(parquet)
    except DataError as error:
        yield str(error)
        return
    for group in range(groups):
        try:
            # opened again for each: after an error the reader is of no use
            with opened_parquet(path, _RESTORE) as parquet:
                table = parquet.read_row_group(group, use_threads=False)
                table.validate(full=True)
        except DataError as error:
            yield f"{error} (row group {group} of {groups})"
            continue
        for name in images if is_data else ():
            for row, problem in _damaged_images(table.column(name)):
                yield f"{path}: row group {group}, row {row}: {name!r} is {problem}"


def _damaged_images(column: Any) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) of the images that do not decode."""
    for row, value in enumerate(column):
        data = (value.as_py() or {}).get("bytes")
        if data is None:
            continue
        try:
            decode_image(data)
        except DataError as error:
            yield row, str(error)


def _image_columns(parquet: Any) -> list[str]:
    import pyarrow as pa

    structs = [f for f in parquet.schema_arrow if pa.types.is_struct(f.type)]
    return [field.name for field in structs if field.type.get_field_index("bytes") >= 0]


def _image(examined: Examined, path: Path) -> None:
    if examined.deep and examined.dataset is None:
        try:
            decode_image(path.read_bytes())
        except DataError as error:
            raise DataError(f"{path}: {error}") from error


def _video(examined: Examined, path: Path) -> None:
    from vla.data.storage.video import VideoReader

    with VideoReader(path) as video:
        if examined.deep and examined.dataset is None:
            for _ in video.frames():  # decodes them all
                pass


def _steps(examined: Examined, path: Path) -> None:
    from vla.data.formats.common.steps_csv import read_steps

    if path.name == "steps.csv":  # any other table is a user's own
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
    # on after a damaged record: the next ones begin where their headers say
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
            for member in archive.infolist():
                problem = why_too_large(member.file_size, path.stat().st_size)
                try:
                    # to the end, where the checksum stands, and never whole in memory
                    with archive.open(member) as file:
                        while not problem and file.read(_PIECE):
                            pass
                except _ZIP_ERRORS as error:
                    problem = f"{error}; {_RESTORE}"
                if problem:
                    yield f"{path}: {member.filename}: {problem}"
    except (*_ZIP_ERRORS, ValueError) as error:
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
                dataset = file[name]
                check_stored(dataset)
                # images of a dataset that could be opened are left to the check that decodes them
                if dataset.ndim < 4 or (examined.deep and examined.dataset is None):
                    _read_all(dataset)
        except DataError as error:
            yield f"{path}: {name}: {error}"


def _read_all(dataset: Any) -> None:
    """Reads every value, a few rows at a time."""
    if not dataset.ndim:
        _ = dataset[()]
        return
    row_bytes = max(1, dataset.size // max(1, len(dataset)) * dataset.dtype.itemsize)
    problem = why_too_large(row_bytes, dataset.file.id.get_filesize())
    if problem:
        raise DataError(f"a row {problem}")
    rows = max(1, _PIECE // row_bytes)
    if dataset.chunks:
        # of a chunk, which is unpacked whole, in one piece
        rows = max(rows, dataset.chunks[0])
    for at in range(0, len(dataset), rows):
        _ = dataset[at : at + rows]


_READERS: dict[str, Callable[[Examined, Path], Iterator[str]]] = {
    ".json": _as_messages(_json),
    ".jsonl": _as_messages(_json_lines),
    ".parquet": _parquet,
    ".csv": _as_messages(_steps),
    ".tfrecord": _tfrecord,
    ".hdf5": _hdf5,
    ".h5": _hdf5,
    ".npz": _npz,
    **dict.fromkeys(IMAGES, _as_messages(_image)),
    **dict.fromkeys(VIDEOS, _as_messages(_video)),
}

"""HDF5 files that others made. HDF5 keeps no checksums by default: what contradicts itself is
refused, and nothing is read through links into other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.foreign.sizes import why_too_large
from vla.data.errors import DataError
from vla.data.formats.common.files import check_plain, library_errors
from vla.data.formats.common.names import natural

MOST_IN_GROUP = 1000
"""Datasets; an episode has about twenty."""
_BLOCK = 64  # rows that are in memory at a time


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The h5py.File at `path`. Whatever the library raises in the block becomes a DataError that
    names the file."""
    import h5py

    check_plain(path)
    with (
        library_errors(path, "no HDF5 file"),
        h5py.File(path, "r", locking="best-effort") as file,
    ):
        yield file


def child(group: Any, name: str) -> Any:
    """The group or dataset `name` (may hold slashes) below `group`; None if there is none.

    Raises DataError if it lies in another file.
    """
    import h5py

    here = group
    for part in name.split("/"):
        if not isinstance(here, h5py.Group):
            return None
        # The link before what it leads to: looking there would open another file.
        link = here.get(part, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{group.file.filename}: {here.name}/{part} is a link to elsewhere; put the data "
                "into the file itself"
            )
        here = here[part]
    return here


def dataset_at(group: Any, name: str) -> Any:
    """The dataset `name` below `group`; None if there is none, or a group. Raises DataError as
    `child`."""
    import h5py

    found = child(group, name)
    return found if isinstance(found, h5py.Dataset) else None


def is_group(node: Any) -> bool:
    """Whether it holds groups and datasets."""
    import h5py

    return isinstance(node, h5py.Group)


def children(group: Any) -> list[str]:
    """Names of what lies in a group, numbers in them in their order."""
    return sorted(group, key=natural)


def leaves(group: Any, prefix: str = "") -> dict[str, Any]:
    """Path below `group` -> dataset, of everything in it.

    Raises DataError as `child`, if a group is reached by several names (hard links make circles of
    groups, or more paths than there are atoms), and if one holds more than `MOST_IN_GROUP`
    datasets.
    """
    found: dict[str, Any] = {}
    _gather(group, prefix, {hash(group.id)}, found)
    return found


def _gather(group: Any, prefix: str, seen: set[int], found: dict[str, Any]) -> None:
    import h5py

    datasets = 0
    for name in children(group):
        node = child(group, name)
        if isinstance(node, h5py.Dataset):
            found[prefix + name] = node
            datasets += 1
        elif isinstance(node, h5py.Group):
            # the hash of an identifier is that of the place in the file
            if hash(node.id) in seen:
                raise DataError(
                    f"{group.file.filename}: {node.name} is a group that is reached by several "
                    "names; store it once"
                )
            seen.add(hash(node.id))
            _gather(node, f"{prefix}{name}/", seen, found)
        if datasets > MOST_IN_GROUP:
            raise DataError(
                f"{group.file.filename}: {group.name} holds {len(group)} datasets, expected at "
                f"most {MOST_IN_GROUP}; store the steps of an episode as rows of one dataset"
            )


def check_stored(dataset: Any) -> None:
    """Raises DataError if a dataset's numbers are not all in this file, where HDF5 would read zeros
    or another file instead; or if they are read at once and far larger than the file."""
    where = f"{dataset.file.filename}: {dataset.name}"
    if dataset.is_virtual or dataset.external:
        raise DataError(f"{where} lies in other files; put the data into the file itself")
    if dataset.shape is None or not dataset.size:
        return
    if dataset.chunks is None:
        whole = dataset.id.get_storage_size() >= dataset.size * dataset.dtype.itemsize
    else:
        # chunks along each axis, rounded up; Python's integers, since damaged shapes overflow
        along = [-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True)]
        whole = dataset.id.get_num_chunks() >= np.prod(along, dtype=object)
    if not whole:
        raise DataError(
            f"{where}: says shape {dataset.shape}, the file holds less; copy it from the "
            "dataset's source"
        )
    # what has more axes is read a few rows at a time
    unpacked = dataset.size * dataset.dtype.itemsize if dataset.ndim <= 2 else 0
    problem = why_too_large(unpacked, dataset.file.id.get_filesize())
    if problem:
        raise DataError(f"{where} {problem}")


def values_of(dataset: Any) -> Any:
    """All that a dataset holds. Raises DataError as `check_stored`."""
    check_stored(dataset)
    return dataset[()]


def is_numeric(dataset: Any) -> bool:
    """Whether it holds a vector of numbers per step."""
    return dataset.shape is not None and dataset.dtype.kind in "biuf" and dataset.ndim in (1, 2)


def is_image(dataset: Any) -> bool:
    """Whether it holds uint8 (L, H, W, 3)."""
    if dataset.shape is None or dataset.dtype != np.uint8:
        return False
    return dataset.ndim == 4 and bool(dataset.shape[3] == 3)


def matrix(dataset: Any) -> np.ndarray:
    """A numeric dataset as (L, D)."""
    values = np.asarray(values_of(dataset))
    return values.reshape(len(values), int(np.prod(values.shape[1:], dtype=np.int64)))


def text(value: Any) -> str:
    """A string of HDF5 (bytes, str, or an array whose first is one); empty if it is none."""
    while isinstance(value, np.ndarray):
        if not value.size:
            return ""
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""


def texts(value: Any) -> list[str]:
    """All strings of HDF5 (bytes, str, or an array of them, in its order); empty if it is none."""
    values = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else [value]
    found = []
    for one in values:
        if isinstance(one, bytes):
            one = one.decode(errors="replace")
        found.append(one if isinstance(one, str) else "")
    return found if any(found) else []


def blocks(dataset: Any, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows [start, stop), one by one, read in blocks."""
    check_stored(dataset)  # again: hours may lie between opening and reading
    for at in range(start, stop, _BLOCK):
        yield from dataset[at : min(at + _BLOCK, stop)]

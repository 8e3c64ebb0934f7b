"""HDF5 files that others made. HDF5 keeps no checksums by default: what contradicts itself is
refused, and nothing is read through links into other files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import library_errors
from vla.data.formats.common.names import natural

_BLOCK = 64  # rows that are in memory at a time


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The h5py.File at `path`. Whatever the library raises in the block becomes a DataError that
    names the file."""
    import h5py

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


def leaves(
    group: Any,
    prefix: str = "",
    depth: int = 0,
) -> dict[str, Any]:
    """Path below `group` -> dataset, of everything in it. Raises DataError as `child`."""
    import h5py

    found: dict[str, Any] = {}
    if depth > 16:  # hard links may make a circle
        raise DataError(
            f"{group.file.filename}: {group.name} is nested too deeply; restore the file"
        )
    for name in children(group):
        node = child(group, name)
        if isinstance(node, h5py.Dataset):
            found[prefix + name] = node
        elif isinstance(node, h5py.Group):
            found |= leaves(node, f"{prefix}{name}/", depth + 1)
    return found


def check_stored(dataset: Any) -> None:
    """Raises DataError if a dataset's numbers are not all in this file: HDF5 would read zeros
    instead."""
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
    check_stored(dataset)
    values = np.asarray(dataset[()])
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

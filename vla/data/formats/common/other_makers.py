"""Which format lies at a path; of files that no reader opens what they are and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vla.common.registry import registered
from vla.data.errors import DataError, first_bytes, is_lfs_pointer, unreadable

_PICKLE = "a pickle, which runs code that the file chooses and is never loaded"
_STORE = "load it where it was made and store its arrays with numpy.savez, one file per episode"
OTHER_MAKERS = {
    ".pkl": (_PICKLE, _STORE),
    ".pickle": (_PICKLE, _STORE),
    ".pt": (f"a file of torch.save: {_PICKLE}", _STORE),
    ".pth": (f"a file of torch.save: {_PICKLE}", _STORE),
    ".npy": ("one NumPy array without a name", "store the arrays of an episode with numpy.savez"),
    ".mat": ("a MATLAB file", "load it with scipy.io.loadmat and store it with numpy.savez"),
    ".safetensors": ("weights of a model, no dataset", "give the folder of the dataset"),
    ".tfrecord": (
        "a TFRecord without features.json and dataset_info.json",
        "copy the whole TFDS folder .../NAME/VERSION and give it",
    ),
    ".parquet": (
        "a table alone",
        "give the folder of the LeRobot dataset that holds meta/info.json; without one, write "
        "its rows as steps.csv, one folder for each episode",
    ),
    ".arrow": ("a table alone", "give the folder of the dataset that it is a part of"),
    ".mp4": (
        "a video without states and actions",
        "put it beside a steps.csv with a row for each frame, one folder for each episode",
    ),
    ".json": ("a description without data", "give the folder of the dataset that it describes"),
    ".jsonl": ("a description without data", "give the folder of the dataset that it describes"),
    ".csv": (
        "a table alone",
        "name it steps.csv, with columns state.NAME and action.NAME, one folder for each episode",
    ),
    ".png": ("an image alone", "put the frames beside a steps.csv, one folder for each episode"),
    ".jpg": ("an image alone", "put the frames beside a steps.csv, one folder for each episode"),
}
"""Suffix -> (what such a file is, what to do). The first that a folder holds is named."""
_LOOKED_AT = 2000  # files of a folder
_DEPTH = 3  # folders below each other in which a dataset is looked for
_FOLDERS = 200  # of one level
_NAMED = 3  # datasets


def recognised_format(root: Path) -> str | None:
    """Name of the format that `root` looks like; None if there is none."""
    formats: dict[str, Any] = registered("formats")
    # A format of plain arrays takes nearly everything: those with signs of their own come first.
    names = sorted(formats, key=lambda name: bool(getattr(formats[name], "is_general", False)))
    return next((name for name in names if formats[name].matches(root)), None)


def unknown_files(root: Path, formats: Sequence[str]) -> DataError:
    """The error for a path at which no dataset of a known format lies."""
    below = _datasets_below(root)
    if below:
        given = ", or ".join(str(path) for path in below[:_NAMED])
        more = f", or one of {len(below) - _NAMED} more" if len(below) > _NAMED else ""
        return DataError(f"{root}: no dataset itself, but one lies below it: give {given}{more}")
    files = [root]
    if root.is_dir():
        files = [path for path in islice(root.rglob("*"), _LOOKED_AT) if path.is_file()]
    # in the order of the table: a folder of frames may hold a description as well
    for suffix, (kind, remedy) in OTHER_MAKERS.items():
        for path in files:
            named = suffix in [part.lower() for part in path.suffixes]
            # shards are called NAME.tfrecord-00000-of-00004
            if named or f"{suffix}-" in path.name:
                return _with_cause(path, f"is {kind}; {remedy}")
    known = ", ".join(formats)
    if root.is_file():
        return unreadable(root, f"no dataset of a known format ({known}); see `vla list formats`")
    return DataError(
        f"{root}: no dataset of a known format ({known}) is here; expected meta/info.json, a "
        "folder with a steps.csv for each episode, or .npz, .hdf5, .zarr or .mcap files"
    )


def _datasets_below(root: Path) -> list[Path]:
    """Folders below `root` that look like datasets, the topmost first."""
    if not root.is_dir():
        return []
    found: list[Path] = []
    level = [root]
    for _ in range(_DEPTH):
        inner = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
        inner = [path for path in inner if not path.name.startswith(".")][:_FOLDERS]
        found += [path for path in inner if recognised_format(path) is not None]
        # nothing below a dataset is another one
        level = [path for path in inner if path not in found]
    return found


def _with_cause(path: Path, problem: str) -> DataError:
    start = first_bytes(path)
    if start is not None and is_lfs_pointer(start):
        return unreadable(path, problem)
    return DataError(f"{path}: {problem}")

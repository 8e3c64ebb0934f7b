"""What a TFDS folder says of itself: the features, splits and files of an RLDS dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.formats.common.files import inside, read_json

FEATURES = "features.json"
INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# What walking through JSON of an unknown shape may raise.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Feature:
    """One leaf of features.json.

    Attributes:
        name: as in the records, for example `steps/observation/image_0`.
        kind: "tensor", "text", "image", or whatever else TFDS calls it.
        shape: of one step; -1 if a side varies.
        dtype: of its numbers; empty if it has none.
        plain: whether its values lie in the record as they are: not compressed, no list within a
            list.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    plain: bool

    @property
    def width(self) -> int:
        """Numbers per step."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_numeric(self) -> bool:
        """Whether it is a vector of numbers for each step, of a known width."""
        has_numbers = re.fullmatch(r"bool|u?int\d+|b?float\d+", self.dtype) is not None
        if not (self.plain and self.kind == "tensor" and has_numbers):
            return False
        return len(self.shape) <= 2 and min(self.shape, default=1) > 0

    @property
    def is_image(self) -> bool:
        """Whether it is a colour image, as a file or as its numbers."""
        # One channel or 16 bits is depth. Some versions of TFDS leave the dtype of images out.
        colour = len(self.shape) == 3 and self.shape[2] in (3, -1) and self.dtype in ("uint8", "")
        if not (self.plain and colour):
            return False
        has_size = all(side > 0 for side in self.shape[:2])
        return self.kind == "image" or (self.kind == "tensor" and has_size)

    @property
    def is_text(self) -> bool:
        """Whether it is text, or text as numbers of its bytes, as Language Table has it."""
        if not self.plain:
            return False
        if self.kind != "tensor":
            return self.kind == "text"
        codes = self.dtype in ("int32", "uint8", "int64") and len(self.shape) == 1
        string = self.dtype == "string" and self.shape == ()
        return codes or string


@dataclass(frozen=True)
class Shard:
    """One file of records."""

    path: Path
    split: str
    episodes: int


def version_folder(root: Path) -> Path:
    """The folder with the files: `root`, or the newest version in it."""
    if not root.is_dir() or _holds_dataset(root):
        return root
    folders = [path for path in root.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir()]
    versions = [folder for folder in folders if _holds_dataset(folder)]
    # as numbers: 1.10.0 is newer than 1.9.0
    return max(versions, key=lambda path: [int(v) for v in path.name.split(".")], default=root)


def looks_like_rlds(root: Path) -> bool:
    """Whether a TFDS dataset, damaged or not, is here or in a folder named as a version."""
    return root.is_dir() and _holds_dataset(version_folder(root))


def _holds_dataset(folder: Path) -> bool:
    # INFO alone is no sign: the library `datasets` writes a file of that name too.
    return (folder / FEATURES).is_file() or any(folder.glob("*.tfrecord*"))


def read_features(folder: Path) -> dict[str, Feature]:
    """Name -> leaf of features.json. Raises DataError if it is missing or not as TFDS writes it."""
    path = folder / FEATURES
    found = {}
    raw = read_json(folder, path)
    if "pythonClassName" not in raw:
        raise DataError(
            f"{path}: is of an old TFDS (its keys: {', '.join(raw)}); make the dataset with TFDS "
            "4.5 or newer"
        )
    try:
        for feature in _leaves(raw, "", 0):
            found[feature.name] = feature
    except _MALFORMED as error:
        raise DataError(
            f"{path}: is not as TFDS writes it ({error!r}); copy it from the dataset's source"
        ) from error
    return found


def _leaves(
    raw: dict[str, Any],
    name: str,
    lists: int,
) -> list[Feature]:
    """All leaves at or below a node of features.json, which is called `name` and lies within
    `lists` sequences."""
    if "featuresDict" in raw:
        found = []
        for key, value in raw["featuresDict"].get("features", {}).items():
            found += _leaves(value, f"{name}/{key}" if name else key, lists)
        return found
    if "sequence" in raw:
        return _leaves(raw["sequence"]["feature"], name, lists + 1)
    kind = next(
        (key for key in ("tensor", "text", "image") if key in raw),
        str(raw.get("pythonClassName", "?")),
    )
    body = raw.get(kind, {})
    shape = body.get("shape") or {}
    dimensions = shape.get("dimensions", []) if isinstance(shape, dict) else []
    # The steps are one sequence. A further one within it is stored as a ragged tensor, in two
    # parts.
    compressed = body.get("encoding", "none") not in ("none", "")
    plain = not compressed and lists == int(name.startswith("steps/"))
    sides = tuple(int(v) for v in dimensions)
    return [Feature(name, kind, sides, str(body.get("dtype", "")), plain)]


def read_info(folder: Path, split: str | None) -> tuple[dict[str, Any], list[Shard]]:
    """What dataset_info.json says, and the files of `split` or of all, in its order. Raises
    DataError."""
    path = folder / INFO
    info = read_json(folder, path)
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise DataError(
            f"{path}: fileFormat is {info['fileFormat']!r}; write the dataset as tfrecord (TFDS's "
            "default)"
        )
    try:
        shards = _shards(folder, info)
    except DataError:
        raise
    except _MALFORMED as error:
        raise DataError(
            f"{path}: is not as TFDS writes it ({error!r}); copy it from the dataset's source"
        ) from error
    splits = list(dict.fromkeys(shard.split for shard in shards))
    if split is not None and split not in splits:
        raise DataError(f"{folder}: no split {split!r}; it has: {', '.join(splits) or 'none'}")
    chosen = [shard for shard in shards if split in (None, shard.split)]
    for shard in chosen:
        if not inside(folder, shard.path).is_file():
            raise DataError(
                f"{shard.path}: no such file, {INFO} lists it; copy it from the dataset's source"
            )
    return info, chosen


def _shards(folder: Path, info: dict[str, Any]) -> list[Shard]:
    shards = []
    for split in info["splits"]:
        lengths = [int(v) for v in split.get("shardLengths", [])]
        for number, episodes in enumerate(lengths):
            fields = {
                "DATASET": info["name"],
                "SPLIT": split["name"],
                "FILEFORMAT": "tfrecord",
                "SHARD_X_OF_Y": f"{number:05d}-of-{len(lengths):05d}",
                "SHARD_INDEX": f"{number:05d}",
                "NUM_SHARDS": f"{len(lengths):05d}",
            }
            name = split.get("filepathTemplate") or _TEMPLATE
            # not `format`, through which a dataset could reach attributes of these values
            for field, value in fields.items():
                name = name.replace(f"{{{field}}}", str(value))
            if Path(name).name != name or "\\" in name:
                raise DataError(
                    f"{folder / INFO}: names the file {name!r}, expected one beside it; restore "
                    f"{INFO}"
                )
            shards.append(Shard(folder / name, str(split["name"]), episodes))
    return shards

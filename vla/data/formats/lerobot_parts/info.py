"""`meta/info.json`: what a LeRobot dataset says of itself, checked for its kinds before anything is
built on it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import read_json

VIDEO, IMAGE = "video", "image"
NUMERIC = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "bool",
)
# None: not all makers write totals, and what they write is compared, not believed.
_Count = Annotated[int, Field(ge=0)]


class Feature(BaseModel):
    """One column, or one camera."""

    dtype: str
    shape: list[Annotated[int, Field(ge=1)]]
    names: Any = None
    info: Any = None
    video_info: Any = None

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return math.prod(self.shape)

    @property
    def is_camera(self) -> bool:
        return self.dtype in (VIDEO, IMAGE)

    @property
    def is_depth(self) -> bool:
        """Whether a camera measures distances, by what its makers say of it."""
        for said in (self.info, self.video_info):
            values = said if isinstance(said, dict) else {}
            if values.get("is_depth_map") or values.get("video.is_depth_map"):
                return True
        return False


class Info(BaseModel):
    """The part of info.json that is read."""

    # BaseModel, not Config: other makers add keys of their own, which are no mistake here.

    codebase_version: str
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    features: dict[str, Feature]
    total_episodes: _Count | None = None
    total_frames: _Count | None = None
    total_tasks: _Count | None = None
    chunks_size: Annotated[int, Field(ge=1)] = schema.FILES_PER_CHUNK
    data_path: str | None = None
    video_path: str | None = None
    splits: Any = None
    robot_type: Any = None


def read_version(root: Path) -> str | None:
    """The dataset's version if it can be read; None if info.json is missing or damaged."""
    try:
        values = read_json(root, root / schema.INFO)
        return str(values.get("codebase_version"))
    except DataError:
        return None


def read_info(root: Path) -> Info:
    """Raises DataError naming what is missing or of the wrong kind."""
    path = root / schema.INFO
    values = read_json(root, path)
    for key in ("codebase_version", "fps", "features"):
        if key not in values:
            raise DataError(f"{path}: lacks {key!r}; copy the file from the dataset's source")
    try:
        return Info.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]  # one mistake in the file often makes many
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path}: {key}: {first['msg']}, found {str(first['input'])[:80]!r}; correct it there"
        ) from error


def split_range(path: Path, splits: Any, name: str) -> tuple[int, int]:
    """The episodes [start, stop) of the split `name` ("0:80"). Raises DataError naming the splits
    that there are."""
    known = splits if isinstance(splits, dict) else {}
    if name not in known:
        raise DataError(
            f"{path}: no split {name!r}; there are: {', '.join(map(str, known)) or 'none'}; name "
            "one of them"
        )
    # at most 12 digits: int() has an error of its own for thousands of them
    found = re.fullmatch(r"\s*(\d{1,12})\s*:\s*(\d{1,12})\s*", str(known[name]))
    if found is None:
        raise DataError(
            f"{path}: split {name!r} is {known[name]!r}, expected START:STOP; correct it there"
        )
    return int(found[1]), int(found[2])

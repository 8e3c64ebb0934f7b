"""How an episode is stored on disk: the names, features and columns of LeRobotDataset v3.0.

Beyond what LeRobot asks for there is one column, `next.terminated` (a true end, as opposed to
`next.done`, which time limits set too), and in the episodes table `success`, `return`,
`terminated`, `task_index` (of the first step) and `info` (JSON); for each camera of a video dataset
`videos/<feature>/crc32`, of the episode's packets (`VideoReader.checksum`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vla.common.foreign.json_files import read_json
from vla.data.episode import Episode
from vla.data.extras import as_stored
from vla.data.storage.checksums import CHECKSUM
from vla.data.storage.video import VideoConfig
from vla.types import Spec, SpecError

CODEBASE_VERSION = "v3.0"
# LeRobot's limits, which info.json has to state. Our files stay smaller: see writer.py.
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
SPEC = "meta/vla_spec.json"
METADATA = "meta/vla_metadata.json"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

STATE = "observation.state"
ACTION = "action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
TERMINATED = "next.terminated"
IMAGE_PREFIX = "observation.images."
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def spec_of(values: dict[str, Any]) -> Spec:
    """The spec in the content of `SPEC`. Raises SpecError."""
    # the checksum is a key of the file, not of the spec, which refuses unknown keys
    return Spec.from_dict({key: value for key, value in values.items() if key != CHECKSUM})


def load_spec(path: Path) -> Spec:
    """The spec in the file `SPEC`. Raises FileNotFoundError, or SpecError naming the file."""
    try:
        return spec_of(read_json(path))
    except (ValueError, AttributeError) as error:
        raise SpecError(f"{path}: {error}") from error


def features(spec: Spec, video: VideoConfig | None = None) -> dict[str, dict[str, Any]]:
    """The `features` of info.json that every dataset has; cameras are images in the data files if
    `video` is None."""

    def scalar(dtype: str) -> dict[str, Any]:
        # shape [1], not []: LeRobot's loader knows no other way to say one number per step
        return {"dtype": dtype, "shape": [1], "names": None}

    result: dict[str, dict[str, Any]] = {}
    for camera, (h, w) in spec.cameras.items():
        feature: dict[str, Any] = {
            "dtype": "image",
            "shape": [h, w, 3],
            "names": ["height", "width", "channels"],
        }
        if video is not None:
            feature |= {"dtype": "video", "info": _video_info((h, w), spec.control_hz, video)}
        result[IMAGE_PREFIX + camera] = feature
    if spec.state_dim:  # a list of fixed size 0 is refused by pyarrow
        result[STATE] = {
            "dtype": "float32",
            "shape": [spec.state_dim],
            "names": list(spec.state_names),
        }
    result[ACTION] = {
        "dtype": "float32",
        "shape": [spec.action_dim],
        "names": list(spec.action_names),
    }
    result[REWARD] = scalar("float32")
    for name in (DONE, SUCCESS, TERMINATED):
        result[name] = scalar("bool")
    return result | {name: scalar(dtype) for name, dtype in INDEX_FEATURES.items()}


def _video_info(
    size: tuple[int, int],
    control_hz: float,
    video: VideoConfig,
) -> dict[str, Any]:
    """What LeRobot says of a camera's videos, with gop (`g`) and quality beside it."""
    return {
        "video.height": size[0],
        "video.width": size[1],
        "video.codec": video.codec,
        "video.pix_fmt": video.pix_fmt,
        "video.is_depth_map": False,
        "video.fps": _rate(control_hz),
        "video.channels": 3,
        "video.g": video.gop,
        "video.crf": video.quality,
        "has_audio": False,
    }


def _rate(control_hz: float) -> int | float:
    """As LeRobot writes rates: 10, not 10.0."""
    return int(control_hz) if control_hz.is_integer() else control_hz


def info(
    spec: Spec,
    video: VideoConfig | None = None,
    *,
    extras: dict[str, dict[str, Any]] | None = None,
    robot_type: str,
    episodes: int,
    frames: int,
    tasks: int,
) -> dict[str, Any]:
    """The content of info.json; `extras` are the features of extra columns."""
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": robot_type or None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": _rate(spec.control_hz),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": None if video is None else VIDEO_PATH,
        "features": features(spec, video) | (extras or {}),
    }


def _matrix(values: np.ndarray) -> pa.Array:
    """(L, D) -> a column of D-vectors; (L, 1) -> a plain column, as LeRobot stores shape [1]."""
    values = np.ascontiguousarray(values)
    flat = pa.array(values.ravel())
    if values.shape[1] == 1:
        return flat
    # the item named as parquet reads it back: a file that is written again keeps its bytes
    kind = pa.list_(pa.field("element", pa.float32()), values.shape[1])
    return pa.FixedSizeListArray.from_arrays(flat, type=kind)


def _image_column(files: list[bytes]) -> pa.Array:
    # a struct {bytes, path}, which is how the library `datasets` stores its Image feature
    paths = [f"frame-{t:06d}.png" for t in range(len(files))]
    return pa.StructArray.from_arrays(
        [pa.array(files, pa.binary()), pa.array(paths)], ["bytes", "path"]
    )


def numeric_columns(
    episode: Episode, spec: Spec, *, index: int, first_frame: int, task_index: int | np.ndarray
) -> dict[str, np.ndarray]:
    """Every feature of the episode that is no image, in the order of `features`.

    Args:
        task_index: of all steps, or of each, int64 (L,).
    """
    steps = len(episode)
    last = np.arange(steps) == steps - 1  # bool (L,)
    columns: dict[str, np.ndarray] = {}
    if spec.state_dim:
        columns[STATE] = np.asarray(episode.state, np.float32)
    columns[ACTION] = np.asarray(episode.actions, np.float32)
    columns[REWARD] = np.asarray(episode.rewards, np.float32)
    columns[DONE] = last  # LeRobot's meaning: the recording ends, for whatever reason
    columns[SUCCESS] = np.asarray(episode.success, bool)
    columns[TERMINATED] = last & bool(episode.terminated)
    columns["timestamp"] = (np.arange(steps) / spec.control_hz).astype(np.float32)
    columns["frame_index"] = np.arange(steps)
    columns["episode_index"] = np.full(steps, index)
    columns["index"] = np.arange(first_frame, first_frame + steps)
    columns["task_index"] = np.full(steps, task_index, np.int64)
    for name, values in episode.extras.items():
        columns[name] = as_stored(values)
    return columns


def data_table(images: dict[str, list[bytes]], numeric: dict[str, np.ndarray]) -> pa.Table:
    """The rows of one episode: PNG files per camera, then the numeric columns."""
    columns = {IMAGE_PREFIX + camera: _image_column(files) for camera, files in images.items()}
    for name, values in numeric.items():
        columns[name] = _matrix(values) if values.ndim == 2 else pa.array(values)
    return pa.table(columns)


def tasks_table(instructions: list[str]) -> pa.Table:
    """Row i is task_index i. The pandas metadata makes the text the index, which LeRobot looks
    tasks up by."""
    text = ("task", "unicode", "object")
    number = ("task_index", "int64", "int64")
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": p, "numpy_type": q, "metadata": None}
            for n, p, q in (number, text)
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
    table = pa.table(
        {"task_index": pa.array(range(len(instructions)), pa.int64()), "task": instructions}
    )
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})

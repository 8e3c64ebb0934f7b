"""Takes up a dataset that a writer left behind, without what it had not committed.

`meta/info.json` is the commit: whatever lies beyond its totals belongs to an episode that was lost.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vla.common.atomic import TEMPORARY_SUFFIX
from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.plain_files import why_not_plain
from vla.data import schema
from vla.data.errors import DataError
from vla.data.statistics import joined_stats
from vla.data.storage.checksums import is_whole
from vla.data.storage.video import VideoConfig
from vla.data.storage.video_packets import OpenVideo, read_packets
from vla.data.writer_state import WriterState, numbered, stored_stats, video_pattern
from vla.types import Spec, SpecError

DAMAGE = (
    pa.ArrowException,
    FileNotFoundError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
)
"""What reading raises where a file holds something else than a writer has put there."""


def taken_up(path: Path) -> Path:
    """The path of a file that is read to be written again, with more in it.

    Raises DataError if it is no file, or not the one that was written: with a new checksum its
    damage could not be found any more.
    """
    problem = why_not_plain(path)
    if not problem and path.is_dir():
        problem = "is a folder, expected a file"
    if not problem and path.exists() and is_whole(path) is False:
        problem = "is damaged: its checksum is another"
    if problem:
        raise DataError(f"{path}: {problem}; restore it, or begin in another folder")
    return path


def check_empty(root: Path) -> None:
    """Raises DataError if there are frames at `root`, which has no `meta/info.json`.

    A writer puts that file there before the first episode; it has been lost since, and what would
    be written now would take the place of what is left.
    """
    for pattern in (schema.DATA_PATH, schema.EPISODES_PATH):
        path = numbered(root, pattern, 0)
        if os.path.lexists(path):
            raise DataError(
                f"{root}: holds episodes ({path.relative_to(root)}), and {schema.INFO} is missing; "
                "restore that file, or begin in another folder"
            )


def read_metadata(root: Path) -> dict[str, Any]:
    """What `meta/vla_metadata.json` of the dataset at `root` holds. Raises DataError if it is
    damaged."""
    path = taken_up(root / schema.METADATA)
    try:
        values = read_json(path)
    except JsonError as error:
        raise DataError(f"{error}; restore the file, or begin in another folder") from error
    if not isinstance(values, dict):
        raise DataError(
            f"{path}: holds no keys and values; restore the file, or begin in another folder"
        )
    return values


def resumed_state(
    root: Path, spec: Spec, video: VideoConfig | None, episodes_per_table: int
) -> tuple[WriterState, str]:
    """What a writer has to know to continue the dataset at `root`, and its robot type.

    Files of episodes that were never committed are removed.

    Raises:
        DataError: the dataset has another spec or stores its cameras in another way, or a file is
            not the one that was written.
        DAMAGE: a file is missing, or does not hold what a writer put there.
    """
    info = read_json(taken_up(root / schema.INFO))
    _check_same_spec(root, spec)
    base = schema.features(spec, video)
    _check_same_video(root, info["features"], base)
    state = WriterState(int(info["total_episodes"]), int(info["total_frames"]))
    if state.episodes:
        state.extras = {name: f for name, f in info["features"].items() if name not in base}
    if video is not None:
        state.videos = {camera: OpenVideo() for camera in spec.cameras}
    for leftover in root.rglob("*" + TEMPORARY_SUFFIX):
        leftover.unlink()
    if state.episodes:
        tasks = pq.read_table(taken_up(root / schema.TASKS)).column("task").to_pylist()
        state.instructions = tasks[: int(info["total_tasks"])]
        _read_tables(root, state, episodes_per_table)
        _read_data(root, state)
        _read_videos(root, state, spec.control_hz)
    else:
        _remove_everything(root, state)
    return state, info.get("robot_type") or ""


def _check_same_spec(root: Path, spec: Spec) -> None:
    path = root / schema.SPEC
    if not path.exists():
        raise DataError(
            f"{root}: was not made by this writer ({schema.SPEC} is missing); copy it to a new "
            "folder"
        )
    try:
        stored = schema.load_spec(taken_up(path))
    except SpecError as error:
        raise DataError(f"{error}; restore the file or start a new folder") from error
    if stored != spec:
        lines = "; ".join(stored.differences(spec))
        if not lines:  # `differences` is about what a policy needs, which the rate is not
            lines = f"control_hz {stored.control_hz} != {spec.control_hz}"
        raise DataError(f"{root}: cannot resume with another spec: {lines}")


def _check_same_video(
    root: Path,
    stored: dict[str, Any],
    features: dict[str, Any],
) -> None:
    """Raises DataError if the cameras on disk are not stored as `features` says."""
    for name, expected in features.items():
        found = stored.get(name, {})
        if expected["dtype"] in ("image", "video") and found != expected:
            raise DataError(
                f"{root}: cannot resume: {name} is stored as {_stored_as(found)}, the "
                f"video config asks for {_stored_as(expected)}; set it back or start a new "
                "folder"
            )


def _stored_as(feature: dict[str, Any]) -> str:
    """How info.json says that a camera is stored, for a message."""
    size = "x".join(str(v) for v in feature.get("shape", [])[:2])
    if feature.get("dtype") != "video":
        return f"{feature.get('dtype', 'nothing')} {size}".strip()
    details = ", ".join(
        f"{key.removeprefix('video.')} {value}" for key, value in feature.get("info", {}).items()
    )
    return f"video {size} ({details})"


def _read_tables(root: Path, state: WriterState, episodes_per_table: int) -> None:
    """Rows of the newest file of the episodes table; statistics of all episodes."""
    last = (state.episodes - 1) // episodes_per_table
    for file in range(last + 1):
        path = taken_up(numbered(root, schema.EPISODES_PATH, file))
        rows = pq.read_table(path).to_pylist()
        rows = [row for row in rows if row["episode_index"] < state.episodes]
        # From the rows, not from stats.json, which may count an episode that was lost.
        for row in rows:
            state.stats = joined_stats(state.stats, stored_stats(row))
        state.rows = rows
    _remove_from(root, schema.EPISODES_PATH, last + 1)


def _read_data(root: Path, state: WriterState) -> None:
    """Tables of the newest data file, of committed episodes alone."""
    newest = state.rows[-1]
    chunk, file_in_chunk = newest["data/chunk_index"], newest["data/file_index"]
    state.data_file = chunk * schema.FILES_PER_CHUNK + file_in_chunk
    _remove_from(root, schema.DATA_PATH, state.data_file + 1)
    file = pq.ParquetFile(taken_up(numbered(root, schema.DATA_PATH, state.data_file)))
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)  # one episode
        if table.column("episode_index")[0].as_py() < state.episodes:
            state.data.append(table)
    state.data_bytes = sum(table.nbytes for table in state.data)


def _read_videos(root: Path, state: WriterState, control_hz: float) -> None:
    """The newest video file of each camera, up to the end of the last committed episode."""
    newest = state.rows[-1]
    for camera in state.videos:
        key = f"videos/{schema.IMAGE_PREFIX}{camera}"
        chunk, file_in_chunk = newest[f"{key}/chunk_index"], newest[f"{key}/file_index"]
        number = chunk * schema.FILES_PER_CHUNK + file_in_chunk
        _remove_from(root, video_pattern(camera), number + 1)
        # rounded: the time was divided by the rate, and floats do not divide back exactly
        frames = round(newest[f"{key}/to_timestamp"] * control_hz)
        path = taken_up(numbered(root, video_pattern(camera), number))
        packets = read_packets(path, frames, control_hz)
        state.videos[camera] = OpenVideo(number, (packets,))


def _remove_everything(root: Path, state: WriterState) -> None:
    """Removes what a writer left that died in its first episode."""
    patterns = [schema.DATA_PATH, schema.EPISODES_PATH]
    patterns += [video_pattern(camera) for camera in state.videos]
    for pattern in patterns:
        _remove_from(root, pattern, 0)
    for name in (schema.TASKS, schema.STATS):
        (root / name).unlink(missing_ok=True)


def _remove_from(root: Path, pattern: str, number: int) -> None:
    """Removes the files from `number` on: they were written for episodes that were never
    committed."""
    path = numbered(root, pattern, number)
    while path.exists():
        path.unlink()
        number += 1
        path = numbered(root, pattern, number)

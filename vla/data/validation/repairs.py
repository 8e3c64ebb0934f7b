"""What the repairs do. None loses anything: whatever is rewritten is kept aside, in `.replaced` of
the dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from vla.common.atomic import write_json
from vla.data import schema
from vla.data.errors import DataError
from vla.data.formats.common.files import read_json
from vla.data.formats.lerobot_parts.info import split_range
from vla.data.loading.frame_cache import FrameCache
from vla.data.statistics import image_stats
from vla.data.storage.checksums import is_whole, write_checksummed_json
from vla.data.storage.row_groups import write_row_groups
from vla.data.validation import repair_names
from vla.data.validation.checks.files import is_leftover
from vla.data.validation.checks.lerobot_tables import derived, task_pairs
from vla.data.validation.checks.statistics import merged_images, true_stats
from vla.data.validation.examined import ASIDE, Examined
from vla.data.validation.lerobot_parts import LeRobotParts
from vla.data.writer_state import listed


def remove_leftovers(examined: Examined) -> str:
    """Deletes what a killed writer did not finish: nothing reads it."""
    found = [path for path in examined.files if is_leftover(path)]
    for path in found:
        path.unlink()
    return f"{len(found)} unfinished files were removed: {', '.join(map(examined.name, found))}"


def drop_cameras(examined: Examined) -> str:
    """Only cameras that the reader leaves out as well."""
    parts = _parts(examined)
    reader = _reader(examined)
    cameras = [name for name, feature in reader.info.features.items() if feature.is_camera]
    # by the reader's own choice: what it reads must stay
    lost = [name for name in cameras if name not in reader._mapping.cameras.values()]
    info = _info(parts)
    info["features"] = {name: value for name, value in info["features"].items() if name not in lost}
    _replace_info(examined, info)
    return f"{', '.join(lost)} left out of {schema.INFO}"


def sort_tasks(examined: Examined) -> str:
    """Row i of the table of tasks becomes task i, as LeRobot reads it."""
    pairs = sorted(task_pairs(_parts(examined)))
    path = examined.root / schema.TASKS
    _check_whole(path)  # first: nothing is moved if the file is damaged
    _keep(examined, path)
    write_row_groups(path, [schema.tasks_table([text for _, text in pairs])])
    return f"{len(pairs)} rows of {schema.TASKS} sorted"


def correct_totals(examined: Examined) -> str:
    """Counts and splits of info.json become those of the tables."""
    parts = _parts(examined)
    reader = _reader(examined)
    info = _info(parts)
    path = examined.root / schema.INFO
    # of v3 total_episodes is the commit, which no repair may move
    episodes = reader.info.total_episodes if examined.format == "lerobot" else None
    table = parts.table
    if table is None:
        raise DataError(f"{examined.root}: its table of episodes cannot be read; restore it")
    episodes = len(table) if episodes is None else episodes
    true = {"total_episodes": episodes, "total_frames": int(table["length"].sum())}
    if "total_tasks" in info and examined.format == "lerobot":
        true["total_tasks"] = len(task_pairs(parts))
    changed = []
    for key, value in true.items():
        if info.get(key) not in (None, value):
            changed.append(f"{key} is {value}")
        if key in info:
            info[key] = value
    splits = _splits(path, info.get("splits"), episodes)
    if splits != info.get("splits"):
        changed.append(f"splits are {splits}")
        info["splits"] = splits
    _replace_info(examined, info)
    return f"{schema.INFO}: {'; '.join(changed)}"


def _splits(path: Path, splits: Any, episodes: int) -> dict[str, str]:
    """Those that can be read, cut at the last episode; one of all if there is none."""
    kept = {}
    for name in splits if isinstance(splits, dict) else ():
        try:
            start, stop = split_range(path, splits, name)
        except DataError:
            continue
        if start < min(stop, episodes):
            kept[name] = f"{start}:{min(stop, episodes)}"
    return kept or {"train": f"0:{episodes}"}


def rebuild_episodes(examined: Examined) -> str:
    """Results of episodes become those of their frames."""
    parts = _parts(examined)
    numbers = examined.numbers
    if numbers is None:
        raise DataError(f"{examined.root}: its frames cannot be read; restore the data folder")
    true = derived(numbers)
    for path, table in parts.tables:
        new = table
        episodes = table.column("episode_index").to_pylist()
        for name in ("success", "return", "terminated"):
            if name not in table.column_names:
                continue
            old = table.column(name).to_pylist()
            # the stored value if the frames say nothing, for example without rewards
            values = []
            for episode, value in zip(episodes, old, strict=True):
                values.append(true.get(episode, {}).get(name, value))
            kind = table.schema.field(name)
            column = pa.array(values, kind.type)
            new = new.set_column(table.column_names.index(name), kind, column)
        if not new.equals(table):
            _check_whole(path)
            _keep(examined, path)
            write_row_groups(path, [new])
    return f"columns of {len(parts.tables)} files computed from the frames"


def rewrite_stats(examined: Examined) -> str:
    """stats.json becomes that of the frames."""
    parts = _parts(examined)
    path = examined.root / schema.STATS
    stats = true_stats(parts) | merged_images(parts)
    if not stats:
        raise DataError(f"{examined.root}: its frames cannot be read; restore the data folder")
    stored: dict[str, Any] = {}
    if path.exists():
        _keep(examined, path)
        try:
            stored = read_json(examined.root, path)
        except DataError:  # damaged: nothing of it is kept
            stored = {}
    new = {name: listed(of_feature) for name, of_feature in stats.items()}
    # kept: statistics of what is not looked at here, such as images of other makers
    others = {name: value for name, value in stored.items() if name not in new}
    dataset = examined.dataset
    if dataset is not None:
        for camera, feature in _reader(examined)._mapping.cameras.items():
            if feature not in new and feature not in others:
                new[feature] = _of_images(dataset, camera)
    write_json(path, new | _finite(others))
    return f"{schema.STATS} holds the statistics of {len(new)} features"


def _of_images(dataset: Any, camera: str) -> dict[str, Any]:
    """Of a few frames spread over the dataset."""
    step = max(1, dataset.num_frames // 64)
    images = []
    for frame in range(0, dataset.num_frames, step):
        # of the reader: as they are stored, not turned as keys may ask
        images += [image for _, image in dataset.reader.images(camera, frame, frame + 1)]
    return listed(image_stats(images))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Without what strict JSON cannot hold."""
    kept = {}
    for name, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            continue
        kept[name] = value
    return kept


def rebuild_caches(examined: Examined) -> str:
    """Deletes the decoded frames beside the dataset and decodes them again."""
    if examined.dataset is None:
        raise DataError(f"{examined.root}: cannot be opened; restore it")
    root = examined.root
    folder = root / ".cache" if root.is_dir() else root.with_name(root.name + ".cache")
    # before decoding: the disk may not hold the frames twice
    removed = [path for path in folder.glob("frames-*") if path.is_dir()]
    for path in removed:
        shutil.rmtree(path)
    FrameCache(examined.dataset, "disk")
    return f"frames of {', '.join(examined.dataset.spec.cameras)} decoded again"


REPAIRS: dict[str, Callable[[Examined], str]] = {
    repair_names.REMOVE_LEFTOVERS: remove_leftovers,
    repair_names.DROP_CAMERAS: drop_cameras,
    repair_names.SORT_TASKS: sort_tasks,
    repair_names.CORRECT_TOTALS: correct_totals,
    repair_names.REBUILD_EPISODES: rebuild_episodes,
    repair_names.REWRITE_STATS: rewrite_stats,
    repair_names.REBUILD_CACHES: rebuild_caches,
}
"""Repair -> what does it, in the order in which they are applied; returns what was done. Raises
DataError."""
WITHOUT_DATASET = (repair_names.REMOVE_LEFTOVERS, repair_names.SORT_TASKS)
"""Repairs of single files, which need no dataset that opens."""


def _parts(examined: Examined) -> LeRobotParts:
    if examined.lerobot is None:
        raise DataError(
            f"{examined.root}: only LeRobot datasets are repaired in place; write a new one: `vla "
            "data convert`"
        )
    return examined.lerobot


def _reader(examined: Examined) -> Any:
    if examined.dataset is None:
        raise DataError(f"{examined.root}: cannot be opened; restore it first: {examined.error}")
    return examined.dataset.reader


def _info(parts: LeRobotParts) -> dict[str, Any]:
    return read_json(parts.root, parts.root / schema.INFO)


def _replace_info(examined: Examined, info: dict[str, Any]) -> None:
    path = examined.root / schema.INFO
    _check_whole(path)
    has_checksum = is_whole(path) is not None
    _keep(examined, path)
    # others' files stay without one: a checksum makes a file one of ours
    write = write_checksummed_json if has_checksum else write_json
    write(path, info)


def _check_whole(path: Path) -> None:
    """A new checksum over damage would hide it for good."""
    if is_whole(path) is False:
        raise DataError(
            f"{path}: is not what was written (its checksum differs); restore it before anything "
            "is repaired"
        )


def _keep(examined: Examined, path: Path) -> None:
    """A copy of a file that is about to be replaced."""
    base = examined.root / ASIDE / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = path.relative_to(examined.root)
    copy = base / name
    number = 0
    while copy.exists():  # two repairs within a second may replace one file
        number += 1
        copy = base.with_name(f"{base.name}-{number}") / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)

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
from vla.data.validation import repair_names as repairs
from vla.data.validation.checks.files import is_leftover
from vla.data.validation.checks.lerobot_parts import LeRobotParts
from vla.data.validation.checks.lerobot_tables import derived, task_pairs
from vla.data.validation.checks.statistics import merged_images, true_stats
from vla.data.validation.examined import ASIDE, Examined


def remove_leftovers(examined: Examined) -> str:
    found = [path for path in examined.files if is_leftover(path)]
    for path in found:
        path.unlink()
    return f"{len(found)} unfinished files were removed: {', '.join(map(examined.name, found))}"


def drop_cameras(examined: Examined) -> str:
    """Only cameras that the reader leaves out as well."""
    parts, reader = _parts(examined), _reader(examined)
    cameras = [name for name, feature in reader.info.features.items() if feature.is_camera]
    lost = [name for name in cameras if name not in reader._mapping.cameras.values()]
    info = _info(parts)
    info["features"] = {name: value for name, value in info["features"].items() if name not in lost}
    _replace_info(examined, info)
    return f"{', '.join(lost)} left out of {schema.INFO}"


def sort_tasks(examined: Examined) -> str:
    pairs = sorted(task_pairs(_parts(examined)))
    path = examined.root / schema.TASKS
    _check_whole(path)
    _keep(examined, path)
    write_row_groups(path, [schema.tasks_table([text for _, text in pairs])])
    return f"{len(pairs)} rows of {schema.TASKS} sorted"


def correct_totals(examined: Examined) -> str:
    parts, reader = _parts(examined), _reader(examined)
    info, path = _info(parts), examined.root / schema.INFO
    episodes = reader.info.total_episodes if examined.format == "lerobot" else None
    table = parts.table
    if table is None:
        raise DataError(f"{examined.root}: its table of episodes cannot be read; restore it")
    episodes = len(table) if episodes is None else episodes
    true = {"total_episodes": episodes, "total_frames": int(table["length"].sum())}
    if "total_tasks" in info and examined.format == "lerobot":
        true["total_tasks"] = len(task_pairs(parts))
    changed = [
        f"{key} is {value}" for key, value in true.items() if info.get(key) not in (None, value)
    ]
    info |= {key: value for key, value in true.items() if key in info}
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
    parts, numbers = _parts(examined), examined.numbers
    if numbers is None:
        raise DataError(f"{examined.root}: its frames cannot be read; restore the data folder")
    true = derived(numbers)
    for path, table in parts.tables:
        new = table
        episodes = table.column("episode_index").to_pylist()
        for name in ("success", "return", "terminated"):
            if name in table.column_names:
                old = table.column(name).to_pylist()
                values = [
                    true.get(episode, {}).get(name, value)
                    for episode, value in zip(episodes, old, strict=True)
                ]
                place, kind = table.column_names.index(name), table.schema.field(name)
                new = new.set_column(place, kind, pa.array(values, kind.type))
        if not new.equals(table):
            _check_whole(path)
            _keep(examined, path)
            write_row_groups(path, [new])
    return f"columns of {len(parts.tables)} files computed from the frames"


def rewrite_stats(examined: Examined) -> str:
    parts, path = _parts(examined), examined.root / schema.STATS
    stats = true_stats(parts) | merged_images(parts)
    if not stats:
        raise DataError(f"{examined.root}: its frames cannot be read; restore the data folder")
    stored: dict[str, Any] = {}
    if path.exists():
        _keep(examined, path)
        try:
            stored = read_json(examined.root, path)
        except DataError:
            stored = {}
    listed = {name: {key: value.tolist() for key, value in s.items()} for name, s in stats.items()}
    others = {name: value for name, value in stored.items() if name not in listed}
    dataset = examined.dataset
    for camera, feature in {} if dataset is None else _reader(examined)._mapping.cameras.items():
        if feature not in listed and feature not in others and dataset is not None:
            listed[feature] = _of_images(dataset, camera)
    write_json(path, listed | _finite(others))
    return f"{schema.STATS} holds the statistics of {len(listed)} features"


def _of_images(dataset: Any, camera: str) -> dict[str, Any]:
    """Of a few frames spread over the dataset."""
    step = max(1, dataset.num_frames // 64)
    pictures = [
        picture
        for i in range(0, dataset.num_frames, step)
        for _, picture in dataset.images(camera, i, i + 1)
    ]
    return {key: value.tolist() for key, value in image_stats(pictures).items()}


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
    if examined.dataset is None:
        raise DataError(f"{examined.root}: cannot be opened; restore it")
    root = examined.root
    folder = root / ".cache" if root.is_dir() else root.with_name(root.name + ".cache")
    removed = [path for path in folder.glob("frames-*") if path.is_dir()]
    for path in removed:
        shutil.rmtree(path)
    FrameCache(examined.dataset, "disk")
    return f"frames of {', '.join(examined.dataset.spec.cameras)} decoded anew"


REPAIRS: dict[str, Callable[[Examined], str]] = {
    repairs.REMOVE_LEFTOVERS: remove_leftovers,
    repairs.DROP_CAMERAS: drop_cameras,
    repairs.SORT_TASKS: sort_tasks,
    repairs.CORRECT_TOTALS: correct_totals,
    repairs.REBUILD_EPISODES: rebuild_episodes,
    repairs.REWRITE_STATS: rewrite_stats,
    repairs.REBUILD_CACHES: rebuild_caches,
}
"""Repair -> what does it, in the order in which they are applied; returns what was done. Raises
DataError."""


def _parts(examined: Examined) -> LeRobotParts:
    if examined.lerobot is None:
        raise DataError(
            f"{examined.root}: only LeRobot datasets are mended in place; write a new one: `vla "
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
    sealed = is_whole(path) is not None
    _keep(examined, path)
    (write_checksummed_json if sealed else write_json)(path, info)


def _check_whole(path: Path) -> None:
    """A new checksum over damage would hide it for good."""
    if is_whole(path) is False:
        raise DataError(
            f"{path}: is not what was written (its checksum differs); restore it before anything "
            "is mended"
        )


def _keep(examined: Examined, path: Path) -> None:
    """A copy of a file that is about to be replaced."""
    base = examined.root / ASIDE / datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    target, number = base / path.relative_to(examined.root), 0
    while target.exists():
        number += 1
        target = base.with_name(f"{base.name}-{number}") / path.relative_to(examined.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)

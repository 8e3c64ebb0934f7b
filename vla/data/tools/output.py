"""The folder that a plan is written to: whether it may be, how far it is, and who else writes
there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.common.atomic import TEMPORARY_SUFFIX
from vla.common.foreign.json_files import read_json
from vla.data import schema
from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset
from vla.data.storage.image_codec import as_png
from vla.data.tools.plan import Plan

RECIPE = "made"
"""Key of the metadata under which a plan's recipe is kept."""
_SPARE_BYTES = 64 * 2**20  # for tables, and the newest file beside its new version


def committed_episodes(plan: Plan, dst: Path, made: dict[str, Any]) -> int:
    """How many episodes of this very plan lie at `dst` already. Raises DataError if something else
    does."""
    for dataset in plan.sources:
        here = Path(os.path.realpath(dst))
        there = Path(os.path.realpath(dataset.root))
        if here == there or there in here.parents or here in there.parents:
            raise DataError(
                f"{dst}: lies in the source {dataset.root}, or holds it; choose a folder beside it"
            )
    if not plan.episodes:
        raise DataError(f"{dst}: there is no episode to write; widen the choice of episodes")
    if not dst.exists() or _holds_nothing(dst):
        return 0
    info = dst / schema.INFO
    metadata = dst / schema.METADATA
    stored = _read(metadata).get(RECIPE) if metadata.exists() else None
    if not isinstance(stored, dict):
        raise DataError(
            f"{dst}: is not empty, and not of this command's making; choose another folder"
        )
    if stored != made:
        raise DataError(
            f"{dst}: holds a dataset of another call: {_difference(stored, made)}; choose another "
            "folder"
        )
    # a writer that was killed before its first commit has left metadata alone
    return int(_read(info).get("total_episodes", 0)) if info.exists() else 0


def _holds_nothing(folder: Path) -> bool:
    """Whether there are no files but those that a writer, ended in its first moment, left."""
    if not folder.is_dir():
        return False
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return all(path.name.endswith(TEMPORARY_SUFFIX) for path in files)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; delete the folder to write it again"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values; delete the folder to write it again")
    return value


def _difference(stored: dict[str, Any], made: dict[str, Any]) -> str:
    """What makes another dataset of it, in words."""
    old = stored.get("sources", [])
    new = made["sources"]
    old_names = [source.get("name") for source in old]
    new_names = [source["name"] for source in new]
    if old_names != new_names:
        return f"it was made of {', '.join(map(str, old_names))}, not of {', '.join(new_names)}"
    if old != new and stored.get("options") == made["options"]:
        return "the source has changed since"
    for key in ("command", "options", "chosen", "spec", "episodes"):
        if stored.get(key) == made[key]:
            continue
        if key == "options":
            return _changed_options(stored.get(key) or {}, made[key])
        if key == "chosen":  # a hash, of which nobody learns anything
            return "other episodes are chosen"
        if key == "spec":
            return "its spec differs"
        return f"{key} was {stored.get(key)!r}, is {made[key]!r}"
    return "its notes differ"


def _changed_options(old: dict[str, Any], new: dict[str, Any]) -> str:
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed)


def check_space(
    plan: Plan,
    dst: Path,
    todo: Sequence[tuple[int, int]],
    video: bool,
) -> None:
    """Raises DataError if the disk will certainly be full before the end: judged by the first
    images of a few episodes, of which a video needs a tenth or more."""
    frames = sum(plan.length(place) for place in todo)
    sampled = [todo[i] for i in sorted({0, len(todo) // 2, len(todo) - 1})]
    per_frame = 0.0
    for camera in plan.spec.cameras:
        for source, index in sampled:
            per_frame += _first_size(plan.sources[source], index, camera) / len(sampled)
    per_frame *= 0.1 if video else 1.0
    # float32 each, and some twelve more columns of a row
    per_frame += 4 * (plan.spec.state_dim + plan.spec.action_dim + 12)
    folder = next(parent for parent in (dst, *dst.absolute().parents) if parent.is_dir())
    needed = int(frames * per_frame)
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise DataError(
            f"{dst}: about {_size(needed)} are needed beside {_size(_SPARE_BYTES)} to spare, "
            f"{_size(free)} are free; free some, choose another disk, or store videos"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _first_size(dataset: EpisodeDataset, index: int, camera: str) -> int:
    """Bytes of the PNG file of an episode's first image."""
    first = int(dataset.episodes["first_frame"].iloc[index])
    try:
        return sum(len(as_png(image)) for _, image in dataset.images(camera, first, first + 1))
    except DataError as error:
        if str(dataset.root) in str(error):
            raise
        number = dataset.episode_numbers[index]
        where = f"{dataset.root}: episode {number}: camera {camera!r}: step 0"
        raise DataError(f"{where}: {error}") from error

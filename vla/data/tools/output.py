"""The folder that a plan is written to: whether it may be, how far it is, and who else writes
there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vla.data import schema
from vla.data.errors import DataError
from vla.data.storage.image_codec import as_png
from vla.data.tools.plan import Plan

RECIPE = "made"
"""Key of the metadata under which a plan's recipe is kept."""
_SPARE_BYTES = 64 * 2**20


def committed_episodes(plan: Plan, dst: Path, made: dict[str, Any]) -> int:
    """How many episodes of this very plan lie at `dst` already. Raises DataError if something else
    does."""
    for dataset in plan.sources:
        here, there = Path(os.path.realpath(dst)), Path(os.path.realpath(dataset.root))
        if here == there or there in here.parents or here in there.parents:
            raise DataError(
                f"{dst}: lies in the source {dataset.root}, or holds it; choose a folder beside it"
            )
    if not plan.episodes:
        raise DataError(f"{dst}: there is no episode to write; widen the choice of episodes")
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return 0
    info, metadata = dst / schema.INFO, dst / schema.METADATA
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
    return int(_read(info).get("total_episodes", 0)) if info.exists() else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; delete the folder to write it anew"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected keys and values; delete the folder to write it anew")
    return value


def _difference(stored: dict[str, Any], made: dict[str, Any]) -> str:
    """What makes another dataset of it, in words."""
    old, new = stored.get("sources", []), made["sources"]
    if [s.get("name") for s in old] != [s["name"] for s in new]:
        return (
            f"it was made of {', '.join(str(s.get('name')) for s in old)}, not of "
            f"{', '.join(s['name'] for s in new)}"
        )
    if old != new and stored.get("options") == made["options"]:
        return "the source has changed since"
    for key in ("command", "options", "chosen", "spec", "episodes"):
        if stored.get(key) != made[key]:
            if key == "options":
                was = stored.get(key) or {}
                changed = [k for k in {**was, **made[key]} if was.get(k) != made[key].get(k)]
                return "; ".join(
                    f"{k} was {was.get(k)!r}, is {made[key].get(k)!r}" for k in changed
                )
            return {"chosen": "other episodes are chosen", "spec": "its spec differs"}.get(
                key, f"{key} was {stored.get(key)!r}, is {made[key]!r}"
            )
    return "its notes differ"


def check_space(plan: Plan, dst: Path, todo: Sequence[tuple[int, int]], video: bool) -> None:
    """Raises DataError if the disk will certainly be full before the end: judged by the first
    pictures of a few episodes, of which a video needs a tenth or more."""
    frames = sum(plan.length(place) for place in todo)
    sampled = [todo[i] for i in sorted({0, len(todo) // 2, len(todo) - 1})]
    per_frame = 0.0
    for camera in plan.spec.cameras:
        for source, index in sampled:
            dataset = plan.sources[source]
            first = int(dataset.episodes["first_frame"].iloc[index])
            try:
                sizes = [
                    len(as_png(picture)) for _, picture in dataset.images(camera, first, first + 1)
                ]
            except DataError as error:
                where = f"{dataset.root}: episode {index}: camera {camera!r}: step 0"
                raise (
                    error if str(dataset.root) in str(error) else DataError(f"{where}: {error}")
                ) from error
            per_frame += sum(sizes) / len(sampled)
    per_frame *= 0.1 if video else 1.0
    per_frame += 4 * (plan.spec.state_dim + plan.spec.action_dim + 12)
    folder = next(parent for parent in (dst, *dst.absolute().parents) if parent.is_dir())
    needed, free = int(frames * per_frame), shutil.disk_usage(folder).free - _SPARE_BYTES
    if needed > free:
        raise DataError(
            f"{dst}: about {needed / 2**30:.1f} GiB are needed, {max(0, free) / 2**30:.1f} GiB "
            "are free; free some, choose another disk, or store videos"
        )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; the lock ends with it, however it ends. Does nothing on
    Windows."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"{folder}: another command is writing there; wait for its end"
            ) from error
        yield
    finally:
        os.close(handle)

"""A dataset in parts, for example for training and validation.

E: episodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.folder_lock import alone
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.reader import EpisodeDataset
from vla.data.select import Episodes
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.plan import Plan, key_options, notes_of


def split(
    src: str | Path,
    dst: str | Path,
    parts: Mapping[str, float | Episodes],
    *,
    seed: int = 0,
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Converted]:
    """Writes each part as a dataset `dst/<name>`; resumable as `convert` is.

    Args:
        format, keys: as of EpisodeDataset.
        parts: name -> the part's fraction of the episodes, or its episodes ("0:20", [3, 5]). Either
            kind for all parts.
        seed: decides which episodes go where, for fractions; see `drawn_parts`. A task is the
            instruction of an episode's first step.

    Raises:
        DataError: names that are no folder names, fractions that sum to more than 1, a part without
            episodes, an episode in two parts; or as `convert`.
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    chosen = chosen_parts(dataset, parts, seed)
    given = {name: str(part) for name, part in parts.items()}
    with alone(Path(dst)):
        return _parts(dataset, Path(dst), chosen, given, seed, format, keys, video, jobs, progress)


def _parts(
    dataset: EpisodeDataset,
    dst: Path,
    chosen: Mapping[str, list[int]],
    given: Mapping[str, str],
    seed: int,
    format: str | None,
    keys: KeyMap | None,
    video: VideoConfig | None,
    jobs: int | None,
    progress: ProgressCallback | None,
) -> dict[str, Converted]:
    """Writes the parts, one after the other."""
    made = {}
    for name, episodes in chosen.items():
        options = {"part": name, "seed": seed, "parts": given} | key_options(format, keys)
        places = [(0, index) for index in episodes]
        plan = Plan("split", [dataset], places, dataset.spec, options, notes=notes_of([dataset]))
        made[name] = write_derived(plan, dst / name, video=video, jobs=jobs, progress=progress)
    return made


def chosen_parts(
    dataset: EpisodeDataset, parts: Mapping[str, float | Episodes], seed: int
) -> dict[str, list[int]]:
    """Name -> episodes of the part, ascending. Raises DataError as `split` does."""
    where = str(dataset.root)
    for name in parts:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise DataError(
                f"{where}: part {name!r}: expected a folder's name of letters, digits, '_', '-' "
                "and '.'"
            )
    shares = {name: part for name, part in parts.items() if isinstance(part, int | float)}
    if shares and len(shares) < len(parts):
        raise DataError(
            f"{where}: parts are given as fractions and as episodes; give all of them in one way"
        )
    if shares:
        chosen = drawn_parts(dataset.episodes["task_index"].to_numpy(), shares, seed, where)
    else:
        chosen = {}
        for name, part in parts.items():
            named: Any = part
            chosen[name] = sorted(dataset.chosen_episodes(named, f"{where}: part {name!r}"))
    _check_parts(chosen, where, dataset.episode_numbers.tolist())
    return chosen


def drawn_parts(
    task_E: np.ndarray, shares: Mapping[str, float], seed: int, where: str
) -> dict[str, list[int]]:
    """Each part gets its fraction of the episodes to within one, and of each task's to within two.

    Tasks come in random order, and so do episodes within a task; each episode goes to the part that
    lacks most.
    """
    total = sum(shares.values())
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise DataError(
                f"{where}: part {name!r} is {share}; expected a fraction above 0, at most 1"
            )
    if total > 1 + 1e-9:
        raise DataError(
            f"{where}: the fractions of {', '.join(shares)} sum to {total:g}; expected at most 1"
        )
    rng = np.random.default_rng(seed)
    tasks = rng.permutation(int(task_E.max()) + 1)
    # sorted by the last key first: task by task, and at random within a task
    order = np.lexsort((rng.random(len(task_E)), tasks[task_E]))
    names: list[str | None] = [*shares, None]  # None: what no part gets
    # (P,): of all parts and of the rest
    share_P = np.array([*shares.values(), max(0.0, 1 - total)])
    count_P = np.zeros(len(names))
    chosen: dict[str, list[int]] = {name: [] for name in shares}
    for place, index in enumerate(order.tolist(), 1):
        # Quotas instead of draws: rounding never adds up, over the dataset as over each task.
        lacking = int(np.argmax(share_P * place - count_P))
        count_P[lacking] += 1
        part = names[lacking]
        if part is not None:
            chosen[part].append(index)
    return {name: sorted(episodes) for name, episodes in chosen.items()}


def _check_parts(
    chosen: Mapping[str, list[int]],
    where: str,
    numbers: list[int],
) -> None:
    owner: dict[int, str] = {}
    for name, episodes in chosen.items():
        if not episodes:
            raise DataError(
                f"{where}: part {name!r} would have none of {len(numbers)} episodes; give it a "
                "larger share"
            )
        for index in episodes:
            if index in owner:
                raise DataError(
                    f"{where}: episode {numbers[index]} is in {owner[index]!r} and in {name!r}; "
                    "name it once"
                )
            owner[index] = name

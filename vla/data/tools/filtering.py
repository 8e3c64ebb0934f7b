"""Part of a dataset's episodes, by what they show and how they went."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from vla.common.progress import ProgressCallback
from vla.config import Config
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.reader import EpisodeDataset
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.plan import Plan, key_options, notes_of


class Filter(Config):
    """Which episodes stay: those for which all that is given holds."""

    tasks: list[str] | None = None
    """Patterns of instructions, of which one must match: `*` stands for anything; capitals do not
    matter. An episode whose instruction changes stays as a whole if one of them matches."""
    success: bool | None = None
    """Whether the episode was solved."""
    min_return: float | None = None
    """Least sum of rewards."""
    max_return: float | None = None
    """Greatest sum of rewards."""
    min_length: int | None = None
    """Fewest steps."""
    max_length: int | None = None
    """Most steps."""
    episodes: str | None = None
    """Numbers and ranges, for example `0:100,205`."""
    drop: str | None = None
    """Numbers and ranges of episodes that go."""


def filtered(dataset: EpisodeDataset, chosen: Filter) -> list[int]:
    """The episodes that stay, ascending. Raises DataError if none does, or an episode that is named
    does not exist."""
    table = dataset.episodes
    where = str(dataset.root)
    stays = np.zeros(len(table), bool)
    stays[dataset.chosen_episodes(chosen.episodes)] = True
    if chosen.drop is not None:
        stays[dataset.chosen_episodes(chosen.drop, is_dropped=True)] = False
    if chosen.tasks is not None:
        stays &= _of_tasks(dataset, chosen.tasks)
    _check_recorded(dataset, chosen)
    if chosen.success is not None:
        stays &= table["success"].to_numpy(bool) == chosen.success
    ranges = (
        ("return", chosen.min_return, chosen.max_return),
        ("length", chosen.min_length, chosen.max_length),
    )
    for column, least, most in ranges:
        values = table[column].to_numpy()
        if least is not None:
            stays &= values >= least
        if most is not None:
            stays &= values <= most
    if not stays.any():
        # what there is, so that a threshold can be chosen from the message
        returns, lengths = table["return"], table["length"]
        facts = []
        if "success" in dataset.recorded:
            facts.append(f"{int(table['success'].sum())} are solved")
        if "rewards" in dataset.recorded:
            facts.append(f"returns go from {returns.min():g} to {returns.max():g}")
        facts.append(f"lengths from {lengths.min()} to {lengths.max()}")
        raise DataError(
            f"{where}: no episode fits {chosen.model_dump(exclude_none=True)}; of {len(table)} "
            f"episodes {', '.join(facts)}"
        )
    return [int(index) for index in np.flatnonzero(stays)]


def filter_dataset(
    src: str | Path,
    dst: str | Path,
    chosen: Filter,
    *,
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the episodes that `chosen` lets through; resumable as `convert` is.

    Args:
        format, keys: as of EpisodeDataset.

    Raises DataError as `filtered` does.
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    places = [(0, index) for index in filtered(dataset, chosen)]
    options = chosen.model_dump(exclude_none=True) | key_options(format, keys)
    notes = notes_of([dataset])
    plan = Plan("filter", [dataset], places, dataset.spec, options, notes=notes)
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


def _check_recorded(dataset: EpisodeDataset, chosen: Filter) -> None:
    """Raises DataError if episodes are asked for by what the dataset does not say of them."""
    if chosen.success is not None:
        dataset.require_recorded("success", "a choice of solved or failed episodes")
    if chosen.min_return is not None or chosen.max_return is not None:
        dataset.require_recorded("rewards", "a choice by returns")


def _of_tasks(dataset: EpisodeDataset, patterns: list[str]) -> np.ndarray:
    """Whether an instruction of each episode matches one of `patterns`; a pattern that matches none
    is an error."""
    lowered = [text.lower() for text in dataset.instructions]
    for pattern in patterns:
        if not any(fnmatchcase(text, pattern.lower()) for text in lowered):
            shown = "; ".join(dataset.instructions[:10])
            if len(lowered) > 10:
                shown += "; ..."
            raise DataError(
                f"{dataset.root}: no instruction matches {pattern!r}; there are: {shown}"
            )
    # fnmatchcase on lowered text: fnmatch itself ignores capitals on Windows alone
    patterns = [pattern.lower() for pattern in patterns]
    fits = np.array([any(fnmatchcase(text, p) for p in patterns) for text in lowered])
    fits_N = fits[dataset.task_of_frames]
    return np.asarray(np.logical_or.reduceat(fits_N, dataset.episodes["first_frame"].to_numpy()))

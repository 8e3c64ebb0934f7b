"""Any dataset into the native format, at its own control rate or another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.loading.ranges import joined_ranges
from vla.data.reader import EpisodeDataset
from vla.data.select import Episodes, chosen_episodes
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.limits import fitting_limits
from vla.data.tools.plan import Plan, warnings_of
from vla.data.tools.resampling import Kind, resampled


def convert(
    src: str | Path,
    dst: str | Path,
    *,
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    episodes: Episodes | None = None,
    control_hz: float | None = None,
    kinds: Mapping[str, Kind] | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes a dataset of any format as a native one. The same call after a kill goes on where it
    stopped.

    PNG files are kept byte for byte; other images are stored as PNG, which loses nothing. If
    actions leave the source's own limits, the new spec's limits are widened to hold them, and a
    note says so.

    Args:
        src, dst: where it is, and the folder of the new dataset.
        format, keys: as of EpisodeDataset.
        video: a VideoConfig stores cameras as videos.
        jobs: threads that decode and encode; one per core by default.
        episodes: which, for example "0:100"; all by default.
        control_hz: resample to this rate (see `vla.data.tools.resampling`).
        kinds: action dimension -> what its numbers are, for resampling.
        progress: called with (frames done, frames in all), from several threads.

    Raises:
        DataError: the source is damaged, a chosen episode's numbers are not finite, `dst` holds
            something else, the disk is too small, or `kinds` are given without a rate.
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    chosen = chosen_episodes(episodes, len(dataset), str(src))
    if kinds and control_hz is None:
        raise DataError(
            f"{dst}: kinds.{next(iter(kinds))} is for resampling; give control_hz too, or leave "
            "it out"
        )
    # Of the chosen episodes alone, so that a bad one can be left out. Before the limits are found,
    # which NaN would spoil.
    dataset.check_numbers(chosen)
    spec = dataset.spec
    notes: list[str] = []
    if chosen:
        rows = dataset.episodes.iloc[chosen]
        frames = joined_ranges(rows["first_frame"].to_numpy(), rows["length"].to_numpy())
        spec, notes = fitting_limits(spec, dataset.unchecked_columns.actions[frames])
    keys = keys or KeyMap()
    options: dict[str, Any] = {"keys": keys.model_dump(mode="json", exclude_defaults=True)}
    places = [(0, index) for index in chosen]
    notes = [*warnings_of(dataset), *notes]
    plan = Plan("convert", [dataset], places, spec, options, notes=notes)
    if control_hz is not None:
        plan = resampled(plan, control_hz, kinds or {})
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)

"""Any dataset into the native format, at its own control rate and image size or others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla.common.progress import ProgressCallback
from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.loading.ranges import joined_ranges
from vla.data.reader import EpisodeDataset
from vla.data.select import Episodes
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.limits import fitting_limits
from vla.data.tools.plan import Plan, warnings_of
from vla.data.tools.resampling import Kind, resampled
from vla.types import ImageSize


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
    image_size: ImageSize | tuple[int, int] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes a dataset of any format as a native one. The same call after a kill goes on where it
    stopped.

    PNG files of the size wanted are kept byte for byte; other images are stored as PNG, which loses
    nothing. If actions leave the source's own limits, the new spec's limits are widened to hold
    them, and a note says so.

    Args:
        src, dst: where it is, and the folder of the new dataset.
        format, keys: as of EpisodeDataset.
        video: a VideoConfig stores cameras as videos.
        jobs: threads that decode and encode; one per core by default.
        episodes: which, for example "0:100"; all by default.
        control_hz: resample to this rate (see `vla.data.tools.resampling`).
        image_size: (height, width) of the images of all cameras, which are stretched to it as a
            policy with that `image_size` does. The new spec has this size: robots then have to
            give images of it, too (`vla.types.resized`).
        kinds: action dimension -> what its numbers are, for resampling.
        progress: called with (frames done, frames in all), from several threads.

    Raises:
        DataError: the source is damaged, a chosen episode's numbers are not finite, `dst` holds
            something else, the disk is too small, or `kinds` are given without a rate.
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    notes: list[str] = []
    if image_size is not None:
        dataset, notes = _at_size(dataset, ImageSize(*image_size))
    chosen = dataset.chosen_episodes(episodes, str(src))
    if kinds and control_hz is None:
        raise DataError(
            f"{dst}: kinds.{next(iter(kinds))} is for resampling; give control_hz too, or leave "
            "it out"
        )
    # Of the chosen episodes alone, so that a bad one can be left out. Before the limits are found,
    # which NaN would spoil.
    dataset.check_numbers(chosen)
    spec = dataset.spec
    widened: list[str] = []
    if chosen:
        rows = dataset.episodes.iloc[chosen]
        frames = joined_ranges(rows["first_frame"].to_numpy(), rows["length"].to_numpy())
        spec, widened = fitting_limits(spec, dataset.unchecked_columns.actions[frames])
    keys = keys or KeyMap()
    options: dict[str, Any] = {"keys": keys.model_dump(mode="json", exclude_defaults=True)}
    places = [(0, index) for index in chosen]
    if image_size is not None:
        options["image_size"] = str(ImageSize(*image_size))
    notes = [*warnings_of(dataset), *notes, *widened]
    plan = Plan("convert", [dataset], places, spec, options, notes=notes)
    if keys.binary_actions:

        def change(episode: Episode, source: int, index: int) -> Episode:
            return replace(episode, actions=spec.to_ends(episode.actions))

        plan = replace(plan, change=change)
    if control_hz is not None:
        plan = resampled(plan, control_hz, kinds or {})
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


def _at_size(dataset: EpisodeDataset, size: ImageSize) -> tuple[EpisodeDataset, list[str]]:
    """The dataset with all images of this size, and a note on what that does to which camera.

    Raises DataError if it has no camera.
    """
    cameras = dataset.spec.cameras
    if not cameras:
        raise DataError(
            f"{dataset.root}: has no camera whose images could be of size {size}; leave the image "
            "size out"
        )
    made = dataset.resized(dict.fromkeys(cameras, size))
    notes = []
    for camera, (height, width) in cameras.items():
        if (height, width) == size[:2]:
            continue
        note = f"images of {camera} were resized from {height}x{width} to {size}"
        if height * size.width != width * size.height:
            note += ", which stretches them"
        notes.append(note)
    return made, notes

"""Which episodes of a dataset a run trains on, which it holds out, and their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla.data import EpisodeDataset, Windows
from vla.data.held_out import split_episodes
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.models.policy import Policy
from vla.models.transfer.cameras import cameras_of
from vla.training.config import DataConfig
from vla.training.objective import Objective
from vla.types import ImageSize

_HELD_OUT_SHARE = 0.125
"""Of the memory for streamed frames, what held-out windows may keep."""


def open_windows(
    data: DataConfig,
    dataset: EpisodeDataset,
    policy: Policy,
    objective: Objective,
    *,
    seed: int,
) -> tuple[Windows, Windows | None]:
    """Windows to train on, and held-out windows (None if nothing is held out).

    Args:
        seed: of the run; decides which episodes are held out.
    """
    tasks = dataset.episodes["task_index"].tolist()
    training, held_out = split_episodes(tasks, data.validation_fraction, seed)
    cameras = list(cameras_of(policy))
    dataset = at_size_seen(dataset, sizes_seen([policy]))
    windows = read_windows(data, dataset, policy, objective, cameras=cameras, episodes=training)
    if not held_out:
        return windows, None
    unseen = read_windows(
        data,
        dataset,
        policy,
        objective,
        cameras=cameras,
        episodes=held_out,
        stream_memory_gb=streamed_share(data, held_out=True),
    )
    return windows, unseen


Seen = tuple[str, ImageSize | None]
"""A camera, and the size at which its images are seen; None for that of the dataset."""


def sizes_seen(policies: Sequence[Policy]) -> list[Seen]:
    """What the policies see of the cameras that they look through."""
    found = []
    for policy in policies:
        for camera in cameras_of(policy):
            found.append((camera, policy.image_sizes.get(camera)))
    return found


def at_size_seen(dataset: EpisodeDataset, seen: Sequence[Seen]) -> EpisodeDataset:
    """The dataset with images that have no more pixels than are seen.

    Args:
        seen: cameras of the dataset. One that is seen at several sizes stays as it is.
    """
    sizes: dict[str, ImageSize | None] = {}
    for camera, size in seen:
        agreed = sizes.setdefault(camera, size) == size
        sizes[camera] = size if agreed else None
    smaller = {}
    for camera, size in sizes.items():
        # larger ones would take more memory, and are made as well where they are seen
        if size is not None and size.shrinks(dataset.spec.cameras[camera]):
            smaller[camera] = size
    return dataset.resized(smaller)


def streamed_share(data: DataConfig, *, held_out: bool) -> float:
    """GiB of decoded frames for one dataset's windows if they are streamed."""
    if held_out:
        # what is replayed has no held-out windows
        return data.stream_memory_gb * _HELD_OUT_SHARE / max(1, len(data.multi_robot))
    datasets = max(1 + len(data.replay), len(data.multi_robot))
    return data.stream_memory_gb * (1 - _HELD_OUT_SHARE) / datasets


def read_windows(
    data: DataConfig,
    dataset: EpisodeDataset,
    policy: Policy,
    objective: Objective,
    *,
    cameras: Sequence[str],
    episodes: Sequence[int] | None = None,
    stream_memory_gb: float | None = None,
) -> Windows:
    """Windows as policy and objective need them; of all episodes by default.

    Args:
        dataset: with images of the size at which they are to be held (see `at_size_seen`).
        cameras: of the dataset, those to load.
        stream_memory_gb: for frames of these windows, if they are streamed; by default what the
            config gives, less the part of held-out windows, divided evenly among the datasets.
    """
    options: dict[str, Any] = {
        "history": policy.history,
        "chunk": policy.chunk,
        "next_step": objective.next_step,
        "discount": objective.discount,
        "rewards": data.rewards,
        "episodes": episodes,
        "cameras": cameras,
        "extras": policy.extras,
    }
    if data.cache != "stream":
        return Windows(dataset, cache=data.cache, **options)
    if stream_memory_gb is None:
        stream_memory_gb = streamed_share(data, held_out=False)
    return StreamedWindows(dataset, memory_gb=stream_memory_gb, **options)


__all__ = [
    "Seen",
    "at_size_seen",
    "open_windows",
    "read_windows",
    "sizes_seen",
    "split_episodes",
    "streamed_share",
]

"""Which episodes of a dataset a run trains on, which it holds out, and their windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla.config import ConfigError
from vla.data import EpisodeDataset, Windows
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.models.policy import Policy
from vla.training.config import DataConfig
from vla.training.objective import Objective

_HELD_OUT_SHARE = 0.125
"""Of the memory for streamed frames, what held-out windows may keep."""


def split_episodes(tasks: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train on, and episodes held out: a pure function of its arguments.

    Args:
        tasks: the task of each episode (of its first step, if it changes); held-out episodes are
            spread evenly over the tasks.
        fraction: share that is held out, at least one episode if it is above 0.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if fraction == 0:
        return list(range(len(tasks))), []
    count = max(1, round(fraction * len(tasks)))
    if count >= len(tasks):
        raise ConfigError(
            [
                f"data.validation_fraction: {fraction} holds out {count} of {len(tasks)} episodes "
                "and leaves none to train on; collect more, or set it to 0"
            ]
        )
    # Each task's first episode of a random row, then each one's second, and so on: no task is held
    # out twice before all are once.
    before_of_task: dict[int, int] = {}
    turns: list[tuple[int, int]] = []  # (how many episodes of its task came before it, episode)
    for episode in np.random.default_rng(seed).permutation(len(tasks)).tolist():
        before = before_of_task.get(tasks[episode], 0)
        turns.append((before, episode))
        before_of_task[tasks[episode]] = before + 1
    # by turn alone: the sort is stable, so episodes of one turn stay in their random order
    turns.sort(key=lambda turn: turn[0])
    held_out = {episode for _, episode in turns[:count]}
    training = [episode for episode in range(len(tasks)) if episode not in held_out]
    return training, sorted(held_out)


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
    cameras = list(policy.spec.cameras)
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
    }
    if data.cache != "stream":
        return Windows(dataset, cache=data.cache, **options)
    if stream_memory_gb is None:
        stream_memory_gb = streamed_share(data, held_out=False)
    return StreamedWindows(dataset, memory_gb=stream_memory_gb, **options)


__all__ = ["open_windows", "read_windows", "split_episodes", "streamed_share"]

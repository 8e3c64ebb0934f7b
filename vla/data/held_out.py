"""Which episodes are held out of training to validate on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla.config import ConfigError

HELD_OUT_FRACTION = 0.05
"""Share of the episodes that a training holds out by default."""


def split_episodes(tasks: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train on, and episodes held out: a pure function of its arguments.

    Args:
        tasks: the task of each episode (of its first step, if it changes); held-out episodes are spread evenly over the tasks.
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


__all__ = ["HELD_OUT_FRACTION", "split_episodes"]

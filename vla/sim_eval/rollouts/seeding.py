"""A seed for every episode, so that demonstrations and evaluations never start alike."""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np

Purpose = Literal["collect", "eval"]
_LAST_BIT: dict[str, int] = {"collect": 0, "eval": 1}


def episode_seed(
    purpose: Purpose,
    seed: int,
    task: str,
    episode: int,
    attempt: int = 0,
) -> int:
    """The env seed of one episode, 0 <= seed < 2**31: a pure function of its arguments.

    Seeds for collection are even, seeds for evaluation odd: whatever seeds the two are given, no
    evaluation starts where a demonstration started.

    Args:
        purpose: "collect" or "eval".
        seed: the seed in the config.
        task: the task's name.
        episode: number of the episode in its task.
        attempt: counts the tries of one episode.
    """
    if purpose not in _LAST_BIT:
        raise ValueError(f"purpose: no {purpose!r}; there are: {', '.join(_LAST_BIT)}")
    # crc32 and not hash(): Python salts the hashes of strings in every process
    of_purpose = zlib.crc32(purpose.encode())
    of_task = zlib.crc32(task.encode())
    # Of the task and the number alone: no other task of the suite, nor the number of episodes,
    # changes a start, so all policies meet the same ones.
    keys = (of_purpose, of_task, episode, attempt)
    sequence = np.random.SeedSequence(seed, spawn_key=keys)
    drawn = int(sequence.generate_state(1)[0])  # 32 bits
    # two go: one makes room for the purpose, one keeps the seed below 2**31, which simulators need
    return (drawn >> 2) << 1 | _LAST_BIT[purpose]

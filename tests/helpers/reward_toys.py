"""A point on a line that is asked to go left or right, for the tests of reward models.

A step moves it by half of the action; it is there once it is beyond -1 or 1. The state that shows it
there is never recorded, since the episode ends with the action that led to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vla.data import DatasetWriter, Episode
from vla.types import Spec

SPEC = Spec({}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)
TEXTS = ("go left", "go right")
LIMIT = 12
KINDS = ("expert", "mistaken", "lost")


def walk(rng: np.random.Generator, side: int, kind: str) -> Episode:
    """One episode under `TEXTS[side]`: it goes there, to the other side, or to and fro."""
    goal = 2 * side - 1
    x = rng.uniform(-0.3, 0.3)
    states, actions, success = [], [], []
    reached: dict[str, int] = {}
    while len(states) < LIMIT and not reached:
        push = {"expert": goal, "mistaken": -goal, "lost": -np.sign(x) or 1}[kind]
        action = float(np.clip(push * rng.uniform(0.3, 0.9), -1, 1))
        states.append([x])
        actions.append([action])
        x += action / 2
        success.append(x * goal > 1)
        if abs(x) > 1:
            reached[TEXTS[int(x > 0)]] = len(states) - 1
    solved = any(success)
    info = {} if solved or not reached else {"achieved": json.dumps(reached)}
    return Episode(
        images={},
        state=np.array(states, np.float32),
        actions=np.array(actions, np.float32),
        rewards=np.array(success, np.float32),
        success=np.array(success),
        terminated=bool(reached),
        instruction=TEXTS[side],
        info=info,
    )


def episodes(count: int, *, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> list[Episode]:
    """Episodes of the kinds in turn, for both sides."""
    rng = np.random.default_rng(seed)
    return [walk(rng, (i // len(kinds)) % 2, kinds[i % len(kinds)]) for i in range(count)]


def write(root: Path, count: int = 60, *, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Path:
    """A dataset of them."""
    with DatasetWriter(root, SPEC) as writer:
        writer.add_episodes(episodes(count, seed=seed, kinds=kinds))
    return root

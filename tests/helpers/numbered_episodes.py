"""A small robot, and episodes whose content follows from their number."""

from __future__ import annotations

import numpy as np

from vla.data import Episode
from vla.types import Spec

SPEC = Spec(
    cameras={"front": (6, 8), "wrist": (4, 4)},
    state_names=("x", "y", "gripper"),
    action_names=("dx", "grip"),
    action_low=(-1.0, -2.0),
    action_high=(1.0, 2.0),
    control_hz=10.0,
)
TASKS = ("open the drawer", "push the button")


def make_episode(number: int, steps: int | None = None) -> Episode:
    rng = np.random.default_rng([7, number])
    L = int(rng.integers(1, 9)) if steps is None else steps
    return Episode(
        images={
            c: rng.integers(0, 256, (L, *size, 3), dtype=np.uint8)
            for c, size in SPEC.cameras.items()
        },
        state=rng.normal(size=(L, 3)).astype(np.float32),
        actions=rng.uniform([-1, -2], [1, 2], (L, 2)).astype(np.float32),
        rewards=rng.normal(size=L).astype(np.float32),
        success=np.arange(L) >= L - 1 if number % 2 else np.zeros(L, bool),
        terminated=bool(number % 2),
        instruction=TASKS[number % 2],
        info={"seed": number, "noise": 0.5, "expert": True, "task": "drawer-open"},
    )

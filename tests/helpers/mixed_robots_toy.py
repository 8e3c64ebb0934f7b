"""Three tiny robots that have nothing in common but their instructions, a dataset of each, and a small RT-1 for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla.data import DatasetWriter, Episode
from vla.training import TrainConfig
from vla.types import Spec

TASKS = ("go left", "go right")


def robot_spec(cameras: dict[str, tuple[int, int]], *, state: int, actions: int, hz: float) -> Spec:
    return Spec(
        cameras=cameras,
        state_names=tuple(f"s{i}" for i in range(state)),
        action_names=tuple(f"a{i}" for i in range(actions)),
        action_low=(-2.0,) * actions,
        action_high=(2.0,) * actions,
        control_hz=hz,
    )


SPECS = {
    "arm": robot_spec({"front": (32, 40), "wrist": (32, 32)}, state=8, actions=7, hz=5),
    "gripper": robot_spec({"corner": (48, 48), "unused": (16, 16)}, state=4, actions=4, hz=20),
    "humanoid": robot_spec({"ego": (32, 32)}, state=0, actions=44, hz=10),
}
CAMERAS = {"arm": None, "gripper": {"front": "corner"}, "humanoid": {"front": "ego"}}
EPISODES = {"arm": 8, "gripper": 4, "humanoid": 3}


def write_robot(root: Path, name: str, *, length: int = 10) -> Path:
    """Episodes in which the instruction decides the actions, one value for all dimensions of a robot and task."""
    spec, rng = SPECS[name], np.random.default_rng(len(name))
    with DatasetWriter(root, spec) as writer:
        for episode in range(EPISODES[name]):
            done = np.arange(length) == length - 1
            action = (0.2 if name == "arm" else 0.9) * (1 if episode % 2 else -1)
            writer.add_episode(
                Episode(
                    images={
                        c: rng.integers(0, 256, (length, *hw, 3), dtype=np.uint8)
                        for c, hw in spec.cameras.items()
                    },
                    state=rng.normal(len(name), 1 + len(name), (length, spec.state_dim)).astype(
                        np.float32
                    ),
                    actions=np.full((length, spec.action_dim), action, np.float32),
                    rewards=done.astype(np.float32),
                    success=done,
                    terminated=True,
                    instruction=TASKS[episode % 2],
                )
            )
    return root


POLICY: dict[str, Any] = {
    "type": "rt1",
    "history": 2,
    "chunk": 2,
    "trunk": "test_efficientnet",
    "stride": 32,
    "norm": "group",
    "image_size": [32, 32],
    "width": 16,
    "depth": 1,
    "heads": 2,
    "key_dim": 8,
    "language_dim": 16,
    "tokens_per_image": 2,
    "state_token": True,
    "standardise_language": True,
    "tokenizer": {"type": "bins", "num_bins": 16},
}


def multi_robot_config(
    folder: Path, out: Path, /, *, data: dict[str, Any] | None = None, **changes: Any
) -> TrainConfig:
    """A run on the datasets `folder`/NAME of all robots."""
    robots = {
        name: {"path": str(folder / name), "cameras": cameras} for name, cameras in CAMERAS.items()
    }
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"multi_robot": robots, "validation_fraction": 0.3} | (data or {}),
        "policy": POLICY,
        "optim": {"lr": 3e-3, "warmup_steps": 3},
        "steps": 12,
        "batch_size": 8,
        "log_every": 1,
        "validate_every": 6,
        "save_every": 6,
        "ema_decay": 0.9,
    }
    return TrainConfig.model_validate(values | changes)


def two_processes_config(folder: Path, out: Path) -> TrainConfig:
    """Few windows, so that most parts of a batch lack a robot; nothing random on top of the batches."""
    policy = POLICY | {"dropout": 0.0, "random_shift": [0, 0]}
    return multi_robot_config(
        folder, out, policy=policy, steps=3, batch_size=4, validate_every=3, save_every=None
    )

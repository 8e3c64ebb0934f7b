"""What envs make of a spec: cameras of one size, gymnasium's spaces, and the check of an action."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from vla.types import Spec


def square_camera(
    name: str,
    size: int | None,
) -> dict[str, tuple[int, int]]:
    """The cameras of a spec with one square picture of `size` pixels; none if `size` is None."""
    return {} if size is None else {name: (size, size)}


def observation_space(spec: Spec) -> gymnasium.spaces.Dict:
    """`{"images": {camera: uint8 (H, W, 3)}, "state": float32 (S,)}`."""
    pictures: dict[str, gymnasium.Space[Any]] = {}
    for camera, (height, width) in spec.cameras.items():
        pictures[camera] = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
    # without bounds: gymnasium clips nothing, and what a robot can reach is not known
    state = gymnasium.spaces.Box(-np.inf, np.inf, (spec.state_dim,), np.float32)
    images = gymnasium.spaces.Dict(pictures)
    return gymnasium.spaces.Dict({"images": images, "state": state})


def action_space(spec: Spec) -> gymnasium.spaces.Box:
    """float32 (A,) between the spec's limits."""
    low = np.asarray(spec.action_low, dtype=np.float32)
    high = np.asarray(spec.action_high, dtype=np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


def checked_action(action: Any, spec: Spec) -> np.ndarray:
    """The action as float32 (A,), not yet clipped. Raises ValueError for a wrong shape or NaN."""
    action = np.asarray(action, dtype=np.float32)
    # MuJoCo would only warn about NaN, and every state from then on be NaN
    if action.shape != (spec.action_dim,) or not np.isfinite(action).all():
        raise ValueError(f"action: expected {(spec.action_dim,)} finite numbers, got {action}")
    return action

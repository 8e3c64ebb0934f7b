"""What a policy of LIBERO sees and feels, as published evaluations compute it."""

from __future__ import annotations

import numpy as np

STATE_NAMES = (
    *("hand_x", "hand_y", "hand_z"),
    *("hand_rotation_x", "hand_rotation_y", "hand_rotation_z"),
    *("finger_left", "finger_right"),
)
ACTION_NAMES = (
    *("dx", "dy", "dz"),
    *("rotation_x", "rotation_y", "rotation_z"),
    "gripper",
)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """(x, y, z, w) -> rotation axis times angle in radians, (3,).

    The angle is 2 arccos(w), from 0 to 2 pi, as robosuite has it: q and -q, which are one rotation,
    give two vectors. LIBERO's hand points down, so its angle is near pi, and recorded states hold
    values on both sides of it.
    """
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = float(np.sqrt(1.0 - w * w))
    # no rotation has no axis
    if sine == 0.0:
        return np.zeros(3)
    return np.asarray(quaternion[:3] * 2.0 * np.arccos(w) / sine)


def robot_state(position: np.ndarray, quaternion: np.ndarray, fingers: np.ndarray) -> np.ndarray:
    """float32 (8,): position (3,), axis-angle (3,) of the quaternion (4,), fingers (2,)."""
    return np.concatenate([position, axis_angle(quaternion), fingers]).astype(np.float32)


def as_published(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3), first row on top -> what policies of LIBERO are shown.

    robosuite's pictures have their lowest row first, and published evaluations turn them by 180
    degrees, by which left and right change places: what they show is upright and mirrored.
    """
    return np.ascontiguousarray(picture[:, ::-1])

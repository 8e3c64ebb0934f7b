"""Keyframes: the moments of a demonstration at which something was done to the world.

They are found as in C2F-ARM (James et al. 2022) and PerAct (Shridhar et al. 2022): where a gripper
opens or closes, and at the end of the episode.

N frames of all episodes, A action dimensions, G gripper dimensions.
"""

from __future__ import annotations

import numpy as np

from vla.types import Spec


def gripper_dims(spec: Spec) -> list[int]:
    """The action dimensions of grippers: those with "grip" in their name; may be none."""
    return [dim for dim, name in enumerate(spec.action_names) if "grip" in name.lower()]


def next_keyframes(actions_NA: np.ndarray, lengths: np.ndarray, spec: Spec) -> np.ndarray:
    """For each frame the index of its next keyframe, itself included; int64 (N,).

    Args:
        actions_NA: (N, A) actions of whole episodes, one after the other, robot units.
        lengths: frames of each episode, positive; they sum to N.
        spec: names the grippers; a gripper is open above the middle of its range.
    """
    middle_A = (np.asarray(spec.action_low) + np.asarray(spec.action_high)) / 2
    dims = gripper_dims(spec)
    open_NG = actions_NA[:, dims] > middle_A[dims]
    changes = (open_NG[1:] != open_NG[:-1]).any(1)  # (N - 1,), between a frame and the next
    is_key_N = np.zeros(len(actions_NA), dtype=bool)
    # the last frame before the change: where the hand is when it opens or closes
    is_key_N[:-1] = changes
    # an episode's last frame always is one, so no keyframe is looked up in the next episode
    is_key_N[np.cumsum(lengths) - 1] = True
    keys = np.flatnonzero(is_key_N)
    place_N = np.searchsorted(keys, np.arange(len(actions_NA)))
    return np.asarray(keys[place_N], dtype=np.int64)


__all__ = ["gripper_dims", "next_keyframes"]

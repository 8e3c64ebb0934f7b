"""Keyframes: where a gripper opens or closes, and the end of the episode."""

import numpy as np

from vla.data.loading.keyframes import gripper_dims, next_keyframes
from vla.types import Spec


def robot(*actions: str) -> Spec:
    return Spec({}, ("x",), actions, (0.0,) * len(actions), (1.0,) * len(actions), 10)


def test_grippers_are_found_by_name():
    assert gripper_dims(robot("dx", "left_Gripper", "grip", "dz")) == [1, 2]
    assert gripper_dims(robot("dx", "dy")) == []


def test_a_frame_belongs_to_the_next_change_of_its_own_episode():
    closed = np.array([0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0], dtype=np.float32)
    actions = np.stack([np.linspace(0, 1, 11, dtype=np.float32), closed], 1)
    keys = next_keyframes(actions, np.array([6, 5]), robot("dx", "gripper"))
    assert keys.tolist() == [1, 1, 4, 4, 4, 5, 7, 7, 10, 10, 10]
    assert keys.dtype == np.int64


def test_any_of_two_grippers_makes_a_keyframe():
    actions = np.array([[0, 0], [1, 0], [1, 0], [1, 1], [1, 1]], dtype=np.float32)
    assert next_keyframes(actions, np.array([5]), robot("left_grip", "right_grip")).tolist() == [
        0,
        2,
        2,
        4,
        4,
    ]


def test_without_a_gripper_the_episodes_end_is_the_keyframe():
    actions = np.random.default_rng(0).random((7, 2), dtype=np.float32)
    assert next_keyframes(actions, np.array([3, 1, 3]), robot("dx", "dy")).tolist() == [
        2,
        2,
        2,
        3,
        6,
        6,
        6,
    ]

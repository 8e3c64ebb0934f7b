"""What an env does wrong in an episode is said in words: what came, and what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla.sim_eval.env_contract import EnvError
from vla.sim_eval.rollouts.env_checks import check_images, checked_reset, checked_step
from vla.types import Spec

SPEC = Spec({"top": (4, 6)}, ("x", "y"), ("vx",), (-1.0,), (1.0,), control_hz=10)
GOOD = {"images": {"top": np.zeros((4, 6, 3), np.uint8)}, "state": np.zeros(2, np.float32)}
INFO = {"instruction": "Go", "success": False}


def test_what_is_right_passes() -> None:
    assert checked_reset((GOOD, INFO), SPEC) == (GOOD, INFO)
    assert checked_step((GOOD, np.float64(0.5), False, np.True_, INFO), SPEC) == (
        GOOD,
        0.5,
        False,
        True,
        INFO,
    )
    check_images(GOOD, ["top"], SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros(3, np.float32)}, r"state is float32 \(3,\), expected float32 \(2,\)"),
        ({"state": np.zeros(2, np.int64)}, "state is int64"),
        ({"state": np.array([0, np.nan], np.float32)}, "NaN or infinity in y"),
    ],
)
def test_states(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        checked_reset((GOOD | change, INFO), SPEC)
    with pytest.raises(EnvError, match=message):
        checked_step((GOOD | change, 0.0, False, False, INFO), SPEC)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, r"lack camera 'top' of the spec \(they have: none\)"),
        ({"wrist": GOOD["images"]["top"]}, r"lack camera 'top' of the spec \(they have: wrist\)"),
        (
            {"top": np.zeros((4, 6, 3))},
            r"camera 'top' gives float64 \(4, 6, 3\), expected uint8 \(4, 6, 3\)",
        ),
        (
            {"top": np.zeros((6, 4, 3), np.uint8)},
            r"gives uint8 \(6, 4, 3\), expected uint8 \(4, 6, 3\)",
        ),
    ],
)
def test_pictures(images: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvError, match=message):
        check_images({"images": images, "state": GOOD["state"]}, ["top"], SPEC)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (GOOD, "step: returns dict, expected the five values"),
        ((GOOD, 0.0, False, INFO), "returns 4 values"),
        ((GOOD, float("nan"), False, False, INFO), "reward is nan"),
        ((GOOD, 0.0, False, False, {}), r'info\["success"\] is None, expected True or False'),
        ((np.zeros(2), 0.0, False, False, INFO), "observation is ndarray"),
    ],
)
def test_steps(result: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        checked_step(result, SPEC)


def test_resets() -> None:
    with pytest.raises(EnvError, match="reset: returns dict, expected the two values"):
        checked_reset(GOOD, SPEC)
    with pytest.raises(EnvError, match=r'info\["instruction"\] is None, expected text'):
        checked_reset((GOOD, {"success": False}), SPEC)

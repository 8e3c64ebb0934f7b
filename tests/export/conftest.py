"""The robot of the tests of exported policies."""

from __future__ import annotations

import pytest

from vla.types import Spec


@pytest.fixture(scope="session")
def spec() -> Spec:
    return Spec(
        cameras={"front": (32, 48), "wrist": (32, 48)},
        state_names=("x", "y"),
        action_names=("dx", "dy", "grip"),
        action_low=(-1.0, -2.0, 0.0),
        action_high=(1.0, 2.0, 0.5),
        control_hz=10,
    )

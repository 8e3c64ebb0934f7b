"""What is tried beside a policy's own actions: how much, how long, and within the range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vla.control.exploration import Exploration, Held
from vla.types import Spec

SPEC = Spec({}, ("s",), ("a", "b"), (-1.0, 0.0), (1.0, 4.0), control_hz=10.0)
OWN = np.full((2000, 3, 2), 0.5, np.float32)


def explored(exploration: Exploration, chunks: np.ndarray = OWN) -> np.ndarray:
    torch.manual_seed(0)
    return exploration.applied(chunks, [None] * len(chunks), SPEC)[0]


def test_a_share_of_the_numbers_is_drawn_uniformly_from_its_range() -> None:
    found = explored(Exploration(epsilon=0.2))
    drawn = found != 0.5
    assert drawn.mean() == pytest.approx(0.2, abs=0.02)
    # each number for itself, not whole actions
    assert drawn.all(-1).mean() == pytest.approx(0.04, abs=0.01)
    wide = found[..., 1][drawn[..., 1]]
    assert wide.min() < 0.1 and wide.max() > 3.9 and wide.mean() == pytest.approx(2.0, abs=0.15)  # noqa: PT018


def test_noise_is_in_units_of_half_the_range_and_stays_inside() -> None:
    found = explored(Exploration(noise=0.1), OWN * np.float32([0, 4]))
    assert found[..., 0].std() == pytest.approx(0.1, abs=0.01)
    assert found[..., 1].std() == pytest.approx(0.2, abs=0.02)
    at_edge = explored(Exploration(noise=0.5), OWN * 0 + np.float32([1, 4]))
    assert at_edge.max(axis=(0, 1)).tolist() == [1.0, 4.0]


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
def test_held_actions_last_as_long_as_they_should_and_keep_their_share(epsilon: float) -> None:
    torch.manual_seed(0)
    exploration = Exploration(epsilon=epsilon, persistence=0.8)
    held: list[Held] = [None] * 200
    trace = []
    for _ in range(100):
        chunks, now = exploration.applied(OWN[:200], held, SPEC)
        held = list(now)
        assert (chunks == chunks[:, :1]).all()  # one action all along a chunk
        trace.append(chunks[:, 0])
    actions = np.stack(trace)[20:]  # after the beginning, in which nothing is held yet
    drawn = (actions != 0.5).any(-1)
    assert drawn.mean() == pytest.approx(epsilon, abs=0.03)
    goes_on = (actions[1:] == actions[:-1]).all(-1) & drawn[1:]
    assert goes_on.sum() / drawn[:-1].sum() == pytest.approx(0.8, abs=0.02)

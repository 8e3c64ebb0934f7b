"""How sure a policy is of what it chose, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vla.config import UserError
from vla.control.batched_inference import BatchedPolicy, EpisodeState
from vla.control.uncertainty import MeasuredChoice, entropy, spread
from vla.models.heads.categorical import CategoricalActions, CategoricalConfig
from vla.models.heads.gaussian import GaussianConfig
from vla.models.policies.mlp import MLPConfig
from vla.tokenizers.bins import BinsConfig
from vla.types import Observation, Spec

SPEC = Spec({}, ("x",), ("vx", "vy"), (-1.0, -2.0), (1.0, 2.0), 10.0)
TOKENIZER = BinsConfig(num_bins=4).build(SPEC, 2)


def of(logits: torch.Tensor) -> CategoricalActions:
    return CategoricalActions(logits, TOKENIZER)


def test_entropy_is_a_share_of_the_greatest():
    chunk = torch.zeros(1, 1, 2, 2)
    even = torch.zeros(1, 1, 4, 4)
    assert entropy(of(even), chunk, SPEC).item() == pytest.approx(1.0)
    certain = even.clone()
    certain[..., 2] = 1e4
    assert entropy(of(certain), chunk, SPEC).item() == pytest.approx(0.0, abs=1e-6)
    # one place of four is torn between two ids: log 2 of log 4, and a quarter of that
    torn = certain.clone()
    torn[0, 0, 1] = torch.tensor([0.0, 0.0, -torch.inf, -1e4])
    expected = math.log(2) / math.log(3) / 4  # one id may not stand there
    assert entropy(of(torn), chunk, SPEC).item() == pytest.approx(expected, abs=1e-6)


def test_spread_is_in_half_ranges():
    torch.manual_seed(0)
    policy = MLPConfig(hidden=8, chunk=2, head=GaussianConfig()).build(SPEC).eval()
    states = np.zeros((512, 1), np.float32)
    output, _ = policy.step(Observation.from_numpy({}, states, ["go"] * 512), None)
    chunk = output.actions.mode()
    found = spread(output.actions, chunk, SPEC)
    assert found.shape == (512,)
    deviation = output.actions.log_std.exp().mean().item()
    # eight draws underestimate a deviation by 1 / sqrt(8) and a little more
    assert 0.7 * deviation < found.mean().item() < deviation
    with pytest.raises(UserError, match=r"has no tokens: set gate\.measure to spread"):
        entropy(output.actions, chunk, SPEC)


def test_looking_changes_no_choice():
    torch.manual_seed(0)
    config = MLPConfig(
        hidden=8, chunk=2, tokenizer=BinsConfig(num_bins=16), head=CategoricalConfig()
    )
    policy = config.build(SPEC).eval()
    batched = BatchedPolicy(policy)
    found = {}
    for measure in (None, "entropy", "spread"):
        states = [
            EpisodeState(robot_state=np.full(1, x, np.float32), measure=measure)
            for x in (-3.0, 3.0)
        ]
        (first, second) = batched.act(states, {}, seed=1)
        found[measure] = np.stack([first, second])
        values = [state.uncertainty for state in states]
        if measure is None:
            assert values == [None, None]
        else:
            assert all(0 < value <= 1 for value in values)
            assert values[0] != values[1]
    np.testing.assert_array_equal(found[None], found["entropy"])
    np.testing.assert_array_equal(found[None], found["spread"])


def test_an_actor_without_a_distribution_is_refused():
    class Plain:
        spec, history = SPEC, 1

        def act(self, observation, memory=None):
            return torch.zeros(observation.batch_size, 2, 2), None

    state = EpisodeState(robot_state=np.zeros(1, np.float32), measure="spread")
    with pytest.raises(UserError, match="gives actions and no distribution"):
        BatchedPolicy(Plain()).act([state], {})

    class Deaf(Plain):
        def act(self, observation, memory=None, choose=None):
            return super().act(observation)

    with pytest.raises(UserError, match="does not choose its actions by its distribution"):
        BatchedPolicy(Deaf()).act([state], {})


def test_a_choice_is_measured_once_it_is_made():
    choice = MeasuredChoice(lambda actions: actions.mode(), "entropy", SPEC)
    assert choice.found is None
    chunk = choice(of(torch.zeros(3, 1, 4, 4)))
    assert chunk.shape == (3, 1, 2, 2)
    assert choice.found.tolist() == pytest.approx([1.0] * 3)

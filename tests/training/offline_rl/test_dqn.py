"""Double estimates, dueling heads, values as distributions and priorities of action tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_chain import GOAL, SPEC, START, chain, learn, toy, values_of

from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.models.heads.q_values import QValuesHead
from vla.models.layers.dueling import DuelingOutput
from vla.models.layers.value_bins import ValueBins
from vla.training.objectives.online.dqn import DQNConfig
from vla.training.offline_rl.priorities import (
    IMPORTANCE,
    PriorityConfig,
    importance_of,
    shares_of,
)


@pytest.mark.parametrize(
    ("head", "rate", "steps"),
    [
        ({}, 0.2, 350),
        ({"dueling": True}, 0.2, 350),
        ({"dueling": True, "bins": 51}, 0.1, 700),  # histograms learn slower than numbers
    ],
)
def test_values_of_the_chain_are_found(head: dict[str, Any], rate: float, steps: int) -> None:
    policy = toy(SPEC, "q_values", 3, **head)
    config = DQNConfig(discount=0.9, target_rate=rate, priorities=None)
    learn(policy, config.build(policy), chain(), steps=steps)
    start = values_of(policy, START, [[2, 1]]).flatten(0, -2)
    assert start[0].max().item() == pytest.approx(0.9, abs=0.06)
    # staying at the start is worth 0.9 * 0.9
    assert start[1, :2].tolist() == pytest.approx([0.81, 0.9], abs=0.07)
    goal = values_of(policy, GOAL, [[0, 2]]).flatten(0, -2)
    assert goal[0].max().item() == pytest.approx(1.0, abs=0.06)


def test_double_estimates_choose_by_one_and_value_by_the_other() -> None:
    policy = toy(SPEC, "q_values", 3)
    batch = chain()
    targets = {}
    for double in (False, True):
        objective = DQNConfig(discount=0.9, double=double, priorities=None).build(policy)
        objective.target.start(policy.head)
        torch.manual_seed(1)
        with torch.no_grad():  # a copy that disagrees with the head that learns
            for parameter in objective.target.network.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        with torch.no_grad():
            later = batch.steps(1, None)
            own = policy(later).actions
            copy: Any = objective.target(own.hidden)
            metrics = objective.compute_losses(policy, batch)
            best = copy.first().gather(-1, own.first().argmax(-1, keepdim=True)).squeeze(-1)
            greatest = copy.first().amax(-1)
        assert (best < greatest).any()
        targets[double] = metrics.loss
    assert not torch.equal(targets[False], targets[True])


def test_a_dueling_layer_is_the_value_and_centred_advantages() -> None:
    torch.manual_seed(0)
    layer = DuelingOutput(4, 3, 2)
    layer.start_at(torch.tensor([1.0, -1.0]))
    x = torch.randn(5, 4)
    numbers = layer(x).unflatten(-1, (3, 2))
    torch.testing.assert_close(numbers.mean(-2), layer.value(x))
    assert layer.value.bias.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("head", [{}, {"dueling": True}, {"bins": 51}])
def test_values_begin_where_they_are_told(head: dict[str, Any]) -> None:
    policy = toy(SPEC, "q_values", 3, initial_value=0.3, **head)
    assert isinstance(policy.head, QValuesHead)
    values = values_of(policy, START, [[0, 0]])
    assert values.mean().item() == pytest.approx(0.3, abs=0.05)
    assert values.std().item() < 0.1


# --- values as distributions ----------------------------------------------------------------------


def test_a_histogram_has_the_mean_of_its_value_and_its_cross_entropy_is_least_there() -> None:
    bins = ValueBins(20, -1.0, 3.0)
    values = torch.tensor([-0.5, 0.0, 0.73, 2.2])
    shares = bins.histogram(values)
    assert shares.sum(-1).tolist() == pytest.approx([1.0] * 4)
    torch.testing.assert_close(
        bins.expectation(shares.clamp(min=1e-30).log()), values, atol=0.01, rtol=0
    )
    logits = torch.zeros(20, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        bins.cross_entropy(logits, torch.tensor(0.73)).backward()
        optimizer.step()
    assert bins.expectation(logits.detach()).item() == pytest.approx(0.73, abs=0.02)


def test_a_value_beyond_the_range_is_learned_as_its_edge() -> None:
    bins = ValueBins(10, 0.0, 1.0)
    torch.testing.assert_close(bins.histogram(torch.tensor(7.0)), bins.histogram(torch.tensor(1.0)))


# --- priorities -----------------------------------------------------------------------------------


def test_shares_and_importance_by_hand() -> None:
    shares = shares_of(np.array([0.0, 0.249, 0.999]), 0.5)
    assert shares.tolist() == pytest.approx([math.sqrt(0.001), 0.5, 1.0])
    # fully made up for, what is drawn half as often counts twice as much
    weights = importance_of(np.array([1.0, 2.0, 4.0]), 1.0)
    assert weights.tolist() == pytest.approx([1.0, 0.5, 0.25])
    assert importance_of(np.array([1.0, 2.0, 4.0]), 0.0).tolist() == [1.0, 1.0, 1.0]
    config = PriorityConfig(correction=0.4, correction_rounds=10)
    assert [config.correction_in(n) for n in (1, 6, 11, 30)] == pytest.approx([0.4, 0.7, 1.0, 1.0])


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Four episodes of five steps; the second and fourth are solved at their end."""
    root = tmp_path_factory.mktemp("steps") / "data"
    rng = np.random.default_rng(0)
    with DatasetWriter(root, SPEC) as writer:
        for episode in range(4):
            success = (np.arange(5) == 4) & (episode % 2 == 1)
            writer.add_episode(
                Episode(
                    images={},
                    state=rng.normal(size=(5, 2)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (5, 2)).astype(np.float32),
                    instruction="go",
                    rewards=success.astype(np.float32),
                    success=success,
                    terminated=episode % 2 == 1,
                )
            )
    return Windows(EpisodeDataset(root), history=1, chunk=1, next_step=1, discount=0.9)


def test_windows_that_surprise_are_drawn_more_often_and_count_less(windows: Windows) -> None:
    policy = toy(SPEC, "q_values", 3).eval()
    objective = DQNConfig(discount=0.9).build(policy)
    assert objective.window_weights(windows) is None  # before any round
    columns = objective.begin_round(policy, windows)
    weights = objective.window_weights(windows)
    assert weights is not None
    rewarded = np.flatnonzero(windows.rewards)
    # nothing else differs much from 0 before anything was learned
    assert set(np.argsort(weights)[-2:]) == set(rewarded)
    assert set(np.argsort(columns[IMPORTANCE])[:2]) == set(rewarded)
    assert columns[IMPORTANCE].max() == 1.0
    # other data, such as recordings beside, have none
    other = Windows(windows.dataset, history=1, chunk=1, next_step=1, discount=0.9)
    assert objective.window_weights(other) is None


def test_the_loss_is_weighted_by_importance(windows: Windows) -> None:
    policy = toy(SPEC, "q_values", 3).eval()
    objective = DQNConfig(discount=0.9).build(policy)
    rows = np.arange(20)
    windows.columns = {}
    plain = objective.loss(policy, windows.batch(rows))[0]
    windows.columns = {IMPORTANCE: np.full(20, 0.25, np.float32)}
    weighted = objective.loss(policy, windows.batch(rows))[0]
    windows.columns = {}
    torch.testing.assert_close(weighted, plain / 4)


def test_the_policy_acts_by_its_best_tokens() -> None:
    assert DQNConfig().acting_temperature == 0.0


def test_a_checkpoint_of_a_training_without_priorities_has_no_round(tmp_path: Path) -> None:
    policy = toy(SPEC, "q_values", 3)
    plain = DQNConfig(priorities=None).build(policy)
    assert "rounds" not in plain.state_dict()
    assert "rounds" in DQNConfig().build(policy).state_dict()

"""Rewards and losses against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import reward_toys as toys
import torch

from vla.models.policies.mlp import MLPConfig
from vla.models.rewards.base import RewardError
from vla.models.rewards.classifier import ClassifierConfig, ClassifierExamples
from vla.models.rewards.discriminator import DiscriminatorConfig
from vla.models.rewards.examples import as_examples
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.maxent import Graph, solve
from vla.models.rewards.preference import PreferenceConfig, PreferenceExamples
from vla.models.rewards.progress import (
    ProgressConfig,
    hl_gauss,
    progress_targets,
    steps_to_success,
)
from vla.models.rewards.trunk import TARGET


def steps(count: int = 12, **options: object) -> LabelledSteps:
    found = toys.episodes(count, **options)  # type: ignore[arg-type]
    return LabelledSteps.of_episodes(found, history=1, cameras=())


def policy() -> object:
    return MLPConfig(hidden=8).build(toys.SPEC)


# --- windows of episodes in memory ----------------------------------------------------------------


def test_windows_of_episodes_begin_with_them() -> None:
    found = LabelledSteps.of_episodes(toys.episodes(6), history=3, chunk=2, cameras=())
    first = int(found.starts[1])
    batch = found.gather(np.array([first, first + 1]))
    assert batch.mask.tolist() == [[False, False, True], [False, True, True]]
    np.testing.assert_array_equal(batch.state[0, :, 0], found.states[[first] * 3, 0])
    np.testing.assert_array_equal(batch.timesteps[1], [0, 0, 1])
    last = int(found.starts[1] - 1)
    assert found.gather(np.array([last])).action_mask[0, -1].tolist() == [True, False]


# --- classifier -----------------------------------------------------------------------------------


def test_half_of_the_examples_are_positive_and_negatives_come_by_their_shares() -> None:
    found = steps(60)
    examples = ClassifierExamples(found, ClassifierConfig())
    batch = examples.batch(np.random.default_rng(0), 200)
    target = batch.extras[TARGET][:, -1].numpy() > 0.5
    assert target.sum() == 100
    there = batch.state[:, -1, 0] + batch.actions[:, -1, 0, 0] / 2
    side = np.where(there.numpy() < 0, *toys.TEXTS)
    arrived = there.abs().numpy() > 1
    asked = np.array(batch.instruction)
    # positives have arrived where they were asked to, or where hindsight says they were
    assert (arrived & (side == asked))[target].all()
    assert not (arrived & (side == asked))[~target].any()
    # 30 % under a wrong instruction and 30 % that went to the wrong side look the same here
    assert (arrived & (side != asked))[~target].sum() == 60
    assert np.unique(asked[target], return_counts=True)[1].min() > 30


def test_without_success_or_failure_nothing_can_be_learned() -> None:
    with pytest.raises(RewardError, match="no step is solved"):
        ClassifierExamples(steps(kinds=("lost",)), ClassifierConfig())
    unknown = dataclasses.replace(steps(), recorded=frozenset())
    with pytest.raises(RewardError, match="success is not recorded"):
        ClassifierExamples(unknown, ClassifierConfig())


def test_batches_are_a_function_of_the_generator() -> None:
    examples = ClassifierExamples(steps(60), ClassifierConfig())
    a, b = (examples.batch(np.random.default_rng([3, 7]), 32) for _ in range(2))
    assert a.instruction == b.instruction
    torch.testing.assert_close(a.state, b.state)


# --- progress -------------------------------------------------------------------------------------


def test_progress_is_one_at_success_and_zero_in_failures() -> None:
    found = steps(6)
    to_success = steps_to_success(found)
    target = progress_targets(found, 4.0)
    for episode, start in enumerate(found.starts):
        rows = slice(start, start + found.lengths[episode])
        if found.episode_solved[episode]:
            assert to_success[rows].tolist() == list(range(found.lengths[episode]))[::-1]
            assert target[rows][-1] == 1
            assert target[rows][-2] == 0.75
        else:
            assert np.isinf(to_success[rows]).all()
            assert not target[rows].any()


def test_hl_gauss_targets_are_distributions_with_the_right_mean() -> None:
    values = torch.tensor([0.0, 0.305, 0.5, 1.0])
    found = hl_gauss(values, 101, 0.75)
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    means = found @ torch.linspace(0, 1, 101)
    torch.testing.assert_close(means[1:3], values[1:3], atol=1e-4, rtol=0)
    # by hand: the bin in the middle of a normal distribution is erf(0.5 / (0.75 sqrt 2)) wide
    assert float(found[2, 50]) == pytest.approx(math.erf(0.5 / (0.75 * math.sqrt(2))), abs=1e-5)


def test_rewards_of_progress_sum_to_what_was_made() -> None:
    model = ProgressConfig(hidden=8, bins=11).build(toys.SPEC, policy())
    scores = np.array([0.25, 0.5, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(model.episode_rewards(scores), [0, 0.25, 0, 0.5])
    plain = ProgressConfig(hidden=8, bins=11, reward="progress").build(toys.SPEC, policy())
    np.testing.assert_array_equal(plain.episode_rewards(scores), scores)


# --- preferences ----------------------------------------------------------------------------------


def test_pairs_are_labelled_by_their_recorded_rewards() -> None:
    found = steps(40)
    examples = PreferenceExamples(found, PreferenceConfig(pairs=100, segment=4))
    assert len(examples.pairs) == 100
    for a, b, label in examples.pairs:
        sums = [found.rewards[start:stop].sum() for start, stop in (a, b)]
        assert label == (0.5 if sums[0] == sums[1] else float(sums[0] > sums[1]))


def test_the_loss_is_that_of_bradley_and_terry() -> None:
    found = steps(40)
    config = PreferenceConfig(hidden=8, pairs=100, segment=6)
    model = config.build(toys.SPEC, policy()).eval()
    examples = PreferenceExamples(found, config)
    number = next(i for i, pair in enumerate(examples.pairs) if pair[2] == 1.0)
    batch = examples.batch_of([number])
    with torch.no_grad():
        loss, _ = model.loss(batch)
        a, b, _ = examples.pairs[number]
        sums = []
        for start, stop in (a, b):
            rows = found.gather(np.arange(start, stop))
            sums.append(float(model.outputs(rows)[:, -1, 0].sum()))
    # shorter segments count their own steps alone
    assert float(loss) == pytest.approx(math.log1p(math.exp(sums[1] - sums[0])), rel=1e-5)


def test_ties_alone_prefer_nothing() -> None:
    with pytest.raises(RewardError, match="are ties, which prefer nothing"):
        PreferenceExamples(steps(kinds=("lost",)), PreferenceConfig(pairs=10))


def test_scores_are_scaled_when_learning_ends() -> None:
    found = steps(20)
    model = PreferenceConfig(hidden=8).build(toys.SPEC, policy()).eval()
    with torch.no_grad():
        batch = found.gather(np.arange(len(found)))
        for _ in range(2):  # again: what is scaled already stays so
            model.finish(model.score(batch)[:, -1].numpy())
            scaled = model.score(batch)[:, -1]
            assert float(scaled.mean()) == pytest.approx(0, abs=1e-4)
            assert float(scaled.std(unbiased=False)) == pytest.approx(1, abs=1e-3)


# --- discriminator --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "formula"),
    [
        ("log_d", lambda x: -math.log1p(math.exp(-x))),
        ("minus_log_1_minus_d", lambda x: math.log1p(math.exp(x))),
        ("logit", lambda x: x),
    ],
)
def test_rewards_of_the_discriminator(reward: str, formula: object) -> None:
    model = DiscriminatorConfig(hidden=8, reward=reward).build(toys.SPEC, policy()).eval()
    batch = steps().gather(np.arange(5))
    with torch.no_grad():
        logits = model.outputs(batch)[:, -1, 0].tolist()
        found = model.score(batch)[:, -1].tolist()
    assert found == pytest.approx([formula(x) for x in logits], abs=1e-5)  # type: ignore[operator]


def test_the_penalty_is_of_the_gradient_between_both_sides() -> None:
    model = DiscriminatorConfig(hidden=8, instance_noise=0.0).build(toys.SPEC, policy())
    # a linear head has the same gradient everywhere, of length 5
    model.head = torch.nn.Linear(2, 1)
    model.head.weight.data = torch.tensor([[3.0, 4.0]])
    batch = as_examples(steps(), np.arange(4), np.array([1, 1, 0, 0]))
    loss, metrics = model.loss(batch)
    assert float(metrics["penalty"]) == pytest.approx(16, rel=1e-5)
    loss.backward()
    assert model.head.weight.grad.abs().sum() > 0


# --- maxent ---------------------------------------------------------------------------------------


def paths_of(graph: Graph, start: int) -> list[list[int]]:
    """All ways from `start` to the end in exactly the horizon."""
    end = len(graph.first) - 1
    follows = {s: graph.target[graph.source == s].tolist() for s in range(end + 1)}
    found = [[start]]
    for _ in range(graph.horizon):
        found = [[*path, after] for path in found for after in follows[path[-1]]]
    return [path for path in found if path[-1] == end]


def test_visits_are_those_of_all_paths_together() -> None:
    expert = [np.array([0, 1, 3]), np.array([0, 2, 3]), np.array([0, 1, 2, 3])]
    graph = Graph.of_paths(expert, [np.array([1, 0, 2])], 4)
    psi = np.array([0.3, -0.2, 0.5, 0.1])
    reward = np.append(psi, 0.0)
    weights = {}
    for path in paths_of(graph, 0):
        weights[tuple(path)] = math.exp(reward[path].sum())
    total = sum(weights.values())
    expected = np.zeros(4)
    for path, weight in weights.items():
        for place in path:
            if place < 4:
                expected[place] += weight / total
    values = graph.soft_values(psi)
    assert values[0, 0] == pytest.approx(math.log(total))
    np.testing.assert_allclose(graph.visits(values), expected, atol=1e-10)


def test_the_solution_visits_as_the_demonstrations_do() -> None:
    rng = np.random.default_rng(0)
    expert = [np.array([0, 1, 2, 3])] * 3 + [np.array([0, 2, 3])]
    others = [rng.integers(0, 5, size=6) for _ in range(10)]
    graph = Graph.of_paths(expert, others, 5)
    psi, likelihood = solve(graph, expert, l2=1e-6, most=500)
    counts = np.bincount(np.concatenate(expert), minlength=5) / 4
    np.testing.assert_allclose(graph.visits(graph.soft_values(psi)), counts, atol=1e-3)
    # no other reward makes them likelier
    for place, sign in itertools.product(range(5), (-0.1, 0.1)):
        moved = psi.copy()
        moved[place] += sign
        value = counts @ moved - graph.soft_values(moved)[0, 0]
        assert value <= likelihood + 1e-5

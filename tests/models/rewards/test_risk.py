"""The risk network: its labels by hand, its prior, and what a running episode gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reward_toys as toys
import torch

from vla.data import Episode
from vla.models import Policy
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.mlp import MLPConfig
from vla.models.rewards.base import RewardError
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.risk import RiskConfig, RiskModel, horizon_steps, risk_labels
from vla.models.rewards.running_episode import RunningEpisode, batch_of
from vla.models.rewards.scoring import labelled_episodes, score_steps


def episode(length: int, *, terminated: bool, solved: bool = False, **extras: list) -> Episode:
    rng = np.random.default_rng(length)
    success = np.zeros(length, bool)
    success[-1] = solved
    return Episode(
        images={},
        state=rng.normal(size=(length, 1)).astype(np.float32),
        actions=rng.uniform(-1, 1, (length, 1)).astype(np.float32),
        rewards=np.ones(length, np.float32),
        success=success,
        terminated=terminated,
        instruction=toys.TEXTS[0],
        extras={name: np.array(values) for name, values in extras.items()},
    )


def steps_of(*episodes: Episode) -> LabelledSteps:
    return LabelledSteps.of_episodes(episodes, history=1, cameras=())


def model(policy: Policy | None = None, **changes) -> RiskModel:
    torch.manual_seed(0)
    policy = policy or MLPConfig(hidden=8, language=None).build(toys.SPEC)
    config = RiskConfig(**{"hidden": 16, "horizon": 0.3, **changes})
    return config.build(toys.SPEC, policy.eval()).eval()


def test_ends_that_are_not_solved_are_failures() -> None:
    steps = steps_of(
        episode(5, terminated=True),
        episode(4, terminated=True, solved=True),
        episode(5, terminated=False),
    )
    labels = risk_labels(steps, horizon=2, column=None)
    assert labels.failed.tolist() == [False] * 4 + [True] + [False] * 9
    # the failing action and the one before it
    assert labels.ahead.tolist() == [False] * 3 + [True] * 2 + [False] * 9
    # behind a solved end nothing follows; behind a time limit nobody knows
    assert labels.known.tolist() == [True] * 13 + [False]
    assert "ended unsolved" in labels.source


def test_a_column_of_costs_goes_before_and_may_be_named() -> None:
    steps = steps_of(
        episode(6, terminated=False, cost=[0, 0, 0.5, 0, 0, 0], fell=[False] * 5 + [True])
    )
    labels = risk_labels(steps, horizon=2, column=None)
    assert labels.ahead.tolist() == [False, True, True, False, False, False]
    assert labels.known.tolist() == [True] * 5 + [False]
    named = risk_labels(steps, horizon=2, column="fell")
    assert named.ahead.tolist() == [False] * 4 + [True] * 2
    # what is cut off after a failure is known: it has failed
    assert named.known.all()
    with pytest.raises(RewardError, match="no extra column 'hit'; it has: cost, fell"):
        risk_labels(steps, horizon=2, column="hit")


def test_the_horizon_is_in_seconds() -> None:
    assert horizon_steps(RiskConfig(horizon=0.5), toys.SPEC) == 5
    assert horizon_steps(RiskConfig(horizon=0.01), toys.SPEC) == 1


def test_data_without_failures_are_refused() -> None:
    made = model()
    with pytest.raises(RewardError, match=r"never follows within 0\.3 s.*model\.column"):
        made.fit(steps_of(episode(5, terminated=True, solved=True)), None)
    with pytest.raises(RewardError, match="always follows"):
        made.fit(steps_of(episode(2, terminated=True)), None)


def test_a_trunk_that_is_told_the_outcome_is_refused() -> None:
    policy = DecisionTransformerConfig(width=8, depth=1, heads=1, return_scale=1.0).build(toys.SPEC)
    with pytest.raises(RewardError, match=r"policy\.condition=none"):
        model(policy)


def test_the_probabilities_are_those_of_the_data_and_not_of_the_draws() -> None:
    """With inputs that say nothing, the least loss is where the risk is the rate of the data."""
    made = model(positive_share=0.5)
    steps = steps_of(*[episode(20, terminated=True) for _ in range(5)])
    rate = made.fit(steps, None)["positive_rate"]
    assert rate == pytest.approx(3 / 20)
    batch = made.examples(steps, None).batch(np.random.default_rng(0), 64)
    bias = made.head[-1].bias
    with torch.no_grad():
        made.head[-1].weight.zero_()
    losses = {}
    for probability in (0.05, 0.15, 0.5):
        with torch.no_grad():
            bias.fill_(float(np.log(probability / (1 - probability))))
        losses[probability] = float(made.loss(batch)[0].detach())
    assert min(losses, key=losses.get) == 0.15


def test_the_penalty_is_added() -> None:
    made = model(penalty=2.0)
    scores = score_steps(made, steps_of(episode(5, terminated=True)))
    np.testing.assert_allclose(scores.rewards, -2 * scores.scores)


@pytest.mark.parametrize("history", [1, 3])
def test_a_running_episode_has_the_risks_of_its_file(history: int) -> None:
    policy = None
    if history > 1:
        torch.manual_seed(0)
        policy = DecisionTransformerConfig(
            width=8, depth=1, heads=1, condition="none", history=history, dropout=0.0
        ).build(toys.SPEC)
    made = model(policy)
    recorded = episode(7, terminated=True)
    on_file = score_steps(made, labelled_episodes(made, [recorded])).scores
    running = RunningEpisode(made)
    found, others = [], []
    for state, action in zip(recorded.state, recorded.actions, strict=True):
        running.see({}, state, toys.TEXTS[0])
        batch = batch_of(made, [running])
        candidates = torch.from_numpy(np.stack([action, -action]))[None]
        risk = made.of_candidates(batch, candidates)
        found.append(float(risk[0, 0]))
        others.append(float(risk[0, 1]))
        running.did(action)
    np.testing.assert_allclose(found, on_file, atol=1e-6)
    assert np.abs(np.array(found) - others).max() > 1e-4


def test_robots_of_different_age_share_a_batch() -> None:
    torch.manual_seed(0)
    policy = DecisionTransformerConfig(
        width=8, depth=1, heads=1, condition="none", history=3, dropout=0.0
    ).build(toys.SPEC)
    made = model(policy)
    old, young = RunningEpisode(made), RunningEpisode(made)
    for value in (0.1, 0.2):
        old.see({}, np.array([value]), "go left")
        old.did(np.array([value]))
    for one in (old, young):
        one.see({}, np.array([0.5]), "go left")
    actions = torch.full((2, 1, 1), 0.3)
    together = made.of_candidates(batch_of(made, [old, young]), actions)
    alone = [made.of_candidates(batch_of(made, [one]), actions[:1]) for one in (old, young)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-6)
    # another instruction begins another window
    old.see({}, np.array([0.5]), "go right")
    assert len(old.steps) == 1


def test_cut_columns_follow_chosen_episodes() -> None:
    steps = steps_of(
        episode(3, terminated=True, cost=[0, 0, 1]), episode(2, terminated=False, cost=[0, 0])
    )
    chosen = steps.chosen(np.array([1]))
    assert chosen.extras["cost"].tolist() == [0, 0]
    assert not chosen.terminated.any()
    mixed = steps_of(episode(3, terminated=True, cost=[0, 0, 1]), episode(2, terminated=False))
    assert mixed.extras == {}
    assert replace(steps, extras={}).extras == {}

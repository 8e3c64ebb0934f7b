"""SAC, RLPD, TD3, DDPG and MPO on problems whose solutions are known, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tabular import CRITIC, DISCOUNT, Step, batch_of, learn, q_table, robot, transition, two_ways
from torch import Tensor

from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.training.objective import Objective, ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.online.ddpg import DDPGConfig
from vla.training.objectives.online.mpo import MPOConfig
from vla.training.objectives.online.rlpd import RLPDConfig
from vla.training.objectives.online.sac import SACConfig
from vla.training.objectives.online.td3 import TD3Config
from vla.training.offline_rl.extractions.mpo import dual_temperature
from vla.training.offline_rl.values.base import Lookahead
from vla.training.offline_rl.values.td import TD, TDConfig
from vla.types import Batch, Spec

LEFT, RIGHT = -0.5, 0.5
SAC_PARTS = {
    "type": "ddpg_bc",
    "bc": 0.0,
    "normalise": False,
    "temperature": 0.5,
    "exact_entropy": True,
}
GAUSSIAN = {"type": "gaussian", "squash": "full", "deviation": "state"}


# --- soft values ----------------------------------------------------------------------------------


def test_a_soft_value_counts_the_entropy_of_what_comes() -> None:
    # at state 1 both actions bring nothing: an even policy is worth 0.5 * log 2 there
    steps = [Step(0, action, later=(1, other)) for action in (LEFT, RIGHT) for other in (-0.5, 0.5)]
    batch = batch_of([*steps, Step(1, LEFT), Step(1, RIGHT)], 2)
    objective = learn(two_ways(2), {"type": "td", "soft": True}, SAC_PARTS, batch, steps=250)
    worth = DISCOUNT * 0.5 * math.log(2)
    expected = torch.tensor([[worth, worth], [0.0, 0.0]])
    torch.testing.assert_close(q_table(objective, 2, (LEFT, RIGHT)), expected, atol=0.03, rtol=0)


def test_the_policy_becomes_a_softmax_of_q_at_the_temperature() -> None:
    batch = batch_of([Step(0, LEFT), Step(0, RIGHT, reward=1.0)], 1)
    policy = two_ways(1)
    learn(policy, {"type": "td", "soft": True}, SAC_PARTS, batch, steps=400)
    share = _share_of_right(policy, batch)
    assert share == pytest.approx(1 / (1 + math.exp(-1 / 0.5)), abs=0.06)


def test_soft_values_are_the_same_whatever_the_units_of_the_actions() -> None:
    found = []
    for half in (1.0, 20.0):
        spec = Spec({}, ("s0",), ("a",), (-half,), (half,), control_hz=10.0)
        torch.manual_seed(0)
        policy = MLPConfig(hidden=16, depth=1, head=GAUSSIAN).build(spec)
        value = TDConfig(soft=True, samples=3, critic=CRITIC).build(policy.feature_dim, spec, 1)
        now = transition(policy, spec.fake_batch(4, 2))
        ahead = torch.zeros(4, 1)
        torch.manual_seed(1)
        found.append(value.soft_value(Lookahead(now, ahead, ahead, ahead > 0, temperature=0.3)))
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().max() > 0


def test_a_learned_temperature_finds_the_entropy_that_is_asked_for() -> None:
    spec = robot(1)
    torch.manual_seed(0)
    policy = MLPConfig(hidden=16, depth=1, head=GAUSSIAN).build(spec)
    objective = SACConfig(critic=CRITIC, target_entropy=-0.3).build(policy)
    steps = [Step(0, place, reward=1 - place**2) for place in torch.linspace(-1, 1, 21).tolist()]
    batch = batch_of(steps, 1)
    train(policy, objective, batch, steps=300)
    metrics = train(policy, objective, batch, steps=300)
    # entropy -0.3 is a deviation of 0.179, and the best one for this reward is sqrt(t / 2)
    assert metrics["entropy"] == pytest.approx(-0.3, abs=0.1)
    assert metrics["temperature"] == pytest.approx(2 * 0.179**2, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalise": True}, "normalise: false"),
        ({"temperature": 0.0}, "temperature: auto"),
        ({"type": "weighted_bc"}, "type: ddpg_bc"),
    ],
)
def test_soft_values_need_a_temperature_in_units_of_reward(
    changes: dict[str, Any], words: str
) -> None:
    parts = changes if "type" in changes else SAC_PARTS | changes
    config = {"value": {"type": "td", "soft": True}, "extraction": parts}
    with pytest.raises(ObjectiveError, match=words):
        ActorCriticConfig.model_validate(config).build(two_ways(1))


def test_soft_values_refuse_a_head_without_likelihood_and_parts_of_chunks() -> None:
    policy = MLPConfig(hidden=8, depth=1, head={"type": "squashed"}).build(robot(1))
    objective = SACConfig(critic=CRITIC).build(policy)
    with pytest.raises(ObjectiveError, match="squash: full"):
        objective.loss(policy, batch_of([Step(0, LEFT, later=(0, LEFT))], 1))
    long = MLPConfig(hidden=8, depth=1, chunk=4, head=GAUSSIAN).build(robot(1))
    with pytest.raises(ObjectiveError, match=r"leave critic\.executed out"):
        SACConfig(critic={"executed": 2}).build(long)
    with pytest.raises(ValidationError, match="next_actions: policy"):
        TDConfig(soft=True, next_actions="mode")


# --- ensembles ------------------------------------------------------------------------------------


def test_a_subset_of_the_critics_gives_the_least() -> None:
    config = TDConfig(critic={"ensemble": 5, "hidden": 8, "output_scale": 1}, subset=2)
    torch.manual_seed(0)
    value = config.build(3, robot(3), 1)
    assert isinstance(value, TD)
    features, actions = torch.randn(1, 1, 3), torch.zeros(1, 1, 1, 1)
    q_E = value.target_critic(features, actions).flatten()
    pairs = {min(a, b) for i, a in enumerate(q_E.tolist()) for b in q_E.tolist()[i + 1 :]}
    drawn = {value.target_q(features, actions).item() for _ in range(60)}
    assert drawn == pairs  # four of five: the greatest is the least of no pair
    with pytest.raises(ValidationError, match="of 5 critics"):
        TDConfig(critic={"ensemble": 5}, subset=6)


def test_rlpd_climbs_the_mean_of_its_ten_critics() -> None:
    policy = MLPConfig(hidden=8, depth=1, head=GAUSSIAN).build(robot(1))
    objective = RLPDConfig().build(policy)
    value = objective.value
    assert value.action_critic is not None
    features, actions = torch.randn(1, 3, policy.feature_dim), torch.rand(1, 3, 1, 1)
    with torch.no_grad():
        every = value.action_critic(features, actions)
    assert len(every) == 10
    torch.testing.assert_close(value.q(features, actions, of="mean"), every.mean(0))


# --- policies that climb --------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TD3Config, DDPGConfig])
def test_a_deterministic_policy_finds_the_best_action(config: type[TD3Config]) -> None:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=16, depth=1, head={"type": "squashed"}).build(robot(1))
    critic = {"hidden": 32, "depth": 1, "ensemble": 2}
    objective = config(critic=critic).build(policy)
    places = torch.linspace(-1, 1, 41).tolist()
    steps = [Step(0, place, reward=1 - (place - 0.4) ** 2) for place in places]
    batch = batch_of(steps, 1)
    train(policy, objective, batch, steps=500)
    assert policy.eval()(batch.steps(0, -1)).actions.mode()[0].item() == pytest.approx(0.4, abs=0.1)


# --- mpo ------------------------------------------------------------------------------------------


def test_the_dual_holds_the_weights_at_their_distance() -> None:
    torch.manual_seed(0)
    q_SBT = torch.randn(20, 6, 2) * torch.rand(6, 2) * 5
    mask = torch.ones(6, 2, dtype=torch.bool)
    eta = dual_temperature(q_SBT, mask, 0.1)
    weights = (q_SBT / eta).softmax(0)
    distance = (weights * (weights * 20).log()).sum(0).mean()
    assert distance.item() == pytest.approx(0.1, abs=1e-4)

    def dual(value: Tensor) -> Tensor:
        return value * 0.1 + value * ((q_SBT / value).logsumexp(0) - math.log(20)).mean()

    # its minimum: on both sides the dual is greater
    assert dual(eta) < dual(eta * 1.05)
    assert dual(eta) < dual(eta * 0.95)


@pytest.mark.parametrize("equal", [0.0, 3.0])
def test_equal_values_give_equal_weights(equal: float) -> None:
    q_SBT = torch.full((4, 2, 1), equal)
    eta = dual_temperature(q_SBT, torch.ones(2, 1, dtype=torch.bool), 0.1)
    assert eta > 0
    assert (q_SBT / eta).softmax(0).tolist() == [[[0.25]] * 2] * 4


def test_mpo_moves_tokens_to_what_is_worth_more_and_no_faster_than_it_may() -> None:
    steps = [Step(0, LEFT), Step(0, RIGHT, reward=1.0)]
    batch = batch_of(steps, 1)
    shares = {}
    for epsilon_kl in (0.001, 0.05):
        policy = two_ways(1)
        objective = MPOConfig(critic=CRITIC, target_rate=0.05, epsilon_kl=epsilon_kl).build(policy)
        metrics = train(policy, objective, batch, steps=250)
        shares[epsilon_kl] = _share_of_right(policy, batch)
        assert metrics["kl"] < 4 * epsilon_kl
    assert shares[0.05] > 0.95
    assert 0.55 < shares[0.001] < shares[0.05]


def test_mpo_finds_the_best_action_by_likelihoods_alone() -> None:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=16, depth=1, head=GAUSSIAN).build(robot(1))
    objective = MPOConfig(critic={"hidden": 32, "depth": 1}, target_rate=0.05).build(policy)
    places = torch.linspace(-1, 1, 41).tolist()
    steps = [Step(0, place, reward=1 - (place - 0.4) ** 2) for place in places]
    batch = batch_of(steps, 1)
    train(policy, objective, batch, steps=500)
    assert policy.eval()(batch.steps(0, -1)).actions.mode()[0].item() == pytest.approx(
        0.4, abs=0.15
    )


def test_mpo_refuses_a_head_without_likelihood() -> None:
    policy = MLPConfig(hidden=8, depth=1, head={"type": "squashed"}).build(robot(1))
    with pytest.raises(ObjectiveError, match="log_prob"):
        MPOConfig().build(policy).loss(policy, batch_of([Step(0, LEFT, later=(0, LEFT))], 1))


# --- values as distributions ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"type": "td", "next_actions": "data"}, {"type": "expectile"}])
def test_values_of_bins_reach_the_known_table(value: dict[str, Any]) -> None:
    steps = [
        Step(0, LEFT, later=(0, RIGHT)),
        Step(0, RIGHT, later=(1, RIGHT)),
        Step(1, LEFT, reward=0.25),
        Step(1, RIGHT, reward=1.0),
    ]
    critic = CRITIC | {"bins": 41, "bin_range": (-0.2, 1.4)}
    parts = {"critic": critic, "target_rate": 0.2}
    if value["type"] == "expectile":
        parts["expectile"] = 0.9
    bc = {"type": "bc"}
    objective = learn(two_ways(2), value | parts, bc, batch_of(steps, 2), steps=400)
    table = q_table(objective, 2, (LEFT, RIGHT))
    assert table[1].tolist() == pytest.approx([0.25, 1.0], abs=0.05)
    if value["type"] == "td":
        assert table[0].tolist() == pytest.approx([0.64, 0.8], abs=0.06)
    else:  # V lies between the two actions, nearer to the better one
        assert 0.6 < table[0, 1].item() < 0.8


def test_bins_and_their_range_go_together() -> None:
    with pytest.raises(ValidationError, match=r"bin_range=\[0,1\]"):
        TDConfig(critic={"bins": 51})
    with pytest.raises(ValidationError, match="the least must be below"):
        TDConfig(critic={"bins": 51, "bin_range": (1.0, 0.0)})


# --- helpers --------------------------------------------------------------------------------------


def train(policy: MLPPolicy, objective: Objective, batch: Batch, *, steps: int) -> dict[str, float]:
    """The metrics of the last steps, averaged, after so many steps of Adam on the whole batch."""
    assert isinstance(objective, ActorCritic)
    parameters = [*policy.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=1e-2)
    policy.train(), objective.train()
    sums: dict[str, float] = {}
    for step in range(steps):
        optimizer.zero_grad()
        loss, metrics = objective.loss(policy, dataclasses.replace(batch))
        loss.backward()
        if objective.skips_policy_update:
            policy.zero_grad(set_to_none=True)
        optimizer.step()
        objective.after_step(policy)
        if step >= steps - 50:
            for name, number in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(number) / 50
    return sums


def _share_of_right(policy: MLPPolicy, batch: Batch) -> float:
    actions: Any = policy.eval()(batch.steps(0, -1)).actions
    with torch.no_grad():
        return float(actions.log_prob(torch.full_like(batch.actions[:, :1], RIGHT))[0].exp())

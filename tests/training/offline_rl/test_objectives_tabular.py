"""Value learners and extractions on problems whose solutions are known.

The corridor: states 0, 1, 2; 0.5 goes right, -0.5 left (at 0 it stays). Right at 2 brings 1 and
ends.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tabular import (
    CRITIC,
    DISCOUNT,
    Step,
    batch_of,
    fixed_point,
    learn,
    q_table,
    robot,
    transition,
    two_ways,
    v_table,
)
from torch import Tensor

from vla.config import ConfigError, load_config
from vla.models.policies.guided import CriticGuidedPolicy
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policy import load_policy
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.awac import AWACConfig
from vla.training.offline_rl.values.base import Transition, ValueEstimates, log_density
from vla.training.offline_rl.values.expectile import ExpectileConfig
from vla.training.offline_rl.values.td import TDConfig
from vla.types import Batch, Observation, Spec

LEFT, RIGHT = -0.5, 0.5
BC = {"type": "bc"}


def corridor() -> list[Step]:
    """Every action at every state, each followed by either action: recordings of who acts at
    random."""
    steps = []
    for state in range(3):
        for after in (LEFT, RIGHT):
            steps.append(Step(state, LEFT, later=(max(0, state - 1), after)))
            steps.append(
                Step(state, RIGHT, later=(state + 1, after))
                if state < 2
                else Step(2, RIGHT, reward=1.0)
            )
    return steps


def corridor_backup(q: Tensor, *, best: bool) -> Tensor:
    v = q.amax(1) if best else q.mean(1)
    left = DISCOUNT * torch.stack([v[0], v[0], v[1]])
    right = torch.stack([DISCOUNT * v[1], DISCOUNT * v[2], torch.tensor(1.0)])
    return torch.stack([left, right], 1)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", [{}, {"bins": 101, "bin_range": [-1, 4]}])
def test_monte_carlo_reaches_the_mean_return(critic: dict[str, Any]) -> None:
    batch = batch_of(
        [Step(0, a, returned=g) for a in (LEFT, RIGHT) for g in (0.0, 0.0, 3.0)] + [Step(1, LEFT)],
        2,
    )
    policy = two_ways(2)
    value = {"type": "monte_carlo", "critic": critic}
    objective = learn(policy, value, BC, batch, steps=120)
    torch.testing.assert_close(v_table(objective, 2), torch.tensor([1.0, 0.0]), atol=0.02, rtol=0)
    advantage = objective.value.advantage(transition(policy, batch))
    torch.testing.assert_close(advantage[:3, 0], torch.tensor([-1.0, -1.0, 2.0]), atol=0.02, rtol=0)


def test_td_of_the_datas_actions_reaches_the_value_of_who_made_them() -> None:
    objective = learn(
        two_ways(3), {"type": "td", "next_actions": "data"}, BC, batch_of(corridor(), 3), steps=300
    )
    known = fixed_point(lambda q: corridor_backup(q, best=False), (3, 2))
    torch.testing.assert_close(q_table(objective, 3, [LEFT, RIGHT]), known, atol=0.03, rtol=0)


@pytest.mark.parametrize("asked", ["policy", "mode", "max"])
def test_td_of_a_policy_that_becomes_greedy_reaches_the_optimal_value(asked: str) -> None:
    greedy = {"type": "weighted_bc", "beta": 50.0}
    policy = two_ways(3)
    objective = learn(
        policy,
        {"type": "td", "next_actions": asked, "samples": 4},
        greedy,
        batch_of(corridor(), 3),
        steps=500,
    )
    known = fixed_point(lambda q: corridor_backup(q, best=True), (3, 2))
    torch.testing.assert_close(known[:, 1], torch.tensor([DISCOUNT**2, DISCOUNT, 1.0]))
    torch.testing.assert_close(q_table(objective, 3, [LEFT, RIGHT]), known, atol=0.06, rtol=0)
    assert (policy(batch_of(corridor(), 3)).actions.mode() > 0).all()


def narrow_best(head: dict[str, Any]) -> tuple[MLPPolicy, Batch]:
    """A policy over 21 bins that prefers 0, by so much; and what follows it."""
    tokenizer = {"type": "bins", "num_bins": 21}
    policy = MLPConfig(hidden=8, depth=1, head=head, tokenizer=tokenizer).build(robot(1))
    with torch.no_grad():
        policy.head.weight.zero_()
        # as after training on targets with a deviation of 8 bins
        policy.head.bias.copy_(-0.5 * ((torch.arange(21) - 10) / 8.0).square())
    return policy, batch_of([Step(0, 0.0, later=(0, 0.0))] * 8, 1)


def td_of(policy: MLPPolicy, **options: Any) -> ActorCritic:
    value = {"type": "td", "critic": {**CRITIC, "output_scale": 1.0}} | options
    return ActorCriticConfig.model_validate({"value": value, "extraction": BC}).build(policy)


@pytest.mark.parametrize("smoothing", [{"bin_smoothing": 8.0}, {"label_smoothing": 0.1}])
def test_smoothed_bins_are_valued_by_what_they_would_do_not_by_their_training_targets(
    smoothing: dict[str, float],
) -> None:
    torch.manual_seed(0)
    policy, batch = narrow_best({"type": "categorical", **smoothing})
    objective = td_of(policy, samples=4)
    later = objective.lookahead(policy, batch).transition
    mode = objective.value.target_q(later.features, torch.zeros(8, 1, 1, 1))
    # the least bins lie 1.3 deviations away: samples would be of all of them
    assert torch.allclose(objective.value.next_value(later), mode, atol=1e-6)
    own = objective.value.advantage(transition(policy, batch))  # the data's action is the mode
    assert torch.allclose(own, torch.zeros_like(own), atol=1e-6)
    plain, _ = narrow_best({"type": "categorical"})
    assert not torch.allclose(objective.value.next_value(transition(plain, batch)), mode, atol=1e-3)


def test_the_greatest_of_several_next_actions_is_found_after_the_least_of_the_critics() -> None:
    torch.manual_seed(0)
    policy, batch = two_ways(1), batch_of([Step(0, LEFT, later=(0, LEFT))] * 4, 1)
    values = {}
    for asked in ("max", "policy"):
        torch.manual_seed(1)
        objective = td_of(policy, next_actions=asked, samples=64)
        later = objective.lookahead(policy, batch).transition
        values[asked] = objective.value.next_value(later)
    both = torch.tensor([LEFT, RIGHT]).view(2, 1, 1, 1, 1).expand(2, 4, 1, 1, 1)
    q = objective.value.target_critic(later.features, both)
    # of 64 samples both ways are among them but for 1 in 2 ** 63
    assert torch.allclose(values["max"], q.amin(0).amax(0), atol=1e-6)
    assert (values["policy"] < values["max"]).all()


def test_the_greatest_of_one_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"samples: the greatest of 1 sample.*samples: 10"):
        load_config(TDConfig, {"type": "td", "next_actions": "max"})


@pytest.mark.parametrize("expectile", [0.5, 0.8, 0.97])
def test_expectile_values_reach_the_expectile(expectile: float) -> None:
    # state 1 ends with 0 or 1, equally often: its expectile is tau itself; 0.5 is the mean, near 1
    # the best
    ends = [Step(1, LEFT, reward=0.0), Step(1, RIGHT, reward=1.0)]
    batch = batch_of([*ends, Step(0, LEFT, later=(1, LEFT)), Step(0, RIGHT, later=(1, RIGHT))], 2)
    objective = learn(
        two_ways(2), {"type": "expectile", "expectile": expectile}, BC, batch, steps=300
    )
    torch.testing.assert_close(
        v_table(objective, 2), expectile * torch.tensor([DISCOUNT, 1.0]), atol=0.03, rtol=0
    )
    torch.testing.assert_close(
        q_table(objective, 2, [LEFT, RIGHT]),
        torch.tensor([[expectile * DISCOUNT] * 2, [0.0, 1.0]]),
        atol=0.03,
        rtol=0,
    )


def test_expectile_values_join_two_recordings() -> None:
    # 0 -> 1 -> (left) nothing, and 2 -> 1 -> (right) 1: nobody has gone from 0 to the reward
    steps = [
        Step(0, RIGHT, later=(1, LEFT)),
        Step(0, LEFT, reward=0.2),
        Step(1, LEFT),
        Step(1, RIGHT, reward=1.0),
    ]
    steps += [Step(2, LEFT, later=(1, RIGHT), returned=DISCOUNT), Step(1, RIGHT, reward=1.0)]
    for step, returned in zip(range(6), (0.0, 0.2, 0.0, 1.0, DISCOUNT, 1.0), strict=True):
        steps[step] = Step(**(vars(steps[step]) | {"returned": returned}))
    batch = batch_of(steps, 3)
    prefers = {}
    for value in ({"type": "expectile", "expectile": 0.95}, {"type": "monte_carlo"}):
        policy = two_ways(3)
        learn(policy, value, {"type": "weighted_bc", "beta": 10.0}, batch, steps=180)
        prefers[value["type"]] = policy(batch).actions.mode()[0, 0].item()
    assert prefers == {
        "expectile": RIGHT,
        "monte_carlo": LEFT,
    }  # what was seen to come of it is 0 against 0.2


@pytest.mark.parametrize("value", ["td", "expectile"])
def test_a_truncation_bootstraps_and_a_true_end_does_not(value: str) -> None:
    # state 0 brings 1 a step for ever, though recordings are cut; state 1 brings 1 and ends
    forever = [Step(0, LEFT, reward=1.0, later=(0, LEFT)), Step(0, LEFT, reward=1.0, cut=True)]
    batch = batch_of([*forever, Step(1, LEFT, reward=1.0)], 2)
    options = {"type": value} | ({"next_actions": "data"} if value == "td" else {})
    objective = learn(two_ways(2), options, BC, batch, steps=600, lr=1e-2)
    known = torch.tensor([[1 / (1 - DISCOUNT)], [1.0]])
    torch.testing.assert_close(q_table(objective, 2, [LEFT]), known, atol=0.1, rtol=0.02)


def test_conservative_values_press_what_the_data_does_not_hold_below_it() -> None:
    steps = [Step(0, 0.4 + 0.02 * i, reward=1.0) for i in range(10)]
    batch, tried, untried = batch_of(steps, 1), [0.4, 0.5], [-0.9, -0.5]
    tables = {}
    for alpha in (0.0, 0.3):
        options = {
            "type": "conservative",
            "alpha": alpha,
            "importance": False,
            "next_actions": "data",
        }
        objective = learn(two_ways(1), options, BC, batch, steps=180)
        tables[alpha] = q_table(objective, 1, [*tried, *untried])[0]
    torch.testing.assert_close(
        tables[0.0][:2], torch.ones(2), atol=0.02, rtol=0
    )  # plain temporal differences
    assert tables[0.3][2:].max() < tables[0.3][:2].min() - 0.5
    assert (tables[0.3][2:] < tables[0.0][2:] - 0.3).all()


def test_calibrated_values_are_not_pressed_below_the_return() -> None:
    steps = [Step(0, 0.5, reward=1.0, returned=1.0)] * 4
    batch, pressed = batch_of(steps, 1), {}
    for calibrated in (False, True):
        torch.manual_seed(0)
        options = {
            "type": "conservative",
            "alpha": 1.0,
            "importance": False,
            "calibrated": calibrated,
            "sampled": 4,
        }
        # the policy, held where it began, proposes both actions; only 0.5 was tried
        objective = learn(
            two_ways(1), options, {"type": "best_of_n", "imitate": False}, batch, steps=120
        )
        pressed[calibrated] = q_table(objective, 1, [LEFT])[0, 0]
    assert pressed[True] > pressed[False] + 0.5


def test_the_conservative_gap_is_none_where_all_actions_are_worth_the_same() -> None:
    torch.manual_seed(0)
    spec = Spec({}, ("s0",), ("a",), (-3.0,), (3.0,), control_hz=10.0)
    head = {
        "type": "gaussian",
        "squash": "full",
        "log_std": (-0.3, 0.1),
    }  # what is drawn is spread over the range
    policy = MLPConfig(hidden=8, depth=1, chunk=2, head=head).build(spec)
    value = {"type": "conservative", "sampled": 1000, "critic": CRITIC}
    objective = ActorCriticConfig.model_validate({"value": value, "extraction": BC}).build(policy)
    for parameter in objective.value.action_critic.parameters():
        torch.nn.init.zeros_(parameter)
    batch = spec.fake_batch(2, 3, 2)
    _, metrics = objective.value.loss(
        objective_transition(objective, policy, batch), objective.lookahead(policy, batch)
    )
    assert metrics["conservative_gap"].item() == pytest.approx(
        0.0, abs=0.1
    )  # the volume's logarithm is 3.6


def objective_transition(objective: ActorCritic, policy: MLPPolicy, batch: Batch) -> Transition:
    now = batch.steps(0, -objective.next_step)
    output = policy(now)
    return Transition(now, output.features.detach(), output.actions)


@pytest.mark.parametrize(
    "head", [{"type": "gaussian_mixture", "hidden": 8}, {"type": "gaussian", "squash": "full"}]
)
def test_densities_of_many_chunks_are_as_one_by_one(head: dict[str, Any]) -> None:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=8, depth=1, chunk=2, head=head).build(robot(2))
    actions = policy(robot(2).fake_batch(3, 1, 2)).actions
    chunks = torch.rand(5, 3, 1, 2, 1) - 0.5
    together = log_density(actions, chunks)
    assert together.shape == (5, 3, 1)
    for i in range(5):
        torch.testing.assert_close(together[i], actions.log_prob(chunks[i]))


# --- extractions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_weighted_imitation_prefers_the_better_way_by_exactly_its_weight(beta: float) -> None:
    # in state 0 right brings 0.5 more than left; both are as frequent. In state 1 left is three
    # times as frequent.
    steps = [Step(0, LEFT), Step(0, RIGHT, returned=0.5), *[Step(1, LEFT)] * 3, Step(1, RIGHT)]
    policy, batch = two_ways(2), batch_of(steps, 2)
    learn(policy, {"type": "monte_carlo"}, {"type": "weighted_bc", "beta": beta}, batch, steps=240)
    log_probs = policy(batch).actions.logits.log_softmax(-1)
    assert (log_probs[0, 0, 0, 1] - log_probs[0, 0, 0, 0]).item() == pytest.approx(
        0.5 * beta, abs=0.05
    )
    assert (log_probs[2, 0, 0, 0] - log_probs[2, 0, 0, 1]).item() == pytest.approx(
        math.log(3), abs=0.05
    )


def test_awac_clips_at_its_published_weight() -> None:
    policy = two_ways(1)
    extraction = AWACConfig().build(policy).extraction
    batch = batch_of([Step(0, LEFT), Step(0, RIGHT)], 1).steps(0, -1)
    output = policy(batch)
    estimates = ValueEstimates(advantage=torch.tensor([[4.0], [6.0]]))
    now = Transition(batch, output.features, output.actions, estimates=estimates)
    _, metrics = extraction.loss(now, ExpectileConfig().build(1, robot(1), 1))
    assert metrics["weight"].item() == pytest.approx((math.exp(4) + 100) / 2, rel=1e-4)


def quadratic(best: float = 0.4) -> list[Step]:
    """One state in which an action brings 1 - (a - best)^2; all are tried."""
    return [Step(0, a, reward=1 - (a - best) ** 2) for a in torch.linspace(-1, 1, 21).tolist()]


@pytest.mark.parametrize(
    ("head", "imitation", "expected"),
    [("squashed", 0.0, 0.6), ("gaussian", 0.0, 0.6), ("regression", 20.0, 0.0)],
)
def test_the_gradient_of_q_leads_to_its_top_and_imitation_to_the_mean(
    head: str, imitation: float, expected: float
) -> None:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=32, depth=1, head={"type": head}).build(robot(1))
    batch = batch_of(quadratic(best=0.6), 1)
    extraction = {"type": "ddpg_bc", "bc": imitation}
    learn(policy, {"type": "td", "next_actions": "data"}, extraction, batch, steps=400, lr=1e-2)
    assert policy(batch).actions.mode()[0, 0].item() == pytest.approx(expected, abs=0.15)


def test_the_entropy_that_is_aimed_at_does_not_depend_on_the_units_of_actions() -> None:
    found = {}
    for half in (1.0, 0.05, 20.0):
        torch.manual_seed(0)
        spec = Spec({}, ("s0",), ("a",), (-half,), (half,), control_hz=10.0)
        policy = MLPConfig(hidden=8, depth=1, head={"type": "gaussian", "squash": "full"}).build(
            spec
        )
        extraction = {"type": "ddpg_bc", "bc": 0.0, "temperature": "auto"}
        config = {
            "value": {"type": "td", "next_actions": "data", "critic": CRITIC},
            "extraction": extraction,
        }
        objective = ActorCriticConfig.model_validate(config).build(policy).train()
        batch = batch_of(quadratic(), 1)
        loss, metrics = objective.loss(
            policy, dataclasses.replace(batch, actions=half * batch.actions)
        )
        loss.backward()
        found[half] = (metrics["entropy"].item(), objective.extraction.log_temperature.grad.item())
    assert found[0.05] == pytest.approx(found[1.0], abs=1e-4)
    assert found[20.0] == pytest.approx(found[1.0], abs=1e-4)
    entropy, gradient = found[1.0]
    assert gradient == pytest.approx(
        entropy - -1.0, abs=1e-5
    )  # the temperature falls where there is more than -1


def test_the_entropy_of_tokens_is_aimed_at_a_share_of_the_even_one() -> None:
    torch.manual_seed(0)
    spec = Spec({}, ("s0",), ("x", "grip"), (-1.0, 0.0), (1.0, 1.0), control_hz=10.0)
    tokenizer = {"type": "bins", "num_bins": 8, "binary": ["grip"]}
    head = {"type": "categorical"}
    config = MLPConfig(hidden=8, depth=1, chunk=2, head=head, tokenizer=tokenizer)
    policy = config.build(spec)
    value = {"type": "td", "next_actions": "data", "critic": CRITIC}
    extraction = {"type": "ddpg_bc", "bc": 0.0, "temperature": "auto"}
    objective = ActorCriticConfig.model_validate({"value": value, "extraction": extraction})
    learner = objective.build(policy).train()
    batch = spec.fake_batch(64, 3, 2)
    loss, metrics = learner.loss(policy, batch)
    loss.backward()
    target = 0.98 * 2 * (math.log(8) + math.log(2))  # a gripper has two ids
    gradient = learner.extraction.log_temperature.grad.item()
    # the temperature rises where there is less: by -(K A) it could only fall, whatever the policy
    assert gradient == pytest.approx(metrics["entropy"].item() - target, abs=1e-4)
    with torch.no_grad():
        policy.head.bias[0] = 20.0  # nearly one id
    learner.zero_grad()
    learner.loss(policy, batch)[0].backward()
    assert learner.extraction.log_temperature.grad.item() < -3


def test_the_price_of_a_nat_decides_between_q_and_imitation() -> None:
    steps = [*[Step(0, LEFT)] * 3, Step(0, RIGHT, reward=1.0)]  # the better way is the rarer one
    shares = {}
    for alpha in (0.05, 50.0):
        policy, batch = two_ways(1), batch_of(steps, 1)
        learn(policy, {"type": "expectile"}, {"type": "kl", "alpha": alpha}, batch, steps=180)
        shares[alpha] = policy(batch).actions.logits.softmax(-1)[0, 0, 0, 1].item()
    assert shares[0.05] > 0.9
    assert shares[50.0] == pytest.approx(0.25, abs=0.05)


def test_the_policy_learns_at_every_so_many_steps_and_not_before_the_warm_up_is_over() -> None:
    policy, batch = two_ways(1), batch_of(quadratic(), 1)
    value = {"type": "td", "next_actions": "data"}
    config = {"value": value, "extraction": {"type": "ddpg_bc", "every": 2}, "warmup_steps": 4}
    objective = ActorCriticConfig.model_validate(config).build(policy).train()
    moved = []
    for _ in range(8):
        policy.zero_grad()
        for _ in range(2):  # two micro-batches are one step
            objective.loss(policy, batch)[0].backward()
        moved.append(policy.head.weight.grad is not None and bool(policy.head.weight.grad.any()))
        objective.after_step(policy)
    assert moved == [False, False, False, False, False, True, False, True]


# --- what decides by Q, saved and loaded ----------------------------------------------------------


@pytest.mark.parametrize(
    "extraction",
    [
        {"type": "best_of_n", "selection": {"type": "best_of_n", "samples": 64}},
        {"type": "argmax_q", "selection": {"type": "coordinate_ascent", "min_prob": 0.0}},
    ],
)
def test_a_guided_policy_chooses_the_best_action_also_when_loaded(
    extraction: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tokenizer = {"type": "bins", "num_bins": 8}
    policy = MLPConfig(hidden=32, depth=1, head={"type": "categorical"}, tokenizer=tokenizer).build(
        robot(1)
    )
    batch = batch_of(quadratic(best=0.375), 1)
    objective = learn(policy, {"type": "td", "next_actions": "data"}, extraction, batch, steps=240)
    guided = objective.deploy(policy)
    guided.save_pretrained(tmp_path / "guided")
    loaded = load_policy(tmp_path / "guided")
    assert isinstance(loaded, CriticGuidedPolicy)
    assert type(loaded.unwrapped) is type(policy)
    observation = Observation({}, torch.ones(1, 1), [""])
    for actor in (guided, loaded):
        torch.manual_seed(3)
        actions = [actor.act(observation)[0].item() for _ in range(5)]
        torch.manual_seed(3)
        assert [actor.act(observation)[0].item() for _ in range(5)] == actions
        assert set(actions) == {0.375}
    again = [
        loaded.act(observation, generator=torch.Generator().manual_seed(1), temperature=1.0)[0]
        for _ in range(2)
    ]
    assert torch.equal(again[0], again[1])
    assert torch.equal(
        loaded(batch).actions.q(batch.actions), guided(batch).actions.q(batch.actions)
    )


def test_what_proposes_may_imitate_by_advantage() -> None:
    # both ways are as frequent; right brings 1 more, so that beta 2 makes it exp(2 * (1 - 0)) times
    # as likely
    batch = batch_of([Step(0, LEFT), Step(0, RIGHT, reward=1.0)], 1)
    likely = {}
    for name, weights in {"alike": {}, "weighted": {"weights": {"beta": 2.0}}}.items():
        torch.manual_seed(0)
        policy = two_ways(1)
        learn(
            policy,
            {"type": "expectile", "expectile": 0.5},
            {"type": "best_of_n", **weights},
            batch,
            steps=300,
        )
        log_prob = policy(batch).actions.log_prob(batch.actions)[:, 0].detach()
        likely[name] = float((log_prob[1] - log_prob[0]).exp())
    assert likely["alike"] == pytest.approx(1.0, rel=1e-3)
    assert likely["weighted"] == pytest.approx(math.exp(2), rel=1e-3)


def test_ids_that_the_policy_holds_unlikely_are_not_chosen() -> None:
    torch.manual_seed(0)
    policy, batch = two_ways(1), batch_of([*[Step(0, LEFT)] * 20, Step(0, RIGHT, reward=1.0)], 1)
    chosen = {}
    for least in (0.0, 0.5):
        extraction = {
            "type": "argmax_q",
            "selection": {"type": "coordinate_ascent", "min_prob": least},
        }
        objective = learn(
            policy, {"type": "td", "next_actions": "data"}, extraction, batch, steps=120
        )
        chosen[least] = objective.deploy(policy)(batch).actions.mode()[0, 0].item()
    assert chosen == {0.0: RIGHT, 0.5: LEFT}


def test_argmax_q_says_which_head_it_needs() -> None:
    policy = MLPConfig(hidden=8, head={"type": "gaussian"}).build(robot(1))
    with pytest.raises(
        ObjectiveError, match=r"argmax_q needs a head with logits.*head: \{type: categorical\}"
    ):
        learn(policy, {"type": "td"}, {"type": "argmax_q"}, batch_of(quadratic(), 1), steps=1)

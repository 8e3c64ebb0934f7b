"""The conservative gap in a value learner: its two forms, its temperature, its options."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tabular import CRITIC, Step, batch_of, learn, q_table, transition, two_ways

from vla.config import ConfigError, load_config
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.cal_ql import CalQLConfig
from vla.training.objectives.cql import CQLConfig
from vla.training.offline_rl.exchanged_tokens import draw_places, exchange
from vla.training.offline_rl.values.conservative import ConservativeConfig
from vla.types import Batch, Spec

LEFT, RIGHT = -0.5, 0.5
BC = {"type": "bc"}
SPEC = Spec({}, ("s0",), ("x", "grip"), (-1.0, 0.0), (1.0, 1.0), control_hz=10.0)
BINS = {"type": "bins", "num_bins": 4, "binary": ["grip"]}


def objective_of(policy: MLPPolicy, **value: Any) -> ActorCritic:
    config = {
        "value": {"type": "conservative", "next_actions": "data", "critic": CRITIC} | value,
        "extraction": BC,
    }
    return ActorCriticConfig.model_validate(config).build(policy).train()


def gap_and_rest(objective: ActorCritic, policy: MLPPolicy, batch: Batch) -> dict[str, float]:
    now = transition(policy, batch)
    value = objective.value.loss(now, objective.lookahead(policy, batch))
    return {name: number.item() for name, number in value.metrics.items()} | {
        "loss": value.loss.item()
    }


@pytest.mark.parametrize(
    "gap", [{"form": "discrete"}, {"importance": False, "sampled": 6}], ids=["ids", "samples"]
)
def test_q_of_the_data_stays_near_its_target_however_long_the_gap_presses(
    gap: dict[str, Any],
) -> None:
    # alpha 1 on a target of 0.5: without the data's action in the soft maximum Q ends at 1
    options = {"type": "conservative", "alpha": 1.0, "next_actions": "data"} | gap
    batch = batch_of([Step(0, RIGHT, reward=0.5)] * 4, 1)
    objective = learn(two_ways(1), options, BC, batch, steps=400, lr=1e-2)
    left, right = q_table(objective, 1, [LEFT, RIGHT])[0].tolist()
    assert right == pytest.approx(0.5, abs=0.1)
    assert left < right - 1


def test_the_discrete_gap_by_hand() -> None:
    policy = two_ways(1)
    batch = batch_of([Step(0, 0.3, reward=1.0)], 1)
    objective = objective_of(policy, form="discrete", alpha=3.0, conservative_temperature=0.5)
    # id 0 decodes to -0.5; the data's own id stands for the data's own action, 0.3, not for 0.5
    features, critic = torch.ones(1, 1, 1), objective.value.action_critic
    gap = []
    for member in range(2):
        left, own = (
            critic(features, torch.full((1, 1, 1, 1), a))[member].item() for a in (LEFT, 0.3)
        )
        soft = 0.5 * math.log((math.exp(left / 0.5) + math.exp(own / 0.5)) / 2)
        gap.append(soft - own)
    found = gap_and_rest(objective, policy, batch)
    assert found["conservative_gap"] == pytest.approx(sum(gap) / 2, abs=1e-5)
    td_loss = 2 * found["td_loss"]
    assert found["loss"] == pytest.approx(td_loss + 3.0 * sum(gap), abs=1e-5)


def bins_policy(chunk: int, head: str = "categorical") -> MLPPolicy:
    torch.manual_seed(0)
    config = MLPConfig(hidden=8, depth=1, chunk=chunk, head={"type": head}, tokenizer=BINS)
    return config.build(SPEC)


def test_one_place_is_exchanged_by_every_id_and_the_rest_is_the_datas() -> None:
    tokenizer = bins_policy(2).tokenizer
    actions = torch.tensor([[[[0.3, 1.0], [-0.9, 0.0]]]])  # x of bin 2, grip of id 1; bin 0, id 0
    tried = exchange(actions, torch.tensor([[0]]), tokenizer)
    assert tried.chunks[:, 0, 0, 0, 0].tolist() == pytest.approx([-0.75, -0.25, 0.3, 0.75])
    assert torch.equal(tried.chunks[:, 0, 0, 0, 1], torch.ones(4))
    assert torch.equal(tried.chunks[:, 0, 0, 1], actions[0, 0, 1].expand(4, 2))
    assert (tried.own.item(), tried.allowed.tolist()) == (2, [[[True] * 4]])
    grip = exchange(actions, torch.tensor([[3]]), tokenizer)
    assert grip.allowed.tolist() == [[[True, True, False, False]]]
    assert grip.chunks[:2, 0, 0, 1, 1].tolist() == [0.0, 1.0]
    assert grip.own.item() == 0


def test_places_beyond_an_episodes_end_are_never_exchanged() -> None:
    torch.manual_seed(0)
    tokenizer = bins_policy(2).tokenizer
    mask = torch.tensor([[True, False], [True, True], [False, False]])[:, None].expand(3, 200, 2)
    first, both, _ = draw_places(mask, tokenizer)
    assert set(first.tolist()) == {0, 1}
    shares = torch.bincount(both, minlength=4) / 200
    assert torch.allclose(shares, torch.tensor(0.25), atol=0.08)


def test_the_drawn_places_estimate_the_mean_over_all() -> None:
    torch.manual_seed(0)
    policy = bins_policy(2)
    objective = objective_of(policy, form="discrete", critic={**CRITIC, "output_scale": 1.0})
    now = transition(policy, SPEC.fake_batch(1, 2, 2))  # one step, one window
    with torch.no_grad():
        places = [
            float(_gap_at(objective, now.batch, now.features, policy, place)) for place in range(4)
        ]
        drawn = [
            float(objective.value._gap_over_ids(now).metrics["conservative_gap"])
            for _ in range(600)
        ]
    assert {round(gap, 4) for gap in drawn} == {round(gap, 4) for gap in places}
    assert sum(drawn) / 600 == pytest.approx(sum(places) / 4, abs=0.03)


def _gap_at(
    objective: ActorCritic, batch: Batch, features: torch.Tensor, policy: MLPPolicy, place: int
) -> torch.Tensor:
    """The gap over the ids of one place, id by id."""
    tokenizer, critic = policy.tokenizer, objective.value.action_critic
    ids = tokenizer.encode(batch.actions)
    own = critic(features, batch.actions)
    exps = []
    for candidate in range(2 if place % 2 else 4):
        chunk = batch.actions.clone()
        changed = ids.clone()
        changed[..., place] = candidate
        if candidate != ids[0, 0, place]:
            chunk.flatten(-2)[..., place] = tokenizer.decode(changed).flatten(-2)[..., place]
        exps.append(critic(features, chunk).exp())
    return (torch.stack(exps).mean(0).log() - own).mean()


def test_a_cold_soft_maximum_is_the_gap_to_the_best_action() -> None:
    policy = bins_policy(1, "gaussian")
    batch = SPEC.fake_batch(2, 2, 1)
    for temperature, nearly in ((1e-3, True), (1.0, False)):
        torch.manual_seed(1)
        objective = objective_of(
            policy,
            importance=False,
            sampled=5,
            conservative_temperature=temperature,
            critic={**CRITIC, "output_scale": 1.0},
        )
        now = transition(policy, batch)
        torch.manual_seed(2)
        found = objective.value.loss(now, objective.lookahead(policy, batch))
        torch.manual_seed(2)
        value = objective.value
        drawn = torch.cat(
            [
                value._uniform_actions(now),
                now.actions.rsample(count=5),
                objective.lookahead(policy, batch).transition.actions.rsample(count=5),
                now.batch.actions[None],
            ]
        )
        q = value.action_critic(now.features, drawn)
        hard = (q.amax(1) - q[:, -1]).mean()
        gap = found.metrics["conservative_gap"]
        assert (abs(gap - hard) < 0.005) == nearly


def test_what_the_discrete_form_needs() -> None:
    codes = MLPConfig(
        hidden=8, chunk=2, head={"type": "autoregressive"}, tokenizer={"type": "rvq"}
    ).build(SPEC)
    with pytest.raises(ObjectiveError, match=r"form: discrete.*tokenizer: \{type: bins\}"):
        objective_of(codes, form="discrete")
    numbers = bins_policy(1, "gaussian")
    with pytest.raises(ObjectiveError, match=r"form: discrete needs a head over tokens"):
        gap_and_rest(objective_of(numbers, form="discrete"), numbers, SPEC.fake_batch(2, 2, 1))
    for refused, name in (
        ({"importance": False}, "importance"),
        ({"sampled": 4}, "sampled"),
        ({"calibrated": True}, "calibrated"),
    ):
        with pytest.raises(ConfigError, match=name):
            load_config(ConservativeConfig, {"type": "conservative", "form": "discrete"} | refused)
    with pytest.raises(ConfigError, match=r"form: discrete runs over ids"):
        load_config(CalQLConfig, {"type": "cal_ql", "form": "discrete"})
    preset = CQLConfig(form="discrete", conservative_temperature=0.1, next_actions="max")
    value = preset.build(bins_policy(2)).value.config
    assert (value.form, value.conservative_temperature) == ("discrete", 0.1)
    assert (value.next_actions, value.samples) == ("max", 10)
    assert CQLConfig(extraction=BC).build(bins_policy(2)).value.config.next_actions == "mode"
    assert CalQLConfig(extraction=BC).build(bins_policy(2)).value.config.next_actions == "max"

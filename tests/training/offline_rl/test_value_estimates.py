"""What a value loss has found on its way is what `advantage` would compute, and nobody asks
twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tabular import CRITIC, DISCOUNT, Step, batch_of, two_ways

from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.offline_rl.values.base import Transition, ValueEstimates

STEPS = [
    Step(0, -0.5, later=(1, 0.5), returned=0.4),
    Step(0, 0.5, reward=0.3, returned=0.3),
    Step(1, 0.5, reward=1.0, returned=1.0),
    Step(1, -0.5, cut=True, returned=0.1),
]
BATCH = batch_of(STEPS, 2)


def objective_of(value: dict[str, Any], extraction: str = "weighted_bc") -> ActorCritic:
    config = {
        "value": {"critic": CRITIC} | value,
        "extraction": {"type": extraction},
        "discount": DISCOUNT,
    }
    torch.manual_seed(0)
    return ActorCriticConfig.model_validate(config).build(two_ways(2))


def transition_of(objective: ActorCritic) -> Transition:
    policy, now = two_ways(2), BATCH.steps(0, -1)
    output = policy(now)
    lookahead = objective.lookahead(policy, BATCH)
    return Transition(now, output.features.detach(), output.actions, lookahead)


@pytest.mark.parametrize(
    "value",
    [
        {"type": "expectile"},
        {"type": "expectile", "advantage": "outcome", "monte_carlo_floor": True},
        {"type": "monte_carlo"},
        {"type": "monte_carlo", "advantage_steps": 1},
        {"type": "td"},
        {"type": "td", "next_actions": "data"},
        {"type": "conservative", "importance": False, "sampled": 2},
    ],
    ids=lambda value: "-".join(str(part) for part in value.values()),
)
def test_estimates_are_what_advantage_computes(value: dict[str, Any]) -> None:
    objective = objective_of(value)
    alone = transition_of(objective)
    estimates = objective.value.loss(alone, alone.next).estimates
    assert estimates != ValueEstimates()
    assert not any(e.requires_grad for e in vars(estimates).values() if e is not None)
    found = []
    for transition in (alone, dataclasses.replace(alone, estimates=estimates)):
        torch.manual_seed(1)
        found.append(objective.value.advantage(transition))
    assert torch.equal(*found)


@pytest.mark.parametrize(("value", "own"), [("expectile", 0), ("monte_carlo", 0), ("td", 1)])
def test_the_extraction_asks_no_critic_for_what_the_loss_has_found(value: str, own: int) -> None:
    """By TD the policy's own actions are still asked for: the loss has no use for them."""
    objective = objective_of({"type": value}).train()
    asked = {"all": 0}
    critics = [objective.value.action_critic, objective.value.state_critic]

    def count(*_: Any) -> None:
        asked["all"] += 1

    for critic in critics:
        if critic is not None:
            critic.register_forward_hook(count)
    transition = transition_of(objective)
    objective.value.loss(transition, transition.next)
    in_the_loss = asked["all"]
    batch = BATCH if objective.next_step else BATCH.steps(0, -1)
    objective.loss(two_ways(2), batch)
    assert asked["all"] == 2 * in_the_loss + own


def test_nothing_of_a_batch_is_kept_when_it_is_done() -> None:
    """An extraction that asks for no advantage leaves no tensor of the batch behind."""
    objective = objective_of({"type": "expectile"}, "bc").train()
    objective.loss(two_ways(2), BATCH)
    kept = [v for m in objective.modules() for v in vars(m).values() if isinstance(v, tuple)]
    tensors = [part for value in kept for part in value if isinstance(part, torch.Tensor)]
    assert tensors == []

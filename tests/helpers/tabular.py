"""Small decision problems whose values are known, as batches of windows, and a real policy that
sees which state it is in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.offline_rl.values.base import Transition
from vla.types import Batch, Spec

DISCOUNT = 0.8
CRITIC = {"hidden": 32, "depth": 1, "layer_norm": False}


@dataclass(frozen=True)
class Step:
    """A transition of the data: state, action, reward, and the next state and action; None where
    the task ended there, or where the recording was cut (`cut`)."""

    state: int
    action: float
    reward: float = 0.0
    later: tuple[int, float] | None = None
    cut: bool = False
    returned: float = 0.0


def robot(states: int) -> Spec:
    return Spec({}, tuple(f"s{i}" for i in range(states)), ("a",), (-1.0,), (1.0,), control_hz=10.0)


def batch_of(steps: Sequence[Step], states: int) -> Batch:
    """Windows of two steps: the transition, and where it led. An end and a cut have no second
    step."""
    B, goes_on = len(steps), torch.tensor([step.later is not None for step in steps])
    later = [step.later or (step.state, step.action) for step in steps]
    ended = torch.tensor([step.later is None and not step.cut for step in steps])
    places = torch.tensor(
        [[step.state, place] for step, (place, _) in zip(steps, later, strict=True)]
    )
    actions = torch.tensor(
        [[step.action, action] for step, (_, action) in zip(steps, later, strict=True)]
    )
    mask = torch.stack([torch.ones(B, dtype=torch.bool), goes_on], 1)
    column = torch.tensor([step.returned for step in steps])
    return dataclasses.replace(
        robot(states).fake_batch(B, 2),
        state=torch.nn.functional.one_hot(places, states).float(),
        actions=actions[..., None, None],
        action_mask=mask[..., None],
        rewards=torch.stack([torch.tensor([step.reward for step in steps]), torch.zeros(B)], 1),
        terminals=torch.stack([ended, torch.zeros(B, dtype=torch.bool)], 1),
        returns_to_go=torch.stack([column, torch.zeros(B)], 1),
        mask=mask,
    )


def two_ways(states: int, seed: int = 0) -> MLPPolicy:
    """A policy that knows two actions, -0.5 and 0.5: the centres of two bins."""
    torch.manual_seed(seed)
    head, tokenizer = {"type": "categorical"}, {"type": "bins", "num_bins": 2}
    return MLPConfig(hidden=32, depth=1, head=head, tokenizer=tokenizer).build(robot(states))


def learn(
    policy: MLPPolicy,
    value: dict[str, Any],
    extraction: dict[str, Any],
    batch: Batch,
    *,
    steps: int,
    lr: float = 2e-2,
) -> ActorCritic:
    """The objective after so many steps of Adam on the whole batch, in evaluation mode."""
    rate = {} if value["type"] == "monte_carlo" else {"target_rate": 0.2}
    config = {
        "value": {"critic": CRITIC, **rate} | value,
        "extraction": extraction,
        "discount": DISCOUNT,
    }
    objective = ActorCriticConfig.model_validate(config).build(policy)
    if objective.next_step == 0:
        batch = batch.steps(0, -1)
    parameters = [*policy.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=lr)
    policy.train(), objective.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(policy, batch)[0].backward()
        optimizer.step()
        objective.after_step(policy)
    policy.eval(), objective.eval()
    return objective


def q_table(objective: ActorCritic, states: int, actions: Sequence[float]) -> Tensor:
    """(states, actions), the ensemble's mean."""
    critic = objective.value.action_critic
    assert critic is not None
    features = torch.eye(states)[None]
    asked = torch.tensor(actions).view(-1, 1, 1, 1, 1).expand(-1, 1, states, 1, 1)
    with torch.no_grad():
        return critic(features, asked).mean(0)[:, 0].T


def v_table(objective: ActorCritic, states: int) -> Tensor:
    """(states,)."""
    assert objective.value.state_critic is not None
    with torch.no_grad():
        return objective.value.state_critic(torch.eye(states)[None])[0]


def transition(policy: MLPPolicy, batch: Batch) -> Transition:
    """The first steps of the windows as an objective sees them."""
    now = batch.steps(0, -1)
    output = policy(now)
    return Transition(now, output.features.detach(), output.actions)


def fixed_point(backup: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """What repeated backups converge to."""
    table = torch.zeros(shape)
    for _ in range(200):
        table = backup(table)
    return table

"""The chain: a problem of action tokens whose values are known.

An action is two tokens of three bins each, the discount 0.9.

    start: (2, 1) leads to the goal state; (0, any) ends the task with 0.5; all else stays.
    goal:  (0, 2) ends the task with 1; (1, any) ends it with nothing; all else leads back to the
        start.

Hence V(goal) = 1 and V(start) = 0.9, and staying at the start is worth 0.81.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.training.objective import Learner, Objective
from vla.types import Batch, Spec

START, GOAL, ELSEWHERE = (1.0, 0.0), (0.0, 1.0), (-1.0, -1.0)
SPEC = Spec({}, ("at_start", "at_goal"), ("x", "y"), (-1.0, -1.0), (1.0, 1.0), 10)
ONE_TOKEN = Spec({}, ("at_start", "at_goal"), ("x",), (-1.0,), (1.0,), 10)
END = None
Step = tuple[tuple[float, float], tuple[int, ...], float, tuple[float, float] | None]


def toy(
    spec: Spec, head: str, count: int, *, chunk: int = 1, seed: int = 0, **options: Any
) -> MLPPolicy:
    torch.manual_seed(seed)
    small = {"type": head, "hidden": 32, "depth": 1, "heads": 2, **options}
    config = MLPConfig(
        hidden=32, depth=1, chunk=chunk, head=small, tokenizer={"type": "bins", "num_bins": count}
    )
    return config.build(spec)


def one_step_batch(
    spec: Spec, bins: int, steps: list[Step], *, cut: list[Step] = (), returns: float = 0.0
) -> Batch:  # type: ignore[assignment]
    """Windows of one step and the one after it; of the steps in `cut` nobody saw what came next.
    Actions lie well off the middle of their bins."""
    B, every = len(steps) + len(cut), [*steps, *cut]
    batch = spec.fake_batch(B, 2, 1)
    ids = torch.tensor([action for _, action, _, _ in every])
    state = torch.tensor([[now, later or (7.0, -7.0)] for now, _, _, later in every])
    ended = torch.tensor([later is END for _, _, _, later in steps] + [False] * len(cut))
    no_later = ended | torch.tensor([False] * len(steps) + [True] * len(cut))
    mask = torch.stack([torch.ones(B, dtype=torch.bool), ~no_later], 1)
    return replace(
        batch,
        state=state,
        actions=(((ids + 0.8) / bins) * 2 - 1)[:, None, None].expand(-1, 2, 1, -1).contiguous(),
        action_mask=mask[..., None],
        rewards=torch.stack(
            [torch.tensor([reward for _, _, reward, _ in every]), torch.zeros(B)], 1
        ),
        terminals=torch.stack([ended, torch.zeros(B, dtype=torch.bool)], 1),
        returns_to_go=torch.full((B, 2), returns),
        mask=mask,
    )


def chain() -> Batch:
    """Every action once at either state; some stays at the start were cut by a time limit."""
    steps: list[Step] = []
    for first in range(3):
        for second in range(3):
            action = (first, second)
            to = GOAL if action == (2, 1) else END if first == 0 else START
            steps.append((START, action, 0.5 if first == 0 else 0.0, to))
            to = END if action == (0, 2) or first == 1 else START
            steps.append((GOAL, action, 1.0 if action == (0, 2) else 0.0, to))
    return one_step_batch(SPEC, 3, steps, cut=[(START, (1, 1), 0.0, END)] * 6)


def learn(policy: MLPPolicy, objective: Objective, batch: Batch, steps: int) -> dict[str, float]:
    """The metrics of the last step."""
    learner = Learner(policy, objective).train()
    optimizer = torch.optim.Adam(
        [p for p in learner.parameters() if p.requires_grad], lr=5e-3, fused=True
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        loss, _, metrics = learner(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        objective.after_step(policy)
    return {"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}}


def values_of(policy: MLPPolicy, state: tuple[float, float], ids: list[list[int]]) -> Any:
    """What the head says of chunks (n, D) at a state, without the axis of steps."""
    batch = policy.spec.fake_batch(len(ids), 1, policy.chunk)
    actions = policy(replace(batch, state=torch.tensor(state).expand(len(ids), 1, 2))).actions
    return actions.values(torch.tensor(ids)[:, None])

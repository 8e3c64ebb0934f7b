"""Progress towards success, and imitation weighted by it, on a chain whose times are known."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tabular import CRITIC, robot, two_ways

from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.objectives.ra_bc import RABCConfig
from vla.training.offline_rl.extractions.progress_weighted import progress_weights
from vla.types import Batch

LEFT, RIGHT = -0.5, 0.5
GAMMA = 0.9
LAST = 4


def windows(rewards: list[float]) -> Any:
    """What a value part reads of training data: five steps, of which the last ends the task."""
    return SimpleNamespace(
        rewards=np.array(rewards, np.float32),
        terminals=np.arange(5) == 4,
        dataset=SimpleNamespace(root="data"),
    )


def episode(states: list[int], actions: list[float], *, solved: bool) -> list[dict[str, Any]]:
    """The steps of a walk along a chain; solved by the action at its last state."""
    steps = []
    count = len(states)
    for t in range(count):
        last = t == count - 1
        returned = GAMMA ** (count - 1 - t) if solved else 0.0
        steps.append(
            {
                "state": states[t],
                "later": states[t] if last else states[t + 1],
                "action": actions[t],
                "reward": float(solved and last),
                "end": solved and last,
                "mask": not last,
                "returned": returned,
                "solved": solved,
                "t": t,
            }
        )
    return steps


def batch_of(steps: list[dict[str, Any]]) -> Batch:
    """Windows of a step and of what follows it."""

    def column(name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.tensor([step[name] for step in steps], dtype=dtype)

    B = len(steps)
    places = torch.stack([column("state", torch.int64), column("later", torch.int64)], 1)
    mask = torch.stack([torch.ones(B, dtype=torch.bool), column("mask", torch.bool)], 1)
    nothing = torch.zeros(B)
    t = column("t", torch.int64)
    actions = column("action")[:, None].expand(B, 2)
    return dataclasses.replace(
        robot(LAST + 1).fake_batch(B, 2),
        state=torch.nn.functional.one_hot(places, LAST + 1).float(),
        actions=actions[..., None, None],
        action_mask=mask[..., None],
        rewards=torch.stack([column("reward"), nothing], 1),
        terminals=torch.stack([column("end", torch.bool), nothing.bool()], 1),
        returns_to_go=torch.stack([column("returned"), nothing], 1),
        success=torch.stack([column("solved", torch.bool)] * 2, 1) & mask,
        timesteps=torch.stack([t, t + 1], 1),
        mask=mask,
    )


def chain() -> Batch:
    """Solved walks straight to the end; failed ones that turn back from the middle."""
    steps = episode([0, 1, 2, 3, 4], [RIGHT] * 5, solved=True) * 4
    steps += episode([2, 1, 0, 0], [LEFT] * 4, solved=False) * 8
    return batch_of(steps)


def learn(objective: ActorCritic, policy: Any, batch: Batch, steps: int = 300) -> None:
    optimizer = torch.optim.Adam([*policy.parameters(), *objective.parameters()], lr=2e-2)
    policy.train(), objective.train()
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(policy, batch)[0].backward()
        optimizer.step()
        objective.after_step(policy)
    policy.eval(), objective.eval()


def test_progress_is_the_share_of_the_time_to_success_and_moves_away_are_not_imitated() -> None:
    policy = two_ways(LAST + 1)
    batch = chain()
    config = RABCConfig.model_validate({"critic": CRITIC, "discount": GAMMA, "kappa": 0.05})
    objective = config.build(policy)
    learn(objective, policy, batch)
    with torch.no_grad():
        progress = objective.value.progress(torch.eye(LAST + 1)[None])[0]
        torch.testing.assert_close(progress, torch.linspace(0, 1, LAST + 1), atol=0.03, rtol=0)
        _, metrics = objective.loss(policy, batch)
        goes_right = policy(batch.steps(0, 1)).actions.logits.softmax(-1)[:5, 0, 0, 1]
    # most of the data turns back in states 1 and 2: a clone would go left there
    assert (goes_right[1:4] > 0.9).all()
    # two of four steps of each failure lead away; the others stand still, and count a little
    assert metrics["share_left_out"].item() == pytest.approx(16 / 52, abs=1e-4)
    assert 0.05 < goes_right[0] < 0.95
    clone = two_ways(LAST + 1)
    values = {"value": {"type": "progress", "critic": CRITIC}, "discount": GAMMA}
    imitation = ActorCriticConfig.model_validate(values | {"extraction": {"type": "bc"}})
    learn(imitation.build(clone), clone, batch)
    with torch.no_grad():
        goes_right = clone(batch.steps(0, 1)).actions.logits.softmax(-1)[:5, 0, 0, 1]
    assert goes_right[1] < 0.5
    assert goes_right[2] < 0.5


def test_what_a_chunk_makes_is_known_at_ends_and_nothing_at_cuts() -> None:
    policy = two_ways(LAST + 1)
    batch = chain()
    objective = RABCConfig.model_validate({"critic": CRITIC, "discount": GAMMA}).build(policy)
    lookahead = objective.lookahead(policy, batch)
    assert lookahead is not None
    progress = torch.full(batch.mask[:, :1].shape, 0.25)
    made = objective.value._made(progress, lookahead)[:, 0]
    assert made[4].item() == pytest.approx(0.75)  # solved: progress is 1
    assert made[23].item() == 0  # cut off


def test_weights_are_those_of_the_paper() -> None:
    made = torch.tensor([[-0.1, 0.0, 0.01, 0.02, 0.05]])
    weights = progress_weights(made, torch.tensor(0.01), torch.tensor(0.01), kappa=0.03)
    expected = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert weights[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_what_tells_no_times_is_refused() -> None:
    policy = two_ways(2)
    objective = RABCConfig().build(policy)
    objective.value.check(windows([0, 0, 0, 0, 1]))
    for rewards in ([0, 0, 0, 0, 2], [0, 1, 0, 0, 1], [-1, -1, -1, -1, 0]):
        with pytest.raises(ObjectiveError, match=r"set data\.rewards: \{kind: success\}"):
            objective.value.check(windows(rewards))
    undiscounted = {"value": {"type": "progress"}, "extraction": {"type": "bc"}, "discount": 1.0}
    objective = ActorCriticConfig.model_validate(undiscounted).build(policy)
    with pytest.raises(ObjectiveError, match=r"set discount: 0\.99"):
        objective.value.check(windows([0, 0, 0, 0, 1]))
    with pytest.raises(ObjectiveError, match=r"value: \{type: progress\}"):
        ActorCriticConfig.model_validate({"extraction": {"type": "progress_weighted"}}).build(
            policy
        )

"""Steps in which the policy is not to learn leave it as it is: no weight decay, no momentum, no
count of the optimiser."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import training_toy
from tabular import CRITIC, Step, batch_of, robot

from vla.models.policies.mlp import MLPConfig
from vla.training.config import OptimConfig
from vla.training.objective import Learner
from vla.training.objectives.actor_critic import ActorCriticConfig
from vla.training.optimizer import build_optimizer
from vla.training.state import TrainingState

BATCH = batch_of([Step(0, a, reward=1 - a * a) for a in (-0.7, -0.2, 0.3, 0.9)], 1)
TD = {"type": "td", "next_actions": "data", "critic": CRITIC}


def state_of(
    extraction: dict[str, Any], warmup: int = 0, value: dict[str, Any] = TD, head: str = "squashed"
) -> Any:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=8, depth=1, head={"type": head}).build(robot(1))
    config = {"value": value, "extraction": extraction, "warmup_steps": warmup}
    learner = Learner(policy, ActorCriticConfig.model_validate(config).build(policy)).train()
    return TrainingState(learner, build_optimizer(learner, OptimConfig(weight_decay=0.5)), None)


def moved(state: TrainingState, steps: int) -> list[bool]:
    """Whether any parameter of the policy changed, step by step."""
    changes = []
    for _ in range(steps):
        before = [p.detach().clone() for p in state.policy.parameters()]
        state.learner(BATCH)[0].backward()
        state.update(0.01)
        changes.append(
            any(
                not torch.equal(a, b)
                for a, b in zip(before, state.policy.parameters(), strict=True)
            )
        )
    return changes


@pytest.mark.parametrize("extraction", ["bc", "weighted_bc", "ddpg_bc", "best_of_n"])
def test_warm_up_is_of_the_values_alone(extraction: str) -> None:
    state = state_of({"type": extraction}, warmup=3)
    critic = state.learner.objective.value.action_critic
    values = [p.detach().clone() for p in critic.parameters()]
    assert moved(state, 3) == [False] * 3
    assert not any(torch.equal(a, b) for a, b in zip(values, critic.parameters(), strict=True))
    before = [p.detach().clone() for p in state.policy.parameters()]
    assert moved(state, 1) == [True]
    # the first step of Adam goes as far as the rate, whenever it comes; what decays is taken off
    for old, new in zip(before, state.policy.parameters(), strict=True):
        kept = old * (1 - 0.01 * 0.5) if old.ndim >= 2 else old
        assert (new - kept).abs().max() <= 0.01 * 1.001


def test_a_policy_that_is_not_to_imitate_stays() -> None:
    assert moved(state_of({"type": "best_of_n", "imitate": False}), 2) == [False, False]


@pytest.mark.parametrize("processes", ["one", "several"])
def test_skipped_steps_move_nothing_in_one_process_and_in_several(
    processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: processes == "several")
    state = state_of({"type": "ddpg_bc", "every": 2}, warmup=2)
    assert moved(state, 6) == [False, False, False, True, False, True]


def test_a_learned_temperature_takes_part_in_skipped_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaging over processes waits for every parameter that learns."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    state = state_of({"type": "ddpg_bc", "every": 2, "temperature": "auto"}, head="gaussian")
    state.learner(BATCH)[0].backward()
    assert [
        name for name, p in state.learner.named_parameters() if p.requires_grad and p.grad is None
    ] == []


def test_a_trunk_that_values_teach_goes_on_learning() -> None:
    torch.manual_seed(0)
    policy = training_toy.ToyConfig(history=1, chunk=1).build(training_toy.SPEC)
    value = {"type": "expectile", "critic": CRITIC | {"joint": True}}
    objective = ActorCriticConfig.model_validate({"value": value, "warmup_steps": 1}).build(policy)
    learner = Learner(policy, objective).train()
    state = TrainingState(learner, build_optimizer(learner, OptimConfig(weight_decay=0.5)), None)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    batch = dataclasses.replace(
        training_toy.SPEC.fake_batch(2, 2), instruction=list(training_toy.TASKS)
    )
    learner(batch)[0].backward()
    state.update(0.01)
    moved = {
        name.partition(".")[0]
        for name, p in policy.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"embed", "norm", "tasks"}

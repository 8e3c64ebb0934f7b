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
from vla.models.policy import Policy
from vla.training.config import OptimConfig
from vla.training.objective import Learner
from vla.training.objectives.actor_critic import ActorCriticConfig
from vla.training.optimizer import EMA, build_optimizer
from vla.training.state import TrainingState
from vla.types import Batch, PolicyOutput, Spec

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


class Watching(training_toy.Toy):
    """The toy with an auxiliary loss and a batch norm, which every forward pass moves."""

    def __init__(self, config: training_toy.ToyConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.norm = torch.nn.BatchNorm1d(16)
        self.keyframe = torch.nn.Linear(16, 1)

    def forward(self, batch: Batch) -> PolicyOutput:
        images = batch.images["front"].float().mean((2, 3, 4))[..., None] / 255
        hidden_BTF = self.norm((images + self.embed.bias).transpose(1, 2)).transpose(1, 2)
        actions = self.out(hidden_BTF).unflatten(-1, (self.chunk, -1))
        losses = {"keyframe_loss": self.keyframe(hidden_BTF)[..., 0] ** 2}
        return PolicyOutput(hidden_BTF, training_toy.SquaredError(actions), losses)


def trained(objective: dict[str, Any], steps: int) -> tuple[Policy, dict[str, torch.Tensor], Any]:
    """A policy after so many steps of the loop's own state, what it was before, and the state."""
    torch.manual_seed(0)
    policy = Watching(training_toy.ToyConfig(history=1, chunk=1), training_toy.SPEC)
    built = ActorCriticConfig.model_validate(objective).build(policy)
    learner = Learner(policy, built).train()
    optimizer = build_optimizer(learner, OptimConfig(weight_decay=0.5))
    state = TrainingState(learner, optimizer, EMA(policy, 0.9))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    for _ in range(steps):
        data = training_toy.SPEC.fake_batch(4, 1 + built.next_step)
        data = dataclasses.replace(data, instruction=[training_toy.TASKS[0]] * 4)
        learner(data)[0].backward()
        state.update(0.01)
    return policy, before, state


def changed(policy: Policy, before: dict[str, torch.Tensor]) -> set[str]:
    after = policy.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}


JOINT = {"type": "expectile", "critic": CRITIC | {"joint": True}}


@pytest.mark.parametrize("value", [JOINT, TD], ids=["joint", "apart"])
def test_nothing_of_the_policy_moves_while_values_warm_up(value: dict[str, Any]) -> None:
    """Neither by joint critics nor by auxiliary losses, and not the statistics of batch norm."""
    policy, before, state = trained({"value": value, "warmup_steps": 3}, steps=3)
    assert changed(policy, before) == set()
    with state.deployed() as deployed:
        assert changed(deployed, before) == set()  # the running mean
    critic = state.learner.objective.value.action_critic
    assert any(p in state.optimizer.state for p in critic.parameters())
    assert not any(p in state.optimizer.state for p in policy.parameters())

    policy, before, _ = trained({"value": value, "warmup_steps": 3}, steps=4)
    assert {"embed.bias", "keyframe.weight", "norm.running_mean"} <= changed(policy, before)


def test_skipped_steps_have_no_auxiliary_loss_but_joint_values() -> None:
    extraction = {"type": "best_of_n", "imitate": False}
    policy, before, _ = trained({"value": TD, "extraction": extraction}, steps=2)
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert changed(policy, before) == statistics
    policy, before, _ = trained({"value": JOINT, "extraction": extraction}, steps=2)
    assert changed(policy, before) - statistics == {"embed.bias", "norm.weight", "norm.bias"}

"""Target critics over the features of a slow copy of the policy, or over the moving trunk's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import training_toy

from vla.config import lookup
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.types import Batch

CRITIC = {"hidden": 8, "depth": 1}
VALUES: dict[str, dict[str, Any]] = {
    "expectile": {},
    "td": {"next_actions": "data"},
    "td of the policy": {"type": "td"},
    "td by a slow policy": {"type": "td", "target_policy": True, "next_actions": "mode"},
    "conservative": {"importance": False, "sampled": 2},
}
RATE = 0.25


def batch() -> Batch:
    found = training_toy.SPEC.fake_batch(3, 2 + 2, 2)
    return dataclasses.replace(found, instruction=[training_toy.TASKS[0]] * 3)


def start(name: str, target: str) -> tuple[training_toy.Toy, ActorCritic]:
    torch.manual_seed(0)
    policy = training_toy.ToyConfig(history=2, chunk=2).build(training_toy.SPEC)
    value = {"type": name, "critic": CRITIC, "target_rate": RATE} | VALUES[name]
    config = {"value": value, "extraction": {"type": "bc"}, "target": target}
    return policy, ActorCriticConfig.model_validate(config).build(policy).train()


def read_by_targets(objective: ActorCritic, policy: training_toy.Toy, data: Batch) -> torch.Tensor:
    """The features that the target critics are given in one loss."""
    seen: list[torch.Tensor] = []
    network = objective.value.target_critic.network
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective.loss(policy, data)
    hook.remove()
    assert len(seen) == 1
    return seen[0]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("target", ["heads", "policy"])
def test_whose_features_target_critics_read(name: str, target: str) -> None:
    policy, objective = start(name, target)
    data = batch()
    objective.loss(policy, data)  # the copy takes the weights that training starts from
    first = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    steps = data.steps(0, -2) if name == "expectile" else data.steps(2, None)
    found = read_by_targets(objective, policy, data)
    moving = policy.features(steps)
    slow_everywhere = name == "td by a slow policy"
    if target == "heads" and not slow_everywhere:
        torch.testing.assert_close(found, moving)
        assert objective.target_policy is None
        return
    assert not torch.allclose(found, moving)
    moved = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    policy.load_state_dict(first)
    torch.testing.assert_close(found, policy.features(steps))

    # after a step the copy has gone a quarter of the way
    policy.load_state_dict(moved)
    objective.after_step(policy)
    between = {}
    for key, tensor in first.items():
        between[key] = tensor.lerp(moved[key], RATE) if tensor.is_floating_point() else tensor
    found = read_by_targets(objective, policy, data)
    policy.load_state_dict(between)
    torch.testing.assert_close(found, policy.features(steps))


def test_presets_have_it_and_values_without_targets_refuse_it() -> None:
    policy, _ = start("expectile", "heads")
    iql = lookup("objectives", "iql").model_validate({"type": "iql", "target": "policy"})
    assert iql.build(policy).target_policy is not None
    awr = lookup("objectives", "awr").model_validate({"type": "awr", "target": "policy"})
    with pytest.raises(ObjectiveError, match=r"target: policy would do nothing.*drop it"):
        awr.build(policy)

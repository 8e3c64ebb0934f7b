"""One rule for the losses that a policy adds, whichever objective it is trained by."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import training_toy
from torch import Tensor

from vla.config import lookup
from vla.models.policy import Policy
from vla.training.losses import masked_mean
from vla.training.objective import Objective, ObjectiveConfig
from vla.training.offline_rl.extractions.base import ExtractionLoss
from vla.types import Batch, PolicyOutput

NO_VALUES = {"type": "actor_critic", "value": {"type": "none"}, "extraction": {"type": "bc"}}
CRITIC = {"hidden": 8, "depth": 1}


class Watching(training_toy.Toy):
    """The toy with an auxiliary loss, different at every step."""

    def forward(self, batch: Batch) -> PolicyOutput:
        output = super().forward(batch)
        return dataclasses.replace(output, losses={"keyframe_loss": output.features[..., 0] ** 2})


def policy() -> Policy:
    torch.manual_seed(0)
    return Watching(training_toy.ToyConfig(history=2, chunk=1), training_toy.SPEC)


def batch(steps: int = 2, *, solved: bool = False) -> Batch:
    found = training_toy.SPEC.fake_batch(4, steps, 1)
    found.mask[1, 0] = False
    return dataclasses.replace(
        found,
        instruction=[training_toy.TASKS[number % 2] for number in range(4)],
        success=torch.full_like(found.mask, solved),
    )


def build(config: dict[str, Any], actor: Policy) -> Objective:
    found: ObjectiveConfig = lookup("objectives", config["type"]).model_validate(config)
    return found.build(actor)


def total(config: dict[str, Any], data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    actor = policy()
    return build(config, actor).loss(actor, data)


@pytest.mark.parametrize("rule", ["weighted", "all", "solved"])
@pytest.mark.parametrize("solved", [True, False])
def test_bc_and_the_control_without_values_have_one_loss(rule: str, solved: bool) -> None:
    data = batch(solved=solved)
    clone, metrics = total({"type": "bc", "auxiliary": rule}, data)
    control, _ = total(NO_VALUES | {"auxiliary": rule}, data)
    torch.testing.assert_close(control, clone)
    counts = rule != "solved" or solved
    assert bool(metrics["keyframe_loss"] > 0) is counts


@pytest.mark.parametrize("kind", ["bc", "filtered_bc", "actor_critic"])
def test_by_default_failures_count_where_imitation_counts_them(kind: str) -> None:
    config = NO_VALUES if kind == "actor_critic" else {"type": kind}
    assert total(config, batch(solved=False))[1]["keyframe_loss"] > 0


@pytest.mark.parametrize("guided", [False, True])
def test_weights_of_imitation_weigh_what_the_policy_adds(guided: bool) -> None:
    """Returns far above V give every step the greatest weight, 10."""
    extraction: dict[str, Any] = {"type": "weighted_bc", "max_weight": 10.0}
    value = {"type": "monte_carlo", "critic": CRITIC}
    if guided:
        extraction = {"type": "best_of_n", "weights": extraction}
        value["type"] = "expectile"
    config = {"type": "actor_critic", "value": value, "extraction": extraction}
    if guided:
        value |= {"advantage": "outcome", "monte_carlo_floor": True}
    found = {}
    for rule in ("weighted", "all"):
        data = batch(3 if guided else 2)
        data = dataclasses.replace(data, returns_to_go=torch.full_like(data.rewards, 100.0))
        found[rule] = total(config | {"auxiliary": rule}, data)[1]
    assert found["weighted"]["weight"] == pytest.approx(10, rel=1e-4)
    ten_times = 10 * found["all"]["keyframe_loss"]
    torch.testing.assert_close(found["weighted"]["keyframe_loss"], ten_times)


@pytest.mark.parametrize("name", ["iql", "awr", "awac"])
def test_presets_of_weighted_imitation_weigh_it_by_default(name: str) -> None:
    actor = policy()
    config = lookup("objectives", name).model_validate({"critic": CRITIC, "type": name})
    objective = config.build(actor)
    extracted: list[ExtractionLoss] = []
    compute = objective.extraction.loss

    def recorded(*arguments: Any) -> ExtractionLoss:
        extracted.append(compute(*arguments))
        return extracted[-1]

    objective.extraction.loss = recorded
    data = batch(2 + objective.next_step)
    data = dataclasses.replace(data, returns_to_go=10 * torch.rand_like(data.rewards))
    metrics = objective.loss(actor, data)[1]
    now = data.steps(0, 2)
    weights_BT = extracted[0].weights
    assert weights_BT is not None
    loss_BT = actor(now).losses["keyframe_loss"]
    expected = masked_mean(weights_BT * loss_BT, now.mask)
    torch.testing.assert_close(metrics["keyframe_loss"], expected.detach())
    assert not torch.allclose(metrics["keyframe_loss"], masked_mean(loss_BT, now.mask))

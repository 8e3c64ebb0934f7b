"""Losses of every objective at a fixed seed: a refactor keeps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vla.config import lookup, registered
from vla.models.policies.mlp import MLPConfig
from vla.models.policy import Policy
from vla.training.online_rl.policy_gradient import PolicyGradient
from vla.types import Batch, Spec

SPEC = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0, -1.0), (1.0, 2.0), control_hz=10.0)
BINS = {"type": "bins", "num_bins": 4}
HEADS: dict[str, dict[str, Any]] = {
    "q_transformer": {"type": "q_values", "hidden": 8, "depth": 1, "heads": 1},
    "dqn": {"type": "q_values", "hidden": 8, "depth": 1, "heads": 1},
    "ilql": {"type": "ilql", "hidden": 8, "depth": 1, "heads": 1},
    "cql": {"type": "gaussian", "squash": "full"},
    "cal_ql": {"type": "gaussian", "squash": "full"},
    "fql": {"type": "flow", "hidden": 8, "depth": 1, "integration_steps": 2},
}
OPTIONS: dict[str, dict[str, Any]] = {"recap": {"language": "blank", "indicator": True}}
# over policies of their own: the losses of BC, and those of a context (test_adaptive.py)
OTHER_POLICY = {"return_conditioned", "adaptation"}
GOLDEN: dict[str, list[float]] = {
    "a2c": [0.562152, 0.323968, 0.278117, 0.253557],
    "actor_critic": [3.65682, 2.85051, 2.36822, 2.0403],
    "awac": [3.79484, 2.92155, 2.42531, 2.0853],
    "awr": [51.5984, 0.95876, 5.46323, 2.68576],
    "bc": [3.73134, 3.10517, 2.67722, 2.36602],
    "cal_ql": [30.2214, 27.841, 31.9538, 30.9436],
    "cql": [29.3619, 28.8765, 27.6399, 28.6693],
    "ddpg": [0.100211, -0.33547, -0.222985, -0.285584],
    "dqn": [0.00338858, 0.0033885, 0.00338842, 0.00338835],
    "filtered_bc": [3.73134, 3.10517, 2.67722, 2.36602],
    "fql": [12.9239, 15.2417, 19.6293, 13.4977],
    "grpo": [0.515081, 0.417323, 0.413635, 0.410696],
    "ilql": [1.42474, 1.42278, 1.42084, 1.41893],
    "iql": [3.65682, 2.85051, 2.36822, 2.0403],
    "kl": [3.73967, 2.98769, 2.32762, 1.97214],
    "mpo": [0.667687, 0.446818, 0.604855, 0.598449],
    "ppo": [0.57057, 0.437605, 0.421644, 0.414284],
    "q_transformer": [0.157304, 0.157297, 0.157291, 0.157284],
    "ra_bc": [2.70853, 1.20407, 0.804152, 0.724924],
    "recap": [4.44581, 3.39616, 2.86296, 2.50684],
    "reinforce": [0.506662, 0.303686, 0.270109, 0.24997],
    "rlpd": [8.45704, 3.9331, 29.4368, 9.57883],
    "sac": [5.45678, 6.98119, 4.84777, 9.27019],
    "td3": [0.279893, -0.398282, 0.0309944, -0.329338],
    "td3_bc": [0.279893, 0.473812, 0.0309944, 0.306234],
    "trpo": [0.110979, 0.00674936, 0.002302, 0.00134216],
}
"""objective -> losses of three steps of training, and the one of validation behind them."""


def batch(steps: int) -> Batch:
    """Windows of three episodes that differ in length, reward and end."""
    found = SPEC.fake_batch(3, steps, 2)
    found.rewards.uniform_(0, 0.3)
    found.returns_to_go.uniform_(0, 0.9)
    found.terminals[0, -2] = True
    found.mask[0, -1:] = False
    found.mask[1, :1] = False
    return found


def add_round(data: Batch, policy: Policy, objective: PolicyGradient) -> None:
    """The columns of a round in which the policy chose the chunks, of which it executed 1 or 2."""
    data.extras["decision"] = torch.tensor([1, 2, 2])[:, None].expand(3, data.actions.shape[1])
    with torch.no_grad():
        acted = objective._likelihood(policy(data).actions, data)
    generator = torch.Generator().manual_seed(2)
    found = {
        "group": torch.zeros(data.mask.shape),
        "advantage": torch.randn(data.mask.shape, generator=generator),
        "value_target": torch.rand(data.mask.shape, generator=generator),
        # away from 1, so that some ratios are clipped
        "old_log_prob": acted.log_prob + torch.randn(acted.mask.shape, generator=generator) / 4,
    }
    data.extras.update(found)


def losses(name: str) -> list[float]:
    torch.manual_seed(0)
    head = HEADS.get(name, {"type": "gaussian"})
    values = {"hidden": 8, "depth": 1, "chunk": 2, "head": head, "tokenizer": BINS}
    config = MLPConfig.model_validate(values | OPTIONS.get(name, {}))
    policy = config.build(SPEC).train()
    objective = lookup("objectives", name)().build(policy).train()
    data = batch(3 + objective.next_step)
    if isinstance(objective, PolicyGradient):
        add_round(data, policy, objective)
    parameters = [p for p in (*policy.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    found = []
    for _ in range(3):
        loss, _ = objective.loss(policy, data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(policy)
        found.append(loss.item())
    policy.eval(), objective.eval()
    with torch.no_grad():
        found.append(objective.validate(policy, data)["loss"].item())
    return found


@pytest.mark.parametrize("name", sorted(set(registered("objectives")) - OTHER_POLICY))
def test_golden_losses(name: str) -> None:
    assert losses(name) == pytest.approx(GOLDEN[name], rel=1e-3)

"""A risk network that calls the upper half of the first action dimension dangerous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.data import Episode
from vla.models.policies.mlp import MLPConfig
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.risk import RiskConfig, RiskModel
from vla.models.rewards.storage import save_reward
from vla.types import Spec


def episodes(spec: Spec, count: int = 20) -> list[Episode]:
    """Random actions; a step costs where the first number of its action is above its middle."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        actions = rng.uniform(spec.action_low, spec.action_high, (10, spec.action_dim))
        middle = (spec.action_low[0] + spec.action_high[0]) / 2
        found.append(
            Episode(
                images={},
                state=rng.normal(size=(10, spec.state_dim)).astype(np.float32),
                actions=actions.astype(np.float32),
                rewards=np.zeros(10, np.float32),
                success=np.zeros(10, bool),
                terminated=False,
                instruction="go",
                extras={"cost": (actions[:, 0] > middle).astype(np.float32)},
            )
        )
    return found


def risk_network(spec: Spec, folder: Path) -> RiskModel:
    """Learned from those in a second, and saved."""
    torch.manual_seed(0)
    policy = MLPConfig(hidden=8, language=None).build(spec)
    config = RiskConfig(hidden=16, horizon=1 / spec.control_hz)
    model: RiskModel = config.build(policy.spec, policy)
    steps = LabelledSteps.of_episodes(episodes(spec), history=1, cameras=())
    model.fit(steps, None)
    examples = model.examples(steps, None)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(150):
        loss, _ = model.loss(examples.batch(np.random.default_rng(step), 32))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_reward(model.eval(), folder)
    return model

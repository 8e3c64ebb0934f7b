"""A chain of three states with known values: what the tests of offline evaluation run on.

To the right (action above 0) leads 0 -> 1 -> 2 -> the end, with a reward of 1; to the left leads
straight to the end, with a reward of 0.3. With discount 0.9 three policies are worth, from state 0:
right 0.81, left 0.3, right and then left 0.27.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vla.data import DatasetWriter, Episode
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.types import Spec

SPEC = Spec({}, ("s0", "s1", "s2"), ("move",), (-1.0,), (1.0,), 10.0)
DISCOUNT = 0.9
REWARDS = {"trust_terminals": True}  # its longest episodes do end there
MOVES = {
    "left": (-1, -1, -1),
    "right": (1, 1, 1),
    "turns": (1, -1, -1),
}  # of the policies, in each state
VALUES = {"left": 0.3, "right": 0.81, "turns": 0.27}


def write_chain(root: Path, *, episodes: int = 70, seed: int = 0) -> Path:
    """Episodes of random moves; every fifth is cut off after two steps, if it lasts so long."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(root, SPEC) as writer:
        for episode in range(episodes):
            states, actions, rewards = [], [], []
            place, ended = 0, False
            while not ended and not (episode % 5 == 0 and len(states) == 2):
                right = rng.random() < 0.6
                states.append(np.eye(3)[place])
                actions.append([(1 if right else -1) * rng.uniform(0.3, 1.0)])
                ended = not right or place == 2
                rewards.append((1.0 if right else 0.3) if ended else 0.0)
                place += 1
            writer.add_episode(
                Episode(
                    images={},
                    state=np.array(states, np.float32),
                    actions=np.array(actions, np.float32),
                    rewards=np.array(rewards, np.float32),
                    success=np.array([ended and r == 1.0 for r in rewards]),
                    terminated=ended,
                    instruction="walk",
                )
            )
    return root


def mover(name: str, *, chunk: int = 1) -> MLPPolicy:
    """A policy that was taught to make these moves, `chunk` of them at a time."""
    torch.manual_seed(0)
    policy = MLPConfig(
        hidden=16, depth=1, chunk=chunk, head={"type": "regression", "hidden": 16, "depth": 1}
    ).build(SPEC)
    moves = (
        torch.tensor([[MOVES[name][min(s + k, 2)] for k in range(chunk)] for s in range(3)]).float()
        * 0.6
    )
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    for _ in range(120):
        error = policy._output(torch.eye(3)[:, None]).actions.mode()[:, 0, :, 0] - moves
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
    assert error.abs().max() < 0.1
    return policy.eval()

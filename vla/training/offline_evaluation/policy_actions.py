"""What a policy would do at every step of recorded episodes, found in one pass over their frames.

N frames of the chosen episodes, B episodes side by side, F features, K actions per chunk, A action
dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vla.data import Windows
from vla.models.policy import Policy


@dataclass(frozen=True)
class PolicyActions:
    """A policy at every step of some episodes, on the CPU.

    Attributes:
        features: float32 (N, F), of its trunk, from what was seen up to the step.
        actions: float32 (N, K, A), the chunk that it would execute there, in robot units and within
            the spec's limits.
    """

    features: Float[Tensor, "N F"]
    actions: Float[Tensor, "N K A"]


@torch.no_grad()
def predict_actions(
    policy: Policy,
    windows: Windows,
    *,
    rows: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PolicyActions:
    """Leads the policy through the episodes as control would, but executes the data's actions.

    Each frame is encoded once, whatever the policy's history: it remembers its past steps as it
    does in control, and reads the actions and rewards of the data. Its most likely chunks are
    taken; what draws at random all the same (best of N) draws by `seed`.

    Args:
        policy: in evaluation mode, of the windows' robot.
        windows: of the episodes; their history and chunk do not matter.
        rows: how many episodes go side by side.
        progress: called with (frames done, frames in all).
    """
    first_frame = np.cumsum(windows.lengths) - windows.lengths
    longest_first = np.argsort(-windows.lengths, kind="stable")
    generator = torch.Generator(policy.device).manual_seed(seed)
    features = torch.empty(len(windows), policy.feature_dim)
    actions = torch.empty(len(windows), policy.chunk, policy.spec.action_dim)
    done = 0
    for first in range(0, len(longest_first), rows):
        group = longest_first[first : first + rows]
        memory = None
        for t in range(int(windows.lengths[group[0]])):
            # sorted by length: those that still run are a prefix, and memory loses its last rows
            running = int((windows.lengths[group] > t).sum())
            index_B = first_frame[group[:running]] + t
            if memory is not None and memory.batch_size > running:
                memory = memory.select(range(running))
            # the last step of each window: the policy's memory holds what came before
            batch = windows.batch(index_B).steps(windows.history - 1, windows.history)
            # the reward that the step before has brought, by which an asked return counts down
            rewards_B = torch.zeros(running)
            if t:
                rewards_B = torch.from_numpy(windows.rewards[index_B - 1])
            observation = dataclasses.replace(batch.observation(), reward=rewards_B)
            output, memory = policy.step(observation.to(policy.device), memory)
            # `step` gives one step: the axis T is 1
            chunk_BKA = output.actions.sample(generator, temperature=0.0)[:, -1]
            chunk_BKA = policy.within_limits(chunk_BKA)
            features[index_B] = output.features[:, -1].float().cpu()
            actions[index_B] = chunk_BKA.float().cpu()
            # what the robot did, not what the policy would do: the next frame follows from it
            executed_B1A = batch.actions[:, -1, :1]
            memory = policy.remember(memory, executed_B1A.to(policy.device))
            done += running
            if progress is not None:
                progress(done, len(windows))
    return PolicyActions(features, actions)


__all__ = ["PolicyActions", "predict_actions"]

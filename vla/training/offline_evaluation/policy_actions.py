"""What a policy would do at every step of recorded episodes, found in one pass over their frames.

N frames of the chosen episodes, B episodes side by side, F features, K actions per chunk, A action dimensions.
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
class Decisions:
    """A policy at every step of some episodes, on the CPU.

    Attributes:
        features: float32 (N, F), what its trunk makes of what was seen up to the step.
        actions: float32 (N, K, A), the chunk that it would execute there, in robot units and within the spec's limits.
    """

    features: Float[Tensor, "N F"]
    actions: Float[Tensor, "N K A"]


@torch.no_grad()
def decide(
    policy: Policy,
    windows: Windows,
    *,
    rows: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Decisions:
    """Leads the policy through the episodes as control would, except that what it decides is not executed.

    Each frame is encoded once, whatever the policy's history: it remembers its past steps as it does in control, and is told
    the actions and rewards of the data. Its most likely chunks are taken; what draws at random all the same (best of N) draws
    by `seed`.

    Args:
        policy: in evaluation mode, of the windows' robot.
        windows: of the episodes; their history and chunk do not matter.
        rows: how many episodes go side by side.
        progress: called with (frames done, frames in all).
    """
    ends = np.cumsum(windows.lengths)
    starts, longest_first = ends - windows.lengths, np.argsort(-windows.lengths, kind="stable")
    generator = torch.Generator(policy.device).manual_seed(seed)
    features = torch.empty(len(windows), policy.feature_dim)
    actions = torch.empty(len(windows), policy.chunk, policy.spec.action_dim)
    done = 0
    for first in range(0, len(longest_first), rows):
        group = longest_first[first : first + rows]
        memory = None
        for t in range(int(windows.lengths[group[0]])):
            running = int((windows.lengths[group] > t).sum())  # those still running are a prefix
            index_B = starts[group[:running]] + t
            if memory is not None and memory.batch_size > running:
                memory = memory.select(range(running))
            batch = windows.batch(index_B).steps(windows.history - 1, windows.history)
            rewards_B = (
                torch.from_numpy(windows.rewards[index_B - 1]) if t else torch.zeros(running)
            )
            observation = dataclasses.replace(batch.observation(), reward=rewards_B).to(
                policy.device
            )
            output, memory = policy.step(observation, memory)
            chunk_BKA = output.actions.sample(generator, temperature=0.0)[:, -1]
            features[index_B] = output.features[:, -1].float().cpu()
            actions[index_B] = chunk_BKA.clamp(policy.action_low, policy.action_high).float().cpu()
            memory = policy.remember(memory, batch.actions[:, -1, :1].to(policy.device))
            done += running
            if progress is not None:
                progress(done, len(windows))
    return Decisions(features, actions)


__all__ = ["Decisions", "decide"]

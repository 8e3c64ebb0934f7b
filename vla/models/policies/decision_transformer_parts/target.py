"""What a return-conditioned policy is asked for in control, and how it counts down.

B robots.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vla.config import UserError
from vla.models.policies.decision_transformer_parts.memory import DecisionMemory
from vla.types import Observation

Condition = Literal["return", "success", "none"]


def asked_from_now(
    observation: Observation,
    memory: DecisionMemory | None,
    *,
    condition: Condition,
    target_return: float | None,
    device: torch.device,
) -> tuple[Float[Tensor, " B"], Int64[Tensor, " B"]]:
    """What is asked for from now on, and the index of the present step in its episode.

    A return counts down by the rewards that have come in (Chen et al. 2021, algorithm 1); success
    stays what it was.

    Args:
        target_return: asked for at the start of an episode if the observation does not say; None: 1
            for success.

    Raises UserError if no target return is known, or a reward is missing while a return counts
    down.
    """
    if memory is not None:
        # a new instruction does not begin a new episode: time and target go on
        clock_B = memory.clock + 1
        if condition != "return":
            return memory.target, clock_B
        if observation.reward is None:
            raise UserError(
                "observation.reward is missing: a return that counts down needs every reward; "
                "set it"
            )
        return memory.target - observation.reward.to(device), clock_B
    B = observation.batch_size
    clock_B = torch.zeros(B, dtype=torch.long, device=device)
    if observation.target_return is not None:
        return observation.target_return.to(device), clock_B
    target = target_return
    if target is None:
        # there is no such default for returns: what a good one is depends on the data
        target = {"success": 1.0, "none": 0.0}.get(condition)
    if target is None:
        raise UserError(
            "target_return is not known: set target_return in the evaluation (or "
            "policy.target_return in training, or observation.target_return) to the return to ask "
            "for, such as the best of the data"
        )
    return torch.full((B,), target, device=device), clock_B


__all__ = ["Condition", "asked_from_now"]

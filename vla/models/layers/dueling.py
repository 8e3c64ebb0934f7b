"""The last layer of a head that gives values of ids.

H width, V ids, M bins of a value.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class DuelingOutput(nn.Module):
    """The value of the place, and of each id what it is better by than the mean of all ids.

    What all ids have in common is learned from whichever was tried.

    Source: Wang et al., 2016, "Dueling network architectures for deep reinforcement learning", eq.
    9; for M numbers of each id that of Hessel et al., 2018, "Rainbow".

    Args:
        width: H.
        ids: V.
        numbers: M, that each id has.
    """

    def __init__(self, width: int, ids: int, numbers: int = 1) -> None:
        super().__init__()
        self.numbers = numbers
        self.value = nn.Linear(width, numbers)
        self.advantage = nn.Linear(width, ids * numbers)
        for layer in (self.value, self.advantage):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "... H"]) -> Float[Tensor, "... V*M"]:
        advantage = self.advantage(x).unflatten(-1, (-1, self.numbers))
        centred = advantage - advantage.mean(-2, keepdim=True)
        return (self.value(x).unsqueeze(-2) + centred).flatten(-2)

    @torch.no_grad()
    def start_at(self, numbers: Float[Tensor, " M"]) -> None:
        """What all ids begin with."""
        self.value.bias.copy_(numbers)


__all__ = ["DuelingOutput"]

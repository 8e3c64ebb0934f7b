"""The feed-forward layer of a transformer's block.

D width.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FeedForwardKind = Literal["linear", "swiglu", "gelu", "gelu_tanh", "relu"]


class FeedForward(nn.Module):
    """What follows attention in a block.

    linear: one Dense without activation (RT-1's release). swiglu: `width` hidden channels (its JAX
    release). gelu, gelu_tanh (GPT-2) and relu: 4 times as wide.
    """

    def __init__(self, width: int, kind: FeedForwardKind, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(dropout)
        inner = width
        if kind == "swiglu":
            self.hidden = nn.Linear(width, 2 * width)  # gate and value
        elif kind != "linear":
            inner = 4 * width
            self.hidden = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if self.kind == "swiglu":
            gate, value = self.hidden(x).chunk(2, dim=-1)
            x = F.silu(gate) * value
        elif self.kind == "relu":
            x = F.relu(self.hidden(x))
        elif self.kind != "linear":
            approximate = "tanh" if self.kind == "gelu_tanh" else "none"
            x = F.gelu(self.hidden(x), approximate=approximate)
        return self.dropout(self.out(x))


__all__ = ["FeedForward", "FeedForwardKind"]

"""TokenLearner: a map of many tokens becomes a few, each a weighted mean of all (Ryoo et al. 2021,
as in RT-1).

N images, P positions of the map, D token width, M learned tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class TokenLearner(nn.Module):
    """LayerNorm -> Dense -> GELU (tanh) -> Dense -> softmax over positions -> mean of the
    un-normalised tokens."""

    def __init__(self, token_dim: int, *, tokens: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(token_dim)
        self.hidden = nn.Linear(token_dim, hidden)
        self.score = nn.Linear(hidden, tokens)

    def forward(self, x_NPD: Float[Tensor, "N P D"]) -> Float[Tensor, "N M D"]:
        # scores see normalised tokens, the mean is of the tokens as they are: the release does so
        # too
        scores_NPM = self.score(F.gelu(self.hidden(self.norm(x_NPD)), approximate="tanh"))
        return scores_NPM.softmax(dim=1).transpose(1, 2) @ x_NPD


__all__ = ["TokenLearner"]

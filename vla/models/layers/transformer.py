"""Pre-LN transformer layers whose key width is free of the model's width, with rotary time positions if wanted.

B sequences, L tokens, D width, H heads, E key width, R rows that are needed, P tokens whose keys are kept from before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

FeedForwardKind = Literal["linear", "swiglu", "gelu", "gelu_tanh", "relu"]
KeyValue = tuple[Tensor, Tensor]
"""Keys and values (B, H, P, E) of one layer."""
AttentionMask = Tensor | BlockMask
"""Boolean, True where attention is allowed; or compiled for flex_attention, which takes no dropout and no rows."""


class Attention(nn.Module):
    """Multi-head attention with `heads * key_dim` inner channels."""

    def __init__(self, width: int, heads: int, key_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.key_dim, self.dropout = heads, key_dim, dropout
        inner = heads * key_dim
        self.query = nn.Linear(width, inner)
        self.key_value = nn.Linear(width, 2 * inner)
        self.out = nn.Linear(inner, width)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        mask: AttentionMask,
        rows: Int64[Tensor, " R"] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """Attention of the rows (all where None); `rotation`: cosines and sines (L, E/2) of the time positions."""
        queries_BRD = x_BLD if rows is None else x_BLD[:, rows]
        q_BHRE = self._split(self.query(queries_BRD))
        k_BHLE, v_BHLE = (self._split(part) for part in self.key_value(x_BLD).chunk(2, dim=-1))
        if rotation is not None:
            cos_LE, sin_LE = rotation
            k_BHLE = rotate(k_BHLE, cos_LE, sin_LE)
            q_BHRE = rotate(
                q_BHRE, *((cos_LE, sin_LE) if rows is None else (cos_LE[rows], sin_LE[rows]))
            )
        return self._mix(q_BHRE, k_BHLE, v_BHLE, mask)

    def extend(
        self,
        x_BND: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "*B N PN"],
        past: KeyValue | None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], KeyValue]:
        """Attention of N new tokens over those before and themselves; and the keys and values of the new ones.

        mask: over the past tokens and then the new ones. rotation: (B, 1, N, E/2) each, or without B.
        """
        q_BHNE = self._split(self.query(x_BND))
        k_BHNE, v_BHNE = (self._split(part) for part in self.key_value(x_BND).chunk(2, dim=-1))
        if rotation is not None:
            q_BHNE, k_BHNE = rotate(q_BHNE, *rotation), rotate(k_BHNE, *rotation)
        keys, values = k_BHNE, v_BHNE
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        return self._mix(q_BHNE, keys, values, mask), (k_BHNE, v_BHNE)

    def _mix(self, q_BHRE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, mask: AttentionMask) -> Tensor:
        if isinstance(mask, BlockMask):
            # uncompiled it forms all scores
            attend = _compiled_flex() if q_BHRE.is_cuda else cast(Any, flex_attention)
            mixed_BHRE = cast(Tensor, attend(q_BHRE, k_BHLE, v_BHLE, block_mask=mask))
        else:
            mixed_BHRE = F.scaled_dot_product_attention(
                q_BHRE,
                k_BHLE,
                v_BHLE,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
            )
        return self.out(mixed_BHRE.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.key_dim)).transpose(1, 2)


class FeedForward(nn.Module):
    """linear: one Dense without activation (RT-1's release); swiglu: `width` hidden (its JAX release); gelu, gelu_tanh
    (GPT-2) and relu: 4 times as wide."""

    def __init__(self, width: int, kind: FeedForwardKind, dropout: float) -> None:
        super().__init__()
        self.kind, self.dropout = kind, nn.Dropout(dropout)
        hidden = {"linear": 0, "swiglu": 2 * width}.get(kind, 4 * width)
        if hidden:
            self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(4 * width if hidden == 4 * width else width, width)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        if self.kind == "swiglu":
            gate, value = self.hidden(x).chunk(2, dim=-1)
            x = F.silu(gate) * value
        elif self.kind == "relu":
            x = F.relu(self.hidden(x))
        elif self.kind != "linear":
            x = F.gelu(self.hidden(x), approximate="tanh" if self.kind == "gelu_tanh" else "none")
        return self.dropout(self.out(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        key_dim: int,
        *,
        feed_forward: FeedForwardKind = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, key_dim, dropout)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, feed_forward, dropout)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        mask: AttentionMask,
        rows: Int64[Tensor, " R"] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """With `rows`, only those rows are computed (and `mask` holds only their rows)."""
        mixed = self.attention(self.norm_attention(x_BLD), mask, rows, rotation)
        x_BRD = (x_BLD if rows is None else x_BLD[:, rows]) + mixed
        return x_BRD + self.feed_forward(self.norm_feed_forward(x_BRD))

    def extend(
        self,
        x_BND: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "*B N PN"],
        past: KeyValue | None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], KeyValue]:
        """See `Attention.extend`."""
        mixed, new = self.attention.extend(self.norm_attention(x_BND), mask, past, rotation)
        x_BND = x_BND + mixed
        return x_BND + self.feed_forward(self.norm_feed_forward(x_BND)), new


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return cast(Callable[..., Any], torch.compile(flex_attention))


def rotation(
    step_ids: Int64[Tensor, "*B L"], key_dim: int, base: float = 100.0,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., L, key_dim / 2) of rotary positions (Su et al. 2021) over time steps."""
    frequency = base ** -(torch.arange(0, key_dim, 2, device=step_ids.device) / key_dim)
    angle = step_ids.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "... L E"], cos_LE: Tensor, sin_LE: Tensor) -> Float[Tensor, "... L E"]:
    """Turns the two halves of the last axis against each other."""
    a, b = x.chunk(2, dim=-1)
    cos_LE, sin_LE = cos_LE.to(x.dtype), sin_LE.to(x.dtype)
    return torch.cat([a * cos_LE - b * sin_LE, b * cos_LE + a * sin_LE], dim=-1)


__all__ = [
    "Attention",
    "AttentionMask",
    "Block",
    "FeedForward",
    "FeedForwardKind",
    "KeyValue",
    "rotate",
    "rotation",
]

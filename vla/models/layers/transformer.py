"""Pre-LN transformer layers whose key width is free of the model's width, with rotary time
positions if wanted.

B sequences, L tokens, D width, H heads, E key width, R rows that are needed, P tokens whose keys
are kept from before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla.models.layers.feed_forward import FeedForward, FeedForwardKind
from vla.models.layers.mixture_of_experts import ExpertsConfig, MixtureOfExperts, Routing

KeyValue = tuple[Tensor, Tensor]
"""Keys and values (B, H, P, E) of one layer."""
if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    AttentionMask = Tensor | BlockMask
else:
    # flex_attention brings sympy along, a second that only those who choose it wait for
    AttentionMask = Any
"""Boolean, True where attention is allowed; or compiled for flex_attention, which takes no dropout
and no rows."""


class Attention(nn.Module):
    """Multi-head attention with `heads * key_dim` inner channels."""

    def __init__(self, width: int, heads: int, key_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.key_dim = key_dim
        self.dropout = dropout
        # RT-1's keys are wider than its model divided by its heads, so this is no share of `width`
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
        """Attention of the rows, of all tokens by default.

        rotation: cosines and sines (L, E/2) of the time positions.
        """
        queries_BRD = x_BLD if rows is None else x_BLD[:, rows]
        q_BHRE = self._split(self.query(queries_BRD))
        keys_BLI, values_BLI = self.key_value(x_BLD).chunk(2, dim=-1)
        k_BHLE = self._split(keys_BLI)
        v_BHLE = self._split(values_BLI)
        if rotation is not None:
            cos_LE, sin_LE = rotation
            k_BHLE = rotate(k_BHLE, cos_LE, sin_LE)
            # a query keeps the angle of its own time, also if only some rows are computed
            if rows is not None:
                cos_LE = cos_LE[rows]
                sin_LE = sin_LE[rows]
            q_BHRE = rotate(q_BHRE, cos_LE, sin_LE)
        return self._mix(q_BHRE, k_BHLE, v_BHLE, mask)

    def extend(
        self,
        x_BND: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "*B N PN"],
        past: KeyValue | None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], KeyValue]:
        """Attention of N new tokens over earlier ones and themselves; also their keys and values.

        mask: over the past tokens and then the new ones. rotation: (B, 1, N, E/2) each, or without
        B.
        """
        q_BHNE = self._split(self.query(x_BND))
        keys_BNI, values_BNI = self.key_value(x_BND).chunk(2, dim=-1)
        k_BHNE = self._split(keys_BNI)
        v_BHNE = self._split(values_BNI)
        if rotation is not None:
            # kept keys are stored rotated: a rotation by absolute time never changes afterwards
            q_BHNE = rotate(q_BHNE, *rotation)
            k_BHNE = rotate(k_BHNE, *rotation)
        keys = k_BHNE
        values = v_BHNE
        if past is not None:
            keys = torch.cat([past[0], keys], dim=2)
            values = torch.cat([past[1], values], dim=2)
        return self._mix(q_BHNE, keys, values, mask), (k_BHNE, v_BHNE)

    def _mix(self, q_BHRE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, mask: AttentionMask) -> Tensor:
        if not isinstance(mask, Tensor):
            from torch.nn.attention.flex_attention import flex_attention

            # uncompiled it forms the whole matrix of scores; compiling pays on GPUs alone
            attend = _compiled_flex() if q_BHRE.is_cuda else cast(Any, flex_attention)
            mixed_BHRE = cast(Tensor, attend(q_BHRE, k_BHLE, v_BHLE, block_mask=mask))
        else:
            dropout = self.dropout if self.training else 0.0
            mixed_BHRE = _dot_product_attention(q_BHRE, k_BHLE, v_BHLE, mask, dropout)
        return self.out(mixed_BHRE.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.key_dim)).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        key_dim: int,
        *,
        feed_forward: FeedForwardKind = "linear",
        experts: ExpertsConfig | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, key_dim, dropout)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward: FeedForward | MixtureOfExperts = (
            FeedForward(width, feed_forward, dropout)
            if experts is None
            else experts.build(width, feed_forward, dropout)
        )

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        mask: AttentionMask,
        rows: Int64[Tensor, " R"] | None = None,
        rotation: tuple[Tensor, Tensor] | None = None,
        routing: list[Routing] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """With `rows`, only those rows are computed (and `mask` holds only their rows). What a
        mixture of experts decides is appended to `routing`."""
        # keys and values come from all tokens, so the norm runs over all of them
        mixed_BRD = self.attention(self.norm_attention(x_BLD), mask, rows, rotation)
        kept_BRD = x_BLD if rows is None else x_BLD[:, rows]
        x_BRD = kept_BRD + mixed_BRD
        return x_BRD + self._fed_forward(x_BRD, routing)

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
        return x_BND + self._fed_forward(x_BND), new

    def _fed_forward(self, x_BLD: Tensor, routing: list[Routing] | None = None) -> Tensor:
        normed_BLD = self.norm_feed_forward(x_BLD)
        if isinstance(self.feed_forward, MixtureOfExperts):
            return cast(Tensor, self.feed_forward(normed_BLD, routing))
        return cast(Tensor, self.feed_forward(normed_BLD))


def _dot_product_attention(
    q_BHRE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, mask: Tensor, dropout: float
) -> Tensor:
    """Softmax attention, on CPUs always in float32; (B, H, R, E) of the values' type."""
    if q_BHRE.dtype != torch.bfloat16 or q_BHRE.device.type != "cpu":
        return F.scaled_dot_product_attention(
            q_BHRE, k_BHLE, v_BHLE, attn_mask=mask, dropout_p=dropout
        )
    # torch's gradient of attention in bfloat16 takes many times as long on CPUs as in float32, and
    # would eat all that autocast gains elsewhere
    with torch.autocast("cpu", enabled=False):
        mixed_BHRE = F.scaled_dot_product_attention(
            q_BHRE.float(), k_BHLE.float(), v_BHLE.float(), attn_mask=mask, dropout_p=dropout
        )
    return mixed_BHRE.to(v_BHLE.dtype)


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    # compiled on first use: compiling takes seconds, which CPU users would pay at import for
    # nothing
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable[..., Any], torch.compile(flex_attention))


def rotation(
    step_ids: Int64[Tensor, "*B L"],
    key_dim: int,
    base: float = 100.0,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., L, key_dim / 2) of rotary positions (Su et al. 2021) over time
    steps."""
    frequency = base ** -(torch.arange(0, key_dim, 2, device=step_ids.device) / key_dim)
    angle = step_ids.float()[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "... L E"], cos_LE: Tensor, sin_LE: Tensor) -> Float[Tensor, "... L E"]:
    """Rotates the pairs (x[i], x[i + E/2]) of the last axis by their angles."""
    a, b = x.chunk(2, dim=-1)
    # angles are made in float32: times of a few thousand are not exact in bfloat16
    cos_LE = cos_LE.to(x.dtype)
    sin_LE = sin_LE.to(x.dtype)
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

"""What the heads over tokens share: how ids are compared with actions, and the offset from a code.

Three settings, each for ids that are coarse or noisy. `code_smoothing` counts a near code as nearly
right. `place_weights` lets a place count by what it explains, as VQ-BeT's primary code weighs 5 and
its secondary 0.5. `offset` adds what the codes leave as a continuous number (Lee et al., 2024,
arXiv:2403.03181).

B windows, T steps, K actions per chunk, A action dimensions, D tokens per chunk, V ids, W width of
what the offset reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.models.heads.base import HeadConfig, HeadError
from vla.models.heads.continuous import MLP, ActionScale, chunk_mean
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec

PlaceWeights = Literal["equal", "variance"]


class TokenHeadConfig(HeadConfig):
    """Options of heads that imitate tokens."""

    code_smoothing: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Spread of the training target over codes by the distance of what they decode to, in a unit
    of the tokenizer: the error that a level of codes leaves (rvq, kmeans), a step of rounding
    (fast), a bin's mean width (bins). 0 for the true code alone."""
    place_weights: PlaceWeights = "equal"
    """equal, or variance: a place counts in the loss by the variance of chunks that it explains
    (rvq, fast)."""
    offset: bool = False
    """Add a continuous offset to what the codes of a chunk decode to, for the codes that are chosen
    (rvq, fast, kmeans over chunks)."""
    offset_weight: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Weight of the offset's squared error beside the cross-entropy (nats).

    Errors are in units of the data's standard deviation."""

    def check_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        """Raises HeadError if the tokenizer lacks what these options ask of it."""
        name = type(tokenizer).__name__
        if self.code_smoothing and not tokenizer.has_soft_targets:
            raise HeadError(
                f"policy.head.code_smoothing: {self.code_smoothing:g}, but {name} has no distances "
                "between codes; set it to 0, or use tokenizer: {type: rvq}"
            )
        if self.place_weights == "variance" and not tokenizer.has_place_weights:
            raise HeadError(
                f"policy.head.place_weights: variance, but {name} does not know what each place "
                "explains; set it to equal, or use tokenizer: {type: rvq}"
            )
        # of a chunk that runs past its episode's end, the offset would see actions that do not
        # count; codes of whole chunks have seen them already
        if self.offset and tokenizer.tokens_per_action is not None:
            raise HeadError(
                f"policy.head.offset: true, but the tokens of {name} stand for single actions, not "
                "for a chunk; set it to false, or use tokenizer: {type: rvq}"
            )

    @property
    def token_loss(self) -> TokenLoss:
        """The options by which ids are compared with actions."""
        return TokenLoss(self.code_smoothing, self.place_weights)

    def build_offset(
        self,
        tokenizer: ActionTokenizer,
        spec: Spec,
        *,
        width: int,
        hidden: int,
    ) -> ChunkOffset | None:
        """The offset's network over states of `width`; None if there is to be no offset."""
        if not self.offset:
            return None
        return ChunkOffset(tokenizer.chunk, spec, width, hidden, weight=self.offset_weight)


@dataclass(frozen=True)
class TokenLoss:
    """How ids are compared with actions; by default by the true id alone, all places alike.

    Attributes:
        code_smoothing, place_weights: as in `TokenHeadConfig`.
    """

    code_smoothing: float = 0.0
    place_weights: PlaceWeights = "equal"

    def targets(
        self,
        tokenizer: ActionTokenizer,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
    ) -> Float[Tensor, "*batch D V"] | None:
        """Soft targets, or None for the true ids alone."""
        if not self.code_smoothing:
            return None
        return tokenizer.soft_targets(actions, ids, smoothing=self.code_smoothing)

    def weights(
        self,
        tokenizer: ActionTokenizer,
        ids: Int64[Tensor, "*batch D"],
    ) -> Float[Tensor, "*batch D"] | None:
        """Weights of the places, or None for equal ones."""
        if self.place_weights == "equal":
            return None
        return tokenizer.place_weights(ids)


def soft_cross_entropy(
    logits: Float[Tensor, "*batch V"],
    targets: Float[Tensor, "*batch V"],
) -> Float[Tensor, "*batch"]:
    """Cross-entropy (nats) with a target distribution; ids of logit -inf get no share of it."""
    possible = torch.isfinite(logits)
    shares = possible_shares(targets, possible)
    # 0 * -inf would be NaN
    log_probs = logits.log_softmax(-1).masked_fill(~possible, 0.0)
    return -(shares * log_probs).sum(-1)


def possible_shares(
    targets: Float[Tensor, "*batch V"],
    possible: Bool[Tensor, "*batch V"],
) -> Float[Tensor, "*batch V"]:
    """The targets without ids that may not stand there, adding up to 1 again."""
    shares = targets.where(possible, 0.0)
    return shares / shares.sum(-1, keepdim=True)


def place_mean(
    values: Float[Tensor, "*batch D"],
    counts: Bool[Tensor, "*batch D"] | None,
    weights: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    """Weighted mean over the places that count; 0 if none counts."""
    if counts is not None:
        weights = weights.where(counts, 0.0)
        # `where`, not a product alone: masked places may hold -inf, and 0 * inf is NaN
        values = values.where(counts, 0.0)
    total = weights.sum(-1)
    return (weights * values).sum(-1) / total.where(total > 0, 1.0)


class ChunkOffset(nn.Module):
    """What is to be added to a decoded chunk, from the state and that chunk.

    The chunk stands for the codes that were chosen, so each combination of codes has an offset of
    its own, for any tokenizer and any number of codes.
    """

    def __init__(self, chunk: int, spec: Spec, width: int, hidden: int, *, weight: float) -> None:
        super().__init__()
        self.chunk_shape = (chunk, spec.action_dim)
        numbers = chunk * spec.action_dim
        self.norm = nn.LayerNorm(width)
        self.net = MLP(width + numbers, hidden, numbers)
        # starts as no offset at all
        nn.init.zeros_(self.net.out.weight)
        nn.init.zeros_(self.net.out.bias)
        self.scale = ActionScale(spec)
        self.weight = weight

    def forward(
        self,
        states: Float[Tensor, "B T W"],
        decoded: Float[Tensor, "B T K A"],
    ) -> Float[Tensor, "B T K A"]:
        """The offset, in units of the data."""
        # apart from the chunk: the trunk's states may be of any size
        normed_BTW = self.norm(states.to(self.norm.weight.dtype))
        chunk = self.scale.to_unit(decoded).flatten(-2)
        offset = self.net(torch.cat([normed_BTW, chunk.to(normed_BTW.dtype)], dim=-1))
        return offset.unflatten(-1, self.chunk_shape)

    def applied(
        self,
        states: Float[Tensor, "B T W"],
        decoded: Float[Tensor, "B T K A"],
    ) -> Float[Tensor, "B T K A"]:
        """The decoded chunk with its offset, robot units; it may lie beyond the fitted range."""
        return decoded + self.scale.scale * self(states, decoded)

    def loss(
        self,
        states: Float[Tensor, "B T W"],
        decoded: Float[Tensor, "B T K A"],
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None,
    ) -> Float[Tensor, "B T"]:
        """Weighted squared error over the chunk's valid actions, in units of the data."""
        target = (actions.float() - decoded) / self.scale.scale
        error_BTK = (self(states, decoded) - target).square().mean(-1)
        return self.weight * chunk_mean(error_BTK, action_mask)


@dataclass(frozen=True)
class StatedOffset:
    """An offset's network at the states of some windows.

    Attributes:
        network: shared by all windows.
        states: (B, T, W), what it reads of them.
    """

    network: ChunkOffset
    states: Float[Tensor, "B T W"]

    def applied(self, decoded: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T K A"]:
        """The decoded chunk with its offset, robot units; it may lie beyond the fitted range."""
        return self.network.applied(self.states, decoded)

    def loss(
        self,
        decoded: Float[Tensor, "B T K A"],
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None,
    ) -> Float[Tensor, "B T"]:
        """Weighted squared error over the chunk's valid actions, in units of the data."""
        return self.network.loss(self.states, decoded, actions, action_mask)


__all__ = [
    "ChunkOffset",
    "PlaceWeights",
    "StatedOffset",
    "TokenHeadConfig",
    "TokenLoss",
    "place_mean",
    "possible_shares",
    "soft_cross_entropy",
]

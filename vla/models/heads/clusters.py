"""A centre of k-means and a continuous offset from it (Behavior Transformer: Shafiullah et al.,
2022, arXiv:2206.11251).

Which centre is a choice among distinct ways to act; the offset, one for each centre, makes it
exact.

B windows, T steps, D tokens per chunk (K or 1), K actions per chunk, K' = K / D, A action
dimensions, C centres, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.base import Head, HeadConfig, HeadError
from vla.models.heads.categorical import token_mask
from vla.models.heads.continuous import (
    MLP,
    ActionScale,
    check_temperature,
    chunk_mean,
    of_chosen,
)
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.kmeans import KMeansTokenizer
from vla.types import Spec


@register("heads", "clusters")
class ClustersConfig(HeadConfig):
    """A centre of the tokenizer kmeans plus an offset.

    Centres over actions are drawn independently of each other; with `over: chunk` one centre is a
    way to do the whole chunk."""

    type: Literal["clusters"] = "clusters"
    offset_weight: float = Field(default=10.0, gt=0)
    """Weight of the offset's squared error beside the centre's cross-entropy (nats).

    Errors are in units of the data's standard deviation."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layer."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return tokenizer.num_tokens

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> ClustersHead:
        """Raises HeadError if the tokenizer has no centres."""
        if not isinstance(tokenizer, KMeansTokenizer):
            raise HeadError(
                f"policy.head: clusters needs centres, {type(tokenizer).__name__} has none; "
                "use tokenizer: {type: kmeans}"
            )
        return ClustersHead(self, tokenizer, spec, width)


class ClustersHead(Head):
    """A small network from each read state to the weights of the centres and an offset from each of
    them."""

    tokenizer: KMeansTokenizer

    def __init__(
        self,
        config: ClustersConfig,
        tokenizer: KMeansTokenizer,
        spec: Spec,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        # one readout stands for the whole chunk, or for one of its actions
        steps = tokenizer.chunk // self.num_readouts
        C = tokenizer.vocab_size
        A = spec.action_dim
        self.shape = (C, steps, A)
        self.net = MLP(width, config.hidden, C + C * steps * A)
        self.scale = ActionScale(spec)

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        self.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T D W"]) -> ClusterActions:
        C = self.shape[0]
        values = self.net(hidden)
        logits = values[..., :C]
        # an offset of its own for every centre, or the offsets of two ways to act would be averaged
        offsets = values[..., C:].unflatten(-1, self.shape)
        return ClusterActions(
            logits, offsets, self.tokenizer, self.scale, self.config.offset_weight
        )


@dataclass(frozen=True)
class ClusterActions:
    """Independent choices of a centre for each token, and what is to be added to each centre.

    Attributes:
        logits: (B, T, D, C).
        offsets: (B, T, D, C, K', A), units of the data.
        tokenizer: has the centres.
        scale: from units of the data to robot units.
        offset_weight: of the offset's error in the loss.
    """

    logits: Float[Tensor, "B T D C"]
    offsets: Float[Tensor, "B T D C Ks A"]
    tokenizer: KMeansTokenizer
    scale: ActionScale
    offset_weight: float

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens plus the weighted squared error of the offsets.

        Over the chunk's valid actions; 0 if there are none.
        """
        ids_BTD = self.tokens(actions)
        nll = F.cross_entropy(self.logits.flatten(0, -2), ids_BTD.flatten(), reduction="none")
        nll_BTD = nll.view(ids_BTD.shape)
        # the offset of the true centre alone learns, whatever centre is the most likely
        target_BTKA = self.tokenizer.offsets(actions.float(), ids_BTD) / self.scale.scale
        error_BTK = (self._offsets(ids_BTD) - target_BTKA).square().mean(-1)
        offset_loss_BT = self.offset_weight * chunk_mean(error_BTK, action_mask)
        return self._mean(nll_BTD, action_mask) + offset_loss_BT

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The most likely centres and their offsets."""
        return self._chunk(self.logits.argmax(-1))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """Random centres and their offsets; `temperature` 0 gives the mode.

        Raises ValueError if the temperature is negative.
        """
        check_temperature(temperature)
        if temperature == 0:
            return self.mode()
        probs_BTDC = (self.logits / temperature).softmax(-1)
        # multinomial takes a matrix: every token is a row of its own
        ids = torch.multinomial(probs_BTDC.flatten(0, -2), 1, generator=generator)
        return self._chunk(ids.view(probs_BTDC.shape[:-1]))

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's centres that are the most likely ones."""
        right_BTD = self.logits.argmax(-1) == self.tokens(actions)
        return self._mean(right_BTD.float(), action_mask)

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the nearest centres."""
        return self.tokenizer.encode(actions)

    def _offsets(self, ids_BTD: Tensor) -> Tensor:
        """(B, T, K, A) of the given centres, units of the data."""
        return of_chosen(self.offsets, ids_BTD).flatten(2, 3)

    def _chunk(self, ids_BTD: Tensor) -> Tensor:
        return self.tokenizer.decode(ids_BTD) + self.scale.scale * self._offsets(ids_BTD)

    def _mean(self, values_BTD: Tensor, action_mask: Tensor | None) -> Tensor:
        if action_mask is None:
            return values_BTD.mean(-1)
        mask_BTD = token_mask(action_mask, self.tokenizer)
        return values_BTD.where(mask_BTD, 0.0).sum(-1) / mask_BTD.sum(-1).clamp(min=1)


__all__ = ["ClusterActions", "ClustersConfig", "ClustersHead"]

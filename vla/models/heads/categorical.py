"""All tokens of a chunk at once: independent categorical distributions, one read state for each
token (RT-1).

B windows, T steps, K actions per chunk, A action dimensions, N tokens per chunk, V ids, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadError
from vla.models.heads.token_loss import (
    ChunkOffset,
    StatedOffset,
    TokenHeadConfig,
    TokenLoss,
    place_mean,
    possible_shares,
)
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec


@register("heads", "categorical")
class CategoricalConfig(TokenHeadConfig):
    """Independent categorical distributions over the tokens of a chunk: one pass, for tokenizers
    such as bins."""

    type: Literal["categorical"] = "categorical"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training target spread evenly over all ids."""
    bin_smoothing: float = Field(default=0.0, ge=0)
    """Standard deviation, in bins, of the training target around the true bin; 0 for the true bin
    alone.

    Binary dimensions always have the true bin alone."""
    offset_hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the offset's hidden layer."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return tokenizer.num_tokens

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> CategoricalHead:
        """Raises HeadError if ids of the tokenizer depend on each other, or smoothing or weights
        are asked of a tokenizer that has none."""
        if tokenizer.grammar is not None:
            raise HeadError(
                "policy.head: categorical draws all tokens at once, but which ids of "
                f"{type(tokenizer).__name__} are valid depends on the ids before; use head: "
                "{type: autoregressive}"
            )
        if self.bin_smoothing and tokenizer.ordered_ids is None:
            raise HeadError(
                f"policy.head.bin_smoothing: neighbouring ids of {type(tokenizer).__name__} are "
                "not neighbours in value; set it to 0, or use code_smoothing, or tokenizer: "
                "{type: bins}"
            )
        if self.bin_smoothing and self.code_smoothing:
            raise HeadError(
                f"policy.head: bin_smoothing: {self.bin_smoothing:g} and code_smoothing: "
                f"{self.code_smoothing:g} both spread the target; set one of them to 0"
            )
        self.check_tokenizer(tokenizer)
        head = CategoricalHead(self, tokenizer, width)
        head.offset = self.build_offset(
            tokenizer,
            spec,
            width=head.num_readouts * width,
            hidden=self.offset_hidden,
        )
        return head


class CategoricalHead(Head, nn.Linear):
    """One linear layer; the read states stand for the tokens of the chunk, in their order.

    Attributes:
        offset: of the chunk that the tokens decode to; None for none.
    """

    offset: ChunkOffset | None

    def __init__(self, config: CategoricalConfig, tokenizer: ActionTokenizer, width: int) -> None:
        nn.Linear.__init__(self, width, tokenizer.vocab_size)
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        nn.init.normal_(self.weight, std=0.02)  # starts near the uniform distribution
        nn.init.zeros_(self.bias)
        # here, not in the class, where it would hide the module that `build` assigns
        self.offset = None

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        if self.offset is not None:
            self.offset.scale.fit(actions)

    def forward(  # type: ignore[override]
        self, hidden: Float[Tensor, "B T N W"]
    ) -> CategoricalActions:
        logits = nn.Linear.forward(self, hidden.to(self.weight.dtype))
        allowed_NV = self.tokenizer.allowed_ids
        if allowed_NV is not None:
            # masked in training too: the likelihood is that of what is generated
            logits = logits.masked_fill(~allowed_NV.to(logits.device), -torch.inf)
        return CategoricalActions(
            logits,
            self.tokenizer,
            self.config.label_smoothing,
            self.config.bin_smoothing,
            self.config.token_loss,
            None if self.offset is None else StatedOffset(self.offset, hidden.flatten(2)),
        )


@dataclass(frozen=True)
class CategoricalActions:
    """Independent categorical distributions over the tokens of a chunk.

    Attributes:
        logits: (B, T, N, V); -inf for ids that may not stand there.
        tokenizer: turns ids into actions.
        label_smoothing: share of the target spread evenly over all ids.
        bin_smoothing: standard deviation, in bins, of a Gaussian around the target bin; 0 for one
            bin. With it, neighbouring bins count as nearly right.
        token_loss: soft targets by decoded distance, and weights of the places.
        offset: what is added to the decoded chunk; None for nothing.
    """

    logits: Float[Tensor, "B T N V"]
    tokenizer: ActionTokenizer
    label_smoothing: float = 0.0
    bin_smoothing: float = 0.0
    token_loss: TokenLoss = field(default_factory=TokenLoss)
    offset: StatedOffset | None = None

    @property
    def samples_are_smoothed(self) -> bool:
        """Whether samples hold the spread of the training targets beside that of the data."""
        smoothed = self.bin_smoothing > 0 or self.label_smoothing > 0
        return smoothed or self.token_loss.code_smoothing > 0

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of the chunk's valid actions, and the offset's
        weighted error; 0 for a chunk without any."""
        ids_BTN = self.tokens(actions)
        soft_BTNV = self.token_loss.targets(self.tokenizer, actions, ids_BTN)
        cross_entropy_BTN = self._cross_entropy(ids_BTN, soft_BTNV)
        weights_BTN = self.token_loss.weights(self.tokenizer, ids_BTN)
        loss_BT = self._mean(cross_entropy_BTN, action_mask, weights_BTN)
        if self.offset is None:
            return loss_BT
        # at the true codes, whatever the most likely ones are
        decoded_BTKA = self.tokenizer.decode(ids_BTN)
        return loss_BT + self.offset.loss(decoded_BTKA, actions, action_mask)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log probability of the chunk's tokens, summed over its valid actions.

        With an offset, that of the codes nearest to the chunk.
        """
        log_probs_BTNV = self.logits.float().log_softmax(-1)
        ids_BTN = self.tokens(actions)
        values_BTN = log_probs_BTNV.gather(-1, ids_BTN.unsqueeze(-1)).squeeze(-1)
        if action_mask is None:
            return values_BTN.sum(-1)
        return (values_BTN * token_mask(action_mask, self.tokenizer)).sum(-1)

    def entropy(self) -> Float[Tensor, "B T"]:
        """Entropy (nats), summed over the tokens."""
        # entr(0) = 0: forbidden ids add nothing, where p * log p would be NaN
        return torch.special.entr(self.logits.float().softmax(-1)).sum((-1, -2))

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The most likely chunk."""
        return self._chunk(self.logits.argmax(-1))

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError if it is negative."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the mode) or positive, got {temperature}")
        if temperature == 0:
            return self.mode()
        probs_BTNV = (self.logits.float() / temperature).softmax(-1)
        # multinomial takes a matrix: every token is a row of its own
        ids = torch.multinomial(probs_BTNV.flatten(0, -2), 1, generator=generator)
        return self._chunk(ids.view(probs_BTNV.shape[:-1]))

    def rsample(self, generator: torch.Generator | None = None) -> Float[Tensor, "B T K A"]:
        """A random chunk with a gradient: that of the mean action over all ids (straight-through;
        Bengio et al., 2013).

        Raises HeadError if a token does not stand for one action dimension.
        """
        tokenizer = self.tokenizer
        # only then does the mean over a token's ids mean something: a mean of k-means centres need
        # not lie near any of them
        if tokenizer.tokens_per_action != tokenizer.action_dim:
            raise HeadError(
                f"no gradient through the tokens of {type(tokenizer).__name__}, which say several "
                "dimensions at once; use policy.tokenizer: {type: bins}, or an objective that "
                "needs none (iql)"
            )
        drawn = self.sample(generator)
        values_NV = actions_of_ids(tokenizer).to(self.logits.device)
        mean_BTKA = (self.logits.float().softmax(-1) * values_NV).sum(-1).view(drawn.shape)
        # the value of the draw, the gradient of the mean
        return drawn + mean_BTKA - mean_BTKA.detach()

    def extrapolated(self, base: CategoricalActions, weight: float) -> CategoricalActions:
        """From `base` (weight 0) to these logits (1) and beyond: classifier-free guidance."""
        # log probabilities: logits of two passes may differ by a constant that means nothing
        own = self.logits.float().log_softmax(-1)
        from_base = base.logits.float().log_softmax(-1)
        logits_BTNV = from_base + weight * (own - from_base)
        # forbidden ids would be the difference of two infinities
        logits_BTNV = logits_BTNV.where(torch.isfinite(own), -torch.inf)
        return dataclasses.replace(self, logits=logits_BTNV)

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that are the most likely ones."""
        right_BTN = self.logits.argmax(-1) == self.tokens(actions)
        return self._mean(right_BTN.float(), action_mask)

    @property
    def has_exact_tokens(self) -> bool:
        """See `TokenDistribution`."""
        return self.tokenizer.tokens_per_action is not None

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T N"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def token_logits(self, actions: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T N V"]:
        """See `TokenDistribution`; the same whatever the chunk, since places are independent."""
        return self.logits.float()

    def token_mask(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"]
    ) -> Bool[Tensor, "B T N"]:
        """See `TokenDistribution`."""
        return token_mask(action_mask, self.tokenizer)

    def _chunk(self, ids_BTN: Tensor) -> Tensor:
        decoded_BTKA = self.tokenizer.decode(ids_BTN)
        return decoded_BTKA if self.offset is None else self.offset.applied(decoded_BTKA)

    def _cross_entropy(self, ids_BTN: Tensor, soft_BTNV: Tensor | None = None) -> Tensor:
        """Of the true ids, or of targets over all ids by decoded distance."""
        logits_BTNV = self.logits.float()
        if self.bin_smoothing == 0 and self.label_smoothing == 0 and soft_BTNV is None:
            nll = F.cross_entropy(logits_BTNV.flatten(0, -2), ids_BTN.flatten(), reduction="none")
            return nll.view(ids_BTN.shape)
        # forbidden ids get no share of the target, and no 0 * -inf
        possible_BTNV = torch.isfinite(logits_BTNV)
        targets_BTNV = self._targets(ids_BTN, possible_BTNV, soft_BTNV)
        log_probs_BTNV = logits_BTNV.log_softmax(-1).masked_fill(~possible_BTNV, 0.0)
        return -(targets_BTNV * log_probs_BTNV).sum(-1)

    def _targets(
        self,
        ids_BTN: Tensor,
        possible_BTNV: Tensor,
        soft_BTNV: Tensor | None,
    ) -> Tensor:
        """Target probabilities (B, T, N, V) of the true ids (B, T, N), smoothed."""
        V = self.logits.shape[-1]
        if soft_BTNV is not None:
            targets = possible_shares(soft_BTNV, possible_BTNV)
        elif self.bin_smoothing == 0:
            targets = F.one_hot(ids_BTN, V).float()
        else:
            bins_V = torch.arange(V, device=ids_BTN.device)
            distance = (bins_V - ids_BTN.unsqueeze(-1)) / self.bin_smoothing
            # a softmax of the log density: the Gaussian is normalised over the bins there are
            log_density = (-0.5 * distance.square()).masked_fill(~possible_BTNV, -torch.inf)
            targets = log_density.softmax(-1)
            # the two ids of a binary dimension are the ends of its range, not neighbours: smoothing
            # would spread the target over both
            ordered_N = self.tokenizer.ordered_ids
            if ordered_N is not None and not ordered_N.all():
                exact = F.one_hot(ids_BTN, V).float()
                targets = targets.where(ordered_N.to(targets.device)[:, None], exact)
        uniform = possible_BTNV / possible_BTNV.sum(-1, keepdim=True)
        return (1 - self.label_smoothing) * targets + self.label_smoothing * uniform

    def _mean(
        self,
        values_BTN: Tensor,
        action_mask: Tensor | None,
        weights_BTN: Tensor | None = None,
    ) -> Tensor:
        mask_BTN = None if action_mask is None else token_mask(action_mask, self.tokenizer)
        if weights_BTN is not None:
            return place_mean(values_BTN, mask_BTN, weights_BTN)
        if mask_BTN is None:
            return values_BTN.mean(-1)
        return (values_BTN * mask_BTN).sum(-1) / mask_BTN.sum(-1).clamp(min=1)


def actions_of_ids(tokenizer: ActionTokenizer) -> Float[Tensor, "N V"]:
    """The action value of each id at each place, robot units, on the CPU; 0 for ids that may not
    stand there.

    For tokenizers with one token for each action dimension.
    """
    N = tokenizer.num_tokens
    V = tokenizer.vocab_size
    allowed_NV = tokenizer.allowed_ids
    ids_VN = torch.arange(V)[:, None].expand(V, N)
    if allowed_NV is None:
        return tokenizer.decode(ids_VN).reshape(V, N).T
    allowed_VN = allowed_NV.cpu().T
    # `decode` refuses forbidden ids: the first allowed one stands in for them
    first_allowed_N = allowed_VN.int().argmax(0)
    values_VN = tokenizer.decode(torch.where(allowed_VN, ids_VN, first_allowed_N))
    return (values_VN.reshape(V, N) * allowed_VN).T


def token_mask(
    action_mask: Bool[Tensor, "*B K"],
    tokenizer: ActionTokenizer,
) -> Bool[Tensor, "*B N"]:
    """Which tokens of a chunk count.

    Tokens that belong to one action count if it does. Tokens that describe the whole chunk (FAST)
    count if its first action does.
    """
    if tokenizer.tokens_per_action is None:
        # beyond an episode's end a chunk repeats the last action, so it is a chunk like others
        return action_mask[..., :1].expand(*action_mask.shape[:-1], tokenizer.num_tokens)
    return action_mask.repeat_interleave(tokenizer.tokens_per_action, dim=-1)


__all__ = [
    "CategoricalActions",
    "CategoricalConfig",
    "CategoricalHead",
    "actions_of_ids",
    "token_mask",
]

"""All tokens of a chunk at once: independent categorical distributions, one read state for each
token (RT-1).

B windows, T steps, K actions per chunk, A action dimensions, N tokens per chunk, V ids, W width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig, HeadError
from vla.tokenizers.base import ActionTokenizer
from vla.types import Spec


@register("heads", "categorical")
class CategoricalConfig(HeadConfig):
    """Independent categorical distributions over the tokens of a chunk: one pass, for tokenizers
    such as bins."""

    type: Literal["categorical"] = "categorical"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training target spread evenly over all ids."""
    bin_smoothing: float = Field(default=0.0, ge=0)
    """Standard deviation, in bins, of the training target around the true bin; 0 for the true bin
    alone.

    Binary dimensions always have the true bin alone."""

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return tokenizer.num_tokens

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> CategoricalHead:
        """Raises HeadError if ids of the tokenizer depend on each other, or smoothing is asked of
        ids without order."""
        if tokenizer.grammar is not None:
            raise HeadError(
                "policy.head: categorical draws all tokens at once, but which ids of "
                f"{type(tokenizer).__name__} are valid depends on the ids before; use head: "
                "{type: autoregressive}"
            )
        if self.bin_smoothing and tokenizer.ordered_ids is None:
            raise HeadError(
                f"policy.head.bin_smoothing: neighbouring ids of {type(tokenizer).__name__} are "
                "not neighbours in value; set it to 0, or use tokenizer: {type: bins}"
            )
        return CategoricalHead(self, tokenizer, width)


class CategoricalHead(Head, nn.Linear):
    """One linear layer; the read states stand for the tokens of the chunk, in their order."""

    def __init__(self, config: CategoricalConfig, tokenizer: ActionTokenizer, width: int) -> None:
        nn.Linear.__init__(self, width, tokenizer.vocab_size)
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        nn.init.normal_(self.weight, std=0.02)  # starts near the uniform distribution
        nn.init.zeros_(self.bias)

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
    """

    logits: Float[Tensor, "B T N V"]
    tokenizer: ActionTokenizer
    label_smoothing: float = 0.0
    bin_smoothing: float = 0.0

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of the chunk's valid actions; 0 for a chunk
        without any."""
        return self._mean(self._cross_entropy(self.tokens(actions)), action_mask)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log probability of the chunk's tokens, summed over its valid actions."""
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
        return self.tokenizer.decode(self.logits.argmax(-1))

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
        return self.tokenizer.decode(ids.view(probs_BTNV.shape[:-1]))

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
        values_NV = self._values().to(self.logits.device)
        mean_BTKA = (self.logits.float().softmax(-1) * values_NV).sum(-1).view(drawn.shape)
        # the value of the draw, the gradient of the mean
        return drawn + mean_BTKA - mean_BTKA.detach()

    def _values(self) -> Float[Tensor, "N V"]:
        """The action value of each id at each place, robot units; 0 for ids that may not stand
        there."""
        N, V = self.logits.shape[-2:]
        allowed_NV = self.tokenizer.allowed_ids
        ids_VN = torch.arange(V)[:, None].expand(V, N)
        if allowed_NV is None:
            return self.tokenizer.decode(ids_VN).reshape(V, N).T
        allowed_VN = allowed_NV.cpu().T
        # `decode` refuses forbidden ids: the first allowed one stands in for them
        first_allowed_N = allowed_VN.int().argmax(0)
        values_VN = self.tokenizer.decode(torch.where(allowed_VN, ids_VN, first_allowed_N))
        return (values_VN.reshape(V, N) * allowed_VN).T

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

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T N"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def _cross_entropy(self, ids_BTN: Tensor) -> Tensor:
        logits_BTNV = self.logits.float()
        if self.bin_smoothing == 0 and self.label_smoothing == 0:
            nll = F.cross_entropy(logits_BTNV.flatten(0, -2), ids_BTN.flatten(), reduction="none")
            return nll.view(ids_BTN.shape)
        # forbidden ids get no share of the target, and no 0 * -inf
        possible_BTNV = torch.isfinite(logits_BTNV)
        targets_BTNV = self._targets(ids_BTN, possible_BTNV)
        log_probs_BTNV = logits_BTNV.log_softmax(-1).masked_fill(~possible_BTNV, 0.0)
        return -(targets_BTNV * log_probs_BTNV).sum(-1)

    def _targets(self, ids_BTN: Tensor, possible_BTNV: Tensor) -> Tensor:
        """Target probabilities (B, T, N, V) of the true ids (B, T, N), smoothed."""
        V = self.logits.shape[-1]
        if self.bin_smoothing == 0:
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

    def _mean(self, values_BTN: Tensor, action_mask: Tensor | None) -> Tensor:
        if action_mask is None:
            return values_BTN.mean(-1)
        mask_BTN = token_mask(action_mask, self.tokenizer)
        return (values_BTN * mask_BTN).sum(-1) / mask_BTN.sum(-1).clamp(min=1)


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


__all__ = ["CategoricalActions", "CategoricalConfig", "CategoricalHead", "token_mask"]

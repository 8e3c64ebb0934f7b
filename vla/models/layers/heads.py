"""Distributions over action chunks.

B windows, T steps, K actions per chunk, A action dimensions, N tokens per chunk, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla.tokenizers.base import ActionTokenizer


@dataclass(frozen=True)
class CategoricalActions:
    """Independent categorical distributions over the tokens of a chunk.

    Attributes:
        logits: (B, T, N, V).
        tokenizer: turns ids into actions; its tokens stand action by action, so that N is a multiple of K.
        label_smoothing: share of the target spread evenly over all ids.
        bin_smoothing: standard deviation, in bins, of a Gaussian around the target bin; 0 for one bin. It tells the
            model that neighbouring bins are nearly right.
    """

    logits: Float[Tensor, "B T N V"]
    tokenizer: ActionTokenizer
    label_smoothing: float = 0.0
    bin_smoothing: float = 0.0

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of the chunk's valid actions; 0 where a chunk has none."""
        return self._mean(self._cross_entropy(self.tokens(actions)), action_mask)

    def log_prob(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Log probability of the chunk's tokens, summed over its valid actions."""
        log_probs_BTNV = self.logits.float().log_softmax(-1)
        values_BTN = log_probs_BTNV.gather(-1, self.tokens(actions).unsqueeze(-1)).squeeze(-1)
        return values_BTN.sum(-1) if action_mask is None else (values_BTN * self._token_mask(action_mask)).sum(-1)

    def entropy(self) -> Float[Tensor, "B T"]:
        """Entropy (nats), summed over the tokens."""
        log_probs_BTNV = self.logits.float().log_softmax(-1)
        return -(log_probs_BTNV.exp() * log_probs_BTNV).sum((-1, -2))

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The most likely chunk."""
        return self.tokenizer.decode(self.logits.argmax(-1))

    def sample(self, generator: torch.Generator | None = None, *, temperature: float = 1.0) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError where it is negative."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the mode) or positive, got {temperature}")
        if temperature == 0:
            return self.mode()
        probs = (self.logits.float() / temperature).softmax(-1)
        ids = torch.multinomial(probs.flatten(0, -2), 1, generator=generator)
        return self.tokenizer.decode(ids.view(probs.shape[:-1]))

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T N"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def _cross_entropy(self, ids_BTN: Tensor) -> Tensor:
        logits_BTNV = self.logits.float()
        if self.bin_smoothing == 0:
            return F.cross_entropy(
                logits_BTNV.flatten(0, -2), ids_BTN.flatten(), label_smoothing=self.label_smoothing, reduction="none"
            ).view(ids_BTN.shape)
        bins_V = torch.arange(logits_BTNV.shape[-1], device=ids_BTN.device)
        distance = (bins_V - ids_BTN.unsqueeze(-1)) / self.bin_smoothing
        targets = (-0.5 * distance.square()).softmax(-1)
        targets = (1 - self.label_smoothing) * targets + self.label_smoothing / len(bins_V)
        return -(targets * logits_BTNV.log_softmax(-1)).sum(-1)

    def _mean(self, values_BTN: Tensor, action_mask: Tensor | None) -> Tensor:
        if action_mask is None:
            return values_BTN.mean(-1)
        mask_BTN = self._token_mask(action_mask)
        return (values_BTN * mask_BTN).sum(-1) / mask_BTN.sum(-1).clamp(min=1)

    def _token_mask(self, action_mask: Tensor) -> Tensor:
        return action_mask.repeat_interleave(self.logits.shape[-2] // action_mask.shape[-1], dim=-1)


__all__ = ["CategoricalActions"]

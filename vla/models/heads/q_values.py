"""Q-values of action tokens, one place after the other (Chebotar et al., 2023, "Q-Transformer",
arXiv:2309.10150).

The value of a token is the return from the state if the tokens up to it are chosen so and all later
ones are the best: each place is an action dimension of the paper. Values are sigmoids, so returns
must lie in [0, 1]. The chunk to execute is found greedily, place by place; that is exact if the
value of each place equals the best value of the next one.

B windows, T steps, N = B * T sequences, R hidden states read per step, W their width,
K actions per chunk, A action dimensions, D tokens per chunk, L <= D places that hold more than
padding, V ids, H width of the head, M bins of a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.autoregressive import (
    AutoregressiveActions,
    AutoregressiveHead,
    Places,
    TokenTransformerConfig,
)
from vla.models.heads.categorical import token_mask
from vla.models.heads.continuous import check_temperature
from vla.models.layers.dueling import DuelingOutput
from vla.models.layers.transformer import KeyValue
from vla.models.layers.value_bins import ValueBins
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.grammar import masked_logits
from vla.types import Spec

_BIN_RANGE = (-0.1, 1.1)
"""Wider than [0, 1]: the histogram of a value at the very edge is cut off, and its mean too low."""


@register("heads", "q_values")
class QValuesConfig(TokenTransformerConfig):
    """Q of every id after the tokens before it, in [0, 1]; trained by the objective
    q_transformer."""

    type: Literal["q_values"] = "q_values"
    initial_value: float = Field(default=0.05, gt=0, lt=1)
    """Q of everything before training.

    Near 0: the best of many ids is the target of the place before, and ids that were never tried
    must not look good there. Not 0 itself, where a sigmoid has no gradient."""

    dueling: bool = False
    """Learn what all ids of a place have in common apart from what each is better by (Wang et al.,
    2016)."""
    bins: int | None = Field(default=None, ge=2, le=10000)
    """Q as a distribution over so many bins of [0, 1], learned by cross-entropy (Farebrother et
    al., 2024): 51 to 101. null: as a sigmoid, by its squared error."""

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> QValuesHead:
        return QValuesHead(self, tokenizer, width)


class Float32Head(AutoregressiveHead):
    """Computes in float32 also under autocast: values of two actions may differ by less than
    bfloat16 resolves."""

    def read_float32(self, hidden: Float[Tensor, "B T R W"]) -> Float[Tensor, "B T R H"]:
        # the trunk may hand over bfloat16; from here on nothing is rounded to it again
        with torch.autocast(hidden.device.type, enabled=False):
            return self.read(hidden).to(self.position.dtype)

    def logits(
        self,
        states: Float[Tensor, "N R H"],
        ids: Int64[Tensor, "N L"],
    ) -> Float[Tensor, "N L V"]:
        with torch.autocast(states.device.type, enabled=False):
            return super().logits(states, ids)

    def _next_logits(
        self,
        x_NLH: Tensor,
        past: Sequence[KeyValue | None],
    ) -> tuple[Tensor, list[KeyValue | None]]:
        with torch.autocast(x_NLH.device.type, enabled=False):
            return super()._next_logits(x_NLH, past)


class QValuesHead(Float32Head):
    """The autoregressive head with a sigmoid on its logits, or with a distribution for each id.

    Attributes:
        bins: of the values; None if they are sigmoids.
    """

    config: QValuesConfig
    out: nn.Linear | DuelingOutput  # type: ignore[assignment]

    def __init__(self, config: QValuesConfig, tokenizer: ActionTokenizer, width: int) -> None:
        super().__init__(config, tokenizer, width)
        self.bins = None if config.bins is None else ValueBins(config.bins, *_BIN_RANGE)
        numbers = config.bins or 1
        V = tokenizer.vocab_size
        if config.dueling:
            self.out = DuelingOutput(config.hidden, V, numbers)
        elif self.bins is not None:
            self.out = nn.Linear(config.hidden, V * numbers)
            nn.init.normal_(self.out.weight, std=0.02)
        # the inverse of the sigmoid: weights start near 0, so the bias alone decides what Q is
        start_M = torch.tensor([math.log(config.initial_value / (1 - config.initial_value))])
        if self.bins is not None:
            start_M = self.bins.histogram(torch.tensor(config.initial_value)).clamp(min=1e-8).log()
        if isinstance(self.out, DuelingOutput):
            self.out.start_at(start_M)
        else:
            with torch.no_grad():
                self.out.bias.copy_(start_M.repeat(V))

    def bin_logits(
        self, states: Float[Tensor, "N R H"], ids: Int64[Tensor, "N L"]
    ) -> Float[Tensor, "N L V M"]:
        """Of the distributions of the values, whose means are the values."""
        return super().logits(states, ids).unflatten(-1, (self.tokenizer.vocab_size, -1))

    def logits(
        self,
        states: Float[Tensor, "N R H"],
        ids: Int64[Tensor, "N L"],
    ) -> Float[Tensor, "N L V"]:
        """Whose sigmoids are Q."""
        if self.bins is None:
            return super().logits(states, ids)
        q_NLV = self.bins.expectation(self.bin_logits(states, ids))
        return q_NLV.logit(eps=1e-6)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> QValues:  # type: ignore[override]
        return QValues(hidden, self.read_float32(hidden), self)

    def _next_logits(
        self,
        x_NLH: Tensor,
        past: Sequence[KeyValue | None],
    ) -> tuple[Tensor, list[KeyValue | None]]:
        """Q of the next place, by which `generate` decides; it divides them by the temperature."""
        logits_NV, kept = super()._next_logits(x_NLH, past)
        if self.bins is not None:
            logits_NVM = logits_NV.unflatten(-1, (self.tokenizer.vocab_size, -1))
            return self.bins.expectation(logits_NVM), kept
        return logits_NV.sigmoid(), kept


class QValues:
    """Q-values of token chunks, and the chunks that are chosen by them.

    Samples follow softmax(Q / temperature), which was not fitted to the data as a distribution:
    there is no `log_prob`.

    Attributes:
        hidden: (B, T, R, W), the trunk's hidden states; another head's view of them is
            `other_head(hidden)`.
        states: (B, T, R, H), the same as this head reads them.
        head: computes the values.
        tokenizer: turns ids into actions.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "B T R W"],
        states: Float[Tensor, "B T R H"],
        head: QValuesHead,
    ) -> None:
        self.hidden = hidden
        self.states = states
        self.head = head
        self.tokenizer = head.tokenizer
        # the same logits read as a distribution, for imitation
        self._prior = AutoregressiveActions(states, head)

    def values(
        self,
        ids: Int64[Tensor, "B T D"],
        places: Places | None = None,
    ) -> Float[Tensor, "B T L V"]:
        """Q of all ids at each place after the given ids before it, in one pass.

        Minus infinity for ids that may not stand there.

        Args:
            ids: of the actions that were taken.
            places: `self.places(ids)` if it is known already.
        """
        places = places or self.places(ids)
        q_NLV = self.head.logits(self.states.flatten(0, 1), places.ids).sigmoid()
        # after the sigmoid: the sigmoid of minus infinity would be a value, 0, that a maximum may
        # pick
        return masked_logits(q_NLV, places.allowed).unflatten(0, self.states.shape[:2])

    def bin_logits(
        self,
        ids: Int64[Tensor, "B T D"],
        places: Places,
    ) -> Float[Tensor, "B T L V M"]:
        """Of the distributions of the values, for heads with `bins`; what may stand where is not
        considered."""
        logits_NLVM = self.head.bin_logits(self.states.flatten(0, 1), places.ids)
        return logits_NLVM.unflatten(0, self.states.shape[:2])

    def first(self) -> Float[Tensor, "B T V"]:
        """Q of all ids at the first place; its maximum is the value of the state."""
        states_NRH = self.states.flatten(0, 1)
        N = len(states_NRH)
        # Q of the first place sees no token: which id stands there does not matter
        any_id_N1 = torch.zeros(N, 1, dtype=torch.long, device=states_NRH.device)
        q_NV = self.head.logits(states_NRH, any_id_N1)[:, 0].sigmoid()
        allowed_DV = self.tokenizer.allowed_ids
        if allowed_DV is not None:
            q_NV = masked_logits(q_NV, allowed_DV[0])
        grammar = self.tokenizer.grammar
        if grammar is not None:
            start = grammar.start(N, q_NV.device)
            q_NV = masked_logits(q_NV, grammar.allowed(start, 0))
        return q_NV.unflatten(0, self.states.shape[:2])

    def places(self, ids: Int64[Tensor, "B T D"]) -> Places:
        """Which ids may stand at which place on the way to these ids, of N = B * T sequences."""
        return self.head.places(ids.flatten(0, 1))

    def counted(
        self,
        places: Places,
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Bool[Tensor, "B T L"]:
        """Which tokens encode a valid action; always the first ones of a chunk."""
        return counted_tokens(places, self.states.shape[:2], action_mask, self.tokenizer)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The token of greatest Q after those before, place by place."""
        return self.sample(temperature=0.0)

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A chunk drawn token by token from softmax(Q / temperature).

        Q lies in [0, 1]: temperature 1 is close to uniform, 0.05 a cautious exploration, 0 gives
        the mode. Raises ValueError if it is negative.
        """
        check_temperature(temperature)
        states_NRH = self.states.flatten(0, 1)
        ids_ND = self.head.generate(states_NRH, temperature=temperature, generator=generator)
        return self.tokenizer.decode(ids_ND.unflatten(0, self.states.shape[:2]))

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Imitation: mean cross-entropy (nats) of the valid tokens, with the values' logits as
        those of a distribution.

        It ranks the ids of the data first, so that the mode imitates; the values need not be near
        returns after it.
        """
        return self._prior.loss(actions, action_mask)

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that have the greatest Q after the true tokens before
        them."""
        return self._prior.token_accuracy(actions, action_mask)

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)


def counted_tokens(
    places: Places,
    windows: torch.Size,
    action_mask: Tensor | None,
    tokenizer: ActionTokenizer,
) -> Bool[Tensor, "B T L"]:
    """Which tokens of N = B * T sequences are no padding and belong to actions inside the
    episode."""
    is_token_BTL = places.is_token.unflatten(0, windows)
    if action_mask is None:
        return is_token_BTL
    return is_token_BTL & token_mask(action_mask, tokenizer)[..., : is_token_BTL.shape[-1]]


__all__ = ["Float32Head", "QValues", "QValuesConfig", "QValuesHead", "counted_tokens"]

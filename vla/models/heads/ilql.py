"""Probabilities of action tokens, reweighed by their values (Snell et al., 2023, "Offline RL for Natural Language
Generation with Implicit Language Q Learning", arXiv:2206.11871).

One small transformer goes through the tokens of a chunk and says at each place how likely every id is in the data, how good
it is (several Q), and how good it is to stand there (V). What is executed follows softmax(logits + beta (Q - V)): imitation
that leans towards what paid.

B windows, T steps, N = B * T sequences, R hidden states read per step, W their width, K actions per chunk, A action
dimensions, D tokens per chunk, L <= D places that hold more than padding, V ids, E Q networks, H width of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.autoregressive import AutoregressiveConfig, Places
from vla.models.heads.continuous import MLP, check_temperature
from vla.models.heads.q_values import Float32Head, counted_tokens
from vla.models.layers.transformer import KeyValue
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.grammar import masked_logits
from vla.types import Spec


@register("heads", "ilql")
class ILQLHeadConfig(AutoregressiveConfig):
    """Probabilities, Q and V of every token; the objective ilql teaches them."""

    type: Literal["ilql"] = "ilql"  # type: ignore[assignment]
    beta: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    """How much a unit of advantage counts against the probabilities of the data; 0 imitates. May be changed after
    training: the networks do not depend on it."""
    ensemble: int = Field(default=2, ge=1)
    """Q networks; the least of them counts."""

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> ILQLHead:
        return ILQLHead(self, tokenizer, width)


@dataclass(frozen=True)
class TokenValues:
    """What the head says of every place, float32.

    Attributes:
        logits: (..., V), of the ids as they come in the data.
        q: (E, ..., V), value of every id.
        v: (...), value of standing at the place.
    """

    logits: Float[Tensor, "*places V"]
    q: Float[Tensor, "E *places V"]
    v: Float[Tensor, "*places"]

    def scores(self, beta: float) -> Float[Tensor, "*places V"]:
        """Logits of what is executed."""
        return self.logits + beta * (self.q.min(0).values - self.v.unsqueeze(-1))


class TokenOutputs(nn.Module):
    """The last layers over a token's state, side by side in one row: logits, E times Q, V."""

    def __init__(self, width: int, vocab_size: int, ensemble: int) -> None:
        super().__init__()
        self.vocab_size, self.ensemble = vocab_size, ensemble
        self.policy = nn.Linear(width, vocab_size)
        self.q = nn.ModuleList(MLP(width, width, vocab_size) for _ in range(ensemble))
        self.v = MLP(width, width, 1)
        last = [self.policy, *(cast(MLP, q).out for q in self.q), self.v.out]
        for layer in last:  # starts near the uniform distribution, and with values near 0
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*places H"]) -> Float[Tensor, "*places U"]:
        return torch.cat([self.policy(x), *(q(x) for q in self.q), self.v(x)], dim=-1)

    def split(self, row: Float[Tensor, "*places U"]) -> TokenValues:
        logits, q, v = row.split([self.vocab_size, self.ensemble * self.vocab_size, 1], dim=-1)
        return TokenValues(logits, torch.stack(q.chunk(self.ensemble, dim=-1)), v.squeeze(-1))


class ILQLHead(Float32Head):
    """The autoregressive head with more outputs; V of a place looks at no token of it."""

    config: ILQLHeadConfig
    out: TokenOutputs  # type: ignore[assignment]

    def __init__(self, config: ILQLHeadConfig, tokenizer: ActionTokenizer, width: int) -> None:
        super().__init__(config, tokenizer, width)
        self.out = TokenOutputs(config.hidden, tokenizer.vocab_size, config.ensemble)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> ILQLActions:  # type: ignore[override]
        return ILQLActions(hidden, self.read_float32(hidden), self)

    def _next_logits(
        self, x_NLH: Tensor, past: Sequence[KeyValue | None]
    ) -> tuple[Tensor, list[KeyValue | None]]:
        """The scores by which `generate` decides."""
        row_NU, kept = super()._next_logits(x_NLH, past)
        return self.out.split(row_NU).scores(self.config.beta), kept


class ILQLActions:
    """A distribution over chunks of tokens: what the data do, reweighed by advantages.

    Attributes:
        hidden: (B, T, R, W), what the trunk said; another head's view of it is `other_head(hidden)`.
        states: (B, T, R, H), the same as this head reads it.
        head, tokenizer: what gives the numbers, and what turns ids into actions.
    """

    def __init__(
        self, hidden: Float[Tensor, "B T R W"], states: Float[Tensor, "B T R H"], head: ILQLHead
    ) -> None:
        self.hidden, self.states, self.head, self.tokenizer = hidden, states, head, head.tokenizer
        self._last: tuple[Tensor, Places, TokenValues] | None = None

    def values(self, ids: Int64[Tensor, "B T D"], places: Places | None = None) -> TokenValues:
        """What the head says of each place (B, T, L) after the given ids before it, in one pass; logits are minus infinity
        where an id may not stand, Q is not.

        Args:
            ids: what was done.
            places: `self.places(ids)` where it is known already.
        """
        places, windows = places or self.places(ids), self.states.shape[:2]
        told = self.head.out.split(self.head.logits(self.states.flatten(0, 1), places.ids))
        return TokenValues(
            logits=masked_logits(told.logits, places.allowed).unflatten(0, windows),
            q=told.q.unflatten(1, windows),
            v=told.v.unflatten(0, windows),
        )

    def state_value(self) -> Float[Tensor, "B T"]:
        """V before the first token: the value of the state."""
        states_NRH = self.states.flatten(0, 1)
        nothing_N1 = torch.zeros(len(states_NRH), 1, dtype=torch.long, device=states_NRH.device)
        told = self.head.out.split(self.head.logits(states_NRH, nothing_N1))
        return told.v[:, 0].unflatten(0, self.states.shape[:2])

    def places(self, ids: Int64[Tensor, "B T D"]) -> Places:
        """What may stand where on the way to these ids, of N = B * T sequences."""
        return self.head.places(ids.flatten(0, 1))

    def counted(
        self, places: Places, action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Bool[Tensor, "B T L"]:
        """Which tokens tell a valid action; always the first ones of a chunk."""
        return counted_tokens(places, self.states.shape[:2], action_mask, self.tokenizer)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """Each token the one of greatest score after those before."""
        return self.sample(temperature=0.0)

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 1.0
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError where it is negative."""
        check_temperature(temperature)
        ids_ND = self.head.generate(
            self.states.flatten(0, 1), temperature=temperature, generator=generator
        )
        return self.tokenizer.decode(ids_ND.unflatten(0, self.states.shape[:2]))

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Imitation: mean cross-entropy (nats) of the valid tokens under the logits alone, whatever the values say."""
        ids_BTL, told, counted_BTL = self._teacher_forced(actions, action_mask)
        return _mean(-_log_prob(told.logits, ids_BTL), counted_BTL)

    def log_prob(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Log probability with which `sample` draws the tokens of the chunk's valid actions."""
        ids_BTL, told, counted_BTL = self._teacher_forced(actions, action_mask)
        return (
            _log_prob(told.scores(self.head.config.beta), ids_BTL).where(counted_BTL, 0.0).sum(-1)
        )

    def token_accuracy(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that would be chosen after the true tokens before them."""
        ids_BTL, told, counted_BTL = self._teacher_forced(actions, action_mask)
        return _mean(
            (told.scores(self.head.config.beta).argmax(-1) == ids_BTL).float(), counted_BTL
        )

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def _teacher_forced(
        self, actions: Tensor, action_mask: Tensor | None
    ) -> tuple[Tensor, TokenValues, Tensor]:
        """Ids (B, T, L), what is said of them, and which of them count. A loss and the accuracy beside it ask for those of
        the same actions."""
        known = self._last is not None and self._last[0] is actions
        if not known or (
            torch.is_grad_enabled() and not cast(tuple, self._last)[2].logits.requires_grad
        ):
            ids_BTD = self.tokens(actions)
            places = self.places(ids_BTD)
            self._last = (actions, places, self.values(ids_BTD, places))
        _, places, told = cast(tuple[Tensor, Places, TokenValues], self._last)
        return (
            places.ids.unflatten(0, self.states.shape[:2]),
            told,
            self.counted(places, action_mask),
        )


def _log_prob(logits_BTLV: Tensor, ids_BTL: Tensor) -> Tensor:
    return logits_BTLV.log_softmax(-1).gather(-1, ids_BTL.unsqueeze(-1)).squeeze(-1)


def _mean(values_BTL: Tensor, counted_BTL: Tensor) -> Tensor:
    return values_BTL.where(counted_BTL, 0.0).sum(-1) / counted_BTL.sum(-1).clamp(min=1)


__all__ = ["ILQLActions", "ILQLHead", "ILQLHeadConfig", "TokenValues"]

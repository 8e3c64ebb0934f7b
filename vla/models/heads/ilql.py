"""Probabilities of action tokens, reweighed by their values (ILQL: Snell et al., 2023,
arXiv:2206.11871).

One small transformer goes through the tokens of a chunk. At each place it gives the probability of
every id in the data, the value of every id (several Q), and the value of the place itself (V).
Actions follow softmax(logits + beta (Q' - V)): imitation that leans towards what was rewarded. Q'
is of a copy of the transformer that follows slowly, the target network of the values; the head
holds it, so that a checkpoint does.

B windows, T steps, N = B * T sequences, R hidden states read per step, W their width,
K actions per chunk, A action dimensions, D tokens per chunk, L <= D places that hold more than
padding, V ids, E Q networks, U = V + E * V + 1 outputs per token, H width of the head, H2 = 2 H
with a slow copy beside it, else H.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.autoregressive import TokenTransformerConfig
from vla.models.heads.continuous import MLP, check_temperature
from vla.models.heads.q_values import Float32Head, counted_tokens
from vla.models.heads.token_generation import Places
from vla.models.layers.transformer import KeyValue
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.grammar import masked_logits
from vla.types import Spec


@register("heads", "ilql")
class ILQLHeadConfig(TokenTransformerConfig):
    """Probabilities, Q and V of every token; trained by the objective ilql."""

    type: Literal["ilql"] = "ilql"
    beta: float = Field(default=4.0, ge=0, allow_inf_nan=False)
    """How much a unit of advantage counts against the probabilities of the data; 0 imitates.

    May be changed after training: the networks do not depend on it."""
    ensemble: int = Field(default=2, ge=1, le=1000)
    """Q networks; their minimum counts."""

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> ILQLHead:
        return ILQLHead(self, tokenizer, width)


@dataclass(frozen=True)
class TokenValues:
    """The head's outputs at every place, float32.

    Attributes:
        logits: (..., V), of the ids as they occur in the data.
        q: (E, ..., V), value of every id.
        v: (...), value of the place before its id is chosen.
    """

    logits: Float[Tensor, "*places V"]
    q: Float[Tensor, "E *places V"]
    v: Float[Tensor, "*places"]

    def scores(self, beta: float) -> Float[Tensor, "*places V"]:
        """Logits of the ids that are executed."""
        return self.logits + beta * (self.q.min(0).values - self.v.unsqueeze(-1))


class TokenOutputs(nn.Module):
    """The last layers over a token's state, side by side in one row: logits, E times Q, V."""

    def __init__(self, width: int, vocab_size: int, ensemble: int) -> None:
        super().__init__()
        self.vocab_size, self.ensemble = vocab_size, ensemble
        self.policy = nn.Linear(width, vocab_size)
        self.q = nn.ModuleList(MLP(width, width, vocab_size) for _ in range(ensemble))
        self.v = MLP(width, width, 1)
        q_layers = [cast(MLP, q).out for q in self.q]
        # starts near the uniform distribution, and with values near 0
        for layer in [self.policy, *q_layers, self.v.out]:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "*places H"]) -> Float[Tensor, "*places U"]:
        q_values = [q(x) for q in self.q]
        # one row per token: whatever passes logits on (masks, key-value steps) needs no change
        return torch.cat([self.policy(x), *q_values, self.v(x)], dim=-1)

    def split(self, row: Float[Tensor, "*places U"]) -> TokenValues:
        """The inverse of `forward`."""
        logits, q, v = row.split([self.vocab_size, self.ensemble * self.vocab_size, 1], dim=-1)
        return TokenValues(logits, torch.stack(q.chunk(self.ensemble, dim=-1)), v.squeeze(-1))


class ILQLHead(Float32Head):
    """The autoregressive head with more outputs; V of a place sees only the tokens before it.

    Attributes:
        slow: the copy whose Q decides when the head decodes. The objective moves it; imitation
            leaves it as it is. None in the copy itself.
    """

    config: ILQLHeadConfig
    out: TokenOutputs  # type: ignore[assignment]
    slow: ILQLHead | None

    def __init__(self, config: ILQLHeadConfig, tokenizer: ActionTokenizer, width: int) -> None:
        super().__init__(config, tokenizer, width)
        self.out = TokenOutputs(config.hidden, tokenizer.vocab_size, config.ensemble)
        self.slow = _slow_copy(self)

    def set_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        super().set_tokenizer(tokenizer)
        if self.slow is not None:
            self.slow.set_tokenizer(tokenizer)

    @torch.no_grad()
    def update_slow(self, target: ILQLHead) -> None:
        """The slow copy takes the weights of a target network of the same sizes."""
        assert self.slow is not None
        own = dict(self.slow.named_buffers())
        tensors = dict(target.named_parameters())
        torch._foreach_copy_([own[name] for name in tensors], list(tensors.values()))

    def complete_weights(self, weights: dict[str, Tensor], prefix: str) -> None:
        """Checkpoints from before the slow copy was kept decode by their own Q, as they did."""
        for name in self.state_dict():
            if not name.startswith("slow."):
                continue
            own = weights.get(prefix + name.removeprefix("slow."))
            if own is not None:
                weights.setdefault(prefix + name, own.clone())

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> ILQLActions:  # type: ignore[override]
        return ILQLActions(hidden, self.read_float32(hidden), self)

    def decoding_states(
        self, states: Float[Tensor, "B T R H"], hidden: Float[Tensor, "B T R W"]
    ) -> Float[Tensor, "N R H2"]:
        """What `generate` begins with: states of the head and of its slow copy, side by side."""
        if self.slow is not None:
            states = torch.cat([states, self.slow.read_float32(hidden)], dim=-1)
        return states.flatten(0, 1)

    def _next_input(self, ids: Int64[Tensor, " N"]) -> Float[Tensor, "N 1 H2"]:
        own = super()._next_input(ids)
        if self.slow is None:
            return own
        return torch.cat([own, self.slow._next_input(ids)], dim=-1)

    def _next_logits(
        self,
        x_NLH: Tensor,
        past: Sequence[KeyValue | None],
    ) -> tuple[Tensor, list[KeyValue | None]]:
        """The scores by which `generate` decides."""
        if self.slow is None:
            outputs, kept = self._next_outputs(x_NLH, past)
            return outputs.scores(self.config.beta), kept
        depth = len(self.blocks)
        own_NLH, slow_NLH = x_NLH.chunk(2, dim=-1)
        outputs, kept = self._next_outputs(own_NLH, past[:depth])
        # behind the head's own keys and values stand those of the copy; at first there are none
        slow_past = past[depth:] or [None] * depth
        slow_outputs, slow_kept = self.slow._next_outputs(slow_NLH, slow_past)
        decisive = replace(outputs, q=slow_outputs.q)
        return decisive.scores(self.config.beta), kept + slow_kept

    def _next_outputs(
        self,
        x_NLH: Tensor,
        past: Sequence[KeyValue | None],
    ) -> tuple[TokenValues, list[KeyValue | None]]:
        """Logits, Q and V of the next place, by the head itself."""
        row_NU, kept = super()._next_logits(x_NLH, past)
        return self.out.split(row_NU), kept


def _slow_copy(head: ILQLHead) -> ILQLHead:
    """A copy of the head whose weights are buffers: stored with it, and never trained."""
    # the tokenizer stays the same object: it is fitted later
    slow = copy.deepcopy(head, {id(head.tokenizer): head.tokenizer})
    slow.slow = None
    for part in list(slow.modules()):
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return slow


class ILQLActions:
    """A distribution over chunks of tokens: that of the data, reweighed by advantages.

    Attributes:
        hidden: (B, T, R, W), the trunk's hidden states; another head's view of them is
            `other_head(hidden)`.
        states: (B, T, R, H), the same as this head reads them.
        head: computes logits and values.
        tokenizer: turns ids into actions.
    """

    def __init__(
        self,
        hidden: Float[Tensor, "B T R W"],
        states: Float[Tensor, "B T R H"],
        head: ILQLHead,
    ) -> None:
        self.hidden = hidden
        self.states = states
        self.head = head
        self.tokenizer = head.tokenizer
        # the last teacher-forced pass: its actions, places and outputs
        self._last: tuple[Tensor, Places, TokenValues] | None = None

    def values(self, ids: Int64[Tensor, "B T D"], places: Places | None = None) -> TokenValues:
        """The head's outputs at each place (B, T, L) after the given ids before it, in one pass.

        Logits are minus infinity for ids that may not stand there; Q is not.

        Args:
            ids: of the actions that were taken.
            places: `self.places(ids)` if it is known already.
        """
        places = places or self.places(ids)
        windows = self.states.shape[:2]
        outputs = self._outputs(places.ids)
        return TokenValues(
            logits=masked_logits(outputs.logits, places.allowed).unflatten(0, windows),
            q=outputs.q.unflatten(1, windows),
            v=outputs.v.unflatten(0, windows),
        )

    def state_value(self) -> Float[Tensor, "B T"]:
        """V before the first token: the value of the state."""
        N = self.states.shape[:2].numel()
        # V of the first place sees no token: which id stands there does not matter
        any_id_N1 = torch.zeros(N, 1, dtype=torch.long, device=self.states.device)
        return self._outputs(any_id_N1).v[:, 0].unflatten(0, self.states.shape[:2])

    def _outputs(self, ids_NL: Tensor) -> TokenValues:
        return self.head.out.split(self.head.logits(self.states.flatten(0, 1), ids_NL))

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
        """The token of greatest score after those before, place by place."""
        return self.sample(temperature=0.0)

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError if it is negative."""
        check_temperature(temperature)
        states = self.head.decoding_states(self.states, self.hidden)
        ids_ND = self.head.generate(states, temperature=temperature, generator=generator)
        return self.tokenizer.decode(ids_ND.unflatten(0, self.states.shape[:2]))

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Imitation: mean cross-entropy (nats) of the valid tokens under the logits alone, without
        the values."""
        ids_BTL, outputs, counted_BTL = self._teacher_forced(actions, action_mask)
        return _mean(-_log_prob(outputs.logits, ids_BTL), counted_BTL)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log probability with which `sample` draws the tokens of the chunk's valid actions."""
        ids_BTL, outputs, counted_BTL = self._teacher_forced(actions, action_mask)
        log_prob_BTL = _log_prob(self._scores(ids_BTL, outputs), ids_BTL)
        return log_prob_BTL.where(counted_BTL, 0.0).sum(-1)

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that would be chosen after the true tokens before them."""
        ids_BTL, outputs, counted_BTL = self._teacher_forced(actions, action_mask)
        chosen_BTL = self._scores(ids_BTL, outputs).argmax(-1)
        return _mean((chosen_BTL == ids_BTL).float(), counted_BTL)

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def _scores(self, ids_BTL: Tensor, outputs: TokenValues) -> Float[Tensor, "B T L V"]:
        """The scores by which `generate` decides, at the places of these ids."""
        slow = self.head.slow
        if slow is not None:
            with torch.no_grad():
                q = slow(self.hidden)._outputs(ids_BTL.flatten(0, 1)).q
            outputs = replace(outputs, q=q.unflatten(1, ids_BTL.shape[:2]))
        return outputs.scores(self.head.config.beta)

    def _teacher_forced(
        self,
        actions: Tensor,
        action_mask: Tensor | None,
    ) -> tuple[Tensor, TokenValues, Tensor]:
        """Ids (B, T, L), the outputs at their places, and which of them count.

        Kept for the next call: a loss and the token accuracy beside it are computed of the same
        actions.
        """
        places, outputs = self._known(actions) or self._pass(actions)
        ids_BTL = places.ids.unflatten(0, self.states.shape[:2])
        return ids_BTL, outputs, self.counted(places, action_mask)

    def _known(self, actions: Tensor) -> tuple[Places, TokenValues] | None:
        if self._last is None or self._last[0] is not actions:
            return None
        _, places, outputs = self._last
        # what was computed under no_grad is of no use to a loss
        useful = outputs.logits.requires_grad or not torch.is_grad_enabled()
        return (places, outputs) if useful else None

    def _pass(self, actions: Tensor) -> tuple[Places, TokenValues]:
        ids_BTD = self.tokens(actions)
        places = self.places(ids_BTD)
        outputs = self.values(ids_BTD, places)
        self._last = (actions, places, outputs)
        return places, outputs


def _log_prob(logits_BTLV: Tensor, ids_BTL: Tensor) -> Tensor:
    return logits_BTLV.log_softmax(-1).gather(-1, ids_BTL.unsqueeze(-1)).squeeze(-1)


def _mean(values_BTL: Tensor, counted_BTL: Tensor) -> Tensor:
    return values_BTL.where(counted_BTL, 0.0).sum(-1) / counted_BTL.sum(-1).clamp(min=1)


__all__ = ["ILQLActions", "ILQLHead", "ILQLHeadConfig", "TokenValues"]

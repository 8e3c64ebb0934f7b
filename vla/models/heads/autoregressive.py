"""The tokens of a chunk one after the other: a small causal transformer that starts from what the trunk says.

For tokenizers whose ids depend on each other (FAST, residual codes), and wherever tokens that are drawn independently
would mix different ways to act. Ids that the tokenizer does not allow have probability 0, in training as in generation.

B windows, T steps, N = B * T sequences, R hidden states read per step, W their width, K actions per chunk, A action
dimensions, D tokens per chunk, V ids, H width of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.categorical import token_mask
from vla.models.heads.continuous import MLP, check_temperature
from vla.models.layers.transformer import Block, KeyValue
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.grammar import masked_logits
from vla.types import Spec


@register("heads", "autoregressive")
class AutoregressiveConfig(HeadConfig):
    """One token after the other, for every tokenizer: exact likelihoods, as many passes of a small network as tokens."""

    type: Literal["autoregressive"] = "autoregressive"
    read_states: int = Field(default=1, ge=1)
    """Hidden states that are read per step; they stand before the tokens."""
    hidden: int = Field(default=256, ge=1)
    """Width of the small transformer."""
    depth: int = Field(default=2, ge=1)
    """Its layers."""
    heads: int = Field(default=4, ge=1)
    """Its attention heads."""

    @model_validator(mode="after")
    def _divisible(self) -> AutoregressiveConfig:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads, got {self.hidden} and {self.heads}"
            )
        return self

    def reads(self, tokenizer: ActionTokenizer) -> int:
        return self.read_states

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> AutoregressiveHead:
        return AutoregressiveHead(self, tokenizer, width)


@dataclass(frozen=True)
class Places:
    """What is known of given sequences, of which only the first places hold more than padding.

    Attributes:
        ids: (N, L), L <= D.
        allowed: (N, L, V) or (L, V), the ids that may follow those before; None for all.
        told: (N, L), False where only padding may stand.
    """

    ids: Int64[Tensor, "N L"]
    allowed: Bool[Tensor, "*N L V"] | None
    told: Bool[Tensor, "N L"]


class AutoregressiveHead(Head):
    """A causal transformer over R read states and the tokens before."""

    def __init__(
        self, config: AutoregressiveConfig, tokenizer: ActionTokenizer, width: int
    ) -> None:
        super().__init__()
        self.config, self.tokenizer, self.reads = config, tokenizer, config.reads(tokenizer)
        H, R, D = config.hidden, self.reads, tokenizer.num_tokens
        self.read = MLP(width, H, H)
        if D > 1:  # nothing follows the last token, so that a lone one is never looked at
            self.embed = nn.Embedding(tokenizer.vocab_size, H)
            nn.init.normal_(self.embed.weight, std=0.5)
        self.position = nn.Parameter(0.02 * torch.randn(R + D - 1, H))
        self.blocks = nn.ModuleList(
            Block(H, config.heads, H // config.heads, feed_forward="gelu")
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(H)
        self.out = nn.Linear(H, tokenizer.vocab_size)
        nn.init.normal_(self.out.weight, std=0.02)  # starts near the uniform distribution
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> AutoregressiveActions:
        return AutoregressiveActions(self.read(hidden).to(self.position.dtype), self)

    def logits(
        self, states: Float[Tensor, "N R H"], ids: Int64[Tensor, "N L"]
    ) -> Float[Tensor, "N L V"]:
        """Of each place, given the ids before it, without regard to what is allowed; in one pass."""
        R, L = self.reads, ids.shape[1]
        # also where nothing is embedded: distributed training wants a gradient, if of zeros, of every parameter
        x = (
            torch.cat([states, self.embed(ids[:, :-1])], dim=1)
            if hasattr(self, "embed")
            else states
        )
        x = x + self.position[: R + L - 1]
        mask = torch.ones(R + L - 1, R + L - 1, dtype=torch.bool, device=x.device).tril()
        mask[:R, :R] = True
        for block in self.blocks:
            x = block(x, mask)
        return self.out(self.norm(x[:, R - 1 :])).float()

    @torch.no_grad()
    def generate(
        self,
        states: Float[Tensor, "N R H"],
        *,
        temperature: float,
        generator: torch.Generator | None = None,
    ) -> Int64[Tensor, "N D"]:
        """Draws one id after the other among those that are allowed; at temperature 0 the most likely ones. Stops when all
        sequences are finished. Keys and values of the tokens before are kept."""
        N, D = len(states), self.tokenizer.num_tokens
        grammar, allowed_DV = self.tokenizer.grammar, self.tokenizer.allowed_ids
        ids_ND = torch.full((N, D), 0 if grammar is None else grammar.pad_id, device=states.device)
        state = None if grammar is None else grammar.start(N, states.device)
        past: list[KeyValue | None] = [None] * len(self.blocks)
        x_NLH = states
        for place in range(D):
            if grammar is not None and state is not None and bool(grammar.finished(state).all()):
                break
            logits_NV, past = self._next_logits(x_NLH, past)
            logits_NV = masked_logits(logits_NV, None if allowed_DV is None else allowed_DV[place])
            if grammar is not None and state is not None:
                logits_NV = masked_logits(logits_NV, grammar.allowed(state, place))
            ids_N = _draw(logits_NV, temperature, generator)
            ids_ND[:, place] = ids_N
            if grammar is not None and state is not None:
                state = grammar.advance(state, ids_N, place)
            if place + 1 < D:
                x_NLH = self.embed(ids_N)[:, None]
        return ids_ND

    def places(self, ids: Int64[Tensor, "N D"]) -> Places:
        """What `generate` would have allowed on the way to these ids."""
        grammar, allowed_DV = self.tokenizer.grammar, self.tokenizer.allowed_ids
        if grammar is None:
            return Places(ids, allowed_DV, torch.ones_like(ids, dtype=torch.bool))
        state = grammar.start(len(ids), ids.device)
        allowed, told = [], []
        for place in range(ids.shape[1]):
            going_N = ~grammar.finished(state)
            if place and not bool(going_N.any()):
                break
            allowed.append(grammar.allowed(state, place))
            told.append(going_N)
            state = grammar.advance(state, ids[:, place], place)
        allowed_NLV = torch.stack(allowed, dim=1)
        if allowed_DV is not None:
            allowed_NLV = allowed_NLV & allowed_DV[: len(allowed)].to(ids.device)
        return Places(ids[:, : len(allowed)], allowed_NLV, torch.stack(told, dim=1))

    def _next_logits(
        self, x_NLH: Tensor, past: Sequence[KeyValue | None]
    ) -> tuple[Tensor, list[KeyValue | None]]:
        """Of the place after the new tokens; and the keys and values of all tokens so far."""
        start = 0 if past[0] is None else past[0][0].shape[2]
        L = x_NLH.shape[1]
        x_NLH = x_NLH + self.position[start : start + L]
        mask = torch.ones(L, start + L, dtype=torch.bool, device=x_NLH.device)
        kept: list[KeyValue | None] = []
        for block, before in zip(cast(Sequence[Block], self.blocks), past, strict=True):
            x_NLH, (keys, values) = block.extend(x_NLH, mask, before)
            if before is not None:
                keys, values = (
                    torch.cat([before[0], keys], dim=2),
                    torch.cat([before[1], values], dim=2),
                )
            kept.append((keys, values))
        return self.out(self.norm(x_NLH[:, -1])).float(), kept


class AutoregressiveActions:
    """A distribution over chunks of tokens, each given those before. Its entropy is not tractable.

    Attributes:
        states: (B, T, R, H), what the trunk said.
        head: the small transformer.
        tokenizer: turns ids into actions.
    """

    def __init__(self, states: Float[Tensor, "B T R H"], head: AutoregressiveHead) -> None:
        self.states, self.head, self.tokenizer = states, head, head.tokenizer
        self._last: tuple[Tensor, Places, Tensor] | None = None

    def loss(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of the chunk's valid actions, padding aside; 0 where there are none."""
        return -self._mean(self._log_probs(actions), actions, action_mask)

    def log_prob(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Log probability with which `sample` draws the tokens of the chunk's valid actions."""
        log_probs_BTL, counts_BTL = self._log_probs(actions), self._counted(actions, action_mask)
        return log_probs_BTL.where(counts_BTL, 0.0).sum(-1)

    def token_accuracy(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"] | None = None
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that are the most likely ones after the true tokens before them."""
        places, logits_NLV = self._teacher_forced(actions)
        right_BTL = self._by_window((logits_NLV.argmax(-1) == places.ids).float())
        return self._mean(right_BTL, actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """Each token the most likely one after those before: greedy, not always the most likely chunk."""
        return self.sample(temperature=0.0)

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 1.0
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError where it is negative."""
        check_temperature(temperature)
        ids_ND = self.head.generate(
            self.states.flatten(0, 1), temperature=temperature, generator=generator
        )
        return self.tokenizer.decode(self._by_window(ids_ND))

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def _log_probs(self, actions: Tensor) -> Tensor:
        places, logits_NLV = self._teacher_forced(actions)
        nll_N = F.cross_entropy(logits_NLV.flatten(0, 1), places.ids.flatten(), reduction="none")
        return -self._by_window(nll_N.view(places.ids.shape))

    def _teacher_forced(self, actions: Tensor) -> tuple[Places, Tensor]:
        """Logits (N, L, V) of the allowed ids. A loss and the accuracy beside it ask for those of the same actions."""
        if (
            self._last is None
            or self._last[0] is not actions
            or (torch.is_grad_enabled() and not self._has_gradient())
        ):
            places = self.head.places(self.tokens(actions).flatten(0, 1))
            logits_NLV = masked_logits(
                self.head.logits(self.states.flatten(0, 1), places.ids), places.allowed
            )
            self._last = (actions, places, logits_NLV)
        return self._last[1:]

    def _has_gradient(self) -> bool:
        return self._last is not None and self._last[2].requires_grad

    def _counted(self, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        """Which tokens (B, T, L) count."""
        places, _ = self._teacher_forced(actions)
        told_BTL = self._by_window(places.told)
        if action_mask is None:
            return told_BTL
        return told_BTL & token_mask(action_mask, self.tokenizer)[..., : told_BTL.shape[-1]]

    def _mean(self, values_BTL: Tensor, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        counts_BTL = self._counted(actions, action_mask)
        return values_BTL.where(counts_BTL, 0.0).sum(-1) / counts_BTL.sum(-1).clamp(min=1)

    def _by_window(self, values_N: Tensor) -> Tensor:
        return values_N.unflatten(0, self.states.shape[:2])


def _draw(logits_NV: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if temperature == 0:
        return logits_NV.argmax(-1)
    return torch.multinomial((logits_NV / temperature).softmax(-1), 1, generator=generator).squeeze(
        -1
    )


__all__ = ["AutoregressiveActions", "AutoregressiveConfig", "AutoregressiveHead", "Places"]

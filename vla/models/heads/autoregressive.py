"""The tokens of a chunk one after the other, from a small causal transformer over the trunk's
hidden states.

For tokenizers whose ids depend on each other (FAST, residual codes), and wherever tokens drawn
independently would mix different ways to act. Ids that the tokenizer does not allow have
probability 0, in training as in generation.

B windows, T steps, N = B * T sequences, R hidden states read per step, W their width,
K actions per chunk, A action dimensions, D tokens per chunk, L <= D of them that are more than
padding, V ids, H width of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import register
from vla.models.heads.base import Head, HeadConfig
from vla.models.heads.categorical import token_mask
from vla.models.heads.continuation import check_continuation
from vla.models.heads.continuous import MLP, check_temperature
from vla.models.heads.token_generation import Guidance, Places, draw_ids
from vla.models.heads.token_loss import (
    ChunkOffset,
    StatedOffset,
    TokenHeadConfig,
    TokenLoss,
    place_mean,
    soft_cross_entropy,
)
from vla.models.layers.transformer import Block, KeyValue
from vla.tokenizers.base import ActionTokenizer
from vla.tokenizers.grammar import masked_logits
from vla.types import Spec


class TokenTransformerConfig(HeadConfig):
    """Sizes of the small transformer over the tokens of a chunk."""

    read_states: int = Field(default=1, ge=1, le=10000)
    """Hidden states that are read per step; they stand before the tokens."""
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the small transformer."""
    depth: int = Field(default=2, ge=1, le=1000)
    """Its layers."""
    heads: int = Field(default=4, ge=1, le=4096)
    """Its attention heads."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(
                f"hidden must be a multiple of heads, got {self.hidden} and {self.heads}"
            )
        return self

    def num_readouts(self, tokenizer: ActionTokenizer) -> int:
        return self.read_states


@register("heads", "autoregressive")
class AutoregressiveConfig(TokenTransformerConfig, TokenHeadConfig):
    """One token after the other, for every tokenizer: exact likelihoods, as many passes of a small
    network as tokens."""

    type: Literal["autoregressive"] = "autoregressive"

    def build(self, tokenizer: ActionTokenizer, spec: Spec, *, width: int) -> AutoregressiveHead:
        """Raises HeadError if smoothing or weights are asked of a tokenizer that has none."""
        self.check_tokenizer(tokenizer)
        head = AutoregressiveHead(self, tokenizer, width)
        head.token_loss = self.token_loss
        head.offset = self.build_offset(
            tokenizer,
            spec,
            width=head.num_readouts * self.hidden,
            hidden=self.hidden,
        )
        return head


class AutoregressiveHead(Head):
    """A causal transformer over R read states and the tokens before.

    Attributes:
        token_loss: how its loss compares ids with actions.
        offset: of the chunk that the tokens decode to; None for none.
    """

    token_loss = TokenLoss()
    offset: ChunkOffset | None

    def __init__(
        self,
        config: TokenTransformerConfig,
        tokenizer: ActionTokenizer,
        width: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.num_readouts = config.num_readouts(tokenizer)
        H = config.hidden
        R = self.num_readouts
        D = tokenizer.num_tokens
        self.read = MLP(width, H, H)
        # nothing follows the last token, so with one token per chunk no embedding is ever read;
        # a parameter without gradient would stop distributed training
        if D > 1:
            self.embed = nn.Embedding(tokenizer.vocab_size, H)
            nn.init.normal_(self.embed.weight, std=0.5)
        # the last token is predicted, never an input: R + D - 1 inputs
        self.position = nn.Parameter(0.02 * torch.randn(R + D - 1, H))
        self.blocks = nn.ModuleList(
            Block(H, config.heads, H // config.heads, feed_forward="gelu")
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(H)
        self.out = nn.Linear(H, tokenizer.vocab_size)
        nn.init.normal_(self.out.weight, std=0.02)  # starts near the uniform distribution
        nn.init.zeros_(self.out.bias)
        # here, not in the class, where it would hide the module that `build` assigns
        self.offset = None

    def fit(self, actions: Float[Tensor, "N A"], *, lengths: Sequence[int] | None = None) -> None:
        if self.offset is not None:
            self.offset.scale.fit(actions)

    def forward(self, hidden: Float[Tensor, "B T R W"]) -> AutoregressiveActions:
        return AutoregressiveActions(self.read(hidden).to(self.position.dtype), self)

    def logits(
        self,
        states: Float[Tensor, "N R H"],
        ids: Int64[Tensor, "N L"],
    ) -> Float[Tensor, "N L V"]:
        """Logits of each place given the ids before it, in one pass; what is allowed is not
        considered."""
        R = self.num_readouts
        L = ids.shape[1]
        x_NLH = states
        if self.tokenizer.num_tokens > 1:
            # also if L is 1 and nothing is embedded: distributed training needs a gradient, if of
            # zeros, for every parameter
            x_NLH = torch.cat([states, self.embed(ids[:, :-1])], dim=1)
        x_NLH = x_NLH + self.position[: R + L - 1]
        mask = torch.ones(R + L - 1, R + L - 1, dtype=torch.bool, device=x_NLH.device).tril()
        # the readouts are of one moment: they see each other, only tokens are causal
        mask[:R, :R] = True
        for block in self.blocks:
            x_NLH = block(x_NLH, mask)
        # the last readout predicts the first token
        return self.out(self.norm(x_NLH[:, R - 1 :])).float()

    @torch.no_grad()
    def generate(
        self,
        states: Float[Tensor, "N R H"],
        *,
        temperature: float,
        generator: torch.Generator | None = None,
        guidance: Guidance | None = None,
        forced: Int64[Tensor, "N P"] | None = None,
    ) -> Int64[Tensor, "N D"]:
        """Draws one id after the other among those that are allowed; the most likely ones at
        temperature 0. `forced` are the first ones, which are not drawn.

        Stops when all sequences are finished. Keys and values of earlier tokens are kept, so each
        token costs one pass over itself alone.
        """
        N = states.shape[0]  # not len: it would fix the size of an exported graph
        D = self.tokenizer.num_tokens
        grammar = self.tokenizer.grammar
        allowed_DV = self.tokenizer.allowed_ids
        # filled with padding, so that a sequence that finishes early is padded behind its end
        pad_id = 0 if grammar is None else grammar.pad_id
        ids_ND = torch.full((N, D), pad_id, device=states.device)
        state = None if grammar is None else grammar.start(N, states.device)
        past: list[KeyValue | None] = [None] * len(self.blocks)
        x_NLH = states
        if guidance is not None:
            # the guiding sequences as further rows: they go on with the same ids
            x_NLH = torch.cat([states, guidance.base])
        for place in range(D):
            if grammar is not None and state is not None and bool(grammar.finished(state).all()):
                break
            logits_NV, past = self._next_logits(x_NLH, past)
            if guidance is not None:
                logits_NV = guidance.extrapolated(*logits_NV.chunk(2))
            logits_NV = masked_logits(logits_NV, None if allowed_DV is None else allowed_DV[place])
            if grammar is not None and state is not None:
                logits_NV = masked_logits(logits_NV, grammar.allowed(state, place))
            if forced is not None and place < forced.shape[1]:
                ids_N = forced[:, place]
            else:
                ids_N = draw_ids(logits_NV, temperature, generator)
            ids_ND[:, place] = ids_N
            if grammar is not None and state is not None:
                state = grammar.advance(state, ids_N, place)
            if place + 1 < D:
                x_NLH = self._next_input(ids_N)
                if guidance is not None:
                    x_NLH = torch.cat([x_NLH, x_NLH])
        return ids_ND

    def _next_input(self, ids: Int64[Tensor, " N"]) -> Float[Tensor, "N 1 H"]:
        """What `generate` goes on from after these ids."""
        return self.embed(ids)[:, None]

    def places(self, ids: Int64[Tensor, "N D"]) -> Places:
        """What `generate` would have allowed on the way to these ids.

        The training softmax is masked by it too, so that the likelihood is that of what is
        generated.
        """
        grammar = self.tokenizer.grammar
        allowed_DV = self.tokenizer.allowed_ids
        if grammar is None:
            return Places(ids, allowed_DV, torch.ones_like(ids, dtype=torch.bool))
        state = grammar.start(len(ids), ids.device)
        allowed = []
        is_token = []
        for place in range(ids.shape[1]):
            unfinished_N = ~grammar.finished(state)
            # one place is kept even if all are finished: a batch of no places has no logits
            if place and not bool(unfinished_N.any()):
                break
            allowed.append(grammar.allowed(state, place))
            is_token.append(unfinished_N)
            state = grammar.advance(state, ids[:, place], place)
        L = len(allowed)
        allowed_NLV = torch.stack(allowed, dim=1)
        if allowed_DV is not None:
            allowed_NLV = allowed_NLV & allowed_DV[:L].to(ids.device)
        return Places(ids[:, :L], allowed_NLV, torch.stack(is_token, dim=1))

    def _next_logits(
        self,
        x_NLH: Tensor,
        past: Sequence[KeyValue | None],
    ) -> tuple[Tensor, list[KeyValue | None]]:
        """Logits of the place after the new tokens, and the keys and values of all tokens so
        far."""
        start = 0 if past[0] is None else past[0][0].shape[2]
        L = x_NLH.shape[1]
        x_NLH = x_NLH + self.position[start : start + L]
        # no causal mask is needed: the new tokens are either the readouts or a single token
        mask = torch.ones(L, start + L, dtype=torch.bool, device=x_NLH.device)
        kept: list[KeyValue | None] = []
        for block, before in zip(cast(Sequence[Block], self.blocks), past, strict=True):
            x_NLH, (keys, values) = block.extend(x_NLH, mask, before)
            if before is not None:
                keys = torch.cat([before[0], keys], dim=2)
                values = torch.cat([before[1], values], dim=2)
            kept.append((keys, values))
        return self.out(self.norm(x_NLH[:, -1])).float(), kept


class AutoregressiveActions:
    """A distribution over chunks of tokens, each given those before. Its entropy is not tractable.

    Attributes:
        states: (B, T, R, H), the trunk's hidden states as the head reads them.
        head: the small transformer.
        tokenizer: turns ids into actions.
        guidance: of what is drawn; likelihoods and losses are those without it. None without.
    """

    def __init__(
        self,
        states: Float[Tensor, "B T R H"],
        head: AutoregressiveHead,
        guidance: Guidance | None = None,
    ) -> None:
        self.states = states
        self.head = head
        self.guidance = guidance
        self.tokenizer = head.tokenizer
        self.offset = None if head.offset is None else StatedOffset(head.offset, states.flatten(2))
        # the last teacher-forced pass: its actions, places and logits
        self._last: tuple[Tensor, Places, Tensor] | None = None

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of the chunk's valid actions, without padding,
        and the offset's weighted error.

        0 for a chunk without valid actions.
        """
        loss_BT = self._token_loss(actions, action_mask)
        if self.offset is None:
            return loss_BT
        # at the true codes, whatever the most likely ones are
        decoded_BTKA = self.tokenizer.decode(self.tokens(actions))
        return loss_BT + self.offset.loss(decoded_BTKA, actions, action_mask)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log probability with which `sample` draws the tokens of the chunk's valid actions.

        With an offset, that of the codes nearest to the chunk.
        """
        log_probs_BTL = self._log_probs(actions)
        counts_BTL = self._counted(actions, action_mask)
        return log_probs_BTL.where(counts_BTL, 0.0).sum(-1)

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that are the most likely ones after the true tokens before
        them."""
        places, logits_NLV = self._teacher_forced(actions)
        right_BTL = self._by_window((logits_NLV.argmax(-1) == places.ids).float())
        return self._mean(right_BTL, actions, action_mask)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The most likely token after those before, place by place: not always the most likely
        chunk."""
        return self.sample(temperature=0.0)

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError if it is negative."""
        check_temperature(temperature)
        return self.sample_many(1, generator, temperature=temperature)[0]

    def sample_many(
        self,
        count: int,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "S B T K A"]:
        """`count` random chunks of each step, drawn side by side."""
        check_temperature(temperature)
        guidance = self.guidance
        if guidance is not None:
            guidance = Guidance(guidance.base.repeat_interleave(count, dim=0), guidance.weight)
        ids_MD = self.head.generate(
            self.states.flatten(0, 1).repeat_interleave(count, dim=0),
            temperature=temperature,
            generator=generator,
            guidance=guidance,
        )
        ids_BTSD = ids_MD.view(*self.states.shape[:2], count, -1)
        decoded_SBTKA = self.tokenizer.decode(ids_BTSD.movedim(2, 0))
        if self.offset is None:
            return decoded_SBTKA
        return torch.stack([self.offset.applied(decoded) for decoded in decoded_SBTKA])

    @property
    def continuations(self) -> Mapping[str, int]:
        """Prefix, where every action has tokens of its own, in the order of time."""
        return {"prefix": self.tokenizer.chunk} if self.tokenizer.tokens_per_action else {}

    def continued(
        self,
        previous: Float[Tensor, "B K A"],
        frozen: int,
        weights: Float[Tensor, " K"],
        generator: torch.Generator | None = None,
        *,
        method: str | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B K A"]:
        """A chunk of the last step that goes on from `previous`; see `Continuable`.

        Exact: the tokens behind those of the frozen actions are drawn given these.
        """
        check_continuation(self, method, frozen)
        check_temperature(temperature)
        ids_BD = self.tokenizer.encode(previous.to(self.states.device))
        places = frozen * (self.tokenizer.tokens_per_action or 0)
        guidance = self.guidance
        if guidance is not None:
            base_BTRH = guidance.base.view_as(self.states)
            guidance = Guidance(base_BTRH[:, -1], guidance.weight)
        ids_BD = self.head.generate(
            self.states[:, -1],
            temperature=temperature,
            generator=generator,
            guidance=guidance,
            forced=ids_BD[:, :places],
        )
        return self.tokenizer.decode(ids_BD)

    def extrapolated(self, base: AutoregressiveActions, weight: float) -> AutoregressiveActions:
        """From what `base` draws (weight 0) to what these states draw (1) and beyond."""
        guidance = Guidance(base.states.flatten(0, 1), weight)
        return AutoregressiveActions(self.states, self.head, guidance)

    @property
    def has_exact_tokens(self) -> bool:
        """See `TokenDistribution`."""
        return self.tokenizer.tokens_per_action is not None

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.tokenizer.encode(actions)

    def token_logits(self, actions: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T D V"]:
        """See `TokenDistribution`. Places behind the end of all chunks of the batch are 0."""
        places, logits_NLV = self._teacher_forced(actions)
        missing = self.tokenizer.num_tokens - places.ids.shape[1]
        return self._by_window(F.pad(logits_NLV, (0, 0, 0, missing)))

    def token_mask(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"]
    ) -> Bool[Tensor, "B T D"]:
        """See `TokenDistribution`."""
        counts_BTL = self._counted(actions, action_mask)
        return F.pad(counts_BTL, (0, self.tokenizer.num_tokens - counts_BTL.shape[-1]))

    def _token_loss(self, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        """Mean cross-entropy of the tokens (B, T), soft and weighted as the head is set."""
        rule = self.head.token_loss
        if rule == TokenLoss():
            return -self._mean(self._log_probs(actions), actions, action_mask)
        places, logits_NLV = self._teacher_forced(actions)
        L = places.ids.shape[1]
        # of all D places: targets and weights of a chunk are those of the whole chunk
        ids_BTD = self.tokens(actions)
        soft_BTDV = rule.targets(self.tokenizer, actions, ids_BTD)
        if soft_BTDV is None:
            values_BTL = -self._log_probs(actions)
        else:
            soft_BTLV = soft_BTDV[..., :L, :]
            values_BTL = soft_cross_entropy(self._by_window(logits_NLV), soft_BTLV)
        weights_BTD = rule.weights(self.tokenizer, ids_BTD)
        if weights_BTD is None:
            return self._mean(values_BTL, actions, action_mask)
        counts_BTL = self._counted(actions, action_mask)
        return place_mean(values_BTL, counts_BTL, weights_BTD[..., :L])

    def _log_probs(self, actions: Tensor) -> Tensor:
        places, logits_NLV = self._teacher_forced(actions)
        nll_N = F.cross_entropy(logits_NLV.flatten(0, 1), places.ids.flatten(), reduction="none")
        return -self._by_window(nll_N.view(places.ids.shape))

    def _teacher_forced(self, actions: Tensor) -> tuple[Places, Tensor]:
        """Places, and logits (N, L, V) of the allowed ids.

        Kept for the next call: a loss and the token accuracy beside it are computed of the same
        actions.
        """
        # compared by identity: comparing values would cost as much as is saved
        if self._last is not None and self._last[0] is actions:
            _, places, logits_NLV = self._last
            # what was computed under no_grad is of no use to a loss
            if logits_NLV.requires_grad or not torch.is_grad_enabled():
                return places, logits_NLV
        places = self.head.places(self.tokens(actions).flatten(0, 1))
        logits_NLV = self.head.logits(self.states.flatten(0, 1), places.ids)
        logits_NLV = masked_logits(logits_NLV, places.allowed)
        self._last = (actions, places, logits_NLV)
        return places, logits_NLV

    def _counted(self, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        """Which tokens (B, T, L) count."""
        places, _ = self._teacher_forced(actions)
        is_token_BTL = self._by_window(places.is_token)
        if action_mask is None:
            return is_token_BTL
        valid_BTD = token_mask(action_mask, self.tokenizer)
        return is_token_BTL & valid_BTD[..., : is_token_BTL.shape[-1]]

    def _mean(self, values_BTL: Tensor, actions: Tensor, action_mask: Tensor | None) -> Tensor:
        counts_BTL = self._counted(actions, action_mask)
        # `where`, not a product: masked places may hold -inf, and 0 * inf is NaN
        return values_BTL.where(counts_BTL, 0.0).sum(-1) / counts_BTL.sum(-1).clamp(min=1)

    def _by_window(self, values_N: Tensor) -> Tensor:
        return values_N.unflatten(0, self.states.shape[:2])


__all__ = [
    "AutoregressiveActions",
    "AutoregressiveConfig",
    "AutoregressiveHead",
    "TokenTransformerConfig",
]

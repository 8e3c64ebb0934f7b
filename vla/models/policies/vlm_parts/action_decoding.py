"""Action tokens that a language model decodes one by one: a distribution over action ids alone.

The softmax runs over the reserved action ids, never over text, and further over what the action
tokenizer allows at a place: so that no sequence that can be drawn is anything but a valid chunk.

B windows, T steps, S draws, N = B * T prompts, M = N * S, K actions per chunk, A action
dimensions, D tokens per chunk, V action ids.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from vla.models.heads.categorical import token_mask
from vla.models.layers.action_vocabulary import ActionVocabulary
from vla.models.layers.vision_language import Prefill, Prompt
from vla.tokenizers.base import ActionTokenizer


class TokenDecoder(ABC):
    """What gives logits of action tokens: a VLM policy."""

    # No Protocol: from Python 3.12 on a protocol with attributes does not see submodules.
    tokenizer: ActionTokenizer
    vocabulary: ActionVocabulary

    @abstractmethod
    def score(self, prompt: Prompt, ids: Int64[Tensor, "N D"]) -> Float[Tensor, "N D V"]:
        """Logits of each place, given the ids before it."""

    @abstractmethod
    def prefill(self, prompt: Prompt) -> Prefill:
        """The prompt's keys and values."""

    @abstractmethod
    def decode_step(self, prefill: Prefill, ids: Int64[Tensor, " N"]) -> Prefill:
        """The keys and values after one more action token."""


@dataclass(frozen=True)
class AutoregressiveActions:
    """A categorical distribution for each place of a chunk, given the tokens before it.

    Attributes:
        decoder: gives logits.
        prompt: N prompts.
        steps: B and T.
        known: ids and their logits, if a forward pass has computed them already.
        prefilled: the keys and values of the prompt, if they are known.
    """

    decoder: TokenDecoder
    prompt: Prompt
    steps: tuple[int, int]
    known: tuple[Int64[Tensor, "N D"], Float[Tensor, "N D V"]] | None = None
    prefilled: Prefill | None = None

    def loss(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Mean cross-entropy (nats) of the tokens of valid actions, given the true ones before; 0
        if none is valid."""
        ids_ND = self._ids(actions)
        losses_ND = -self._log_probs(ids_ND)
        return self._mean(losses_ND, ids_ND, action_mask)

    def log_prob(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Log probability of the chunk's tokens, summed over its valid actions."""
        ids_ND = self._ids(actions)
        log_probs_ND = self._log_probs(ids_ND)
        # a forced id has probability 1, so that padding after an end adds 0 of itself
        counted_ND = log_probs_ND * self._weights(ids_ND, action_mask)
        return counted_ND.sum(-1).view(self.steps)

    def token_accuracy(
        self,
        actions: Float[Tensor, "B T K A"],
        action_mask: Bool[Tensor, "B T K"] | None = None,
    ) -> Float[Tensor, "B T"]:
        """Share of the chunk's tokens that are the most likely ones, given the true ones before."""
        ids_ND = self._ids(actions)
        right_ND = self._logits(ids_ND).argmax(-1) == ids_ND
        return self._mean(right_ND.float(), ids_ND, action_mask)

    @property
    def has_exact_tokens(self) -> bool:
        """See `TokenDistribution`."""
        return self.decoder.tokenizer.tokens_per_action is not None

    def tokens(self, actions: Float[Tensor, "B T K A"]) -> Int64[Tensor, "B T D"]:
        """The ids of the given actions."""
        return self.decoder.tokenizer.encode(actions)

    def token_logits(self, actions: Float[Tensor, "B T K A"]) -> Float[Tensor, "B T D V"]:
        """See `TokenDistribution`."""
        return self._logits(self._ids(actions)).float().unflatten(0, self.steps)

    def token_mask(
        self, actions: Float[Tensor, "B T K A"], action_mask: Bool[Tensor, "B T K"]
    ) -> Bool[Tensor, "B T D"]:
        """See `TokenDistribution`."""
        weights_ND = self._weights(self._ids(actions), action_mask)
        return (weights_ND > 0).unflatten(0, self.steps)

    def mode(self) -> Float[Tensor, "B T K A"]:
        """The chunk of the most likely token at each place, given those chosen before."""
        return self.sample(temperature=0.0)

    def sample(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T K A"]:
        """A random chunk; `temperature` 0 gives the mode. Raises ValueError if it is negative."""
        ids_BTD = self.sample_tokens(generator, temperature=temperature)
        return self.decoder.tokenizer.decode(ids_BTD)

    def sample_many(
        self,
        count: int,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "S B T K A"]:
        """`count` random chunks of each step, decoded side by side after one pass over the
        prompt."""
        ids_MD = self._decode(count, generator, temperature)
        # the copies of a prompt stand in a row
        ids_SBTD = ids_MD.view(*self.steps, count, -1).movedim(2, 0)
        return self.decoder.tokenizer.decode(ids_SBTD)

    def sample_tokens(
        self,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
    ) -> Int64[Tensor, "B T D"]:
        """The ids of a random chunk, decoded token by token; keys and values are kept."""
        return self._decode(1, generator, temperature).view(*self.steps, -1)

    @functools.cached_property
    def _prompt_prefill(self) -> Prefill:
        """The prompt's keys and values, computed once for all that is drawn."""
        return self.prefilled or self.decoder.prefill(self.prompt)

    @torch.no_grad()
    def _decode(
        self, count: int, generator: torch.Generator | None, temperature: float
    ) -> Int64[Tensor, "M D"]:
        """The ids of `count` chunks of each of N prompts, M = N * count rows."""
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (the mode) or positive, got {temperature}")
        decoder = self.decoder
        # decoding writes into the cache: a fork, so that the next sample finds the prompt alone
        prefill = self._prompt_prefill.fork(count)
        num_tokens = decoder.tokenizer.num_tokens
        device = prefill.hidden.device
        constraint = TokenConstraint(decoder.tokenizer, count * self.prompt.batch_size, device)
        chosen: list[Tensor] = []
        for place in range(num_tokens):
            if chosen:
                prefill = decoder.decode_step(prefill, chosen[-1])
            logits_NV = constraint.restrict(decoder.vocabulary.logits(prefill.hidden).float())
            if temperature == 0:
                ids_N = logits_NV.argmax(-1)
            else:
                ids_N = _draw(logits_NV / temperature, generator)
            chosen.append(ids_N)
            constraint.advance(ids_N)
            if constraint.finished:
                # only padding may follow: the language model need not be asked for it
                padding_N = torch.full_like(ids_N, constraint.pad_id)
                chosen += [padding_N] * (num_tokens - place - 1)
                break
        return torch.stack(chosen, dim=1)

    # --- given tokens -----------------------------------------------------------------------------

    def _ids(self, actions: Tensor) -> Tensor:
        return self.tokens(actions).flatten(0, 1)

    def _logits(self, ids_ND: Tensor) -> Tensor:
        """(N, D, V), -inf for what may not stand there after the ids before."""
        # training asks for the loss of the very actions that the forward pass was given
        if self.known is not None and torch.equal(self.known[0], ids_ND):
            logits_NDV = self.known[1]
        else:
            logits_NDV = self.decoder.score(self.prompt, ids_ND)
        constraint = TokenConstraint(self.decoder.tokenizer, len(ids_ND), ids_ND.device)
        if constraint.free:
            return logits_NDV.float()
        places = []
        for place, ids_N in enumerate(ids_ND.unbind(1)):
            places.append(constraint.restrict(logits_NDV[:, place].float()))
            constraint.advance(ids_N)
        return torch.stack(places, dim=1)

    def _log_probs(self, ids_ND: Tensor) -> Tensor:
        logits_NDV = self._logits(ids_ND)
        losses = F.cross_entropy(
            logits_NDV.flatten(0, 1),
            ids_ND.flatten(),
            reduction="none",
        )
        return -losses.view(ids_ND.shape)

    def _weights(self, ids_ND: Tensor, action_mask: Tensor | None) -> Tensor:
        """(N, D): 1 for the tokens that count, 0 for those of invalid actions and for padding."""
        weights_ND = torch.ones_like(ids_ND, dtype=torch.float32)
        if action_mask is not None:
            mask_NK = action_mask.flatten(0, 1)
            weights_ND = token_mask(mask_NK, self.decoder.tokenizer).float()
        constraint = TokenConstraint(self.decoder.tokenizer, len(ids_ND), ids_ND.device)
        if constraint.grammar is None:
            return weights_ND
        # padding after an end is forced and always right: it would dilute the mean
        open_ND = []
        for ids_N in ids_ND.unbind(1):
            open_ND.append(~constraint.ended)
            constraint.advance(ids_N)
        return weights_ND * torch.stack(open_ND, dim=1)

    def _mean(self, values_ND: Tensor, ids_ND: Tensor, action_mask: Tensor | None) -> Tensor:
        weights_ND = self._weights(ids_ND, action_mask)
        # clamped: a chunk without valid actions gives 0, not NaN
        counts_N = weights_ND.sum(-1).clamp(min=1)
        sums_N = (values_ND * weights_ND).sum(-1)
        return (sums_N / counts_N).view(self.steps)


class TokenConstraint:
    """Which ids of a tokenizer may stand at the next place, of N sequences that grow together."""

    def __init__(self, tokenizer: ActionTokenizer, count: int, device: torch.device) -> None:
        allowed_DV = tokenizer.allowed_ids
        self.allowed_DV = None if allowed_DV is None else allowed_DV.to(device)
        self.grammar = tokenizer.grammar
        self.state = None if self.grammar is None else self.grammar.start(count, device)
        self.place = 0

    @property
    def free(self) -> bool:
        """Every id may stand everywhere."""
        return self.allowed_DV is None and self.grammar is None

    @property
    def ended(self) -> Bool[Tensor, " N"]:
        """Sequences after which only padding may follow."""
        assert self.grammar is not None
        assert self.state is not None
        return self.grammar.finished(self.state)

    @property
    def finished(self) -> bool:
        return self.grammar is not None and bool(self.ended.all())

    @property
    def pad_id(self) -> int:
        assert self.grammar is not None
        return int(self.grammar.pad_id)

    def restrict(self, logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
        """-inf for ids that may not stand at this place."""
        if self.allowed_DV is not None:
            forbidden_V = ~self.allowed_DV[self.place]
            logits = logits.masked_fill(forbidden_V, -torch.inf)
        if self.grammar is not None and self.state is not None:
            # N sequences, of which each may be in another state
            allowed_NV = self.grammar.allowed(self.state, self.place)
            logits = logits.masked_fill(~allowed_NV, -torch.inf)
        return logits

    def advance(self, ids: Int64[Tensor, " N"]) -> None:
        if self.grammar is not None and self.state is not None:
            self.state = self.grammar.advance(self.state, ids, self.place)
        self.place += 1


def _draw(logits_NV: Tensor, generator: torch.Generator | None) -> Tensor:
    shares_NV = logits_NV.softmax(-1)
    return torch.multinomial(shares_NV, 1, generator=generator)[:, 0]


__all__ = ["AutoregressiveActions", "TokenConstraint", "TokenDecoder"]

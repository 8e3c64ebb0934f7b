"""FAST: cosine transform of whole chunks, rounded, and byte-pair encoded (Pertsch et al., 2025, arXiv:2501.09747).

Each dimension is scaled to [-1, 1] between two quantiles of the data and transformed along time (DCT-II, orthonormal).
The coefficients times `scale` are rounded to integers and laid out by frequency, the lowest first, all dimensions of
one frequency side by side. Byte-pair encoding over these integers makes few tokens of smooth chunks. All integers that
a chunk can need are ids themselves, so everything encodes; the grammar admits only sequences of exactly as many
coefficients as a chunk has, so everything that it admits decodes. Dimensions that never moved take no coefficients.

B chunks, K actions per chunk, A action dimensions, M of them moving, C = K * M coefficients, D places, V ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.chunks import ActionRange, Quantiles, chunk_rows
from vla.tokenizers.grammar import TokenGrammar
from vla.tokenizers.integer_bpe import IntegerBPE
from vla.types import Spec

MOST_CHUNKS = 10_000
"""Chunks from which pairs are learned; more cost time and change little."""
_NEVER = np.iinfo(np.int16).max


@register("tokenizers", "fast")
class FastConfig(TokenizerConfig):
    """Cosine transform and byte-pair encoding of whole chunks: few tokens for smooth motion at a high rate."""

    type: Literal["fast"] = "fast"
    vocab_size: int = Field(default=1024, ge=3, le=16384)
    """Ids of the byte-pair encoding; one more pads."""
    scale: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Coefficients are rounded to multiples of 1 / scale: greater means more exact and more tokens."""
    quantiles: Quantiles = (0.01, 0.99)
    """Lower and upper quantile of the data between which a dimension is scaled to [-1, 1]."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Places of a chunk; by default one for each number in it, which always suffices. With fewer, chunks that need more
    lose their highest frequencies until they fit."""

    def build(self, spec: Spec, chunk: int) -> FastTokenizer:
        """A tokenizer for `spec`'s actions; it must be fitted before use.

        Raises:
            TokenizerError: the vocabulary cannot hold the integers that occur.
        """
        return FastTokenizer(self, spec.action_names, chunk)


class FastTokenizer(ActionTokenizer):
    """See the module's docstring. Built by `FastConfig.build`, or read by `load`."""

    def __init__(self, config: FastConfig, action_names: Sequence[str], chunk: int) -> None:
        super().__init__(action_names, chunk)
        self.config = config
        self.transform = cosine_transform(chunk)
        # |coefficient| of values in [-1, 1] is at most the sum of a row's magnitudes
        self.greatest = math.ceil(config.scale * float(self.transform.abs().sum(1).max()) - 1e-6)
        if 2 * self.greatest + 1 > config.vocab_size:
            raise TokenizerError(
                f"vocab_size {config.vocab_size} of the tokenizer fast is too small: chunks of {chunk} actions at scale "
                f"{config.scale:g} need {2 * self.greatest + 1} integers; raise vocab_size or lower scale"
            )
        self._range: ActionRange | None = None
        self._bpe: IntegerBPE | None = None
        self._tables: dict[torch.device, _Tables] = {}

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size + 1

    @property
    def num_tokens(self) -> int:
        most = self.chunk * self.action_dim
        return most if self.config.max_tokens is None else min(most, self.config.max_tokens)

    @property
    def pad_id(self) -> int:
        """Fills the places after the last token of a chunk."""
        return self.config.vocab_size

    @property
    def grammar(self) -> FastGrammar:
        return FastGrammar(self)

    @property
    def num_coefficients(self) -> int:
        """C: numbers of a chunk that are told, those of the moving dimensions."""
        return self.chunk * int(self._fitted()[0].moving.sum())

    @property
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        return self._fitted()[0].tensors(torch.device("cpu"))[:2]

    @property
    def error_bound(self) -> Tensor:
        action_range, _ = self._fitted()
        if (
            self.num_tokens < self.num_coefficients
        ):  # frequencies may be lost: only the clipping to the range is sure
            return action_range.bound(2.0)
        # a coefficient errs by half a step, and a value is a sum of them with the weights of the inverse transform
        return action_range.bound(
            0.5 / self.config.scale * float(self.transform.abs().sum(0).max()) + 1e-6
        )

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        action_range = ActionRange.fit(actions_NA, self.config.quantiles, self.action_names)
        chunks_BKA = actions_NA[chunk_rows(lengths, self.chunk, most=MOST_CHUNKS)]
        coefficients_BC = self._coefficients(chunks_BKA, action_range)
        self._set(
            action_range, IntegerBPE.train(coefficients_BC, self.greatest, self.config.vocab_size)
        )

    def _set(self, action_range: ActionRange, bpe: IntegerBPE) -> None:
        """Raises TokenizerError if the places do not hold even the simplest chunk."""
        self._range, self._bpe, self._tables = action_range, bpe, {}
        still = len(bpe.encode(np.zeros((1, self.num_coefficients), dtype=np.int64))[0])
        if still > self.num_tokens:
            self._range = self._bpe = None
            raise TokenizerError(
                f"max_tokens {self.config.max_tokens} of the tokenizer fast is too small: a chunk at rest takes {still} tokens; "
                "raise max_tokens or vocab_size"
            )

    def _coefficients(self, actions_BKA: Tensor, action_range: ActionRange) -> np.ndarray:
        """(B, K, A) -> rounded coefficients, lowest frequencies first, int64 (B, C)."""
        unit_BKM = action_range.to_unit(actions_BKA)[
            ..., torch.from_numpy(action_range.moving)
        ].numpy()
        scaled_BKM = np.einsum("fk,bkm->bfm", self.transform.numpy(), unit_BKM) * self.config.scale
        rounded_BKM = np.rint(scaled_BKM).astype(np.int64).clip(-self.greatest, self.greatest)
        return rounded_BKM.reshape(len(actions_BKA), self.chunk * unit_BKM.shape[-1])

    def _encode(self, actions_KA: Tensor) -> Tensor:
        action_range, bpe = self._fitted()
        flat_BKA = actions_KA.reshape(-1, self.chunk, self.action_dim).cpu()
        coefficients_BC = self._coefficients(flat_BKA, action_range)
        rows = bpe.encode(coefficients_BC)
        long = [b for b, row in enumerate(rows) if len(row) > self.num_tokens]
        for b, row in zip(long, self._shortened(coefficients_BC[long]), strict=True):
            rows[b] = row
        ids_BD = np.full((len(rows), self.num_tokens), self.pad_id, dtype=np.int64)
        for b, row in enumerate(rows):
            ids_BD[b, : len(row)] = row
        return (
            torch.from_numpy(ids_BD)
            .to(actions_KA.device)
            .reshape(*actions_KA.shape[:-2], self.num_tokens)
        )

    def _shortened(self, coefficients_BC: np.ndarray) -> list[list[int]]:
        """Tokens with as many low frequencies as fit, found by halving."""
        _, bpe = self._fitted()
        frequency_C = np.arange(coefficients_BC.shape[1]) // max(
            1, coefficients_BC.shape[1] // self.chunk
        )
        kept_B, lost_B = (
            np.zeros(len(coefficients_BC), dtype=int),
            np.full(len(coefficients_BC), self.chunk),
        )
        rows = bpe.encode(
            np.zeros_like(coefficients_BC)
        )  # nothing kept: this fits, as `_set` has seen
        while (lost_B - kept_B > 1).any():
            tried_B = (kept_B + lost_B) // 2
            for b, row in enumerate(
                bpe.encode(np.where(frequency_C < tried_B[:, None], coefficients_BC, 0))
            ):
                if len(row) <= self.num_tokens:
                    kept_B[b], rows[b] = tried_B[b], row
                else:
                    lost_B[b] = tried_B[b]
        return rows

    def _decode(self, ids_D: Tensor) -> Tensor:
        action_range, _ = self._fitted()
        tables = self._on(ids_D.device)
        ids_BD = ids_D.reshape(-1, self.num_tokens)
        lengths_BD = tables.lengths[ids_BD]
        self._check_grammar(ids_BD, lengths_BD, tables)
        # every row has C coefficients, so they can be told one after the other over all rows
        lengths_T, ids_T = lengths_BD.flatten(), ids_BD.flatten()
        total = len(ids_BD) * self.num_coefficients
        owner = torch.repeat_interleave(
            torch.arange(len(ids_T), device=ids_T.device), lengths_T, output_size=total
        )
        within = torch.arange(total, device=ids_T.device) - (lengths_T.cumsum(0) - lengths_T)[owner]
        values = tables.coefficients[tables.first[ids_T[owner]] + within]
        unit_BKA = torch.zeros(
            len(ids_BD), self.chunk, self.action_dim, dtype=torch.float64, device=ids_D.device
        )
        # float64: neither autocast nor TF32 touches it
        frequencies_BKM = (
            values.reshape(len(ids_BD), self.chunk, len(tables.moving)).double() / self.config.scale
        )
        unit_BKA[..., tables.moving] = torch.einsum(
            "fk,bfm->bkm", tables.transform, frequencies_BKM
        )
        return action_range.to_robot(unit_BKA).reshape(
            *ids_D.shape[:-1], self.chunk, self.action_dim
        )

    def _check_grammar(self, ids_BD: Tensor, lengths_BD: Tensor, tables: _Tables) -> None:
        pad_BD = ids_BD == self.pad_id
        total_B = lengths_BD.sum(1)
        wrong_B = (total_B != self.num_coefficients) | (pad_BD[:, :-1] & ~pad_BD[:, 1:]).any(1)
        wrong_B |= ((lengths_BD == 0) & ~pad_BD).any(1)
        if bool(wrong_B.any()):
            row = int(wrong_B.nonzero()[0, 0])
            raise TokenizerError(
                f"decode: sequence {row} tells {int(total_B[row])} coefficients, a chunk has {self.num_coefficients}, and "
                "padding and unused ids stand nowhere before its end; emit only ids that the tokenizer's grammar allows"
            )

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"config": self.config.model_dump(mode="json"), "range": None}
        if self._range is not None and self._bpe is not None:
            state.update(
                range=self._range.state(), merges=[list(pair) for pair in self._bpe.merges]
            )
        return state

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        config = FastConfig(**state["config"])
        tokenizer = cls(config, action_names, chunk)
        if state["range"] is not None:
            bpe = IntegerBPE(tokenizer.greatest, [(int(a), int(b)) for a, b in state["merges"]])
            if len(bpe.tokens) > config.vocab_size:
                raise TokenizerError(
                    f"{len(bpe.tokens)} tokens for a vocab_size of {config.vocab_size}; fit it again"
                )
            tokenizer._set(ActionRange.from_state(state["range"], len(action_names)), bpe)
        return tokenizer

    def _fitted(self) -> tuple[ActionRange, IntegerBPE]:
        if self._range is None or self._bpe is None:
            raise TokenizerError("the tokenizer fast is not fitted: call fit(actions) first")
        return self._range, self._bpe

    def _on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            self._tables[device] = _Tables(self, device)
        return self._tables[device]


class _Tables:
    """What decoding and the grammar look up, on one device."""

    def __init__(self, tokenizer: FastTokenizer, device: torch.device) -> None:
        action_range, bpe = tokenizer._fitted()
        V = tokenizer.vocab_size
        lengths_V = np.zeros(V, dtype=np.int64)
        lengths_V[: len(bpe.tokens)] = [len(token) for token in bpe.tokens]
        self.lengths = torch.from_numpy(lengths_V).to(device)
        self.first = torch.from_numpy(lengths_V.cumsum() - lengths_V).to(device)
        self.coefficients = torch.tensor(
            [value for token in bpe.tokens for value in token], device=device
        )
        self.transform = tokenizer.transform.to(device)
        self.moving = torch.from_numpy(action_range.moving.nonzero()[0]).to(device)
        left = places_left(lengths_V, tokenizer.num_coefficients)
        left[0, tokenizer.pad_id] = 0
        self.places_left = torch.from_numpy(left).to(device)


def places_left(lengths_V: np.ndarray, coefficients: int) -> np.ndarray:
    """How many places a chunk needs after each id, given how many coefficients are missing before it.

    Args:
        lengths_V: coefficients of each id, 0 for ids that are none.
        coefficients: C, of a whole chunk.

    Returns:
        int16 (C + 1, V), the greatest number of the type where an id tells more than is missing.
    """
    lengths = np.unique(lengths_V[lengths_V > 0])
    fewest = np.zeros(
        coefficients + 1, dtype=np.int64
    )  # tokens that tell exactly so many coefficients
    for missing in range(1, coefficients + 1):
        fewest[missing] = 1 + fewest[missing - lengths[lengths <= missing]].min()
    after = np.arange(coefficients + 1)[:, None] - lengths_V
    return np.where((after >= 0) & (lengths_V > 0), fewest[np.maximum(after, 0)], _NEVER).astype(
        np.int16
    )


class FastGrammar(TokenGrammar):
    """The state counts the coefficients still missing: an id may stand where a chunk of exactly C coefficients can still be
    completed in the places after it, and padding where none is missing."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self.tokenizer = tokenizer  # its tables are looked up when they are needed: the grammar may be asked for before
        self.pad_id = tokenizer.pad_id

    def start(self, batch: int, device: torch.device | str) -> Int64[Tensor, " B"]:
        return torch.full((batch,), self.tokenizer.num_coefficients, device=device)

    def allowed(self, state: Int64[Tensor, " B"], place: int) -> Bool[Tensor, "B V"]:
        return (
            self.tokenizer._on(state.device).places_left[state] < self.tokenizer.num_tokens - place
        )

    def advance(
        self,
        state: Int64[Tensor, " B"],
        ids: Int64[Tensor, " B"],
        place: int,
    ) -> Int64[Tensor, " B"]:
        return state - self.tokenizer._on(state.device).lengths[ids]

    def finished(self, state: Int64[Tensor, " B"]) -> Bool[Tensor, " B"]:
        return state == 0


def cosine_transform(steps: int) -> Tensor:
    """The orthonormal DCT-II over `steps` values, float64 (frequencies, steps); its transpose is the inverse."""
    frequency, time = (
        torch.arange(steps, dtype=torch.float64)[:, None],
        torch.arange(steps, dtype=torch.float64),
    )
    matrix = math.sqrt(2 / steps) * torch.cos(math.pi / steps * (time + 0.5) * frequency)
    matrix[0] = 1 / math.sqrt(steps)
    return matrix


__all__ = ["FastConfig", "FastGrammar", "FastTokenizer", "cosine_transform", "places_left"]

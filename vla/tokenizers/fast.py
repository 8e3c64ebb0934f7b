"""FAST: cosine transform of whole chunks, rounded, and byte-pair encoded (Pertsch et al., 2025,
arXiv:2501.09747).

Each dimension is scaled so that [-1, 1] lies between two quantiles of the data, and transformed
along time (DCT-II, orthonormal). What lies beyond the quantiles is not clipped to them: the fastest
motions of the data can be said too. The coefficients times `scale` are rounded to integers and
ordered by frequency, the lowest first, all dimensions of one frequency side by side. Byte-pair
encoding of these integers makes few tokens of smooth chunks. All integers that a chunk can need are
ids themselves, so everything encodes; the grammar admits only sequences of exactly as many
coefficients as a chunk has, so everything that it admits decodes. Dimensions that never moved take
no coefficients.

B chunks, K actions per chunk, A action dimensions, M of them moving, C = K * M coefficients, D
places, V ids.
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
from vla.tokenizers.fast_runs import run_targets, run_weights
from vla.tokenizers.grammar import TokenGrammar
from vla.tokenizers.integer_bpe import IntegerBPE
from vla.tokenizers.place_weights import weights_by_variance
from vla.types import Spec

MOST_CHUNKS = 10_000
"""Chunks from which pairs are learned; more cost time and change little."""
_NEVER = np.iinfo(np.int16).max


@register("tokenizers", "fast")
class FastConfig(TokenizerConfig):
    """Cosine transform and byte-pair encoding of whole chunks: few tokens for smooth motion at a
    high rate."""

    type: Literal["fast"] = "fast"
    vocab_size: int = Field(default=1024, ge=3, le=16384)
    """Ids of the byte-pair encoding; one more pads."""
    scale: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Coefficients are rounded to multiples of 1 / scale: greater means more exact and more
    tokens."""
    quantiles: Quantiles = (0.01, 0.99)
    """Lower and upper quantile of the data between which a dimension is scaled to [-1, 1]."""
    max_tokens: int | None = Field(default=None, ge=1, le=1000000)
    """Places of a chunk; by default one for each number in it, which always suffices.

    With fewer, chunks that need more lose their highest frequencies until they fit."""

    def build(self, spec: Spec, chunk: int) -> FastTokenizer:
        """A tokenizer for `spec`'s actions; it must be fitted before use.

        Raises:
            TokenizerError: the vocabulary cannot hold the integers that occur.
        """
        return FastTokenizer(self, spec.action_names, chunk, spec.binary_ends)


class FastTokenizer(ActionTokenizer):
    """See the module's docstring. Built by `FastConfig.build`, or read by `load`."""

    def __init__(
        self,
        config: FastConfig,
        action_names: Sequence[str],
        chunk: int,
        binary_ends: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(action_names, chunk, binary_ends)
        self.config = config
        self.transform = cosine_transform(chunk)
        # |coefficient| of values in [-1, 1] is at most the sum of a row's magnitudes
        greatest_coefficient = float(self.transform.abs().sum(1).max())
        self.greatest = math.ceil(config.scale * greatest_coefficient - 1e-6)
        integers = 2 * self.greatest + 1
        if integers > config.vocab_size:
            raise TokenizerError(
                f"vocab_size {config.vocab_size} of the tokenizer fast is too small: chunks of "
                f"{chunk} actions at scale {config.scale:g} need {integers} integers; "
                "raise vocab_size or lower scale"
            )
        self._range: ActionRange | None = None
        self._limits: ActionRange | None = None  # what values are clipped to, around the range
        self._bpe: IntegerBPE | None = None
        self._tables: dict[torch.device, _Tables] = {}
        self._targets: dict[tuple[torch.device, float], Tensor] = {}
        self._coefficient_weights: list[float] | None = None

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
    def has_soft_targets(self) -> bool:
        return True

    @property
    def has_place_weights(self) -> bool:
        return True

    def soft_targets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
        *,
        smoothing: float,
    ) -> Float[Tensor, "*batch D V"]:
        """See the base. The unit is one step of rounding; ids of other lengths get no share."""
        _, bpe = self._fitted()
        key = (ids.device, smoothing)
        if key not in self._targets:
            table_VV = run_targets(bpe.tokens, self.vocab_size, smoothing=smoothing)
            self._targets[key] = table_VV.to(ids.device)
        return self._targets[key][ids]

    def place_weights(self, ids: Int64[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """See the base. The weight of an id is that of its run's coefficients together."""
        self._fitted()
        if self._coefficient_weights is None:
            raise self._refitted("weights of its coefficients")
        weights_C = torch.tensor(self._coefficient_weights, device=ids.device)
        lengths_BD = self._on(ids.device).lengths[ids.reshape(-1, self.num_tokens)]
        return run_weights(lengths_BD, weights_C).reshape(ids.shape)

    @property
    def num_coefficients(self) -> int:
        """C: numbers of a chunk that are encoded, those of the moving dimensions."""
        return self.chunk * int(self._fitted()[0].moving.sum())

    @property
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        self._fitted()
        return self._clipping().tensors(torch.device("cpu"))[:2]

    @property
    def error_bound(self) -> Tensor:
        action_range, _ = self._fitted()
        limits = self._clipping()
        # frequencies may be lost: only the clipping to the limits is sure
        if self.num_tokens < self.num_coefficients:
            return self._bound_of_ends(limits.bound(2.0))
        # a coefficient errs by half a step at most, and a value is a sum of coefficients with the
        # weights of the inverse transform
        half_step = 0.5 / self.config.scale
        unit_error = half_step * float(self.transform.abs().sum(0).max()) + 1e-6
        error_A = np.minimum(action_range.half * unit_error, 2 * limits.half)
        # what is left without an error of the coefficients: the rounding to float32
        return self._bound_of_ends(torch.from_numpy(error_A).float() + limits.bound(0.0))

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        named = (self.action_names, self.binary_ends)
        action_range = ActionRange.fit(actions_NA, self.config.quantiles, *named)
        self._widen(action_range, ActionRange.fit(actions_NA, (0.0, 1.0), *named))
        chunks_BKA = actions_NA[chunk_rows(lengths, self.chunk, most=MOST_CHUNKS)]
        coefficients_BC = self._coefficients(chunks_BKA, action_range)
        bpe = IntegerBPE.train(coefficients_BC, self.greatest, self.config.vocab_size)
        self._set(action_range, bpe)
        # numpy's, which takes actions that never move, and so have no coefficients
        variance_C = torch.from_numpy(coefficients_BC.var(0, dtype=np.float32))
        # no least weight here: a long run of tiny coefficients would add up to a heavy one
        self._coefficient_weights = weights_by_variance(variance_C, least=0.0).tolist()

    def _set(self, action_range: ActionRange, bpe: IntegerBPE) -> None:
        """Raises TokenizerError if the places do not hold even the simplest chunk."""
        self._range = action_range
        self._bpe = bpe
        self._tables = {}
        self._targets = {}
        zeros_1C = np.zeros((1, self.num_coefficients), dtype=np.int64)
        tokens_at_rest = len(bpe.encode(zeros_1C)[0])
        # what `_shortened` falls back to must fit, or some chunks could not be encoded at all
        if tokens_at_rest > self.num_tokens:
            self._range = None
            self._bpe = None
            raise TokenizerError(
                f"max_tokens {self.config.max_tokens} of the tokenizer fast is too small: a chunk "
                f"at rest takes {tokens_at_rest} tokens; raise max_tokens or vocab_size"
            )

    def _widen(self, action_range: ActionRange, whole: ActionRange) -> None:
        """Sets what values are clipped to, and the integers that chunks within it can need.

        Args:
            action_range: between the quantiles.
            whole: from the least to the greatest value.
        """
        step = self.config.scale * float(self.transform.abs().sum(1).max())
        # half of the ids at most are integers: a few outliers must not leave no ids for pairs
        most = max(1.0, ((self.config.vocab_size // 2 - 1) // 2) / step)
        half_A = np.where(action_range.moving, action_range.half, 1.0)
        middle_A = (action_range.low.astype(np.float64) + action_range.high) / 2
        low_A = np.maximum((whole.low - middle_A) / half_A, -most)
        high_A = np.minimum((whole.high - middle_A) / half_A, most)
        self._limits = ActionRange(
            np.maximum(whole.low, middle_A + half_A * low_A).astype(np.float32),
            np.minimum(whole.high, middle_A + half_A * high_A).astype(np.float32),
        )
        reach = max(float(-low_A.min()), float(high_A.max()), 1.0)
        self.greatest = math.ceil(step * reach - 1e-6)

    def _clipping(self) -> ActionRange:
        assert self._limits is not None
        return self._limits

    def _to_unit(self, actions_BKA: Tensor, action_range: ActionRange) -> Tensor:
        """In units of the range, float64, clipped to the limits; 0 for constants."""
        low_A, high_A, *_ = self._clipping().tensors(actions_BKA.device)
        _, _, middle_A, half_A = action_range.tensors(actions_BKA.device)
        scale_A = torch.where(half_A > 0, half_A, torch.ones_like(half_A))
        clipped_BKA = torch.minimum(torch.maximum(actions_BKA, low_A), high_A)
        return (clipped_BKA.double() - middle_A) / scale_A

    def _to_robot(self, unit_BKA: Tensor, action_range: ActionRange) -> Tensor:
        """The inverse of `_to_unit`, float32, clipped to the limits."""
        low_A, high_A, *_ = self._clipping().tensors(unit_BKA.device)
        _, _, middle_A, half_A = action_range.tensors(unit_BKA.device)
        robot_BKA = (middle_A + half_A * unit_BKA.double()).float()
        return torch.minimum(torch.maximum(robot_BKA, low_A), high_A)

    def _coefficients(self, actions_BKA: Tensor, action_range: ActionRange) -> np.ndarray:
        """(B, K, A) -> rounded coefficients, lowest frequencies first, int64 (B, C)."""
        moving_A = torch.from_numpy(action_range.moving)
        unit_BKM = self._to_unit(actions_BKA, action_range)[..., moving_A].numpy()
        scaled_BKM = np.einsum("fk,bkm->bfm", self.transform.numpy(), unit_BKM) * self.config.scale
        rounded_BKM = np.rint(scaled_BKM).astype(np.int64).clip(-self.greatest, self.greatest)
        return rounded_BKM.reshape(len(actions_BKA), self.chunk * unit_BKM.shape[-1])

    def _encode(self, actions_KA: Tensor) -> Tensor:
        action_range, bpe = self._fitted()
        flat_BKA = actions_KA.reshape(-1, self.chunk, self.action_dim).cpu()
        coefficients_BC = self._coefficients(flat_BKA, action_range)
        rows = bpe.encode(coefficients_BC)
        too_long = [b for b, row in enumerate(rows) if len(row) > self.num_tokens]
        for b, row in zip(too_long, self._shortened(coefficients_BC[too_long]), strict=True):
            rows[b] = row
        ids_BD = np.full((len(rows), self.num_tokens), self.pad_id, dtype=np.int64)
        for b, row in enumerate(rows):
            ids_BD[b, : len(row)] = row
        ids = torch.from_numpy(ids_BD).to(actions_KA.device)
        return ids.reshape(*actions_KA.shape[:-2], self.num_tokens)

    def _shortened(self, coefficients_BC: np.ndarray) -> list[list[int]]:
        """Tokens with as many low frequencies as fit, found by bisection."""
        _, bpe = self._fitted()
        B, C = coefficients_BC.shape
        frequency_C = np.arange(C) // max(1, C // self.chunk)
        # with `fits_B` frequencies a chunk fits, with `fails_B` it does not
        fits_B = np.zeros(B, dtype=int)
        fails_B = np.full(B, self.chunk)
        rows = bpe.encode(
            np.zeros_like(coefficients_BC)
        )  # no frequency: fits, as `_set` has checked
        while (fails_B - fits_B > 1).any():
            tried_B = (fits_B + fails_B) // 2
            low_BC = np.where(frequency_C < tried_B[:, None], coefficients_BC, 0)
            for b, row in enumerate(bpe.encode(low_BC)):
                if len(row) <= self.num_tokens:
                    fits_B[b] = tried_B[b]
                    rows[b] = row
                else:
                    fails_B[b] = tried_B[b]
        return rows

    def _decode(self, ids_D: Tensor) -> Tensor:
        action_range, _ = self._fitted()
        tables = self._on(ids_D.device)
        ids_BD = ids_D.reshape(-1, self.num_tokens)
        lengths_BD = tables.lengths[ids_BD]
        self._check_grammar(ids_BD, lengths_BD, tables)
        B = len(ids_BD)
        K = self.chunk
        # every row has C coefficients, so those of all rows can be laid out one after the other
        lengths_T = lengths_BD.flatten()
        ids_T = ids_BD.flatten()
        total = B * self.num_coefficients
        tokens_T = torch.arange(len(ids_T), device=ids_T.device)
        token_of = torch.repeat_interleave(tokens_T, lengths_T, output_size=total)
        first_T = lengths_T.cumsum(0) - lengths_T
        within = torch.arange(total, device=ids_T.device) - first_T[token_of]
        values = tables.coefficients[tables.first[ids_T[token_of]] + within]
        values_BKM = values.reshape(B, K, len(tables.moving))
        # float64: neither autocast nor TF32 touches it
        frequencies_BKM = values_BKM.double() / self.config.scale
        unit_BKM = torch.einsum("fk,bfm->bkm", tables.transform, frequencies_BKM)
        # dimensions that never moved stay 0, which is their constant
        unit_BKA = unit_BKM.new_zeros(B, K, self.action_dim)
        unit_BKA[..., tables.moving] = unit_BKM
        actions_BKA = self._to_robot(unit_BKA, action_range)
        return actions_BKA.reshape(*ids_D.shape[:-1], K, self.action_dim)

    def _check_grammar(self, ids_BD: Tensor, lengths_BD: Tensor, tables: _Tables) -> None:
        pad_BD = ids_BD == self.pad_id
        total_B = lengths_BD.sum(1)
        token_after_padding_B = (pad_BD[:, :-1] & ~pad_BD[:, 1:]).any(1)
        unused_id_B = ((lengths_BD == 0) & ~pad_BD).any(1)
        wrong_B = (total_B != self.num_coefficients) | token_after_padding_B | unused_id_B
        if bool(wrong_B.any()):
            row = int(wrong_B.nonzero()[0, 0])
            raise TokenizerError(
                f"decode: sequence {row} holds {int(total_B[row])} coefficients, a chunk has "
                f"{self.num_coefficients}, and padding and unused ids stand nowhere before its "
                "end; emit only ids that the tokenizer's grammar allows"
            )

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"config": self.config.model_dump(mode="json"), "range": None}
        if self._range is not None and self._bpe is not None:
            state["range"] = self._range.state()
            state["limits"] = self._clipping().state()
            state["merges"] = [list(pair) for pair in self._bpe.merges]
            state["coefficient_weights"] = self._coefficient_weights
        return state

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        config = FastConfig(**state["config"])
        tokenizer = cls(config, action_names, chunk)
        if state["range"] is not None:
            action_range = ActionRange.from_state(state["range"], len(action_names))
            # files from before the limits clip to the range, as they did
            limits = ActionRange.from_state(state.get("limits", state["range"]), len(action_names))
            tokenizer._widen(action_range, limits)
            bpe = IntegerBPE(tokenizer.greatest, [(int(a), int(b)) for a, b in state["merges"]])
            if len(bpe.tokens) > config.vocab_size:
                raise TokenizerError(
                    f"{len(bpe.tokens)} tokens for a vocab_size of {config.vocab_size}; "
                    "fit it again"
                )
            tokenizer._set(action_range, bpe)
            # files of older versions do without
            if state.get("coefficient_weights") is not None:
                weights = [float(weight) for weight in state["coefficient_weights"]]
                tokenizer._coefficient_weights = weights
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
    """Lookup tables of decoding and grammar, on one device.

    Attributes:
        lengths: (V,), coefficients of each id; 0 for ids that have none.
        first: (V,), where an id's coefficients begin in `coefficients`.
        coefficients: those of all ids, one after the other.
        transform: (K, K), the cosine transform.
        moving: (M,), indices of the moving dimensions.
        places_left: (C + 1, V), see the function of that name.
    """

    def __init__(self, tokenizer: FastTokenizer, device: torch.device) -> None:
        action_range, bpe = tokenizer._fitted()
        V = tokenizer.vocab_size
        lengths_V = np.zeros(V, dtype=np.int64)
        lengths_V[: len(bpe.tokens)] = [len(token) for token in bpe.tokens]
        self.lengths = torch.from_numpy(lengths_V).to(device)
        self.first = torch.from_numpy(lengths_V.cumsum() - lengths_V).to(device)
        coefficients = [value for token in bpe.tokens for value in token]
        self.coefficients = torch.tensor(coefficients, device=device)
        self.transform = tokenizer.transform.to(device)
        self.moving = torch.from_numpy(action_range.moving.nonzero()[0]).to(device)
        left = places_left(lengths_V, tokenizer.num_coefficients)
        left[0, tokenizer.pad_id] = 0  # padding may stand once nothing is missing
        self.places_left = torch.from_numpy(left).to(device)


def places_left(lengths_V: np.ndarray, coefficients: int) -> np.ndarray:
    """How many places a chunk needs after each id, given how many coefficients are missing before
    it.

    Args:
        lengths_V: coefficients of each id, 0 for ids that are none.
        coefficients: C, of a whole chunk.

    Returns:
        int16 (C + 1, V), the greatest number of the type for ids with more coefficients than are
        missing.
    """
    lengths = np.unique(lengths_V[lengths_V > 0])
    # fewest[n]: the least number of tokens with n coefficients in all. Single integers are ids, so
    # every n can be reached.
    fewest = np.zeros(coefficients + 1, dtype=np.int64)
    for missing in range(1, coefficients + 1):
        fewest[missing] = 1 + fewest[missing - lengths[lengths <= missing]].min()
    after = np.arange(coefficients + 1)[:, None] - lengths_V  # (C + 1, V), missing after the id
    possible = (after >= 0) & (lengths_V > 0)
    places = np.where(possible, fewest[np.maximum(after, 0)], _NEVER)
    return places.astype(np.int16)


class FastGrammar(TokenGrammar):
    """The state counts the coefficients that are missing.

    An id may stand at a place if a chunk of exactly C coefficients can still be completed in the
    places after it; padding may if none is missing.
    """

    def __init__(self, tokenizer: FastTokenizer) -> None:
        # its tables are read when they are needed: a policy asks for the grammar before the fit
        self.tokenizer = tokenizer
        self.pad_id = tokenizer.pad_id

    def start(self, batch: int, device: torch.device | str) -> Int64[Tensor, " B"]:
        return torch.full((batch,), self.tokenizer.num_coefficients, device=device)

    def allowed(self, state: Int64[Tensor, " B"], place: int) -> Bool[Tensor, "B V"]:
        needed_BV = self.tokenizer._on(state.device).places_left[state]
        return needed_BV < self.tokenizer.num_tokens - place

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
    """The orthonormal DCT-II over `steps` values, float64 (frequencies, steps); its transpose is
    the inverse."""
    time = torch.arange(steps, dtype=torch.float64)
    frequency = time[:, None]
    matrix = math.sqrt(2 / steps) * torch.cos(math.pi / steps * (time + 0.5) * frequency)
    matrix[0] = 1 / math.sqrt(steps)
    return matrix


__all__ = ["FastConfig", "FastGrammar", "FastTokenizer", "cosine_transform", "places_left"]

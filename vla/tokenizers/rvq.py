"""Residual vector quantisation of whole chunks: a few tokens, each from its own codebook (VQ-BeT,
Lee et al., 2024).

A chunk, scaled to [-1, 1] between two quantiles of the data, is replaced by the nearest code of the
first codebook, the residual by the nearest of the second, and so on; it decodes to the sum.
Codebooks are learned by k-means, one after the other, each on the residuals of those before. Few
coarse codes are best for a policy, which adds what they leave as a continuous offset
(`policy.head.offset`).

N chunks, K actions per chunk, A action dimensions, D codebooks and tokens, C codes of each, F = K *
A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.tokenizers.chunks import chunk_rows
from vla.tokenizers.clustering import kmeans, nearest, soft_nearest
from vla.tokenizers.codebook import CodebookConfig, CodebookTokenizer, root_mean_square
from vla.tokenizers.place_weights import weights_by_variance
from vla.types import Spec

MOST_CHUNKS = 20_000
"""Chunks from which codes are learned, evenly spread over the data."""


@register("tokenizers", "rvq")
class RVQConfig(CodebookConfig):
    """Residual vector quantisation of whole chunks: a fixed, small number of tokens, whatever the
    chunk's length."""

    type: Literal["rvq"] = "rvq"
    codebooks: int = Field(default=2, ge=2, le=8)
    """Tokens of a chunk: each encodes the residual of those before. VQ-BeT has 2."""
    codes: int = Field(default=32, ge=2, le=16384)
    """Codes of each codebook, the size of the vocabulary. VQ-BeT has 16; codes that are finer
    than what a policy can predict are noise in its loss."""

    def build(self, spec: Spec, chunk: int) -> RVQTokenizer:
        """A tokenizer for `spec`'s actions; it must be fitted before use."""
        return RVQTokenizer(self, spec.action_names, chunk, spec.binary_ends)


class RVQTokenizer(CodebookTokenizer):
    """See the module's docstring. Built by `RVQConfig.build`, or read by `load`."""

    config: RVQConfig
    _config_class = RVQConfig
    _table_name = "codebooks"

    def __init__(
        self,
        config: RVQConfig,
        action_names: Sequence[str],
        chunk: int,
        binary_ends: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(config, action_names, chunk, binary_ends)
        self._place_weights: list[float] | None = None

    @property
    def _table_shape(self) -> tuple[int, ...]:
        return (self.config.codebooks, self.config.codes, self.chunk * self.action_dim)

    @property
    def vocab_size(self) -> int:
        return self.config.codes

    @property
    def num_tokens(self) -> int:
        return self.config.codebooks

    @property
    def codebooks(self) -> Float[Tensor, "D C F"]:
        """The codes of each codebook, in units of half the range, float32, on the CPU."""
        return self._on(torch.device("cpu"))

    @property
    def has_place_weights(self) -> bool:
        return True

    def soft_targets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
        *,
        smoothing: float,
    ) -> Float[Tensor, "*batch D C"]:
        """See the base. The unit of each level is what it leaves, `leaves`."""
        residual_NF = self._unit(actions.float())
        ids_ND = ids.reshape(-1, self.num_tokens)
        targets = []
        levels = zip(self._on(actions.device), ids_ND.unbind(1), self.leaves, strict=True)
        for codes_CF, ids_N, left in levels:
            targets.append(soft_nearest(residual_NF, codes_CF, width=smoothing * left))
            residual_NF = residual_NF - codes_CF[ids_N]
        return torch.stack(targets, 1).reshape(*ids.shape, self.vocab_size)

    def place_weights(self, ids: Int64[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        self._checked_range()
        if self._place_weights is None:
            raise self._refitted("weights of its levels")
        return torch.tensor(self._place_weights, device=ids.device).expand(ids.shape)

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        self._range = self._fitted_range(actions_NA)
        chunks_NKA = actions_NA[chunk_rows(lengths, self.chunk, most=MOST_CHUNKS)]
        residual_NF = self._unit(chunks_NKA)
        # what a level explains is counted from the mean chunk, which no code is needed for
        lengths_left = [root_mean_square(residual_NF - residual_NF.mean(0))]
        codebooks = []
        for level in range(self.config.codebooks):
            # a seed of its own for each level: equal starts would pick the same chunks again
            codes_CF = kmeans(residual_NF, self.config.codes, seed=self.config.seed + level)
            residual_NF = residual_NF - codes_CF[nearest(residual_NF, codes_CF)]
            codebooks.append(codes_CF)
            lengths_left.append(root_mean_square(residual_NF))
        variance_left = torch.tensor(lengths_left).square()
        self._leaves = lengths_left[1:]
        self._place_weights = weights_by_variance(-variance_left.diff()).tolist()
        self._tables = {torch.device("cpu"): torch.stack(codebooks)}
        # values beyond the quantiles are clipped by design: that is no error of the codes
        inside_NKA = chunks_NKA.clamp(*self.fitted_range)
        error_NKA = self.decode(self._encode(inside_NKA)) - inside_NKA
        self._fitted_error = error_NKA.abs().amax((0, 1)).tolist()

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "place_weights": self._place_weights}

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        tokenizer = super()._from_state(action_names, chunk, state)
        # files of older versions do without
        if state.get("place_weights") is not None:
            tokenizer._place_weights = [float(weight) for weight in state["place_weights"]]
        return tokenizer

    def _unit(self, actions_KA: Tensor) -> Tensor:
        unit_KA = self._checked_range().to_unit(actions_KA).float()
        return unit_KA.reshape(-1, self.chunk * self.action_dim)

    def _encode(self, actions_KA: Tensor) -> Tensor:
        residual_NF = self._unit(actions_KA)
        ids = []
        for codes_CF in self._on(actions_KA.device):
            ids.append(nearest(residual_NF, codes_CF))
            residual_NF = residual_NF - codes_CF[ids[-1]]
        return torch.stack(ids, -1).reshape(*actions_KA.shape[:-2], self.num_tokens)

    def _decode(self, ids_D: Tensor) -> Tensor:
        codebooks_DCF = self._on(ids_D.device)
        levels_D = torch.arange(self.num_tokens, device=ids_D.device)
        codes_F = codebooks_DCF[levels_D, ids_D].sum(-2)  # the sum over the D levels
        unit_KA = codes_F.reshape(*ids_D.shape[:-1], self.chunk, self.action_dim)
        return self._checked_range().to_robot(unit_KA)


__all__ = ["RVQConfig", "RVQTokenizer"]

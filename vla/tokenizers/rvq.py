"""Residual vector quantisation of whole chunks: a few tokens, each from its own codebook (VQ-BeT, Lee et al., 2024).

A chunk, scaled to [-1, 1] between two quantiles of the data, is replaced by the nearest code of the first codebook, what
is left by the nearest of the second, and so on; it decodes to the sum. Codebooks are learned by k-means, one after the
other, each on what the ones before have left.

N chunks, K actions per chunk, A action dimensions, D codebooks and tokens, C codes of each, F = K * A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.chunks import ActionRange, Quantiles, chunk_rows
from vla.tokenizers.clustering import kmeans, nearest
from vla.types import Spec

MOST_CHUNKS = 20_000
"""Chunks from which codes are learned, evenly spread over the data."""


@register("tokenizers", "rvq")
class RVQConfig(TokenizerConfig):
    """Residual vector quantisation of whole chunks: a fixed, small number of tokens, whatever the chunk's length."""

    type: Literal["rvq"] = "rvq"
    codebooks: int = Field(default=4, ge=2, le=8)
    """Tokens of a chunk: each refines what the ones before have left."""
    codes: int = Field(default=256, ge=2, le=16384)
    """Codes of each codebook, the size of the vocabulary."""
    quantiles: Quantiles = (0.0, 1.0)
    """Lower and upper quantile of the data between which a dimension is scaled to [-1, 1]; values beyond are clipped."""
    seed: int = 0
    """Of the random starts of k-means."""

    def build(self, spec: Spec, chunk: int) -> RVQTokenizer:
        """A tokenizer for `spec`'s actions; it must be fitted before use."""
        return RVQTokenizer(self, spec.action_names, chunk)


class RVQTokenizer(ActionTokenizer):
    """See the module's docstring. Built by `RVQConfig.build`, or read by `load`."""

    def __init__(self, config: RVQConfig, action_names: Sequence[str], chunk: int) -> None:
        super().__init__(action_names, chunk)
        self.config = config
        self._range: ActionRange | None = None
        self._fitted_error: list[float] = []
        self._tables: dict[torch.device, Tensor] = {}

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
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        return self._checked_range().tensors(torch.device("cpu"))[:2]

    @property
    def error_bound(self) -> Tensor:
        """The whole range: codes are no grid, so that nothing closer holds for every chunk. See `fitted_error`."""
        return self._checked_range().bound(2.0)

    @property
    def fitted_error(self) -> Float[Tensor, " A"]:
        """Greatest error of each dimension over the chunks that the codes were learned from, robot units."""
        self._checked_range()
        return torch.tensor(self._fitted_error)

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        self._range = ActionRange.fit(actions_NA, self.config.quantiles, self.action_names)
        chunks_NKA = actions_NA[chunk_rows(lengths, self.chunk, most=MOST_CHUNKS)]
        residual_NF = self._unit(chunks_NKA)
        codebooks = []
        for level in range(self.config.codebooks):
            codes_CF = kmeans(residual_NF, self.config.codes, seed=self.config.seed + level)
            residual_NF = residual_NF - codes_CF[nearest(residual_NF, codes_CF)]
            codebooks.append(codes_CF)
        self._tables = {torch.device("cpu"): torch.stack(codebooks)}
        inside_NKA = chunks_NKA.clamp(*self.fitted_range)
        error_NKA = self._decode(self._encode(inside_NKA)) - inside_NKA
        self._fitted_error = error_NKA.abs().amax((0, 1)).tolist()

    def _unit(self, actions_KA: Tensor) -> Tensor:
        return self._checked_range().to_unit(actions_KA).float().reshape(-1, self.chunk * self.action_dim)

    def _encode(self, actions_KA: Tensor) -> Tensor:
        residual_NF = self._unit(actions_KA)
        ids = []
        for codes_CF in self._on(actions_KA.device):
            ids.append(nearest(residual_NF, codes_CF))
            residual_NF = residual_NF - codes_CF[ids[-1]]
        return torch.stack(ids, -1).reshape(*actions_KA.shape[:-2], self.num_tokens)

    def _decode(self, ids_D: Tensor) -> Tensor:
        codebooks_DCF = self._on(ids_D.device)
        codes_F = codebooks_DCF[torch.arange(self.num_tokens, device=ids_D.device), ids_D].sum(-2)
        unit_KA = codes_F.reshape(*ids_D.shape[:-1], self.chunk, self.action_dim)
        return self._checked_range().to_robot(unit_KA)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"config": self.config.model_dump(mode="json"), "range": None}
        if self._range is not None:
            state.update(range=self._range.state(), codebooks=self.codebooks.tolist(), fitted_error=self._fitted_error)
        return state

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        config = RVQConfig(**state["config"])
        tokenizer = cls(config, action_names, chunk)
        if state["range"] is not None:
            tokenizer._range = ActionRange.from_state(state["range"], len(action_names))
            tokenizer._fitted_error = [float(error) for error in state["fitted_error"]]
            codebooks = torch.tensor(state["codebooks"], dtype=torch.float32)
            expected = (config.codebooks, config.codes, chunk * len(action_names))
            if tuple(codebooks.shape) != expected or not bool(torch.isfinite(codebooks).all()):
                raise TokenizerError(f"expected finite codebooks of shape {expected}, got {tuple(codebooks.shape)}")
            tokenizer._tables = {torch.device("cpu"): codebooks}
        return tokenizer

    def _checked_range(self) -> ActionRange:
        if self._range is None:
            raise TokenizerError("the tokenizer rvq is not fitted: call fit(actions) first")
        return self._range

    def _on(self, device: torch.device) -> Tensor:
        """Codebooks (D, C, F) on `device`."""
        self._checked_range()
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]


__all__ = ["RVQConfig", "RVQTokenizer"]

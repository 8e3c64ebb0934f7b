"""K-means centres of actions with continuous offsets (Behavior Transformer, Shafiullah et al.,
2022, arXiv:2206.11251).

An action, or a whole chunk, becomes the id of its nearest centre, and decodes to that centre. The
remainder, the offset, is continuous: `offsets` gives it as a target for a head that predicts it
together with the id.

N points, K actions per chunk, A action dimensions, D tokens per chunk, C centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.tokenizers.chunks import chunk_rows
from vla.tokenizers.clustering import kmeans, nearest, soft_nearest
from vla.tokenizers.codebook import CodebookConfig, CodebookTokenizer, root_mean_square
from vla.types import Spec
from vla.types.tensors import to_ends

MOST_POINTS = 20_000
"""Actions or chunks from which centres are learned, evenly spread over the data."""


@register("tokenizers", "kmeans")
class KMeansConfig(CodebookConfig):
    """Centres of actions or chunks: coarse tokens, to which a head may add a continuous offset."""

    type: Literal["kmeans"] = "kmeans"
    centres: int = Field(default=64, ge=2, le=16384)
    """Centres, the size of the vocabulary."""
    over: Literal["action", "chunk"] = "action"
    """action: a token for every action. chunk: one token for the whole chunk."""

    def build(self, spec: Spec, chunk: int) -> KMeansTokenizer:
        """A tokenizer for `spec`'s actions; it must be fitted before use."""
        return KMeansTokenizer(self, spec.action_names, chunk, spec.binary_ends)


class KMeansTokenizer(CodebookTokenizer):
    """See the module's docstring. Built by `KMeansConfig.build`, or read by `load`."""

    config: KMeansConfig
    _config_class = KMeansConfig
    _table_name = "centres"

    @property
    def _table_shape(self) -> tuple[int, ...]:
        return (self.config.centres, self.chunk * self.action_dim // self.num_tokens)

    @property
    def vocab_size(self) -> int:
        return self.config.centres

    @property
    def num_tokens(self) -> int:
        return self.chunk if self.config.over == "action" else 1

    @property
    def tokens_per_action(self) -> int | None:
        return 1 if self.config.over == "action" else None

    @property
    def centres(self) -> Float[Tensor, "C steps A"]:
        """What each id decodes to, robot units, float32, on the CPU; steps are 1 over actions and K
        over chunks."""
        unit = self._on(torch.device("cpu")).reshape(self.vocab_size, -1, self.action_dim)
        return to_ends(self._checked_range().to_robot(unit), self.action_names, self.binary_ends)

    def offsets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
    ) -> Float[Tensor, "*batch K A"]:
        """What has to be added to `decode(ids)` to give `actions`: a head's regression target.

        Robot units, not clipped.
        """
        return actions - self.decode(ids)

    def soft_targets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
        *,
        smoothing: float,
    ) -> Float[Tensor, "*batch D C"]:
        """See the base. The unit is `leaves`."""
        points_NF = self._points(actions.float())
        targets_NC = soft_nearest(
            points_NF,
            self._on(actions.device),
            width=smoothing * self.leaves[0],
        )
        return targets_NC.reshape(*ids.shape, self.vocab_size)

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        self._range = self._fitted_range(actions_NA)
        steps = self.chunk // self.num_tokens
        points_NsA = actions_NA[chunk_rows(lengths, steps, most=MOST_POINTS)]
        unit_NF = self._range.to_unit(points_NsA).float().flatten(1)
        centres_CF = kmeans(unit_NF, self.config.centres, seed=self.config.seed)
        self._tables = {torch.device("cpu"): centres_CF}
        self._leaves = [root_mean_square(unit_NF - centres_CF[nearest(unit_NF, centres_CF)])]
        # values beyond the quantiles are clipped by design: that is no error of the centres
        inside_NsA = points_NsA.clamp(*self.fitted_range)
        nearest_NsA = self.centres[nearest(unit_NF, centres_CF)]
        error_NsA = nearest_NsA - inside_NsA
        self._fitted_error = error_NsA.abs().amax((0, 1)).tolist()

    def _encode(self, actions_KA: Tensor) -> Tensor:
        points_NF = self._points(actions_KA)
        centres_CF = self._on(actions_KA.device)
        return nearest(points_NF, centres_CF).reshape(*actions_KA.shape[:-2], self.num_tokens)

    def _points(self, actions_KA: Tensor) -> Tensor:
        """Actions or chunks as the centres are, (N, F)."""
        unit_KA = self._checked_range().to_unit(actions_KA).float()
        return unit_KA.reshape(-1, self._table_shape[1])

    def _decode(self, ids_D: Tensor) -> Tensor:
        centres_DF = self._on(ids_D.device)[ids_D]
        unit_KA = centres_DF.reshape(*ids_D.shape[:-1], self.chunk, self.action_dim)
        return self._checked_range().to_robot(unit_KA)


__all__ = ["KMeansConfig", "KMeansTokenizer"]

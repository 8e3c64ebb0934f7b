"""Action bins: every dimension of every action is one token out of `num_bins` (RT-1, RT-2,
OpenVLA).

`num_bins` bins have `num_bins + 1` edges. Bin i holds edge_i <= value < edge_{i+1}, the last bin
its upper edge too; an id decodes to the middle of its bin. A binary dimension
(`Spec.binary_actions`, or named in the config) takes the ids 0 and 1 alone, which decode to the
ends of the spec's range. Tokens are ordered action by action: all dimensions of the first action of
the chunk, then those of the second.

N actions, K actions per chunk, A dimensions, E edges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.chunks import Quantiles
from vla.types import Spec

Scheme = Literal["uniform", "quantile", "mu_law"]


@register("tokenizers", "bins")
class BinsConfig(TokenizerConfig):
    """Bins for every action dimension."""

    type: Literal["bins"] = "bins"
    scheme: Scheme = "uniform"
    """uniform: equal bins over the spec's range (RT-1). quantile: equal bins between two quantiles
    of the data, so that outliers cost no resolution (OpenVLA). mu_law: bins over the spec's range
    that narrow towards zero."""
    num_bins: int = Field(default=256, ge=2, le=65536)
    """Bins of each dimension, the size of the vocabulary."""
    quantiles: Quantiles = (0.01, 0.99)
    """Lower and upper quantile of the scheme `quantile`."""
    mu: float = Field(default=255.0, gt=0, allow_inf_nan=False)
    """Strength of the scheme `mu_law`: greater means finer bins around zero and wider ones far from
    it."""

    binary: tuple[str, ...] = ()
    """Action dimensions that only open or close, by name; those that the spec calls binary need not
    be named again.

    They take two ids: values below the middle of the spec's range decode to its lower end, the
    others to its upper end."""

    def build(self, spec: Spec, chunk: int) -> BinsTokenizer:
        """A tokenizer for `spec`'s actions; of the schemes only `quantile` must be fitted before
        use."""
        return BinsTokenizer(self, spec, chunk)


class BinsTokenizer(ActionTokenizer):
    """See the module's docstring. Built by `BinsConfig.build`, or read by `load`."""

    _ends: dict[str, tuple[float, float]]  # of binary dimensions

    def __init__(self, config: BinsConfig, spec: Spec, chunk: int) -> None:
        super().__init__(spec.action_names, chunk)
        self._configure(config, (*config.binary, *spec.binary_actions))
        low = np.array(spec.action_low)
        high = np.array(spec.action_high)
        # rounded to float32, as decoded actions are: they must compare equal
        ends = zip(spec.action_names, low.astype(np.float32), high.astype(np.float32), strict=True)
        self._ends = {name: (float(a), float(b)) for name, a, b in ends if name in self._binary}
        if config.scheme == "uniform":
            self._set_edges(uniform_edges(low, high, config.num_bins))
        elif config.scheme == "mu_law":
            self._set_edges(mu_law_edges(low, high, config.num_bins, config.mu))

    def _configure(self, config: BinsConfig, binary: Sequence[str]) -> None:
        """Raises TokenizerError if a binary dimension of the config is none of the robot's.

        Args:
            config: as the user has written it.
            binary: names of all binary dimensions, the config's and the spec's.
        """
        unknown = [name for name in config.binary if name not in self.action_names]
        if unknown:
            raise TokenizerError(
                f"tokenizer.binary: no action dimension {unknown[0]!r}; "
                f"there are: {', '.join(self.action_names)}"
            )
        self.config = config
        # edges and centres by device; empty until they are known
        self._tables: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._binary = frozenset(binary)
        binary_A = torch.tensor([name in self._binary for name in self.action_names])
        binary_D = binary_A.repeat(self.chunk)
        self._ordered = ~binary_D
        self._allowed: Tensor | None = None
        if self._binary:
            first_two_V = torch.arange(config.num_bins) < 2
            self._allowed = ~binary_D[:, None] | first_two_V

    @property
    def vocab_size(self) -> int:
        return self.config.num_bins

    @property
    def num_tokens(self) -> int:
        return self.chunk * self.action_dim

    @property
    def tokens_per_action(self) -> int:
        return self.action_dim

    @property
    def allowed_ids(self) -> Bool[Tensor, "D V"] | None:
        """All ids; for binary dimensions the first two."""
        return self._allowed

    @property
    def ordered_ids(self) -> Bool[Tensor, " D"]:
        """All but those of binary dimensions, whose two ids are the ends of the range."""
        return self._ordered

    @property
    def has_soft_targets(self) -> bool:
        return True

    def soft_targets(
        self,
        actions: Float[Tensor, "*batch K A"],
        ids: Int64[Tensor, "*batch D"],
        *,
        smoothing: float,
    ) -> Float[Tensor, "*batch D V"]:
        """See the base. The unit is the mean width of a dimension's bins, the distance that from
        the true bin's middle; binary dimensions have their true id alone."""
        edges_AE, centres = self._on(actions.device)
        width_A = (edges_AE[:, -1] - edges_AE[:, 0]) / self.vocab_size
        middle_KA = self.decode(ids)
        distance = (middle_KA[..., None] - centres) / (smoothing * width_A[:, None])
        soft = (-0.5 * distance.square()).softmax(-1).reshape(*ids.shape, self.vocab_size)
        exact = F.one_hot(ids, self.vocab_size).float()
        return soft.where(self._ordered.to(ids.device)[:, None], exact)

    @property
    def edges(self) -> Float[Tensor, "A E"]:
        """Bin edges in robot units, float32, on the CPU; of binary dimensions low, middle, and then
        infinity."""
        return self._on(torch.device("cpu"))[0]

    @property
    def centres(self) -> Float[Tensor, "A num_bins"]:
        """What each id decodes to, robot units, float32, on the CPU."""
        return self._on(torch.device("cpu"))[1]

    @property
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        edges_AE = self.edges
        low = edges_AE[:, 0].clone()
        high = edges_AE[:, -1].clone()
        # the last edge of a binary dimension is infinite
        for name, (_, end) in self._ends.items():
            high[self.action_names.index(name)] = end
        return low, high

    @property
    def error_bound(self) -> Float[Tensor, " A"]:
        edges_AE = self.edges.double()
        centres = self.centres.double()
        # bins of quantiles and mu-law are not equal: a centre may be nearer to one of its edges
        half_widths = torch.maximum(centres - edges_AE[:, :-1], edges_AE[:, 1:] - centres)
        bound_A = half_widths.amax(1)
        for name, (low, high) in self._ends.items():
            dim = self.action_names.index(name)
            middle = float(edges_AE[dim, 1])
            bound_A[dim] = max(middle - low, high - middle)
        # float32 rounds to nearest, so one step up keeps the bound a bound
        infinity_A = torch.full_like(bound_A, torch.inf).float()
        return torch.nextafter(bound_A.float(), infinity_A)

    def _fit(self, actions_NA: Tensor, lengths: Sequence[int]) -> None:
        if self.config.scheme == "quantile":
            values_NA = actions_NA.numpy().astype(np.float64)
            low, high = np.quantile(values_NA, self.config.quantiles, axis=0)
            self._set_edges(uniform_edges(low, high, self.config.num_bins))

    def _encode(self, actions_KA: Tensor) -> Tensor:
        edges_AE, _ = self._on(actions_KA.device)
        values_A = actions_KA.reshape(-1, self.action_dim).T.contiguous()
        # the outer edges are left out, so that values beyond the range fall into the outer bins
        inner_edges = edges_AE[:, 1:-1].contiguous()
        # `right` puts a value that equals an edge into the bin that begins there
        bins_A = torch.searchsorted(inner_edges, values_A, right=True)
        return bins_A.T.reshape(*actions_KA.shape[:-2], self.num_tokens)

    def _decode(self, ids_D: Tensor) -> Tensor:
        _, centres = self._on(ids_D.device)
        ids_KA = ids_D.reshape(*ids_D.shape[:-1], self.chunk, self.action_dim)
        return centres[torch.arange(self.action_dim, device=ids_D.device), ids_KA]

    def _state(self) -> dict[str, Any]:
        state = self.config.model_dump(mode="json")
        if self._ends:
            state["ends"] = {name: list(ends) for name, ends in self._ends.items()}
        if not self._tables:
            return {**state, "edges": None}
        rows: list[list[float] | None] = []
        for name, row in zip(self.action_names, self.edges.tolist(), strict=True):
            # edges of binary dimensions hold infinity, which JSON has no word for
            rows.append(None if name in self._ends else row)
        return {**state, "edges": rows}

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        # not by `__init__`, which would need the spec: the edges are stored
        tokenizer = cls.__new__(cls)
        ActionTokenizer.__init__(tokenizer, action_names, chunk)
        settings = {k: v for k, v in state.items() if k not in ("edges", "ends")}
        stored_ends = state.get("ends", {})
        config = BinsConfig(**settings)
        tokenizer._configure(config, (*config.binary, *stored_ends))
        tokenizer._ends = {name: (float(a), float(b)) for name, (a, b) in stored_ends.items()}
        if state["edges"] is not None:
            tokenizer._set_edges(state["edges"])
        return tokenizer

    def _set_edges(self, rows: Sequence[Any] | np.ndarray) -> None:
        """Rows of binary dimensions are ignored.

        Raises:
            TokenizerError: a row is not `num_bins + 1` increasing float32 numbers, or there are
                more or fewer rows than dimensions.
        """
        A = self.action_dim
        E = self.vocab_size + 1
        if len(rows) != self.action_dim:
            raise TokenizerError(
                f"expected edges of {self.action_dim} dimensions, got {len(rows)}; fit it again"
            )
        edges_AE = np.full((A, E), np.inf)
        centres = np.empty((A, E - 1))
        for dim, (name, row) in enumerate(zip(self.action_names, rows, strict=True)):
            if name in self._binary:
                # infinite edges after the middle: no value falls into a third bin
                low, high = self._ends[name]
                edges_AE[dim, :2] = (low, np.float32((low + high) / 2))
                centres[dim] = high
                centres[dim, 0] = low
            else:
                row_E = self._checked_edges(name, row)
                edges_AE[dim] = row_E
                centres[dim] = (row_E[:-1] + row_E[1:]) / 2
        table = (torch.from_numpy(edges_AE).float(), torch.from_numpy(centres).float())
        self._tables = {torch.device("cpu"): table}

    def _checked_edges(self, name: str, row: Any) -> np.ndarray:
        """The row as float32 numbers, which `encode` compares with."""
        row_E = np.asarray(row, dtype=np.float32).astype(np.float64)
        if row_E.shape != (self.vocab_size + 1,):
            raise TokenizerError(
                f"action {name!r}: expected {self.vocab_size + 1} edges, got shape {row_E.shape}; "
                "fit the tokenizer again"
            )
        # bins narrower than float32 resolves would be empty, and their neighbours ambiguous
        if not (np.isfinite(row_E).all() and (np.diff(row_E) > 0).all()):
            raise TokenizerError(
                f"action {name!r}: {self.vocab_size} bins do not fit between {row_E[0]:g} and "
                f"{row_E[-1]:g} ({self.config.scheme}): the data of this dimension hardly vary; "
                "use scheme 'uniform', wider quantiles or fewer bins, or name it in `binary`"
            )
        return row_E

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Edges (A, E) and centres (A, num_bins) on `device`."""
        if not self._tables:
            raise TokenizerError(
                f"bins of scheme {self.config.scheme!r} are not fitted: call fit(actions) first"
            )
        if device not in self._tables:
            edges_AE, centres = self._tables[torch.device("cpu")]
            self._tables[device] = (edges_AE.to(device), centres.to(device))
        return self._tables[device]


def uniform_edges(
    low: Float[np.ndarray, " A"],
    high: Float[np.ndarray, " A"],
    num_bins: int,
) -> np.ndarray:
    """`num_bins` equal bins from low to high -> (A, num_bins + 1)."""
    return np.linspace(low, high, num_bins + 1, axis=-1)


def mu_law_edges(
    low: Float[np.ndarray, " A"],
    high: Float[np.ndarray, " A"],
    num_bins: int,
    mu: float,
) -> np.ndarray:
    """Bins that are equal after mu-law companding (ITU-T G.711) about zero -> (A, num_bins + 1).

    The first and last edge are low and high exactly, also if the range is not symmetric.
    """
    scale_A = np.maximum(np.abs(low), np.abs(high))

    def compressed(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.log1p(mu * np.abs(values / scale_A)) / math.log1p(mu)

    y_AE = np.linspace(compressed(low), compressed(high), num_bins + 1, axis=-1)
    edges_AE = scale_A[:, None] * np.sign(y_AE) * np.expm1(np.abs(y_AE) * math.log1p(mu)) / mu
    # companding and back rounds; actions at the limits must stay inside
    edges_AE[:, 0] = low
    edges_AE[:, -1] = high
    return edges_AE


__all__ = ["BinsConfig", "BinsTokenizer", "mu_law_edges", "uniform_edges"]

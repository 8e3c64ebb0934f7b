"""What tokenizers with learned codes share: a range, a table of codes in units of it, and their
storage.

C codes, F numbers of each, A action dimensions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from vla.config.numbers import Seed
from vla.tokenizers.base import ActionTokenizer, TokenizerConfig, TokenizerError
from vla.tokenizers.chunks import ActionRange, Quantiles


class CodebookConfig(TokenizerConfig):
    """Options of codes that are learned from data."""

    quantiles: Quantiles = (0.0, 1.0)
    """Lower and upper quantile of the data that are scaled to -1 and 1; values beyond are
    clipped."""
    seed: Seed = 0
    """Of the random starts of k-means."""


class CodebookTokenizer(ActionTokenizer):
    """A subclass learns the table, and defines how it encodes and decodes with it."""

    _config_class: ClassVar[type[CodebookConfig]]
    _table_name: ClassVar[str]
    """What the table is called in files and messages."""

    def __init__(
        self,
        config: CodebookConfig,
        action_names: Sequence[str],
        chunk: int,
        binary_ends: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(action_names, chunk, binary_ends)
        self.config = config
        self._range: ActionRange | None = None
        self._fitted_error: list[float] = []
        self._leaves: list[float] | None = None
        self._tables: dict[torch.device, Tensor] = {}

    @property
    @abstractmethod
    def _table_shape(self) -> tuple[int, ...]:
        """(..., C, F)."""

    @property
    def fitted_range(self) -> tuple[Float[Tensor, " A"], Float[Tensor, " A"]]:
        return self._checked_range().tensors(torch.device("cpu"))[:2]

    @property
    def error_bound(self) -> Tensor:
        """The whole range: codes are not a grid, so no closer bound holds for every action. See
        `fitted_error`."""
        return self._bound_of_ends(self._checked_range().bound(2.0))

    @property
    def fitted_error(self) -> Float[Tensor, " A"]:
        """Greatest error of each dimension over the actions that the codes were learned from, robot
        units."""
        self._checked_range()
        return torch.tensor(self._fitted_error)

    @property
    def has_soft_targets(self) -> bool:
        return True

    @property
    def leaves(self) -> list[float]:
        """Root mean square distance between the data and their codes after each level of codes, in
        units of half the range: the unit of `soft_targets`.

        Raises TokenizerError if the tokenizer was fitted before it was stored.
        """
        self._checked_range()
        if self._leaves is None:
            raise self._refitted("the errors that its codes leave")
        return self._leaves

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"config": self.config.model_dump(mode="json"), "range": None}
        if self._range is not None:
            state["range"] = self._range.state()
            state[self._table_name] = self._on(torch.device("cpu")).tolist()
            state["fitted_error"] = self._fitted_error
            state["leaves"] = self._leaves
        return state

    @classmethod
    def _from_state(cls, action_names: Sequence[str], chunk: int, state: Mapping[str, Any]) -> Self:
        tokenizer = cls(cls._config_class(**state["config"]), action_names, chunk)
        if state["range"] is not None:
            tokenizer._range = ActionRange.from_state(state["range"], len(action_names))
            tokenizer._fitted_error = [float(error) for error in state["fitted_error"]]
            # files of older versions do without
            if state.get("leaves") is not None:
                tokenizer._leaves = [float(left) for left in state["leaves"]]
            table = torch.tensor(state[cls._table_name], dtype=torch.float32)
            shape = tuple(table.shape)
            expected = tokenizer._table_shape
            if shape != expected or not bool(torch.isfinite(table).all()):
                raise TokenizerError(
                    f"expected finite {cls._table_name} of shape {expected}, got {shape}"
                )
            tokenizer._tables = {torch.device("cpu"): table}
        return tokenizer

    def _fitted_range(self, actions_NA: Tensor) -> ActionRange:
        return ActionRange.fit(
            actions_NA, self.config.quantiles, self.action_names, self.binary_ends
        )

    def _checked_range(self) -> ActionRange:
        if self._range is None:
            name = self.config.model_dump()["type"]
            raise TokenizerError(f"the tokenizer {name} is not fitted: call fit(actions) first")
        return self._range

    def _on(self, device: torch.device) -> Tensor:
        """The table on `device`, in units of half the range."""
        self._checked_range()
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]


def root_mean_square(residual_NF: Float[Tensor, "N F"]) -> float:
    """Of the lengths of N vectors."""
    return float(residual_NF.double().square().sum(1).mean().sqrt())


__all__ = ["CodebookConfig", "CodebookTokenizer", "root_mean_square"]

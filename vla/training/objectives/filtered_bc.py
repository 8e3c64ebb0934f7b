"""Imitation of the better episodes alone."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.config import register
from vla.data import Windows
from vla.data.rewards import check_varied_returns
from vla.models.policy import Policy
from vla.training.objective import ObjectiveConfig, ObjectiveError
from vla.training.objectives.bc import BC

_FRACTION = 0.1


@register("objectives", "filtered_bc")
class FilteredBCConfig(ObjectiveConfig):
    """Behavioural cloning on the episodes that were solved, or on the share of them with the greatest returns."""

    several_robots: ClassVar[bool] = True
    type: Literal["filtered_bc"] = "filtered_bc"
    keep: Literal["success", "return"] = "success"
    """What makes an episode good: that it was solved, or its return."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """With `keep: return`: share of each task's episodes that are kept, the best ones; by default 0.1."""

    @model_validator(mode="after")
    def _used(self) -> FilteredBCConfig:
        if self.keep == "success" and self.fraction is not None:
            raise ValueError(
                "fraction: solved episodes are kept whatever their share; set keep: return, or drop fraction"
            )
        return self

    def build(self, policy: Policy) -> FilteredBC:
        return FilteredBC(self)


class FilteredBC(BC):
    """BC whose windows all come from good episodes."""

    def __init__(self, config: FilteredBCConfig) -> None:
        super().__init__()
        self.config = config

    def window_weights(self, windows: Windows) -> np.ndarray:
        """1 for the windows of good episodes, else 0. Raises ObjectiveError where no episode is good, DataError where all
        returns are alike."""
        starts = np.cumsum(windows.lengths) - windows.lengths
        if self.config.keep == "success":
            good_E = windows.success[starts]
            if not good_E.any():
                raise ObjectiveError(
                    f"objective: filtered_bc keeps solved episodes, but none of {len(good_E)} in {windows.dataset.root} is "
                    "marked as solved; use keep: return"
                )
        else:
            check_varied_returns(windows)
            good_E = _best(
                windows.returns[starts],
                windows.task_index[starts],
                self.config.fraction or _FRACTION,
            )
        return np.repeat(good_E, windows.lengths).astype(np.float64)


def _best(returns_E: np.ndarray, task_E: np.ndarray, fraction: float) -> np.ndarray:
    """The best `fraction` of the episodes of every task, at least one of each; ties go to the earlier."""
    good_E = np.zeros(len(returns_E), dtype=bool)
    for task in np.unique(task_E):
        rows = np.flatnonzero(task_E == task)
        order = rows[np.argsort(-returns_E[rows], kind="stable")]
        good_E[order[: max(1, round(fraction * len(rows)))]] = True
    return good_E


__all__ = ["FilteredBC", "FilteredBCConfig"]

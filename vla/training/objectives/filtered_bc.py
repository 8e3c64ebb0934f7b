"""Imitation of the better episodes alone.

E episodes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.config import register
from vla.data import Windows
from vla.data.rewards import check_varied_returns
from vla.models.policy import Policy
from vla.training.objective import AuxiliaryConfig, ObjectiveError
from vla.training.objectives.bc import BC

_FRACTION = 0.1


@register("objectives", "filtered_bc")
class FilteredBCConfig(AuxiliaryConfig):
    """Behavioural cloning on the episodes that were solved, or on the share of them with the
    greatest returns.

    Formula: that of `bc`, over windows that are drawn with the weight 1(episode is good).

    Shapes: a weight for each window, (windows,).

    Source: the baseline "10% BC" of Chen et al., 2021, "Decision Transformer", section 5.1.
    """

    several_robots: ClassVar[bool] = True
    type: Literal["filtered_bc"] = "filtered_bc"
    keep: Literal["success", "return"] = "success"
    """What makes an episode good: that it was solved, or its return."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """With `keep: return`: share of each task's episodes that are kept, the best ones; by default
    0.1."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> FilteredBCConfig:
        if self.keep == "success" and self.fraction is not None:
            raise ValueError(
                "fraction: solved episodes are kept whatever their share; set keep: return, or "
                "drop fraction"
            )
        return self

    def build(self, policy: Policy) -> FilteredBC:
        return FilteredBC(self)


class FilteredBC(BC):
    """BC whose windows all come from good episodes."""

    def __init__(self, config: FilteredBCConfig) -> None:
        super().__init__(config.auxiliary)
        self.config = config

    def window_weights(self, windows: Windows) -> np.ndarray:
        """1 for the windows of good episodes, else 0.

        Raises ObjectiveError if no episode is good, DataError if all returns are alike.
        """
        first_E = np.cumsum(windows.lengths) - windows.lengths
        if self.config.keep == "success":
            # success of a step is success at that step or later: at the first step, of the episode
            good_E = windows.success[first_E]
            if not good_E.any():
                raise ObjectiveError(
                    f"objective: filtered_bc keeps solved episodes, but none of {len(good_E)} in "
                    f"{windows.dataset.root} is marked as solved; use keep: return"
                )
        else:
            check_varied_returns(windows)
            fraction = self.config.fraction or _FRACTION
            # the return to go of an episode's first step is that of the whole episode
            good_E = _best(windows.returns[first_E], windows.task_index[first_E], fraction)
        return np.repeat(good_E, windows.lengths).astype(np.float64)


def _best(returns_E: np.ndarray, task_E: np.ndarray, fraction: float) -> np.ndarray:
    """Which episodes are the best `fraction` of their task, at least one; ties go to the
    earlier."""
    good_E = np.zeros(len(returns_E), dtype=bool)
    # task by task: over all of them, tasks with small returns would not be learned at all
    for task in np.unique(task_E):
        rows = np.flatnonzero(task_E == task)
        best_first = rows[np.argsort(-returns_E[rows], kind="stable")]
        count = max(1, round(fraction * len(rows)))
        good_E[best_first[:count]] = True
    return good_E


__all__ = ["FilteredBC", "FilteredBCConfig"]

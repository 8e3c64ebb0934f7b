"""Imitation of the better episodes alone, or of the last steps before success.

E episodes, N windows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.config import register
from vla.data import Windows
from vla.data.detours import detours_of
from vla.data.rewards import check_varied_returns
from vla.models.policy import Policy
from vla.training.objective import AuxiliaryConfig, NothingToImitateError, ObjectiveError
from vla.training.objectives.bc import BC

_OF_ALL = 0.1  # share of the episodes by return
_OF_SOLVED = 0.25  # share of the solved episodes by speed
_LAST = 25


@register("objectives", "filtered_bc")
class FilteredBCConfig(AuxiliaryConfig):
    """Behavioural cloning on the episodes that were solved, on the share of them with the greatest
    returns, or on the last steps before success.

    Formula: that of `bc`, over windows that are drawn with the weight 1(episode is good), or
    1(episode is solved and at most `last` steps are left).

    Shapes: a weight for each window, (windows,).

    Source: the baseline "10% BC" of Chen et al., 2021, "Decision Transformer", section 5.1.
    """

    several_robots: ClassVar[bool] = True
    type: Literal["filtered_bc"] = "filtered_bc"
    keep: Literal["success", "return", "fastest", "last", "not_detours"] = "success"
    """What is kept: solved episodes; those of the greatest return; the solved ones that took the
    fewest steps; of solved episodes the last steps: whoever demonstrated did the right thing there,
    whatever went before; or all steps that the data do not mark as detours: an oracle, to see what
    the best weights could reach."""
    fraction: float | None = Field(default=None, gt=0, lt=1)
    """With `keep: return` or `fastest`: share of each task's episodes that are kept, the best ones;
    by default 0.1 of all, 0.25 of the solved."""
    last: int | None = Field(default=None, ge=1)
    """With `keep: last`: how many steps, counted back from the last successful one; by default
    25."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> FilteredBCConfig:
        if self.keep not in ("return", "fastest") and self.fraction is not None:
            raise ValueError(
                f"fraction: keep: {self.keep} keeps no share of the episodes; set keep: return or "
                "keep: fastest, or drop fraction"
            )
        if self.keep != "last" and self.last is not None:
            raise ValueError(
                f"last: keep: {self.keep} keeps whole episodes; set keep: last, or drop last"
            )
        return self

    def build(self, policy: Policy) -> FilteredBC:
        return FilteredBC(self)


class FilteredBC(BC):
    """BC whose windows all come from good episodes, or from the last steps of solved ones."""

    def __init__(self, config: FilteredBCConfig) -> None:
        super().__init__(config.auxiliary)
        self.config = config

    def window_weights(self, windows: Windows) -> np.ndarray:
        """1 for the windows that are kept, else 0: (N,).

        Raises ObjectiveError if none is, DataError if all returns are alike.
        """
        if self.config.keep == "not_detours":
            return (~_marked(windows)).astype(np.float64)
        if self.config.keep == "last":
            self._check_solved(windows)
            left_N = steps_to_success(windows.success, windows.lengths)
            last = self.config.last or _LAST
            return ((left_N >= 0) & (left_N < last)).astype(np.float64)
        return np.repeat(self._good_episodes(windows), windows.lengths).astype(np.float64)

    def _good_episodes(self, windows: Windows) -> np.ndarray:
        """Which episodes are kept as a whole, bool (E,)."""
        first_E = np.cumsum(windows.lengths) - windows.lengths
        # success of a step is success at that step or later: at the first step, of the episode
        solved_E = windows.success[first_E]
        # an episode whose instruction changes is compared with those that begin as it does
        task_E = windows.task_index[first_E]
        if self.config.keep == "return":
            check_varied_returns(windows)
            # the return to go of an episode's first step is that of the whole episode
            return _best(windows.returns[first_E], task_E, self.config.fraction or _OF_ALL)
        self._check_solved(windows)
        if self.config.keep == "success":
            return solved_E
        steps_E = steps_to_success(windows.success, windows.lengths)[first_E]
        good_E = np.zeros(len(first_E), dtype=bool)
        solved = np.flatnonzero(solved_E)
        fraction = self.config.fraction or _OF_SOLVED
        good_E[solved] = _best(-steps_E[solved], task_E[solved], fraction)
        return good_E

    def _check_solved(self, windows: Windows) -> None:
        if windows.success.any():
            return
        windows.dataset.require_recorded("success", f"filtered_bc with keep: {self.config.keep}")
        raise NothingToImitateError(
            f"objective: filtered_bc with keep: {self.config.keep} imitates solved episodes, but "
            f"none of {len(windows.lengths)} in {windows.dataset.root} is marked as solved; use "
            "keep: return"
        )


def steps_to_success(success_N: np.ndarray, lengths_E: np.ndarray) -> np.ndarray:
    """How many steps after each step the last success of its episode comes, 0 at that step itself.

    Args:
        success_N: bool, whether a success comes at a step or later in its episode.
        lengths_E: steps of each episode, in the same order.

    Returns:
        int (N,); -1 where no success follows.
    """
    stop_N = np.repeat(np.cumsum(lengths_E), lengths_E)
    solved_before_N = np.concatenate([[0], np.cumsum(success_N)])
    # success holds from the first step up to the last successful one: what is left of it counts
    left_N = solved_before_N[stop_N] - solved_before_N[:-1]
    return np.asarray(left_N - 1)


def _marked(windows: Windows) -> np.ndarray:
    """The windows whose step was a detour, bool (N,). Raises ObjectiveError if none is marked."""
    marked_N = detours_of(windows)
    if marked_N is None:
        raise ObjectiveError(
            f"objective: filtered_bc with keep: not_detours needs data that mark detours, and "
            f"{windows.dataset.root} marks none; use keep: last, or collect with "
            "behaviours: {detours: {}}"
        )
    return marked_N


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


__all__ = ["FilteredBC", "FilteredBCConfig", "steps_to_success"]

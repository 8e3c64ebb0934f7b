"""Return-conditioned supervised learning: imitation by a policy that is told what each episode brought.

Chen et al., 2021 (Decision Transformer); Emmons et al., 2022 (RvS). It does not join pieces of different episodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vla.config import register
from vla.data import Windows
from vla.data.rewards import check_varied_returns
from vla.models.policy import Policy
from vla.training.objective import ObjectiveConfig, ObjectiveError
from vla.training.objectives.bc import BC
from vla.training.offline_rl.data_checks import check_recorded_rewards


@register("objectives", "return_conditioned")
class ReturnConditionedConfig(ObjectiveConfig):
    """Behavioural cloning that insists on a policy which reads returns, and on data in which they differ."""

    type: Literal["return_conditioned"] = "return_conditioned"

    def build(self, policy: Policy) -> ReturnConditioned:
        """Raises ObjectiveError where the policy reads neither returns nor success."""
        if not getattr(policy, "return_conditioned", False):
            raise ObjectiveError(
                f"objective: return_conditioned needs a policy that is told returns, {type(policy).__name__} is not; use "
                "policy: {type: decision_transformer, condition: return} (or condition: success)"
            )
        return ReturnConditioned(
            by_success=getattr(policy.config, "condition", "return") == "success"
        )


class ReturnConditioned(BC):
    """See the config."""

    def __init__(self, *, by_success: bool) -> None:
        super().__init__()
        self.by_success = by_success

    def fit(self, windows: Windows) -> None:
        """Raises DataError where all returns are alike; ObjectiveError where success is told and all episodes are solved, or
        none is."""
        if not self.by_success:
            check_varied_returns(windows)
            return
        solved_E = windows.success[np.cumsum(windows.lengths) - windows.lengths]
        if solved_E.all() or not solved_E.any():
            raise ObjectiveError(
                f"objective: return_conditioned tells the policy of success, but in {windows.dataset.root} "
                f"{'all' if solved_E.any() else 'none'} of {len(solved_E)} episodes are solved: there is nothing to tell "
                "apart; add others, or use objective: {type: bc}"
            )

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError where returns are told and a further dataset has no rewards."""
        if not self.by_success:
            check_recorded_rewards(windows)


__all__ = ["ReturnConditioned", "ReturnConditionedConfig"]

"""Return-conditioned supervised learning: imitation by a policy that reads returns.

E episodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from vla.config import register
from vla.data import Windows
from vla.data.rewards import check_varied_returns
from vla.models.policy import Policy
from vla.training.objective import AuxiliaryConfig, AuxiliaryRule, ObjectiveError
from vla.training.objectives.bc import BC
from vla.training.offline_rl.data_checks import check_recorded_rewards


@register("objectives", "return_conditioned")
class ReturnConditionedConfig(AuxiliaryConfig):
    """Behavioural cloning that insists on a policy which reads returns, and on data in which they
    differ.

    It does not join pieces of different episodes. Formula, with the return to go R_t (or whether
    the episode was solved):

        L = mean over the valid steps of -log pi(a_t | R_t, s_0 .. s_t, instruction)

    Shapes: R is (B, T), actions (B, T, K, A).

    Source: Chen et al., 2021, "Decision Transformer"; Emmons et al., 2022, "RvS: what is essential
    for offline RL via supervised learning?".
    """

    type: Literal["return_conditioned"] = "return_conditioned"

    def build(self, policy: Policy) -> ReturnConditioned:
        """Raises ObjectiveError if the policy reads neither returns nor success."""
        if not policy.return_conditioned:
            raise ObjectiveError(
                f"objective: return_conditioned needs a policy that reads returns, "
                f"{type(policy).__name__} does not; use policy: {{type: decision_transformer, "
                "condition: return} (or condition: success)"
            )
        return ReturnConditioned(self.auxiliary, by_success=policy.success_conditioned)


class ReturnConditioned(BC):
    """See the config. With `by_success` the policy reads success in place of a return."""

    def __init__(self, auxiliary: AuxiliaryRule = "weighted", *, by_success: bool) -> None:
        super().__init__(auxiliary)
        self.by_success = by_success

    def fit(self, windows: Windows) -> None:
        """Raises DataError if all returns are alike.

        By success: raises ObjectiveError if all episodes are solved, or none is.
        """
        super().fit(windows)
        if not self.by_success:
            check_varied_returns(windows)
            return
        windows.dataset.require_recorded("success", "objective: return_conditioned by success")
        # success of a step is success at that step or later: at the first step, of the episode
        first_E = np.cumsum(windows.lengths) - windows.lengths
        solved_E = windows.success[first_E]
        if solved_E.all() or not solved_E.any():
            which = "all" if solved_E.any() else "none"
            raise ObjectiveError(
                f"objective: return_conditioned shows success to the policy, but in "
                f"{windows.dataset.root} {which} of {len(solved_E)} episodes are solved: there is "
                "nothing to tell apart; add others, or use objective: {type: bc}"
            )

    def check_replayed(self, windows: Windows) -> None:
        """Raises DataError if the policy reads returns and a further dataset has no rewards."""
        if self.by_success:
            windows.dataset.require_recorded("success", "objective: return_conditioned by success")
        else:
            # returns of unrecorded rewards would all be 0
            check_recorded_rewards(windows)


__all__ = ["ReturnConditioned", "ReturnConditionedConfig"]

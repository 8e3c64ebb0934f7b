"""What data must be like for values to be learned from it, beside what `vla.data.rewards` checks.

E episodes, n lookahead steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vla.data import Windows
from vla.data.rewards import (
    check_labels,
    check_terminals,
    check_unit_interval,
    check_varied_rewards,
    cut_below_zero,
    has_no_target,
)
from vla.training.objective import ObjectiveError


def check_recorded_rewards(windows: Windows) -> None:
    """Raises DataError if the rewards of a dataset that is replayed were not recorded.

    Its episodes may all be alike (only failures, or only demonstrations), since those that they are
    mixed with are not.
    """
    check_labels(windows)
    # Labels of success say that nothing is solved there, which is knowledge. Recorded zeros may
    # mean that nothing was recorded.
    if windows.reward_config.kind == "env":
        check_varied_rewards(windows)


def check_replayed_rewards(
    windows: Windows,
    needs: Literal["varied", "unit"] = "varied",
) -> None:
    """For the `check_replayed` of objectives that learn values.

    Args:
        windows: of a dataset that is replayed.
        needs: as of `vla.data.rewards.check_rewards`.

    Raises:
        DataError: no rewards were recorded, time limits are marked as terminals, or rewards lie
            outside of [0, 1] although values are bounded.
    """
    check_recorded_rewards(windows)
    check_terminals(windows)
    if needs == "unit":
        check_unit_interval(windows)


def check_targets(windows: Windows, lookahead: int) -> None:
    """Raises ObjectiveError if no step has a target.

    Every episode is then truncated within n steps of its start.
    """
    if not has_no_target(windows, lookahead):
        return
    longest = int(windows.lengths.max())
    # at least one action is executed: with episodes of one step nothing shorter helps
    shorter = ""
    if longest > 1:
        shorter = f"a policy.chunk below {longest} (or critic.executed, where there is one), or "
    raise ObjectiveError(
        f"objective: no step of {windows.dataset.root} has a target: values look {lookahead} steps "
        f"ahead (policy.chunk, or critic.executed), and all {len(windows.lengths)} episodes are "
        f"cut off after at most {longest}; use {shorter}longer episodes, or such as terminate"
    )


def check_lower_bound(windows: Windows, options: Sequence[str]) -> None:
    """Raises ObjectiveError if returns that bound values from below are no lower bounds.

    They are none of truncated episodes in data whose rewards can be negative.

    Args:
        windows: the data.
        options: which bound values by returns (`ValueLearner.return_bounds`); none asks nothing.
    """
    truncated = cut_below_zero(windows)
    if not options or not truncated:
        return
    least_reward = float(windows.rewards.min())
    raise ObjectiveError(
        f"objective: {options[0]}: {truncated} of {len(windows.lengths)} episodes of "
        f"{windows.dataset.root} are cut off and rewards go down to {least_reward:g}, so that "
        "their returns are no lower bound; set it false (of cal_ql: use cql), or use rewards of 0 "
        "or more (data.rewards.kind: success)"
    )


__all__ = ["check_lower_bound", "check_recorded_rewards", "check_replayed_rewards", "check_targets"]

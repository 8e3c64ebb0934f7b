"""What data must be like for values to be learned from it, beside what `vla.data.rewards` checks.

E episodes, n lookahead steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from vla.data import Windows
from vla.data.rewards import check_terminals, check_unit_interval, check_varied_rewards
from vla.training.objective import ObjectiveError


def check_recorded_rewards(windows: Windows) -> None:
    """Raises DataError where the rewards of a dataset that is replayed were not recorded. Its episodes may all be alike (only
    failures, or only demonstrations), since those that they are mixed with are not."""
    # by labels it is told that nothing is solved; recorded zeros may mean that nothing was recorded
    if windows.reward_config.kind == "env":
        check_varied_rewards(windows)


def check_replayed_rewards(windows: Windows, needs: Literal["varied", "unit"] = "varied") -> None:
    """For the `check_replayed` of objectives that learn values.

    Args:
        windows: of a dataset that is replayed.
        needs: as of `vla.data.rewards.check_rewards`.

    Raises:
        DataError: no rewards were recorded, time limits are marked as terminals, or rewards lie outside of [0, 1] where
            values are bounded.
    """
    check_recorded_rewards(windows)
    check_terminals(windows)
    if needs == "unit":
        check_unit_interval(windows)


def check_targets(windows: Windows, lookahead: int) -> None:
    """Raises ObjectiveError where no step has a target: every episode is cut off within n steps of its start."""
    longest = int(windows.lengths.max())
    if longest > lookahead or windows.terminals.any():
        return
    shorter = f"a policy.chunk below {longest}, or " if longest > 1 else ""
    raise ObjectiveError(
        f"objective: no step of {windows.dataset.root} has a target: values look {lookahead} steps ahead (policy.chunk), and "
        f"all {len(windows.lengths)} episodes are cut off after at most {longest}; use {shorter}longer episodes, or such as "
        "terminate"
    )


def check_lower_bound(windows: Windows, options: Sequence[str]) -> None:
    """Raises ObjectiveError where values are held up by returns (the options say how) that are no lower bound of what steps
    are worth: of episodes that are cut off, in data where rewards can be negative."""
    cut = int((~windows.terminals[np.cumsum(windows.lengths) - 1]).sum())
    least = float(windows.rewards.min())
    if not options or not cut or least >= 0:
        return
    raise ObjectiveError(
        f"objective: {options[0]}: {cut} of {len(windows.lengths)} episodes of {windows.dataset.root} are cut off and rewards "
        f"go down to {least:g}, so that what they brought is no lower bound; set it false (of cal_ql: use cql), or use rewards "
        "of 0 or more (data.rewards.kind: success)"
    )


__all__ = ["check_lower_bound", "check_recorded_rewards", "check_replayed_rewards", "check_targets"]

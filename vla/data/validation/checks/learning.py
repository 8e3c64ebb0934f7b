"""What objectives would refuse to learn from, found before a training is begun.

Every judgement is the one that a training makes itself (`vla.data.rewards`, `vla.data.held_out`),
so the two cannot disagree. N: frames, E: episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.common.registry import register
from vla.config import ConfigError
from vla.data.errors import DataError
from vla.data.held_out import HELD_OUT_FRACTION, split_episodes
from vla.data.returns import returns_to_go
from vla.data.rewards import (
    RewardConfig,
    RewardedSteps,
    check_terminals,
    check_unit_interval,
    check_varied_returns,
    check_varied_rewards,
    cut_below_zero,
    has_no_target,
)
from vla.data.validation.check import Finding, Severity, check
from vla.data.validation.examined import Examined, Numbers

_DISCOUNT = 0.99
"""Of the objectives that learn values, by default."""
_SHORT = 4
"""Episodes of no more steps than this are shorter than the chunks of many policies."""


@dataclass(frozen=True)
class _Place:
    """The dataset that messages name."""

    root: Path

    def require_recorded(self, what: str, needed_by: str) -> None:
        """Does nothing: rewards that are not recorded have a finding of their own."""


@dataclass(frozen=True)
class _Steps:
    """All steps of a dataset as a training sees them (`RewardedSteps`), under `kind: env`."""

    dataset: _Place
    reward_config: RewardConfig
    rewards: np.ndarray
    returns: np.ndarray
    terminals: np.ndarray
    success: np.ndarray
    lengths: np.ndarray


def _steps(examined: Examined, discount: float = 1.0) -> _Steps | None:
    """None if the numbers cannot be read, or rewards are not finite, which `finite` says."""
    numbers = examined.numbers
    if numbers is None or not len(numbers.episode):
        return None
    # by the frames themselves: a table of episodes may be wrong, and another check says so
    lengths = np.array([stop - start for _, start, stop in numbers.episode_ranges])
    nothing = np.zeros(len(numbers.episode))
    rewards = nothing if numbers.rewards is None else numbers.rewards.astype(np.float64)
    if not np.isfinite(rewards).all():
        return None
    terminals = nothing > 0 if numbers.terminated is None else numbers.terminated
    return _Steps(
        _Place(examined.root),
        RewardConfig(),
        rewards,
        returns_to_go(rewards, lengths, discount=discount, terminals_N=terminals),
        terminals,
        _solved_later(numbers),
        lengths,
    )


def _solved_later(numbers: Numbers) -> np.ndarray:
    """Whether the task is solved at a step or later in its episode, bool (N,)."""
    solved = np.zeros(len(numbers.episode), bool)
    if numbers.success is not None:
        for _, start, stop in numbers.episode_ranges:
            backwards = numbers.success[start:stop][::-1]
            solved[start:stop] = np.logical_or.accumulate(backwards)[::-1]
    return solved


def _refusal(judge: Callable[[RewardedSteps], None], steps: _Steps) -> str | None:
    """What a training would say; None if it accepts the data."""
    try:
        judge(steps)
    except DataError as error:
        return str(error)
    return None


@register("checks", "rewards")
@check("rewards that are missing, or tell nothing")
def rewards(examined: Examined) -> Iterator[Finding]:
    """There are rewards, and they tell good episodes from bad ones."""
    steps = _steps(examined)
    later = _steps(examined, _DISCOUNT)
    if steps is None or later is None:
        return
    if not steps.rewards.any():
        recorded = examined.numbers is not None and examined.numbers.rewards is not None
        what = "all rewards are zero" if recorded else "no rewards"
        remedy = "offline RL needs some, which `vla data label` can attach"
        if steps.success.any():
            remedy = (
                "for offline RL set data.rewards.kind: success, or attach some (`vla data label`)"
            )
        else:
            what += " and no episode is marked as solved"
        yield Finding("rewards", "note", "rewards", f"{what}: enough for imitation; {remedy}")
        return
    for judge in (check_varied_rewards, check_varied_returns):
        refused = _refusal(judge, steps)
        if refused is not None:
            # with a discount an episode that is solved sooner is better: most objectives have one
            severity: Severity = "note" if _refusal(judge, later) is None else "warning"
            yield Finding("rewards", severity, "rewards", refused)
            return


@register("checks", "terminals")
@check("time limits that are marked as true ends")
def terminals(examined: Examined) -> Iterator[Finding]:
    """True ends are last steps, and no time limits: values do not look beyond a true end."""
    steps = _steps(examined)
    numbers = examined.numbers
    if steps is None or numbers is None or numbers.terminated is None:
        return
    inside = [e for e, a, b in numbers.episode_ranges if numbers.terminated[a : b - 1].any()]
    if inside:
        others = f" (as in {len(inside) - 1} others)" if len(inside) > 1 else ""
        message = (
            f"episode {inside[0]}: a step before the last is marked as a true end{others}; divide "
            "the episode there"
        )
        yield Finding("terminals", "warning", f"episode {inside[0]}", message)
    refused = _refusal(check_terminals, steps)
    if refused is not None:
        yield Finding("terminals", "warning", "terminated", refused)


@register("checks", "success")
@check("success labels that tell no episodes apart")
def success(examined: Examined) -> Iterator[Finding]:
    """Some episodes are solved, for objectives that imitate those alone."""
    steps = _steps(examined)
    # without rewards the check of rewards says both
    if steps is None or steps.success.any() or not steps.rewards.any():
        return
    none = f"none of {len(steps.lengths)} episodes is marked as solved"
    if examined.dataset is not None and "success" not in examined.dataset.recorded:
        none = "success is not recorded"
    message = (
        f"{none}: filtered_bc (keep: success), "
        "return_conditioned (condition: success), ra_bc and data.rewards.kind: success cannot "
        "learn from them; `vla data label` attaches successes"
    )
    yield Finding("success", "note", "success", message)


@register("checks", "objectives")
@check("what single objectives need: rewards in [0, 1], true ends, some steps")
def objectives(examined: Examined) -> Iterator[Finding]:
    """Objectives that need more than the others find it."""
    steps = _steps(examined)
    if steps is None or not steps.rewards.any():
        return

    def note(message: str) -> Finding:
        return Finding("objectives", "note", "rewards", message)

    refused = _refusal(check_unit_interval, steps)
    if refused is not None:
        yield note(f"q_transformer: {refused}")
    cut = cut_below_zero(steps)
    if cut:
        yield note(
            f"cal_ql: {cut} of {len(steps.lengths)} episodes are cut off and rewards go down to "
            f"{steps.rewards.min():g}, so that their returns are no lower bound: use cql, or "
            "data.rewards.kind: success"
        )


@register("checks", "held_out")
@check("whether episodes can be held out, and are long enough to learn from")
def held_out(examined: Examined) -> Iterator[Finding]:
    """Some episodes can be held out of training, of each task."""
    steps = _steps(examined)
    if steps is None or examined.dataset is None:
        return
    tasks = examined.dataset.reader.episodes["task_index"].tolist()
    try:
        # the very function of a training, so that both refuse the same
        split_episodes(tasks, HELD_OUT_FRACTION, seed=0)
    except ConfigError as error:
        yield Finding("held_out", "warning", "episodes", str(error))
    counts = np.bincount(np.asarray(tasks))
    once = int((counts == 1).sum())
    several = int((counts > 1).sum())
    if once and several:
        message = (
            f"{once} of {once + several} instructions have one episode: where it is held out, "
            "nothing of the task is trained on; collect more of them, or set "
            "data.validation_fraction: 0"
        )
        yield Finding("held_out", "note", "episodes", message)
    longest = int(steps.lengths.max())
    if longest <= _SHORT and has_no_target(steps, longest):
        shorter = f"policy.chunk below {longest}, or " if longest > 1 else ""
        message = (
            f"the longest episode has {longest} steps and none truly ends: objectives that learn "
            f"values need {shorter}longer episodes"
        )
        yield Finding("held_out", "note", "episodes", message)

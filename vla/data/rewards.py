"""What is rewarded: the dataset's own rewards, success, or time; and checks that this teaches more
than imitation would.

N: steps of the chosen episodes, side by side; E: episodes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from vla.config import Config
from vla.data.errors import DataError, UniformRewardsError
from vla.data.returns import returns_to_go

LIMIT_EPISODES = 5
"""That many unsolved episodes which 'terminate' at the greatest length of the dataset look like a
time limit."""
Number = Annotated[float, Field(allow_inf_nan=False)]


class RewardConfig(Config):
    """Which rewards are learned from. First `kind`, then `normalise`, then times `scale` plus
    `shift`."""

    kind: Literal["env", "success", "step_cost"] = "env"
    """`env`: as recorded. `success`: 1 at each step that is solved, else 0. `step_cost`: -1 at each
    step that is not solved, else 0. Under the last two a solved step is terminal: nothing after it
    counts."""
    normalise: Literal["none", "return_range", "deviation"] = "none"
    """`return_range` divides by the range of the episodes' undiscounted returns, `deviation` by the
    rewards' standard deviation; both of the whole dataset, whichever episodes are held out."""
    scale: Number = 1.0
    """Factor, not 0: what a good episode's return becomes, after `return_range`."""
    shift: Number = 0.0
    """Added to every reward at last."""
    trust_terminals: bool = False
    """Unsolved episodes that terminate at the greatest length do end there: no time limit is at
    work."""

    @model_validator(mode="after")
    def _informative(self) -> RewardConfig:
        if self.scale == 0:
            raise ValueError("scale: 0 makes all rewards alike; use another number")
        return self


def shape_rewards(
    rewards_N: np.ndarray,
    success_N: np.ndarray,
    terminals_N: np.ndarray,
    lengths_E: np.ndarray,
    config: RewardConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and terminals under `config`.

    Args:
        rewards_N: as recorded, float (N,).
        success_N: whether the task is solved at this very step, bool (N,).
        terminals_N: as recorded, bool (N,): true ends, never time limits.
        lengths_E: steps of each episode, int (E,), summing to N.

    Returns:
        float32 (N,) and bool (N,). A terminal may lie inside an episode that was recorded beyond
        its success.

    Raises:
        DataError: `normalise` would divide by zero.
    """
    rewards = np.asarray(rewards_N, dtype=np.float64)
    solved = np.asarray(success_N, dtype=bool)
    terminals = np.asarray(terminals_N, dtype=bool)
    if config.kind != "env":
        # What was recorded after a success would be rewarded at every further step: a solved step
        # ends the episode, as far as values go.
        rewards = solved.astype(np.float64) - (config.kind == "step_cost")
        terminals = terminals | solved
    rewards = rewards / _divisor(rewards, terminals, lengths_E, config)
    return (rewards * config.scale + config.shift).astype(np.float32), terminals


def _divisor(
    rewards_N: np.ndarray, terminals_N: np.ndarray, lengths_E: np.ndarray, config: RewardConfig
) -> float:
    if config.normalise == "none":
        return 1.0
    if config.normalise == "deviation":
        spread = float(rewards_N.std())
        what = "standard deviation of the rewards"
    else:
        # undiscounted, as the paper of IQL (arXiv 2110.06169) scales the locomotion tasks of D4RL
        returns_N = returns_to_go(rewards_N, lengths_E, terminals_N=terminals_N)
        returns_E = _episode_returns(returns_N, lengths_E)
        spread = float(np.ptp(returns_E))
        what = f"range of the returns of {len(returns_E)} episodes"
    if not spread > 0:  # also of NaN
        raise DataError(
            f"data.rewards.normalise: {config.normalise} divides by the {what}, which is 0 with "
            f"data.rewards.kind: {config.kind}; use normalise: none, another kind of reward, or "
            "data of better and worse episodes"
        )
    return spread


def _episode_returns(returns_N: np.ndarray, lengths_E: np.ndarray) -> np.ndarray:
    """The returns at the first step of each episode (E,)."""
    return returns_N[np.cumsum(lengths_E) - lengths_E]


# --- can these data teach more than imitation? ----------------------------------------------------


class Rooted(Protocol):
    """A dataset that messages can name, and that knows what it records."""

    @property
    def root(self) -> Path: ...
    def require_recorded(self, what: Literal["success", "rewards"], needed_by: str) -> None: ...


class RewardedSteps(Protocol):
    """What the checks read of `Windows`, and of a dataset that is validated."""

    # members that are only read: a class may have narrower types for them
    @property
    def dataset(self) -> Rooted: ...
    @property
    def reward_config(self) -> RewardConfig: ...
    @property
    def rewards(self) -> np.ndarray: ...
    @property
    def returns(self) -> np.ndarray: ...
    @property
    def terminals(self) -> np.ndarray: ...
    @property
    def success(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...


def check_rewards(windows: RewardedSteps, needs: Literal["varied", "unit"] = "varied") -> None:
    """For the `fit` of objectives that learn from rewards: that there is something to learn.

    Args:
        windows: the training data.
        needs: `varied`: some steps and episodes are better than others, and terminals are no time
            limits; `unit`: that, and every reward and return lies in [0, 1], as bounded values need
            (Q-Transformer).

    Raises:
        DataError: naming what is wrong and the remedy.
    """
    check_varied_rewards(windows)
    check_varied_returns(windows)
    check_terminals(windows)
    if needs == "unit":
        check_unit_interval(windows)


def check_varied_rewards(windows: RewardedSteps) -> None:
    """Raises UniformRewardsError if no reward differs: none is recorded, or no episode is solved.

    A constant other than zero does teach if episodes terminate: then it counts steps.
    """
    check_labels(windows)
    first = float(windows.rewards[0])
    varied = bool((windows.rewards != first).any())
    counts_steps = first != 0 and bool(windows.terminals.any())
    if varied or counts_steps:
        return
    kind = windows.reward_config.kind
    remedy = (
        "data.rewards.kind: success makes rewards of the success labels"
        if kind == "env" and windows.success.any()
        else (
            "no episode is marked as solved either: attach rewards or successes with `vla data "
            "label`, or use an objective without rewards (bc)"
        )
    )
    raise UniformRewardsError(
        f"{windows.dataset.root}: with data.rewards.kind: {kind} all {len(windows.rewards)} "
        f"rewards are {first:g}: there is nothing to learn from them; {remedy}"
    )


def check_labels(windows: RewardedSteps) -> None:
    """Raises DataError if rewards are made of what the dataset does not record."""
    kind = windows.reward_config.kind
    what: Literal["rewards", "success"] = "rewards" if kind == "env" else "success"
    windows.dataset.require_recorded(what, f"data.rewards.kind: {kind}")


def check_varied_returns(windows: RewardedSteps) -> None:
    """Raises UniformRewardsError if all episodes have the same return: none is the better one."""
    check_labels(windows)
    returns_E = _episode_returns(windows.returns, windows.lengths)
    # relative to the largest: returns are sums of float32, equal ones differ in their last bits
    if len(returns_E) > 1 and np.ptp(returns_E) <= 1e-6 * max(1.0, float(np.abs(returns_E).max())):
        raise UniformRewardsError(
            f"{windows.dataset.root}: with data.rewards.kind: {windows.reward_config.kind} all "
            f"{len(returns_E)} episodes have the return {returns_E[0]:g}: none is better than "
            "another; add episodes that fail or succeed, use another kind, a discount below 1 "
            "(sooner is then better), or imitate them (bc)"
        )


def check_terminals(windows: RewardedSteps) -> None:
    """Raises DataError if time limits seem to be marked as terminals: values would not bootstrap
    there, and states that merely came last would be taught to be worthless."""
    longest = int(windows.lengths.max())
    ends_E = np.cumsum(windows.lengths) - 1
    starts_E = ends_E + 1 - windows.lengths
    # `success` looks ahead: at an episode's first step it says whether the episode is ever solved
    at_limit_E = (
        (windows.lengths == longest) & windows.terminals[ends_E] & ~windows.success[starts_E]
    )
    if windows.reward_config.trust_terminals or longest == 1:
        return
    if at_limit_E.sum() < LIMIT_EPISODES:  # a few may end there by chance
        return
    raise DataError(
        f"{windows.dataset.root}: {int(at_limit_E.sum())} episodes that are not solved are marked "
        f"as terminated at exactly {longest} steps, the greatest length of the dataset: a time "
        "limit is no terminal; mark them as not terminated with `vla data label`, record them so "
        "(Episode(terminated=False)), or set data.rewards.trust_terminals: true if the task truly "
        "ends there"
    )


def has_no_target(windows: RewardedSteps, lookahead: int) -> bool:
    """Whether no step has a target for values that look so many steps ahead: every episode is cut
    off before."""
    return int(windows.lengths.max()) <= lookahead and not bool(windows.terminals.any())


def cut_below_zero(windows: RewardedSteps) -> int:
    """How many episodes are cut off in data with negative rewards: their returns are no lower
    bounds of what steps are worth."""
    # with rewards of 0 or more, what would have come after the cut could only add to the return
    if float(windows.rewards.min()) >= 0:
        return 0
    last_E = np.cumsum(windows.lengths) - 1
    return int((~windows.terminals[last_E]).sum())


def check_unit_interval(windows: RewardedSteps) -> None:
    """Raises DataError if a reward or a return lies outside [0, 1]."""
    for name, values in (("rewards", windows.rewards), ("returns", windows.returns)):
        low, high = float(values.min()), float(values.max())
        if low < -1e-6 or high > 1 + 1e-6:  # float32 sums may pass 1 by rounding
            raise DataError(
                f"{windows.dataset.root}: {name} lie in [{low:g}, {high:g}] with "
                f"data.rewards.kind: {windows.reward_config.kind}; this objective needs [0, 1]: "
                "set data.rewards.kind: success, or scale and shift"
            )

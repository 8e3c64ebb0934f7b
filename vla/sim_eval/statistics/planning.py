"""How many episodes a comparison needs: one table for all the ways to make it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction
from vla.sim_eval.statistics.intervals import half_width
from vla.sim_eval.statistics.power import episodes_needed, pair_probabilities
from vla.sim_eval.statistics.stopping import SequentialPlan, sequential_plan

# what a table shows if no one is named; 0, which needs the most episodes, is the cautious choice
CORRELATIONS = (0.0, 0.25, 0.5)
_LEGEND = """\
paired: same tasks and seeds, exact McNemar; unpaired: Barnard.
correlation: of the two policies' successes in an episode; 0 is cautious.
sequential: mean of a paired test that peeks after each, betting on these rates.
at most: where it gives up, as it mostly does with equal policies.
± 95 %: half the width of Wilson's interval, the wider of the two rates'."""


@dataclass(frozen=True)
class PlannedTest:
    """One way to compare.

    Attributes:
        correlation: of the two policies' successes in the same episode; None for an unpaired test.
        episodes: per policy, for the fixed-size test; a multiple of the number of tasks.
        half_width: of Wilson's 95 % interval with so many episodes, of the
            rate whose interval is wider.
        sequential: the sequential comparison of equal power; None for an unpaired test.
    """

    correlation: float | None
    episodes: int
    half_width: float
    sequential: SequentialPlan | None


@dataclass(frozen=True)
class Plan:
    """What `vla eval plan` prints; see `plan`."""

    rates: tuple[float, float]
    power: float
    alpha: float
    tasks: int
    tests: tuple[PlannedTest, ...]

    def table(self) -> Any:
        """A rich table for the terminal."""
        from vla.common.printing.tables import Table

        rate_a, rate_b = self.rates
        table = Table(
            "test",
            "correlation",
            "episodes",
            *(["per task"] if self.tasks > 1 else []),
            "sequential",
            "at most",
            "± 95 %",
            title=f"Episodes per policy: {rate_a:g} against {rate_b:g}, "
            f"power {self.power:g}, alpha {self.alpha:g}",
            caption=_LEGEND,
        )
        for test in self.tests:
            # an unpaired test is not planned sequentially
            sequential = ["-", "-"]
            if test.sequential is not None:
                sequential = [str(math.ceil(test.sequential.expected)), str(test.sequential.limit)]
            table.add_row(
                "unpaired" if test.correlation is None else "paired",
                "-" if test.correlation is None else f"{test.correlation:g}",
                str(test.episodes),
                *([str(test.episodes // self.tasks)] if self.tasks > 1 else []),
                *sequential,
                f"{test.half_width:.3f}",
            )
        return table


def plan(
    rate_a: float,
    rate_b: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    paired: bool | None = None,
    correlation: float | None = None,
    tasks: int = 1,
) -> Plan:
    """Episodes per policy to find a difference between two success rates,
    paired, unpaired and sequentially.

    Args:
        paired: only the paired or only the unpaired test; None for both.
        correlation: see `power_of`; None shows those of 0, 0.25 and 0.5 that the rates allow.
        tasks: episodes are rounded up to a multiple of it.

    Raises:
        StatisticsError: equal rates or no rates; an impossible correlation, or one for an unpaired
            test; no tasks; more than 20,000 episodes.
    """
    check_fraction("power", power, 0.8)
    check_fraction("alpha", alpha, 0.05)
    if tasks < 1:
        raise StatisticsError(f"tasks is {tasks}: expected 1 or more")
    if paired is False and correlation is not None:
        raise StatisticsError(
            f"correlation is {correlation:g}: an unpaired test has none; leave one of the two out"
        )
    # None stands for the unpaired test
    correlations: list[float | None] = []
    if paired is not False and correlation is not None:
        correlations.append(correlation)
    elif paired is not False:
        correlations += _possible(rate_a, rate_b, CORRELATIONS)
    if paired is not True:
        correlations.append(None)
    tests = tuple(_test(rate_a, rate_b, power, alpha, c, tasks) for c in correlations)
    return Plan((rate_a, rate_b), power, alpha, tasks, tests)


def _possible(
    rate_a: float,
    rate_b: float,
    correlations: Sequence[float],
) -> list[float]:
    """0, and those of the others that two policies with these rates can have."""
    # rates that are no rates are an error, correlations that do not fit them are not
    pair_probabilities(rate_a, rate_b)
    found = []
    for correlation in correlations:
        try:
            pair_probabilities(rate_a, rate_b, correlation)
        except StatisticsError:
            continue
        found.append(correlation)
    return found


def _test(
    rate_a: float,
    rate_b: float,
    power: float,
    alpha: float,
    correlation: float | None,
    tasks: int,
) -> PlannedTest:
    paired, rho = correlation is not None, correlation or 0.0
    n = episodes_needed(rate_a, rate_b, power=power, alpha=alpha, paired=paired, correlation=rho)
    # evaluations play as many episodes of each task
    n = math.ceil(n / tasks) * tasks
    sequential = None
    if paired:
        sequential = sequential_plan(rate_a, rate_b, power=power, alpha=alpha, correlation=rho)
    width = max(half_width(rate_a, n), half_width(rate_b, n))
    return PlannedTest(correlation, n, width, sequential)

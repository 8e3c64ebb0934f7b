"""Methods over several trainings: false alarms of the tests, coverage of the intervals, by simulation with a fixed seed.

Log-odds of a success are a level, plus the training's deviation, plus the start's, plus what a start means to one method; equal
methods have equal levels. In pairs the two trainings of a pair also share a deviation, as two that continue from one clone.

    python benchmarks/coverage_trainings.py [--repeats 2000]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import time
from typing import Any

import numpy as np
from _common import prepare_cpu, publish
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table
from scipy.special import expit
from scipy.stats import ttest_ind, ttest_rel

from vla.sim_eval.statistics import (
    mcnemar_exact,
    method_difference,
    method_p_value,
    method_rate,
    permutation_test,
)

ALPHA = 0.05
STARTS, METHOD_STARTS, CLONES = 1.5, 0.7, 0.5  # standard deviations of log-odds
LEVEL = -0.5
Matrix = NDArray[np.float64]
Row = dict[str, Any]


def two_methods(
    random: np.random.Generator,
    trainings: int,
    starts: int,
    between: float,
    *,
    paired: bool,
    better: float = 0.0,
) -> tuple[Matrix, Matrix]:
    """Outcomes (S, N) of two methods that play the same starts; the first is `better` in log-odds."""
    start_N = STARTS * random.standard_normal(starts)
    clone_S1 = CLONES * random.standard_normal((trainings, 1)) if paired else np.zeros((1, 1))
    found = []
    for level in (LEVEL + better, LEVEL):
        training_S1 = between * random.standard_normal((trainings, 1))
        own_N = METHOD_STARTS * random.standard_normal(starts)
        odds_SN = level + clone_S1 + training_S1 + start_N + own_N
        found.append((random.random(odds_SN.shape) < expit(odds_SN)).astype(float))
    return found[0], found[1]


def p_values(a: Matrix, b: Matrix, *, paired: bool) -> dict[str, float]:
    """What each test says."""
    wins, losses = int((a > b).sum()), int((b > a).sum())
    rates = a.mean(1), b.mean(1)
    with np.errstate(all="ignore"):
        plain = ttest_rel(*rates) if paired else ttest_ind(*rates, equal_var=False)
    return {
        "trainings and starts": method_p_value(a, b, paired=paired),
        "t of rates": float(np.nan_to_num(plain.pvalue, nan=1.0)),
        "permutation": permutation_test(*rates, paired=paired)[0],
        "mcnemar of one training": mcnemar_exact(
            int((a[0] > b[0]).sum()), int((b[0] > a[0]).sum()), 1
        ),
        "mcnemar of all": mcnemar_exact(wins, losses, 1),
    }


def rejections(repeats: int, random: np.random.Generator, *, better: float) -> list[Row]:
    """How often each test finds a difference at 5 %: false alarms if `better` is 0, else power."""
    rows = []
    settings = itertools.product((True, False), (2, 3, 5), (0.0, 0.3, 0.8))
    for paired, trainings, between in settings:
        found: dict[str, int] = {}
        below_1 = 0
        for _ in range(repeats):
            a, b = two_methods(random, trainings, 125, between, paired=paired, better=better)
            p = p_values(a, b, paired=paired)
            for name, value in p.items():
                found[name] = found.get(name, 0) + (value <= ALPHA)
            below_1 += p["trainings and starts"] <= 0.01
        row: Row = {"paired": paired, "trainings": trainings, "between": between}
        row |= {name: round(count / repeats, 4) for name, count in found.items()}
        rows.append(row | {"trainings and starts at 1 %": round(below_1 / repeats, 4)})
    return rows


def interval_coverage(repeats: int, random: np.random.Generator) -> list[Row]:
    """How often the 95 % intervals hold the rate, and the difference, over all there could be."""
    rows = []
    better = 0.8
    for trainings, between in itertools.product((3, 5), (0.0, 0.3, 0.8)):
        deviation = np.sqrt(between**2 + STARTS**2 + METHOD_STARTS**2 + CLONES**2)
        odds = deviation * random.standard_normal(2_000_000)
        rates = [float(expit(LEVEL + more + odds).mean()) for more in (better, 0.0)]
        held = {"rate": 0, "difference": 0}
        width = 0.0
        for _ in range(repeats):
            a, b = two_methods(random, trainings, 125, between, paired=True, better=better)
            low, high = method_rate(a, resamples=500).interval
            held["rate"] += low <= rates[0] <= high
            low, high = method_difference(a, b, paired=True, resamples=500).interval
            held["difference"] += low <= rates[0] - rates[1] <= high
            width += high - low
        row: Row = {"trainings": trainings, "between": between}
        row |= {name: round(count / repeats, 4) for name, count in held.items()}
        rows.append(row | {"mean width of the difference": round(width / repeats, 3)})
    return rows


def shown(title: str, rows: list[Row]) -> Table:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000, help="simulated comparisons of a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare_cpu(1)
    began, random = time.process_time(), np.random.default_rng(options.seed)
    parts = {
        "false_alarms": rejections(options.repeats, random, better=0.0),
        "power": rejections(options.repeats // 2, random, better=1.2),
        "coverage": interval_coverage(options.repeats // 2, random),
    }
    worst = {
        name: max(row[name] for row in parts["false_alarms"])
        for name in ("trainings and starts", "mcnemar of one training")
    }
    publish(
        "coverage_trainings",
        ours=worst["trainings and starts"],
        theirs=worst["mcnemar of one training"],
        ratio=worst["mcnemar of one training"] / worst["trainings and starts"],
        unit="false alarms between equal methods; theirs is McNemar's test of one training each",
        table=Group(*(shown(name.replace("_", " "), rows) for name, rows in parts.items())),
        starts=125,
        deviations={"starts": STARTS, "starts of a method": METHOD_STARTS, "clones": CLONES},
        **parts,
        repeats=options.repeats,
        cpu_seconds=round(time.process_time() - began, 1),
        scipy=importlib.metadata.version("scipy"),
    )


if __name__ == "__main__":
    main()

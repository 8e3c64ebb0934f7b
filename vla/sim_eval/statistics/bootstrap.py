"""Intervals over tasks as well as episodes, by a bootstrap in two levels.

An interval of a pooled success rate answers "what if I ran more episodes of these very tasks".
Tasks differ more than episodes of one task do, so it is far too narrow for "what about tasks
of this kind": for that, tasks are drawn with replacement and then episodes within each
(Davison and Hinkley 1997, section 3.8). What is estimated is the mean over tasks, each
weighing the same, of a task's mean.

Few tasks make a bootstrap too narrow: with K tasks the variance between them comes out (K - 1)/K
times too small, and a tail of a normal is used where Student's t is due. The quantiles are
widened for both (Hesterberg 2015, "expanded percentile interval"). What remains
(benchmarks/coverage.py measures it): with fewer than five tasks the interval is still a little
too narrow; where the tasks are hardly different it is too wide, the noise of the episodes being
drawn at both levels; and where all outcomes are alike it has no width, so that Wilson's, which
knows the number of episodes, says more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vla.sim_eval.statistics.errors import StatisticsError, check_fraction

# Axes: R resamples, K tasks drawn in each, T tasks that there are, V distinct outcomes of a task.
Outcomes = Mapping[str, Sequence[float]]
_DRAWS = 2_000_000  # counts drawn at once, to bound the memory


def clustered_bootstrap(
    outcomes: Outcomes,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean over tasks, for tasks like these.

    Args:
        outcomes: task -> an outcome per episode: success (0 or 1) or any number, such as a return.
        resamples: how often all tasks are drawn.
        seed: the same seed and outcomes give the same interval.

    Raises:
        StatisticsError: fewer than two tasks, a task without episodes, or
            an outcome that is no number.
    """
    groups = _checked(outcomes, "outcomes")
    random = _generator(confidence, resamples, seed)
    tasks = random.integers(len(groups), size=(resamples, len(groups)))
    return _interval(_means(groups, tasks, random), len(groups), confidence)


def clustered_bootstrap_difference(
    a: Outcomes,
    b: Outcomes,
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the mean over tasks of A's outcomes minus B's, for tasks like these.

    The same tasks are drawn for both. If `paired`, entry i of a task is the same
    episode (task and seed) for both policies and is drawn for both; else each policy's
    episodes are drawn on their own.

    Raises:
        StatisticsError: see `clustered_bootstrap`; or the tasks (if paired,
            their episodes) are not the same.
    """
    groups_a, groups_b = _checked(a, "a"), _checked(b, "b")
    if set(a) != set(b):
        odd = ", ".join(sorted(set(a) ^ set(b)))
        raise StatisticsError(
            f"tasks that only one of a and b has: {odd}; compare evaluations of the same tasks"
        )
    # in A's order, by which tasks are drawn
    position = {task: i for i, task in enumerate(b)}
    groups_b = [groups_b[position[task]] for task in a]
    if paired:
        for task, x, y in zip(a, groups_a, groups_b, strict=True):
            if len(x) != len(y):
                raise StatisticsError(
                    f"{task}: a has {len(x)} episodes and b {len(y)}: pairs need the same seeds; "
                    "or pass paired=False"
                )
        # what a pair shares cancels before anything is drawn
        differences = {task: x - y for task, x, y in zip(a, groups_a, groups_b, strict=True)}
        return clustered_bootstrap(
            differences,  # type: ignore[arg-type]
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
    random = _generator(confidence, resamples, seed)
    # the same tasks for both: how hard they are cancels, even where episodes are not paired
    tasks = random.integers(len(groups_a), size=(resamples, len(groups_a)))
    means = _means(groups_a, tasks, random) - _means(groups_b, tasks, random)
    return _interval(means, len(groups_a), confidence)


def _checked(outcomes: Outcomes, name: str) -> list[NDArray[np.float64]]:
    if len(outcomes) < 2:
        raise StatisticsError(
            f"{name} has {len(outcomes)} task(s): a bootstrap over tasks needs at least 2; "
            "for the episodes of one task take wilson_interval"
        )
    groups = []
    for task, values in outcomes.items():
        group = np.asarray(values, dtype=np.float64)
        if group.ndim != 1 or not group.size:
            raise StatisticsError(
                f"{name}: task {task!r} has no episodes; run them or leave the task out"
            )
        if not np.isfinite(group).all():
            raise StatisticsError(f"{name}: task {task!r} holds an outcome that is not finite")
        groups.append(group)
    return groups


def _generator(
    confidence: float,
    resamples: int,
    seed: int,
) -> np.random.Generator:
    check_fraction("confidence", confidence, 0.95)
    if resamples < 100:
        raise StatisticsError(f"resamples is {resamples}: expected 100 or more, for example 10000")
    return np.random.default_rng(seed)


def _means(
    groups: list[NDArray[np.float64]],
    tasks_RK: NDArray[np.int64],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Mean over the K tasks of each of the R resamples of the mean of that
    task's episodes, resampled: (R,).

    What is drawn is how often each of a task's V distinct outcomes comes up, not episode by
    episode: the same distribution, and for successes one binomial number per task.
    """
    sizes_T = np.array([len(group) for group in groups])
    distinct = [np.unique(group, return_counts=True) for group in groups]
    most = max(len(values) for values, _ in distinct)
    # a task with fewer values is padded by values of share 0, which are never drawn
    values_TV, shares_TV = np.zeros((2, len(groups), most))
    for task, (values, counts) in enumerate(distinct):
        values_TV[task, : len(values)] = values
        shares_TV[task, : len(values)] = counts / sizes_T[task]
    # in blocks of rows: the counts of all resamples at once may be gigabytes
    rows = max(1, _DRAWS // (tasks_RK.shape[1] * most))
    means = []
    for tasks in np.split(tasks_RK, range(rows, len(tasks_RK), rows)):
        counts_RKV = random.multinomial(sizes_T[tasks], shares_TV[tasks])
        sums_RK = np.einsum("rkv,rkv->rk", counts_RKV, values_TV[tasks])
        means.append((sums_RK / sizes_T[tasks]).mean(-1))
    return np.concatenate(means)


def _interval(
    means: NDArray[np.float64],
    tasks: int,
    confidence: float,
) -> tuple[float, float]:
    from scipy.special import stdtrit

    # both corrections of the module's docstring: Student's t, and the variance's factor K / (K - 1)
    t = float(stdtrit(tasks - 1, (1 - confidence) / 2))
    widened = t * math.sqrt(tasks / (tasks - 1))
    tail = NormalDist().cdf(widened)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)

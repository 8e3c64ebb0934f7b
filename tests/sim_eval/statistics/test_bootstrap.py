"""The bootstrap over tasks: its distribution by hand, what it covers, what it refuses."""

import time

import numpy as np
import pytest

from vla.sim_eval.statistics import (
    StatisticsError,
    clustered_bootstrap,
    clustered_bootstrap_difference,
)
from vla.sim_eval.statistics.bootstrap import _means


def some_tasks(tasks: int = 10, episodes: int = 20, seed: int = 0) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    rates = random.random(tasks)
    return {
        f"task {k}": (random.random(episodes) < rate).astype(float).tolist()
        for k, rate in enumerate(rates)
    }


def test_resampled_means_have_the_two_level_mean_and_variance() -> None:
    groups = [np.array([0.0, 1, 1, 1]), np.array([0.0, 0, 0, 0, 5]), np.array([2.0, 2.5])]
    random = np.random.default_rng(0)
    means = _means(groups, random.integers(3, size=(200_000, 3)), random)
    task_means = np.array([group.mean() for group in groups])
    # the variance of a mean of 3 drawn tasks: between the tasks' means, plus of a drawn task's own mean
    within = np.mean([group.var() / len(group) for group in groups])
    assert means.mean() == pytest.approx(task_means.mean(), abs=0.005)
    assert means.var() == pytest.approx((task_means.var() + within) / 3, rel=0.02)


def test_interval_holds_the_mean_and_repeats() -> None:
    outcomes = some_tasks()
    low, high = clustered_bootstrap(outcomes)
    assert low < np.mean(list(outcomes.values())) < high
    assert clustered_bootstrap(outcomes) == (low, high)
    assert clustered_bootstrap(outcomes, seed=1) != (low, high)
    narrow = clustered_bootstrap(outcomes, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_tasks_count_and_not_only_episodes() -> None:
    """Ten times the episodes of the same ten different tasks: hardly a narrower interval."""
    few, many = (
        clustered_bootstrap(some_tasks(episodes=20)),
        clustered_bootstrap(some_tasks(episodes=200)),
    )
    assert many[1] - many[0] > 0.7 * (few[1] - few[0])


def test_coverage_over_tasks() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(150):
        rates = random.beta(2, 2, size=8)
        outcomes = {str(k): random.random(15) < rate for k, rate in enumerate(rates)}
        low, high = clustered_bootstrap(outcomes, resamples=500)
        hits += low <= 0.5 <= high
    assert hits / 150 >= 0.9


def test_pairs_cancel_what_the_policies_share() -> None:
    a = some_tasks()
    worse = {task: [0.0, *values[1:]] for task, values in a.items()}
    paired = clustered_bootstrap_difference(a, worse, paired=True)
    unpaired = clustered_bootstrap_difference(a, dict(reversed(worse.items())), paired=False)
    assert unpaired[0] < 0 <= paired[0] < paired[1] < unpaired[1]
    swapped = clustered_bootstrap_difference(worse, a, paired=True)
    assert swapped == pytest.approx((-paired[1], -paired[0]), abs=0.01)


def test_policies_that_are_the_same_differ_by_nothing() -> None:
    assert clustered_bootstrap_difference(some_tasks(), some_tasks(), paired=True) == (0.0, 0.0)


def test_ten_thousand_resamples_are_quick() -> None:
    outcomes = some_tasks()
    clustered_bootstrap(outcomes)  # imports scipy
    start = time.process_time()
    clustered_bootstrap(outcomes, resamples=10_000)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ({}, "at least 2"),
        ({"reach": [1, 0]}, "take wilson_interval"),
        ({"reach": [1, 0], "push": []}, "'push' has no episodes"),
        ({"reach": [1, 0], "push": [float("nan")]}, "not finite"),
    ],
)
def test_bad_outcomes(outcomes: dict[str, list[float]], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        clustered_bootstrap(outcomes)


def test_bad_differences() -> None:
    a, b = {"reach": [1.0, 0], "push": [1.0]}, {"reach": [1.0], "push": [1.0]}
    with pytest.raises(StatisticsError, match="reach: a has 2 episodes and b 1"):
        clustered_bootstrap_difference(a, b, paired=True)
    with pytest.raises(StatisticsError, match="only one of a and b has: pull"):
        clustered_bootstrap_difference(a, b | {"pull": [1.0]}, paired=False)
    with pytest.raises(StatisticsError, match="resamples is 10"):
        clustered_bootstrap(a, resamples=10)

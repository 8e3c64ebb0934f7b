"""Methods over trainings and starts: variances by hand, false alarms, coverage, what is refused."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import ttest_ind, ttest_rel

from vla.sim_eval.statistics import (
    StatisticsError,
    method_difference,
    method_p_value,
    method_rate,
    permutation_test,
    wilson_interval,
)
from vla.sim_eval.statistics.trainings import _crossed_means, _drawn, _Spread


def simulated(
    random: np.random.Generator,
    trainings: int,
    starts_N: np.ndarray,
    *,
    level: float,
    between: float,
) -> np.ndarray:
    """Outcomes of trainings whose log-odds differ by `between`, at starts of this ease."""
    of_training_S1 = between * random.standard_normal((trainings, 1))
    odds_SN = level + of_training_S1 + starts_N
    return (random.random(odds_SN.shape) < expit(odds_SN)).astype(float)


def test_parts_of_the_variance_are_unbiased() -> None:
    """A table of known variances: 0.04 between trainings, 0.09 between starts, 0.25 for the rest."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        y_SN = 0.2 * random.standard_normal((4, 1)) + 0.3 * random.standard_normal(6)
        y_SN = y_SN + 0.5 * random.standard_normal((4, 6))
        spread = _Spread.of(y_SN)
        found.append((spread.training, spread.start, spread.rest))
    training, start, rest = np.mean(found, axis=0)
    assert rest == pytest.approx(0.25 / 24, rel=0.05)
    assert training == pytest.approx(0.04 / 4 + 0.25 / 24, rel=0.05)
    assert start == pytest.approx(0.09 / 6 + 0.25 / 24, rel=0.05)


def test_trainings_that_differ_most_give_the_t_test_of_their_rates() -> None:
    """Every start alike: nothing but one rate per training is there."""
    a = np.repeat(np.array([[0.1], [0.3], [0.2], [0.5]]), 8, axis=1)
    b = np.repeat(np.array([[0.6], [0.7], [0.5], [0.9]]), 8, axis=1)
    paired = method_difference(a, b, paired=True)
    assert paired.p_value == pytest.approx(ttest_rel(a[:, 0], b[:, 0]).pvalue)
    assert paired.degrees == pytest.approx(3)
    apart = method_difference(a, b, paired=False)
    assert apart.p_value == pytest.approx(ttest_ind(a[:, 0], b[:, 0], equal_var=False).pvalue)
    assert paired.difference == apart.difference == pytest.approx(-0.4)


def test_five_trainings_can_be_clear_and_two_that_agree_are_not_many() -> None:
    random = np.random.default_rng(3)
    ease_N = random.standard_normal(125)
    a = simulated(random, 5, ease_N, level=1.0, between=0.2)
    b = simulated(random, 5, ease_N, level=-1.0, between=0.2)
    found = method_difference(a, b, paired=True)
    assert found.p_value < 0.001
    assert found.interval[0] > 0.2
    assert found.p_least == 2 / 32
    assert method_difference(a, b, paired=False).p_permutation == pytest.approx(2 / 252)
    # the same rates with a tenth of the difference, and only two trainings
    few = simulated(random, 2, ease_N, level=0.3, between=0.8)
    other = simulated(random, 2, ease_N, level=0.0, between=0.8)
    assert method_p_value(few, other, paired=True) > 0.05


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("trainings", [3, 5])
def test_equal_methods_give_few_false_alarms(paired: bool, trainings: int) -> None:
    random = np.random.default_rng(trainings)
    runs, alarms = 300, 0
    for _ in range(runs):
        starts_N = 1.5 * random.standard_normal(60)
        a = simulated(random, trainings, starts_N, level=-0.5, between=0.5)
        b = simulated(random, trainings, starts_N, level=-0.5, between=0.5)
        alarms += method_p_value(a, b, paired=paired) <= 0.05
    # 5 % of 300 is 15; 25 and more would come by chance in fewer than one case of 100
    assert alarms < 25


def test_one_mcnemar_test_of_all_pairs_gives_many() -> None:
    """What is wrong with taking the starts of all trainings for one sample."""
    from vla.sim_eval.statistics import mcnemar_exact

    random = np.random.default_rng(0)
    alarms = {"pooled": 0, "methods": 0}
    for _ in range(200):
        starts_N = 1.5 * random.standard_normal(60)
        a = simulated(random, 3, starts_N, level=0.0, between=0.8)
        b = simulated(random, 3, starts_N, level=0.0, between=0.8)
        alarms["pooled"] += mcnemar_exact(int((a > b).sum()), int((b > a).sum()), 1) <= 0.05
        alarms["methods"] += method_p_value(a, b, paired=False) <= 0.05
    assert alarms["pooled"] > 60
    assert alarms["methods"] < 20


def test_coverage_of_a_rate_over_trainings_and_starts() -> None:
    random = np.random.default_rng(5)
    # the mean over all trainings and starts there could be
    odds = 0.5 + 0.5 * random.standard_normal(400_000) + 1.5 * random.standard_normal(400_000)
    truth, held = float(expit(odds).mean()), 0
    for _ in range(200):
        starts_N = 1.5 * random.standard_normal(60)
        y_SN = simulated(random, 5, starts_N, level=0.5, between=0.5)
        low, high = method_rate(y_SN, resamples=400).interval
        held += low <= truth <= high
    assert 183 <= held <= 199


def test_both_factors_are_drawn() -> None:
    y_SN = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    random = np.random.default_rng(0)
    means_R = _crossed_means(y_SN, *_drawn(random, 50_000, y_SN.shape))
    assert means_R.mean() == pytest.approx(y_SN.mean(), abs=0.005)
    # the first training twice and the first two starts alone: the only way to nothing solved
    assert (means_R == 0).mean() == pytest.approx(0.25 * (2 / 3) ** 3, abs=0.005)


def test_outcomes_that_are_all_alike_keep_a_doubt() -> None:
    none, every = np.zeros((5, 40)), np.ones((5, 40))
    assert method_rate(none).interval == wilson_interval(0, 40)
    assert method_rate(every).interval == wilson_interval(40, 40)
    assert method_difference(none, none, paired=True).p_value == 1.0
    found = method_difference(every, none, paired=True)
    assert found.p_value < 1e-6
    assert 0.8 < found.interval[0] < 1 == found.interval[1]


def test_permutations_are_counted() -> None:
    p, least = permutation_test([0.9, 0.8, 0.7], [0.1, 0.2, 0.3], paired=False)
    assert (p, least) == (2 / 20, 2 / 20)
    p, least = permutation_test([0.9, 0.8, 0.1], [0.1, 0.2, 0.3], paired=True)
    # 0.8, 0.6, -0.2: only all signs alike reach further, and the observed ones as far
    assert (p, least) == (4 / 8, 2 / 8)
    many = permutation_test(np.linspace(0.5, 1, 12), np.linspace(0, 0.4, 12), paired=False)
    assert many[0] < 0.001


@pytest.mark.parametrize(
    ("a", "b", "paired", "text"),
    [
        (np.ones((1, 9)), np.ones((2, 9)), False, "at least 2 of each; train with another seed"),
        (np.ones((2, 9)), np.ones((2, 8)), False, "a has 9 starts and b 8"),
        (np.ones((2, 9)), np.ones((3, 9)), True, "a has 2 trainings and b 3: pairs need as many"),
        (np.full((2, 9), np.nan), np.ones((2, 9)), True, "a holds an outcome that is not finite"),
    ],
)
def test_what_cannot_be_tested_is_refused(a, b, paired, text) -> None:
    with pytest.raises(StatisticsError, match=text):
        method_difference(a, b, paired=paired)

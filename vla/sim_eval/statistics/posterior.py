"""How probable it is that one policy is better, given the episodes: posteriors
of Beta and Dirichlet priors.

Integrals are computed, not sampled: the same counts give the same number.
"""

from __future__ import annotations

import numpy as np

from vla.sim_eval.statistics.errors import StatisticsError, check_counts, check_pairs

_NODES = 20
# the integrand is smooth but may be steep anywhere; panels that end at these quantiles follow it
_QUANTILES = np.array([1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.2])


def probability_of_improvement(
    successes_a: int,
    n_a: int,
    successes_b: int,
    n_b: int,
    *,
    prior: tuple[float, float] = (1.0, 1.0),
) -> float:
    """P(rate of A > rate of B), the two rates being independent with Beta posteriors.

    Args:
        prior: pseudo-counts (successes, failures) of either policy; (1, 1) is
            uniform, (0.5, 0.5) is Jeffreys'.

    Raises:
        StatisticsError: a policy without episodes, contradictory counts, or
            a prior that is not positive.
    """
    check_counts(successes_a, n_a, "a")
    check_counts(successes_b, n_b, "b")
    _check_prior(prior)
    a = (prior[0] + successes_a, prior[1] + n_a - successes_a)
    b = (prior[0] + successes_b, prior[1] + n_b - successes_b)
    # exactly 0.5 for equal counts, which quadrature would miss by its rounding
    return 0.5 if a == b else _beta_greater(a, b)


def paired_probability_of_improvement(
    wins: int,
    losses: int,
    ties: int = 0,
    *,
    prior: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> float:
    """P(only A solves a pair more often than only B) under a Dirichlet
    posterior of (win, loss, tie).

    The difference of the success rates is that of the first two probabilities. Their ratio is
    independent of the third, so ties (and the prior's third entry) do not change the result.

    Raises:
        StatisticsError: no pair at all, a negative count, or a prior that is not positive.
    """
    from scipy.special import betainc

    check_pairs(wins, losses, ties)
    _check_prior(prior)
    return float(betainc(prior[1] + losses, prior[0] + wins, 0.5))


def _beta_greater(
    a: tuple[float, float],
    b: tuple[float, float],
) -> float:
    """P(x > y), x ~ Beta(a), y ~ Beta(b): the integral of F_b(F_a^-1(u)) over u in
    (0, 1) by Gauss-Legendre panels.

    Over u, not x: the integrand stays within [0, 1] where a density with a
    parameter below 1 has a pole.
    """
    from scipy.special import betainc, betaincinv

    # mirrored, P(x > y) = P(1 - y > 1 - x): floats are dense near 0, where a
    # pole may lie, and not near 1
    if min(a[1], b[1]) < min(a[0], b[0]):
        a, b = (b[1], b[0]), (a[1], a[0])
    quantiles = np.concatenate([_QUANTILES, [0.5], 1 - _QUANTILES])
    # where F_b rises, as u of a
    steep = betainc(*a, betaincinv(*b, quantiles))
    # no panel needs to end nearer to 0 than the first quantile, where the
    # inverse of a denormal u is NaN
    inner = np.clip([*quantiles, *steep], _QUANTILES[0], 1 - _QUANTILES[0])
    edges = np.unique(np.concatenate([[0.0, 1.0], inner]))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges)[:, None] / 2  # (panels, 1), against the nodes' last axis
    u = edges[:-1, None] + half * (nodes + 1)
    values = betainc(*b, betaincinv(*a, u))
    return float(np.clip((half * weights * values).sum(), 0, 1))


def _check_prior(prior: tuple[float, ...]) -> None:
    if min(prior) <= 0:
        raise StatisticsError(
            f"prior is {prior}: expected positive pseudo-counts, for example 1 each"
        )

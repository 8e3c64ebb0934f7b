"""CMA-ES finds minima that are known: of a turned ellipse, of a bent valley, at the edge of the box."""

from __future__ import annotations

import numpy as np
import pytest

from vla.sim_eval.identification.cma import minimise


def ellipse(point):
    # a hundred times steeper across than along, and turned by 30 degrees
    turned = np.array([[0.866, 0.5], [-0.5, 0.866]]) @ (point - [0.7, 0.2])
    return float(turned[0] ** 2 + 1e4 * turned[1] ** 2)


def valley(point):
    """Rosenbrock's function over [-2, 2], least at (1, 1)."""
    x, y = 4 * point - 2
    return float((1 - x) ** 2 + 100 * (y - x * x) ** 2)


@pytest.mark.parametrize(
    ("function", "where"),
    [
        (ellipse, [0.7, 0.2]),
        (valley, [0.75, 0.75]),
        (lambda p: float(np.abs(p - 0.3).sum()), [0.3, 0.3, 0.3]),
        (lambda p: float((p[0] - 0.9) ** 2), [0.9]),
        # the way down leads out of the box
        (lambda p: float((p[0] - 1.5) ** 2 + (p[1] - 0.4) ** 2), [1.0, 0.4]),
    ],
)
def test_minima_that_are_known(function, where):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        found = minimise(function, len(where), rng, generations=150, population=10)
        np.testing.assert_allclose(found.point, where, atol=0.01)
        assert found.value == function(found.point)


def test_it_looks_inside_the_box_alone_and_ends_when_it_has_settled():
    seen, said = [], []

    def function(point):
        seen.append(point)
        return float(((point - 0.5) ** 2).sum())

    found = minimise(
        function,
        2,
        np.random.default_rng(0),
        generations=500,
        population=6,
        after_generation=lambda number, value: said.append((number, value)),
    )
    points = np.array(seen)
    assert points.min() >= 0.0
    assert points.max() <= 1.0
    assert len(seen) % 6 == 0
    assert found.generations < 100
    numbers, values = zip(*said, strict=True)
    assert numbers == tuple(range(1, len(seen) // 6 + 1))
    assert list(values) == sorted(values, reverse=True)


def test_the_same_generator_finds_the_same():
    runs = [
        minimise(valley, 2, np.random.default_rng(4), generations=10, population=8)
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].point, runs[1].point)

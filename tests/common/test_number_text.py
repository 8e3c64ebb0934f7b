"""Numbers as texts, against texts written by hand."""

from __future__ import annotations

from vla.common.printing import number_text
from vla.common.printing.number_text import (
    counted,
    fixed,
    interval,
    number,
    p_value,
    percent,
    signed,
    sort_value,
)


def test_numbers_have_true_signs() -> None:
    assert [signed(x) for x in (3.4, -3.4, 0.2, -0.2)] == ["+3", "−3", "0", "0"]
    assert signed(-0.04, digits=1) == "0.0"
    assert [fixed(x) for x in (-1.25, 0.5)] == ["−1.2", "0.5"]
    assert [number(v) for v in (0.0, -1.5, 123456.0, 1e-9 * 0, -0.00001234)] == [
        "0",
        "−1.5",
        "1.235e+05",
        "0",
        "−1.234e−05",
    ]


def test_rates() -> None:
    assert percent(0.256) == "26\u202f%"
    assert percent(0.996, digits=1) == "99.6\u202f%"
    assert interval((0.406, 0.934)) == "41–93"
    assert [p_value(p) for p in (0.5, 0.0423, 0.00012, 0.00001)] == [
        "0.50",
        "0.042",
        "0.00012",
        "<\u202f0.0001",
    ]


def test_counts_and_what_cells_are_sorted_by() -> None:
    assert [counted(n, "step") for n in (0, 1, 1234)] == ["0 steps", "1 step", "1,234 steps"]
    assert [sort_value(v) for v in (1 / 3, 2.0, 12, "a")] == ["0.333333333", "2", "12", "a"]


def test_every_text_is_a_filter() -> None:
    from vla.common.html import environment

    assert set(number_text.__all__) <= set(environment().filters)

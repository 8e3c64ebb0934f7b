"""Which policy is better: the ranking with letters, every pair with its test, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vla.sim_eval.comparison.comparison import Comparison, Pair
from vla.sim_eval.comparison.results import Results, summary
from vla.sim_eval.report.markup import (
    Cell,
    Head,
    Section,
    interval,
    percent,
    policy_class,
    signed,
    table,
)
from vla.sim_eval.report.plots import difference_svg


def warnings_box(comparison: Comparison) -> str:
    """The differences between the runs that were forced together; empty where there are none."""
    if not comparison.warnings:
        return ""
    lines = "".join(f"<li>{escape(text)}</li>\n" for text in comparison.warnings)
    return (
        '<div class="warning" role="note"><p><b>These runs differ in more than the policy.</b> They were compared by '
        f"force; the differences below may explain the numbers.</p>\n<ul>{lines}</ul></div>\n"
    )


def comparison_section(comparison: Comparison, columns: Sequence[Results]) -> Section:
    """columns: the policies in the order of the page, which gives them their colours."""
    colour = {
        name: policy_class(next((i for i, c in enumerate(columns) if c is result), 0))
        for name, result in comparison.runs.items()
    }
    notes = "".join(f"<li>{escape(text)}</li>\n" for text in comparison.notes)
    body = _ranking(comparison, colour) + _pairs(comparison, colour)
    body += f'<p class="note">{_explained(comparison)}</p>\n'
    body += f'<ul class="notes">\n{notes}</ul>\n' if notes else ""
    note = f"Policies that share a letter do not differ significantly (adjusted p > {comparison.alpha:g})."
    return Section("comparison", "Comparison of policies", body, note)


def _ranking(comparison: Comparison, colour: dict[str, str]) -> str:
    heads = [
        Head("Policy", numeric=False),
        Head("Rate"),
        Head("Solved"),
        Head("95 % interval"),
        Head("Letters", False),
    ]
    rows = []
    for name, result in comparison.runs.items():
        values, letters = summary(result.episodes), comparison.letters[name]
        rows.append(
            [
                Cell(_name(name, colour), name),
                Cell(f"<b>{percent(values['rate'])}</b>", values["rate"], "number"),
                Cell(f"{values['successes']}/{values['episodes']}", values["successes"], "number"),
                Cell(interval(values["wilson95"]), values["wilson95"][0], "number"),
                Cell("".join(f'<span class="letter">{escape(x)}</span>' for x in letters), letters),
            ]
        )
    return table("Ranking of the policies", heads, rows)


def _pairs(comparison: Comparison, colour: dict[str, str]) -> str:
    heads = [
        Head("A against B", numeric=False),
        Head("Verdict", numeric=False),
        Head("A − B, points"),
        Head("95 % interval", numeric=False),
        Head("Only A / only B / same"),
        Head("P(A\u00a0>\u00a0B)"),
        Head("p adjusted" if len(comparison.pairs) > 1 else "p"),
    ]
    return table(
        "Every two policies", heads, [_pair(pair, comparison, colour) for pair in comparison.pairs]
    )


def _pair(pair: Pair, comparison: Comparison, colour: dict[str, str]) -> list[Cell]:
    low, high = (100 * bound for bound in pair.interval)
    clear, verdict = pair.p_adjusted <= comparison.alpha, pair.verdict(comparison.alpha)
    drawn = difference_svg(pair.difference, pair.interval, clear=clear)
    counts = f"{pair.wins} / {pair.losses} / {pair.ties}"
    if pair.test == "Barnard":
        (s_a, s_b), (n_a, n_b) = pair.successes, pair.episodes
        counts = f"{s_a}/{n_a} and {s_b}/{n_b}<small>not paired</small>"
    single = f"<small>single {p_text(pair.p_value)}</small>" if len(comparison.pairs) > 1 else ""
    return [
        Cell(
            f"{_name(pair.a, colour)} <i>against</i> {_name(pair.b, colour)}", f"{pair.a} {pair.b}"
        ),
        Cell(f'<span class="{"good" if clear else "quiet"}">{escape(verdict)}</span>', verdict),
        Cell(f"<b>{signed(100 * pair.difference)}</b>", pair.difference, "number"),
        Cell(f"{drawn}<small>{signed(low)} to {signed(high)}</small>", pair.difference, "drawn"),
        Cell(counts, pair.wins, "number stacked"),
        Cell(f"{pair.better:.3f}", pair.better, "number"),
        Cell(f"{p_text(pair.p_adjusted)}{single}", pair.p_adjusted, "number stacked"),
    ]


def p_text(p: float) -> str:
    """Two figures; below one in ten thousand only that."""
    return "&lt;&#8239;0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _explained(comparison: Comparison) -> str:
    tests = {pair.test for pair in comparison.pairs}
    texts = []
    if "McNemar" in tests:
        texts.append("p: McNemar's exact test of the episodes that only one of the two solved.")
    if "Barnard" in tests:
        texts.append("p: Barnard's test, where two runs share no episode.")
    if "anytime-valid" in tests:
        texts.append(
            "p: an anytime-valid test, which stays right although one looked after every block of episodes."
        )
    if len(comparison.pairs) > 1:
        texts.append(f"Adjusted by Holm for {len(comparison.pairs)} comparisons.")
    over = {pair.interval_over for pair in comparison.pairs}
    if "tasks" in over:
        texts.append(
            "Intervals hold for tasks like these (tasks and episodes were resampled); the test is for these."
        )
    if "episodes" in over:
        texts.append("Intervals of few tasks hold for these very tasks (Newcombe).")
    return " ".join(texts)


def _name(name: str, colour: dict[str, str]) -> str:
    return f'<span class="name {colour[name]}">{escape(name)}</span>'

"""Which policy is better: the ranking with letters, every pair with its test, and remarks."""

from __future__ import annotations

from collections.abc import Sequence

from vla.common.html import render
from vla.sim_eval.comparison.comparison import QUESTION, Comparison
from vla.sim_eval.comparison.results import summary
from vla.sim_eval.report.columns import Column, Head, Section

TITLE = "Comparison of policies"
RANKING_HEADS = (
    Head("Policy", numeric=False),
    Head("Rate"),
    Head("Solved"),
    Head("95 % interval"),
    Head("Letters", numeric=False),
)
# in the order in which the page explains them
_TESTS = {
    "McNemar": "p: McNemar's exact test of the episodes that only one of the two solved.",
    "Barnard": "p: Barnard's test, where two runs share no episode.",
    "anytime-valid": (
        "p: an anytime-valid test, which stays right although one looked "
        "after every block of episodes."
    ),
}
_INTERVALS = {
    "tasks": (
        "Intervals hold for tasks like these (tasks and episodes were resampled); "
        "the test is for these."
    ),
    "episodes": "Intervals of few tasks hold for these very tasks (Newcombe).",
}


def comparison_section(comparison: Comparison, columns: Sequence[Column]) -> Section:
    """columns: the policies in the order of the page, which gives them their colours."""
    # by identity: two runs of one policy are compared under names that their results do not know
    css_of = {id(column.results): column.css for column in columns}
    body = render(
        "sim_eval/report/comparison.html.j2",
        comparison=comparison,
        css={name: css_of.get(id(found), "p0") for name, found in comparison.runs.items()},
        summaries={name: summary(found.episodes) for name, found in comparison.runs.items()},
        ranking_heads=RANKING_HEADS,
        pair_heads=_pair_heads(comparison),
        explained=_explained(comparison),
    )
    note = (
        "Policies that share a letter do not differ significantly "
        f"(adjusted p > {comparison.alpha:g})."
    )
    return Section("comparison", TITLE, body, note)


def refused_section(reason: str) -> Section:
    """In the place of the comparison of runs that cannot be compared."""
    body = render("sim_eval/report/refused.html.j2", reason=reason)
    return Section("comparison", TITLE, body)


def _pair_heads(comparison: Comparison) -> list[Head]:
    return [
        Head("A against B", numeric=False),
        Head("Verdict", numeric=False),
        Head("A − B, points"),
        Head("95 % interval", numeric=False),
        Head("Only A / only B / same"),
        Head("P(A\N{NO-BREAK SPACE}>\N{NO-BREAK SPACE}B)"),
        Head("p adjusted" if len(comparison.pairs) > 1 else "p"),
    ]


def _explained(comparison: Comparison) -> str:
    """What the tests and intervals of these pairs are."""
    tests = {pair.test for pair in comparison.pairs}
    texts = [f"Compared are {QUESTION}."]
    texts += [text for test, text in _TESTS.items() if test in tests]
    if len(comparison.pairs) > 1:
        texts.append(f"Adjusted by Holm for {len(comparison.pairs)} comparisons.")
    # pairs that share few tasks have another interval than the others of the same page
    over = {pair.interval_over for pair in comparison.pairs}
    texts += [text for kind, text in _INTERVALS.items() if kind in over]
    return " ".join(texts)

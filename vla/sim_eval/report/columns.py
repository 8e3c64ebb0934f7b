"""What all parts of the page share: policies and kinds of failure with their colours, sections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla.common.html import render
from vla.sim_eval.comparison.failures import failure_labels
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.env import FAILURES
from vla.sim_eval.rollouts.jobs import EpisodeRecord

POLICY_COLOURS = 6  # classes p0 to p5 of the style sheet
FAILURE_COLOURS = 10  # classes f0 to f9; the first ones are those of FAILURES


@dataclass(frozen=True)
class Column:
    """A policy of the page: its results, and the class of the style sheet with its colour."""

    results: Results
    css: str

    @property
    def policy(self) -> str:
        return self.results.policy


@dataclass(frozen=True)
class FailureKind:
    """A kind of failure, and the class of the style sheet with its colour."""

    label: str
    css: str


@dataclass(frozen=True)
class Section:
    """A part of the page; without a body it is left out. The page's index jumps to `anchor`."""

    anchor: str
    title: str
    body: Markup
    note: str = ""

    def html(self) -> Markup:
        return render("sim_eval/report/section.html.j2", section=self)


@dataclass(frozen=True)
class Head:
    """Head of a column of a table.

    Numeric columns are aligned to the right, and sorted from the greatest down first.
    """

    text: str
    numeric: bool = True
    css: str = ""


def coloured(results: Iterable[Results]) -> list[Column]:
    """The policies of a page in their order, which gives them their colours."""
    return [Column(found, f"p{i % POLICY_COLOURS}") for i, found in enumerate(results)]


def records_of(columns: Sequence[Column]) -> list[EpisodeRecord]:
    """The episodes of all policies."""
    return [record for column in columns for record in column.results.episodes]


def failure_kinds(records: Iterable[EpisodeRecord]) -> list[FailureKind]:
    """The kinds of failure that occur, from early to late, with their colours."""
    return colour_failures(failure_labels(records))


def colour_failures(labels: Sequence[str]) -> list[FailureKind]:
    """Labels of `FAILURES` have a colour each; those that only the env knows share the others."""
    # a fixed colour, whichever others occur: a kind looks alike in every report
    css = {label: f"f{i}" for i, label in enumerate(FAILURES)}
    others = [label for label in labels if label not in css]
    free = FAILURE_COLOURS - len(FAILURES)
    for i, label in enumerate(others):
        css[label] = f"f{len(FAILURES) + i % free}"
    return [FailureKind(label, css[label]) for label in labels]

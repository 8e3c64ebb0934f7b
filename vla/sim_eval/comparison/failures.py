"""How episodes failed: the kinds in order, how often and when, and which of them are worth a
film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vla.sim_eval.env import FAILURES
from vla.sim_eval.rollouts.jobs import EpisodeRecord


def failure_labels(records: Iterable[EpisodeRecord]) -> list[str]:
    """The kinds of failure that occur, from early to late (`FAILURES`), then those that
    only the env knows, by name."""
    found = {record.failure for record in records if not record.success_ever}
    known = [label for label in FAILURES if label in found]
    return known + sorted(found.difference(FAILURES))


def failure_counts(records: Iterable[EpisodeRecord]) -> dict[str, Counter[str]]:
    """Task -> kind of failure -> episodes, for every task that was played,
    in the order of the suite."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        # a task without failures stays in the table, with no count
        of_task = counts.setdefault(record.task, Counter())
        if not record.success_ever:
            of_task[record.failure] += 1
    return counts


def failure_steps(records: Iterable[EpisodeRecord]) -> dict[str, list[int]]:
    """Kind of failure -> the control steps at which episodes went wrong, ascending;
    kinds as in `failure_labels`.

    If a record does not know the step, it is the last one.
    """
    failed = [record for record in records if not record.success_ever]
    steps: dict[str, list[int]] = {label: [] for label in failure_labels(failed)}
    for record in failed:
        known = record.failure_step >= 0
        steps[record.failure].append(record.failure_step if known else record.steps)
    return {label: sorted(found) for label, found in steps.items()}


def representatives(
    records: Sequence[EpisodeRecord],
    per_kind: int,
) -> set[tuple[str, int]]:
    """(task, episode) of the first `per_kind` episodes of each kind of failure in
    each task, by episode number.

    A pure function of what happened, whatever the order in which episodes ended.
    """
    # Which failure is filmed is decided last: workers write films of failures that may be the first
    # of their kind, and only here, where all records are seen, is it known which were.
    kinds: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if not record.success_ever:
            kinds.setdefault((record.task, record.failure), []).append(record.episode)
    return {
        (task, episode)
        for (task, _), episodes in kinds.items()
        for episode in sorted(episodes)[:per_kind]
    }

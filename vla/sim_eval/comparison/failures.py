"""How episodes failed: the kinds in order, how often and when, and which of them are worth a film."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vla.sim_eval.env import FAILURES
from vla.sim_eval.rollouts.jobs import EpisodeRecord


def failure_labels(records: Iterable[EpisodeRecord]) -> list[str]:
    """The kinds of failure that occur, from early to late (`FAILURES`), then those that only the env knows, by name."""
    found = {record.failure for record in records if not record.success_ever}
    return [label for label in FAILURES if label in found] + sorted(found.difference(FAILURES))


def failure_counts(records: Iterable[EpisodeRecord]) -> dict[str, Counter[str]]:
    """Task -> kind of failure -> episodes, for every task that was played, in the order of the suite."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        of_task = counts.setdefault(record.task, Counter())
        if not record.success_ever:
            of_task[record.failure] += 1
    return counts


def failure_steps(records: Iterable[EpisodeRecord]) -> dict[str, list[int]]:
    """Kind of failure -> the control steps at which episodes went wrong, ascending; kinds as in `failure_labels`.

    Where a record does not tell, it is the last step.
    """
    failed = [record for record in records if not record.success_ever]
    return {
        label: sorted(
            r.failure_step if r.failure_step >= 0 else r.steps for r in failed if r.failure == label
        )
        for label in failure_labels(failed)
    }


def representatives(records: Sequence[EpisodeRecord], per_kind: int) -> set[tuple[str, int]]:
    """(task, episode) of the first `per_kind` episodes of each kind of failure in each task, by episode number.

    A pure function of what happened, whatever the order in which episodes ended.
    """
    kinds: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if not record.success_ever:
            kinds.setdefault((record.task, record.failure), []).append(record.episode)
    return {
        (task, episode)
        for (task, _), episodes in kinds.items()
        for episode in sorted(episodes)[:per_kind]
    }

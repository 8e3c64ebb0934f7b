"""What a run shows while it goes on: one bar over the episodes of all rounds."""

from __future__ import annotations

from collections.abc import Callable

from vla.common.progress import MovesProgress
from vla.sim_eval.rollouts.jobs import EpisodeRecord


class RoundProgress:
    """Moves the bar of a run.

    Args:
        bar: what is moved.
        first: rounds that were done before this call, which the time left must not count.
        rounds: of the whole run.
        episodes: of a round.
    """

    def __init__(self, bar: MovesProgress, *, first: int, rounds: int, episodes: int) -> None:
        self._bar = bar
        self._first = first
        self._rounds = rounds
        self._episodes = episodes
        self._played = 0
        self._solved = 0

    def acting(self, number: int) -> Callable[[EpisodeRecord], None]:
        """Round `number` begins; returns what is called with each of its episodes."""
        self._played = (number - 1 - self._first) * self._episodes
        self._solved = 0
        self._show(number, "acting", "")

        def on_done(record: EpisodeRecord) -> None:
            self._played += 1
            self._solved += record.success_ever
            self._show(number, "acting", f"{self._solved} solved")

        return on_done

    def learning(self, number: int, done: int, steps: int) -> None:
        """So many optimiser steps of round `number` are done."""
        self._show(number, "learning", f"{done} of {steps} updates")

    def evaluating(self, number: int) -> None:
        """The policy after round `number` plays unseen starts."""
        self._show(number, "evaluating", "")

    def _show(self, number: int, what: str, note: str) -> None:
        total = (self._rounds - self._first) * self._episodes
        self._bar(
            self._played,
            total,
            label=f"round {number} of {self._rounds}: {what}",
            note=note,
        )


__all__ = ["RoundProgress"]

"""The episodes of an evaluation, kept as they finish, so that one that was interrupted goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vla.common.errors import UserError
from vla.sim_eval.rollouts.jobs import EpisodeRecord


class JournalError(UserError):
    """A journal is of another evaluation, or is no journal; the message says what differs."""


class Journal:
    """A file with a line for each episode that is over.

    Args:
        path: the file; made if it is missing.
        evaluation: what decides the numbers, as JSON types: one level of parts, whose values are
            compared. An existing file has to be of the same.

    Attributes:
        records: (task, episode) -> record, of the episodes in the file.
        losses: a line for each worker that was lost meanwhile.

    Raises:
        JournalError: the file is of another evaluation.
    """

    def __init__(self, path: Path, evaluation: Mapping[str, Any]) -> None:
        self.path = path
        self.records: dict[tuple[str, int], EpisodeRecord] = {}
        self.losses: list[str] = []
        self._seconds_before = 0.0
        self._started = time.monotonic()
        entries = _entries(path)
        if entries:
            self._check(entries[0], evaluation)
            self._take(entries[1:])
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, {"evaluation": evaluation})

    @property
    def seconds(self) -> float:
        """That were spent on the evaluation, in all processes that worked on it."""
        return self._seconds_before + time.monotonic() - self._started

    def add(self, record: EpisodeRecord) -> None:
        """Keeps an episode: it is on the disk when this returns."""
        self.records[record.task, record.episode] = record
        _append(self.path, {"seconds": round(self.seconds, 3), "episode": asdict(record)})

    def lose(self, losses: list[str]) -> None:
        """Keeps what happened to workers."""
        self.losses += losses
        for line in losses:
            _append(self.path, {"seconds": round(self.seconds, 3), "lost": line})

    def _check(self, first: Any, evaluation: Mapping[str, Any]) -> None:
        found = first.get("evaluation") if isinstance(first, dict) else None
        if not isinstance(found, dict):
            raise JournalError(f"{self.path}: is no journal of an evaluation; delete it")
        # as JSON: tuples of the config come back as lists
        wanted = json.loads(json.dumps(evaluation))
        differing = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if differing:
            key = differing[0]
            raise JournalError(
                f"{self.path.parent}: the interrupted evaluation there had {key}="
                f"{_short(found.get(key))}, this one has {_short(wanted.get(key))}; give the same, "
                "or start over with --restart"
            )

    def _take(self, entries: list[Any]) -> None:
        for entry in entries:
            try:
                self._seconds_before = float(entry["seconds"])
                if "lost" in entry:
                    self.losses.append(str(entry["lost"]))
                else:
                    record = EpisodeRecord(**entry["episode"])
                    self.records[record.task, record.episode] = record
            except (KeyError, TypeError, ValueError) as error:
                raise JournalError(
                    f"{self.path}: a line holds no episode: {error}; start over with --restart"
                ) from error


def kept_episodes(path: Path) -> int:
    """How many episodes a journal holds; 0 without a file."""
    return sum(isinstance(entry, dict) and "episode" in entry for entry in _entries(path))


def _entries(path: Path) -> list[Any]:
    """The lines of a file, but for a last one that was cut off, which is removed from it."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    # a line counts when its end is there: the process may have died within it
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise JournalError(f"{path}: holds no JSON lines; start over with --restart") from error


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

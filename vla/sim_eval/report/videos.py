"""The films of episodes, beside each other where several policies met the same start."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vla.sim_eval.comparison.failures import failure_labels
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.markup import Section, policy_class
from vla.sim_eval.report.plots import failure_class
from vla.sim_eval.rollouts.jobs import EpisodeRecord

EMBED_FILE_BYTES = 400_000
EMBED_PAGE_BYTES = 12_000_000
_PAIRED = "Films of one row begin with the same seed."
_FAILURES = "Of each kind of failure in a task the first was filmed, where films were asked for."


@dataclass
class _Page:
    """Where the films go, and how many bytes the page may still take."""

    folder: Path
    room: int

    def source(self, file: Path) -> str:
        """The film itself, or its relative path where it is too large."""
        size = file.stat().st_size
        if size > EMBED_FILE_BYTES or size > self.room:
            return Path(os.path.relpath(file.resolve(), self.folder.resolve())).as_posix()
        self.room -= size
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


def film_section(columns: Sequence[Results], folder: Path) -> Section:
    """folder: where the page will lie."""
    page = _Page(folder, EMBED_PAGE_BYTES)
    labels = failure_labels(record for result in columns for record in result.episodes)
    films: dict[
        str, dict[int, list[str]]
    ] = {}  # task -> episode -> a film for each policy that has one
    for i, result in enumerate(columns):
        for record in result.episodes:
            file = (result.folder or folder) / record.video
            if record.video and file.is_file():
                who = result.policy if len(columns) > 1 else ""
                film = _film(policy_class(i), who, record, page.source(file), labels)
                films.setdefault(record.task, {}).setdefault(record.episode, []).append(film)
    body = "".join(_task(task, films[task], columns) for task in films)
    if body:
        body = f'<div class="tools"><button type="button" class="speed" hidden>Speed 1&times;</button></div>\n{body}'
    note = " ".join([_PAIRED] * (len(columns) > 1) + [_FAILURES] * bool(labels))
    return Section("episodes", "Episodes", body, note)


def _task(task: str, episodes: dict[int, list[str]], columns: Sequence[Results]) -> str:
    """One row for each start that all policies were filmed at; the other films stand together."""
    told = {
        record.instruction
        for result in columns
        for record in result.episodes
        if record.task == task
    }
    quote = f" <q>{escape(told.pop())}</q>" if len(told) == 1 else ""
    ordered = [episodes[number] for number in sorted(episodes)]
    rows = [films for films in ordered if 1 < len(films) == len(columns)]
    rest = [film for films in ordered if not 1 < len(films) == len(columns) for film in films]
    parts = [
        f'<div class="films n{min(len(columns), 4)}">\n{"".join(films)}</div>\n' for films in rows
    ]
    parts += [f'<div class="films">\n{"".join(rest)}</div>\n'] if rest else []
    button = '<button type="button" class="all" hidden>Play all</button>'
    return f'<div class="task">\n<h3><span>{escape(task)}{quote}</span>{button}</h3>\n{"".join(parts)}</div>\n'


def _film(css: str, policy: str, record: EpisodeRecord, source: str, labels: Sequence[str]) -> str:
    if record.success_ever:
        outcome = f'<i class="chip ok"></i>solved in {record.steps} steps'
    else:
        when = f", step {record.failure_step}" if record.failure_step >= 0 else ""
        outcome = f'<i class="chip {failure_class(record.failure, labels)}"></i>{escape(record.failure)}{when}'
    name = escape(f"{policy + ', ' if policy else ''}{record.task}, episode {record.episode}")
    return (
        f'<figure class="{css}"><div class="screen"><video controls muted loop playsinline preload="metadata" '
        f'aria-label="{name}" src="{escape(source)}"></video></div>'
        f"<figcaption>{f'<b>{escape(policy)}</b>' if policy else ''}<span>episode {record.episode}</span><br>{outcome}</figcaption></figure>\n"
    )

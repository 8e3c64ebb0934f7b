"""The videos of episodes, beside each other where several policies met the same start."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from vla.common.html import render
from vla.sim_eval.comparison.stored import film_of
from vla.sim_eval.report.columns import Column, Section, failure_kinds, records_of
from vla.sim_eval.rollouts.jobs import EpisodeRecord

EMBED_FILE_BYTES = 400_000
"""Larger videos are linked."""
EMBED_PAGE_BYTES = 12_000_000
"""Of all embedded videos; the others are linked."""
_PAIRED = "Videos of one row begin with the same seed."
_FAILURES = "Of each kind of failure in a task the first was filmed, where videos were asked for."


@dataclass(frozen=True)
class EpisodeVideo:
    """The video of one policy's episode.

    Attributes:
        column: the policy.
        record: the episode.
        source: address for the page: the video itself, or its relative path if it is too large.
    """

    column: Column
    record: EpisodeRecord
    source: str


@dataclass
class _Embedding:
    """Decides which videos lie in the page.

    Attributes:
        folder: of the page.
        bytes_left: that the page may still take.
    """

    folder: Path
    bytes_left: int

    def source(self, file: Path) -> str:
        size = file.stat().st_size
        if size > EMBED_FILE_BYTES or size > self.bytes_left:
            # relative, so that the folder of a run may be moved together with its page
            return Path(os.path.relpath(file.resolve(), self.folder.resolve())).as_posix()
        self.bytes_left -= size
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


@dataclass(frozen=True)
class TaskVideos:
    """Videos of one task.

    Attributes:
        task: its name.
        instruction: of all its episodes; empty if they differ.
        rows: one for each start that every policy was filmed at, if there are several policies.
        others: all other videos.
    """

    task: str
    instruction: str
    rows: list[list[EpisodeVideo]]
    others: list[EpisodeVideo]


def video_section(columns: Sequence[Column], folder: Path) -> Section:
    """folder: where the page will lie."""
    kinds = failure_kinds(records_of(columns))
    videos = _videos(columns, folder)
    body = Markup("")  # a section without a body is left out
    if videos:
        body = render(
            "sim_eval/report/videos.html.j2",
            columns=columns,
            tasks=[_task(task, of_task, columns) for task, of_task in videos.items()],
            failure_css={kind.label: kind.css for kind in kinds},
        )
    notes = []
    if len(columns) > 1:
        notes.append(_PAIRED)
    if kinds:
        notes.append(_FAILURES)
    return Section("episodes", "Episodes", body, " ".join(notes))


def _videos(columns: Sequence[Column], folder: Path) -> dict[str, dict[int, list[EpisodeVideo]]]:
    """Task -> number of the episode -> a video for each policy that has one."""
    embedding = _Embedding(folder, EMBED_PAGE_BYTES)
    videos: dict[str, dict[int, list[EpisodeVideo]]] = {}
    for column in columns:
        for record in column.results.episodes:
            # films may have been deleted, or left behind when the results were copied
            file = film_of(column.results.folder or folder, record)
            if file is None:
                continue
            video = EpisodeVideo(column, record, embedding.source(file))
            of_task = videos.setdefault(record.task, {})
            of_task.setdefault(record.episode, []).append(video)
    return videos


def _task(
    task: str, by_episode: dict[int, list[EpisodeVideo]], columns: Sequence[Column]
) -> TaskVideos:
    instructions = {record.instruction for record in records_of(columns) if record.task == task}
    rows, others = [], []
    for number in sorted(by_episode):
        videos = by_episode[number]
        # one policy has no rows: its videos fill the width one after the other
        if 1 < len(videos) == len(columns):
            rows.append(videos)
        else:
            others += videos
    # paraphrases differ from episode to episode: then none of them stands above all
    instruction = instructions.pop() if len(instructions) == 1 else ""
    return TaskVideos(task, instruction, rows, others)

"""The page as a whole. It needs nothing but itself: style, script, numbers and films are inside, and a policy in its head
forbids it to ask for anything else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources

from vla.data.reader import EpisodeDataset
from vla.data.tools.plan import format_of, source_name, warnings_of
from vla.data.view.episodes import Shown, episode_html, signals
from vla.data.view.markup import counted
from vla.data.view.overview import (
    has_rewards,
    header,
    metadata_section,
    numbers_section,
    tasks_section,
    warnings_box,
)
from vla.data.view.summary import summarise


class Page:
    """The page of a dataset, for any choice of its episodes.

    Args:
        asked: how many episodes it ought to show.
        sampled: whether they were chosen evenly, not by the user.
    """

    def __init__(self, dataset: EpisodeDataset, *, asked: int, sampled: bool) -> None:
        self.dataset, self.asked, self.sampled = dataset, asked, sampled
        summary = summarise(dataset, images=0)
        self.rewards, self.labelled = has_rewards(summary), summary["success_rate"] > 0
        self._summary = summary
        self._signals = escape(json.dumps(signals(dataset, rewards=self.rewards), allow_nan=False))
        self._below = (
            tasks_section(summary) + numbers_section(dataset, summary) + metadata_section(dataset)
        )

    def episode(self, shown: Shown, *, opened: bool = False) -> bytes:
        """The part of the page that is one episode's."""
        return episode_html(
            self.dataset, shown, rewards=self.rewards, labelled=self.labelled, opened=opened
        ).encode(errors="replace")

    def html(self, shown: Sequence[Shown]) -> bytes:
        """The whole page with these episodes, in the dataset's order; the first is open."""
        ordered = sorted(shown, key=lambda s: s.index)
        bodies = b"".join(self.episode(s, opened=i == 0) for i, s in enumerate(ordered))
        title = source_name(self.dataset.root)
        css, js = (
            resources.files("vla.data.view").joinpath(f"page.{kind}").read_text("utf-8")
            for kind in ("css", "js")
        )
        top = (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(js)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
            f'<main data-signals="{self._signals}">\n'
            f"{header(self.dataset, title, format_of(self.dataset), self._told(shown), self._summary)}"
            f"{warnings_box(warnings_of(self.dataset))}{self._list_head(shown)}"
        )
        bottom = (
            f"</div>\n</section>\n{self._below}</main>\n<script>{js}</script>\n</body>\n</html>\n"
        )
        return top.encode(errors="replace") + bodies + bottom.encode(errors="replace")

    def _told(self, shown: Sequence[Shown]) -> str:
        """What of the dataset is on the page."""
        total, count, filmed = len(self.dataset), len(shown), sum(bool(s.films) for s in shown)
        if count == total:
            text = (
                f"All {counted(total, 'episode')} are shown."
                if total > 1
                else "Its one episode is shown."
            )
        else:
            spread = ", evenly over tasks, successes and failures" * self.sampled
            text = f"{count} of {counted(total, 'episode')} are shown{spread}."
        if count < self.asked:
            text += f" The page had no room for {self.asked - count} more."
        if self.dataset.spec.cameras and filmed < count:
            text += f" {filmed} of them have films: the page had no room for more."
        return text

    def _list_head(self, shown: Sequence[Shown]) -> str:
        """The list's controls, which the script shows."""
        indices = self.dataset.episodes["task_index"]
        tasks = sorted({self.dataset.instructions[int(indices.iloc[s.index])] for s in shown})
        options = "".join(
            f'<option value="{escape(task)}">{escape(task)}</option>' for task in tasks
        )
        chooser = f'<select class="by-task" aria-label="Task"><option value="">all tasks</option>{options}</select>'
        outcomes = (
            '<select class="by-success" aria-label="Outcome"><option value="">all outcomes</option>'
            '<option value="1">solved</option><option value="0">not solved</option></select>'
        )
        keys = [
            "episode",
            "task",
            *["success"] * self.labelled,
            *["return"] * self.rewards,
            "steps",
        ]
        buttons = "".join(
            f'<button type="button" data-key="{key}" aria-pressed="{str(key == "episode").lower()}">{key}</button>'
            for key in keys
        )
        return (
            '<section id="episodes" aria-label="Episodes">\n<h2>Episodes</h2>\n<div class="controls" hidden>\n'
            '<input type="search" placeholder="Search" aria-label="Search instructions and numbers">'
            f"{chooser * (len(tasks) > 1)}{outcomes * self.labelled}"
            f'<span class="order"><span>Order by</span>{buttons}</span><span class="count" aria-live="polite"></span></div>\n'
            '<noscript><p class="note">Curves are drawn by a script, which this browser does not run.</p></noscript>\n'
            '<div class="list">\n'
        )


def _policy(script: str) -> str:
    """Nothing but what is in the page may be loaded, and no other script than the page's own may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "media-src data: blob:; base-uri 'none'; form-action 'none'"
    )

"""The page as a whole: it needs nothing but itself, and asks for nothing.

Style, script, numbers and videos are inside, and a policy in its head forbids everything else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from vla.common.html import asset, content_policy, render
from vla.common.printing.number_text import counted
from vla.data.reader import EpisodeDataset, dataset_name
from vla.data.tools.plan import format_of, warnings_of
from vla.data.view.episodes import Shown, episode_html, signals
from vla.data.view.overview import has_rewards, has_successes, overview, sizes
from vla.data.view.summary import summarise


class Page:
    """The page of a dataset, for any choice of its episodes.

    Args:
        asked: how many episodes it ought to show.
        sampled: whether they were chosen evenly, not by the user.
    """

    def __init__(self, dataset: EpisodeDataset, *, asked: int, sampled: bool) -> None:
        self.dataset = dataset
        self.asked = asked
        self.sampled = sampled
        summary = summarise(dataset, images=0)
        self.rewards = has_rewards(summary)
        self.labelled = has_successes(summary)
        self._sizes = sizes(dataset, summary)
        found = signals(dataset, rewards=self.rewards)
        # a bare NaN would be no JSON to the page's script
        self._signals = json.dumps(found, allow_nan=False)
        # a page is put together several times until it fits its bytes; this part stays the same
        self._overview = overview(dataset, summary)

    def episode(self, shown: Shown, *, opened: bool = False) -> Markup:
        """The part of the page that is one episode's."""
        return episode_html(
            self.dataset, shown, rewards=self.rewards, labelled=self.labelled, opened=opened
        )

    def html(self, shown: Sequence[Shown]) -> Markup:
        """The whole page with these episodes, in the dataset's order; the first is open."""
        # they come in the order in which they deserve to be shown
        ordered = sorted(shown, key=lambda episode: episode.index)
        episodes = []
        for i, episode in enumerate(ordered):
            episodes.append(self.episode(episode, opened=i == 0))
        script = asset("data/view/page.js")
        return render(
            "data/view/page.html.j2",
            title=dataset_name(self.dataset.root),
            policy=content_policy(script),
            css=asset("data/view/page.css"),
            js=script,
            signals=self._signals,
            format_name=format_of(self.dataset),
            selection=self._selection(shown),
            sizes=self._sizes,
            warnings=warnings_of(self.dataset),
            tasks=self._tasks(shown),
            labelled=self.labelled,
            order_keys=self._order_keys(),
            episodes=episodes,
            overview=self._overview,
        )

    def _selection(self, shown: Sequence[Shown]) -> str:
        """What of the dataset is on the page, in words."""
        total, count = len(self.dataset), len(shown)
        text = f"All {counted(total, 'episode')} are shown."
        if count == total == 1:
            text = "Its one episode is shown."
        elif count < total:
            spread = ""
            if self.sampled:
                outcomes = ", successes and failures" if self.labelled else ""
                spread = f", evenly over tasks{outcomes}"
            text = f"{count} of {counted(total, 'episode')} are shown{spread}."
        if count < self.asked:
            text += f" The page had no room for {self.asked - count} more."
        filmed = sum(bool(episode.videos) for episode in shown)
        if self.dataset.spec.cameras and filmed < count:
            text += f" {filmed} of them have videos: the page had no room for more."
        return text

    def _tasks(self, shown: Sequence[Shown]) -> list[str]:
        """Instructions of these episodes, to choose among."""
        tasks = set()
        for episode in shown:
            tasks |= {text for _, text in self.dataset.instruction_starts(episode.index)}
        return sorted(tasks)

    def _order_keys(self) -> list[str]:
        """By what the list can be ordered: names of the `data-` attributes of an episode."""
        keys = ["episode", "task"]
        if self.labelled:
            keys.append("success")
        if self.rewards:
            keys.append("return")
        return [*keys, "steps"]

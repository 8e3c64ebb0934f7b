"""Results of others with scripts and addresses in every text: what a report shows of them."""

from __future__ import annotations

import random
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from attacks._case import Case

COUNT = 100
FILM = "videos/film.mp4"
TEXTS = (
    "0</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</style><svg onload=alert(1)>",
    "<iframe src=https://example.org></iframe>",
    "<link rel=stylesheet href=//example.org/x.css>",
    "--><script>alert(1)</script><!--",
    "{{ 7 * 7 }}{% raw %}",
    "\ud800<b>",
    "<base href=https://example.org/>",
    "javascript:alert(1)",
)
FIELDS = ("task", "group", "instruction", "failure", "episode")


def warm() -> None:
    from vla.sim_eval import report  # noqa: F401


def case(rng: random.Random, folder: Path) -> Case:
    from vla.sim_eval.comparison.results import Results
    from vla.sim_eval.rollouts.jobs import EpisodeRecord

    text = rng.choice(TEXTS)
    field = rng.choice([*FIELDS, "policy", "suite", "command", "versions", "config"])
    (folder / "videos").mkdir()
    (folder / FILM).write_bytes(b"film")

    def record(episode: int) -> EpisodeRecord:
        good = episode % 2 == 0
        failure = "" if good else "no grasp"
        return EpisodeRecord(
            "lift", "easy", episode, 7, "lift it", good, good, 30, -1.0, failure, FILM, 12
        )

    def read() -> str:
        from vla.sim_eval.report import write_report

        runs = []
        for policy in ("a", "b"):
            found = Results(policy, "toys", tuple(map(record, range(4))), {"x": "1"}, {"seed": 0})
            found = replace(found, folder=folder)
            if field in FIELDS:
                changes: dict[str, Any] = {field: text}
                episodes = [replace(r, **changes) for r in found.episodes]
                found = replace(found, episodes=tuple(episodes))
            elif field in ("versions", "config"):
                found = replace(found, **{field: {text: text}})
            else:
                found = replace(found, **{field: f"{text}{policy}"})
            runs.append(found)
        page = write_report(folder / "report.html", runs[: rng.choice([1, 2])])
        return page.read_text(encoding="utf-8")

    return Case(f"{field} is {text!r}", read, check=_scripts)


class _Elements(HTMLParser):
    """What a browser would see that may run, load or lead elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag in ("iframe", "link", "base", "img", "object", "embed", "form"):
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            address = (value or "").strip().lower()
            allowed = address.startswith(("#", "data:video/mp4;base64,")) or address == FILM
            if name.startswith("on") or (name in ("src", "href") and not allowed):
                self.wrong.append(f"<{tag} {name}={value!r}>")


def _scripts(page: str) -> str:
    elements = _Elements()
    elements.feed(page)
    if elements.scripts != 1:
        return f"the page holds {elements.scripts} scripts, expected 1"
    if elements.wrong:
        return f"the page holds {elements.wrong[0]}"
    return "" if "Content-Security-Policy" in page else "the page has no policy"

"""The page: complete, self-contained, and safe with whatever names it is given."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vla.sim_eval import report
from vla.sim_eval.report import write_report
from vla.sim_eval.report_plot import intervals_svg
from vla.sim_eval.results import Results, ResultsError
from vla.sim_eval.rollout_worker import EpisodeRecord


def results(policy: str, solved: int, folder: Path | None = None, video: str = "") -> Results:
    def record(task: str, group: str, episode: int) -> EpisodeRecord:
        good = episode < solved
        failure = "" if good else "no grasp"
        film = video if episode == 0 else ""
        return EpisodeRecord(task, group, episode, 7, f"Do {task} & <go>", good, good, 30, -1.0, failure, film)

    episodes = [record(task, group, e) for task, group in (("lift", "easy"), ("push", "hard")) for e in range(4)]
    return Results(policy, "toys", tuple(episodes), {"mujoco": "3.3.0"}, {"seed": 0}, "vla eval a.yaml", 12.0, folder)


class Balance(HTMLParser):
    """Checks that elements are closed in order, and gathers what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Balance:
    page = Balance()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


def test_page_is_complete_and_asks_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"film")
    rows = [results(name, n, tmp_path, "videos/a.mp4") for name, n in (("rt1", 2), ("expert", 4), ("random", 0))]
    path = write_report(tmp_path / "deep" / "report.html", rows)
    page, raw = read(path), path.read_text()
    for part in (
        "rt1",
        "expert",
        "random",
        "lift",
        "push",
        "easy",
        "hard",
        "no grasp",
        "mean of groups",
        "vla eval a.yaml",
    ):
        assert part in page.text
    assert "50\u202f% 2/4, 15–85" in page.text
    assert "mujoco3.3.0" in page.text.replace("\n", "")
    assert page.sources == ["data:video/mp4;base64,ZmlsbQ=="] * 6
    assert not re.search(r"https?:|//[a-z]|@import|url\(", raw)
    assert "viewport" in raw
    assert "prefers-color-scheme: dark" in raw


def test_large_videos_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rt1" / "videos").mkdir(parents=True)
    (tmp_path / "rt1" / "videos" / "a.mp4").write_bytes(b"film")
    monkeypatch.setattr(report, "EMBED_FILE_BYTES", 3)
    row = results("rt1", 2, tmp_path / "rt1", "videos/a.mp4")
    assert read(write_report(tmp_path / "report.html", [row])).sources == ["rt1/videos/a.mp4"] * 2


def test_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"film")
    monkeypatch.setattr(report, "EMBED_PAGE_BYTES", 5)
    sources = read(write_report(tmp_path / "report.html", [results("rt1", 2, tmp_path, "videos/a.mp4")])).sources
    assert sources == ["data:video/mp4;base64,ZmlsbQ==", "videos/a.mp4"]


def test_names_are_escaped(tmp_path: Path) -> None:
    row = replace(results("<script>alert(1)</script>", 4), command="a < b && c")
    path = write_report(tmp_path / "report.html", [row])
    assert "<script" not in path.read_text()
    assert "a < b && c" in read(path).text
    assert "Every episode was solved." in read(path).text


def test_folders_are_read(tmp_path: Path) -> None:
    results("rt1", 3).save(tmp_path / "rt1")
    page = read(write_report(tmp_path / "report.html", [tmp_path / "rt1"]))
    assert "6 of 8 episodes" in page.text
    with pytest.raises(ResultsError, match=r"results.json: no such file"):
        write_report(tmp_path / "report.html", [tmp_path / "nothing"])
    with pytest.raises(ValueError, match="at least one policy"):
        write_report(tmp_path / "report.html", [])


def test_tasks_that_one_policy_did_not_play(tmp_path: Path) -> None:
    full, part = results("full", 2), results("part", 2)
    part = replace(part, episodes=part.episodes[:4])
    assert "–" in read(write_report(tmp_path / "report.html", [full, part])).text


def test_interval_plot_is_to_scale() -> None:
    svg = intervals_svg([{"rate": 0.5, "wilson95": [0.0, 1.0], "successes": 2, "episodes": 4}, None])
    assert 'class="bar" x1="2.00%" x2="98.00%"' in svg
    assert 'cx="50.00%"' in svg
    assert svg.count("<circle") == 1

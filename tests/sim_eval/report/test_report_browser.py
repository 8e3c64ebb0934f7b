"""A real report in a real browser: nothing is logged, films play, tables sort, and a phone shows all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chromium import Page, chromium, find_chromium

from vla.sim_eval.comparison.comparison import compare
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report import write_report
from vla.sim_eval.rollouts.jobs import EpisodeRecord
from vla.sim_eval.rollouts.video import VideoWriter

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium is installed: the page was not looked at"
)

FAILURES = (
    "never reached",
    "no grasp",
    "dropped",
    "missed goal",
    "an odd thing that only this simulator knows",
)
PLAY = """
Promise.all([...document.querySelectorAll("video")].map(async (video) => {
  await video.play();
  const end = performance.now() + 10000;
  while (video.currentTime < 0.1 && performance.now() < end) await new Promise((done) => setTimeout(done, 20));
  return video.readyState >= 2 && video.currentTime >= 0.1 && video.videoWidth;
}))
"""
COLUMN = """
(() => {
  const table = [...document.querySelectorAll("table.sortable")][%d], head = table.tHead.rows[0].cells[%d];
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), table.querySelectorAll("[aria-sort=none]").length,
    [...table.tBodies[table.tBodies.length - 1].rows].map((row) => row.cells[0].textContent)];
})()
"""
OVERFLOW = """
[document.documentElement.scrollWidth, window.innerWidth,
  [...document.querySelectorAll("main *")].filter((e) => !e.closest(".wide, pre, svg")
    && e.getBoundingClientRect().right > window.innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))]
"""


def film(path: Path, shade: int) -> None:
    writer = VideoWriter(path, 20)
    for step in range(20):
        frame = np.full((48, 48, 3), shade, np.uint8)
        frame[step : step + 8, 20:28] = 255
        writer.add(frame, step)
    writer.close()


def run(folder: Path, policy: str, skill: float, seed: int) -> Results:
    """Six tasks of ten episodes, of which the first of each kind is filmed."""
    rng, episodes, filmed = np.random.default_rng(seed), [], set[tuple[str, str]]()
    for t, task in enumerate(
        ("reach-a-very-long-task-name", "push", "pick", "place", "stack", "open")
    ):
        for e in range(10):
            good = bool(rng.random() < skill - 0.1 * t)
            failure = "" if good else FAILURES[rng.integers(len(FAILURES))]
            video = "" if (task, failure) in filmed or t > 2 else f"videos/{task}-{e:03d}.mp4"
            filmed.add((task, failure))
            if video:
                film(folder / video, 40 * t + 20)
            step = -1 if good else int(rng.integers(60))
            episodes.append(
                EpisodeRecord(
                    task,
                    "easy" if t < 3 else "hard",
                    e,
                    100 * t + e,
                    f"Do the {task}",
                    good,
                    good,
                    60,
                    rng.normal(),
                    failure,
                    video,
                    step,
                )
            )
    config = {"env": {"type": "toys"}, "policy": policy}
    return Results(
        policy,
        "toys",
        tuple(episodes),
        {"mujoco": "3.3.0"},
        config,
        f"vla eval {policy}.yaml",
        9.0,
        folder,
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = ("rt1", "a-policy-with-quite-a-long-name/step-008000", "random")
    rows = [
        run(folder / str(i), name, skill, i)
        for i, (name, skill) in enumerate(zip(names, (0.9, 0.8, 0.2), strict=True))
    ]
    rows[1] = replace(rows[1], versions={"mujoco": "3.2.7"})
    extra = '<section id="more"><h2>More</h2><p>An extra part</p></section>'
    comparison = compare(rows, force=True)
    return write_report(folder / "report.html", rows, comparison=comparison, sections=[extra])


@pytest.fixture
def desktop(browser: Page, report: Path) -> Page:
    browser.problems.clear()
    browser.open(report, width=1280)
    return browser


def test_the_page_logs_nothing_and_asks_for_nothing(desktop: Page) -> None:
    assert desktop.run("document.title") == "3 policies on toys"
    assert desktop.run("document.querySelectorAll('h2').length") == 7
    assert desktop.problems == []


def test_every_film_plays(desktop: Page) -> None:
    widths = desktop.run(PLAY)
    assert len(widths) > 10
    assert set(widths) == {192}
    assert desktop.problems == []


def test_one_button_plays_the_films_of_a_task(desktop: Page) -> None:
    script = """(async () => {
      const button = document.querySelector("button.all"), videos = [...button.closest(".task").querySelectorAll("video")];
      button.click();
      await new Promise((done) => setTimeout(done, 300));
      const playing = videos.filter((v) => !v.paused).length, text = button.textContent;
      button.click();
      return [videos.length, playing, text, videos.filter((v) => !v.paused).length];
    })()"""
    count, playing, text, after = desktop.run(script)
    assert (playing, text, after) == (count, "Pause all", 0)
    label = desktop.run("document.querySelector('.screen button').getAttribute('aria-label')")
    assert label == "Play rt1, reach-a-very-long-task-name, episode 0"


def test_tables_sort(desktop: Page) -> None:
    suite = ["reach-a-very-long-task-name", "push", "pick", "place", "stack", "open"]
    direction, others, by_name = desktop.run(COLUMN % (0, 0))
    assert (direction, others, by_name) == ("ascending", 4, sorted(suite))
    direction, _, by_name = desktop.run(COLUMN % (0, 0))
    assert (direction, by_name) == ("descending", sorted(suite, reverse=True))
    direction, _, by_rate = desktop.run(COLUMN % (0, 2))
    rates = desktop.run(
        "[...document.querySelector('table.sortable').tBodies[1].rows].map((row) => Number(row.cells[2].dataset.value))"
    )
    assert direction == "descending"
    assert rates == sorted(rates, reverse=True)
    assert sorted(by_rate) == sorted(suite)
    top = desktop.run(
        "document.querySelector('table.sortable').tBodies[0].rows[0].cells[0].textContent"
    )
    assert top == "all episodes", "what sums up stays on top"
    assert desktop.problems == []


def test_every_column_of_every_table_sorts(desktop: Page) -> None:
    script = """[...document.querySelectorAll("table.sortable thead th")].map((head) => {
      head.querySelector("button").click();
      const first = head.getAttribute("aria-sort");
      head.querySelector("button").click();
      return first !== "none" && head.getAttribute("aria-sort") !== first;
    })"""
    assert set(desktop.run(script)) == {True}
    assert desktop.problems == []


@pytest.mark.parametrize("width", [320, 375, 768])
def test_narrow_windows_need_no_sideways_scrolling(browser: Page, report: Path, width: int) -> None:
    browser.problems.clear()
    browser.open(report, width=width)
    page, window, beyond = browser.run(OVERFLOW)
    assert page <= window == width
    assert beyond == []
    scrolls = browser.run(
        "[...document.querySelectorAll('.wide')].some((box) => box.scrollWidth > box.clientWidth)"
    )
    assert scrolls or width > 600, "wide tables scroll in their own boxes"
    assert browser.problems == []


def test_text_is_readable_in_light_and_in_dark(browser: Page, report: Path) -> None:
    """Contrast of at least 4.5 between text and paper (WCAG 2.1, 1.4.3)."""
    script = """[...document.querySelectorAll("h1, p, td, th, figcaption span, .card .big, .name, .good")].map((e) => {
      const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      let box = e;
      while (getComputedStyle(box).backgroundColor === "rgba(0, 0, 0, 0)") box = box.parentElement;
      const [a, b] = [light(getComputedStyle(e).color), light(getComputedStyle(box).backgroundColor)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    })"""
    for dark in (False, True):
        browser.open(report, width=1280, dark=dark)
        assert min(browser.run(script)) >= 4.5, f"dark: {dark}"

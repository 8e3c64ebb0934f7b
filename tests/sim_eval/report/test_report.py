"""The page: complete, self-contained, and safe with whatever names it is given."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vla.common.html import environment, macro
from vla.sim_eval.comparison.comparison import compare
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.report import videos, write_report
from vla.sim_eval.report.columns import Head, colour_failures
from vla.sim_eval.report.failures import outcome_parts
from vla.sim_eval.rollouts.jobs import EpisodeRecord


def results(policy: str, solved: int, folder: Path | None = None, video: str = "") -> Results:
    def record(task: str, group: str, episode: int) -> EpisodeRecord:
        good = episode < solved
        failure = "" if good else "no grasp"
        file = video if episode == 0 else ""
        return EpisodeRecord(
            task, group, episode, 7, f"Do {task} & <go>", good, good, 30, -1.0, failure, file, 12
        )

    episodes = [
        record(task, group, e)
        for task, group in (("lift", "easy"), ("push", "hard"))
        for e in range(4)
    ]
    return Results(
        policy,
        "toys",
        tuple(episodes),
        {"mujoco": "3.3.0"},
        {"seed": 0},
        "vla eval a.yaml",
        12.0,
        folder,
    )


PLOTS = "sim_eval/report/plots.html.j2"


class Balance(HTMLParser):
    """Checks that elements are closed in order, and gathers what the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):  # those have no end tag
            self.open.append(tag)
        links = [value or "" for key, value in attrs if key in ("src", "href")]
        self.sources += [link for link in links if not link.startswith("#")]

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
    rows = [
        results(name, n, tmp_path, "videos/a.mp4")
        for name, n in (("rt1", 2), ("expert", 4), ("random", 0))
    ]
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
    assert "50\u202f% 2/4, 15–85 return −1.0\u202f±\u202f0.0" in page.text
    assert "mujoco3.3.0" in page.text.replace("\n", "")
    assert page.sources == ["data:video/mp4;base64,ZmlsbQ=="] * 6
    assert not re.search(r"https?:|//[a-z]|@import|url\(", raw)
    assert "viewport" in raw
    assert "prefers-color-scheme: dark" in raw


def test_large_videos_are_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rt1" / "videos").mkdir(parents=True)
    (tmp_path / "rt1" / "videos" / "a.mp4").write_bytes(b"film")
    monkeypatch.setattr(videos, "EMBED_FILE_BYTES", 3)
    row = results("rt1", 2, tmp_path / "rt1", "videos/a.mp4")
    assert read(write_report(tmp_path / "report.html", [row])).sources == ["rt1/videos/a.mp4"] * 2


def test_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"film")
    monkeypatch.setattr(videos, "EMBED_PAGE_BYTES", 5)
    sources = read(
        write_report(tmp_path / "report.html", [results("rt1", 2, tmp_path, "videos/a.mp4")])
    ).sources
    assert sources == ["data:video/mp4;base64,ZmlsbQ==", "videos/a.mp4"]


def test_names_are_escaped(tmp_path: Path) -> None:
    row = replace(results("<script>alert(1)</script>", 4), command="a < b && c")
    path = write_report(tmp_path / "report.html", [row])
    assert "<script>alert" not in path.read_text()
    assert path.read_text().count("<script>") == 1
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
    rates = {"rate": 0.5, "wilson95": [0.0, 1.0], "successes": 2, "episodes": 4}
    svg = macro(PLOTS, "intervals")([("p0", rates), ("p1", None)])
    assert 'class="bar" x1="2.00%" x2="98.00%"' in svg
    assert 'cx="50.00%"' in svg
    assert svg.count("<circle") == 1


def test_policies_are_compared(tmp_path: Path) -> None:
    rows = [results("rt1", 1), results("expert", 4)]
    text = read(write_report(tmp_path / "report.html", rows)).text
    assert "Comparison of policies" in text
    assert "expert is better" in text
    assert "0 / 6 / 2" not in text, "the better policy stands first"
    assert "6 / 0 / 2" in text


def test_a_refused_comparison_says_why_and_a_forced_one_warns(tmp_path: Path) -> None:
    rows = [results("rt1", 1), replace(results("expert", 4), versions={"mujoco": "3.2.0"})]
    refused = read(write_report(tmp_path / "report.html", rows)).text
    assert "the runs cannot be compared" in refused
    assert "version of mujoco: 3.3.0 (rt1), 3.2.0 (expert)" in refused
    forced = read(
        write_report(tmp_path / "report.html", rows, comparison=compare(rows, force=True))
    ).text
    assert "These runs differ in more than the policy." in forced
    assert "version of mujoco: 3.3.0 (rt1), 3.2.0 (expert)" in forced
    assert "expert is better" in forced


def test_further_sections_stand_in_the_page(tmp_path: Path) -> None:
    extra = "<section id='more'><h2>Perturbations</h2></section>"
    raw = write_report(tmp_path / "report.html", [results("rt1", 1)], sections=[extra]).read_text()
    assert raw.index('id="rates"') < raw.index(extra) < raw.index('id="failures"')


def test_failures_are_told(tmp_path: Path) -> None:
    text = read(write_report(tmp_path / "report.html", [results("rt1", 1)])).text
    assert "How episodes failed" in text
    assert "6 75\u202f% of all, median step 12" in text
    assert "no grasp, step 12" not in text, "no film was made"


def test_returns_show_only_where_there_are_rewards(tmp_path: Path) -> None:
    row = results("rt1", 1)
    assert "mean return −1.0" in read(write_report(tmp_path / "a.html", [row])).text
    bare = replace(row, episodes=tuple(replace(r, return_=0.0) for r in row.episodes))
    assert (
        "return"
        not in read(write_report(tmp_path / "b.html", [bare])).text.partition("(() => {")[0].lower()
    )


def test_tables_name_what_they_are_sorted_by() -> None:
    template = environment().from_string(
        '{% from "sim_eval/report/parts.html.j2" import table %}'
        "{% call table(caption, heads) %}<tbody>{{ row }}</tbody>{% endcall %}"
    )
    heads = [Head("Task", numeric=False), Head("<Rate>")]
    html = template.render(caption="A <b>", heads=heads, row="<tr>")
    assert 'aria-label="A &lt;b&gt;"' in html
    assert html.count('aria-sort="none"') == 2
    assert '<th scope="col" class=" number" aria-sort="none"' in html
    assert "&lt;Rate&gt;" in html
    assert "<tbody>&lt;tr&gt;</tbody>" in html, "what a caller puts in is escaped, too"


def test_cells_name_what_they_are_sorted_by(tmp_path: Path) -> None:
    raw = write_report(tmp_path / "report.html", [results("rt1", 1)]).read_text()
    cells = re.sub(r">\s+<", "><", raw)
    assert '<th scope="row" data-value="lift">lift</th><td data-value="easy">easy</td>' in cells
    assert '<td class="number" data-value="0.25"><b>25\u202f%</b></td>' in cells


def test_bars_show_every_episode_in_lasting_colours() -> None:
    kinds = colour_failures(["no grasp", "dropped", "odd", "strange"])
    bar = macro(PLOTS, "outcomes")(outcome_parts(3, {"no grasp": 1, "odd": 2}, kinds))
    assert re.findall(r'class="(\w+)" style="flex-grow:(\d)"', bar) == [
        ("ok", "3"),
        ("f1", "1"),
        ("f7", "2"),
    ]
    assert 'aria-label="solved 3, no grasp 1, odd 2"' in bar
    assert [kind.css for kind in kinds] == ["f1", "f2", "f7", "f8"]


def test_returns_are_in_the_results() -> None:
    row = results("rt1", 1)
    episodes = [replace(r, return_=float(i)) for i, r in enumerate(row.episodes)]
    values = replace(row, episodes=tuple(episodes)).to_dict()["returns"]
    assert values["tasks"]["lift"] == pytest.approx({"mean": 1.5, "sd": (5 / 3) ** 0.5})
    assert values["overall"] == pytest.approx({"mean": 3.5, "sd": 6**0.5})
    single = replace(row, episodes=tuple(episodes[1:2]))
    assert single.to_dict()["returns"]["overall"] == {"mean": 1.0, "sd": 0.0}
    assert single.table().columns[-1].header == "return (mean ± sd)"
    bare = replace(row, episodes=tuple(replace(r, return_=0.0) for r in row.episodes))
    assert bare.to_dict()["returns"] is None
    assert len(bare.table().columns) == 4


def test_nothing_of_others_becomes_a_script(tmp_path: Path) -> None:
    """Texts in every field, numbers too; the page's policy would refuse them, too."""
    script = "0</script><script>alert(1)</script>"
    film = "videos/film.mp4"
    (tmp_path / "a" / "videos").mkdir(parents=True)
    (tmp_path / "a" / film).write_bytes(b"film")
    found = results("rt1" + script, 2, tmp_path / "a", film)
    changes = {"episode": script, "task": script, "group": script, "instruction": script}
    texts = {**changes, "failure": script, "failure_step": 12}
    episodes = [found.episodes[0], found.episodes[3]]
    hostile = tuple(replace(record, **texts) for record in episodes)
    hostile = (replace(hostile[0], video=film), hostile[1])
    found = replace(
        found, episodes=hostile, suite=script, command=script, versions={script: script}
    )
    page = write_report(tmp_path / "report.html", [found]).read_text()
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>") == 1
    assert "alert(1)" in page, "they are shown"


def test_the_policy_names_the_script_of_the_page(tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", [results("rt1", 2)]).read_text()
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in page

"""One HTML page that shows what evaluations found: rates, intervals, failures, videos, and how to repeat them.

The page needs nothing but itself: style, plot and small videos are inside; a video too large to embed is
linked by a relative path. No address outside of the page is ever asked for.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from vla.sim_eval.report_plot import axis_svg, intervals_svg
from vla.sim_eval.results import Results, summary
from vla.sim_eval.rollout_worker import EpisodeRecord

EMBED_FILE_BYTES = 400_000
EMBED_PAGE_BYTES = 12_000_000
_PAIRED = "Films of one row begin with the same seed."


def write_report(path: str | Path, results: Iterable[Results | str | Path]) -> Path:
    """Writes a self-contained page that lays evaluations of one suite beside each other.

    Args:
        path: file to write, usually `report.html`.
        results: results, or folders that hold them; the first is the one that the page is about.

    Raises ValueError where there are none, ResultsError where a folder holds no results.
    """
    columns = [r if isinstance(r, Results) else Results.load(r) for r in results]
    if not columns:
        raise ValueError("a report needs the results of at least one policy")
    path = Path(path)
    suites = " and ".join(dict.fromkeys(r.suite for r in columns))
    sections = [
        _headline(columns, suites),
        _section("Success by task", _legend(columns) + _plot(columns), "Bars are 95 % Wilson intervals."),
        _section("Rates", _rates_table(columns), "Rate, solved of played, and the 95 % interval in per cent."),
        _section("How episodes failed", _failures_table(columns)),
        _section("Episodes", _videos(columns, path.parent), _PAIRED if len(columns) > 1 else ""),
        _section("How to repeat it", "".join(_provenance(r) for r in columns)),
    ]
    css = resources.files("vla.sim_eval").joinpath("report.css").read_text(encoding="utf-8")
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(columns[0].policy)} on {escape(suites)}</title>\n<style>\n{css}</style>\n</head>\n"
        f"<body>\n<main>\n{''.join(s for s in sections if s)}</main>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(title: str, body: str, note: str = "") -> str:
    if not body:
        return ""
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{note}{body}</section>\n"


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f}&#8239;%"


def _interval(values: dict) -> str:
    low, high = values["wilson95"]
    return f"{100 * low:.0f}&ndash;{100 * high:.0f}"


def _headline(columns: Sequence[Results], suites: str) -> str:
    cards = []
    for i, result in enumerate(columns):
        overall = summary(result.episodes)
        cards.append(
            f'<div class="card p{i % 6}"><div class="who">{escape(result.policy)}</div>'
            f'<div class="big">{_percent(overall["rate"])}</div>'
            f"<div>{overall['successes']} of {overall['episodes']} episodes</div>"
            f'<div class="note">95 % interval {_interval(overall)} %<br>'
            f"mean of groups {_percent(result.macro_rate)}</div></div>"
        )
    tasks = len(columns[0].tasks)
    return (
        f"<header>\n<h1>{escape(columns[0].policy)} on {escape(suites)}</h1>\n"
        f'<p class="note">{tasks} task{"s" * (tasks != 1)}, success = solved at any step within the horizon</p>\n'
        f'<div class="cards">{"".join(cards)}</div>\n</header>\n'
    )


def _legend(columns: Sequence[Results]) -> str:
    names = "".join(f'<span class="p{i % 6}"><i></i>{escape(r.policy)}</span>' for i, r in enumerate(columns))
    return f'<div class="legend">{names}</div>\n'


def _rows(columns: Sequence[Results]) -> list[tuple[str, str, list[list[EpisodeRecord]]]]:
    """(kind, name, each policy's episodes) for the whole, every group and every task."""

    def select(test: Callable[[EpisodeRecord], bool]) -> list[list[EpisodeRecord]]:
        return [[record for record in result.episodes if test(record)] for result in columns]

    groups: dict[str, dict[str, None]] = {}
    for result in columns:
        for record in result.episodes:
            groups.setdefault(record.group, {})[record.task] = None
    rows = [("overall", "all episodes", select(lambda record: True))]
    for group, tasks in groups.items():
        if len(groups) > 1:
            rows.append(("group", group, select(lambda record, group=group: record.group == group)))  # type: ignore[misc]
        for task in tasks:
            rows.append(("task", task, select(lambda record, task=task: record.task == task)))  # type: ignore[misc]
    return rows


def _plot(columns: Sequence[Results]) -> str:
    lines = []
    for kind, name, cells in _rows(columns):
        marks = [summary(records) if records else None for records in cells]
        lines.append(f'<div class="row {kind}"><span>{escape(name)}</span>{intervals_svg(marks)}</div>\n')
    return f'<div class="plot">\n{"".join(lines)}<div class="row axis"><span></span>{axis_svg()}</div></div>\n'


def _rates_table(columns: Sequence[Results]) -> str:
    head = "".join(f'<th class="p{i % 6}">{escape(r.policy)}</th>' for i, r in enumerate(columns))
    body = []
    for kind, name, cells in _rows(columns):
        body.append(f'<tr class="{kind}"><th>{escape(name)}</th>{"".join(map(_rate_cell, cells))}</tr>\n')
        if kind == "overall":
            macro = "".join(f"<td><b>{_percent(r.macro_rate)}</b></td>" for r in columns)
            body.append(f'<tr class="overall"><th>mean of groups</th>{macro}</tr>\n')
    at_end = "".join(_rate_cell(r.episodes, "success_at_end") for r in columns)
    body.insert(2, f'<tr class="overall"><th>still solved at the end</th>{at_end}</tr>\n')
    return f'<div class="wide"><table>\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>{"".join(body)}</tbody></table></div>\n'


def _rate_cell(records: Sequence[EpisodeRecord], key: str = "success_ever") -> str:
    if not records:
        return '<td class="none">&ndash;</td>'
    values = summary(records, key)
    counts = f"{values['successes']}/{values['episodes']}"
    return f"<td><b>{_percent(values['rate'])}</b> <small>{counts}, {_interval(values)}</small></td>"


def _failures_table(columns: Sequence[Results]) -> str:
    counts = [Counter(record.failure for record in r.episodes if not record.success_ever) for r in columns]
    labels = sorted({label for c in counts for label in c}, key=lambda label: (-sum(c[label] for c in counts), label))
    if not labels:
        return "<p>Every episode was solved.</p>\n"
    head = "".join(f'<th class="p{i % 6}">{escape(r.policy)}</th>' for i, r in enumerate(columns))
    body = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{c[label]}</td>' for c in counts)}</tr>\n" for label in labels
    )
    return f'<div class="wide"><table>\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def _videos(columns: Sequence[Results], folder: Path) -> str:
    room = EMBED_PAGE_BYTES
    filmed: dict[str, dict[int, list[str]]] = {}  # task -> episode -> one film for each policy
    for i, result in enumerate(columns):
        for record in result.episodes:
            file = (result.folder or folder) / record.video
            if not record.video or not file.is_file():
                continue
            size = file.stat().st_size
            embed = size <= EMBED_FILE_BYTES and size <= room
            room -= size if embed else 0
            film = _film(i, result.policy, record, _source(file, folder, embed))
            filmed.setdefault(record.task, {}).setdefault(record.episode, []).append(film)
    parts = []
    for task, episodes in filmed.items():
        instruction = next(e.instruction for r in columns for e in r.episodes if e.task == task)
        rows = "".join(f'<div class="films n{min(len(columns), 4)}">\n{"".join(f)}</div>\n' for f in episodes.values())
        if len(columns) == 1:  # nothing to compare: the episodes themselves stand in a row
            rows = f'<div class="films">\n{"".join(film for f in episodes.values() for film in f)}</div>\n'
        parts.append(f"<h3>{escape(task)} <q>{escape(instruction)}</q></h3>\n{rows}")
    return "".join(parts)


def _source(file: Path, folder: Path, embed: bool) -> str:
    if embed:
        return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()
    return Path(os.path.relpath(file, folder)).as_posix()


def _film(column: int, policy: str, record: EpisodeRecord, source: str) -> str:
    outcome = f"solved in {record.steps} steps" if record.success_ever else record.failure
    return (
        f'<figure class="p{column % 6}"><video controls muted loop playsinline preload="metadata" '
        f'src="{escape(source)}"></video><figcaption><b>{escape(policy)}</b> episode {record.episode}<br>'
        f'<span class="{"good" if record.success_ever else "bad"}">{escape(outcome)}</span></figcaption></figure>\n'
    )


def _provenance(result: Results) -> str:
    versions = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in result.versions.items())
    rate = f", {result.steps / result.seconds:.0f} steps per second" if result.seconds else ""
    return (
        f"<details><summary>{escape(result.policy)}</summary>\n<pre>{escape(result.command)}</pre>\n"
        f"<p>{len(result.episodes)} episodes, {result.steps} steps, {result.seconds:.0f} seconds{rate}.</p>\n"
        f'<div class="wide"><table class="facts">{versions}</table></div>\n'
        f"<pre>{escape(json.dumps(dict(result.config), indent=2))}</pre></details>\n"
    )

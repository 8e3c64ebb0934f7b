"""The page as a whole: it needs nothing but itself, for style, script, plots and small films are inside.

A film too large to embed is linked by a relative path. No address outside of the page is ever asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from vla.sim_eval.comparison.comparability import ComparisonError
from vla.sim_eval.comparison.comparison import Comparison, compare
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.failures import failure_section
from vla.sim_eval.report.markup import Section
from vla.sim_eval.report.rates import cards, plot_section, table_section
from vla.sim_eval.report.repeat import repeat_section
from vla.sim_eval.report.versus import comparison_section, warnings_box
from vla.sim_eval.report.videos import film_section


def write_report(
    path: str | Path,
    results: Iterable[Results | str | Path],
    *,
    comparison: Comparison | None = None,
    sections: Sequence[str] = (),
) -> Path:
    """Writes a self-contained page that lays evaluations beside each other.

    Args:
        path: file to write, usually `report.html`.
        results: results, or folders that hold them; the first is the one that the page is about.
        comparison: of these results; default: they are compared, and where that is refused the page says why.
        sections: further parts of the page as HTML, each a `<section>` with an `<h2>`; they stand after the rates.

    Raises ValueError where there are no results, ResultsError where a folder holds none.
    """
    columns = [r if isinstance(r, Results) else Results.load(r) for r in results]
    if not columns:
        raise ValueError("a report needs the results of at least one policy")
    path = Path(path)
    versus, warning = _compared(columns, comparison)
    early = [plot_section(columns), table_section(columns), versus]
    late = [failure_section(columns), film_section(columns, path.parent), repeat_section(columns)]
    parts = [s for s in (*early, *late) if s is not None and s.body]
    inside = (
        [s.html() for s in early if s in parts],
        list(sections),
        [s.html() for s in late if s in parts],
    )
    title = _title(columns, comparison)
    files = resources.files("vla.sim_eval.report")
    css, js = (files.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(columns, title, parts)}{warning}{cards(columns)}{''.join(html for part in inside for html in part)}"
        f"</main>\n<script>\n{js}</script>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _compared(
    columns: Sequence[Results], comparison: Comparison | None
) -> tuple[Section | None, str]:
    """The section that compares, and the box that warns of differences between the runs."""
    if comparison is None and len(columns) > 1:
        try:
            comparison = compare(columns)
        except ComparisonError as error:
            body = f'<div class="warning" role="note"><pre>{escape(str(error))}</pre></div>\n'
            return Section("comparison", "Comparison of policies", body), ""
    if comparison is None:
        return None, ""
    return comparison_section(comparison, columns), warnings_box(comparison)


def _title(columns: Sequence[Results], comparison: Comparison | None) -> str:
    suites = " and ".join(dict.fromkeys(result.suite for result in columns))
    if comparison is None:
        return f"{columns[0].policy} on {suites}"
    return (
        " against ".join(comparison.runs)
        if len(columns) == 2
        else f"{len(columns)} policies on {suites}"
    )


def _header(columns: Sequence[Results], title: str, parts: Sequence[Section]) -> str:
    suites = " and ".join(dict.fromkeys(result.suite for result in columns))
    tasks = len({task for result in columns for task in result.tasks})
    episodes = sum(len(result.episodes) for result in columns)
    links = "".join(f'<a href="#{part.anchor}">{escape(part.title)}</a>' for part in parts)
    return (
        f'<header>\n<p class="eyebrow">Simulated evaluation &middot; {escape(suites)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="note">{tasks} task{"s" * (tasks != 1)}, {episodes:,} episodes. '
        f"Success: solved at any step within the horizon.</p>\n<nav>{links}</nav>\n</header>\n"
    )

"""The page as a whole: it needs nothing but itself; style, script, plots and videos are inside.

A video too large to embed is linked by a relative path. No other address is ever asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from vla.common.atomic import atomic_path
from vla.common.html import asset, content_policy, encoded, render
from vla.sim_eval.comparison.comparability import ComparisonError
from vla.sim_eval.comparison.comparison import Comparison, compare
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.columns import Section, coloured, records_of
from vla.sim_eval.report.failures import failure_section
from vla.sim_eval.report.rates import cards, plot_section, table_section
from vla.sim_eval.report.repeat import repeat_section
from vla.sim_eval.report.versus import comparison_section, refused_section
from vla.sim_eval.report.videos import video_section


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
        results: results, or folders that hold them; the page is about the first of them.
        comparison: of these results. By default they are compared; if that is refused, the page
            says why.
        sections: further parts of the page as HTML, each a `<section>` with an `<h2>`; they stand
            after the rates.

    Raises ValueError if there are no results, ResultsError if a folder holds none.
    """
    loaded = [r if isinstance(r, Results) else Results.load(r) for r in results]
    if not loaded:
        raise ValueError("a report needs the results of at least one policy")
    path = Path(path)
    columns = coloured(loaded)
    # a page that was not made to compare is about its first policy, whatever stands beside it
    title = _title(loaded, comparison)
    early = [plot_section(columns), table_section(columns)]
    if comparison is None and len(loaded) > 1:
        try:
            comparison = compare(loaded)
        except ComparisonError as error:
            # runs that differ in more than the policy still stand beside each other
            early.append(refused_section(str(error)))
    if comparison is not None:
        early.append(comparison_section(comparison, columns))
    late = [failure_section(columns), video_section(columns, path.parent), repeat_section(columns)]
    script = asset("sim_eval/report/page.js")
    page = render(
        "sim_eval/report/page.html.j2",
        title=title,
        suites=_suites(loaded),
        tasks=len({record.task for record in records_of(columns)}),
        episodes=len(records_of(columns)),
        warnings=() if comparison is None else comparison.warnings,
        cards=cards(columns),
        early=_with_content(early),
        # the caller's HTML, by the contract of `sections`; nothing else enters the page unescaped
        further=[Markup(section) for section in sections],
        late=_with_content(late),
        css=asset("sim_eval/report/page.css"),
        js=script,
        # films that are too large for the page lie beside it
        policy=content_policy(script, media="'self' file: data:"),
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(page))
    return path


def _with_content(sections: Sequence[Section]) -> list[Section]:
    return [section for section in sections if section.body]


def _suites(results: Sequence[Results]) -> str:
    return " and ".join(dict.fromkeys(found.suite for found in results))


def _title(results: Sequence[Results], comparison: Comparison | None) -> str:
    if comparison is None:
        return f"{results[0].policy} on {_suites(results)}"
    if len(results) == 2:
        return " against ".join(comparison.runs)
    return f"{len(results)} policies on {_suites(results)}"

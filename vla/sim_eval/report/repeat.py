"""How to repeat it: command, config, versions, seeds and what happened on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vla.common.html import render
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.columns import Column, Section


def repeat_section(columns: Sequence[Column]) -> Section:
    runs = []
    for results in (column.results for column in columns):
        config = json.dumps(dict(results.config), indent=2)
        runs.append((results, _remarks(results), config))
    body = render("sim_eval/report/repeat.html.j2", runs=runs)
    return Section("repeat", "How to repeat it", body)


def _remarks(results: Results) -> str:
    """Size and duration of an evaluation, and what went other than planned."""
    duration = f"{results.seconds:.0f} seconds"
    if results.seconds >= 90:
        duration = f"{results.seconds / 60:.1f} minutes"
    size = f"{len(results.episodes)} episodes, {results.steps} steps, {duration}"
    # files need not tell the time; it is 0 then
    if results.seconds:
        size += f", {results.steps / results.seconds:.0f} steps per second"
    remarks = [f"{size}."]
    if results.stopped_by:
        remarks.append(f"Stopped early: {results.stopped_by}.")
    if results.losses:
        remarks.append(f"Workers that were lost and replaced: {len(results.losses)}.")
    return " ".join(remarks)

"""How to repeat it: command, config, versions, seeds and what happened on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from vla.sim_eval.comparison.results import Results
from vla.sim_eval.report.markup import Section


def repeat_section(columns: Sequence[Results]) -> Section:
    return Section("repeat", "How to repeat it", "".join(_run(result) for result in columns))


def _run(result: Results) -> str:
    versions = "".join(
        f'<tr><th scope="row">{escape(k)}</th><td>{escape(str(v))}</td></tr>\n'
        for k, v in result.versions.items()
    )
    rate = f", {result.steps / result.seconds:.0f} steps per second" if result.seconds else ""
    minutes = (
        f"{result.seconds / 60:.1f} minutes"
        if result.seconds >= 90
        else f"{result.seconds:.0f} seconds"
    )
    remarks = [f"Stopped early: {result.stopped_by}."] if result.stopped_by else []
    if result.losses:
        remarks.append(f"Workers that were lost and replaced: {len(result.losses)}.")
    return (
        f'<div class="run"><h3>{escape(result.policy)}</h3>\n<pre class="command">{escape(result.command)}</pre>\n'
        f"<p>{len(result.episodes)} episodes, {result.steps} steps, {minutes}{rate}. {escape(' '.join(remarks))}</p>\n"
        f"<details><summary>Versions</summary>\n"
        f'<div class="wide"><table class="facts">\n{versions}</table></div></details>\n'
        f"<details><summary>Config</summary>\n"
        f"<pre>{escape(json.dumps(dict(result.config), indent=2))}</pre></details></div>\n"
    )

"""Reads result files and formats what stands in them as Markdown."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vla.sim_eval.statistics import wilson_interval

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"

Row = Sequence[object]


@functools.cache
def read(name: str) -> dict[str, Any]:
    """One file of `benchmarks/results/`, named without its suffix."""
    loaded: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def recorded(name: str) -> dict[str, Any]:
    """One entry of the hand-kept file `recorded.json`."""
    entry: dict[str, Any] = read("recorded")["results"][name]
    return entry


def table(columns: Sequence[str], rows: Iterable[Row], *, right: Sequence[int] = ()) -> str:
    """A Markdown table; the columns in `right` are aligned to the right."""
    rules = ["---:" if i in right else "---" for i in range(len(columns))]
    lines = [columns, rules, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def of(successes: int, episodes: int) -> str:
    """`61 of 125 (40-57 %)`: a count with its 95 % Wilson interval."""
    return f"{successes} of {episodes} ({interval(successes, episodes)})"


def interval(successes: int, episodes: int) -> str:
    """The 95 % Wilson interval in per cent."""
    low, high = wilson_interval(successes, episodes)
    return f"{100 * low:.0f}-{100 * high:.0f} %"


def p_value(p: float | None) -> str:
    """Two significant digits; nothing if no test was made."""
    if p is None:
        return ""
    if p < 1e-4:
        return "< 0.0001"
    return f"{p:.2g}"


def ratio_range(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """How far the ratio of two medians of times may go between their quartiles."""
    low = theirs["q25"] / ours["q75"]
    high = theirs["q75"] / ours["q25"]
    return f"{low:.1f}-{high:.1f}x"


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def command_of(file: dict[str, Any]) -> str:
    """The command that a result file names, with folders of the machine that ran it replaced."""
    text = re.sub(r"--policies \S+", "--policies FOLDER", file["command"])
    return re.sub(r" --output \S+", "", text)


def source(
    file: dict[str, Any], *names: str, command: str | Sequence[str] = "", note: str = ""
) -> str:
    """The lines under a result: how it is measured again, and where its numbers stand."""
    commands = [command or command_of(file)] if isinstance(command, str) else list(command)
    block = "\n".join(["```", *commands, "```"])
    files = ", ".join(f"`benchmarks/results/{name}.json`" for name in names)
    date = f" of {file['date']}" if "date" in file else ""
    return f"{block}\n\n{note + ' ' if note else ''}Numbers{date}: {files}."


def of_recorded(name: str) -> str:
    """A block for an entry of `recorded.json`: its counts with intervals, or its table."""
    entry = recorded(name)
    parts = [sentence(entry["what"])]
    if "counts" in entry:
        rows = [
            (what, f"{n} of {of_n}", interval(n, of_n))
            for what, (n, of_n) in entry["counts"].items()
        ]
        parts.append(table(["", "solved", "95 %"], rows))
    if "rows" in entry:
        # the first column names the row; the others are numbers or short texts
        parts.append(table(entry["columns"], entry["rows"]))
    if "note" in entry:
        parts.append(entry["note"])
    parts.append(recorded_source(name))
    return "\n\n".join(parts)


def recorded_source(name: str) -> str:
    entry = recorded(name)
    return source(entry, "recorded", command=entry["command"], note=sentence(entry["measured"]))


def sentence(text: str) -> str:
    """The text with a capital in front and a full stop behind."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."

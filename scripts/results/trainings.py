"""Results of methods over several trainings: whatever `benchmarks/offline_rl_images.py` has written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripts.results.formatting import RESULTS, mean, p_value, read, source, table


def files() -> list[str]:
    """Names of the result files that hold methods by seeds."""
    names = sorted(path.stem for path in RESULTS.glob("*.json"))
    return [name for name in names if {"rows", "seeds", "clone"} <= read(name).keys()]


def points(interval: list[float] | None, *, signed: bool = False) -> str:
    """An interval in points of per cent; empty if there is none."""
    if interval is None:
        return ""
    low, high = (100 * bound for bound in interval)
    return f"{low:+.0f} to {high:+.0f}" if signed else f"{low:.0f}-{high:.0f} %"


def difference(entry: dict[str, Any] | None) -> tuple[str, str]:
    """Difference with interval, and p; empty for the row itself."""
    if entry is None or entry["difference"] is None:
        return "", ""
    text = f"{100 * entry['difference']:+.0f} ({points(entry['interval'], signed=True)})"
    p = p_value(entry["p"])
    # one seed: McNemar's test of two networks
    return text, p if len(entry["seeds"]) > 1 else f"{p} (one training)"


def block(name: str) -> str:
    file = read(name)
    rows = []
    for row in file["rows"].values():
        rows.append(
            (
                row["what"] + ("*" if row["differs"] else ""),
                len(row["seeds"]),
                ", ".join(map(str, row["successes"])),
                f"{100 * row['rate']:.0f} %",
                points(row["interval"]),
                *difference(row.get("against_control")),
                *difference(row.get("against_best_filter")),
                f"{mean(row['minutes']):.0f}",
            )
        )
    starts = next(iter(file["rows"].values()))["starts"]
    columns = [
        "continued by",
        "trainings",
        f"solved of {starts}, each",
        "rate",
        "95 %",
        "against no values",
        "p",
        "against the best filter",
        "p",
        "minutes",
    ]
    return "\n\n".join(
        [_introduction(file), table(columns, rows), *_notes(file), source(file, name)]
    )


def _introduction(file: dict[str, Any]) -> str:
    clone = file["clone"]
    share = file["solved_share"]
    sampler = f"{100 * share:.0f} % of each task's windows from solved episodes" if share else ""
    return (
        f"`{file['config']}`: every row continues for {file['steps']} steps from the clone of its "
        f"seed ({file['clone_steps']} steps; {100 * clone['rate']:.0f} % of the starts, "
        f"{points(clone['interval'])}), with the same head, batch and sampler"
        f"{f' ({sampler})' if sampler else ''}. Intervals and p are over trainings and starts; "
        "differences in points, paired by the clone. The best filter is the best of all filters on "
        "these very starts, which favours it."
    )


def _notes(file: dict[str, Any]) -> list[str]:
    notes = [
        f"* {row['what']}: {row['differs']}." for row in file["rows"].values() if row["differs"]
    ]
    return ["\n".join(f"\\{note}  " for note in notes)] if notes else []


def all_blocks() -> dict[str, Callable[[], str]]:
    return {name: (lambda name=name: block(name)) for name in files()}


BLOCKS = all_blocks()
TITLES = {f"Methods over trainings, {read(name)['config'].split('/')[-1]}": name for name in BLOCKS}
"""Title on the results page -> block."""

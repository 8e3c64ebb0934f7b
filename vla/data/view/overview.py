"""The upper part of the page: what the dataset is, its tasks, and what its numbers are like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vla.data.reader import EpisodeDataset
from vla.data.view.markup import Column, Html, Value, counted, facts, percent, table
from vla.data.view.plots import histogram, number

TASKS = 500
METADATA_CHARACTERS = 20_000
_OPEN_ROWS = 16
_SAMPLES = 200_000
_STATISTICS = ("min", "q01", "q50", "q99", "max", "mean", "std")
_TITLES = ("least", "1 %", "median", "99 %", "greatest", "mean", "deviation")


def header(
    dataset: EpisodeDataset, title: str, format_name: str, shown: str, summary: dict[str, Any]
) -> str:
    """Title, what is shown of how much, warnings of the reader, and the sizes."""
    spec = dataset.spec
    cameras = ", ".join(f"{name} {w}×{h}" for name, (h, w) in spec.cameras.items()) or "none"
    pairs: list[tuple[str, Value]] = [
        ("episodes", len(dataset)),
        ("steps", dataset.num_frames),
        ("duration", duration(dataset.num_frames / spec.control_hz)),
        ("tasks", len(summary["tasks"])),
        ("control rate", f"{number(spec.control_hz)} Hz"),
        ("action", counted(spec.action_dim, "dimension")),
        ("state", counted(spec.state_dim, "dimension") if spec.state_dim else "none"),
        ("cameras", cameras),
        ("on disk", size(_bytes(dataset.root))),
    ]
    if summary["success_rate"] > 0:
        pairs.insert(4, ("solved", Html(percent(summary["success_rate"]))))
    if has_rewards(summary):
        pairs.insert(5, ("mean return", float(summary["returns"]["mean"])))
    return (
        f'<header>\n<p class="eyebrow">Dataset, format {escape(format_name)}</p>\n<h1>{escape(title)}</h1>\n'
        f'<p class="note">{escape(shown)}</p>\n{facts(pairs, "sizes")}</header>\n'
    )


def has_rewards(summary: dict[str, Any]) -> bool:
    """Whether any reward is not zero; a dataset without rewards reads as zeros."""
    return bool(summary["rewards"]["min"] or summary["rewards"]["max"])


def warnings_box(warnings: Sequence[str]) -> str:
    """What the reader found odd; nothing where there is nothing."""
    if not warnings:
        return ""
    lines = "".join(f"<li>{escape(text)}</li>\n" for text in warnings)
    return f'<div class="warning" role="note"><p><b>What is odd in this dataset</b></p>\n<ul>{lines}</ul></div>\n'


def tasks_section(summary: dict[str, Any]) -> str:
    """A row per task: how many episodes, how often solved, which returns."""
    solved, rewards = summary["success_rate"] > 0, has_rewards(summary)
    columns = [
        Column("Instruction", "text"),
        Column("Episodes"),
        Column("Steps"),
        Column("Mean length"),
    ]
    columns += [Column("Solved", "rate")] * solved + [Column("Mean return")] * rewards
    rows: list[list[Value]] = []
    for task in summary["tasks"][:TASKS]:
        row: list[Value] = [
            task["instruction"],
            task["episodes"],
            task["frames"],
            float(task["mean_length"]),
        ]
        rows.append(
            row + [float(task["success_rate"])] * solved + [float(task["mean_return"])] * rewards
        )
    notes = []
    if len(summary["tasks"]) > TASKS:
        notes.append(f"The first {TASKS} of {len(summary['tasks'])} tasks.")
    if not solved:
        notes.append("No step is marked as solved: nothing was, or the dataset does not say.")
    if not rewards:
        notes.append("All rewards are zero, or the dataset has none.")
    return _section("tasks", "Tasks", " ".join(notes), table("Tasks", columns, rows))


def numbers_section(dataset: EpisodeDataset, summary: dict[str, Any]) -> str:
    """Statistics with histograms: actions, state, and of whole episodes."""
    spec, columns, episodes = dataset.spec, dataset.columns, dataset.episodes
    limits = list(zip(spec.action_low, spec.action_high, strict=True))
    parts = [_statistics("Actions", summary["actions"], columns.actions, limits)]
    if spec.state_dim:
        parts.append(_statistics("State", summary["state"], columns.state))
    of_episodes = {"length": summary["lengths"]} | (
        {"return": summary["returns"]} if has_rewards(summary) else {}
    )
    values = np.stack([episodes[name].to_numpy(np.float64) for name in of_episodes], axis=1)
    parts.append(_statistics("Episodes", of_episodes, values))
    return _section(
        "numbers", "Numbers", "Of all steps, in the units of the robot.", "".join(parts)
    )


def metadata_section(dataset: EpisodeDataset) -> str:
    """What the maker wrote, as it is."""
    if not dataset.metadata:
        return ""
    text = json.dumps(dataset.metadata, indent=2, default=str, ensure_ascii=False)
    if len(text) > METADATA_CHARACTERS:
        text = text[:METADATA_CHARACTERS] + "\n..."
    body = f"<details><summary>What its maker wrote about it</summary><pre>{escape(text)}</pre></details>\n"
    return _section("metadata", "Metadata", "", body)


def _section(anchor: str, title: str, note: str, body: str) -> str:
    said = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f'<section id="{anchor}" aria-label="{escape(title)}">\n<h2>{escape(title)}</h2>\n{said}{body}</section>\n'


def _statistics(
    title: str,
    described: dict[str, dict[str, float]],
    values_ND: np.ndarray,
    limits: Sequence[tuple[float, float]] | None = None,
) -> str:
    """A row per dimension. Histograms are of evenly chosen samples where there are very many."""
    sample = values_ND[:: max(1, len(values_ND) // _SAMPLES)]
    columns = [
        Column("Name", "text"),
        Column("Histogram", "drawn"),
        *(Column(text) for text in _TITLES),
    ]
    columns += [Column("Limits", "text")] if limits else []
    rows: list[list[Value]] = []
    for dim, (name, found) in enumerate(described.items()):
        row: list[Value] = [
            name,
            Html(histogram(sample[:, dim], name)),
            *(float(found[key]) for key in _STATISTICS),
        ]
        rows.append(
            row + ([f"{number(limits[dim][0])} to {number(limits[dim][1])}"] if limits else [])
        )
    opened = " open" if len(rows) <= _OPEN_ROWS else ""
    heading = f"{title} <small>({counted(len(rows), 'row')})</small>" if not opened else title
    return (
        f"<details{opened}><summary>{heading}</summary>\n{table(title, columns, rows)}</details>\n"
    )


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `12.3 h`."""
    if seconds < 90:
        return f"{number(seconds, 3)} s"
    return f"{number(seconds / 60, 3)} min" if seconds < 5400 else f"{number(seconds / 3600, 3)} h"


def size(count: int) -> str:
    """`512 kB`, `1.4 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{number(count, 3)} {unit}"
        count = round(count / 1000, 3)  # type: ignore[assignment]
    return f"{number(count, 3)} GB"


def _bytes(root: Path) -> int:
    files = [root] if root.is_file() else root.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())

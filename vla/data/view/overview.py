"""What stands around the episodes: what the dataset is, its tasks, what its numbers are like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from vla.common.html import render
from vla.common.printing.number_text import counted, number
from vla.data.reader import EpisodeDataset
from vla.data.view.histogram import histogram
from vla.data.view.summary import Summary
from vla.data.view.tables import Column, Table, Value, rate_text, value_text

TASKS = 500
METADATA_CHARACTERS = 20_000
_OPEN_ROWS = 16  # of a table that is not folded
_SAMPLES = 200_000  # that a histogram is made of
_STATISTICS = {
    "min": "least",
    "q01": "1 %",
    "q50": "median",
    "q99": "99 %",
    "max": "greatest",
    "mean": "mean",
    "std": "deviation",
}
"""Key of a summary -> head of its column."""


def sizes(dataset: EpisodeDataset, summary: Summary) -> list[tuple[str, str]]:
    """Names and texts of what the page says at its top."""
    spec = dataset.spec
    cameras = [f"{name} {width}×{height}" for name, (height, width) in spec.cameras.items()]
    found: list[tuple[str, Value]] = [
        ("episodes", len(dataset)),
        ("steps", dataset.num_frames),
        ("duration", duration(dataset.num_frames / spec.control_hz)),
        ("tasks", len(summary["tasks"])),
        ("control rate", f"{number(spec.control_hz)} Hz"),
        ("action", counted(spec.action_dim, "dimension")),
        ("state", counted(spec.state_dim, "dimension") if spec.state_dim else "none"),
        ("cameras", ", ".join(cameras) or "none"),
        ("on disk", size(_bytes(dataset.root))),
    ]
    # outcomes stand behind the sizes
    if summary["success_rate"] is None:
        found.insert(4, ("solved", "not recorded"))
    elif has_successes(summary):
        found.insert(4, ("solved", rate_text(summary["success_rate"])))
    if has_rewards(summary):
        mean_return = float(summary["returns"]["mean"])
        found.insert(5, ("mean return", mean_return))
    return [(name, value_text(value)) for name, value in found]


def has_rewards(summary: Summary) -> bool:
    """Whether any reward is not zero."""
    rewards = summary["rewards"]
    return rewards is not None and bool(rewards["min"] or rewards["max"])


def has_successes(summary: Summary) -> bool:
    """Whether any step is marked as solved; otherwise nothing was, or the dataset does not say."""
    rate = summary["success_rate"]
    return rate is not None and bool(rate > 0)


def overview(dataset: EpisodeDataset, summary: Summary) -> Markup:
    """The sections below the episodes: tasks, numbers, and what the dataset's maker wrote."""
    return render(
        "data/view/overview.html.j2",
        task_notes=_task_notes(summary),
        task_table=_task_table(summary),
        statistics=_statistics_tables(dataset, summary),
        open_rows=_OPEN_ROWS,
        metadata=_metadata_text(dataset),
    )


def _task_table(summary: Summary) -> Table:
    """A row per task: how many episodes, how often solved, which returns."""
    solved, rewards = has_successes(summary), has_rewards(summary)
    columns = [
        Column("Instruction", "text"),
        Column("Episodes"),
        Column("Steps"),
        Column("Mean length"),
    ]
    if solved:
        columns.append(Column("Solved", "rate"))
    if rewards:
        columns.append(Column("Mean return"))
    rows = []
    # datasets of free language have an instruction for each episode: not all of them fit a page
    for task in summary["tasks"][:TASKS]:
        row: list[Value] = [
            task["instruction"],
            task["episodes"],
            task["frames"],
            float(task["mean_length"]),
        ]
        if solved:
            row.append(float(task["success_rate"]))
        if rewards:
            row.append(float(task["mean_return"]))
        rows.append(row)
    return Table("Tasks", columns, rows)


def _task_notes(summary: Summary) -> str:
    notes = []
    if summary["changing_episodes"]:
        notes.append(
            f"The instruction changes within {counted(summary['changing_episodes'], 'episode')}: "
            "each of them counts at every instruction that it holds, each step once."
        )
    if len(summary["tasks"]) > TASKS:
        notes.append(f"The first {TASKS} of {len(summary['tasks'])} tasks.")
    if summary["success_rate"] is None:
        notes.append("Success is not recorded.")
    elif not has_successes(summary):
        notes.append("No step is marked as solved: nothing was, or the dataset does not say.")
    if summary["rewards"] is None:
        notes.append("Rewards are not recorded.")
    elif not has_rewards(summary):
        notes.append("All rewards are zero, or the dataset has none.")
    return " ".join(notes)


def _statistics_tables(dataset: EpisodeDataset, summary: Summary) -> list[Table]:
    """Statistics with histograms: actions, state, and of whole episodes."""
    spec, columns, episodes = dataset.spec, dataset.columns, dataset.episodes
    limits = list(zip(spec.action_low, spec.action_high, strict=True))
    tables = [_statistics("Actions", summary["actions"], columns.actions, limits)]
    if spec.state_dim:
        tables.append(_statistics("State", summary["state"], columns.state))
    # names are those of the episodes table
    of_episodes = {"length": summary["lengths"]}
    if has_rewards(summary):
        of_episodes["return"] = summary["returns"]
    values = [episodes[name].to_numpy(np.float64) for name in of_episodes]
    return [*tables, _statistics("Episodes", of_episodes, np.stack(values, axis=1))]


def _statistics(
    title: str,
    described: dict[str, dict[str, float]],
    values_ND: np.ndarray,
    limits: Sequence[tuple[float, float]] | None = None,
) -> Table:
    """A row per dimension. Histograms are of evenly chosen samples if there are very many."""
    stride = max(1, len(values_ND) // _SAMPLES)
    sample_ND = values_ND[::stride]
    columns = [Column("Name", "text"), Column("Histogram", "drawn")]
    columns += [Column(head) for head in _STATISTICS.values()]
    if limits:
        columns.append(Column("Limits", "text"))
    rows = []
    for dim, (name, found) in enumerate(described.items()):
        row: list[Value] = [name, histogram(sample_ND[:, dim], name)]
        row += [float(found[key]) for key in _STATISTICS]
        if limits:
            low, high = limits[dim]
            row.append(f"{number(low)} to {number(high)}")
        rows.append(row)
    return Table(title, columns, rows)


def _metadata_text(dataset: EpisodeDataset) -> str:
    """What the maker wrote, as it is; empty if there is nothing."""
    if not dataset.metadata:
        return ""
    # `default`: a maker may have noted what JSON does not know
    text = json.dumps(dataset.metadata, indent=2, default=str, ensure_ascii=False)
    if len(text) > METADATA_CHARACTERS:
        text = text[:METADATA_CHARACTERS] + "\n..."
    return text


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `12.3 h`."""
    if seconds < 90:
        return f"{number(seconds, 3)} s"
    if seconds < 5400:
        return f"{number(seconds / 60, 3)} min"
    return f"{number(seconds / 3600, 3)} h"


def size(count: float) -> str:
    """`512 kB`, `1.4 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{number(count, 3)} {unit}"
        count = round(count / 1000, 3)
    return f"{number(count, 3)} GB"


def _bytes(root: Path) -> int:
    # a dataset may be one file
    files = [root] if root.is_file() else root.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())

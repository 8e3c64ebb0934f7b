"""How the commands of `vla data` print what they found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from vla.cli.shared import console, escape
from vla.common.terminal.tables import Table, whole

STATISTICS = ("min", "q01", "q50", "q99", "max", "mean", "std")
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
"""Severity of a finding -> how it is printed."""


def print_report(report: Any) -> None:
    """Repairs, findings and their numbers, of `vla data validate`."""
    for name, done in report.repaired:
        console.print(f"[green]repaired:[/green] {escape(name)}: {escape(done)}", soft_wrap=True)
    table = Table("", "check", "place", "finding")
    for finding in report.findings:
        severity = Text(finding.severity, style=_COLOURS[finding.severity])
        remedy = f" (`--fix`: {finding.fix})" if finding.fix else ""
        table.add_row(severity, finding.check, finding.place, finding.message + remedy)
    if report.findings:
        console.print(table)
    counts = ", ".join(f"{len(report.of(kind))} {kind}s" for kind in _COLOURS)
    format_name = report.format or "of no known format"
    summary = f"{report.root} ({format_name}): {counts}; {len(report.ran)} checks"
    # no line breaks of ours: the last line is what people copy
    console.print(escape(summary), soft_wrap=True)


def print_stats(found: dict[str, Any]) -> None:
    """What `vla.data.view.summary.summarise` returns."""
    console.print(
        f"{found['episodes']} episodes, {found['frames']} frames, {_solved(found['success_rate'])}"
    )
    episodes = {key: found[key] for key in ("rewards", "returns", "lengths") if found[key]}
    _print_statistics("actions", found["actions"])
    _print_statistics("state", found["state"])
    _print_statistics("episodes", episodes)
    _print_tasks(found, found["tasks"][0])
    for camera, values in found["cameras"].items():
        mean, std = _decimals(values["mean"]), _decimals(values["std"])
        console.print(
            f"camera {escape(camera)}: mean {mean}, std {std} "
            f"(red, green, blue; {values['frames']} frames)"
        )


def _solved(rate: float | None) -> str:
    return "success not recorded" if rate is None else f"{100 * rate:.0f}% solved"


def _decimals(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def print_info(info: dict[str, Any]) -> None:
    """What `EpisodeDataset.info` returns."""
    table = Table(*whole(""), "", show_header=False)
    for key, value in _facts(info).items():
        table.add_row(key, value)
    console.print(table)
    _print_actions(info)
    # every dataset has a task, and all tasks have the same facts
    heads = [str(key).replace("_", " ") for key in info["tasks"][0]]
    _print_tasks(info, heads)
    if info["metadata"]:
        _print_metadata(info["metadata"])


def _facts(info: dict[str, Any]) -> dict[str, str]:
    spec = info["spec"]
    cameras = []
    for name, (height, width) in spec["cameras"].items():
        cameras.append(f"{name} {width}x{height}")
    state = "none"
    if spec["state_names"]:
        state = f"{len(spec['state_names'])}: {', '.join(spec['state_names'])}"
    time = f"{_hours(info['hours'])} at {spec['control_hz']:g} Hz"
    return {
        "root": info["root"],
        "episodes": f"{info['episodes']}, {info['frames']} frames, {time}",
        "size": f"{info['bytes'] / 1e6:.1f} MB",
        "cameras": ", ".join(cameras) or "none",
        "state": state,
    }


def _print_actions(info: dict[str, Any]) -> None:
    spec = info["spec"]
    # the same statistics for every dimension
    statistics = list(next(iter(info["actions"].values())))
    table = Table(*whole("action", "limits", *statistics))
    limits = zip(spec["action_low"], spec["action_high"], strict=True)
    for (name, values), (low, high) in zip(info["actions"].items(), limits, strict=True):
        numbers = [f"{values[key]:.3g}" for key in statistics]
        between = "or" if name in spec.get("binary_actions", ()) else "to"
        table.add_row(name, f"{low:g} {between} {high:g}", *numbers)
    console.print(table)


def _print_statistics(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """A row of numbers for each name; nothing without rows, as for a robot without state."""
    if not rows:
        return
    table = Table(*whole(title), *whole(*STATISTICS, justify="right"))
    for name, values in rows.items():
        table.add_row(name, *[f"{values[key]:.3g}" for key in STATISTICS])
    console.print(table)


def _print_tasks(found: Mapping[str, Any], heads: Iterable[str]) -> None:
    table = Table(*heads)
    for task in found["tasks"]:
        cells = []
        for value in task.values():
            if value is None:
                cells.append("not recorded")
                continue
            # names and whole numbers as they are
            cells.append(f"{value:.3g}" if isinstance(value, float) else str(value))
        table.add_row(*cells)
    console.print(table)
    changing = found["changing_episodes"]
    if changing:
        console.print(
            f"The instruction changes within {changing} of {found['episodes']} episodes: each of "
            "them counts at every instruction that it holds, each frame once.",
            soft_wrap=True,
        )


def _print_metadata(metadata: dict[str, Any]) -> None:
    import yaml

    # what a maker noted may hold anything: as YAML it is read without quotes and escapes
    text = yaml.safe_dump(
        {"metadata": metadata}, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    console.print(escape(text.rstrip()), soft_wrap=True, highlight=False)


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"

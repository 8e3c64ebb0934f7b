"""`vla data`: what can be done with a dataset without a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vla.cli.data_write import add_to, shown_progress
from vla.cli.shared import clear_errors, console
from vla.config import UserError

data_app = typer.Typer(help="Dataset tools.", no_args_is_help=True)
add_to(data_app)


@data_app.command("info", epilog="Example: `vla data info data/mt10`")
def data_info(dataset: Annotated[Path, typer.Argument(help="Dataset folder.")]) -> None:
    """What a dataset holds: episodes, frames, tasks, cameras, dimensions, successes, returns."""
    with clear_errors():
        from vla.data import EpisodeDataset

        opened = EpisodeDataset(dataset)
        _print_info(opened.info())
        for warning in opened.warnings:
            console.print(f"[yellow]warning:[/yellow] {escape(warning)}")


@data_app.command(
    "relabel",
    epilog="Example: `vla data relabel data/tabletop_offline data/relabelled --by instruction`",
)
def data_relabel(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    out: Annotated[Path, typer.Argument(help="Folder of the new dataset.")],
    by: Annotated[
        str,
        typer.Option(
            help="instruction (failures that did something else) or goal (later pictures)."
        ),
    ],
    per_episode: Annotated[
        int, typer.Option(min=1, help="At most this many new labels for one episode.")
    ] = 1,
    keep: Annotated[
        bool, typer.Option(help="By instruction: write the episodes as they were, too.")
    ] = True,
    any_instruction: Annotated[
        bool, typer.Option(help="By instruction: also those that the dataset never gives.")
    ] = False,
    probability: Annotated[
        float, typer.Option(min=0, max=1, help="By goal: of a goal in the same episode.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="By goal: decides starts and goals.")] = 0,
) -> None:
    """Writes a dataset in which episodes count as successes at what they did achieve."""
    with clear_errors():
        from vla.data import relabel_by_goal, relabel_by_instruction

        if by == "instruction":
            made = relabel_by_instruction(
                dataset, out, per_episode=per_episode, known_only=not any_instruction, keep=keep
            )
        elif by == "goal":
            made = relabel_by_goal(
                dataset, out, per_episode=per_episode, probability=probability, seed=seed
            )
        else:
            raise UserError(f"--by {by}: expected instruction or goal")
        console.print(
            f"{made.episodes} episodes, {made.relabelled} of them with a new label: {escape(str(made.root))}"
        )


@data_app.command("stats", epilog="Example: `vla data stats data/mt10 --json > stats.json`")
def data_stats(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, or its file.")],
    format: Annotated[
        str | None, typer.Option(help="Its format; found by itself otherwise.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Frames per camera for mean and deviation; 0 for none.")
    ] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers as JSON.")] = False,
) -> None:
    """True statistics of all frames: quantiles of actions and states, returns, lengths, tasks, colours."""
    with clear_errors():
        import json

        from vla.data import EpisodeDataset
        from vla.data.view.summary import summarise

        found = summarise(EpisodeDataset(dataset, format=format), images=images)
        if as_json:
            typer.echo(json.dumps(found, indent=2, allow_nan=False))
        else:
            _print_stats(found)


@data_app.command("validate", epilog="Example: `vla data validate data/mt10 --fix`")
def data_validate(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, or its file.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What is read as what: `cameras.front=KEY`, `control_hz=5`."),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Its format; found by itself otherwise.")
    ] = None,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Mend what can be mended without loss; originals are kept."),
    ] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Decode no images.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All findings as JSON.")] = False,
) -> None:
    """Is everything in a dataset what it says it is? Exit status 1 where a finding is an error."""
    with clear_errors(), shown_progress("decoding") as progress:
        import json

        from vla.config import load_config
        from vla.data import KeyMap
        from vla.data.validation.report import validate

        keys = load_config(KeyMap, {}, settings) if settings else None
        report = validate(
            dataset, format=format, keys=keys, fix=fix, deep=not fast, progress=progress
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print_report(report)
    raise typer.Exit(0 if report.ok else 1)


def _print_report(report: Any) -> None:
    for name, done in report.repaired:
        console.print(f"[green]mended:[/green] {escape(name)}: {escape(done)}", soft_wrap=True)
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    table = Table("", "check", "place", "finding", box=None)
    for finding in report.findings:
        mended = f" (`--fix`: {finding.fix})" if finding.fix else ""
        severity = f"[{colours[finding.severity]}]{finding.severity}[/]"
        table.add_row(
            severity, finding.check, escape(finding.place), escape(finding.message + mended)
        )
    if report.findings:
        console.print(table)
    counts = ", ".join(f"{len(report.of(kind))} {kind}s" for kind in colours)
    told = f"{report.root} ({report.format or 'of no known format'}): {counts}; {len(report.ran)} checks"
    console.print(escape(told), soft_wrap=True)


@data_app.command(
    "view", epilog="Example: `vla data view data/mt10 --out mt10.html --episodes 0:20`"
)
def data_view(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder, or its file, or a URL.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What is read as what: `cameras.front=KEY`, `control_hz=5`."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page; view.html where no other file is asked for.")
    ] = None,
    rrd: Annotated[Path | None, typer.Option(help="A recording for the rerun viewer.")] = None,
    episodes: Annotated[
        str | None, typer.Option(help="Which episodes: `0:20` or `3,7,10:20`.")
    ] = None,
    sample: Annotated[
        int,
        typer.Option(
            min=1, help="Without --episodes: so many, evenly over tasks, successes and failures."
        ),
    ] = 50,
    max_mb: Annotated[
        float, typer.Option(min=0.1, help="The page is not larger than so many MB.")
    ] = 50.0,
    format: Annotated[
        str | None, typer.Option(help="Its format; found by itself otherwise.")
    ] = None,
) -> None:
    """Writes one HTML page with films, curves and numbers; with --rrd, a recording for the rerun viewer."""
    with clear_errors(), shown_progress("looking") as progress:
        from vla.config import load_config
        from vla.data import EpisodeDataset, KeyMap
        from vla.data.view import spread_episodes, write_view
        from vla.data.view.rerun import export_rerun

        opened = EpisodeDataset(
            dataset, format=format, keys=load_config(KeyMap, {}, settings) if settings else None
        )
        written = []
        if rrd is not None:
            chosen = spread_episodes(opened, sample) if episodes is None else episodes
            made = export_rerun(rrd, opened, episodes=chosen, progress=progress)
            written.append(
                f"{made.episodes} of {len(opened)} episodes, {made.bytes / 1e6:.1f} MB: {rrd}"
            )
        if out is not None or rrd is None:
            out = out or Path("view.html")
            page = write_view(
                out, opened, episodes=episodes, sample=sample, max_mb=max_mb, progress=progress
            )
            films = f", {page.filmed} with films" if opened.spec.cameras else ""
            written.append(
                f"{page.episodes} of {page.total} episodes{films}, {page.bytes / 1e6:.1f} MB: {out}"
            )
    for line in written:
        console.print(escape(line), soft_wrap=True, highlight=False)


def _print_stats(found: dict[str, Any]) -> None:
    console.print(
        f"{found['episodes']} episodes, {found['frames']} frames, {100 * found['success_rate']:.0f}% solved"
    )
    shown = ("min", "q01", "q50", "q99", "max", "mean", "std")
    episodes = {key: found[key] for key in ("rewards", "returns", "lengths")}
    for title, rows in (
        ("actions", found["actions"]),
        ("state", found["state"]),
        ("episodes", episodes),
    ):
        table = Table(title, box=None)
        for key in shown:
            table.add_column(key, justify="right", no_wrap=True)
        for name, values in rows.items():
            table.add_row(escape(name), *[f"{values[key]:.3g}" for key in shown])
        if rows:
            console.print(table)
    tasks = Table(*found["tasks"][0], box=None)
    for row in found["tasks"]:
        tasks.add_row(
            *[f"{v:.3g}" if isinstance(v, float) else escape(str(v)) for v in row.values()]
        )
    console.print(tasks)
    for camera, values in found["cameras"].items():
        mean, std = (" ".join(f"{v:.3f}" for v in values[key]) for key in ("mean", "std"))
        console.print(
            f"camera {escape(camera)}: mean {mean}, std {std} (red, green, blue; {values['frames']} frames)"
        )


def _print_info(info: dict[str, Any]) -> None:
    import yaml

    spec = info["spec"]
    cameras = ", ".join(f"{name} {w}x{h}" for name, (h, w) in spec["cameras"].items())
    facts = {
        "root": info["root"],
        "episodes": f"{info['episodes']}, {info['frames']} frames, {_hours(info['hours'])} at {spec['control_hz']:g} Hz",
        "size": f"{info['bytes'] / 1e6:.1f} MB",
        "cameras": cameras or "none",
        "state": f"{len(spec['state_names'])}: {', '.join(spec['state_names'])}"
        if spec["state_names"]
        else "none",
    }
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(key, escape(value))
    console.print(table)
    statistics = list(next(iter(info["actions"].values())))
    actions = Table("action", "limits", *statistics, box=None)
    for (name, values), low, high in zip(
        info["actions"].items(), spec["action_low"], spec["action_high"], strict=True
    ):
        actions.add_row(
            escape(name), f"{low:g} to {high:g}", *[f"{values[key]:.3g}" for key in statistics]
        )
    console.print(actions)
    tasks = Table(*(str(key).replace("_", " ") for key in info["tasks"][0]), box=None)
    for row in info["tasks"]:
        tasks.add_row(
            *[f"{v:.3g}" if isinstance(v, float) else escape(str(v)) for v in row.values()]
        )
    console.print(tasks)
    if info["metadata"]:
        told = yaml.safe_dump(
            {"metadata": info["metadata"]},
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
        )
        console.print(escape(told.rstrip()), soft_wrap=True, highlight=False)


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"

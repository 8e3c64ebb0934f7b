"""`vla doctor`: why a trained policy fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla.cli.shared import (
    Format,
    KeySettings,
    clear_errors,
    console,
    dataset_keys,
    errors,
    escape,
)
from vla.common.progress import stages

if TYPE_CHECKING:
    from vla.recipes.doctor.report import DoctorReport

commands = typer.Typer()
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@commands.command(
    epilog=(
        "Example: `vla doctor runs/pick` or `vla doctor runs/pick/policy --data data/tuesday "
        "--env configs/tabletop.yaml`"
    )
)
def doctor(
    run: Annotated[
        Path, typer.Argument(help="Folder of a training run, of a policy or of a checkpoint.")
    ],
    settings: KeySettings = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Dataset of the robot that it is to work on, or where its own data lie now "
            "[default: the run's]."
        ),
    ] = None,
    format: Format = None,
    env: Annotated[
        str | None,
        typer.Option(
            help="What it is to work in: a config file with `env`, `{type: tabletop, ...}`, or a "
            "type of `vla list envs`."
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(min=16, help="Most windows put through the policy.")
    ] = 256,
    seconds: Annotated[
        float, typer.Option(min=1, help="About so long the passes through it may take.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Why does a policy fail? Names, units, cameras, rates, inputs that it does not use, delays and
    more. Exit status 1 if a finding is an error."""
    with clear_errors(), stages("opening", errors) as show:
        import json

        from vla.recipes.doctor.report import doctor as examine

        report = examine(
            run,
            data=data,
            format=format,
            keys=dataset_keys(settings),
            env=env,
            windows=windows,
            seconds=seconds,
            tell=show,
        )
    # behind the line that says what is looked at, which would be drawn over it
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    raise typer.Exit(1 if report.of("error") else 0)


def _print(report: DoctorReport) -> None:
    """A paragraph for each symptom, the numbers, and what was not looked at."""
    for symptom in report.symptoms:
        style = _STYLES[symptom.severity]
        text = f"[{style}]{symptom.severity}[/] {symptom.check}: {escape(symptom.message)}"
        console.print(text, soft_wrap=True)
        console.print(f"  remedy: {escape(symptom.remedy)}", soft_wrap=True)
    if report.measured:
        numbers = ", ".join(f"{name} {value}" for name, value in report.measured.items())
        console.print(f"measured: {escape(numbers)}", soft_wrap=True)
    for what, why in report.skipped.items():
        console.print(f"not looked at: {escape(what)}: {escape(why)}", soft_wrap=True)
    counts = [f"{len(report.of(s))} {s}s" for s in _STYLES]
    console.print(f"{escape(report.policy)}: {', '.join(counts)} of {len(report.ran)} checks")

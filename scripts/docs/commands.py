"""The commands of `vla`, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator

import click
import typer

from vla.cli import app


def commands() -> Iterator[tuple[str, str]]:
    """Every command as it is typed, and the first sentence of its help."""
    yield from _below(typer.main.get_command(app), "vla")


def _below(command: click.Command, typed: str) -> Iterator[tuple[str, str]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield typed, command.get_short_help_str(limit=200)
        return
    default = getattr(command, "default", None)
    for name, child in inner.items():
        # a group's default command is typed without its name
        yield from _below(child, typed if name == default else f"{typed} {name}")


def commands_table(_: str) -> str:
    rows = [f"| `{typed}` | {text} |" for typed, text in commands()]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows])

"""The command `vla`: the joining of its topics, and what belongs to none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from vla.cli import doctor, evaluation, offline, running, serving
from vla.cli.config import config_app
from vla.cli.data import data_app
from vla.cli.export import export_app
from vla.cli.learning import experts, identification, language, online, rewards
from vla.cli.policy import policy_app
from vla.cli.shared import clear_errors, console
from vla.cli.tokenizer import tokenizer_app
from vla.common.busy import calm_idle_threads
from vla.common.errors import UserError
from vla.common.machine_faults import end_where_threads_get_no_memory
from vla.common.registry import KINDS, entries

app = typer.Typer(
    name="vla",
    help="Robot policies that are transformers over tokens: collect, train, evaluate.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    # they would print whole tensors
    pretty_exceptions_show_locals=False,
)
others = typer.Typer()


@others.command("list", epilog="Example: `vla list policies`")
def list_registered(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}.")],
) -> None:
    """What a config can name."""
    with clear_errors():
        from vla.common.terminal.tables import Table, whole

        try:
            # read from the sources: importing everything would take seconds, most of them torch's
            found = entries(kind)
        except KeyError as error:
            raise UserError(error.args[0]) from None
        table = Table(*whole(""), "", show_header=False)
        for entry in found:
            table.add_row(entry.name, entry.summary)
        console.print(table)


@others.command(
    epilog="Example: `vla bench control_step`",
    # they are the benchmark's own
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A file of benchmarks/.")],
) -> None:
    """Runs a benchmark of the repository; further arguments are handed to it."""
    with clear_errors():
        folder = Path(__file__).parents[2] / "benchmarks"
        # files with an underscore are shared by several
        names = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
        if name not in names:
            there_are = ", ".join(names) or "none (run it from a checkout)"
            raise UserError(f"no benchmark {name!r}; there are: {there_are}")
        file = folder / f"{name}.py"
        # a process of its own: some measure its memory, or set torch up before it is imported
        raise typer.Exit(subprocess.call([sys.executable, str(file), *context.args]))


# without a name: their commands are commands of `vla` itself; the order is that of the help
app.add_typer(running.commands)
app.add_typer(online.commands)
app.add_typer(experts.commands)
app.add_typer(evaluation.commands)
app.add_typer(offline.commands)
app.add_typer(rewards.commands)
app.add_typer(identification.commands)
app.add_typer(language.commands)
app.add_typer(doctor.commands)
app.add_typer(serving.commands)
app.add_typer(others)
app.add_typer(data_app, name="data")
app.add_typer(policy_app, name="policy")
app.add_typer(language.base_app, name="base")
app.add_typer(export_app, name="export")
app.add_typer(config_app, name="config")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(evaluation.eval_app, name="eval")


def main() -> None:
    end_where_threads_get_no_memory()
    # what a benchmark measures is for it to set
    if sys.argv[1:2] != ["bench"]:
        calm_idle_threads()
    app()

"""`vla expert`: an expert by reinforcement learning from the simulated state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vla.cli.shared import ConfigFile, Overrides, clear_errors, console, escape, remark_on_load

if TYPE_CHECKING:
    from vla.recipes.experts.run import Expert

commands = typer.Typer()


@commands.command(
    epilog=(
        "Example: `vla expert configs/expert_hopper.yaml algorithm=td3 steps=50000 out=runs/td3`"
    )
)
def expert(
    config: ConfigFile,
    overrides: Overrides = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again, in place of what an earlier run left.")
    ] = False,
) -> None:
    """Reinforcement learning from the state by stable-baselines3 and sb3-contrib; each snapshot
    becomes a policy folder."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.experts.config import ExpertConfig
        from vla.recipes.experts.run import train_expert

        settings = load_config(ExpertConfig, config, overrides or [], section="expert")
        remark_on_load()
        _print(train_expert(settings, restart=restart))


def _print(made: Expert) -> None:
    from vla.common.terminal.tables import Table

    table = Table("snapshot", "env steps", "return", "solved", "differs by")
    for row in made.snapshots:
        measured = row.measured
        table.add_row(
            row.name,
            f"{row.step:,}",
            f"{measured.mean:.1f} +- {measured.deviation:.1f}",
            f"{measured.solved} of {measured.episodes}",
            f"{row.difference:.1g}",
        )
    console.print(table)
    console.print(f"policies: {escape(str(made.out / 'policies'))}", soft_wrap=True)

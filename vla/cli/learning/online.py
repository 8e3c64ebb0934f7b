"""`vla online`: rounds of acting, labelling and learning."""

from __future__ import annotations

import typer

from vla.cli.shared import (
    ConfigFile,
    Overrides,
    Resume,
    clear_errors,
    console,
    remark_on_load,
)

commands = typer.Typer()


@commands.command(
    epilog="Example: `vla online configs/stitch_ppo.yaml init_from=runs/stitch_bc/policy --resume`"
)
def online(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """A policy acts, what it did is labelled, it learns, and so on: DAgger, online RL."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.online import OnlineConfig
        from vla.recipes.online import online as run

        settings = load_config(OnlineConfig, config, overrides or [], section="online")
        remark_on_load()
        result = run(settings, resume=resume)
        console.print(f"policy: {result.out / 'policy'} (round {result.rounds})")

"""`vla identify`: the hidden numbers of a simulated world out of one recorded episode."""

from __future__ import annotations

from pathlib import Path

import typer

from vla.cli.shared import (
    ConfigFile,
    Overrides,
    clear_errors,
    console,
    escape,
    remark_on_load,
    shown_progress,
)

commands = typer.Typer()


@commands.command(
    epilog="Example: `vla identify configs/quadruped_identify.yaml data.path=data/walk episode=3`"
)
def identify(config: ConfigFile, overrides: Overrides = None) -> None:
    """Friction, payload, motors ... of the world in which an episode was recorded: its actions are
    replayed in simulated worlds, and CMA-ES looks for the one that does the same."""
    with clear_errors():
        from vla.config import load_config
        from vla.sim_eval.identification.identify import RESULT_FILE, IdentifyConfig
        from vla.sim_eval.identification.identify import identify as run

        settings = load_config(IdentifyConfig, config, overrides or [], section="identify")
        remark_on_load()
        with shown_progress("identifying") as progress:
            found = run(settings, progress=progress)
        console.print(found.table())
        console.print(
            f"distance {found.distance:.2g} (0 repeats the episode; {found.middle:.2g} in the "
            f"middle of the range), {found.replays} replays of {found.steps} steps"
        )
        place = escape(str(Path(settings.out) / RESULT_FILE))
        console.print(f"result: {place}", soft_wrap=True, highlight=False)

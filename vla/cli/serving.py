"""`vla serve` and `vla ping`: a policy behind a socket, and a look at one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import Overrides, clear_errors, console, path_option, remark_on_load

commands = typer.Typer()


@commands.command(epilog="Example: `vla serve runs/tabletop/policy port=8000 max_batch=1`")
def serve(
    policy: Annotated[
        str, typer.Argument(help="Folder of a policy, or a repository of the Hugging Face hub.")
    ],
    overrides: Overrides = None,
    config: Annotated[
        Path | None, path_option("YAML file with keys of `vla config schema ServeConfig`.")
    ] = None,
) -> None:
    """A policy for robots that connect: openpi's protocol at `/`, vla-eval's at `/vla_eval`.

    Ends on SIGTERM and Ctrl-C, after what waits has been answered.
    """
    with clear_errors():
        from vla.config import load_config
        from vla.serving import ServeConfig
        from vla.serving import serve as run

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        # a line for every connection that opens
        logging.getLogger("vla.serving.sockets").setLevel(logging.WARNING)
        settings = load_config(
            ServeConfig,
            config if config is not None else {},
            [f"policy={policy}", *(overrides or [])],
        )
        remark_on_load()
        run(settings, announce=lambda line: console.print(line, soft_wrap=True))

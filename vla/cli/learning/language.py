"""`vla base`, `vla captions`, `vla align`: a vision-language model to begin with, and what it
learns before it acts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla.cli.shared import (
    ConfigFile,
    Overrides,
    clear_errors,
    console,
    escape,
    path_argument,
    remark_on_load,
    shown_progress,
)

if TYPE_CHECKING:
    from vla.training.alignment.learning import Aligned

commands = typer.Typer()
base_app = typer.Typer(
    help="Vision-language models for `policy.base`, out of installed packages.",
    no_args_is_help=True,
)


@base_app.callback()
def bases() -> None:
    # with it, a single command keeps its name
    pass


@base_app.command("smollm", epilog="Example: `vla base smollm bases/smollm --image-size 224`")
def smollm(
    out: Annotated[Path, path_argument("Folder that is written; it must not exist.")],
    trunk: Annotated[
        str, typer.Option(help="Image network: tf_efficientnet_lite0, _lite1 or _lite2.")
    ] = "tf_efficientnet_lite0",
    image_size: Annotated[
        int, typer.Option(min=32, max=1024, help="Pixels at which pictures are read.")
    ] = 224,
    seed: Annotated[int, typer.Option(min=0, help="Of what is random until `vla align`.")] = 0,
) -> None:
    """SmolLM2-135M-Instruct (4 bits, computed back) behind an ImageNet EfficientNet-Lite.

    The part between them is random: `vla align` teaches it.
    """
    with clear_errors():
        from vla.models.layers.vision_language_parts.composed_base import write_smollm_base

        tokens = write_smollm_base(out, trunk=trunk, image_size=image_size, seed=seed)
        console.print(f"base: {escape(str(out))} ({tokens} tokens a picture)", soft_wrap=True)


@commands.command(epilog="Example: `vla captions configs/vlm_smollm.yaml scenes=2000`")
def captions(config: ConfigFile, overrides: Overrides = None) -> None:
    """Pictures of simulated scenes, with questions that the simulator answers."""
    with clear_errors():
        from vla.config import load_config
        from vla.sim_eval.collection.captions import CaptionsConfig, write_captions

        settings = load_config(CaptionsConfig, config, overrides or [], section="captions")
        remark_on_load()
        with shown_progress("captions") as progress:
            pairs = write_captions(settings, progress=progress)
        for name, count in pairs.items():
            place = escape(str(settings.out / name))
            console.print(f"{place}: {count} pairs", soft_wrap=True, highlight=False)


@commands.command(epilog="Example: `vla align configs/vlm_smollm.yaml steps=500 out=runs/align`")
def align(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin again, in place of what an earlier run left.")
    ] = False,
) -> None:
    """What lies between picture and words in a vision-language model learns from pairs of both."""
    with clear_errors():
        from vla.config import load_config
        from vla.training.alignment.config import AlignConfig
        from vla.training.alignment.learning import align as run

        settings = load_config(AlignConfig, config, overrides or [], section="align")
        remark_on_load()
        _print(run(settings, resume=resume, restart=restart))


def _print(made: Aligned) -> None:
    from vla.common.terminal.tables import Table, whole

    if made.after:
        table = Table(*whole("held out", "before", "after"))
        for name, value in made.after.items():
            table.add_row(name, f"{made.before[name]:.3g}", f"{value:.3g}")
        console.print(table)
    console.print(f"base: {escape(str(made.base))}", soft_wrap=True, highlight=False)

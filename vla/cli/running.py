"""`vla demo`, `vla collect`, `vla train`: what makes datasets and policies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import (
    ConfigFile,
    Overrides,
    Resume,
    clear_errors,
    config_and_overrides,
    console,
    path_argument,
    path_option,
    remark_on_load,
)

commands = typer.Typer()


@commands.command(epilog="Example: `vla demo --out runs/demo`")
def demo(
    config: Annotated[Path | None, path_argument("Another demo config.")] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, path_option("Where everything is written [default: runs/demo].")
    ] = None,
) -> None:
    """The whole story on the CPU: demonstrations with detours, RT-1 cloned from them, offline RL
    and its controls, and the same unseen starts for all."""
    with clear_errors():
        from vla.config import load_config
        from vla.recipes.demo import DemoConfig
        from vla.recipes.demo import demo as run

        source, texts = config_and_overrides(config, overrides)
        if out is not None:
            # last, so that it wins over an override
            texts.append(f"out={out}")
        remark_on_load()
        results = run(load_config(DemoConfig, source, texts))
        console.print(f"report: {results / 'report.html'}")


@commands.command(
    epilog="Example: `vla collect configs/metaworld_mt10.yaml episodes_per_task=20 out=data/mt10`"
)
def collect(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Scripted experts, with noise in their states, make a dataset."""
    with clear_errors():
        from vla.config import load_config
        from vla.sim_eval.collection.recording import CollectConfig
        from vla.sim_eval.collection.recording import collect as run

        settings = load_config(CollectConfig, config, overrides or [], section="collect")
        remark_on_load()
        console.print(f"dataset: {run(settings, resume=resume)}")


@commands.command(
    epilog=(
        "Example: `vla train configs/metaworld_mt10.yaml policy.history=4 optim.lr=3e-4 --resume`"
    )
)
def train(config: ConfigFile, overrides: Overrides = None, resume: Resume = False) -> None:
    """Pretraining and fine-tuning; several processes by
    `accelerate launch --multi_gpu --num_processes N -m vla.cli train CONFIG`."""
    with clear_errors():
        from vla.config import load_config
        from vla.training import TrainConfig
        from vla.training import train as run

        settings = load_config(TrainConfig, config, overrides or [], section="train")
        remark_on_load()
        result = run(settings, resume=resume)
        console.print(f"policy: {result.out / 'policy'} (step {result.step})")

"""`vla reward`: learning a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import (
    Overrides,
    Resume,
    clear_errors,
    config_and_overrides,
    console,
    path_argument,
    remark_on_load,
)

commands = typer.Typer()


@commands.command(
    epilog="Example: `vla reward configs/tabletop_reward.yaml steps=2000 model.hidden=128`"
)
def reward(
    config: Annotated[
        Path | None, path_argument("YAML file: one config, or sections, one of them `reward`.")
    ] = None,
    overrides: Overrides = None,
    resume: Resume = False,
) -> None:
    """Learns a reward model from recorded episodes and measures it on held-out ones.

    `vla data score SRC DST --reward OUT` then puts its rewards on datasets.
    """
    with clear_errors():
        from vla.common.terminal.tables import Table, whole
        from vla.config import load_config
        from vla.training.reward_learning.config import RewardTrainConfig
        from vla.training.reward_learning.learning import learn_reward

        source, texts = config_and_overrides(config, overrides)
        settings = load_config(RewardTrainConfig, source, texts, section="reward")
        remark_on_load()
        found = learn_reward(settings, resume=resume)
        if found.measures:
            table = Table(*whole("held out", "value"))
            for name, value in found.measures.items():
                table.add_row(name, f"{value:.3g}")
            console.print(table)
        console.print(f"reward model: {found.out / 'reward'}", soft_wrap=True, highlight=False)

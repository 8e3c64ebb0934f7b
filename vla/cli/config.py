"""`vla config`: schemas for editors, and checks before a run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Annotated

import typer

from vla.cli.shared import ConfigFile, clear_errors, console
from vla.common.errors import UserError

if TYPE_CHECKING:
    from vla.config import Config

config_app = typer.Typer(help="Config tools.", no_args_is_help=True)
CONFIGS = {
    "collect": ("vla.sim_eval.collection.recording", "CollectConfig"),
    "train": ("vla.training", "TrainConfig"),
    "expert": ("vla.recipes.experts.config", "ExpertConfig"),
    "eval": ("vla.sim_eval.evaluation", "EvalConfig"),
    "fqe": ("vla.training.offline_evaluation.fitted_q_evaluation", "FQEConfig"),
    "captions": ("vla.sim_eval.collection.captions", "CaptionsConfig"),
    "align": ("vla.training.alignment.config", "AlignConfig"),
    "reward": ("vla.training.reward_learning.config", "RewardTrainConfig"),
    "online": ("vla.recipes.online.config", "OnlineConfig"),
    "identify": ("vla.sim_eval.identification.identify", "IdentifyConfig"),
    "demo": ("vla.recipes.demo", "DemoConfig"),
    "serve": ("vla.serving", "ServeConfig"),
}
"""Name -> module and class. Only the module that is asked for is imported."""


@config_app.command("schema", epilog="Example: `vla config schema train > train.schema.json`")
def config_schema(
    name: Annotated[
        str,
        typer.Argument(
            help=(
                "captions, align, collect, train, reward, expert, online, eval, fqe, identify, "
                "demo, serve."
            )
        ),
    ],
) -> None:
    """The JSON schema of a config, for editors."""
    with clear_errors():
        from vla.config import schema

        # highlighted on a terminal, plain JSON in a file
        console.print_json(data=schema(_config_class(name)))


@config_app.command("check", epilog="Example: `vla config check configs/metaworld_mt10.yaml`")
def config_check(config: ConfigFile) -> None:
    """Validates every section of a config file without running it."""
    with clear_errors():
        from vla.config import SECTIONS, load_config, read_yaml

        values = read_yaml(config)
        sections = [section for section in SECTIONS if section in values]
        if not sections:
            raise UserError(f"{config}: has none of the sections {', '.join(SECTIONS)}")
        # a demo has sections, too, and says once for all of them where to write
        if "out" in values:
            load_config(_config_class("demo"), config)
            console.print("demo: fine")
            return
        for section in sections:
            load_config(_config_class(section), config, section=section)
            console.print(f"{section}: fine")


def _config_class(name: str) -> type[Config]:
    if name not in CONFIGS:
        raise UserError(f"no config {name!r}; there are: {', '.join(CONFIGS)}")
    module, class_name = CONFIGS[name]
    found: type[Config] = getattr(importlib.import_module(module), class_name)
    return found

"""`vla fqe` and `vla diagnose`: what recorded episodes say of policies and critics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import (
    Format,
    KeySettings,
    Overrides,
    clear_errors,
    config_and_overrides,
    console,
    dataset_keys,
    errors,
    path_argument,
    path_option,
    remark_on_load,
    shown_progress,
)
from vla.common.folder_lock import alone

commands = typer.Typer()


@commands.command(
    epilog=(
        "Example: `vla fqe 'policies=[runs/iql/checkpoints/step-*]' data.path=data/mixed "
        "data.rewards.kind=success`"
    )
)
def fqe(
    config: Annotated[
        Path | None, path_argument("YAML file: one config, or sections, one of them `fqe`.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Which checkpoint is best, estimated from recorded episodes without a simulator: fitted Q
    evaluation."""
    with clear_errors():
        from vla.common.progress import stages
        from vla.config import load_config
        from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig
        from vla.training.offline_evaluation.fitted_q_evaluation import fqe as run
        from vla.training.offline_evaluation.fqe_result import RESULT_FILE

        source, texts = config_and_overrides(config, overrides)
        settings = load_config(FQEConfig, source, texts, section="fqe")
        remark_on_load()
        # words, not a bar: reading, fitting and measuring take times of their own
        with stages("opening the dataset", errors) as show:
            result = run(settings, tell=show)
        console.print(result.table())
        console.print(f"estimates: {Path(settings.out) / RESULT_FILE}")


@commands.command(epilog="Example: `vla diagnose runs/iql`")
def diagnose(
    run: Annotated[Path, path_argument("Folder of a training run.")],
    settings: KeySettings = None,
    step: Annotated[
        int | None, typer.Option(help="Step of a checkpoint [default: the newest].")
    ] = None,
    episodes: Annotated[
        int,
        typer.Option(min=1, help="Most episodes read of those trained on, and of those held out."),
    ] = 50,
    windows: Annotated[int, typer.Option(min=1, help="Most windows looked at of each.")] = 2048,
    data: Annotated[
        Path | None,
        path_option("Where the dataset lies now [default: as the run's config says]."),
    ] = None,
    format: Format = None,
    out: Annotated[
        Path | None,
        path_option("Folder for diagnostics.json and calibration.svg [default: the run's]."),
    ] = None,
) -> None:
    """What a run's critics are worth: values beside returns, weights, data beside policy, and when
    to stop."""
    with clear_errors():
        from vla.training.offline_evaluation.diagnostics import diagnose as diagnose_run

        # a file of its own: the run may go on meanwhile
        with alone(out or run, file=".diagnose.lock"):
            # a run that was copied here names a dataset of another machine: then `data` says where
            with shown_progress("measuring"):
                found = diagnose_run(
                    run,
                    step=step,
                    episodes=episodes,
                    windows=windows,
                    data=data,
                    format=format,
                    keys=dataset_keys(settings),
                )
            console.print(found.tables())
            for path in found.save(out):
                console.print(f"written: {path}")

"""`vla export`: policies as graphs, and whether they do what the policies do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla.cli.shared import (
    Overrides,
    Resume,
    clear_errors,
    console,
    path_argument,
    path_option,
    remark_on_load,
)
from vla.common.errors import UserError
from vla.common.foreign.plain_files import check_plain_file

if TYPE_CHECKING:
    from vla.export.agreement import Agreement
    from vla.export.runtime import ExportedPolicy
    from vla.models import Policy

export_app = typer.Typer(
    help="Policies that act without torch.", no_args_is_help=True, rich_markup_mode="markdown"
)
CHECK_FILE = "check.json"


@export_app.command("onnx", epilog="Example: `vla export onnx runs/mt10/policy exported --int8`")
def export_onnx_command(
    policy: Annotated[str, typer.Argument(help="Folder of a policy, or a repository of the hub.")],
    out: Annotated[Path, path_argument("Folder for the exported policy.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of matrix products in 8 bits.")
    ] = False,
    instructions: Annotated[
        Path | None,
        path_option("Text file: further instructions to be known without torch, a line each."),
    ] = None,
) -> None:
    """Writes a policy as ONNX into a folder that acts by numpy and ONNX Runtime alone."""
    with clear_errors():
        from vla.common.paths import expanded_path
        from vla.export.onnx import require_onnx
        from vla.export.package import export_onnx
        from vla.models import load_policy

        # before the policy is read, which may have to be fetched
        require_onnx()
        texts = [] if instructions is None else _texts(instructions)
        found = export_onnx(
            load_policy(expanded_path(policy)),
            out,
            precision="int8" if int8 else "float32",
            instructions=texts,
        )
        _show(found.agreement)
        console.print(f"exported: {out}")


@export_app.command("lerobot", epilog="Example: `vla export lerobot runs/so101/policy exported`")
def export_lerobot_command(
    policy: Annotated[str, typer.Argument(help="Folder of a policy, or a repository of the hub.")],
    out: Annotated[Path, path_argument("Folder for the exported policy.")],
) -> None:
    """Writes a policy as a folder that LeRobot's scripts run with the plugin lerobot_policy_vla."""
    with clear_errors():
        from vla.common.paths import expanded_path
        from vla.export.lerobot import export_lerobot
        from vla.models import load_policy

        export_lerobot(load_policy(expanded_path(policy)), out)
        console.print(f"exported: {out}")
        console.print(f"run it: lerobot-record --policy.path={out} ...")


@export_app.command(
    "check",
    epilog=(
        "Example: `vla export check exported --data datasets/mt10 "
        "--eval configs/metaworld_mt10.yaml episodes_per_task=50`"
    ),
)
def export_check(
    folder: Annotated[Path, path_argument("Folder that `vla export onnx` wrote.")],
    overrides: Overrides = None,
    data: Annotated[str | None, typer.Option(help="Dataset on whose frames both act.")] = None,
    steps: Annotated[int, typer.Option(help="Frames to compare at least.", min=1)] = 500,
    policy: Annotated[
        str | None,
        typer.Option(help="The policy itself [default: where it was when it was exported]."),
    ] = None,
    evaluation: Annotated[
        Path | None,
        path_option("Config of an evaluation that both play on the same starts.", "--eval"),
    ] = None,
    resume: Resume = False,
) -> None:
    """Compares an exported policy with the policy itself: step by step on recorded frames, and by
    success on the same unseen starts. Exit status 1 if it does not do as well."""
    with clear_errors():
        from vla.common.atomic import write_json
        from vla.common.paths import expanded_path
        from vla.export.runtime import load
        from vla.models import load_policy

        # without the config they would set nothing, and nobody would notice
        if overrides and evaluation is None:
            raise UserError(f"{overrides[0]!r}: sets an evaluation, but --eval CONFIG is missing")
        if data is None and evaluation is None:
            raise UserError("nothing to check by: give --data DATASET, --eval CONFIG, or both")
        exported = load(folder)
        # where it lay on the machine that exported it: it may have moved since
        source = expanded_path(policy or exported.description.source or "")
        if not source:
            raise UserError(f"{folder}: does not say which policy it is: give --policy POLICY")
        original = load_policy(source)
        found: dict[str, Any] = {}
        passes = True
        if data is not None:
            agreement = _on_data(original, exported, data, steps)
            found["data"] = {"dataset": data, **agreement.to_dict()}
            # weights of 8 bits give other numbers: whether these are as good only episodes tell
            passes = agreement.is_exact or exported.description.precision != "float32"
        if evaluation is not None:
            verdict = _by_episodes(original, exported, evaluation, overrides or [], resume)
            found["evaluation"] = {"config": str(evaluation), **verdict.to_dict()}
            console.print(verdict.sentence())
            passes &= verdict.passes
        write_json(folder / CHECK_FILE, found)
        console.print(f"written: {folder / CHECK_FILE}")
        if not passes:
            raise typer.Exit(1)


def _on_data(policy: Policy, exported: ExportedPolicy, data: str, steps: int) -> Agreement:
    from vla.common.paths import expanded_path
    from vla.data import EpisodeDataset
    from vla.export.check import check_on_data

    found = check_on_data(policy, exported, EpisodeDataset(expanded_path(data)), steps=steps)
    _show(found.to_dict())
    if exported.description.precision == "float32":
        console.print("agrees" if found.is_exact else "does not agree")
    return found


def _by_episodes(
    policy: Policy,
    exported: ExportedPolicy,
    config: Path,
    overrides: list[str],
    resume: bool,
) -> Any:
    from vla.config import load_config
    from vla.recipes.export_check import check_by_episodes
    from vla.sim_eval.evaluation import EvalConfig

    settings = load_config(EvalConfig, config, overrides, section="eval")
    remark_on_load()
    return check_by_episodes(policy, exported, settings, resume=resume)


def _show(found: Any) -> None:
    """What was compared, a line for each number."""
    from vla.common.terminal.tables import Table, whole

    table = Table(*whole(""), "", show_header=False)
    for name, value in found.items():
        if value is not None:
            text = f"{value:.3g}" if isinstance(value, float) and value != 1 else f"{value:g}"
            table.add_row(name.replace("_", " "), text)
    console.print(table)


def _texts(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        check_plain_file(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--instructions {path}: cannot be read ({error}); name a text file in UTF-8 with an "
            "instruction on each line"
        ) from error
    return [line.strip() for line in lines if line.strip()]

"""`vla policy`: what can be done with the folder of a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vla.cli.shared import clear_errors, console, path_argument
from vla.common.errors import UserError
from vla.common.folder_lock import alone

policy_app = typer.Typer(help="Policy tools.", no_args_is_help=True)


@policy_app.callback()
def _group() -> None:
    """Keeps the only command's name in the command line."""
    # without a callback Typer would make the group's only command the group itself


@policy_app.command(
    "extract",
    epilog="Example: `vla policy extract runs/mixture/policy metaworld policies/metaworld`",
)
def policy_extract(
    policy: Annotated[
        Path,
        path_argument("Folder of a policy for several robots: a checkpoint, or `policy` of a run."),
    ],
    robot: Annotated[str, typer.Argument(help="Name of the robot.")],
    out: Annotated[Path, path_argument("Folder for the robot's policy.")],
) -> None:
    """Takes one robot's policy out of one that was trained on several robots: to be evaluated and
    fine-tuned as any other."""
    with clear_errors():
        from vla.models import load_policy
        from vla.models.policies.multi_robot import MultiRobotPolicy

        found = load_policy(policy)
        if not isinstance(found, MultiRobotPolicy):
            kind = found.config.model_dump()["type"]
            raise UserError(f"{policy}: is a policy of one robot already ({kind})")
        with alone(out):
            # files of another policy would mix with this one's
            if any(out.iterdir()):
                raise UserError(f"{out}: is there already; name another folder")
            found.robot(robot).save_pretrained(out)
        console.print(f"policy: {out}")

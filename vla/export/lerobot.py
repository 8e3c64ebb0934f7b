"""A policy as a folder for LeRobot's scripts, which the plugin `lerobot_policy_vla` runs.

LeRobot itself is not needed to write it. Both it and `vla` name their files config.json and
model.safetensors, hence the checkpoint lies in a folder of its own.

H and W: height and width, S and A: state and action dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla.common.atomic import check_replaceable, replace_folder, write_json
from vla.common.errors import UserError
from vla.models.policy import Policy

CONFIG_FILE = "config.json"
CHECKPOINT_FOLDER = "vla"
# LeRobot's scripts override the first and the last step by name, and fail if there is none
BEFORE = {
    "name": "policy_preprocessor",
    "steps": [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
        {
            "registry_name": "device_processor",
            "config": {"device": "cpu", "float_dtype": None},
        },
    ],
}
AFTER = {
    "name": "policy_postprocessor",
    "steps": [
        {
            "registry_name": "device_processor",
            "config": {"device": "cpu", "float_dtype": None},
        }
    ],
}


def export_lerobot(policy: Policy, out: str | Path) -> None:
    """Writes the policy as a folder for `lerobot-record --policy.path=OUT` and its kind.

    Args:
        policy: in evaluation mode.
        out: a folder that does not exist, or holds such an export, which is replaced.

    Raises UserError if the folder holds something else.
    """
    out = Path(out)
    check_replaceable(out)
    if (
        out.exists()
        and any(out.iterdir())
        and not (out / CHECKPOINT_FOLDER / CONFIG_FILE).is_file()
    ):
        raise UserError(
            f"{out}: is there already, and no policy exported for LeRobot; name another folder"
        )
    replace_folder(out, lambda folder: _write(folder, policy))


def _write(folder: Path, policy: Policy) -> None:
    policy.save_pretrained(folder / CHECKPOINT_FOLDER)
    write_json(folder / CONFIG_FILE, lerobot_config(policy))
    write_json(folder / "policy_preprocessor.json", BEFORE)
    write_json(folder / "policy_postprocessor.json", AFTER)
    (folder / "README.md").write_text(_readme(policy), encoding="utf-8")


def lerobot_config(policy: Policy) -> dict[str, Any]:
    """What LeRobot reads: features with their shapes, images as (3, H, W)."""
    spec = policy.spec
    cameras = {camera: f"observation.images.{camera}" for camera in spec.cameras}
    features: dict[str, Any] = {
        cameras[camera]: {"type": "VISUAL", "shape": [3, height, width]}
        for camera, (height, width) in spec.cameras.items()
    }
    if spec.state_dim:
        features["observation.state"] = {"type": "STATE", "shape": [spec.state_dim]}
    return {
        "type": "vla",
        "n_obs_steps": 1,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [spec.action_dim]}},
        "device": "cpu",
        "push_to_hub": False,
        "checkpoint": CHECKPOINT_FOLDER,
        "cameras": cameras,
    }


def _readme(policy: Policy) -> str:
    spec = policy.spec
    lines = [
        "# A policy of vla for LeRobot",
        "",
        "```",
        "pip install ./integrations/lerobot_policy_vla",
        "lerobot-record --policy.path=. --robot.type=... --dataset.single_task=...",
        "```",
        "",
        f"Cameras: {', '.join(f'{name} {h}x{w}' for name, (h, w) in spec.cameras.items())}.",
        f"State: {', '.join(spec.state_names)}.",
        f"Actions: {', '.join(spec.action_names)}, at {spec.control_hz:g} per second.",
        "",
        "`--policy.remote=ws://GPU:8000` leaves the network to `vla serve`.",
    ]
    return "\n".join(lines) + "\n"


__all__ = ["export_lerobot", "lerobot_config"]

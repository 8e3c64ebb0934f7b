"""A reward model as a folder, and back.

It holds `config.json`, `model.safetensors`, `spec.json`, the folder `policy/` of the trunk if it
reads one, and the checksums of all. Nothing in it is pickled.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vla.common.foreign.checksums import (
    CHECKSUMS_FILE,
    EditedFileWarning,
    changed_files,
    checksums_of_written,
)
from vla.common.machine_faults import naming
from vla.config import CONFIG_VERSION, ConfigError, UserError, lookup, validate
from vla.models.building_budget import BuildingBudget
from vla.models.checkpoint_files import (
    CONFIG_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    checked_device,
    find_checkpoint,
    read_header,
    read_shapes,
    read_tensors,
    require_files,
)
from vla.models.policy import load_policy
from vla.models.rewards.base import RewardModel
from vla.types import Spec

POLICY_FOLDER = "policy"
"""Folder of the trunk's policy."""
REWARD_FOLDER = "reward"
"""Where a run of `vla reward` keeps its model."""


def save_reward(model: RewardModel, folder: str | Path) -> None:
    """Writes the model into the folder, which is made if it is not there.

    Raises OSError if it cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with naming(folder), checksums_of_written(folder):
        header: dict[str, Any] = {
            "version": CONFIG_VERSION,
            "type": model.config.model_dump()["type"],
            "config": model.config.model_dump(mode="json"),
            "card": model.card,
            "files": model.files,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(header, indent=2) + "\n")
        weights = {name: t.detach().cpu().contiguous() for name, t in model.weights().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        model.spec.save(folder / SPEC_FILE)
        if model.policy is not None:
            model.policy.save_pretrained(folder / POLICY_FOLDER)


def load_reward(path: str | Path, *, device: torch.device | str = "cpu") -> RewardModel:
    """The reward model of a folder, or of a repository of the Hugging Face hub, in evaluation mode.

    Args:
        path: the folder; that of a run of `vla reward` will do.
        device: where it is to compute.

    Raises:
        CheckpointError: the folder or a file is missing, damaged, of another version, or does not
            fit.
        UserError: this machine has no such device.
    """
    device = checked_device(device)
    folder = find_checkpoint(path, {})
    if not (folder / CONFIG_FILE).is_file() and (folder / REWARD_FOLDER / CONFIG_FILE).is_file():
        folder = folder / REWARD_FOLDER
    require_files(folder, [CONFIG_FILE, WEIGHTS_FILE, SPEC_FILE])
    try:
        model = _read(folder)
    except CheckpointError as error:
        raise CheckpointError(_within(folder, error)) from error
    except UserError as error:
        raise CheckpointError(_within(folder, error)) from error
    return model.to(device).eval()


def _read(folder: Path) -> RewardModel:
    header = read_header(folder / CONFIG_FILE)
    try:
        config = validate(lookup("rewards", str(header["type"])), header["config"])
    except KeyError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: {error.args[0]}; name the folder of a reward model, as "
            "`vla reward` writes it"
        ) from error
    except ConfigError as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: the config was written by another version of vla: {error}"
        ) from error
    policy = load_policy(folder / POLICY_FOLDER) if config.needs_policy else None
    stored = read_shapes(folder / WEIGHTS_FILE)
    with BuildingBudget(stored):
        model: RewardModel = config.build(Spec.load(folder / SPEC_FILE), policy)
    tensors = read_tensors(folder / WEIGHTS_FILE, model.weights())
    # not strict: the policy's are in its own folder
    model.load_state_dict(tensors, strict=False)
    model.card = header.get("card") or {}
    files = header.get("files") or {}
    model.check_files(files if isinstance(files, dict) else {})
    _check_sums(folder)
    return model


def _within(folder: Path, error: UserError) -> str:
    text = str(error)
    return text if str(folder) in text else f"{folder}: {text}"


def _check_sums(folder: Path) -> None:
    """Raises CheckpointError if a file is not the one that was saved; warns of an edited config."""
    try:
        changed = list(changed_files(folder))
    except (UserError, OSError) as error:
        raise CheckpointError(f"{folder / CHECKSUMS_FILE}: cannot be used: {error}") from error
    for name in changed:
        # people edit configs; all other files are written by vla alone
        if Path(name).name == CONFIG_FILE:
            warnings.warn(
                f"{folder / name}: is not as it was saved; if nobody edited it, copy the reward "
                "model again",
                EditedFileWarning,
                stacklevel=2,
            )
            continue
        raise CheckpointError(
            f"{folder / name}: is damaged: its SHA-256 is not the one in {CHECKSUMS_FILE}; copy "
            "the reward model again"
        )


__all__ = ["POLICY_FOLDER", "REWARD_FOLDER", "load_reward", "save_reward"]

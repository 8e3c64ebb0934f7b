"""Where an alignment goes on: what has learned, the optimiser's moments, the metrics of the steps
since the last line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.policy import CheckpointError
from vla.training.checkpoint import Checkpoint, prune_checkpoints, save_checkpoint
from vla.training.optimizer import load_optimizer_tensors, optimizer_tensors

CHECKPOINTS = "checkpoints"
KEPT = 1
"""Checkpoints: an alignment only goes on, and none of its steps is chosen later."""
_LEARNED, _OPTIMIZER = "learned/", "optimizer/"


def save_step(
    out: Path,
    step: int,
    trunk: VisionLanguageModel,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Writes what `restore_step` reads, in place of what an earlier step wrote.

    Args:
        out: run directory.
        state: further values in JSON types.

    Raises CheckpointError if the disk is full or fails.
    """
    tensors = {_LEARNED + name: value for name, value in _learned(trunk).items()}
    moments = optimizer_tensors(optimizer, trunk)
    tensors |= {_OPTIMIZER + name: value for name, value in moments.items()}
    # the base itself is where the config says, and does not change
    save_checkpoint(out / CHECKPOINTS, step, lambda folder: None, tensors, state)
    prune_checkpoints(out / CHECKPOINTS, keep_last=KEPT)


@torch.no_grad()
def restore_step(
    checkpoint: Checkpoint, trunk: VisionLanguageModel, optimizer: torch.optim.Optimizer
) -> None:
    """Goes back to a step. Raises CheckpointError if it is of another base."""
    tensors = checkpoint.tensors()
    moments = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            moments[name.removeprefix(_OPTIMIZER)] = value
    try:
        for name, parameter in _learned(trunk).items():
            parameter.copy_(tensors[_LEARNED + name])
        load_optimizer_tensors(optimizer, trunk, moments)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.folder} does not fit the base: {error}; restore the base, or begin again "
            "(--restart)"
        ) from error


def _learned(trunk: VisionLanguageModel) -> dict[str, Tensor]:
    return {name: value for name, value in trunk.named_parameters() if value.requires_grad}


__all__ = ["CHECKPOINTS", "KEPT", "restore_step", "save_step"]

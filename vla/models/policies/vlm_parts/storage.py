"""What only a VLM policy's checkpoint holds: the processor's files, and its base's name."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from vla.common.foreign.json_files import read_json
from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.layers.vision_language_base import fingerprint
from vla.models.policy import CheckpointError

BASE_FILE, BASE_FOLDER, PROCESSOR_FOLDER = "base.json", "base", "processor"


def own_tensors(module: nn.Module, *, frozen_too: bool) -> dict[str, Tensor]:
    """The state of `module`, each tensor once (tied ones under their first name); parameters that
    are not trained, and the buffers beside them, only with `frozen_too`."""
    # by their place in memory: a tied matrix has several names, of which only one is a parameter's
    frozen_at: set[int] = set()
    if not frozen_too:
        for parameter in module.parameters():
            if not parameter.requires_grad:
                frozen_at.add(parameter.data_ptr())
        for part in module.modules():
            trained = [parameter.requires_grad for parameter in part.parameters(recurse=False)]
            # statistics of a frozen batch norm are the base's, as its weights are
            if trained and not any(trained):
                frozen_at.update(buffer.data_ptr() for buffer in part.buffers(recurse=False))
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict().items():
        place = tensor.data_ptr()
        # tensors without numbers all have the same place, and are no copies of each other
        stored_already = place in seen and tensor.numel() > 0
        if place in frozen_at or stored_already:
            continue
        seen.add(place)
        tensors[name] = tensor
    return tensors


def write_base(folder: Path, name: str, mark: str | None, trunk: VisionLanguageModel) -> None:
    """Writes processor, architecture, and the base's name and fingerprint (None if the
    checkpoint holds the base)."""
    trunk.processor.save_pretrained(folder / PROCESSOR_FOLDER)
    trunk.model.config.save_pretrained(folder / BASE_FOLDER)
    header = {
        "base": name,
        "architecture": type(trunk.model).__name__,
        "fingerprint": mark,
    }
    (folder / BASE_FILE).write_text(json.dumps(header, indent=2) + "\n")


def check_base(folder: Path, name: str, base: nn.Module) -> None:
    """Raises CheckpointError if the adapter in `folder` was trained on another base than `base`."""
    path = folder / BASE_FILE
    try:
        header = read_json(path)
        wanted = (header["base"], header["architecture"], header["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); copy the checkpoint again"
        ) from error
    # not by name: the same weights may lie elsewhere, and a name on the hub may get other weights
    found = (type(base).__name__, fingerprint(base))
    if found != wanted[1:]:
        raise CheckpointError(
            f"{folder}: its adapter was trained on {wanted[0]} ({wanted[1]}, weights {wanted[2]}); "
            f"policy.base {name} is another model ({found[0]}, weights {found[1]}): name the base "
            "that it was trained on"
        )


__all__ = [
    "BASE_FILE",
    "BASE_FOLDER",
    "PROCESSOR_FOLDER",
    "check_base",
    "own_tensors",
    "write_base",
]

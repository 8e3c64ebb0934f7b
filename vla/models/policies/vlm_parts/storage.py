"""What a VLM policy's checkpoint holds beside other policies': the processor's files, and which base it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from vla.models.layers.vision_language import VisionLanguageModel
from vla.models.layers.vision_language_base import fingerprint
from vla.models.policy import CheckpointError

BASE_FILE, BASE_FOLDER, PROCESSOR_FOLDER = "base.json", "base", "processor"


def own_tensors(module: nn.Module, *, frozen_too: bool) -> dict[str, Tensor]:
    """The state of `module`, each tensor once (tied ones under their first name); parameters that are not trained only
    with `frozen_too`."""
    frozen = (
        set()
        if frozen_too
        else {name for name, p in module.named_parameters() if not p.requires_grad}
    )
    frozen_at = {p.data_ptr() for name, p in module.named_parameters() if name in frozen}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict().items():
        place = tensor.data_ptr()
        if place in frozen_at or (place in seen and tensor.numel()):
            continue
        seen.add(place)
        tensors[name] = tensor
    return tensors


def write_base(folder: Path, name: str, mark: str | None, trunk: VisionLanguageModel) -> None:
    """Writes processor, architecture, and the base's name and fingerprint (None where the checkpoint holds the base)."""
    trunk.processor.save_pretrained(folder / PROCESSOR_FOLDER)
    trunk.model.config.save_pretrained(folder / BASE_FOLDER)
    header = {"base": name, "architecture": type(trunk.model).__name__, "fingerprint": mark}
    (folder / BASE_FILE).write_text(json.dumps(header, indent=2) + "\n")


def check_base(folder: Path, name: str, base: nn.Module) -> None:
    """Raises CheckpointError where the adapter in `folder` was trained on another base than the one loaded."""
    path = folder / BASE_FILE
    try:
        header = json.loads(path.read_text())
        wanted = (header["base"], header["architecture"], header["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); copy the checkpoint again"
        ) from error
    found = (type(base).__name__, fingerprint(base))
    if found != wanted[1:]:
        raise CheckpointError(
            f"{folder}: its adapter was trained on {wanted[0]} ({wanted[1]}, weights {wanted[2]}); policy.base {name} is "
            f"another model ({found[0]}, weights {found[1]}): name the base that it was trained on"
        )


__all__ = [
    "BASE_FILE",
    "BASE_FOLDER",
    "PROCESSOR_FOLDER",
    "check_base",
    "own_tensors",
    "write_base",
]

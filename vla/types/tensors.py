"""The same function on every tensor of a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vla.types.binary_ends import binary_middle

D = TypeVar("D")


def map_tensors(value: D, function: Callable[[Tensor], Tensor]) -> D:
    """A copy of a dataclass with `function` applied to its tensors, also to those of its dicts.

    Fields of other types (texts, None) stay as they are.
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        content = getattr(value, field.name)
        if isinstance(content, Tensor):
            changed[field.name] = function(content)
        elif isinstance(content, dict):
            changed[field.name] = {key: function(tensor) for key, tensor in content.items()}
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def to_device(value: D, device: torch.device | str, non_blocking: bool) -> D:
    """A copy of a dataclass whose tensors are on `device`."""
    # non_blocking gains nothing unless the tensors are in pinned memory
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def to_ends(
    actions: Float[Tensor, "... A"],
    names: Sequence[str],
    binary_ends: Mapping[str, tuple[float, float]],
) -> Float[Tensor, "... A"]:
    """`Spec.to_ends` for tensors: binary dimensions are moved to the nearer end of their range.

    Args:
        actions: robot units.
        names: of the dimensions.
        binary_ends: `Spec.binary_ends`.
    """
    if not binary_ends:
        return actions
    # column by column and stacked: an exported graph changes nothing in place
    columns = list(actions.unbind(-1))
    for name, (low, high) in binary_ends.items():
        dim = names.index(name)
        upper = columns[dim] >= binary_middle(low, high)
        columns[dim] = torch.full_like(columns[dim], low).masked_fill(upper, high)
    return torch.stack(columns, -1)


def is_exporting() -> bool:
    """Whether `torch.export` traces what runs: a graph cannot look at numbers to decide."""
    # torch 2.6 does not tell exporting from compiling
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(asked())

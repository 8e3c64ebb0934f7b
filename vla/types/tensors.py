"""The same function on every tensor of a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

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


def is_exporting() -> bool:
    """Whether `torch.export` traces what runs: a graph cannot look at numbers to decide."""
    # torch 2.6 does not tell exporting from compiling
    asked = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(asked())

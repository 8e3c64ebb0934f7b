"""The same function on every tensor of a dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

D = TypeVar("D")


def map_tensors(value: D, function: Callable[[Tensor], Tensor]) -> D:
    changed: dict[str, Any] = {}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        v = getattr(value, f.name)
        if isinstance(v, Tensor):
            changed[f.name] = function(v)
        elif isinstance(v, dict):
            changed[f.name] = {k: function(t) for k, t in v.items()}
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def to_device(value: D, device: torch.device | str, non_blocking: bool) -> D:
    return map_tensors(value, lambda t: t.to(device, non_blocking=non_blocking))

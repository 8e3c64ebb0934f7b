"""What passes between the rooms: specs, observations, batches, outputs.

Shape letters used everywhere: B batch, T time steps of context, K actions per chunk,
A action dimensions, S state dimensions, F features, H and W image height and width.

The names are loaded when they are first used: a spec, and what acts by numpy alone, need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.types.batch import Batch
    from vla.types.errors import SpecError
    from vla.types.images import ImageSize, resized
    from vla.types.observation import Observation
    from vla.types.policy import (
        ActionDistribution,
        Actor,
        Continuable,
        Memory,
        PolicyOutput,
        TokenDistribution,
    )
    from vla.types.spec import Spec

_HOME = {
    "ActionDistribution": "policy",
    "Actor": "policy",
    "Batch": "batch",
    "Continuable": "policy",
    "TokenDistribution": "policy",
    "ImageSize": "images",
    "Memory": "policy",
    "Observation": "observation",
    "PolicyOutput": "policy",
    "Spec": "spec",
    "SpecError": "errors",
    "resized": "images",
}

__all__ = [
    "ActionDistribution",
    "Actor",
    "Batch",
    "Continuable",
    "ImageSize",
    "Memory",
    "Observation",
    "PolicyOutput",
    "Spec",
    "SpecError",
    "TokenDistribution",
    "resized",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vla.types' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"vla.types.{_HOME[name]}"), name)
    # found by itself from now on: some of these names are asked for at every control step
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

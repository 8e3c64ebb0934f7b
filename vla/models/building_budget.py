"""How large a policy may become while it is built for weights whose size is known.

A config is a few hundred bytes, and can describe a model of any size. What is built for the weights
of a checkpoint cannot be much larger than they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vla.models.checkpoint_files import CheckpointError

NUMBERS_PER_STORED = 16
"""Numbers that building may ask for, for each one that is stored: initial values, and their
copies."""
FREE_NUMBERS = 2**26
"""That any model may have beside them (256 MiB of float32): masks, tables of positions."""
CALLS_PER_STORED, FREE_CALLS = 100, 20_000
"""Tensors that may be made for each stored one, and for any model."""
_FACTORIES = frozenset(
    (
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.eye),
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.arange, torch.linspace),
    )
)


class BuildingBudget(TorchFunctionMode):
    """Within it, tensors are made only as long as their sizes suit the stored ones.

    Args:
        stored: shapes of what is stored, by name.
        copies: how many times the model holds it while it is built.

    Raises CheckpointError at the first tensor that is too many or too much.
    """

    def __init__(self, stored: Mapping[str, Sequence[int]], *, copies: int = 1) -> None:
        super().__init__()
        self.stored = sum(_size(shape) for shape in stored.values())
        self.numbers = copies * NUMBERS_PER_STORED * self.stored + FREE_NUMBERS
        self.calls = copies * CALLS_PER_STORED * len(stored) + FREE_CALLS

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _FACTORIES:
            self._spend(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _spend(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> None:
        without = {key: kwargs[key] for key in kwargs if key not in ("generator", "out", "device")}
        # on this device tensors have a shape and no memory
        self.numbers -= func(*args, **without, device="meta").numel()
        self.calls -= 1
        if self.numbers < 0 or self.calls < 0:
            raise CheckpointError(
                f"its config describes a model that is far larger than its weights, which hold "
                f"{self.stored} numbers; the files do not belong together"
            )


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


__all__ = ["BuildingBudget"]

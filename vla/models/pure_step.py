"""One control step as a function of tensors alone: what can be written down as a graph.

B robots, S state dimensions, E numbers of an instruction's vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from vla.types import PolicyOutput


@runtime_checkable
class PureStep(Protocol):
    """A policy that can be exported, since its memory is nothing but tensors of fixed shapes.

    `Policy.step` is free to remember texts, to count steps and to let tensors grow. A graph is not.
    """

    def empty_memory(self) -> dict[str, Tensor]:
        """What one robot remembers at its first step, (1, ...) each: zeros and False.

        Zeros, so that whoever holds the memory can let a robot start without knowing what is in it.
        """
        ...

    def pure_step(
        self,
        images: Mapping[str, UInt8[Tensor, "B H W 3"]],
        state: Float[Tensor, "B S"],
        language: Float[Tensor, "B E"],
        memory: Mapping[str, Tensor],
    ) -> tuple[PolicyOutput, dict[str, Tensor]]:
        """The output (B, 1, ...) of the present step, and the new memory.

        Equal to `Policy.step`, up to rounding, from an episode's first step on.

        Args:
            images: of the cameras that the policy looks through, of the spec's sizes.
            state: robot units.
            language: vectors as `Policy.embed_instructions` gives them.
            memory: with the names and shapes of `empty_memory`, B in place of 1.
        """
        ...


__all__ = ["PureStep"]

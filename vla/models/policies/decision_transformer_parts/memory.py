"""What a Decision Transformer remembers of B robots in control.

S past steps, n tokens of a segment, A action dimensions, C channels of a layer, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vla.models.layers.vision_encoder import Modulation
from vla.models.memory import select_modulation, select_rows, stack_modulation, stack_steps
from vla.models.trunk_cache import TrunkCache


@dataclass(frozen=True)
class DecisionMemory:
    """What is remembered of B robots.

    Attributes:
        content: segment -> tokens (B, S, n, D) of the past steps; of the last one alone if keys are
            kept.
        actions: (B, S, A), what was done, robot units.
        ages: past steps of each robot in the window.
        clock: (B,), index of the last step in the episode.
        target: (B,), what was asked for from the last step on, before its reward is known.
        instruction: what conditioned the tokens.
        prefix: tokens (B, n, D) of the instruction.
        modulation: FiLM's scale and shift for each robot, (B, C) each, layer by layer.
        cache: keys and values of the steps before the one in `content`; None if keys are not kept.
    """

    content: dict[str, Tensor]
    actions: Tensor
    ages: tuple[int, ...]
    clock: Tensor
    target: Tensor
    instruction: tuple[str, ...]
    prefix: dict[str, Tensor]
    modulation: Modulation
    cache: TrunkCache | None = None

    @property
    def batch_size(self) -> int:
        return len(self.ages)

    def select(self, rows: Sequence[int]) -> DecisionMemory:
        """The memory of some robots, in the order given."""
        index = list(rows)
        return DecisionMemory(
            content=select_rows(self.content, index),
            actions=self.actions[index],
            ages=tuple(self.ages[row] for row in index),
            clock=self.clock[index],
            target=self.target[index],
            instruction=tuple(self.instruction[row] for row in index),
            prefix=select_rows(self.prefix, index),
            modulation=select_modulation(self.modulation, index),
            cache=None if self.cache is None else self.cache.select(index),
        )

    @classmethod
    def stack(cls, memories: Sequence[DecisionMemory]) -> DecisionMemory:
        """The memories of several groups of robots, of whatever age, as one."""
        first = memories[0]
        content = {}
        # robots of different age: shorter memories are filled up on the left
        for name in first.content:
            content[name] = stack_steps([memory.content[name] for memory in memories])
        prefix = {}
        for name in first.prefix:
            # an instruction's tokens stand before all steps: there is no age to align
            prefix[name] = torch.cat([memory.prefix[name] for memory in memories])
        ages: list[int] = []
        instruction: list[str] = []
        for memory in memories:
            ages += memory.ages
            instruction += memory.instruction
        # one policy keeps keys for all of its robots or for none
        caches = [memory.cache for memory in memories if memory.cache is not None]
        return cls(
            content=content,
            actions=stack_steps([memory.actions for memory in memories]),
            ages=tuple(ages),
            clock=torch.cat([memory.clock for memory in memories]),
            target=torch.cat([memory.target for memory in memories]),
            instruction=tuple(instruction),
            prefix=prefix,
            modulation=stack_modulation([memory.modulation for memory in memories]),
            cache=TrunkCache.stack(caches) if caches else None,
        )


__all__ = ["DecisionMemory"]

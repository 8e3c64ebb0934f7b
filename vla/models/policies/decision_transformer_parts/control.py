"""How one new step of a Decision Transformer meets the remembered ones, in two exact ways.

B robots, T steps of the window, A action dimensions, R slots that are read, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vla.models.memory import age_mask, append_steps, last_steps
from vla.models.policies.decision_transformer_parts.memory import DecisionMemory
from vla.models.trajectory_transformer import TrajectoryTransformer


@dataclass(frozen=True)
class Control:
    """One step in control: the new step's memory and the old one -> hidden states, memory.

    Attributes:
        transformer: the trunk.
        read: slots of a step from which the head reads.
        history: steps of the longest window.
        action_content: actions (B, T, A) in robot units -> their tokens by segment.
    """

    transformer: TrajectoryTransformer
    read: range
    history: int
    action_content: Callable[[Tensor], dict[str, Tensor]]

    def run_again(
        self,
        new: DecisionMemory,
        memory: DecisionMemory | None,
    ) -> tuple[Tensor, DecisionMemory]:
        """The transformer runs over the remembered tokens once more -> (B, 1, R, D), memory.

        Without a window per layer a key kept from before has seen steps that have left the window
        since: keeping keys would not be exact.
        """
        content = new.content
        actions_BTA = new.actions
        if memory is not None:
            content = append_steps(memory.content, content)
            actions_BTA = torch.cat([memory.actions, actions_BTA], dim=1)
        T = max(new.ages) + 1
        content = last_steps(content, T)
        actions_BTA = actions_BTA[:, -T:]
        device = new.clock.device
        mask_BT = age_mask(new.ages, T)
        if mask_BT is not None:
            mask_BT = mask_BT.to(device)
        ago_T = torch.arange(1 - T, 1, device=device)
        times_BT = new.clock[:, None] + ago_T
        hidden_B1RD = self.transformer(
            content | self.action_content(actions_BTA) | new.prefix,
            mask_BT,
            read=self.read,
            last_step_only=True,
            # negative before a younger robot's first step: masked, they only have to be valid
            timesteps=times_BT.clamp(min=0),
        )
        kept = min(T, self.history - 1)
        # `remember` writes into the last action, whether a step is kept or not
        first = actions_BTA.shape[1] - max(kept, 1)
        return hidden_B1RD, dataclasses.replace(
            new,
            content=last_steps(content, kept),
            actions=actions_BTA[:, first:],
            ages=tuple(min(age + 1, kept) for age in new.ages),
        )

    def advance(
        self,
        new: DecisionMemory,
        memory: DecisionMemory | None,
    ) -> tuple[Tensor, DecisionMemory]:
        """As `run_again`, for a trunk that keeps keys and values.

        The last step joins them one step late, now that its action is known; then the present step
        reads them.
        """
        if memory is not None and memory.instruction != new.instruction:
            return self._advance_apart(new, memory)
        cache = None
        if memory is not None:
            past = memory.content | self.action_content(memory.actions) | memory.prefix
            _, cache = self.transformer.advance(
                past,
                memory.cache,
                read=self.read,
                timesteps=memory.clock[:, None],
            )
        present = new.content | self.action_content(new.actions) | new.prefix
        hidden_B1RD, with_present = self.transformer.advance(
            present,
            cache,
            read=self.read,
            timesteps=new.clock[:, None],
        )
        if cache is None:
            # the present step's keys have seen zeros for its action: only the prefix is kept
            cache = with_present.without_steps()
        ages = tuple(age + 1 for age in new.ages)
        return hidden_B1RD, dataclasses.replace(new, cache=cache, ages=ages)

    def _advance_apart(
        self,
        new: DecisionMemory,
        memory: DecisionMemory,
    ) -> tuple[Tensor, DecisionMemory]:
        """Robots whose instruction has changed begin a new history: their keys have seen the old
        one."""
        same = unchanged(memory.instruction, new.instruction)
        kept = [row for row, goes_on in enumerate(same) if goes_on]
        changed = [row for row, goes_on in enumerate(same) if not goes_on]
        parts = [self.advance(new.select(changed), None)]
        if kept:
            parts.append(self.advance(new.select(kept), memory.select(kept)))
        # back to the order of the batch
        rows = [*changed, *kept]
        order = sorted(range(len(rows)), key=rows.__getitem__)
        joined = DecisionMemory.stack([part for _, part in parts])
        hidden_B1RD = torch.cat([hidden for hidden, _ in parts])
        return hidden_B1RD[order], joined.select(order)


def unchanged(old: tuple[str, ...], new: tuple[str, ...]) -> list[bool]:
    """Which robots still have the instruction that they had."""
    return [before == now for before, now in zip(old, new, strict=True)]


__all__ = ["Control", "unchanged"]

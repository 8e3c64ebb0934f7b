"""Which tokens enter a trunk for one kind of call, who attends to whom, and which are read.

B windows, T steps, N tokens per step, L tokens of the sequence, L' those that enter the
transformer, R slots read per step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from vla.tokenizers.layout import CompiledLayout, Layout


@dataclass(frozen=True)
class TrunkPlan:
    """What one kind of call needs, on one device.

    Attributes:
        compiled: the layout for T steps, L tokens.
        keep: places in the sequence of the L' tokens that enter; None for all.
        mask: (L', L'), True if the row's token may attend to the column's.
        step_ids: (L',), the prefix counts as step 0.
        read: places among the kept tokens, step-major.
    """

    compiled: CompiledLayout
    keep: Int64[Tensor, " Lk"] | None
    mask: Bool[Tensor, "Lk Lk"]
    step_ids: Int64[Tensor, " Lk"]
    read: Int64[Tensor, " TR"]

    def mask_for(self, mask_BT: Bool[Tensor, "B T"] | None) -> Tensor:
        """The mask without padded steps, (B, 1, L', L'); (L', L') if there are none."""
        if mask_BT is None:
            return self.mask
        mask_BLL = self.compiled.with_step_mask(mask_BT)
        if self.keep is not None:
            mask_BLL = mask_BLL[:, self.keep][:, :, self.keep]
        return mask_BLL[:, None]  # one mask for all attention heads

    def valid_tokens(self, mask_BT: Bool[Tensor, "B T"]) -> Bool[Tensor, "B Lk"]:
        """False at the tokens of padded steps."""
        steps_L = self.compiled.step_ids.to(mask_BT.device)
        if self.keep is not None:
            steps_L = steps_L[self.keep]
        # the prefix has step -1: a last column that is always True
        always_B1 = mask_BT.new_ones(mask_BT.shape[0], 1)
        return torch.cat([mask_BT, always_B1], dim=1)[:, steps_L]


def make_plan(
    layout: Layout,
    T: int,
    read: tuple[int, ...],
    last_step_only: bool,
    device: torch.device,
) -> TrunkPlan:
    """The plan for windows of T steps whose slots `read` are wanted."""
    compiled = layout.compile(T)
    # prefix tokens have slots of their own, which count from 0 too
    read_L = torch.isin(compiled.slot_ids, torch.tensor(read))
    read_L &= compiled.step_ids >= 0
    keep_L = torch.ones_like(read_L)
    if last_step_only:
        read_L &= compiled.step_ids == T - 1
        keep_L &= ~_unneeded(layout, compiled, read_L)
    kept = keep_L.nonzero().flatten()
    place_of = {place: number for number, place in enumerate(kept.tolist())}
    steps = [T - 1] if last_step_only else range(T)
    rows = []
    for step in steps:
        start = layout.prefix_tokens + step * layout.tokens_per_step
        # in the order of `read`, which a head relies on, not in that of the sequence
        rows += [place_of[start + slot] for slot in read]
    # the prefix has step -1, a time that no positions have
    step_ids = compiled.step_ids[kept].clamp(min=0)
    return TrunkPlan(
        compiled=compiled,
        keep=None if bool(keep_L.all()) else kept.to(device),
        mask=compiled.mask[kept][:, kept].to(device),
        step_ids=step_ids.to(device),
        read=torch.tensor(rows).to(device),
    )


def _unneeded(
    layout: Layout, compiled: CompiledLayout, read_L: Bool[Tensor, " L"]
) -> Bool[Tensor, " L"]:
    """Empty slots that may be left out when only `read_L` of the last step is wanted.

    Nothing attends to them, so every other token stays what it is: the saving is exact. In control
    most slots of RT-1 are of this kind.
    """
    last_L = compiled.step_ids == compiled.steps - 1
    unneeded_L = torch.zeros_like(read_L)
    for index, segment in enumerate(layout.segments):
        if layout.independent_slots(segment.name):
            # same-step slots may attend to one another: then the last step's are kept together
            alone = layout.relation(segment.name, segment.name) == "none"
            needed_L = read_L if alone else last_L
            unneeded_L |= (compiled.segment_ids == index) & ~needed_L
    return unneeded_L


__all__ = ["TrunkPlan", "make_plan"]

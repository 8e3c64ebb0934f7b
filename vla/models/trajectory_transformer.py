"""The transformer that follows a layout: segments of tokens go in, the hidden states of chosen slots come out.

B windows, T steps, N tokens per step, L tokens of the sequence, D width, R slots that are read per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vla.models.layers.transformer import Block, FeedForwardKind, rotation
from vla.tokenizers.layout import CompiledLayout, Layout

Positions = Literal["absolute", "rotary"]


@dataclass(frozen=True)
class _Plan:
    """What one kind of call needs, on one device; L tokens of the T steps, of which `keep` enter the transformer."""

    compiled: CompiledLayout
    keep: Tensor | None  # places in the sequence, None for all
    mask: Tensor  # (L', L') over the kept tokens
    step_ids: Tensor  # (L',)
    read: Tensor  # places among the kept tokens, step-major


class TrajectoryTransformer(nn.Module):
    """A stack of pre-LN layers over the tokens of at most `steps` steps.

    Windows shorter than `steps` stand at its end, as padded windows do: their last step has the last positions.

    Args:
        layout: segments and attention rules.
        steps: longest window.
        positions: absolute (learned, one per token of the longest window: RT-1) or rotary (over time steps, plus a
            learned embedding of the place in the step; attention then knows only time differences).
    """

    def __init__(
        self,
        layout: Layout,
        *,
        steps: int,
        width: int,
        depth: int,
        heads: int,
        key_dim: int,
        feed_forward: FeedForwardKind = "linear",
        dropout: float = 0.0,
        positions: Positions = "absolute",
    ) -> None:
        super().__init__()
        self.layout, self.steps, self.width, self.key_dim, self.positions = layout, steps, width, key_dim, positions
        self.embed = nn.Linear(width, width)
        slots = layout.length(steps if positions == "absolute" else 1)
        self.position = nn.Parameter(torch.empty(slots, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, key_dim, feed_forward=feed_forward, dropout=dropout) for _ in range(depth)
        )
        self._plans: dict[tuple[int, tuple[int, ...], bool, torch.device], _Plan] = {}
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.05)

    def forward(
        self,
        content: Mapping[str, Float[Tensor, "B ... n D"]],
        mask_BT: Bool[Tensor, "B T"] | None,
        *,
        read: Sequence[int],
        last_step_only: bool = False,
    ) -> Float[Tensor, "B steps R D"]:
        """
        Args:
            content: tokens (B, T, n, D) of every segment with content; of prefix segments (B, n, D).
            mask_BT: False at padded steps; None where there are none.
            read: slots of a step whose hidden states are wanted, of all T steps.
            last_step_only: of the last step only -> (B, 1, R, D). Empty slots that nobody needs for it are not
                computed, which changes nothing in the result.

        Raises:
            ValueError: more steps than the transformer was built for.
        """
        x_BLD, T = self._tokens(content)
        plan = self._plan(T, tuple(read), last_step_only, x_BLD.device)
        mask = plan.mask if mask_BT is None else self._padded_mask(plan, mask_BT)
        if plan.keep is not None:
            x_BLD = x_BLD[:, plan.keep]
        turn = rotation(plan.step_ids, self.key_dim) if self.positions == "rotary" else None
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, mask, None, turn)
        x_BRD = self.blocks[-1](x_BLD, mask[..., plan.read, :], plan.read, turn)
        return x_BRD.unflatten(1, (-1, len(read)))

    def _tokens(self, content: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Embedded tokens with positions (B, L, D), and the number of steps."""
        first = next(content[s.name] for s in self.layout.step if s.content)
        B, T = first.shape[:2]
        if self.steps < T:
            raise ValueError(f"got {T} steps, the policy's history is {self.steps}; use windows of that length")
        empty = self.embed.bias.view(1, 1, 1, -1)  # what a token of zeros becomes
        parts = [
            self.embed(content[s.name]) if s.content else empty.expand(B, T, s.tokens, -1) for s in self.layout.step
        ]
        x_BLD = torch.cat(parts, dim=2).flatten(1, 2)
        if self.layout.prefix:
            parts = [
                self.embed(content[s.name]) if s.content else empty[0].expand(B, s.tokens, -1)
                for s in self.layout.prefix
            ]
            x_BLD = torch.cat([*parts, x_BLD], dim=1)
        return x_BLD + self._positions(T).to(x_BLD.dtype), T

    def _positions(self, T: int) -> Tensor:
        head, N = self.layout.prefix_tokens, self.layout.tokens_per_step
        if self.positions == "rotary":
            return torch.cat([self.position[:head], self.position[head:].repeat(T, 1)])
        return torch.cat([self.position[:head], self.position[len(self.position) - T * N :]])

    def _plan(self, T: int, read: tuple[int, ...], last_step_only: bool, device: torch.device) -> _Plan:
        key = (T, read, last_step_only, device)
        if key not in self._plans:
            self._plans[key] = _make_plan(self.layout, T, read, last_step_only, device)
        return self._plans[key]

    def _padded_mask(self, plan: _Plan, mask_BT: Tensor) -> Tensor:
        mask_BLL = plan.compiled.with_step_mask(mask_BT)
        if plan.keep is not None:
            mask_BLL = mask_BLL[:, plan.keep][:, :, plan.keep]
        return mask_BLL[:, None]


def _make_plan(layout: Layout, T: int, read: tuple[int, ...], last_step_only: bool, device: torch.device) -> _Plan:
    compiled = layout.compile(T)
    wanted = (compiled.step_ids[:, None] >= 0) & (compiled.slot_ids[:, None] == torch.tensor(read))
    if last_step_only:
        wanted &= compiled.step_ids[:, None] == T - 1
    places = wanted.any(1)
    keep = torch.ones_like(places)
    if last_step_only:
        for index, segment in enumerate(layout.segments):
            if layout.independent_slots(segment.name):
                # same-step slots may serve one another: then the last step's are kept together
                alone = layout.relation(segment.name, segment.name) == "none"
                needed = places if alone else compiled.step_ids == T - 1
                keep &= (compiled.segment_ids != index) | needed
    kept = keep.nonzero().flatten()
    order = {int(place): i for i, place in enumerate(kept)}
    steps = [T - 1] if last_step_only else range(T)
    start, N = layout.prefix_tokens, layout.tokens_per_step
    rows = torch.tensor([order[start + t * N + slot] for t in steps for slot in read])
    return _Plan(
        compiled=compiled,
        keep=None if bool(keep.all()) else kept.to(device),
        mask=compiled.mask[kept][:, kept].to(device),
        step_ids=compiled.step_ids[kept].clamp(min=0).to(device),
        read=rows.to(device),
    )


__all__ = ["Positions", "TrajectoryTransformer"]

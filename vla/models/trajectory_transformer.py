"""The trunk that follows a layout: segments of tokens go in, the hidden states of chosen slots come out.

B windows, T steps, N tokens per step, L tokens of the sequence, D width, R slots that are read per step, S steps whose
keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from vla.models.layers.transformer import Block, FeedForwardKind, KeyValue, rotation
from vla.tokenizers.layout import CompiledLayout, Layout, LayoutError

Positions = Literal["absolute", "rotary", "timestep"]
AttentionKind = Literal["sdpa", "flex"]


@dataclass(frozen=True)
class TrunkCache:
    """Keys and values of past steps of B robots, layer by layer; and of the prefix.

    Attributes:
        prefix: (B, H, P, E) each, of the prefix's tokens.
        steps: (B, H, S * n, E) each, of the n tokens per step that others may attend to.
        ages: past steps of each robot, more than S where older ones are out of sight.
        tokens: n.
    """

    prefix: tuple[KeyValue, ...]
    steps: tuple[KeyValue, ...]
    ages: tuple[int, ...]
    tokens: int

    def select(self, rows: Sequence[int]) -> TrunkCache:
        """Of some robots, in the order given."""
        index = list(rows)
        prefix, steps = (
            tuple((k[index], v[index]) for k, v in part) for part in (self.prefix, self.steps)
        )
        return TrunkCache(prefix, steps, tuple(self.ages[i] for i in index), self.tokens)

    def without_steps(self) -> TrunkCache:
        """The prefix alone: what is known before the first step."""
        steps = tuple((k[:, :, :0], v[:, :, :0]) for k, v in self.steps)
        return TrunkCache(self.prefix, steps, (0,) * len(self.ages), self.tokens)

    @classmethod
    def stack(cls, caches: Sequence[TrunkCache]) -> TrunkCache:
        """Of several groups of robots, of whatever age, as one."""
        longest = max(cache.steps[0][0].shape[2] for cache in caches)

        def joined(parts: Sequence[tuple[KeyValue, ...]]) -> tuple[KeyValue, ...]:
            return tuple(
                (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
                for layer in zip(*parts, strict=True)
            )

        padded = [
            tuple((_pad_left(k, longest), _pad_left(v, longest)) for k, v in c.steps)
            for c in caches
        ]
        ages = tuple(age for cache in caches for age in cache.ages)
        return cls(joined([c.prefix for c in caches]), joined(padded), ages, caches[0].tokens)


@dataclass(frozen=True)
class _Plan:
    """What one kind of call needs, on one device; L tokens of the T steps, of which `keep` enter the transformer."""

    compiled: CompiledLayout
    keep: Tensor | None  # places in the sequence, None for all
    mask: Tensor  # (L', L') over the kept tokens
    step_ids: Tensor  # (L',), the prefix counts as step 0
    read: Tensor  # places among the kept tokens, step-major


class TrajectoryTransformer(nn.Module):
    """A stack of pre-LN layers over the tokens of at most `steps` steps.

    Windows shorter than `steps` stand at its end, as padded windows do: their last step has the last positions.

    Args:
        layout: segments and attention rules.
        steps: longest window.
        positions: absolute (learned, one per token of the longest window: RT-1), rotary (over time steps, plus a
            learned embedding of the place in the step; attention then knows only time differences) or timestep (a
            learned embedding of the step's index in its episode, shared by the tokens of the step, plus one of the
            place in the step: Decision Transformer).
        max_timestep: episodes' longest duration, for `timestep`; later steps count as the last.
        project: a linear layer over all tokens (RT-1); without it tokens enter as they are.
        normalise: LayerNorm before the first and after the last layer (Decision Transformer).
        attention: sdpa, or flex: block-sparse from the same mask, without dropout. Where flex_attention has no gradient
            (on CPUs) training uses sdpa all the same.
        backbone: another stack in place of the native one: see `vla.models.layers.backbone`.
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
        max_timestep: int = 0,
        project: bool = True,
        normalise: bool = False,
        attention: AttentionKind = "sdpa",
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if attention == "flex" and dropout:
            raise LayoutError(
                f"attention: flex has no dropout, but dropout is {dropout:g}; set dropout: 0, or use sdpa"
            )
        if positions == "timestep" and max_timestep < 1:
            raise LayoutError(
                f"max_timestep must be at least 1 for positions: timestep, got {max_timestep}"
            )
        self.layout, self.steps, self.width, self.key_dim, self.positions = (
            layout,
            steps,
            width,
            key_dim,
            positions,
        )
        self.attention, self.dropout, self.max_timestep = attention, dropout, max_timestep
        if project:
            self.embed = nn.Linear(width, width)
        slots = layout.length(steps if positions == "absolute" else 1)
        self.position = nn.Parameter(torch.empty(slots, width))
        if positions == "timestep":
            self.time = nn.Embedding(max_timestep, width)
        if normalise:
            self.norm_in = nn.LayerNorm(width)
            if backbone is None:  # which has a last norm of its own
                self.norm_out = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, heads, key_dim, feed_forward=feed_forward, dropout=dropout)
            for _ in range(depth if backbone is None else 0)
        )
        self._plans: dict[tuple[int, tuple[int, ...], bool, torch.device], _Plan] = {}
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.05)
        if positions == "timestep":
            nn.init.normal_(self.time.weight, std=0.02)
        self.dropped = nn.ParameterDict(
            {
                s.name: nn.Parameter(0.05 * torch.randn(s.tokens, width))
                for s in layout.segments
                if s.dropout
            }
        )
        self.backbone = backbone  # after the initialisation: it has its own, or weights

    def forward(
        self,
        content: Mapping[str, Float[Tensor, "B ... n D"]],
        mask_BT: Bool[Tensor, "B T"] | None,
        *,
        read: Sequence[int],
        last_step_only: bool = False,
        timesteps: Int64[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B steps R D"]:
        """
        Args:
            content: tokens (B, T, n, D) of every segment with content; of prefix segments (B, n, D). A segment with
                dropout may be left out: the vector that it was dropped for in training stands there.
            mask_BT: False at padded steps; None where there are none.
            read: slots of a step whose hidden states are wanted, of all T steps.
            last_step_only: of the last step only -> (B, 1, R, D). Empty slots that nobody needs for it are not
                computed, which changes nothing in the result.
            timesteps: index of each step in its episode, for `positions: timestep`.

        Raises:
            LayoutError: a segment's content or the timesteps are missing.
            ValueError: more steps than the transformer was built for.
        """
        x_BLD, T = self._tokens(content, timesteps)
        x_BLD = self._enter(x_BLD)
        plan = self._plan(T, tuple(read), last_step_only, x_BLD.device)
        if plan.keep is not None:
            x_BLD = x_BLD[:, plan.keep]
        if self.backbone is not None:
            valid_BL = None if mask_BT is None else self._valid(plan, mask_BT)
            mask = plan.mask if mask_BT is None else self._padded_mask(plan, mask_BT)
            hidden_BLD = self.backbone(x_BLD, mask=mask, valid=valid_BL, step_ids=plan.step_ids)
            return hidden_BLD[:, plan.read].unflatten(1, (-1, len(read)))
        turn = rotation(plan.step_ids, self.key_dim) if self.positions == "rotary" else None
        if self.attention == "flex" and (x_BLD.is_cuda or not torch.is_grad_enabled()):
            blocks = self._block_mask(plan, mask_BT, len(x_BLD))
            for block in self.blocks:
                x_BLD = block(x_BLD, blocks, None, turn)
            return self._leave(x_BLD[:, plan.read]).unflatten(1, (-1, len(read)))
        mask = plan.mask if mask_BT is None else self._padded_mask(plan, mask_BT)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, mask, None, turn)
        x_BRD = self.blocks[-1](x_BLD, mask[..., plan.read, :], plan.read, turn)
        return self._leave(x_BRD).unflatten(1, (-1, len(read)))

    def advance(
        self,
        content: Mapping[str, Float[Tensor, "B ... n D"]],
        cache: TrunkCache | None,
        *,
        read: Sequence[int],
        timesteps: Int64[Tensor, "B 1"] | None = None,
    ) -> tuple[Float[Tensor, "B 1 R D"], TrunkCache]:
        """One new step for B robots: equal to the last step of `forward` over their whole episodes, at the cost of one.

        That takes a layout with a `window`: then no key of a step in sight has seen a step that is not. (Where each
        layer looks back over all of a sliding window, a key kept from before has seen steps that have left it since.)

        Args:
            content: of the new step, (B, 1, n, D); of prefix segments (B, n, D), used where `cache` is None.
            cache: what the last call returned; None where all robots are at their first step.

        Raises:
            LayoutError: the layout has no window, positions are absolute, or the trunk is no native one.
        """
        window = self.layout.window
        if window is None or self.positions == "absolute" or self.backbone is not None:
            raise LayoutError(
                "keys and values can be kept for a native trunk whose layout has a window and whose positions are rotary or "
                "timestep; run forward over the window instead"
            )
        x_BLD, _ = self._tokens(content, timesteps)
        head = self.layout.prefix_tokens
        x_BLD = self._enter(x_BLD if cache is None else x_BLD[:, head:])
        kept = torch.tensor(self._kept_slots(), device=x_BLD.device)
        S = 0 if cache is None else cache.steps[0][0].shape[2] // cache.tokens
        ages = cache.ages if cache is not None else (0,) * len(x_BLD)
        mask = self._advance_mask(S, ages, kept, first=cache is None).to(x_BLD.device)
        turn = self._turns(ages, head if cache is None else 0, x_BLD.device)
        prefixes, steps = [], []
        for layer, block in enumerate(cast(Sequence[Block], self.blocks)):
            past = None
            if cache is not None:
                parts = zip(cache.prefix[layer], cache.steps[layer], strict=True)
                keys, values = (torch.cat(pair, dim=2) for pair in parts)
                past = (keys, values)
            x_BLD, new = block.extend(x_BLD, mask, past, turn)
            if cache is None:
                prefixes.append((new[0][:, :, :head], new[1][:, :, :head]))
                new = (new[0][:, :, head:], new[1][:, :, head:])
            new = (new[0][:, :, kept], new[1][:, :, kept])
            if cache is not None:
                new = (
                    torch.cat([cache.steps[layer][0], new[0]], 2),
                    torch.cat([cache.steps[layer][1], new[1]], 2),
                )
            visible = min(S + 1, window - 1) * len(kept)
            steps.append((_last(new[0], visible), _last(new[1], visible)))
        prefix = tuple(prefixes) if cache is None else cache.prefix
        hidden_BND = self._leave(x_BLD[:, head if cache is None else 0 :])
        new_cache = TrunkCache(prefix, tuple(steps), tuple(age + 1 for age in ages), len(kept))
        return hidden_BND[:, list(read)][:, None], new_cache

    # --- tokens ---------------------------------------------------------------------------------------

    def _enter(self, x_BLD: Tensor) -> Tensor:
        if not hasattr(self, "norm_in"):
            return x_BLD
        return nn.functional.dropout(self.norm_in(x_BLD), self.dropout, self.training)

    def _leave(self, x_BRD: Tensor) -> Tensor:
        return self.norm_out(x_BRD) if hasattr(self, "norm_out") else x_BRD

    def _tokens(
        self, content: Mapping[str, Tensor], timesteps: Tensor | None
    ) -> tuple[Tensor, int]:
        """Embedded tokens with positions (B, L, D), and the number of steps."""
        if missing := [
            s.name
            for s in self.layout.segments
            if s.content and not s.dropout and s.name not in content
        ]:
            raise LayoutError(
                f"no content for segment {missing[0]!r}; there is content for: {', '.join(content) or 'none'}"
            )
        first = next(content[s.name] for s in self.layout.step if s.name in content)
        B, T = first.shape[:2]
        if self.steps < T:
            raise ValueError(
                f"got {T} steps, the policy's history is {self.steps}; use windows of that length"
            )
        step = [self._segment(s.name, content, (B, T)) for s in self.layout.step]
        x_BLD = torch.cat(step, dim=2).flatten(1, 2)
        if self.layout.prefix:
            x_BLD = torch.cat(
                [*(self._segment(s.name, content, (B,)) for s in self.layout.prefix), x_BLD], dim=1
            )
        return x_BLD + self._positions(T, timesteps).to(x_BLD.dtype), T

    def _segment(self, name: str, content: Mapping[str, Tensor], lead: tuple[int, ...]) -> Tensor:
        """Tokens (*lead, n, D) of a segment."""
        segment = self.layout.segment(name)
        if not segment.content:
            # what a token of zeros becomes
            empty = (
                self.embed.bias if hasattr(self, "embed") else self.position.new_zeros(self.width)
            )
            return empty.expand(*lead, segment.tokens, -1)
        if segment.dropout == 0:
            return self._embedded(content[name])
        stand_in = self.dropped[name].expand(*lead, -1, -1)
        if name not in content:
            return stand_in
        x = self._embedded(content[name])
        if not self.training:
            return x
        gone_B = torch.rand(lead[0], device=x.device) < segment.dropout
        return torch.where(gone_B.view(-1, *(1,) * (x.ndim - 1)), stand_in.to(x.dtype), x)

    def _embedded(self, x: Tensor) -> Tensor:
        return self.embed(x) if hasattr(self, "embed") else x

    def _positions(self, T: int, timesteps: Tensor | None) -> Tensor:
        head, N = self.layout.prefix_tokens, self.layout.tokens_per_step
        if self.positions == "absolute":
            return torch.cat([self.position[:head], self.position[len(self.position) - T * N :]])
        place = torch.cat([self.position[:head], self.position[head:].repeat(T, 1)])
        if self.positions == "rotary":
            return place
        if timesteps is None:
            raise LayoutError("positions: timestep needs the timesteps of the window")
        time_BTD = self.time(timesteps.clamp(0, self.max_timestep - 1))
        time_BLD = time_BTD.repeat_interleave(N, dim=1)
        if head:
            time_BLD = torch.cat(
                [time_BLD.new_zeros(len(time_BLD), head, self.width), time_BLD], dim=1
            )
        return place + time_BLD

    # --- masks ----------------------------------------------------------------------------------------

    def _plan(
        self, T: int, read: tuple[int, ...], last_step_only: bool, device: torch.device
    ) -> _Plan:
        key = (T, read, last_step_only, device)
        if key not in self._plans:
            self._plans[key] = _make_plan(self.layout, T, read, last_step_only, device)
        return self._plans[key]

    def _padded_mask(self, plan: _Plan, mask_BT: Tensor) -> Tensor:
        mask_BLL = plan.compiled.with_step_mask(mask_BT)
        if plan.keep is not None:
            mask_BLL = mask_BLL[:, plan.keep][:, :, plan.keep]
        return mask_BLL[:, None]

    def _valid(self, plan: _Plan, mask_BT: Tensor) -> Tensor:
        """(B, L'), False at the tokens of padded steps."""
        steps = plan.compiled.step_ids.to(mask_BT.device)
        steps = steps if plan.keep is None else steps[plan.keep]
        return torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=1)[:, steps]

    def _block_mask(self, plan: _Plan, mask_BT: Tensor | None, B: int) -> BlockMask:
        """The same mask for flex_attention, which skips blocks where nobody attends to anybody."""
        allowed, L = plan.mask, len(plan.mask)
        valid_BL = None if mask_BT is None else self._valid(plan, mask_BT)

        device = str(allowed.device)
        if valid_BL is None:
            return create_block_mask(
                lambda b, h, q, k: allowed[q, k], None, None, L, L, device=device
            )
        return create_block_mask(
            lambda b, h, q, k: allowed[q, k] & (valid_BL[b, k] | ~valid_BL[b, q]),
            B,
            None,
            L,
            L,
            device=device,
        )

    def _kept_slots(self) -> list[int]:
        """Slots of a step that later steps may attend to."""
        left_out = [s.name for s in self.layout.step if self.layout.independent_slots(s.name)]
        gone = {slot for name in left_out for slot in self.layout.slots(name)}
        return [slot for slot in range(self.layout.tokens_per_step) if slot not in gone]

    def _advance_mask(self, S: int, ages: tuple[int, ...], kept: Tensor, *, first: bool) -> Tensor:
        """(B, 1, new tokens, prefix + S * n + N) (with the prefix among the new tokens at the first step)."""
        compiled, head, N = (
            self.layout.compile(S + 1),
            self.layout.prefix_tokens,
            self.layout.tokens_per_step,
        )
        if first:
            return compiled.mask
        past = head + (torch.arange(S)[:, None] * N + kept.cpu()).flatten()
        columns = torch.cat([torch.arange(head), past, head + S * N + torch.arange(N)])
        mask = compiled.mask[head + S * N :][:, columns]
        # a younger robot has fewer past steps than the oldest of the batch
        step_of = compiled.step_ids[columns]
        known_BC = (step_of < 0) | (step_of >= S - torch.tensor(ages)[:, None])
        return (mask & known_BC[:, None])[:, None]

    def _turns(
        self, ages: tuple[int, ...], head: int, device: torch.device
    ) -> tuple[Tensor, Tensor] | None:
        """Rotations of the new tokens: every robot has its own time."""
        if self.positions != "rotary":
            return None
        steps_BN = torch.tensor(ages, device=device)[:, None].expand(
            -1, self.layout.tokens_per_step
        )
        steps_BN = torch.cat([steps_BN.new_zeros(len(ages), head), steps_BN], dim=1)
        cos, sin = rotation(steps_BN, self.key_dim)
        return cos[:, None], sin[:, None]


def _make_plan(
    layout: Layout, T: int, read: tuple[int, ...], last_step_only: bool, device: torch.device
) -> _Plan:
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


def _last(x_BHPE: Tensor, tokens: int) -> Tensor:
    return x_BHPE[:, :, x_BHPE.shape[2] - tokens :]


def _pad_left(x_BHPE: Tensor, tokens: int) -> Tensor:
    return nn.functional.pad(x_BHPE, (0, 0, tokens - x_BHPE.shape[2], 0))


__all__ = ["AttentionKind", "Positions", "TrajectoryTransformer", "TrunkCache"]

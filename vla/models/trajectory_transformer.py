"""The trunk that follows a layout: tokens of segments go in, hidden states of slots come out.

B windows, T steps, N tokens per step, P tokens of the prefix, n tokens of one segment, L tokens of
the sequence, D width, R slots that are read per step, S steps whose keys and values are kept, E
width of keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from vla.models.layers.mixture_of_experts import ExpertsConfig, Routing
from vla.models.layers.transformer import AttentionMask, Block, FeedForwardKind, KeyValue, rotation
from vla.models.trunk_cache import TrunkCache
from vla.models.trunk_plan import TrunkPlan, make_plan
from vla.tokenizers.layout import Layout, LayoutError
from vla.types.tensors import is_exporting

Positions = Literal["absolute", "rotary", "timestep"]
AttentionKind = Literal["sdpa", "flex"]


class TrajectoryTransformer(nn.Module):
    """A stack of pre-LN layers over the tokens of at most `steps` steps.

    Windows shorter than `steps` stand at its end, as padded windows do: their last step has the
    last positions.

    Args:
        layout: segments and attention rules.
        steps: longest window.
        positions: absolute (learned, one per token of the longest window: RT-1), rotary (over time
            steps, plus a learned embedding of the place in the step; attention then knows only time
            differences) or timestep (a learned embedding of the step's index in its episode, shared
            by the tokens of the step, plus one of the place in the step: Decision Transformer).
        max_timestep: episodes' longest duration, for `timestep`; later steps count as the last.
        project: a linear layer over all tokens (RT-1); without it tokens enter as they are.
        normalise: LayerNorm before the first and after the last layer (Decision Transformer).
        attention: sdpa, or flex: block-sparse from the same mask, without dropout. Where
            flex_attention has no gradient (on CPUs) training uses sdpa all the same.
        experts: a mixture of them in place of each feed-forward layer; None for one layer.
        backbone: another stack in place of the native one: see `vla.models.layers.backbone`.

    Raises:
        LayoutError: flex attention with dropout, or timestep positions without `max_timestep`.
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
        experts: ExpertsConfig | None = None,
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
                f"attention: flex has no dropout, but dropout is {dropout:g}; set dropout: 0, or "
                "use sdpa"
            )
        if positions == "timestep" and max_timestep < 1:
            raise LayoutError(
                f"max_timestep must be at least 1 for positions: timestep, got {max_timestep}"
            )
        self.layout = layout
        self.steps = steps
        self.width = width
        self.key_dim = key_dim
        self.positions = positions
        self.attention = attention
        self.dropout = dropout
        self.max_timestep = max_timestep
        self.experts = experts
        # the order of what follows is that of a checkpoint's names, and of the random numbers
        self.embed = nn.Linear(width, width) if project else None
        slots = layout.length(steps if positions == "absolute" else 1)
        self.position = nn.Parameter(torch.empty(slots, width))
        if positions == "timestep":
            self.time = nn.Embedding(max_timestep, width)
        self.norm_in = nn.LayerNorm(width) if normalise else None
        # a backbone has a last norm of its own
        self.norm_out = nn.LayerNorm(width) if normalise and backbone is None else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                key_dim,
                feed_forward=feed_forward,
                experts=experts,
                dropout=dropout,
            )
            for _ in range(depth if backbone is None else 0)
        )
        # a plan follows from the kind of call alone: it is made once for each
        self._plans: dict[tuple[Any, ...], TrunkPlan] = {}
        self._initialise()
        # what stands in for a segment that is dropped; a ParameterDict of a dict sorts its names
        stand_ins: dict[str, nn.Parameter] = {}
        for segment in layout.segments:
            if segment.dropout:
                stand_in = 0.05 * torch.randn(segment.tokens, width)
                stand_ins[segment.name] = nn.Parameter(stand_in)
        self.dropped = nn.ParameterDict(stand_ins)
        # after the initialisation: it has its own, or pretrained weights
        self.backbone = backbone

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:  # a router has none
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.05)
        if self.positions == "timestep":
            nn.init.normal_(self.time.weight, std=0.02)

    def forward(
        self,
        content: Mapping[str, Float[Tensor, "B ... n D"]],
        mask_BT: Bool[Tensor, "B T"] | None,
        *,
        read: Sequence[int],
        last_step_only: bool = False,
        timesteps: Int64[Tensor, "B T"] | None = None,
        router_losses: list[Tensor] | None = None,
    ) -> Float[Tensor, "B steps R D"]:
        """Hidden states of the slots that are read.

        Args:
            content: tokens (B, T, n, D) of every segment with content; of prefix segments (B, n,
                D). A segment with dropout may be left out: the vector that it was dropped for in
                training stands there.
            mask_BT: False at padded steps; None if there are none.
            read: slots of a step whose hidden states are wanted, of all T steps.
            last_step_only: of the last step only -> (B, 1, R, D). Empty slots that nobody needs for
                it are not computed, which changes nothing in the result.
            timesteps: index of each step in its episode, for `positions: timestep`.
            router_losses: to which the balance loss of each layer with experts is appended
                (`Routing.balance_loss`).

        Raises:
            LayoutError: a segment's content or the timesteps are missing.
            ValueError: more steps than the transformer was built for.
        """
        x_BLD, T = self._tokens(content, timesteps)
        x_BLD = self._enter(x_BLD)
        plan = self._plan(T, tuple(read), last_step_only, x_BLD.device)
        if plan.keep is not None:
            x_BLD = x_BLD[:, plan.keep]
        routing: list[Routing] | None = None if router_losses is None else []
        # the slots of all steps side by side
        hidden_BRD = self._hidden(x_BLD, plan, mask_BT, routing)
        if router_losses is not None:
            router_losses += _balance_losses(routing or [], plan, mask_BT)
        return hidden_BRD.unflatten(1, (-1, len(read)))

    def advance(
        self,
        content: Mapping[str, Float[Tensor, "B ... n D"]],
        cache: TrunkCache | None,
        *,
        read: Sequence[int],
        timesteps: Int64[Tensor, "B 1"] | None = None,
    ) -> tuple[Float[Tensor, "B 1 R D"], TrunkCache]:
        """One new step for B robots: equal to the last step of `forward` over their whole episodes.

        It costs one step, and takes a layout with a `window`: then no key of a step in sight has
        seen a step that is not. (Where each layer looks back over all of a sliding window, a key
        kept from before has seen steps that have left it since.)

        Args:
            content: of the new step, (B, 1, n, D); of prefix segments (B, n, D), used if `cache` is
                None.
            cache: what the last call returned; None if all robots are at their first step.

        Raises:
            LayoutError: the layout has no window, positions are absolute, or the trunk is no native
                one.
        """
        native = self.backbone is None
        if self.layout.window is None or self.positions == "absolute" or not native:
            raise LayoutError(
                "keys and values can be kept for a native trunk whose layout has a window and "
                "whose positions are rotary or timestep; run forward over the window instead"
            )
        # at the first step the prefix is among the new tokens, later in the cache
        P = self.layout.prefix_tokens if cache is None else 0
        x_BLD, _ = self._tokens(content, timesteps)
        if cache is not None:
            x_BLD = x_BLD[:, self.layout.prefix_tokens :]
        x_BLD = self._enter(x_BLD)
        device = x_BLD.device
        ages = (0,) * len(x_BLD) if cache is None else cache.ages
        kept = torch.tensor(self._kept_slots(), device=device)
        mask = self._advance_mask(cache, kept).to(device)
        turn = self._turns(ages, P, device)
        new_layers: list[KeyValue] = []
        for number, block in enumerate(cast(Sequence[Block], self.blocks)):
            past = None if cache is None else cache.layer(number)
            x_BLD, new = block.extend(x_BLD, mask, past, turn)
            new_layers.append(new)
        hidden_BND = self._leave(x_BLD[:, P:])
        new_cache = self._extended(cache, new_layers, kept, ages)
        return hidden_BND[:, list(read)][:, None], new_cache

    # --- tokens -----------------------------------------------------------------------------------

    def _tokens(
        self, content: Mapping[str, Tensor], timesteps: Tensor | None
    ) -> tuple[Tensor, int]:
        """Embedded tokens with positions (B, L, D), and the number of steps."""
        for segment in self.layout.segments:
            if segment.content and not segment.dropout and segment.name not in content:
                raise LayoutError(
                    f"no content for segment {segment.name!r}; there is content for: "
                    f"{', '.join(content) or 'none'}"
                )
        given = [content[s.name] for s in self.layout.step if s.name in content]
        B, T = given[0].shape[:2]
        if self.steps < T:
            raise ValueError(
                f"got {T} steps, the policy's history is {self.steps}; use windows of that length"
            )
        step = [self._segment(s.name, content, (B, T)) for s in self.layout.step]
        x_BLD = torch.cat(step, dim=2).flatten(1, 2)
        if self.layout.prefix:
            prefix = [self._segment(s.name, content, (B,)) for s in self.layout.prefix]
            x_BLD = torch.cat([*prefix, x_BLD], dim=1)
        # under autocast the tokens may be bfloat16; the sum must not raise them to float32
        return x_BLD + self._positions(T, timesteps).to(x_BLD.dtype), T

    def _segment(
        self,
        name: str,
        content: Mapping[str, Tensor],
        lead: tuple[int | torch.SymInt, ...],
    ) -> Tensor:
        """Tokens (*lead, n, D) of a segment; `lead` is (B, T), of the prefix (B,)."""
        segment = self.layout.segment(name)
        if not segment.content:
            # what a token of zeros becomes: a linear layer of zeros is its bias
            empty_D = self.position.new_zeros(self.width)
            if self.embed is not None:
                empty_D = self.embed.bias
            return empty_D.expand(*lead, segment.tokens, -1)
        if segment.dropout == 0:
            return self._embedded(content[name])
        stand_in = self.dropped[name].expand(*lead, -1, -1)
        # as in classifier-free guidance: what was dropped in training may be left out later
        if name not in content:
            return stand_in
        x = self._embedded(content[name])
        if not self.training:
            return x
        # whole windows are dropped: single steps could be guessed from their neighbours
        gone_B = torch.rand(lead[0], device=x.device) < segment.dropout
        others = (1,) * (x.ndim - 1)  # steps, tokens and width go together
        return torch.where(gone_B.view(-1, *others), stand_in.to(x.dtype), x)

    def _embedded(self, x: Tensor) -> Tensor:
        return x if self.embed is None else self.embed(x)

    def _positions(self, T: int, timesteps: Tensor | None) -> Tensor:
        """What is added to the tokens: (L, D), or (B, L, D) if each robot has its own time."""
        P = self.layout.prefix_tokens
        N = self.layout.tokens_per_step
        if self.positions == "absolute":
            # short windows take the last rows, so that the present step always has the same ones
            last_steps = self.position[len(self.position) - T * N :]
            return torch.cat([self.position[:P], last_steps])
        of_each_step = self.position[P:].repeat(T, 1)
        place_LD = torch.cat([self.position[:P], of_each_step])
        if self.positions == "rotary":
            # time enters by turning keys and queries, see `_turns`
            return place_LD
        if timesteps is None:
            raise LayoutError("positions: timestep needs the timesteps of the window")
        latest = self.max_timestep - 1
        time_BTD = self.time(timesteps.clamp(0, latest))
        time_BLD = time_BTD.repeat_interleave(N, dim=1)
        if P:
            no_time_BPD = time_BLD.new_zeros(len(time_BLD), P, self.width)
            time_BLD = torch.cat([no_time_BPD, time_BLD], dim=1)
        return place_LD + time_BLD

    # --- layers -----------------------------------------------------------------------------------

    def _enter(self, x_BLD: Tensor) -> Tensor:
        if self.norm_in is None:
            return x_BLD
        normed_BLD = self.norm_in(x_BLD)
        return nn.functional.dropout(normed_BLD, self.dropout, self.training)

    def _leave(self, x_BRD: Tensor) -> Tensor:
        return x_BRD if self.norm_out is None else self.norm_out(x_BRD)

    def _hidden(
        self,
        x_BLD: Tensor,
        plan: TrunkPlan,
        mask_BT: Tensor | None,
        routing: list[Routing] | None,
    ) -> Tensor:
        """Hidden states of the places that the plan reads, from the tokens that it keeps."""
        if self.backbone is not None:
            valid_BL = None if mask_BT is None else plan.valid_tokens(mask_BT)
            mask = plan.mask_for(mask_BT)
            hidden_BLD = self.backbone(
                x_BLD,
                mask=mask,
                valid=valid_BL,
                step_ids=plan.step_ids,
            )
            return cast(Tensor, hidden_BLD[:, plan.read])
        turn = None
        if self.positions == "rotary":
            turn = rotation(plan.step_ids, self.key_dim)
        skips_blocks = self.attention == "flex" and not is_exporting()
        if skips_blocks and (x_BLD.is_cuda or not torch.is_grad_enabled()):
            blocks = self._block_mask(plan, mask_BT, len(x_BLD))
            for block in self.blocks:
                x_BLD = block(x_BLD, blocks, None, turn, routing)
            return self._leave(x_BLD[:, plan.read])
        mask = plan.mask_for(mask_BT)
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, mask, None, turn, routing)
        # nobody reads the other tokens after the last layer: it computes the wanted rows alone
        rows_of_mask = mask[..., plan.read, :]
        x_BRD = self.blocks[-1](x_BLD, rows_of_mask, plan.read, turn, routing)
        return self._leave(x_BRD)

    # --- masks and positions of a call ------------------------------------------------------------

    def _plan(
        self,
        T: int,
        read: tuple[int, ...],
        last_step_only: bool,
        device: torch.device,
    ) -> TrunkPlan:
        key = (T, read, last_step_only, device)
        if key not in self._plans:
            self._plans[key] = make_plan(self.layout, T, read, last_step_only, device)
        return self._plans[key]

    def _block_mask(self, plan: TrunkPlan, mask_BT: Tensor | None, B: int) -> AttentionMask:
        """The same mask for flex_attention, which skips blocks where nobody attends to anybody."""
        from torch.nn.attention.flex_attention import create_block_mask

        allowed_LL = plan.mask
        L = len(allowed_LL)
        device = str(allowed_LL.device)
        if mask_BT is None:
            return create_block_mask(
                lambda b, h, q, k: allowed_LL[q, k], None, None, L, L, device=device
            )
        valid_BL = plan.valid_tokens(mask_BT)
        # padded tokens keep their rows: a softmax over nothing would be NaN
        return create_block_mask(
            lambda b, h, q, k: allowed_LL[q, k] & (valid_BL[b, k] | ~valid_BL[b, q]),
            B,
            None,
            L,
            L,
            device=device,
        )

    def _kept_slots(self) -> list[int]:
        """Slots of a step that later steps may attend to."""
        gone: set[int] = set()
        for segment in self.layout.step:
            if self.layout.independent_slots(segment.name):
                gone.update(self.layout.slots(segment.name))
        every_slot = range(self.layout.tokens_per_step)
        return [slot for slot in every_slot if slot not in gone]

    def _advance_mask(self, cache: TrunkCache | None, kept: Tensor) -> Tensor:
        """(B, 1, new tokens, prefix + S * n + N); at the first step (P + N, P + N)."""
        if cache is None:
            return self.layout.compile(1).mask
        S = cache.num_steps
        P = self.layout.prefix_tokens
        N = self.layout.tokens_per_step
        compiled = self.layout.compile(S + 1)
        # columns: the prefix, the kept slots of the past steps, all slots of the new one
        starts_S1 = P + N * torch.arange(S)[:, None]
        past = (starts_S1 + kept.cpu()).flatten()
        new = P + S * N + torch.arange(N)
        columns = torch.cat([torch.arange(P), past, new])
        mask_NC = compiled.mask[new][:, columns]
        # a younger robot has fewer past steps than the oldest of the batch
        step_of_C = compiled.step_ids[columns]
        first_known_B1 = S - torch.tensor(cache.ages)[:, None]
        known_BC = (step_of_C < 0) | (step_of_C >= first_known_B1)
        mask_BNC = mask_NC & known_BC[:, None]
        return mask_BNC[:, None]

    def _turns(
        self,
        ages: tuple[int, ...],
        P: int,
        device: torch.device,
    ) -> tuple[Tensor, Tensor] | None:
        """Rotations of the new tokens, P of them of the prefix: every robot has its own time."""
        if self.positions != "rotary":
            return None
        ages_B1 = torch.tensor(ages, device=device)[:, None]
        steps_BN = ages_B1.expand(-1, self.layout.tokens_per_step)
        prefix_BP = steps_BN.new_zeros(len(ages), P)
        steps_BN = torch.cat([prefix_BP, steps_BN], dim=1)
        cos, sin = rotation(steps_BN, self.key_dim)
        return cos[:, None], sin[:, None]  # the same for all attention heads

    def _extended(
        self,
        cache: TrunkCache | None,
        new_layers: Sequence[KeyValue],
        kept: Tensor,
        ages: tuple[int, ...],
    ) -> TrunkCache:
        """The cache with the new step, without the step that leaves the window."""
        assert self.layout.window is not None
        P = self.layout.prefix_tokens
        S = 0 if cache is None else cache.num_steps
        # the next step looks back over window - 1 steps and itself
        steps_in_sight = min(S + 1, self.layout.window - 1)
        tokens_in_sight = steps_in_sight * len(kept)
        prefix: list[KeyValue] = []
        steps: list[KeyValue] = []
        for number, (keys, values) in enumerate(new_layers):
            if cache is None:
                prefix.append((keys[:, :, :P], values[:, :, :P]))
                keys = keys[:, :, P:]
                values = values[:, :, P:]
            # empty action slots are read once and attended to by nobody
            keys = keys[:, :, kept]
            values = values[:, :, kept]
            if cache is not None:
                past_keys, past_values = cache.steps[number]
                keys = torch.cat([past_keys, keys], dim=2)
                values = torch.cat([past_values, values], dim=2)
            steps.append((_last(keys, tokens_in_sight), _last(values, tokens_in_sight)))
        return TrunkCache(
            prefix=tuple(prefix) if cache is None else cache.prefix,
            steps=tuple(steps),
            ages=tuple(age + 1 for age in ages),
            tokens=len(kept),
        )


def _balance_losses(
    routing: Sequence[Routing], plan: TrunkPlan, mask_BT: Tensor | None
) -> list[Tensor]:
    """Of each layer, over the tokens of valid steps."""
    if mask_BT is None:
        return [layer.balance_loss() for layer in routing]
    valid_BL = plan.valid_tokens(mask_BT)
    losses = []
    for layer in routing:
        # the last layer computes the rows that are read alone; steps stand in one order in both
        every_token = layer.chosen.shape[1] == valid_BL.shape[1]
        losses.append(layer.balance_loss(valid_BL if every_token else valid_BL[:, plan.read]))
    return losses


def _last(x_BHNE: Tensor, tokens: int) -> Tensor:
    # not [-tokens:], which is everything for 0
    return x_BHNE[:, :, x_BHNE.shape[2] - tokens :]


__all__ = ["AttentionKind", "Positions", "TrajectoryTransformer", "TrunkCache"]

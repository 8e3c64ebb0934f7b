"""RT-1: FiLM-EfficientNet, TokenLearner and a decoder over image tokens; action slots are empty.

Brohan et al. 2022, "RT-1: Robotics Transformer for Real-World Control at Scale"; the mask is that
of the later JAX release. All action tokens of all steps come from one pass, since no token attends
to an action slot.

B windows or robots, T steps, t steps of the oldest robot with the present one, n tokens of a
segment, R slots that are read per step, D width, S state dimensions, U distinct instructions, E
numbers of an instruction's vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, PathText, register
from vla.models.heads.categorical import CategoricalConfig
from vla.models.layers.backbone import BackboneConfig
from vla.models.layers.mixture_of_experts import ExpertsConfig, router_loss
from vla.models.layers.transformer import FeedForwardKind
from vla.models.layers.vision_encoder import KeyframeHead, Modulation, VisionConfig, VisionEncoder
from vla.models.memory import (
    age_mask,
    append_steps,
    last_steps,
    select_modulation,
    select_rows,
    stack_modulation,
    stack_steps,
)
from vla.models.policy import Policy, PolicyConfig
from vla.models.roles import STATE_INPUT, Role, roles_of
from vla.models.trajectory_transformer import AttentionKind, TrajectoryTransformer
from vla.tokenizers.bins import BinsConfig
from vla.tokenizers.layout import AttentionRule, Layout, Segment
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError


@register("policies", "rt1")
class RT1Config(PolicyConfig, VisionConfig):
    """RT-1. The defaults are the published model, apart from the random shift, which depends on the
    images."""

    type: Literal["rt1"] = "rt1"
    state_token: bool = False
    """Give the transformer the robot's state as one more token per step."""
    state_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise on the normalised state in training."""
    state_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training windows whose state token is replaced by a learned vector."""
    language: PathText = "minilm"
    """Frozen text encoder: minilm (bundled), or the name or folder of one of Hugging Face."""
    width: int = Field(default=512, ge=1, le=65536)
    """Width of tokens and transformer."""
    depth: int = Field(default=8, ge=1, le=1000)
    """Transformer layers."""
    heads: int = Field(default=8, ge=1, le=4096)
    """Attention heads."""
    key_dim: int = Field(default=128, ge=2, multiple_of=2, le=65536)
    """Width of keys and queries of each head."""
    feed_forward: FeedForwardKind = "linear"
    """linear (one Dense, as released), swiglu (as in the JAX release), gelu, gelu_tanh or relu."""
    experts: ExpertsConfig | None = None
    """A mixture of experts in place of each feed-forward layer (GeRM: `{}`); null: one layer. Each
    expert is of the kind `feed_forward`."""
    positions: Literal["absolute", "rotary"] = "absolute"
    """absolute (learned, as released) or rotary (over time steps)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the transformer."""
    attention: AttentionKind = "sdpa"
    """sdpa, or flex: block-sparse on GPUs, without dropout."""
    backbone: BackboneConfig | None = None
    """A model of transformers in place of the native transformer."""
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig()
    """Action tokenizer."""
    head: Annotated[Any, Choice("heads")] = CategoricalConfig()
    """From what the transformer says to actions; the published one gives all tokens at once."""
    read_place: Literal["slot", "content"] = "slot"
    """Where a head that reads one place reads beside a state token: in the empty action slot, or at
    the last token with content, which is the state's own. Heads that read several places begin at
    the last token with content, as released, and so do all without a state token."""
    former_defaults: ClassVar[dict[str, Any]] = {"read_place": "content"}

    @model_validator(mode="after")
    def _has_what_is_dropped(self) -> RT1Config:
        if self.state_dropout and not self.state_token:
            raise ValueError(
                "state_dropout: there is no state to drop; set state_token: true, or "
                "state_dropout: 0"
            )
        if self.experts is not None and self.backbone is not None:
            raise ValueError(
                "experts: the native transformer has them, and backbone is in its place; drop one "
                "of the two (backbone.architecture: mixtral has experts of its own)"
            )
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> RT1:
        """Raises SpecError if cameras and config do not fit, TrunkError if the trunk cannot be
        had."""
        return RT1(self, spec, from_checkpoint=from_checkpoint)


@dataclass(frozen=True)
class RT1Memory:
    """Tokens of the past frames of B robots.

    Attributes:
        content: segment -> tokens (B, S, n, D) of the last S < T steps; a robot's own steps are its
            last `ages`.
        ages: number of past steps of each robot, at most S.
        instruction: what conditioned the tokens.
        modulation: FiLM's scale and shift for each robot, (B, C) each, layer by layer.
    """

    content: dict[str, Tensor]
    ages: tuple[int, ...]
    instruction: tuple[str, ...]
    modulation: Modulation

    @property
    def batch_size(self) -> int:
        return len(self.ages)

    def select(self, rows: Sequence[int]) -> RT1Memory:
        """The memory of some robots, in the order given."""
        index = list(rows)
        return RT1Memory(
            content=select_rows(self.content, index),
            ages=tuple(self.ages[row] for row in index),
            instruction=tuple(self.instruction[row] for row in index),
            modulation=select_modulation(self.modulation, index),
        )

    @classmethod
    def stack(cls, memories: Sequence[RT1Memory]) -> RT1Memory:
        """The memories of several groups of robots, of whatever age, as one."""
        content = {}
        for name in memories[0].content:
            content[name] = stack_steps([memory.content[name] for memory in memories])
        ages: list[int] = []
        instruction: list[str] = []
        for memory in memories:
            ages += memory.ages
            instruction += memory.instruction
        return cls(
            content=content,
            ages=tuple(ages),
            instruction=tuple(instruction),
            modulation=stack_modulation([memory.modulation for memory in memories]),
        )


class RT1(Policy):
    """See the module's docstring. Built by `RT1Config.build`, or read by `load_policy`."""

    config: RT1Config

    def __init__(self, config: RT1Config, spec: Spec, *, from_checkpoint: bool = False) -> None:
        super().__init__(
            config,
            spec,
            tokenizer=config.tokenizer.build(spec, config.chunk),
            language=config.language,
        )
        self.feature_dim = config.width
        if config.state_token and not spec.state_dim:
            raise SpecError("state_token is on, but the spec has no state; set state_token: false")
        self.vision = VisionEncoder(
            config,
            spec,
            width=config.width,
            text_dim=self.language.dim,
            from_checkpoint=from_checkpoint,
        )
        self.cameras = self.vision.cameras
        self.image_sizes = self.vision.image_sizes
        if config.state_token:
            self.state_embedding = nn.Linear(spec.state_dim, config.width)
        num_readouts = config.head.num_readouts(self.tokenizer)
        layout = rt1_layout(
            self.vision.tokens,
            num_readouts,
            state_token=config.state_token,
            state_dropout=config.state_dropout,
        )
        backbone = None
        if config.backbone is not None:
            backbone = config.backbone.build(
                layout, steps=config.history, width=config.width, from_checkpoint=from_checkpoint
            )
            # the architecture in place of a name on the hub: a checkpoint fetches nothing
            self.config = config.model_copy(update={"backbone": backbone.config})
        self.transformer = TrajectoryTransformer(
            layout,
            steps=config.history,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            key_dim=config.key_dim,
            feed_forward=config.feed_forward,
            experts=config.experts,
            dropout=config.dropout,
            positions=config.positions,
            attention=config.attention,
            backbone=backbone,
        )
        self.head = config.head.build(self.tokenizer, spec, width=config.width)
        # as released: the first action token is read where the last token with content stands
        first = layout.slots("action").start - 1
        if config.state_token and num_readouts == 1 and config.read_place == "slot":
            # the state token has to speak of the state: all that is read would go through it
            first += 1
        self._read = range(first, first + num_readouts)
        if config.keyframe_loss:
            self.keyframe_head = KeyframeHead(self.vision.tokens, config.width, spec.state_dim)

    def parameter_roles(self) -> dict[str, Role]:
        roles = super().parameter_roles()
        if self.config.state_token:
            roles |= roles_of(self, {"state_embedding": STATE_INPUT})
        return roles

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step; what it says of padded steps means nothing.

        Raises:
            ValueError: more steps than `history`.
        """
        vectors_UE, index_B = self.embed_instructions(batch.instruction)
        modulation = self.vision.modulation(vectors_UE)
        mask_BT = None if bool(batch.mask.all()) else batch.mask
        images = self.vision.augment(batch.images)
        content = self._content(images, batch.state, modulation, index_B, mask_BT)
        losses = {}
        if self.config.keyframe_loss:
            # The image tokens alone, without the state, are asked where the hand will be. Most
            # frames of a demonstration can be continued from the state, and cloning settles there:
            # on the tabletop it learned for thousands of steps without looking.
            target_BTS = self.normalised_state(batch.keyframe)
            error_BT = self.keyframe_head.loss(content["image"], target_BTS)
            losses["keyframe_loss"] = self.config.keyframe_loss * error_BT
        of_layers: list[Tensor] = []
        hidden_BTRD = self.transformer(content, mask_BT, read=self._read, router_losses=of_layers)
        losses |= router_loss(self.config.experts, of_layers, batch.mask)
        return self._output(hidden_BTRD, losses)

    def step(
        self, observation: Observation, memory: RT1Memory | None
    ) -> tuple[PolicyOutput, RT1Memory]:
        """One new frame is encoded; past frames come from the memory.

        Equal to `forward` over the robot's window. A robot whose instruction changes starts a new
        history: a window has one instruction.
        """
        instruction = tuple(observation.instruction)
        modulation = self._modulation(instruction, memory)
        images = {}
        for camera in self.cameras:
            images[camera] = observation.images[camera][:, None]  # one step
        state_B1S = observation.state[:, None]
        content = self._content(images, state_B1S, modulation, None, None)
        ages = (0,) * len(instruction)
        # Tokens of past frames are kept, not keys and values: a key kept from an earlier step would
        # have seen frames that have left the window since. So vision runs once per frame, and the
        # small transformer over all remembered tokens again.
        if memory is not None:
            ages = _ages_going_on(memory, instruction)
            content = append_steps(memory.content, content)
        t = max(ages) + 1
        content = last_steps(content, t)
        mask_Bt = age_mask(ages, t)
        if mask_Bt is not None:
            mask_Bt = mask_Bt.to(self.device)
        hidden_B1RD = self.transformer(
            content,
            mask_Bt,
            read=self._read,
            last_step_only=True,
        )
        # the next window holds one new frame, so at most history - 1 of these
        kept = min(t, self.history - 1)
        new = RT1Memory(
            content=last_steps(content, kept),
            ages=tuple(min(age + 1, kept) for age in ages),
            instruction=instruction,
            modulation=modulation,
        )
        return self._output(hidden_B1RD), new

    def empty_memory(self) -> dict[str, Tensor]:
        """See `vla.types.policy.PureStep`: tokens of all but the present step, and which of them
        are."""
        past = self.history - 1
        if not past:
            return {}
        memory = {"mask": torch.zeros(1, past, dtype=torch.bool)}
        for segment in self.transformer.layout.step:
            if segment.content:
                memory[segment.name] = torch.zeros(1, past, segment.tokens, self.config.width)
        return memory

    def pure_step(
        self,
        images: Mapping[str, UInt8[Tensor, "B H W 3"]],
        state: Float[Tensor, "B S"],
        language: Float[Tensor, "B E"],
        memory: Mapping[str, Tensor],
    ) -> tuple[PolicyOutput, dict[str, Tensor]]:
        """See `vla.types.policy.PureStep`. The window always has its full length, with a mask."""
        modulation = self.vision.modulation(language)
        frames = {camera: images[camera][:, None] for camera in self.cameras}  # one step
        content = self._content(frames, state[:, None], modulation, None, None)
        if not memory:
            hidden_B1RD = self.transformer(content, None, read=self._read, last_step_only=True)
            return self._output(hidden_B1RD), {}
        content = append_steps(memory, content)
        present_B1 = torch.ones_like(memory["mask"][:, :1])
        mask_BT = torch.cat([memory["mask"], present_B1], dim=1)
        hidden_B1RD = self.transformer(content, mask_BT, read=self._read, last_step_only=True)
        new = last_steps(content, self.history - 1)
        return self._output(hidden_B1RD), {"mask": mask_BT[:, 1:], **new}

    def _modulation(self, instruction: tuple[str, ...], memory: RT1Memory | None) -> Modulation:
        """FiLM's scale and shift of each robot; instructions are embedded only when they change."""
        if memory is not None and memory.instruction == instruction:
            return memory.modulation
        vectors_UE, index_B = self.embed_instructions(instruction)
        distinct = self.vision.modulation(vectors_UE)
        return select_modulation(distinct, index_B)

    def _output(
        self,
        hidden_BTRD: Tensor,
        losses: dict[str, Tensor] | None = None,
    ) -> PolicyOutput:
        mean_BTD = hidden_BTRD.mean(2)
        # the trunk ends without a norm; who reads features expects numbers of about unit size
        features_BTD = nn.functional.layer_norm(mean_BTD, mean_BTD.shape[-1:])
        return PolicyOutput(
            features=features_BTD,
            actions=self.head(hidden_BTRD),
            losses=losses or {},
        )

    def _content(
        self,
        images: Mapping[str, UInt8[Tensor, "B T H W 3"]],
        state_BTS: Float[Tensor, "B T S"],
        modulation: Modulation,
        index_B: Int64[Tensor, " B"] | None,
        mask_BT: Bool[Tensor, "B T"] | None,
    ) -> dict[str, Tensor]:
        """Tokens (B, T, n, D) of the segments with content; zeros for padded frames."""
        content = {"image": self.vision(images, modulation, index_B, mask_BT)}
        if self.config.state_token:
            state_BTS = self.normalised_state(state_BTS)
            if self.training and self.config.state_noise:
                # on the normalised state: the noise counts in standard deviations of the data
                state_BTS = state_BTS + self.config.state_noise * torch.randn_like(state_BTS)
            content["state"] = self.state_embedding(state_BTS).unsqueeze(2)
        return content


def _ages_going_on(memory: RT1Memory, instruction: tuple[str, ...]) -> tuple[int, ...]:
    """Past steps of each robot; 0 for those whose instruction has changed."""
    ages = []
    for age, old, new in zip(memory.ages, memory.instruction, instruction, strict=True):
        ages.append(age if old == new else 0)
    return tuple(ages)


def rt1_layout(
    image_tokens: int,
    action_tokens: int,
    *,
    state_token: bool = False,
    state_dropout: float = 0.0,
) -> Layout:
    """Per step [image, (state), action with empty slots].

    Content is causal, action slots attend to content up to their step, and nothing attends to an
    action slot, not even itself. Hence all action tokens of all steps come from one pass, and in
    control the slots of past steps are left out.
    """
    segments = [Segment("image", image_tokens)]
    if state_token:
        segments.append(Segment("state", 1, dropout=state_dropout))
    content = [segment.name for segment in segments]
    rules = [AttentionRule(query, key, "causal") for query in content for key in content]
    rules += [AttentionRule("action", key, "up_to") for key in content]
    segments.append(Segment("action", action_tokens, content=False))
    return Layout(tuple(segments), tuple(rules))


__all__ = ["RT1", "RT1Config", "RT1Memory", "rt1_layout"]

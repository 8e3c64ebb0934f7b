"""Decision Transformer: returns to go, images, states and actions as one sequence.

Chen et al. 2021, "Decision Transformer: Reinforcement Learning via Sequence Modeling". State-only
as published, or multi-modal: an instruction before all steps, image tokens by FiLM-EfficientNet and
TokenLearner in each step. Asked for a return (or for success), it acts as data did that came to it.

B windows or robots, T steps, K actions per chunk, A action dimensions, S state dimensions, D width,
N tokens per action, R slots that are read per step, U distinct instructions, E numbers of an
instruction's vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, ConfigError, PathText, register
from vla.models.heads.squashed import SquashedConfig
from vla.models.layers.backbone import BackboneConfig
from vla.models.layers.mixture_of_experts import ExpertsConfig, router_loss
from vla.models.layers.transformer import FeedForwardKind
from vla.models.layers.vision_encoder import KeyframeHead, VisionConfig, VisionEncoder
from vla.models.memory import select_modulation
from vla.models.policies.decision_transformer_parts.control import Control, unchanged
from vla.models.policies.decision_transformer_parts.layout import segments_layout
from vla.models.policies.decision_transformer_parts.memory import DecisionMemory
from vla.models.policies.decision_transformer_parts.target import Condition, asked_from_now
from vla.models.policy import Policy, PolicyConfig
from vla.models.roles import ACTION_INPUT, LANGUAGE, STATE_INPUT, TRUNK, Role, roles_of
from vla.models.trajectory_transformer import AttentionKind, TrajectoryTransformer
from vla.tokenizers.bins import BinsConfig
from vla.tokenizers.layout import Layout
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError

Share = Annotated[float, Field(ge=0, lt=1)]


@register("policies", "decision_transformer")
class DecisionTransformerConfig(PolicyConfig, VisionConfig):
    """Decision Transformer. The defaults are the published ones for locomotion."""

    type: Literal["decision_transformer"] = "decision_transformer"
    history: int = Field(default=20, ge=1, le=10000)
    """Time steps of context, T."""
    condition: Condition = "return"
    """What it is asked for: the return to go, which counts down as rewards come in; whether the
    episode succeeds (1 or 0); or nothing, which is behavioural cloning."""
    target_return: float | None = Field(default=None, allow_inf_nan=False)
    """What control asks for if the caller does not say; null: 1 for success, and for returns the
    caller must say."""
    return_scale: float = Field(default=1000.0, gt=0, allow_inf_nan=False)
    """Returns are divided by this."""
    language: PathText | None = None
    """Frozen text encoder of the instruction, minilm (bundled) or one of Hugging Face; null: no
    instruction."""
    state_token: bool = True
    """The robot's state as a token of each step."""
    state_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise on the normalised state in training."""
    actions: Literal["vector", "tokens", "none"] = "vector"
    """How past actions stand in the sequence: one linear token (as published), the action
    tokenizer's tokens, or not."""
    readouts: int = Field(default=0, ge=0, le=10000)
    """Learned tokens in each step, after the state, that read and are not read; where there are
    none, the head reads the last token before the actions. A head that reads several states has as
    many."""
    language_dropout: Share = 0.0
    """Share of the training windows whose instruction token is replaced by a learned vector."""
    image_dropout: Share = 0.0
    """The same for the image tokens."""
    state_dropout: Share = 0.0
    """The same for the state tokens."""
    condition_dropout: Share = 0.0
    """The same for the return or success tokens."""
    window: int | None = Field(default=None, ge=1, le=10000)
    """Steps that each layer looks back over; control then keeps keys and values, but not those of a
    `backbone`. null: all of the history, and control runs over the remembered tokens again."""
    max_timestep: int = Field(default=1000, ge=1, le=1000000)
    """Longest duration of an episode, in steps."""
    width: int = Field(default=128, ge=1, le=65536)
    """Width of tokens and transformer."""
    depth: int = Field(default=3, ge=1, le=1000)
    """Transformer layers."""
    heads: int = Field(default=1, ge=1, le=4096)
    """Attention heads, each of width / heads."""
    feed_forward: FeedForwardKind = "relu"
    """Kind of feed-forward layer."""
    experts: ExpertsConfig | None = None
    """A mixture of experts in place of each feed-forward layer (GeRM: `{}`); null: one layer. Each
    expert is of the kind `feed_forward`."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the transformer."""
    attention: AttentionKind = "sdpa"
    """sdpa, or flex: block-sparse on GPUs, without dropout."""
    backbone: BackboneConfig | None = None
    """A model of transformers in place of the native transformer."""
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig()
    """Action tokenizer."""
    head: Annotated[Any, Choice("heads")] = SquashedConfig()
    """From what the transformer says to actions."""

    @model_validator(mode="after")
    def _consistent(self) -> DecisionTransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        if self.language is None and (self.language_dropout or self.standardise_language):
            raise ValueError(
                "language_dropout and standardise_language: there is no instruction; set "
                "language: minilm, or drop them"
            )
        if self.state_dropout and not self.state_token:
            raise ValueError(
                "state_dropout: there is no state to drop; set state_token: true, or "
                "state_dropout: 0"
            )
        if self.condition == "none" and (self.condition_dropout or self.target_return is not None):
            raise ValueError(
                "condition_dropout and target_return: nothing is asked for; set condition: return "
                "or success, or drop them"
            )
        if self.experts is not None and self.backbone is not None:
            raise ValueError(
                "experts: the native transformer has them, and backbone is in its place; drop one "
                "of the two (backbone.architecture: mixtral has experts of its own)"
            )
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> DecisionTransformer:
        """Raises SpecError if spec and config do not fit, TrunkError or BackboneError if a part
        cannot be had."""
        return DecisionTransformer(self, spec, from_checkpoint=from_checkpoint)


class DecisionTransformer(Policy):
    """See the module's docstring. Built by `DecisionTransformerConfig.build`, or read by
    `load_policy`."""

    config: DecisionTransformerConfig
    counts_steps = True

    def __init__(
        self, config: DecisionTransformerConfig, spec: Spec, *, from_checkpoint: bool = False
    ) -> None:
        super().__init__(
            config,
            spec,
            tokenizer=config.tokenizer.build(spec, config.chunk),
            language=config.language,
        )
        D = config.width
        self.feature_dim = D
        self.return_conditioned = config.condition != "none"
        self.success_conditioned = config.condition == "success"
        # [] in the config: a robot with cameras that the policy does not look through
        self.sees = bool(spec.cameras) and config.cameras != []
        num_readouts = config.head.num_readouts(self.tokenizer)
        _check(config, spec, self.sees, num_readouts, per_action=self.tokenizer.tokens_per_action)
        if self.sees:
            self.vision = VisionEncoder(
                config, spec, width=D, text_dim=self.language.dim, from_checkpoint=from_checkpoint
            )
            self.cameras = self.vision.cameras
            self.image_sizes = self.vision.image_sizes
        if config.language is not None:
            self.language_embedding = nn.Linear(self.language.dim, D)
        if config.condition != "none":
            self.condition_embedding = nn.Linear(1, D)
        if config.state_token:
            self.state_embedding = nn.Linear(spec.state_dim, D)
        if config.actions == "vector":
            self.action_embedding: nn.Module = nn.Linear(spec.action_dim, D)
        elif config.actions == "tokens":
            self.action_embedding = nn.Embedding(self.tokenizer.vocab_size, D)
        layout = decision_transformer_layout(
            config,
            image_tokens=self.vision.tokens if self.sees else 0,
            action_tokens=self._action_tokens(),
            readouts=config.readouts or (num_readouts if num_readouts > 1 else 0),
        )
        backbone = None
        if config.backbone is not None:
            backbone = config.backbone.build(
                layout, steps=config.history, width=D, from_checkpoint=from_checkpoint
            )
            # the architecture in place of a name on the hub: a checkpoint fetches nothing
            self.config = config.model_copy(update={"backbone": backbone.config})
        self.transformer = TrajectoryTransformer(
            layout,
            steps=config.history,
            width=D,
            depth=config.depth,
            heads=config.heads,
            key_dim=D // config.heads,
            feed_forward=config.feed_forward,
            experts=config.experts,
            dropout=config.dropout,
            positions="timestep",
            max_timestep=config.max_timestep,
            project=False,
            normalise=True,
            attention=config.attention,
            backbone=backbone,
        )
        self.head = config.head.build(self.tokenizer, spec, width=D)
        # an action is read from the last tokens before it, which have not seen it
        before = [segment.name for segment in layout.step if segment.name != "action"][-1]
        self._read = layout.slots(before)[-num_readouts:]
        if config.keyframe_loss:
            self.keyframe_head = KeyframeHead(self.vision.tokens, D, spec.state_dim)

    @property
    def keeps_keys(self) -> bool:
        """Whether control keeps keys and values; a trunk of transformers runs over the remembered
        tokens again."""
        return self.config.window is not None and self.config.backbone is None

    def parameter_roles(self) -> dict[str, Role]:
        named: dict[str, Role] = {}
        if self.config.language is not None:
            named["language_embedding"] = LANGUAGE
        if self.config.condition != "none":
            named["condition_embedding"] = TRUNK  # a return is a number, whatever the robot
        if self.config.state_token:
            named["state_embedding"] = STATE_INPUT
        if self.config.actions != "none":
            named["action_embedding"] = ACTION_INPUT
        return super().parameter_roles() | roles_of(self, named)

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step; what it says of padded steps means nothing.

        Raises ValueError if there are more steps than `history`.
        """
        vectors_UE, index_B = self.embed_instructions(batch.instruction)
        # without padding no mask is needed: attention is faster then
        mask_BT = None if bool(batch.mask.all()) else batch.mask
        asked_BT = batch.returns_to_go
        if self.config.condition == "success":
            asked_BT = batch.success.float()
        content = self._prefix(vectors_UE[index_B]) | self._step_content(asked_BT, batch.state)
        losses = {}
        if self.sees:
            images = self.vision.augment(batch.images)
            modulation = self.vision.modulation(vectors_UE)
            content["image"] = self.vision(images, modulation, index_B, mask_BT)
            if self.config.keyframe_loss:
                losses["keyframe_loss"] = self._keyframe_loss(batch, content["image"])
        # of a chunk its first action: what is done at this step
        content |= self._action_content(batch.actions[:, :, 0])
        of_layers: list[Tensor] = []
        hidden_BTRD = self.transformer(
            content,
            mask_BT,
            read=self._read,
            timesteps=batch.timesteps,
            router_losses=of_layers,
        )
        losses |= router_loss(self.config.experts, of_layers, batch.mask)
        return self._output(hidden_BTRD, losses)

    def step(
        self, observation: Observation, memory: DecisionMemory | None
    ) -> tuple[PolicyOutput, DecisionMemory]:
        """One new frame is encoded; the past comes from the memory.

        Equal to `forward` over the robot's window, or with `window` over its whole episode. A robot
        whose instruction changes starts a new history; what it was asked for goes on counting down.

        Raises:
            UserError: no target return is known, or rewards are missing while returns are counted
                down.
        """
        target_B, clock_B = asked_from_now(
            observation,
            memory,
            condition=self.config.condition,
            target_return=self.config.target_return,
            device=self.device,
        )
        instruction = tuple(observation.instruction)
        if memory is not None and memory.instruction == instruction:
            prefix = memory.prefix
            modulation = memory.modulation
        else:
            vectors_UE, index_B = self.embed_instructions(instruction)
            prefix = self._prefix(vectors_UE[index_B])
            distinct = self.vision.modulation(vectors_UE) if self.sees else ()
            modulation = select_modulation(distinct, index_B)
        state_B1S = observation.state[:, None]
        content = self._step_content(target_B[:, None], state_B1S)
        if self.sees:
            images = {}
            for camera in self.cameras:
                images[camera] = observation.images[camera][:, None]  # one step
            content["image"] = self.vision(images, modulation, None, None)
        B = len(instruction)
        ages = [0] * B
        if memory is not None:
            goes_on = unchanged(memory.instruction, instruction)
            ages = [memory.ages[row] if goes_on[row] else 0 for row in range(B)]
        new = DecisionMemory(
            content=content,
            # what is done now is known only after the head has answered: `remember` fills it in
            actions=observation.state.new_zeros(B, 1, self.spec.action_dim),
            ages=tuple(ages),
            clock=clock_B,
            target=target_B,
            instruction=instruction,
            prefix=prefix,
            modulation=modulation,
        )
        control = Control(self.transformer, self._read, self.history, self._action_content)
        if self.keeps_keys:
            hidden_B1RD, new = control.advance(new, memory)
        else:
            hidden_B1RD, new = control.run_again(new, memory)
        return self._output(hidden_B1RD), new

    def remember(self, memory: DecisionMemory, actions: Float[Tensor, "B K A"]) -> DecisionMemory:
        """The first action of each chunk is what is done now."""
        # a memory is a value: whoever holds the old one still has what it was
        past = memory.actions.clone()
        past[:, -1] = actions[:, 0]
        return dataclasses.replace(memory, actions=past)

    # --- tokens -----------------------------------------------------------------------------------

    def _output(
        self, hidden_BTRD: Tensor, losses: Mapping[str, Tensor] | None = None
    ) -> PolicyOutput:
        return PolicyOutput(hidden_BTRD.mean(2), self.head(hidden_BTRD), dict(losses or {}))

    def _keyframe_loss(self, batch: Batch, image_BTnD: Tensor) -> Float[Tensor, "B T"]:
        """What the image tokens alone say of the state at the next keyframe (see
        `VisionConfig.keyframe_loss`)."""
        target_BTS = self.normalised_state(batch.keyframe)
        error_BT = self.keyframe_head.loss(image_BTnD, target_BTS)
        if self.return_conditioned:
            # where an episode that fails goes next is not what its instruction asked for
            error_BT = error_BT * batch.success
        return self.config.keyframe_loss * error_BT

    def _prefix(self, vectors_BE: Tensor) -> dict[str, Tensor]:
        if self.config.language is None:
            return {}
        return {"language": self.language_embedding(vectors_BE)[:, None]}

    def _step_content(self, asked_BT: Tensor, state_BTS: Tensor) -> dict[str, Tensor]:
        content = {}
        if self.config.condition != "none":
            # success is 0 or 1 already; returns may be thousands
            scale = self.config.return_scale if self.config.condition == "return" else 1.0
            embedded_BTD = self.condition_embedding(asked_BT[..., None] / scale)
            content["condition"] = embedded_BTD.unsqueeze(2)
        if self.config.state_token:
            state_BTS = self.normalised_state(state_BTS)
            if self.training and self.config.state_noise:
                # on the normalised state: the noise counts in standard deviations of the data
                state_BTS = state_BTS + self.config.state_noise * torch.randn_like(state_BTS)
            content["state"] = self.state_embedding(state_BTS).unsqueeze(2)
        return content

    def _action_tokens(self) -> int:
        if self.config.actions == "none":
            return 0
        if self.config.actions == "vector":
            return 1
        # tokens that belong to no single action are those of the whole chunk (see `_check`)
        return self.tokenizer.tokens_per_action or self.tokenizer.num_tokens

    def _action_content(self, actions_BTA: Tensor) -> dict[str, Tensor]:
        if self.config.actions == "none":
            return {}
        if self.config.actions == "vector":
            # -1 .. 1 over the spec's range, as the published models have it
            span_A = self.action_high - self.action_low
            unit_BTA = (2 * actions_BTA - self.action_low - self.action_high) / span_A
            return {"action": self.action_embedding(unit_BTA).unsqueeze(2)}
        # the tokenizer knows chunks alone: it gets the action K times, of which one is used
        chunk_BTKA = actions_BTA.unsqueeze(2).expand(-1, -1, self.chunk, -1)
        ids_BTN = self.tokenizer.encode(chunk_BTKA)[..., : self._action_tokens()]
        return {"action": self.action_embedding(ids_BTN)}


def decision_transformer_layout(
    config: DecisionTransformerConfig, *, image_tokens: int, action_tokens: int, readouts: int
) -> Layout:
    """The sequence that the config asks for (see `segments_layout`); 0 tokens leave one out."""
    tokens = {
        "language": 1 if config.language else 0,
        "condition": 1 if config.condition != "none" else 0,
        "image": image_tokens,
        "state": 1 if config.state_token else 0,
        "readout": readouts,
        "action": action_tokens,
    }
    dropout = {
        "language": config.language_dropout,
        "condition": config.condition_dropout,
        "image": config.image_dropout,
        "state": config.state_dropout,
    }
    return segments_layout(tokens, dropout, config.window)


def _check(
    config: DecisionTransformerConfig,
    spec: Spec,
    sees: bool,
    num_readouts: int,
    *,
    per_action: int | None,
) -> None:
    """Raises SpecError or ConfigError if the config does not fit robot, head or tokenizer."""
    if config.state_token and not spec.state_dim:
        raise SpecError("state_token is on, but the spec has no state; set state_token: false")
    if not (sees or config.state_token):
        raise SpecError("the policy neither sees nor feels: it needs cameras or state_token: true")
    problems = []
    if config.readouts and config.readouts < num_readouts:
        problems.append(
            f"policy.readouts: {config.readouts}, but the head reads {num_readouts} states; set it "
            f"to 0 or {num_readouts}"
        )
    if config.keyframe_loss and not sees:
        problems.append("policy.keyframe_loss: there are no cameras to learn from; set it to 0")
    if config.actions == "tokens" and per_action is None and config.chunk > 1:
        problems.append(
            "policy.actions: tokens of this tokenizer belong to whole chunks, but the sequence "
            "holds single actions; use actions: vector, chunk: 1, or tokenizer: {type: bins}"
        )
    if problems:
        raise ConfigError(problems)


__all__ = [
    "DecisionMemory",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "decision_transformer_layout",
]

"""Decision Transformer: returns to go, images, states and actions as one sequence (Chen et al., 2021, "Decision
Transformer: Reinforcement Learning via Sequence Modeling").

State-only as published, or multi-modal: an instruction before all steps, image tokens by FiLM-EfficientNet and
TokenLearner in each step. Asked for a return (or for success), it acts as the data did that came to it.

B windows, T steps, K actions per chunk, A action dimensions, D width, N tokens per action, S remembered steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, ConfigError, UserError, register
from vla.models.heads.squashed import SquashedConfig
from vla.models.layers.backbone import BackboneConfig
from vla.models.layers.transformer import FeedForwardKind
from vla.models.layers.vision_encoder import KeyframeHead, Modulation, VisionConfig, VisionEncoder
from vla.models.memory import age_mask, stack_steps
from vla.models.policy import Policy, PolicyConfig
from vla.models.trajectory_transformer import AttentionKind, TrajectoryTransformer, TrunkCache
from vla.tokenizers.bins import BinsConfig
from vla.tokenizers.layout import Layout, Rule, Segment
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError

Share = Annotated[float, Field(ge=0, lt=1)]


@register("policies", "decision_transformer")
class DecisionTransformerConfig(PolicyConfig, VisionConfig):
    """Decision Transformer. The defaults are the published ones for locomotion."""

    type: Literal["decision_transformer"] = "decision_transformer"
    history: int = Field(default=20, ge=1)
    """Time steps of context, T."""
    condition: Literal["return", "success", "none"] = "return"
    """What it is asked for: the return to go, which counts down as rewards come in; whether the episode succeeds (1 or
    0); or nothing, which is behavioural cloning."""
    target_return: float | None = Field(default=None, allow_inf_nan=False)
    """What control asks for where the caller does not say; null: 1 for success, and for returns the caller must say."""
    return_scale: float = Field(default=1000.0, gt=0, allow_inf_nan=False)
    """Returns are divided by this."""
    language: str | None = None
    """Frozen text encoder of the instruction, minilm (bundled) or one of Hugging Face; null: no instruction."""
    state_token: bool = True
    """The robot's state as a token of each step."""
    state_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise on the normalised state in training."""
    actions: Literal["vector", "tokens", "none"] = "vector"
    """How past actions stand in the sequence: one linear token (as published), the action tokenizer's tokens, or not."""
    readouts: int = Field(default=0, ge=0)
    """Learned tokens in each step, after the state, that read and are not read; where there are none, the head reads the
    last token before the actions. A head that reads several states has as many."""
    language_dropout: Share = 0.0
    """Share of the training windows whose instruction token is replaced by a learned vector."""
    image_dropout: Share = 0.0
    """The same for the image tokens."""
    state_dropout: Share = 0.0
    """The same for the state tokens."""
    condition_dropout: Share = 0.0
    """The same for the return or success tokens."""
    window: int | None = Field(default=None, ge=1)
    """Steps that each layer looks back over; control then keeps keys and values, but not those of a `backbone`. null: all
    of the history, and control runs over the remembered tokens again."""
    max_timestep: int = Field(default=1000, ge=1)
    """Longest duration of an episode, in steps."""
    width: int = Field(default=128, ge=1)
    """Width of tokens and transformer."""
    depth: int = Field(default=3, ge=1)
    """Transformer layers."""
    heads: int = Field(default=1, ge=1)
    """Attention heads, each of width / heads."""
    feed_forward: FeedForwardKind = "relu"
    """Kind of feed-forward layer."""
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
                "language_dropout and standardise_language: there is no instruction; set language: minilm, or drop them"
            )
        if self.state_dropout and not self.state_token:
            raise ValueError(
                "state_dropout: there is no state to drop; set state_token: true, or state_dropout: 0"
            )
        if self.condition == "none" and (self.condition_dropout or self.target_return is not None):
            raise ValueError(
                "condition_dropout and target_return: nothing is asked for; set condition: return or success, or drop them"
            )
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> DecisionTransformer:
        """Raises SpecError where spec and config do not fit, TrunkError or BackboneError where a part cannot be had."""
        return DecisionTransformer(self, spec, from_checkpoint=from_checkpoint)


@dataclass(frozen=True)
class DecisionMemory:
    """What is remembered of B robots.

    Attributes:
        content: segment -> tokens (B, S, n, D) of the past steps; of the last one alone where keys are kept.
        actions: (B, S, A), what was done, robot units.
        ages: past steps of each robot in the window.
        clock: (B,), index of the last step in the episode.
        target: (B,), what was asked for from the last step on, before its reward is known.
        instruction: what conditioned the tokens.
        prefix: tokens (B, n, D) of the instruction.
        modulation: FiLM's scale and shift for each robot.
        cache: keys and values of the steps before the one in `content`; None where keys are not kept.
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
            content={name: x[index] for name, x in self.content.items()},
            actions=self.actions[index],
            ages=tuple(self.ages[i] for i in index),
            clock=self.clock[index],
            target=self.target[index],
            instruction=tuple(self.instruction[i] for i in index),
            prefix={name: x[index] for name, x in self.prefix.items()},
            modulation=tuple((scale[index], shift[index]) for scale, shift in self.modulation),
            cache=None if self.cache is None else self.cache.select(index),
        )

    @classmethod
    def stack(cls, memories: Sequence[DecisionMemory]) -> DecisionMemory:
        """The memories of several groups of robots, of whatever age, as one."""
        first = memories[0]
        caches = [m.cache for m in memories if m.cache is not None]
        return cls(
            content={
                name: stack_steps([m.content[name] for m in memories]) for name in first.content
            },
            actions=stack_steps([m.actions for m in memories]),
            ages=tuple(age for m in memories for age in m.ages),
            clock=torch.cat([m.clock for m in memories]),
            target=torch.cat([m.target for m in memories]),
            instruction=tuple(text for m in memories for text in m.instruction),
            prefix={name: torch.cat([m.prefix[name] for m in memories]) for name in first.prefix},
            modulation=tuple(
                (torch.cat([scale for scale, _ in layer]), torch.cat([shift for _, shift in layer]))
                for layer in zip(*(m.modulation for m in memories), strict=True)
            ),
            cache=TrunkCache.stack(caches) if caches else None,
        )


class DecisionTransformer(Policy):
    """See the module's docstring. Built by `DecisionTransformerConfig.build`, or read by `load_policy`."""

    config: DecisionTransformerConfig
    counts_steps = True
    """Every call of `act` is one step of the episode: a chunk cannot be executed in between."""

    def __init__(
        self, config: DecisionTransformerConfig, spec: Spec, *, from_checkpoint: bool = False
    ) -> None:
        super().__init__(
            config,
            spec,
            tokenizer=config.tokenizer.build(spec, config.chunk),
            language=config.language,
        )
        self.feature_dim = config.width
        D = config.width
        self.sees = bool(spec.cameras) and config.cameras != []
        reads = config.head.reads(self.tokenizer)
        _check(config, spec, self.sees, reads, per_action=self.tokenizer.tokens_per_action)
        if self.sees:
            self.vision = VisionEncoder(
                config, spec, width=D, text_dim=self.language.dim, from_checkpoint=from_checkpoint
            )
        if config.language is not None:
            self.language_embedding = nn.Linear(self.language.dim, D)
        if config.condition != "none":
            self.condition_embedding = nn.Linear(1, D)
        if config.state_token:
            self.state_embedding = nn.Linear(spec.state_dim, D)
        if config.actions != "none":
            vector = config.actions == "vector"
            self.action_embedding: nn.Module = (
                nn.Linear(spec.action_dim, D)
                if vector
                else nn.Embedding(self.tokenizer.vocab_size, D)
            )
        layout = decision_transformer_layout(
            config,
            image_tokens=self.vision.tokens if self.sees else 0,
            action_tokens=self._action_tokens(),
            readouts=config.readouts or (reads if reads > 1 else 0),
        )
        backbone = None
        if config.backbone is not None:
            backbone = config.backbone.build(layout, steps=config.history, width=D)
            self.config = config.model_copy(
                update={"backbone": backbone.config}
            )  # a checkpoint fetches nothing
        self.transformer = TrajectoryTransformer(
            layout,
            steps=config.history,
            width=D,
            depth=config.depth,
            heads=config.heads,
            key_dim=D // config.heads,
            feed_forward=config.feed_forward,
            dropout=config.dropout,
            positions="timestep",
            max_timestep=config.max_timestep,
            project=False,
            normalise=True,
            attention=config.attention,
            backbone=backbone,
        )
        self.head = config.head.build(self.tokenizer, spec, width=D)
        before = [s.name for s in layout.step if s.name != "action"][-1]
        self._read = layout.slots(before)[-reads:]
        if config.keyframe_loss:
            self.keyframe_head = KeyframeHead(self.vision.tokens, D, spec.state_dim)

    @property
    def return_conditioned(self) -> bool:  # type: ignore[override]
        """Whether `Observation.target_return` means something to it."""
        return self.config.condition != "none"

    @property
    def success_conditioned(self) -> bool:  # type: ignore[override]
        """Whether it is asked for success in place of a return."""
        return self.config.condition == "success"

    @property
    def keeps_keys(self) -> bool:
        """Whether control keeps keys and values; a trunk of transformers runs over the remembered tokens again."""
        return self.config.window is not None and self.config.backbone is None

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step; what it says of padded steps means nothing.

        Raises ValueError where there are more steps than `history`.
        """
        vectors_UE, index_B = self.embed_instructions(batch.instruction)
        mask_BT = None if bool(batch.mask.all()) else batch.mask
        asked_BT = (
            batch.success.float() if self.config.condition == "success" else batch.returns_to_go
        )
        content = self._prefix(vectors_UE[index_B]) | self._step_content(asked_BT, batch.state)
        losses = {}
        if self.sees:
            images, modulation = (
                self.vision.augment(batch.images),
                self.vision.modulation(vectors_UE),
            )
            content["image"] = self.vision(images, modulation, index_B, mask_BT)
            if self.config.keyframe_loss:
                error_BT = self.keyframe_head.loss(
                    content["image"], self.normalised_state(batch.keyframe)
                )
                if (
                    self.return_conditioned
                ):  # where an episode that fails goes next is not told by its instruction
                    error_BT = error_BT * batch.success
                losses["keyframe_loss"] = self.config.keyframe_loss * error_BT
        content |= self._action_content(batch.actions[:, :, 0])
        hidden_BTRD = self.transformer(content, mask_BT, read=self._read, timesteps=batch.timesteps)
        return self._output(hidden_BTRD, losses)

    def step(
        self, observation: Observation, memory: DecisionMemory | None
    ) -> tuple[PolicyOutput, DecisionMemory]:
        """One new frame is encoded; the past comes from the memory. Equal to `forward` over the robot's window, or with
        `window` over its whole episode.

        A robot whose instruction changes starts a new history, and is still owed what it was asked for.

        Raises:
            UserError: no target return is known, or rewards are not told while returns are counted down.
        """
        target_B, clock_B = self._target(observation, memory)
        instruction = tuple(observation.instruction)
        same = memory is not None and memory.instruction == instruction
        if memory is not None and same:
            prefix, modulation = memory.prefix, memory.modulation
        else:
            vectors_UE, index_B = self.embed_instructions(instruction)
            prefix = self._prefix(vectors_UE[index_B])
            distinct = self.vision.modulation(vectors_UE) if self.sees else ()
            modulation = tuple((scale[index_B], shift[index_B]) for scale, shift in distinct)
        content = self._step_content(target_B[:, None], observation.state[:, None])
        if self.sees:
            images = {camera: observation.images[camera][:, None] for camera in self.vision.cameras}
            content["image"] = self.vision(images, modulation, None, None)
        new = DecisionMemory(
            content=content,
            actions=observation.state.new_zeros(len(instruction), 1, self.spec.action_dim),
            ages=(0,) * len(instruction),
            clock=clock_B,
            target=target_B,
            instruction=instruction,
            prefix=prefix,
            modulation=modulation,
        )
        if memory is not None:
            kept = [old == text for old, text in zip(memory.instruction, instruction, strict=True)]
            new = dataclasses.replace(
                new, ages=tuple(a * k for a, k in zip(memory.ages, kept, strict=True))
            )
        hidden_B1RD, new = (
            self._cached(new, memory) if self.keeps_keys else self._again(new, memory)
        )
        return self._output(hidden_B1RD), new

    def remember(self, memory: DecisionMemory, actions: Float[Tensor, "B K A"]) -> DecisionMemory:
        """The first action of each chunk is what is done now."""
        past = memory.actions.clone()
        past[:, -1] = actions[:, 0]
        return dataclasses.replace(memory, actions=past)

    # --- control --------------------------------------------------------------------------------------

    def _again(
        self, new: DecisionMemory, memory: DecisionMemory | None
    ) -> tuple[Tensor, DecisionMemory]:
        """The transformer runs over the remembered tokens once more."""
        content, actions_BSA = new.content, new.actions
        if memory is not None:
            content = {
                name: torch.cat([memory.content[name], x], dim=1) for name, x in content.items()
            }
            actions_BSA = torch.cat([memory.actions, actions_BSA], dim=1)
        T = max(new.ages) + 1
        content, actions_BSA = {name: x[:, -T:] for name, x in content.items()}, actions_BSA[:, -T:]
        mask_BT = age_mask(new.ages, T)
        timesteps = (new.clock[:, None] + torch.arange(1 - T, 1, device=self.device)).clamp(min=0)
        hidden_B1RD = self.transformer(
            content | self._action_content(actions_BSA) | new.prefix,
            None if mask_BT is None else mask_BT.to(self.device),
            read=self._read,
            last_step_only=True,
            timesteps=timesteps,
        )
        kept = min(T, self.history - 1)
        return hidden_B1RD, dataclasses.replace(
            new,
            content={name: x[:, x.shape[1] - kept :] for name, x in content.items()},
            actions=actions_BSA[:, actions_BSA.shape[1] - max(kept, 1) :],
            ages=tuple(min(age + 1, kept) for age in new.ages),
        )

    def _cached(
        self, new: DecisionMemory, memory: DecisionMemory | None
    ) -> tuple[Tensor, DecisionMemory]:
        """The last step joins the keys and values, now that its action is known; then the present step reads them."""
        cache = None
        if memory is not None and memory.instruction != new.instruction:
            return self._cached_apart(new, memory)
        if memory is not None:
            past = memory.content | self._action_content(memory.actions) | memory.prefix
            times_B1 = memory.clock[:, None]
            _, cache = self.transformer.advance(
                past, memory.cache, read=self._read, timesteps=times_B1
            )
        content = new.content | self._action_content(new.actions) | new.prefix
        hidden, present = self.transformer.advance(
            content, cache, read=self._read, timesteps=new.clock[:, None]
        )
        cache = cache if cache is not None else present.without_steps()
        return hidden, dataclasses.replace(
            new, cache=cache, ages=tuple(age + 1 for age in new.ages)
        )

    def _cached_apart(
        self, new: DecisionMemory, memory: DecisionMemory
    ) -> tuple[Tensor, DecisionMemory]:
        """Robots whose instruction has changed start anew: all keys have seen the old one."""
        told = [old == text for old, text in zip(memory.instruction, new.instruction, strict=True)]
        kept, changed = (
            [i for i, same in enumerate(told) if same is kind] for kind in (True, False)
        )
        parts = [self._cached(new.select(changed), None)]
        if kept:
            parts.append(self._cached(new.select(kept), memory.select(kept)))
        order = sorted(range(len(told)), key=[*changed, *kept].__getitem__)
        joined = DecisionMemory.stack([part for _, part in parts])
        return torch.cat([hidden for hidden, _ in parts])[order], joined.select(order)

    def _target(
        self, observation: Observation, memory: DecisionMemory | None
    ) -> tuple[Tensor, Tensor]:
        """What is asked for from now on (B,), and the index of the present step (B,)."""
        c, B = self.config, observation.batch_size
        if memory is not None:
            clock_B = memory.clock + 1
            if c.condition != "return":
                return memory.target, clock_B
            if observation.reward is None:
                raise UserError(
                    "observation.reward is missing: a return that counts down needs every reward; set it"
                )
            return memory.target - observation.reward.to(self.device), clock_B
        clock_B = torch.zeros(B, dtype=torch.long, device=self.device)
        if observation.target_return is not None:
            return observation.target_return.to(self.device), clock_B
        target = (
            c.target_return
            if c.target_return is not None
            else {"success": 1.0, "none": 0.0}.get(c.condition)
        )
        if target is None:
            raise UserError(
                "target_return is not known: set target_return in the evaluation (or policy.target_return in training, or "
                "observation.target_return) to the return to ask for, such as the best of the data"
            )
        return torch.full((B,), target, device=self.device), clock_B

    # --- tokens ---------------------------------------------------------------------------------------

    def _output(
        self, hidden_BTRD: Tensor, losses: Mapping[str, Tensor] | None = None
    ) -> PolicyOutput:
        return PolicyOutput(hidden_BTRD.mean(2), self.head(hidden_BTRD), dict(losses or {}))

    def _prefix(self, vectors_BE: Tensor) -> dict[str, Tensor]:
        if self.config.language is None:
            return {}
        return {"language": self.language_embedding(vectors_BE)[:, None]}

    def _step_content(self, asked_BT: Tensor, state_BTS: Tensor) -> dict[str, Tensor]:
        content = {}
        if self.config.condition != "none":
            scale = self.config.return_scale if self.config.condition == "return" else 1.0
            content["condition"] = self.condition_embedding(asked_BT[..., None] / scale).unsqueeze(
                2
            )
        if self.config.state_token:
            state_BTS = self.normalised_state(state_BTS)
            if self.training and self.config.state_noise:
                state_BTS = state_BTS + self.config.state_noise * torch.randn_like(state_BTS)
            content["state"] = self.state_embedding(state_BTS).unsqueeze(2)
        return content

    def _action_tokens(self) -> int:
        if self.config.actions != "tokens":
            return int(self.config.actions == "vector")
        return self.tokenizer.tokens_per_action or self.tokenizer.num_tokens

    def _action_content(self, actions_BTA: Tensor) -> dict[str, Tensor]:
        if self.config.actions == "none":
            return {}
        if self.config.actions == "vector":
            unit_BTA = (2 * actions_BTA - self.action_low - self.action_high) / (
                self.action_high - self.action_low
            )
            return {"action": self.action_embedding(unit_BTA).unsqueeze(2)}
        chunk_BTKA = actions_BTA.unsqueeze(2).expand(-1, -1, self.chunk, -1)
        ids_BTN = self.tokenizer.encode(chunk_BTKA)[..., : self._action_tokens()]
        return {"action": self.action_embedding(ids_BTN)}


def decision_transformer_layout(
    config: DecisionTransformerConfig, *, image_tokens: int, action_tokens: int, readouts: int
) -> Layout:
    """(language), then per step [condition, image, state, (readout), action]: content is causal, readouts see the content
    before them, and nothing sees a readout."""
    prefix = (
        [Segment("language", 1, per_step=False, dropout=config.language_dropout)]
        if config.language
        else []
    )
    content = (
        [Segment("condition", 1, dropout=config.condition_dropout)]
        if config.condition != "none"
        else []
    )
    content += (
        [Segment("image", image_tokens, dropout=config.image_dropout)] if image_tokens else []
    )
    content += [Segment("state", 1, dropout=config.state_dropout)] if config.state_token else []
    read = [Segment("readout", readouts, content=False, readout=True)] if readouts else []
    done = [Segment("action", action_tokens)] if action_tokens else []
    names = [s.name for s in [*content, *done]]
    rules = [Rule(query, key, "causal") for query in names for key in names]
    rules += [Rule("readout", name, "causal") for name in names if readouts]
    rules += [Rule("readout", "readout", "same_step")] if readouts else []
    rules += [
        Rule(name, "language", "all")
        for name in ["language", *names, *(["readout"] if readouts else [])]
        if prefix
    ]
    return Layout((*prefix, *content, *read, *done), tuple(rules), config.window)


def _check(
    config: DecisionTransformerConfig, spec: Spec, sees: bool, reads: int, *, per_action: int | None
) -> None:
    if config.state_token and not spec.state_dim:
        raise SpecError("state_token is on, but the spec has no state; set state_token: false")
    if not (sees or config.state_token):
        raise SpecError("the policy neither sees nor feels: it needs cameras or state_token: true")
    problems = []
    if config.readouts and config.readouts < reads:
        problems.append(
            f"policy.readouts: {config.readouts}, but the head reads {reads} states; set it to 0 or {reads}"
        )
    if config.keyframe_loss and not sees:
        problems.append("policy.keyframe_loss: there are no cameras to learn from; set it to 0")
    if config.actions == "tokens" and per_action is None and config.chunk > 1:
        problems.append(
            "policy.actions: tokens of this tokenizer belong to whole chunks, but the sequence holds single actions; use "
            "actions: vector, chunk: 1, or tokenizer: {type: bins}"
        )
    if problems:
        raise ConfigError(problems)


__all__ = [
    "DecisionMemory",
    "DecisionTransformer",
    "DecisionTransformerConfig",
    "decision_transformer_layout",
]

"""RT-1: FiLM-EfficientNet, TokenLearner and a decoder over image tokens; action slots carry no content.

Brohan et al. 2022, "RT-1: Robotics Transformer for Real-World Control at Scale"; the mask is that of the later JAX
release. All action tokens of all steps come from one pass, since no token attends to an action slot.

B windows, T steps, N frames (B * T without padding), M tokens per image, D width, V bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Choice, register
from vla.models.layers.film_efficientnet import FilmEfficientNet, Norm
from vla.models.layers.heads import CategoricalActions
from vla.models.layers.token_learner import TokenLearner
from vla.models.layers.transformer import FeedForwardKind
from vla.models.policy import Policy, PolicyConfig
from vla.models.trajectory_transformer import Positions, TrajectoryTransformer
from vla.tokenizers.bins import BinsConfig
from vla.tokenizers.layout import Layout, Rule, Segment
from vla.types import Batch, Observation, PolicyOutput, Spec, SpecError

KEYFRAME_HIDDEN = 256


@register("policies", "rt1")
class RT1Config(PolicyConfig):
    """RT-1. The defaults are the published model, apart from the random shift, which depends on the images."""

    type: Literal["rt1"] = "rt1"
    trunk: str = "efficientnet_b3"
    """Any EfficientNet of timm: efficientnet_*, tf_efficientnet*, tinynet_* ..."""
    pretrained: bool | str = False
    """ImageNet weights of the trunk: true, a timm tag, or a .safetensors file."""
    stride: Literal[8, 16, 32] = 32
    """Pixels per token of the map. Small images want 8 or 16."""
    norm: Norm = "batch"
    """Normalisation in the trunk: batch, frozen_batch (for pretrained trunks) or group."""
    image_size: tuple[int, int] | None = None
    """Height and width to which all images are resized; null keeps the spec's."""
    cameras: list[str] | None = None
    """Cameras to look through; null for all of the spec."""
    token_learner: bool = True
    """Reduce the map to a few learned tokens; false feeds all tokens of the map to the transformer."""
    tokens_per_image: int = Field(default=8, ge=1)
    """Tokens that TokenLearner makes of each image."""
    token_positions: bool = False
    """Add a learned position in the image to every token of the map, so that a token can say where something is."""
    state_token: bool = False
    """Give the transformer the robot's state as one more token per step."""
    keyframe_loss: float = Field(default=0.0, ge=0)
    """Weight of an auxiliary loss in training: the image tokens alone shall tell the robot's state at the next keyframe,
    that is where a gripper next opens or closes, or where the episode ends. Most frames of a demonstration can be
    continued without the image; this makes every frame teach what the instruction means in it."""
    state_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of noise on the normalised state in training."""
    language: str = "minilm"
    """Frozen text encoder: minilm (bundled), or the name or folder of one of Hugging Face."""
    language_dim: int = Field(default=512, ge=1)
    """Width of the instruction vector that conditions the trunk, projected from the encoder's."""
    width: int = Field(default=512, ge=1)
    """Width of tokens and transformer."""
    depth: int = Field(default=8, ge=1)
    """Transformer layers."""
    heads: int = Field(default=8, ge=1)
    """Attention heads."""
    key_dim: int = Field(default=128, ge=2, multiple_of=2)
    """Width of keys and queries of each head."""
    feed_forward: FeedForwardKind = "linear"
    """linear (one Dense, as released), swiglu (as in the JAX release) or gelu."""
    positions: Positions = "absolute"
    """absolute (learned, as released) or rotary (over time steps)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in the transformer."""
    random_shift: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.04, 0.04)
    """Greatest random shift of training images, vertical and horizontal: below 1 a fraction of the size, else pixels."""
    tokenizer: Annotated[Any, Choice("tokenizers")] = BinsConfig()
    """Action tokenizer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training target spread evenly over all bins."""
    bin_smoothing: float = Field(default=0.0, ge=0)
    """Standard deviation, in bins, of the training target around the true bin; 0 for the true bin alone."""

    @model_validator(mode="after")
    def _keyframes_from_few_tokens(self) -> RT1Config:
        if self.keyframe_loss and not self.token_learner:
            raise ValueError("keyframe_loss: needs token_learner=true: it reads the few tokens of an image")
        return self

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> RT1:
        """Raises SpecError where cameras and config do not fit, TrunkError where the trunk cannot be had."""
        return RT1(self, spec, from_checkpoint=from_checkpoint)


@dataclass(frozen=True)
class RT1Memory:
    """Tokens of the past frames of B robots.

    Attributes:
        content: segment -> tokens (B, S, n, D) of the last S < T steps; a robot's own steps are its last `ages`.
        ages: number of past steps of each robot, at most S.
        instruction: what conditioned the tokens.
        modulation: FiLM's scale and shift for each robot, (B, C) each, layer by layer.
    """

    content: dict[str, Tensor]
    ages: tuple[int, ...]
    instruction: tuple[str, ...]
    modulation: tuple[tuple[Tensor, Tensor], ...]

    @property
    def batch_size(self) -> int:
        return len(self.ages)

    def select(self, rows: Sequence[int]) -> RT1Memory:
        """The memory of some robots, in the order given."""
        index = list(rows)
        return RT1Memory(
            content={name: x[index] for name, x in self.content.items()},
            ages=tuple(self.ages[i] for i in index),
            instruction=tuple(self.instruction[i] for i in index),
            modulation=tuple((scale[index], shift[index]) for scale, shift in self.modulation),
        )

    @classmethod
    def stack(cls, memories: Sequence[RT1Memory]) -> RT1Memory:
        """The memories of several groups of robots, of whatever age, as one."""
        longest = max(next(iter(m.content.values())).shape[1] for m in memories)
        return cls(
            content={
                name: torch.cat([_pad_steps(m.content[name], longest) for m in memories])
                for name in memories[0].content
            },
            ages=tuple(age for m in memories for age in m.ages),
            instruction=tuple(text for m in memories for text in m.instruction),
            modulation=tuple(
                (torch.cat([scale for scale, _ in layer]), torch.cat([shift for _, shift in layer]))
                for layer in zip(*(m.modulation for m in memories), strict=True)
            ),
        )


class RT1(Policy):
    """See the module's docstring. Built by `RT1Config.build`, or read by `load_policy`."""

    config: RT1Config

    def __init__(self, config: RT1Config, spec: Spec, *, from_checkpoint: bool = False) -> None:
        super().__init__(config, spec, tokenizer=config.tokenizer.build(spec, config.chunk), language=config.language)
        self.cameras = _cameras(config, spec)
        self.image_size = config.image_size or spec.cameras[self.cameras[0]]
        self.condition = nn.Linear(self.language.dim, config.language_dim)
        self.trunk = FilmEfficientNet(
            config.trunk,
            condition_dim=config.language_dim,
            token_dim=config.width,
            stride=config.stride,
            norm=config.norm,
            pretrained=config.pretrained if not from_checkpoint else False,
        )
        h, w = self.trunk.map_size(*self.image_size)
        if config.token_positions:
            self.map_position = nn.Parameter(_coordinates(config.width, h, w))
        if config.token_learner:
            self.token_learner = TokenLearner(config.width, tokens=config.tokens_per_image)
        if len(self.cameras) > 1:
            self.camera_embedding = nn.Parameter(torch.randn(len(self.cameras), 1, config.width) * 0.05)
        if config.state_token:
            self.state_embedding = nn.Linear(spec.state_dim, config.width)
        per_image = config.tokens_per_image if config.token_learner else h * w
        layout = rt1_layout(per_image * len(self.cameras), self.tokenizer.num_tokens, state_token=config.state_token)
        self.transformer = TrajectoryTransformer(
            layout,
            steps=config.history,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            key_dim=config.key_dim,
            feed_forward=config.feed_forward,
            dropout=config.dropout,
            positions=config.positions,
        )
        self.head = nn.Linear(config.width, self.tokenizer.vocab_size)
        nn.init.normal_(self.head.weight, std=0.02)  # starts near the uniform distribution
        nn.init.zeros_(self.head.bias)
        # as released: the first action token is read where the last token with content stands
        first = layout.slots("action").start - 1
        self._read = range(first, first + self.tokenizer.num_tokens)
        if config.keyframe_loss:
            self.keyframe_head = nn.Sequential(
                nn.Linear(per_image * len(self.cameras) * config.width, KEYFRAME_HIDDEN),
                nn.GELU(),
                nn.Linear(KEYFRAME_HIDDEN, spec.state_dim),
            )

    def forward(self, batch: Batch) -> PolicyOutput:
        """Output for every step; what it says of padded steps means nothing.

        Raises:
            ValueError: more steps than `history`.
        """
        embedding_UE, index_B = self.embed_instructions(batch.instruction)
        modulation = self.trunk.modulation(self.condition(embedding_UE))
        mask_BT = None if bool(batch.mask.all()) else batch.mask
        images = {camera: self._augment(batch.images[camera]) for camera in self.cameras}
        content = self._content(images, batch.state, modulation, index_B, mask_BT)
        losses = {"keyframe_loss": self._keyframe_loss(content["image"], batch)} if self.config.keyframe_loss else {}
        return self._output(self.transformer(content, mask_BT, read=self._read), losses)

    def step(self, observation: Observation, memory: RT1Memory | None) -> tuple[PolicyOutput, RT1Memory]:
        """One new frame is encoded; past frames come from the memory. Equal to `forward` over the robot's window.

        A robot whose instruction changes starts a new history: a window has one instruction.
        """
        instruction = tuple(observation.instruction)
        if memory is None or memory.instruction != instruction:
            embedding_UE, index_B = self.embed_instructions(instruction)
            distinct = self.trunk.modulation(self.condition(embedding_UE))
            modulation = tuple((scale[index_B], shift[index_B]) for scale, shift in distinct)
        else:
            modulation = memory.modulation
        images = {camera: observation.images[camera][:, None] for camera in self.cameras}
        content = self._content(images, observation.state[:, None], modulation, None, None)
        ages = (0,) * len(instruction)
        if memory is not None:
            same = [old == new for old, new in zip(memory.instruction, instruction, strict=True)]
            ages = tuple(age * kept for age, kept in zip(memory.ages, same, strict=True))
            content = {name: torch.cat([memory.content[name], x], dim=1) for name, x in content.items()}
        oldest = max(ages)
        content = {name: x[:, -(oldest + 1) :] for name, x in content.items()}
        mask_BT = None if min(ages) == oldest else _age_mask(ages, oldest + 1).to(self.device)
        hidden = self.transformer(content, mask_BT, read=self._read, last_step_only=True)
        kept = min(oldest + 1, self.history - 1)
        new = RT1Memory(
            content={name: x[:, x.shape[1] - kept :] for name, x in content.items()},
            ages=tuple(min(age + 1, kept) for age in ages),
            instruction=instruction,
            modulation=modulation,
        )
        return self._output(hidden), new

    def _keyframe_loss(self, image_BTMD: Tensor, batch: Batch) -> Float[Tensor, "B T"]:
        """Squared error of the normalised state at the next keyframe, weighted."""
        predicted_BTS = self.keyframe_head(image_BTMD.flatten(2))
        error_BTS = predicted_BTS.float() - self.normalised_state(batch.keyframe)
        return self.config.keyframe_loss * error_BTS.square().mean(-1)

    def _output(self, hidden_BTRD: Tensor, losses: dict[str, Tensor] | None = None) -> PolicyOutput:
        c = self.config
        actions = CategoricalActions(self.head(hidden_BTRD), self.tokenizer, c.label_smoothing, c.bin_smoothing)
        return PolicyOutput(features=hidden_BTRD.mean(2), actions=actions, losses=losses or {})

    def _content(
        self,
        images: Mapping[str, UInt8[Tensor, "B T H W 3"]],
        state: Float[Tensor, "B T S"],
        modulation: Sequence[tuple[Tensor, Tensor]],
        index_B: Int64[Tensor, " B"] | None,
        mask_BT: Bool[Tensor, "B T"] | None,
    ) -> dict[str, Tensor]:
        """Tokens (B, T, n, D) of the segments with content. Padded frames are not encoded: they are zeros."""
        B, T = state.shape[:2]
        index_N = None if index_B is None else index_B[:, None].expand(B, T).flatten()
        frames = {camera: image.flatten(0, 1) for camera, image in images.items()}
        if mask_BT is not None:
            # left out, so that padding can neither cost time nor enter the statistics of batch norm
            real_N = mask_BT.flatten().nonzero().flatten()
            frames = {camera: image[real_N] for camera, image in frames.items()}
            index_N = None if index_N is None else index_N[real_N]
        tokens = self._image_tokens(frames, modulation, index_N)
        if mask_BT is not None:
            tokens = tokens.new_zeros(B * T, *tokens.shape[1:]).index_copy(0, real_N, tokens)
        content = {"image": tokens.unflatten(0, (B, T))}
        if self.config.state_token:
            state = self.normalised_state(state)
            if self.training and self.config.state_noise:
                state = state + self.config.state_noise * torch.randn_like(state)
            content["state"] = self.state_embedding(state).unsqueeze(2)
        return content

    def _image_tokens(
        self, frames: Mapping[str, Tensor], modulation: Sequence[tuple[Tensor, Tensor]], index_N: Tensor | None
    ) -> Float[Tensor, "N M D"]:
        """All cameras go through the trunk at once, so that batch norm sees them together, as it will in control."""
        cameras = len(self.cameras)
        x = torch.cat([self.trunk.prepare(frames[camera], self.image_size) for camera in self.cameras])
        if cameras > 1:
            if index_N is None:
                index_N = torch.arange(len(x) // cameras, device=x.device)
            index_N = index_N.repeat(cameras)
        map_NDhw = self.trunk(x, modulation, index_N)
        if self.config.token_positions:
            map_NDhw = map_NDhw + self.map_position
        tokens = map_NDhw.permute(0, 2, 3, 1).flatten(1, 2)
        if self.config.token_learner:
            tokens = self.token_learner(tokens)
        if cameras == 1:
            return tokens
        tokens = tokens.unflatten(0, (cameras, -1)) + self.camera_embedding[:, None]
        return tokens.transpose(0, 1).flatten(1, 2)

    def _augment(self, images: UInt8[Tensor, "B T H W 3"]) -> UInt8[Tensor, "B T H W 3"]:
        vertical, horizontal = self.config.random_shift
        if not self.training or (vertical == 0 and horizontal == 0):
            return images
        H, W = images.shape[2:4]
        return random_shift(images, _pixels(vertical, H), _pixels(horizontal, W))


def rt1_layout(image_tokens: int, action_tokens: int, *, state_token: bool = False) -> Layout:
    """Per step [image, (state), action with empty slots]: content is causal, action slots see content up to their
    step, and nothing sees an action slot, not even itself."""
    content = ["image", "state"] if state_token else ["image"]
    segments = [Segment("image", image_tokens), *([Segment("state", 1)] if state_token else [])]
    rules = [Rule(query, key, "causal") for query in content for key in content]
    rules += [Rule("action", key, "up_to") for key in content]
    return Layout((*segments, Segment("action", action_tokens, content=False)), tuple(rules))


def random_shift(images: UInt8[Tensor, "B T H W 3"], vertical: int, horizontal: int) -> UInt8[Tensor, "B T H W 3"]:
    """Each window's images, all its steps alike, shifted by up to that many pixels; the border is repeated."""
    B, T, H, W, _ = images.shape
    reach = torch.tensor([[vertical], [horizontal]])
    shift_2B = (torch.rand(2, B) * (2 * reach + 1)).floor().long() - reach
    rows_BH = (torch.arange(H) + shift_2B[0, :, None]).clamp(0, H - 1)
    columns_BW = (torch.arange(W) + shift_2B[1, :, None]).clamp(0, W - 1)
    pixels = (rows_BH[:, :, None] * W + columns_BW[:, None, :]).to(images.device)
    index = pixels.view(B, 1, H * W, 1).expand(B, T, H * W, 3)
    return images.flatten(2, 3).gather(2, index).view(images.shape)


def _coordinates(width: int, h: int, w: int) -> Float[Tensor, "D h w"]:
    """Start of the positions in the map: every channel a random linear function of row and column.

    A soft attention averages positions. What is smooth keeps its meaning under the average, so that where a token
    looks has a gradient from the first step; with independent noise per position a policy did not learn to point.
    """
    rows_hw, columns_hw = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.einsum("dc,chw->dhw", torch.randn(width, 2), torch.stack([rows_hw, columns_hw]))


def _pixels(amount: float, size: int) -> int:
    return round(amount * size if amount < 1 else amount)


def _cameras(config: RT1Config, spec: Spec) -> tuple[str, ...]:
    """The cameras that the policy looks through. Raises SpecError where there are none or their sizes differ."""
    names = tuple(config.cameras if config.cameras is not None else spec.cameras)
    has = ", ".join(spec.cameras) or "none"
    if not names:
        raise SpecError(f"rt1 needs at least one camera; the spec has: {has}")
    if unknown := [name for name in names if name not in spec.cameras]:
        raise SpecError(f"cameras: no {unknown[0]!r} in the spec; it has: {has}")
    sizes = {spec.cameras[name] for name in names}
    if config.image_size is None and len(sizes) > 1:
        raise SpecError(f"cameras {', '.join(names)} have different sizes; set image_size: [height, width]")
    if config.state_token and not spec.state_dim:
        raise SpecError("state_token is on, but the spec has no state; set state_token: false")
    if config.keyframe_loss and not spec.state_dim:
        raise SpecError("keyframe_loss is on, but the spec has no state to tell; set keyframe_loss: 0")
    return names


def _pad_steps(x: Tensor, steps: int) -> Tensor:
    """(B, S, n, D) -> (B, steps, n, D), zeros on the left."""
    return torch.cat([x.new_zeros(len(x), steps - x.shape[1], *x.shape[2:]), x], dim=1)


def _age_mask(ages: Sequence[int], steps: int) -> Bool[Tensor, "B T"]:
    """True at the last age + 1 steps of each robot."""
    return torch.arange(steps) >= steps - 1 - torch.tensor(ages)[:, None]


__all__ = ["RT1", "RT1Config", "RT1Memory", "random_shift", "rt1_layout"]

"""A policy as a plug-in would bring it: a GRU over two cameras and the robot's state, with modules of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vla.config import register
from vla.models import Policy, PolicyConfig
from vla.models.heads.regression import RegressionConfig
from vla.models.roles import STATE_INPUT, TRUNK, Role, camera_input, roles_of
from vla.tokenizers.bins import BinsConfig
from vla.types import Batch, Observation, PolicyOutput, Spec

SPEC = Spec(
    cameras={"left": (32, 32), "right": (32, 32)},
    state_names=("x", "y"),
    action_names=("dx", "dy"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_hz=10.0,
)
PIXELS = 4 * 4 * 3


@register("policies", "gru")
class GRUConfig(PolicyConfig):
    """A GRU over pooled images and the state."""

    type: Literal["gru"] = "gru"
    hidden: int = 16

    def build(self, spec: Spec) -> GRUPolicy:
        return GRUPolicy(self, spec)


@dataclass(frozen=True)
class Frames:
    """What B robots have seen in their last steps (B, S, F)."""

    frames: Tensor

    @property
    def batch_size(self) -> int:
        return len(self.frames)

    def select(self, rows: Sequence[int]) -> Frames:
        return Frames(self.frames[list(rows)])

    @classmethod
    def stack(cls, memories: Sequence[Frames]) -> Frames:
        return cls(torch.cat([memory.frames for memory in memories]))


class GRUPolicy(Policy):
    """Each camera has an encoder of its own, of which the policy alone knows."""

    config: GRUConfig

    def __init__(self, config: GRUConfig, spec: Spec) -> None:
        super().__init__(
            config, spec, tokenizer=BinsConfig().build(spec, config.chunk), language=None
        )
        self.feature_dim = config.hidden
        self.cameras = tuple(spec.cameras)
        self.state_input = nn.Linear(spec.state_dim, config.hidden)
        self.encoders = nn.ModuleDict(
            {camera: nn.Linear(PIXELS, config.hidden) for camera in self.cameras}
        )
        self.gru = nn.GRU(config.hidden, config.hidden, batch_first=True)
        self.head = RegressionConfig().build(self.tokenizer, spec, width=config.hidden)

    def parameter_roles(self) -> dict[str, Role]:
        named = {"state_input": STATE_INPUT, "gru": TRUNK}
        for camera in self.cameras:
            named[f"encoders.{camera}"] = camera_input(camera)
        return super().parameter_roles() | roles_of(self, named)

    def forward(self, batch: Batch) -> PolicyOutput:
        hidden_BTF, _ = self.gru(self.frame_features(batch.images, batch.state))
        return self.output(hidden_BTF)

    def step(self, observation: Observation, memory: Frames | None) -> tuple[PolicyOutput, Any]:
        images = {camera: observation.images[camera][:, None] for camera in self.cameras}
        frame = Frames(self.frame_features(images, observation.state[:, None]))
        frames_BSF = frames_of(memory, frame)[:, -self.history :]
        hidden_BSF, _ = self.gru(frames_BSF)
        return self.output(hidden_BSF[:, -1:]), Frames(frames_BSF)

    def frame_features(self, images: Mapping[str, Tensor], state_BTS: Tensor) -> Tensor:
        features_BTF = self.state_input(self.normalised_state(state_BTS))
        for camera in self.cameras:
            pixels = images[camera].float() / 255
            B, T, H, W, _ = pixels.shape
            pooled = pixels.view(B, T, 4, H // 4, 4, W // 4, 3).mean((3, 5)).flatten(2)
            features_BTF = features_BTF + self.encoders[camera](pooled)
        return torch.tanh(features_BTF)

    def output(self, hidden_BTF: Tensor) -> PolicyOutput:
        read_BTKF = hidden_BTF.unsqueeze(2).expand(-1, -1, self.chunk, -1)
        return PolicyOutput(features=hidden_BTF, actions=self.head(read_BTKF))


def frames_of(memory: Frames | None, new: Frames) -> Tensor:
    """The remembered frames and the last one of `new` (B, S, F)."""
    last = new.frames[:, -1:]
    return last if memory is None else torch.cat([memory.frames, last], dim=1)

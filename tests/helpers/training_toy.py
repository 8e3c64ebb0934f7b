"""A tiny robot, a dataset of it, and a fast real policy: what the tests of the training room run on."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vla.config import register
from vla.data import DatasetWriter, Episode
from vla.models.policy import Policy, PolicyConfig
from vla.tokenizers.bins import BinsConfig
from vla.training import TrainConfig
from vla.types import Batch, PolicyOutput, Spec

SPEC = Spec(
    cameras={"front": (32, 32)},
    state_names=("x", "y"),
    action_names=("dx", "dy"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_hz=10.0,
)
TASKS = ("go left", "go right")


def write_dataset(root: Path, *, episodes: int = 8, length: int = 12, seed: int = 0) -> Path:
    """Episodes in which a bright square stands where the state says, and the action leads to a side of the image."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(root, SPEC) as writer:
        for episode in range(episodes):
            state = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
            goal = np.array([[-1.0, 0.0], [1.0, 0.0]])[episode % 2]
            images = np.zeros((length, 32, 32, 3), np.uint8)
            for t, (x, y) in enumerate(state):
                row, column = int((y + 1) * 13), int((x + 1) * 13)
                images[t, row : row + 6, column : column + 6] = 255
            actions = np.clip(0.5 * (goal - state), -1, 1).astype(np.float32)
            done = np.arange(length) == length - 1
            writer.add_episode(
                Episode(
                    images={"front": images},
                    state=state,
                    actions=actions,
                    rewards=done.astype(np.float32),
                    success=done,
                    terminated=True,
                    instruction=TASKS[episode % 2],
                )
            )
    return root


@dataclass(frozen=True)
class SquaredError:
    """Regression with an optional mask of the chunk's actions."""

    mean: Tensor

    def loss(self, actions: Tensor, action_mask: Tensor | None = None) -> Tensor:
        error_BTK = (self.mean - actions).square().mean(-1)
        mask_BTK = (
            torch.ones_like(error_BTK, dtype=torch.bool) if action_mask is None else action_mask
        )
        return error_BTK.where(mask_BTK, 0.0).sum(-1) / mask_BTK.sum(-1).clamp(min=1)

    def mode(self) -> Tensor:
        return self.mean

    def sample(
        self, generator: torch.Generator | None = None, *, temperature: float = 0.0
    ) -> Tensor:
        return self.mean


@register("policies", "toy_linear")
class ToyConfig(PolicyConfig):
    """A linear map of pooled pixels, state and instruction; with dropout, so that random states matter."""

    type: Literal["toy_linear"] = "toy_linear"
    dropout: float = 0.0
    language: str = "minilm"

    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> Toy:
        return Toy(self, spec)


class Toy(Policy):
    config: ToyConfig

    def __init__(self, config: ToyConfig, spec: Spec) -> None:
        super().__init__(
            config, spec, tokenizer=BinsConfig().build(spec, config.chunk), language=config.language
        )
        # the network tells tasks apart by their text: the language encoder need not be loaded
        self.language.preload({task: torch.zeros(self.language.dim) for task in TASKS})
        self.feature_dim = 16
        self.embed = nn.Linear(16 * 3 + spec.state_dim, 16)
        self.norm = nn.LayerNorm(16)
        self.dropout = nn.Dropout(config.dropout)
        self.tasks = nn.Linear(2, 16)
        self.out = nn.Linear(16, config.chunk * spec.action_dim)

    def forward(self, batch: Batch) -> PolicyOutput:
        images_BTHWC = batch.images["front"].float() / 255
        pooled = images_BTHWC.unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((3, 5)).flatten(2)
        side = torch.tensor(
            [[float(t == TASKS[0]), float(t == TASKS[1])] for t in batch.instruction]
        )
        hidden = (
            self.embed(torch.cat([pooled, self.normalised_state(batch.state)], -1))
            + self.tasks(side)[:, None]
        )
        hidden_BTF = self.dropout(torch.tanh(self.norm(hidden)))
        actions = self.out(hidden_BTF).unflatten(-1, (self.chunk, -1))
        return PolicyOutput(features=hidden_BTF, actions=SquaredError(actions))


class ToyTrainConfig(TrainConfig):
    """A run of the toy policy, whatever is registered when TrainConfig is defined."""

    policy: ToyConfig | None = ToyConfig()


def toy_config(data: Path, out: Path, /, **changes: Any) -> ToyTrainConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"path": str(data), "validation_fraction": 0.25},
        "policy": {"history": 2, "chunk": 2, "dropout": 0.1},
        "optim": {"lr": 1e-2, "warmup_steps": 3},
        "steps": 20,
        "batch_size": 8,
        "log_every": 1,
        "validate_every": 10,
        "save_every": 5,
    }
    return ToyTrainConfig.model_validate(values | changes)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

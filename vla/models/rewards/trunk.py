"""Reward models that read the features of a policy's trunk.

Any policy will do: its features say what was seen and what was asked for. A small network on top
of them says what that is worth.

B windows, T steps, F features, A action dimensions, O outputs, H hidden width.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from vla.models.policy import Policy
from vla.models.rewards.base import Metrics, RewardError, RewardModel, RewardModelConfig
from vla.models.transfer.cameras import cameras_of
from vla.types import Batch, Spec

TARGET, WEIGHT = "target", "weight"
"""Extra columns of a batch of examples, (B, T): what the last step's output ought to be, and how
much the example counts."""


class TrunkRewardConfig(RewardModelConfig, ABC):
    """Base of the configs of models that read a policy's trunk."""

    needs_policy: ClassVar[bool] = True
    hidden: int = Field(default=256, ge=1, le=65536)
    """Width of the hidden layers on top of the trunk's features."""
    depth: int = Field(default=2, ge=1, le=100)
    """Hidden layers."""
    sees_start: bool = False
    """Show the trunk the episode's first step in front of the latest ones: whether a thing was
    moved cannot be seen without where it was. It takes a place of the history: set
    policy.history=2."""
    freeze_trunk: bool = False
    """Let the layers on top learn alone, from the features as they are."""


class TrunkReward(RewardModel):
    """A trunk and a multilayer perceptron over its features, and the action if it is read.

    Args:
        outputs: O, numbers per step.
        reads_action: whether the network sees the action of each step.

    Raises RewardError if the policy is for another robot.
    """

    config: TrunkRewardConfig
    policy: Policy

    def __init__(
        self,
        config: TrunkRewardConfig,
        spec: Spec,
        policy: Policy | None,
        *,
        outputs: int = 1,
        reads_action: bool = True,
    ) -> None:
        super().__init__(config, spec)
        if policy is None:
            raise RewardError("policy: is required: the trunk whose features this model reads")
        if policy.robot_names:
            raise RewardError("policy: is for several robots; name the policy of one")
        self.policy = policy.unwrapped
        self.history = self.policy.history
        self.sees_start = config.sees_start
        if config.sees_start:
            if self.history < 2:
                raise RewardError(
                    "model.sees_start: the first step and the latest one need a history of two; "
                    "set policy.history=2"
                )
            self.history -= 1
        self.chunk = self.policy.chunk
        self.cameras = tuple(cameras_of(self.policy))
        self.reads_action = reads_action
        inputs = self.policy.feature_dim + (spec.action_dim if reads_action else 0)
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            # normalised: features of a trained trunk may be of any size
            layers += [
                nn.Linear(inputs, config.hidden),
                nn.LayerNorm(config.hidden),
                nn.ReLU(inplace=True),
            ]
            inputs = config.hidden
        last = nn.Linear(inputs, outputs)
        # small: a new model calls nothing good or bad
        with torch.no_grad():
            last.weight.mul_(0.1)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(*layers, last)
        if config.freeze_trunk:
            self.policy.requires_grad_(False)

    def train(self, mode: bool = True) -> TrunkReward:
        super().train(mode)
        if self.config.freeze_trunk:
            # dropout and batch norm too: features as they are
            self.policy.eval()
        return self

    def inputs(self, batch: Batch) -> Float[Tensor, "B T I"]:
        """What the head reads: features, and actions in units of the spec's range, -1 to 1."""
        features_BTF = self.policy.features(batch).float()
        if not self.reads_action:
            return features_BTF
        low, high = self.policy.action_low, self.policy.action_high
        unit_BTA = 2 * (batch.actions[:, :, 0].float() - low) / (high - low) - 1
        return torch.cat([features_BTF, unit_BTA], dim=-1)

    def outputs(self, batch: Batch) -> Float[Tensor, "B T O"]:
        """The head's numbers for every step, float32 whatever the trunk computes in."""
        inputs = self.inputs(batch)
        with torch.autocast(inputs.device.type, enabled=False):
            found: Tensor = self.head(inputs.float())
        return found


def last_example(batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Targets and weights of a batch of examples, each of its window's last step."""
    return batch.extras[TARGET][:, -1].float(), batch.extras[WEIGHT][:, -1].float()


def weighted_mean(values: Float[Tensor, " B"], weights: Float[Tensor, " B"]) -> Tensor:
    """Mean of the examples by their weights; 0 if all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)


__all__ = [
    "TARGET",
    "WEIGHT",
    "Metrics",
    "TrunkReward",
    "TrunkRewardConfig",
    "last_example",
    "weighted_mean",
]

"""A discriminator between an expert's steps and others: the reward of adversarial imitation.

B windows, T steps, I numbers that the head reads.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F_
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.models.rewards.base import Examples, Metrics, RewardError, RewardModel
from vla.models.rewards.examples import as_examples
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import (
    TrunkReward,
    TrunkRewardConfig,
    last_example,
    weighted_mean,
)
from vla.types import Batch, Spec


@register("rewards", "discriminator")
class DiscriminatorConfig(TrunkRewardConfig):
    """How much a step looks like the expert's (GAIL).

    Formula: D = sigmoid(f(features_t, a_t)), trained to 1 on the expert's steps and 0 on others,
    with the penalty w (|grad f| - 1)^2 between the two. Reward: log D.

    Sources: Ho and Ermon, 2016, "Generative adversarial imitation learning", eq. 17; the penalty:
    Gulrajani et al., 2017, eq. 3; the logit as reward: Fu et al., 2018 (AIRL).
    """

    needs_demonstrations: ClassVar[bool] = True
    learns_online: ClassVar[bool] = True
    type: Literal["discriminator"] = "discriminator"
    reward: Literal["log_d", "logit", "minus_log_1_minus_d"] = "log_d"
    """log_d is never positive, so it pays to end an episode by success: the choice where success
    ends it. minus_log_1_minus_d is never negative, and pays for staying alive: where an end is a
    failure. logit is log_d + minus_log_1_minus_d (AIRL)."""
    reads_action: bool = True
    """Judge the action too; false judges what is seen alone, for demonstrations by another body."""
    gradient_penalty: float = Field(default=1.0, ge=0, le=1e6)
    """Weight w of the penalty."""
    instance_noise: float = Field(default=0.05, ge=0, le=10)
    """Deviation of noise on what the head reads while it learns, so that a few demonstrations are
    not learned by heart."""
    clip: float = Field(default=10.0, gt=0, le=1000)
    """Greatest size of the logit in the reward."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        return Discriminator(self, spec, policy)


class Discriminator(TrunkReward):
    """See `DiscriminatorConfig`."""

    config: DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig, spec: Spec, policy: Policy | None) -> None:
        super().__init__(config, spec, policy, reads_action=config.reads_action)

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        logit_BT = self.outputs(batch)[..., 0].clamp(-self.config.clip, self.config.clip)
        if self.config.reward == "log_d":
            return F_.logsigmoid(logit_BT)
        if self.config.reward == "minus_log_1_minus_d":
            # 1 - sigmoid(x) is sigmoid(-x)
            return -F_.logsigmoid(-logit_BT)
        return logit_BT

    def examples(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> Examples:
        return DiscriminatorExamples(steps, demonstrations)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the penalty; `accuracy` of each side, and the `penalty`."""
        target_B, weight_B = last_example(batch)
        inputs_BI = self.inputs(batch)[:, -1].float()
        noise = self.config.instance_noise if self.training else 0.0
        # of the head, not of the images: the penalty is of what tells the two sides apart
        with torch.autocast(inputs_BI.device.type, enabled=False):
            noisy_BI = inputs_BI + noise * torch.randn_like(inputs_BI)
            logit_B = self.head(noisy_BI)[:, 0]
            loss_B = F_.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
            loss = weighted_mean(loss_B, weight_B)
            penalty = self._penalty(inputs_BI, target_B)
        right_B = ((logit_B > 0) == (target_B > 0.5)).float()
        metrics = {
            "accuracy/expert": weighted_mean(right_B, weight_B * target_B).detach(),
            "accuracy/other": weighted_mean(right_B, weight_B * (1 - target_B)).detach(),
            "penalty": penalty.detach(),
        }
        return loss + self.config.gradient_penalty * penalty, metrics

    def _penalty(self, inputs_BI: Tensor, target_B: Tensor) -> Tensor:
        """Mean (|gradient of the logit| - 1)^2 at points between the expert's and others."""
        if not self.config.gradient_penalty or not torch.is_grad_enabled():
            return inputs_BI.new_zeros(())
        expert = inputs_BI.detach()[target_B > 0.5]
        other = inputs_BI.detach()[target_B <= 0.5]
        pairs = min(len(expert), len(other))
        if not pairs:
            return inputs_BI.new_zeros(())
        where = torch.rand(pairs, 1, device=inputs_BI.device)
        between = (where * expert[:pairs] + (1 - where) * other[:pairs]).requires_grad_(True)
        logit = self.head(between).sum()
        # its own gradient is learned from, so its graph is kept
        (gradient,) = torch.autograd.grad(logit, between, create_graph=True)
        return ((gradient.norm(dim=1) - 1) ** 2).mean()


class DiscriminatorExamples(Examples):
    """Half steps of the demonstrations, half others, all equally likely.

    Raises RewardError if there are no demonstrations.
    """

    def __init__(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> None:
        if demonstrations is None:
            raise RewardError(
                "demonstrations: is required: the expert's episodes, which a discriminator tells "
                "from those of data; name their dataset"
            )
        self.mine = steps
        self.theirs = demonstrations
        self.lines = (f"steps of the expert {len(demonstrations)}, others {len(steps)}",)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        half = size // 2
        counts = ((self.theirs, size - half, 1.0), (self.mine, half, 0.0))
        parts = []
        for steps, count, target in counts:
            rows = rng.integers(len(steps), size=count)
            parts.append(as_examples(steps, rows, np.full(count, target)))
        return Batch.concat(parts)


__all__ = ["Discriminator", "DiscriminatorConfig", "DiscriminatorExamples"]

"""A one-step student of the policy's flow that climbs Q: no gradient goes through the flow's steps.

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.models.heads.flow import FlowActions
from vla.models.policies.one_step import (
    OneStepActions,
    OneStepConfig,
    OneStepPolicy,
    Student,
    StudentConfig,
    has_flow_head,
)
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    imitation,
    require_q,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner
from vla.types import ActionDistribution, PolicyOutput


@register("extractions", "one_step")
class OneStepExtractionConfig(ExtractionConfig):
    """The policy's flow imitates; a student learns to give the flow's chunk in one step, and climbs
    Q; the student acts.

    Formula, with the flow f and the student m, which make chunks of the same noise z:

        L = mean over B, T of L_flow(a | s)
            + alpha * mean over B, T, K, A of (m(s, z) - f(s, z))^2
            - mean over B, T of Q(s, m(s, z)) / mean |Q|

    The second term is in units of the flow head, in which the data's actions have deviation 1. The
    student reads features that it does not change, as critics do. Where values look ahead
    (`value: {type: td}`), they ask the student.

    Shapes: Q is (B, T), z and chunks are (B, T, K, A).

    Source: Park, Li and Levine, 2025, "Flow Q-learning", arXiv:2502.02538, eq. 8 and algorithm 1;
    of chunks: Li, Zhou and Levine, 2025, "Reinforcement learning with action chunking",
    arXiv:2507.07969 (QC-FQL).
    """

    type: Literal["one_step"] = "one_step"
    alpha: float = Field(default=10.0, ge=0)
    """Price of leaving the flow; the greater, the nearer to imitation. The most important option:
    the paper tries 3 to 1000."""
    normalise: bool = True
    """Divide Q by its mean absolute value in the batch, so that `alpha` means the same whatever the
    rewards' size."""
    student: StudentConfig = StudentConfig()
    """The network that acts."""

    def build(self, policy: Policy, value: ValueLearner) -> OneStep:
        """Raises ObjectiveError if the values are none of actions, or the policy has no flow."""
        require_q(value, "one_step")
        if not has_flow_head(policy):
            raise ObjectiveError(
                "objective.extraction: one_step has a flow for its teacher, and the policy has "
                "none; set policy.head: {type: flow}"
            )
        return OneStep(self, policy)


class OneStep(Extraction):
    """See the config."""

    low: Tensor
    high: Tensor

    def __init__(self, config: OneStepExtractionConfig, policy: Policy) -> None:
        super().__init__()
        self.config = config
        spec = policy.spec
        self.student = Student(
            config.student,
            policy.feature_dim,
            policy.chunk * spec.action_dim,
        )
        # follow from the spec, which a checkpoint holds already
        self.register_buffer("low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("high", torch.tensor(spec.action_high), persistent=False)

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        assert isinstance(now.actions, FlowActions)
        mask_BT = now.batch.mask
        scale = now.actions.head.scale
        noise_BTKA = torch.randn_like(now.batch.actions)
        made_BTKA = self.student(now.features, noise_BTKA)
        with torch.no_grad():
            taught_BTKA = scale.to_unit(now.actions.flowed(noise_BTKA))
        distilled_BT = (made_BTKA - taught_BTKA).square().mean((-1, -2))
        # beyond the range the critic has seen nothing, and control clips
        actions_BTKA = scale.to_robot(made_BTKA).clamp(self.low, self.high)
        q_BT = value.q(now.features, actions_BTKA)
        q = masked_mean(q_BT, mask_BT)
        size: Tensor | float = 1.0
        if self.config.normalise:
            size = masked_mean(q_BT.detach().abs(), mask_BT).clamp(min=1e-6)
        imitated = masked_mean(imitation(now), mask_BT)
        distilled = masked_mean(distilled_BT, mask_BT)
        loss = imitated + self.config.alpha * distilled - q / size
        return loss, {
            "bc_loss": imitated.detach(),
            "distillation_loss": distilled.detach(),
            "q_policy": q.detach(),
        }

    def acting(self, output: PolicyOutput) -> ActionDistribution:
        assert isinstance(output.actions, FlowActions)
        return OneStepActions(output.actions, output.features, self.student)

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        # the student that learns, not a copy: the deployed policy moves with the training
        config = OneStepConfig(policy=policy.config, student=self.config.student)
        return OneStepPolicy(config, policy, self.student).train(policy.training)


__all__ = ["OneStep", "OneStepExtractionConfig"]

"""The second stage of an adaptive policy: its context by its last steps, in place of the truth."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from vla.config import register
from vla.data.extras import PRIVILEGED
from vla.models.policies.adaptive import AdaptivePolicy
from vla.models.policy import Policy
from vla.training.losses import Metrics, action_l1, masked_mean
from vla.training.objective import Objective, ObjectiveConfig, ObjectiveError
from vla.types import Batch


@register("objectives", "adaptation")
class AdaptationConfig(ObjectiveConfig):
    """Regression of the context on the last steps, for policies of type `adaptive` whose first
    stage is done. The base policy and the encoder stay as they are.

    Formula: L = mean |phi(s_{t-k+1}, a_{t-k+1}, ..., a_{t-1}, s_t) - mu(e_t)|^2.

    Shapes: contexts (B, T, Z).

    Source: Kumar et al., 2021, "RMA: rapid motor adaptation for legged robots", section III.B.
    On the policy's own episodes (`vla online`): by those of the base policy alone it would not know
    the states that its own mistakes lead to.
    """

    type: Literal["adaptation"] = "adaptation"

    def build(self, policy: Policy) -> AdaptationObjective:
        """Raises ObjectiveError if the policy infers no context."""
        if not isinstance(policy, AdaptivePolicy):
            raise ObjectiveError(
                f"objective: adaptation teaches policies of type adaptive, and this is a "
                f"{type(policy).__name__}; begin with init_from of a first stage"
            )
        policy.begin_adaptation()
        return AdaptationObjective()


class AdaptationObjective(Objective):
    """See `AdaptationConfig`."""

    extras = (PRIVILEGED,)

    def loss(self, policy: Policy, batch: Batch) -> tuple[Tensor, Metrics]:
        """The mean over the valid steps."""
        assert isinstance(policy, AdaptivePolicy)
        return masked_mean(policy.adaptation_loss(batch), batch.mask), {}

    def validate(self, policy: Policy, batch: Batch) -> Metrics:
        """`loss`, and `action_error`: mean L1 between the data's actions and those with the
        inferred context, robot units."""
        assert isinstance(policy, AdaptivePolicy)
        mode = policy(batch).actions.mode()
        error_BTA = action_l1(mode, batch.actions, batch.action_mask)
        return {
            "loss": masked_mean(policy.adaptation_loss(batch), batch.mask),
            "action_error": masked_mean(error_BTA.mean(-1), batch.mask),
        }


__all__ = ["AdaptationConfig", "AdaptationObjective"]

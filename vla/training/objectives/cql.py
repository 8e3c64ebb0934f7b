"""Conservative Q-learning (Kumar et al., 2020)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vla.config import Choice, register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.policy import Policy
from vla.training.objectives.actor_critic import ActorCritic, CriticObjectiveConfig
from vla.training.offline_rl.extractions.ddpg_bc import DDPGBCConfig, Temperature
from vla.training.offline_rl.values.conservative import ConservativeConfig, Form, check_form

NextActions = Literal["policy", "mode", "max"]


@register("objectives", "cql")
class CQLConfig(CriticObjectiveConfig):
    """Q that distrusts what the data does not hold; the policy climbs it (by entropy-regularised
    gradients, or as `extraction` says).

    Formula, with the loss L_TD of `td`, sampled actions a_i with densities p_i, the temperature c
    of the soft maximum, and a reparametrised action a' of the policy:

        L_Q = L_TD + alpha * mean over B, T of
              c log mean over i of exp(Q(s, a_i) / c - log p_i) - Q(s, a)
        L_pi = mean over B, T of temperature * log pi(a' | s) - Q(s, a')

    Value part `conservative`, extraction `ddpg_bc`, which give the shapes.

    Source: Kumar, Zhou, Tucker and Levine, 2020, "Conservative Q-learning for offline reinforcement
    learning".
    """

    type: Literal["cql"] = "cql"
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the conservative gap."""
    form: Form = "sampled"
    """What the gap's soft maximum runs over: `sampled` actions, or `discrete`, all ids of a place
    of the chunk, for heads over bins; see `conservative`."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each of three kinds for the gap, and with `next_actions: max` at the next
    state."""
    conservative_temperature: float = Field(default=1.0, gt=0)
    """Of the gap's soft maximum; values in [0, 1] need one well below 1."""
    importance: bool = True
    """Divide by the density of what is drawn; needs head: {type: gaussian, squash: full} or
    mixture. Without, the data's action stands in the soft maximum."""
    next_actions: NextActions = "mode"
    """What acts at the next state, without its entropy: the policy's most likely action, one sample
    of the `policy`, or the sample of greatest target Q (`max`)."""
    temperature: Temperature = "auto"
    """Weight of the policy's entropy; `auto` as in ddpg_bc."""
    bc: float = Field(default=0.0, ge=0)
    """Weight of imitation beside Q."""
    extraction: Annotated[Any, Choice("extractions")] | None = None
    """Another way to make the policy, such as weighted_bc, best_of_n or argmax_q."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> CQLConfig:
        if self.extraction is not None:
            why = "extraction is given; set it there (ddpg_bc), or drop extraction"
            refuse_ignored_options(self, ("temperature", "bc"), why)
        check_form(self, sampled_counts=self.next_actions == "max")
        return self

    @property
    def calibrated(self) -> bool:
        """Whether returns of the data bound Q of the policy's actions from below (Cal-QL)."""
        return False

    def build(self, policy: Policy) -> ActorCritic:
        # ids take the place of samples, and the value part refuses what would do nothing
        gap: dict[str, Any] = {"form": self.form}
        if self.form == "sampled":
            gap["sampled"] = self.sampled
        chooses = self.next_actions == "max" and self.sampled > 1
        next_actions = self.next_actions
        if next_actions == "max" and not chooses:
            next_actions = "policy"  # the greatest of one sample is that sample
        value = ConservativeConfig(
            **self.critics,
            **gap,
            alpha=self.alpha,
            conservative_temperature=self.conservative_temperature,
            importance=self.importance,
            calibrated=self.calibrated,
            next_actions=next_actions,
            samples=self.sampled if chooses else 1,
        )
        # As published the policy climbs plain Q. Beside imitation Q is divided by its size, so that
        # `bc` means the same whatever the rewards.
        extraction = self.extraction or DDPGBCConfig(
            bc=self.bc, normalise=self.bc > 0, temperature=self.temperature
        )
        return self.join(policy, value, extraction)


__all__ = ["CQLConfig", "NextActions"]

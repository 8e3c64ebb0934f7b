"""The policy imitates; what acts is the best by Q of what it proposes. Nothing has to be learned twice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.models.policies.guided import BestOfN, Climb, GuidedConfig, check_rule, guide
from vla.models.policy import Policy
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    require,
    require_q,
)
from vla.training.offline_rl.extractions.bc import BCExtraction
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.ignored_options import refuse_unused
from vla.training.offline_rl.values.base import Moment, ValueLearner


@register("extractions", "best_of_n")
class BestOfNConfig(ExtractionConfig):
    """Imitates; when it acts, draws some chunks and executes the one of greatest Q (Chen et al., 2023, SfBC; Hansen-Estruch
    et al., 2023, IDQL)."""

    type: Literal["best_of_n"] = "best_of_n"
    rule: BestOfN = BestOfN()
    """How many chunks are drawn, how varied, and how one is chosen."""
    imitate: bool = True
    """Train the policy by imitation meanwhile; false leaves it as it is."""
    weights: WeightedBCConfig | None = None
    """Imitate each action by its advantage; all alike by default."""

    @model_validator(mode="after")
    def _used(self) -> BestOfNConfig:
        _weights_are_used(self)
        return self

    def build(self, policy: Policy, value: ValueLearner) -> Guided:
        require_q(value, "best_of_n")
        return Guided(self.rule, self.imitate, _learner(self.weights, policy, value))


@register("extractions", "argmax_q")
class ArgmaxQConfig(ExtractionConfig):
    """Imitates; when it acts, starts from the policy's most likely tokens and changes one after the other to the one of
    greatest Q. For tokenizers with tokens for each action dimension (bins), over values that distrust what the data does
    not hold (conservative)."""

    type: Literal["argmax_q"] = "argmax_q"
    rule: Climb = Climb()
    """How often all tokens are gone through, and which may be chosen."""
    imitate: bool = Field(default=True)
    """Train the policy by imitation meanwhile; false leaves it as it is."""
    weights: WeightedBCConfig | None = None
    """Imitate each action by its advantage; all alike by default."""

    @model_validator(mode="after")
    def _used(self) -> ArgmaxQConfig:
        _weights_are_used(self)
        return self

    def build(self, policy: Policy, value: ValueLearner) -> Guided:
        require_q(value, "argmax_q")
        check_rule(self.rule, policy)
        return Guided(self.rule, self.imitate, _learner(self.weights, policy, value))


def _weights_are_used(config: BestOfNConfig | ArgmaxQConfig) -> None:
    if not config.imitate:
        refuse_unused(
            config,
            ("weights",),
            "imitate: false teaches the policy nothing; drop it, or set imitate: true",
        )


def _learner(weights: WeightedBCConfig | None, policy: Policy, value: ValueLearner) -> Extraction:
    return BCExtraction() if weights is None else weights.build(policy, value)


class Guided(Extraction):
    """See the configs. `learner` is how the policy imitates."""

    def __init__(self, rule: BestOfN | Climb, imitate: bool, learner: Extraction) -> None:
        super().__init__()
        self.rule, self.imitate, self.learner = rule, imitate, learner

    @property
    def rests(self) -> bool:
        return not self.imitate

    def loss(self, now: Moment, value: ValueLearner) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(self.rule, Climb):
            require(
                now.actions,
                "logits",
                "argmax_q",
                "use policy.head: {type: categorical}, or best_of_n",
            )
        loss, metrics = self.learner.loss(now, value)
        return loss * float(self.imitate), metrics

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        assert value.action_critic is not None
        config = GuidedConfig(policy=policy.config, critic=value.config.critic, rule=self.rule)
        return guide(policy, config, value.action_critic)


__all__ = ["ArgmaxQConfig", "BestOfNConfig", "Guided"]

"""The policy imitates, and acts by the best of its proposals by Q.

B windows, T steps, S proposals, D tokens per chunk, V ids.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.policies.guided import (
    BestOfN,
    CoordinateAscent,
    CoordinateAscentChoice,
    CriticGuidedConfig,
    check_selection,
    critic_guided,
)
from vla.models.policy import Policy
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    ExtractionLoss,
    require,
    require_q,
)
from vla.training.offline_rl.extractions.bc import BCExtraction
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.values.base import Transition, ValueLearner


@register("extractions", "best_of_n")
class BestOfNConfig(ExtractionConfig):
    """Imitates; when it acts, draws some chunks and executes the one of greatest Q.

    Formula, with S chunks a_i of the policy and its most likely one, and the least Q of the
    ensemble:

        act: argmax over i of Q(s, a_i),   or a_i with probability softmax over i of (b * Q(s, a_i))

    b is `selection.inverse_temperature`. The loss is that of imitation (`bc`), or of `weighted_bc`.

    Shapes: proposals are (S + 1, B, T, K, A), their Q is (S + 1, B, T).

    Source: Chen et al., 2023, SfBC; Hansen-Estruch et al., 2023, IDQL.
    """

    former_keys: ClassVar[dict[str, str]] = {"rule": "selection"}
    type: Literal["best_of_n"] = "best_of_n"
    selection: BestOfN = BestOfN()
    """How many chunks are drawn, how varied, and how one is chosen."""
    imitate: bool = True
    """Train the policy by imitation meanwhile; false leaves it as it is."""
    weights: WeightedBCConfig | None = None
    """Imitate each action by its advantage; all alike by default."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> BestOfNConfig:
        _check_weights(self)
        return self

    def build(self, policy: Policy, value: ValueLearner) -> CriticGuided:
        require_q(value, "best_of_n")
        learner = _learner(self.weights, policy, value)
        return CriticGuided(self.selection, self.imitate, learner)


@register("extractions", "argmax_q")
class ArgmaxQConfig(ExtractionConfig):
    """Imitates; when it acts, changes its most likely tokens one after the other to those of
    greatest Q.

    For tokenizers with tokens for each action dimension (bins), over values that distrust what the
    data does not hold (conservative). Formula, for the tokens d = 1 .. D of a chunk, in some
    sweeps:

        act: x_d <- argmax over v of Q(s, decode(x_1 .. x_{d-1}, v, x_{d+1} .. x_D))

    over the ids v with pi(v) >= min_prob * max pi. The loss is that of imitation (`bc`), or of
    `weighted_bc`.

    Shapes: ids x are (B, T, D), Q of the ids tried at one place is (V, B, T).

    Source: coordinate ascent on the Q of a conservative critic (Kumar et al., 2020).
    """

    former_keys: ClassVar[dict[str, str]] = {"rule": "selection"}
    type: Literal["argmax_q"] = "argmax_q"
    selection: CoordinateAscentChoice = CoordinateAscent()
    """How often all tokens are gone through, and which may be chosen."""
    imitate: bool = Field(default=True)
    """Train the policy by imitation meanwhile; false leaves it as it is."""
    weights: WeightedBCConfig | None = None
    """Imitate each action by its advantage; all alike by default."""

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> ArgmaxQConfig:
        _check_weights(self)
        return self

    def build(self, policy: Policy, value: ValueLearner) -> CriticGuided:
        require_q(value, "argmax_q")
        # here, not at the first validation: a run would have trained for nothing until then
        check_selection(self.selection, policy)
        learner = _learner(self.weights, policy, value)
        return CriticGuided(self.selection, self.imitate, learner)


def _check_weights(config: BestOfNConfig | ArgmaxQConfig) -> None:
    if not config.imitate:
        why = "imitate: false teaches the policy nothing; drop it, or set imitate: true"
        refuse_ignored_options(config, ("weights",), why)


def _learner(
    weights: WeightedBCConfig | None,
    policy: Policy,
    value: ValueLearner,
) -> Extraction:
    return BCExtraction() if weights is None else weights.build(policy, value)


class CriticGuided(Extraction):
    """See the configs.

    Args:
        selection: how the critic chooses.
        imitate: whether the policy learns meanwhile.
        learner: how it imitates.
    """

    def __init__(
        self, selection: BestOfN | CoordinateAscent, imitate: bool, learner: Extraction
    ) -> None:
        super().__init__()
        self.selection = selection
        self.imitate = imitate
        self.learner = learner

    @property
    def skips_policy_update(self) -> bool:
        return not self.imitate

    def loss(self, now: Transition, value: ValueLearner) -> ExtractionLoss:
        if isinstance(self.selection, CoordinateAscent):
            # now, though only acting needs them: a run should not end before it says so
            remedy = "use policy.head: {type: categorical}, or best_of_n"
            require(now.actions, "logits", "argmax_q", remedy)
        learned = ExtractionLoss.of(self.learner.loss(now, value))
        # times 0, not left out: under distributed training every parameter must have a gradient
        return dataclasses.replace(learned, loss=learned.loss * float(self.imitate))

    def deploy(self, policy: Policy, value: ValueLearner) -> Policy:
        assert value.action_critic is not None
        # the networks that learn, not copies of them: the deployed policy moves with the training
        config = CriticGuidedConfig(
            policy=policy.config, critic=value.config.critic, selection=self.selection
        )
        return critic_guided(policy, config, value.action_critic)


__all__ = ["ArgmaxQConfig", "BestOfNConfig", "CriticGuided"]

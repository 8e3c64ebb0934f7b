"""The policy follows the gradient of Q through its own actions, held to the data by imitation.

B windows, T steps, K actions per chunk, A action dimensions.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import register
from vla.models.policy import Policy
from vla.training.losses import Metrics, masked_mean
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.extractions.base import (
    Extraction,
    ExtractionConfig,
    imitation,
    require,
    require_q,
)
from vla.training.offline_rl.values.base import Transition, ValueLearner

_SHARE_OF_EVEN = 0.98  # of the entropy of tokens that are all alike
Temperature = Annotated[float, Field(ge=0)] | Literal["auto"]


@register("extractions", "ddpg_bc")
class DDPGBCConfig(ExtractionConfig):
    """Minimises -Q of the policy's own actions / mean |Q| + `bc` * loss of imitation.

    Formula, with a reparametrised chunk a' of the policy and the temperature t of its entropy:

        L = -mean over B, T of Q(s, a') / mean |Q|
            + bc * mean over B, T of -log pi(a | s)
            + t * mean over B, T of log pi(a' | s)

    `auto` learns log t by the loss -t * (target - H), with the entropy H = -mean log pi(a' | s).
    The target is -(K A) for densities, of actions in units in which their range is [-1, 1]; for
    tokens, 0.98 of the greatest entropy there is: 0.98 * sum over the chunk's D tokens of log V.

    Shapes: Q and log pi are (B, T); a and a' are (B, T, K, A).

    Source: Fujimoto and Gu, 2021, TD3+BC, eq. 3 and 5, with bc = 1 / alpha; with `bc: 0` and an
    entropy target the actor of CQL (Kumar et al., 2020), which is SAC's (Haarnoja et al., 2018,
    "Soft actor-critic algorithms and applications", section 5). The target of tokens:
    Christodoulou, 2019, "Soft actor-critic for discrete action settings".
    """

    type: Literal["ddpg_bc"] = "ddpg_bc"
    bc: float = Field(default=0.4, ge=0)
    """Weight of imitation beside Q: 1 / alpha of the paper, whose 2.5 is 0.4 here."""
    q: Literal["least", "first", "mean"] = "least"
    """Which of the critics is climbed: at each action the least of them, the first alone (TD3), or
    their mean (RLPD)."""
    normalise: bool = True
    """Divide Q by its mean absolute value in the batch, so that `bc` means the same whatever the
    rewards' size."""
    temperature: Temperature = 0.0
    """Weight of the entropy: of samples, by log_prob. `auto` learns it, towards an entropy of
    -(numbers of a chunk), of actions in units in which their range is [-1, 1]; of tokens towards
    0.98 * log(ids) each, which is nearly even: a number keeps a policy over tokens sharper."""
    target_entropy: float | None = None
    """Entropy (nats) that `temperature: auto` moves to, for each number of a chunk; null: -1 of
    densities, 0.98 * log(ids) of tokens."""
    exact_entropy: bool = False
    """Of tokens, take the entropy over all ids, where the head can, in place of that of one sample:
    ids are no numbers that a gradient could go through, and log pi(a') alone moves nothing on
    average."""
    every: int = Field(default=1, ge=1)
    """The policy learns at every so many steps (TD3: 2)."""

    @model_validator(mode="after")
    def _target_has_effect(self) -> DDPGBCConfig:
        if self.target_entropy is not None and self.temperature != "auto":
            raise ValueError(
                "target_entropy: is what temperature: auto moves to; set temperature: auto, or "
                "leave it out"
            )
        return self

    def build(self, policy: Policy, value: ValueLearner) -> DDPGBC:
        require_q(value, "ddpg_bc")
        spec, chunk = policy.spec, policy.chunk
        ranges = zip(spec.action_low, spec.action_high, strict=True)
        log_halves = [math.log((high - low) / 2) for low, high in ranges]
        return DDPGBC(self, chunk * spec.action_dim, chunk * sum(log_halves))


class DDPGBC(Extraction):
    """See the config.

    The metric `entropy` (nats) is of the chunk in units in which the actions' range is [-1, 1]; of
    tokens it is that of their ids.

    Args:
        dimensions: numbers of a chunk.
        log_half: sum of the logarithms of half their ranges: entropies in robot units are greater
            by it.
    """

    steps: Tensor

    def __init__(
        self,
        config: DDPGBCConfig,
        dimensions: int,
        log_half: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        per_number = -1.0 if config.target_entropy is None else config.target_entropy
        self.target_entropy = per_number * dimensions  # of densities; tokens: `_target_entropy`
        self.log_half = log_half
        if config.temperature == "auto":
            self.log_temperature = nn.Parameter(torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def loss(self, now: Transition, value: ValueLearner) -> tuple[Tensor, Metrics]:
        # in validation every step has a score of the policy, also one that training would skip
        if self.training and self.skips_policy_update:
            return self._no_loss(now), {}
        remedy = "use policy.head: {type: gaussian}, squashed, regression or categorical"
        require(now.actions, "rsample", "ddpg_bc", remedy)
        mask_BT = now.batch.mask
        actions_BTKA = now.actions.rsample()  # type: ignore[attr-defined]
        q_BT = value.q(now.features, actions_BTKA, of=self.config.q)
        loss = -masked_mean(q_BT, mask_BT) / self._q_scale(q_BT, mask_BT)
        metrics = {"q_policy": masked_mean(q_BT.detach(), mask_BT)}
        if self.config.bc:
            imitated = masked_mean(imitation(now), mask_BT)
            loss = loss + self.config.bc * imitated
            metrics["bc_loss"] = imitated.detach()
        if self.config.temperature:
            loss = loss + self._entropy_loss(now, actions_BTKA, metrics)
        return loss, metrics

    @property
    def skips_policy_update(self) -> bool:
        if self.config.every == 1:  # without reading `steps`, which makes a GPU wait
            return False
        # the present step is the one after the `steps` that were done
        return (int(self.steps) + 1) % self.config.every != 0

    @property
    def entropy_temperature(self) -> Tensor | float:
        if self.config.temperature == "auto":
            temperature: Tensor | float = self.log_temperature.detach().exp()
        else:
            temperature = self.config.temperature
        if self.config.temperature == 0:
            return super().entropy_temperature
        if self.config.normalise:
            # of a policy loss in units of mean |Q| the temperature is in these units too
            raise ObjectiveError(
                "objective.value.soft: the temperature must be in units of reward; set "
                "extraction.normalise: false"
            )
        return temperature

    def after_step(self) -> None:
        self.steps += 1

    def _no_loss(self, now: Transition) -> Tensor:
        """0, for a step in which the policy does not learn."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # the averaging of gradients waits for every parameter: each must take part, by a zero
            own = sum(p.sum() for p in self.parameters())
            return 0.0 * (masked_mean(imitation(now), now.batch.mask) + own)
        return now.features.new_zeros(())

    def _q_scale(
        self,
        q_BT: Float[Tensor, "B T"],
        mask_BT: Bool[Tensor, "B T"],
    ) -> Tensor | float:
        """Mean |Q| of the batch, a constant for the gradient (TD3+BC, eq. 5); 1 if not
        normalised."""
        if not self.config.normalise:
            return 1.0
        return masked_mean(q_BT.detach().abs(), mask_BT).clamp(min=1e-6)

    def _entropy_loss(self, now: Transition, actions_BTKA: Tensor, metrics: Metrics) -> Tensor:
        """The term of the entropy, and of its temperature if that is learned; adds to `metrics`."""
        remedy = "set temperature: 0, or policy.head: {type: gaussian, squash: full}"
        require(now.actions, "log_prob", "ddpg_bc.temperature", remedy)
        log_prob_BT = self._log_prob(now.actions, actions_BTKA)
        log_prob = masked_mean(log_prob_BT, now.batch.mask)
        # ids have no units: only densities change with the range of the actions
        offset = 0.0 if hasattr(now.actions, "tokens") else self.log_half
        entropy = -log_prob.detach() - offset
        metrics["entropy"] = entropy
        if self.config.temperature != "auto":
            return self.config.temperature * log_prob
        temperature = self.log_temperature.exp()
        metrics["temperature"] = temperature.detach()
        # two losses in one: the first teaches the policy alone, the second the temperature alone
        policy_loss = temperature.detach() * log_prob
        return policy_loss - temperature * (self._target_entropy(now.actions) - entropy)

    def _log_prob(self, actions: Any, chunks_BTKA: Tensor) -> Float[Tensor, "B T"]:
        """log pi(a'), or its mean over all ids."""
        tokens = hasattr(actions, "tokens") and hasattr(actions, "entropy")
        if self.config.exact_entropy and tokens:
            return cast(Tensor, -actions.entropy())
        return cast(Tensor, actions.log_prob(chunks_BTKA))

    def _target_entropy(self, actions: Any) -> float:
        """What `auto` moves the entropy of a chunk to, nats."""
        if not hasattr(actions, "tokens") or self.config.target_entropy is not None:
            return self.target_entropy
        # Of ids the entropy is never negative: by the target of densities it would always be too
        # great, and the temperature could only fall.
        tokenizer = actions.tokenizer
        if tokenizer.allowed_ids is None:
            return _SHARE_OF_EVEN * tokenizer.num_tokens * math.log(tokenizer.vocab_size)
        counts_D = tokenizer.allowed_ids.sum(-1)
        return _SHARE_OF_EVEN * float(counts_D.log().sum())


__all__ = ["DDPGBC", "DDPGBCConfig", "Temperature"]

"""Conservative Q-learning: actions that the data does not hold are pressed below those that it
holds.

B windows, T steps, K actions per chunk, A action dimensions, S actions of each kind, E critics,
V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from vla.config import register
from vla.config.ignored_options import refuse_ignored_options
from vla.models.policy import Policy
from vla.training.losses import (
    Metrics,
    calibrated,
    conservative_gap,
    discrete_conservative_gap,
    masked_mean,
)
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.exchanged_tokens import draw_places, exchange, one_token_per_dimension
from vla.training.offline_rl.values.base import (
    Lookahead,
    Transition,
    ValueLoss,
    draw,
    log_density,
    own_actions,
)
from vla.training.offline_rl.values.td import TD, TDConfig
from vla.types import Spec

Form = Literal["sampled", "discrete"]


@register("values", "conservative")
class ConservativeConfig(TDConfig):
    """TD, and for each step the gap between a soft maximum over actions and the data's action.

    Formula, with S actions a_i of each of three kinds (uniform, the policy's here, the policy's at
    the next step), drawn with densities p_i, and the temperature c of the soft maximum:

        L = L_TD + alpha * sum over E, mean over B, T of
            c log mean over 3 S of exp(Q_e(s, a_i) / c - log p_i) - Q_e(s, a)

    Without `importance` the densities are left out, and the data's action a is one of the a_i: only
    then has the gap a lower bound. Calibrated (Cal-QL), Q_e(s, a_i) of the policy's actions is
    max(Q_e(s, a_i), R), with the return R that the data's episode had from s on. With `form:
    discrete` the a_i are no samples, but all V ids at one place d of the chunk:

        c log mean over V of exp(Q_e(s, x_1 .. x_{d-1}, v, x_{d+1} .. x_D) / c) - Q_e(s, a)

    The advantage is that of `td`.

    Shapes: Q is (E, B, T), sampled Q is (E, 3 S, B, T), chunks are (3 S, B, T, K, A); of ids (E, V,
    B, T) and (V, B, T, K, A).

    Source: CQL(H); Kumar et al., 2020, "Conservative Q-learning for offline reinforcement
    learning". Calibration: Nakamoto et al., 2023, "Cal-QL".
    """

    type: Literal["conservative"] = "conservative"  # type: ignore[assignment]
    next_actions: Literal["policy", "data", "mode", "max"] = "mode"
    """What acts at the next state: see `td`. The policy's most likely action by default: samples of
    a policy whose entropy is held up are nearly random at first, and the gap presses their values
    down. Cal-QL: max."""
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the gap."""
    form: Form = "sampled"
    """What the soft maximum runs over: `sampled` actions, for every head; or `discrete`, all ids of
    a place of the chunk, the others as in the data, for heads over tokens that each say one
    dimension (bins). The gap of a chunk is the mean over its places; every step estimates it at one
    place drawn at random, exactly, since the critics value whole chunks: all places would cost D
    times as much."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each kind: uniform, the policy's, and the policy's of the next step."""
    conservative_temperature: float = Field(default=1.0, gt=0)
    """Of the soft maximum, in units of Q: towards 0 the gap is to the best action alone. Values in
    [0, 1] need one well below 1, or all actions have nearly the same weight."""
    calibrated: bool = False
    """Raise Q of the policy's actions to the Monte-Carlo return before the soft maximum (Cal-QL).
    Rewards of 0 or more, or episodes that all terminate: the return of a truncated episode is no
    lower bound otherwise."""
    importance: bool = True
    """Divide by the density of what is drawn; needs a head with log_prob over real numbers
    (gaussian, with squash: full; mixture)."""

    @model_validator(mode="after")
    def _form_has_effect(self) -> ConservativeConfig:
        check_form(self)
        return self

    def check_policy(self, policy: Policy) -> None:
        """Raises ObjectiveError if ids do not say one dimension each, and `form` is discrete."""
        if self.form == "discrete" and not one_token_per_dimension(policy.tokenizer):
            raise ObjectiveError(
                "objective: form: discrete tries all ids of one action dimension, but those of "
                f"{type(policy.tokenizer).__name__} say several numbers at once; use "
                "policy.tokenizer: {type: bins}, or form: sampled"
            )

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> Conservative:
        return Conservative(self, feature_dim, spec, chunk)


def check_form(config: Any, *, sampled_counts: bool = False) -> None:
    """For validators of configs with the fields of the gap. Raises ValueError if `form: discrete`
    leaves others without effect.

    Args:
        config: a `ConservativeConfig`, or one that a `ConservativeConfig` is made of.
        sampled_counts: whether `sampled` says something else too.
    """
    if config.form != "discrete":
        return
    if config.calibrated:
        raise ValueError(
            "form: discrete runs over ids, none of which is an action of the policy that a return "
            "could raise; use form: sampled, or a gap that is not calibrated (cql)"
        )
    names = ["importance"] if sampled_counts else ["importance", "sampled"]
    refuse_ignored_options(config, names, "form: discrete draws no actions; drop it")


@dataclass(frozen=True)
class _Gap:
    """The gap of a batch.

    Attributes:
        loss: sum over the critics, mean over the valid steps.
        metrics: `conservative_gap` is the mean over the critics.
    """

    loss: Tensor
    metrics: Metrics


class Conservative(TD):
    """See the config. The metric `conservative_gap` is 0 if the soft maximum equals the data's
    action.

    Attributes:
        log_volume: logarithm of the volume that chunks lie in, robot units.
    """

    config: ConservativeConfig

    def __init__(
        self, config: ConservativeConfig, feature_dim: int, spec: Spec, chunk: int
    ) -> None:
        super().__init__(config, feature_dim, spec, chunk)
        # whatever the target asks: the gap draws actions of the policy at the next step
        self.needs_policy_later |= config.form == "sampled"
        self.log_volume = chunk * float((2 * self.action_critic.action_half).log().sum())

    @property
    def return_bounds(self) -> list[str]:
        bounds = super().return_bounds
        return [*bounds, "calibrated"] if self.config.calibrated else bounds

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        assert lookahead is not None
        td, q_data_EBT = self.td_loss(now, lookahead)
        if self.config.form == "discrete":
            gap = self._gap_over_ids(now)
        else:
            gap = self._gap_over_samples(now, lookahead, q_data_EBT)
        return ValueLoss(
            td.loss + self.config.alpha * gap.loss, td.metrics | gap.metrics, td.estimates
        )

    def _gap_over_samples(
        self, now: Transition, lookahead: Lookahead, q_data_EBT: Float[Tensor, "E B T"]
    ) -> _Gap:
        """The gap to a soft maximum over drawn actions."""
        S, E = self.config.sampled, len(q_data_EBT)
        uniform_SBTKA = self._uniform_actions(now)
        own_SBTKA = draw(now.actions, S)
        next_own_SBTKA = draw(lookahead.transition.actions, S)
        # from here on axis S holds all three kinds: first the uniform ones, then the policy's
        sampled = torch.cat([uniform_SBTKA, own_SBTKA, next_own_SBTKA])
        q_ESBT = self.action_critic(now.features, sampled)
        density_SBT = self._log_density(now, lookahead, own_SBTKA, next_own_SBTKA)
        gap_BT = torch.zeros_like(q_data_EBT[0])
        bound_rates = []
        temperature = self.config.conservative_temperature
        for q_SBT, q_data_BT in zip(q_ESBT, q_data_EBT, strict=True):
            if self.config.calibrated:
                # uniform actions stay as they are: the return bounds what the policy is worth, and
                # a random action may well be worth less
                raised_SBT, active_SBT = calibrated(q_SBT[S:], now.batch.returns_to_go)
                bound_rates.append(masked_mean(active_SBT.mean(0), now.batch.mask))
                q_SBT = torch.cat([q_SBT[:S], raised_SBT])
            gap_BT = gap_BT + conservative_gap(
                q_SBT, q_data_BT, log_density=density_SBT, temperature=temperature
            )
        gap = masked_mean(gap_BT, now.batch.mask)
        with torch.no_grad():
            # importance weights make the soft maximum an integral; less the volume it is a mean,
            # and 0 is no gap
            offset = temperature * self.log_volume if self.config.importance else 0.0
            own_q_BT = q_ESBT[:, S : 2 * S].mean((0, 1))
            uniform_q_BT = q_ESBT[:, :S].mean((0, 1))
            metrics = {
                "conservative_gap": gap.detach() / E - offset,
                "q_policy": masked_mean(own_q_BT, now.batch.mask),
                "q_uniform": masked_mean(uniform_q_BT, now.batch.mask),
            }
            if bound_rates:
                metrics["bound_rate"] = torch.stack(bound_rates).mean()
        return _Gap(gap, metrics)

    def _gap_over_ids(self, now: Transition) -> _Gap:
        """The gap to a soft maximum over all ids of one place of each step.

        Raises ObjectiveError if the head gives no tokens.
        """
        actions: Any = now.actions
        if not hasattr(actions, "tokens"):
            raise ObjectiveError(
                f"objective: form: discrete needs a head over tokens, {type(actions).__name__} "
                "has none; use form: sampled, or policy.head: {type: categorical}"
            )
        place_BT = draw_places(now.batch.action_mask, actions.tokenizer)
        tried = exchange(now.batch.actions, place_BT, actions.tokenizer)
        q_EBTV = self.action_critic(now.features, tried.chunks).movedim(1, -1)
        temperature = self.config.conservative_temperature
        own_EBT = tried.own.expand(q_EBTV.shape[:-1])
        gap_EBT = discrete_conservative_gap(q_EBTV / temperature, own_EBT, tried.allowed)
        # a mean over the ids, as of samples: without the number of ids, 0 is no gap
        count_BT = tried.allowed.sum(-1)
        gap_EBT = temperature * (gap_EBT - count_BT.log())
        gap = masked_mean(gap_EBT.sum(0), now.batch.mask)
        with torch.no_grad():
            own_q_BT = self.action_critic(now.features, own_actions(actions, 1)).mean((0, 1))
            # of ids that are all alike: the one place is random, the rest is the data's
            any_q_BT = q_EBTV.mean(0).where(tried.allowed, 0.0).sum(-1) / count_BT
            metrics = {
                "conservative_gap": gap.detach() / len(q_EBTV),
                "q_policy": masked_mean(own_q_BT, now.batch.mask),
                "q_uniform": masked_mean(any_q_BT, now.batch.mask),
            }
        return _Gap(gap, metrics)

    def _uniform_actions(self, now: Transition) -> Float[Tensor, "S B T K A"]:
        """Chunks drawn uniformly from the range of the actions."""
        critic = self.action_critic
        low_A = critic.action_middle - critic.action_half
        shape = (self.config.sampled, *now.batch.actions.shape)
        return low_A + torch.rand(shape, device=low_A.device) * 2 * critic.action_half

    def _log_density(
        self, now: Transition, lookahead: Lookahead, own_SBTKA: Tensor, next_own_SBTKA: Tensor
    ) -> Float[Tensor, "S B T"] | None:
        """Log density of all that was drawn, in robot units; None if all have the same weight.

        Raises ObjectiveError if the head has no density over real numbers.
        """
        if not self.config.importance:
            return None
        # `log_prob` of tokens is a probability of ids, which the uniform density cannot be added to
        if not hasattr(now.actions, "log_prob") or hasattr(now.actions, "tokens"):
            raise ObjectiveError(
                f"objective.value.importance: {type(now.actions).__name__} has no density over "
                "real numbers; set importance: false, or policy.head: {type: gaussian, squash: "
                "full}"
            )
        uniform_SBT = torch.full(own_SBTKA.shape[:-2], -self.log_volume, device=own_SBTKA.device)
        with torch.no_grad():
            own_SBT = log_density(now.actions, own_SBTKA)
            # each kind under the distribution that it was drawn from: at the next state, not here
            next_own_SBT = log_density(lookahead.transition.actions, next_own_SBTKA)
        return torch.cat([uniform_SBT, own_SBT, next_own_SBT])


__all__ = ["Conservative", "ConservativeConfig"]

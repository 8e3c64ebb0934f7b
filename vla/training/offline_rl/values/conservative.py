"""Conservative Q-learning: actions that the data does not hold are pressed below those that it
holds.

B windows, T steps, K actions per chunk, A action dimensions, S actions of each kind, E critics.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.training.losses import calibrated, conservative_gap, masked_mean
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import (
    Lookahead,
    Transition,
    ValueLoss,
    draw,
    log_density,
)
from vla.training.offline_rl.values.td import TD, TDConfig
from vla.types import Spec


@register("values", "conservative")
class ConservativeConfig(TDConfig):
    """TD, and for each step the gap between a soft maximum over sampled actions and the data's
    action.

    Formula, with S actions a_i of each of three kinds (uniform, the policy's here, the policy's at
    the next step), drawn with densities p_i:

        L = L_TD + alpha * sum over E, mean over B, T of
            log mean over 3 S of exp(Q_e(s, a_i) - log p_i) - Q_e(s, a)

    Calibrated (Cal-QL), Q_e(s, a_i) of the policy's actions is max(Q_e(s, a_i), R), with the return
    R that the data's episode had from s on. The advantage is that of `td`.

    Shapes: Q is (E, B, T), sampled Q is (E, 3 S, B, T), chunks are (3 S, B, T, K, A).

    Source: CQL(H); Kumar et al., 2020, "Conservative Q-learning for offline reinforcement
    learning", eq. 4 and appendix F. Calibration: Nakamoto et al., 2023, "Cal-QL", eq. 4.1.
    """

    type: Literal["conservative"] = "conservative"  # type: ignore[assignment]
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the gap."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each kind: uniform, the policy's, and the policy's of the next step."""
    calibrated: bool = False
    """Raise Q of the policy's actions to the Monte-Carlo return before the soft maximum (Cal-QL).
    Rewards of 0 or more, or episodes that all terminate: the return of a truncated episode is no
    lower bound otherwise."""
    importance: bool = True
    """Divide by the density of what is drawn; needs a head with log_prob over real numbers
    (gaussian,
    with squash: full; mixture)."""

    def build(
        self,
        feature_dim: int,
        spec: Spec,
        chunk: int,
    ) -> Conservative:
        return Conservative(self, feature_dim, spec, chunk)


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
        self.needs_policy_later = True
        self.log_volume = chunk * float((2 * self.action_critic.action_half).log().sum())

    @property
    def return_bounds(self) -> list[str]:
        bounds = super().return_bounds
        return [*bounds, "calibrated"] if self.config.calibrated else bounds

    def loss(self, now: Transition, lookahead: Lookahead | None) -> ValueLoss:
        assert lookahead is not None
        td, q_data_EBT = self.td_loss(now, lookahead)
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
        for q_SBT, q_data_BT in zip(q_ESBT, q_data_EBT, strict=True):
            if self.config.calibrated:
                # uniform actions stay as they are: the return bounds what the policy is worth, and
                # a random action may well be worth less
                raised_SBT, active_SBT = calibrated(q_SBT[S:], now.batch.returns_to_go)
                bound_rates.append(masked_mean(active_SBT.mean(0), now.batch.mask))
                q_SBT = torch.cat([q_SBT[:S], raised_SBT])
            gap_BT = gap_BT + conservative_gap(q_SBT, q_data_BT, log_density=density_SBT)
        gap = masked_mean(gap_BT, now.batch.mask)
        with torch.no_grad():
            # importance weights make the soft maximum an integral; less the volume it is a mean,
            # and 0 is no gap
            offset = self.log_volume if self.config.importance else 0.0
            own_q_BT = q_ESBT[:, S : 2 * S].mean((0, 1))
            uniform_q_BT = q_ESBT[:, :S].mean((0, 1))
            metrics = td.metrics | {
                "conservative_gap": gap.detach() / E - offset,
                "q_policy": masked_mean(own_q_BT, now.batch.mask),
                "q_uniform": masked_mean(uniform_q_BT, now.batch.mask),
            }
            if bound_rates:
                metrics["bound_rate"] = torch.stack(bound_rates).mean()
        return ValueLoss(td.loss + self.config.alpha * gap, metrics, td.estimates)

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

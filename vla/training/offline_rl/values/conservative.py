"""Conservative Q-learning: actions that the data does not hold are pressed below those that it holds.

Kumar et al., 2020 (CQL(H) with sampled actions, appendix F); calibrated by Monte-Carlo returns as Nakamoto et al., 2023
(Cal-QL).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from vla.config import register
from vla.training.losses import calibrated, conservative_gap, masked_mean
from vla.training.objective import ObjectiveError
from vla.training.offline_rl.values.base import Lookahead, Moment, draw, log_density
from vla.training.offline_rl.values.td import TD, TDConfig
from vla.types import Spec


@register("values", "conservative")
class ConservativeConfig(TDConfig):
    """TD, and for each step the gap between a soft maximum over sampled actions and the action of the data."""

    type: Literal["conservative"] = "conservative"  # type: ignore[assignment]
    alpha: float = Field(default=5.0, ge=0)
    """Weight of the gap."""
    sampled: int = Field(default=10, ge=1)
    """Actions drawn of each kind: uniform, the policy's, and the policy's of the next step."""
    calibrated: bool = False
    """Raise Q of the policy's actions to the Monte-Carlo return before the soft maximum (Cal-QL). Rewards of 0 or more, or
    episodes that all terminate: what a cut episode brought is else no lower bound."""
    importance: bool = True
    """Divide by the density of what is drawn; needs a head with log_prob over real numbers (gaussian, with squash: full; mixture)."""

    def build(self, feature_dim: int, spec: Spec, chunk: int) -> Conservative:
        return Conservative(self, feature_dim, spec, chunk)


class Conservative(TD):
    """See the config. The metric `conservative_gap` is 0 where the soft maximum over actions equals the action of the data.

    Attributes:
        log_volume: logarithm of the volume that chunks lie in, robot units.
    """

    config: ConservativeConfig

    def __init__(
        self, config: ConservativeConfig, feature_dim: int, spec: Spec, chunk: int
    ) -> None:
        super().__init__(config, feature_dim, spec, chunk)
        self.needs_policy_later = True
        self.log_volume = chunk * float((2 * self.action_critic.action_half).log().sum())

    @property
    def held_up_by(self) -> list[str]:
        return [*super().held_up_by, *(["calibrated"] if self.config.calibrated else [])]

    def loss(self, now: Moment, later: Lookahead | None) -> tuple[Tensor, dict[str, Tensor]]:
        assert later is not None
        td_loss, metrics, q_data_EBT = self.td_loss(now, later)
        S = self.config.sampled
        low = self.action_critic.action_middle - self.action_critic.action_half
        uniform = (
            low
            + torch.rand(S, *now.batch.actions.shape, device=low.device)
            * 2
            * self.action_critic.action_half
        )
        own, next_own = draw(now.actions, S), draw(later.moment.actions, S)
        q_ESBT = self.action_critic(now.features, torch.cat([uniform, own, next_own]))
        gap_BT = torch.zeros_like(q_data_EBT[0])
        rates = []
        density = self._log_density(now, later, own, next_own)
        for q_SBT, q_data_BT in zip(q_ESBT, q_data_EBT, strict=True):
            if self.config.calibrated:
                raised, bound = calibrated(q_SBT[S:], now.batch.returns_to_go)
                rates.append(masked_mean(bound.mean(0), now.batch.mask))
                q_SBT = torch.cat([q_SBT[:S], raised])
            gap_BT = gap_BT + conservative_gap(q_SBT, q_data_BT, log_density=density)
        gap = masked_mean(gap_BT, now.batch.mask)
        with torch.no_grad():
            # importance weights make the soft maximum an integral; less the volume it is a mean, and 0 is no gap
            offset = self.log_volume if self.config.importance else 0.0
            metrics |= {
                "conservative_gap": gap.detach() / len(q_data_EBT) - offset,
                "q_policy": masked_mean(q_ESBT[:, S : 2 * S].mean((0, 1)), now.batch.mask),
                "q_uniform": masked_mean(q_ESBT[:, :S].mean((0, 1)), now.batch.mask),
                **({"bound_rate": torch.stack(rates).mean()} if rates else {}),
            }
        return td_loss + self.config.alpha * gap, metrics

    def _log_density(
        self, now: Moment, later: Lookahead, own: Tensor, next_own: Tensor
    ) -> Tensor | None:
        """Of what was drawn, in robot units; None where all weigh alike."""
        if not self.config.importance:
            return None
        if not hasattr(now.actions, "log_prob") or hasattr(now.actions, "tokens"):
            raise ObjectiveError(
                f"objective.value.importance: {type(now.actions).__name__} has no density over real numbers; set "
                "importance: false, or policy.head: {type: gaussian, squash: full}"
            )
        uniform = torch.full(own.shape[:-2], -self.log_volume, device=own.device)
        with torch.no_grad():
            mine, theirs = (
                log_density(now.actions, own),
                log_density(later.moment.actions, next_own),
            )
        return torch.cat([uniform, mine, theirs])


__all__ = ["Conservative", "ConservativeConfig"]

"""Reinforcement learning with prior data (Ball et al., 2023)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vla.config import register
from vla.models.critics import CriticConfig
from vla.training.objectives.online.sac import SACConfig
from vla.training.offline_rl.values.td import TDConfig


@register("objectives", "rlpd")
class RLPDConfig(SACConfig):
    """SAC with ten critics that are normalised by layer, for many updates on each step that was
    played, with half of each batch from recordings (`prior_data: {path: ..., share: 0.5}`).

    Formula: that of `sac`, with the least of `subset` target critics, drawn at each step, in y, and
    the mean of all critics in L_pi. The published 20 updates for each step of the env are
    `updates: 20 * steps of a round` of `vla online`, of which the policy learns at every 20th
    (`policy_every`).

    Source: Ball, Smith, Kostrikov and Levine, 2023, "Efficient online reinforcement learning with
    offline data", algorithm 1; the subset is that of Chen et al., 2021 (REDQ).
    """

    # mypy: the name is another one than that of the base, which is what registering needs
    type: Literal["rlpd"] = "rlpd"  # type: ignore[assignment]
    critic: CriticConfig = CriticConfig(ensemble=10)
    """Networks."""
    subset: int = Field(default=2, ge=1)
    """Of the target critics so many, drawn at every step, give the least."""
    target_entropy: float | None = -0.5
    """Entropy (nats) that `temperature: auto` moves to, for each number of a chunk. The paper's,
    half of that of SAC."""

    @property
    def climbed(self) -> Literal["least", "mean"]:
        return "mean"

    def value(self) -> TDConfig:
        return TDConfig(**self.critics, soft=self.soft, subset=self.subset)


__all__ = ["RLPDConfig"]

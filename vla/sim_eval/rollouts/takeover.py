"""When the expert acts in the policy's place, for data that correct the policy (DAgger).

A: action dimensions.

Source: Ross, Gordon and Bagnell, 2011, "A reduction of imitation learning and structured prediction
to no-regret online learning", for the mixture `beta`; gates are in `vla.sim_eval.gates`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import numpy as np
from pydantic import Field

from vla.config import Choice, Config
from vla.control.settings import Measure
from vla.sim_eval.env import SimEnv
from vla.sim_eval.gates.base import Gate, GateConfig, Proposal


class TakeoverConfig(Config):
    """What of an episode the expert plays in the policy's place."""

    beta: float = Field(default=0.0, ge=0, le=1)
    """Share of the episodes (or steps) that the expert plays, drawn by the episode's seed."""
    per: Literal["episode", "step"] = "episode"
    """What `beta` is a share of."""
    gate: Annotated[Any, Choice("gates")] | None = None
    """Hands single steps of the policy's episodes to the expert; null for none."""
    hold: int = Field(default=0, ge=0, le=10_000)
    """Steps that the expert goes on for after the gate has closed."""

    @property
    def policy_measure(self) -> Measure | None:
        """What the gate has to know of the policy's own distribution; None for nothing."""
        return None if self.gate is None else cast(GateConfig, self.gate).policy_measure

    @property
    def needs_images(self) -> bool:
        """Whether the gate looks at the pictures of every step."""
        return self.gate is not None and cast(GateConfig, self.gate).needs_images

    @property
    def needs_person(self) -> bool:
        """Whether a person decides, at the terminal of this process."""
        return self.gate is not None and cast(GateConfig, self.gate).needs_person


class Takeover:
    """Who acts at the steps of one episode.

    Args:
        config: by which rule.
        env: whose expert is asked.
        seed: of the episode, by which shares are drawn.
    """

    def __init__(self, config: TakeoverConfig, env: SimEnv, seed: int) -> None:
        self._config = config
        self._rng = np.random.default_rng([seed, 0xDA66E2])
        self._whole_episode = config.per == "episode" and self._rng.random() < config.beta
        self._gate: Gate | None = None
        if config.gate is not None:
            self._gate = config.gate.build(env.robot_spec)
        self._left = 0

    def expert_acts(self, proposal: Proposal) -> bool:
        """Whether the expert acts at this step. Called once a step."""
        config = self._config
        by_share = self._whole_episode
        if config.per == "step":
            by_share = self._rng.random() < config.beta
        if self._gate is not None and self._gate.opens(proposal):
            self._left = config.hold + 1
        acts = by_share
        if not by_share:
            # counted down also while the share of the episode or step decides
            acts = self._left > 0
            self._left = max(0, self._left - 1)
        if self._gate is not None:
            self._gate.executed(proposal.expert if acts else proposal.action)
        return acts

    def close(self) -> None:
        """Called at the end of the episode."""
        if self._gate is not None:
            self._gate.close()


__all__ = ["Takeover", "TakeoverConfig"]

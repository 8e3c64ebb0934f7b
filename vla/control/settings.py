"""How a policy acts in time, wherever it acts: in simulation, behind a server, on a robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vla.control.exploration import Exploration
from vla.control.realtime import RealtimeSettings
from vla.control.shield_config import ShieldConfig

Measure = Literal["entropy", "spread"]
"""How sure a policy is of a chunk (see `vla.control.uncertainty`)."""


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """How the chunks of a policy are executed.

    Attributes:
        replan_every: steps of a chunk that are executed before the next `act`. None gives whole
            chunks: how many are executed is then up to the robot.
        ensemble: decay of temporal ensembling over chunks, None for none.
        temperature: 0 executes the policy's most likely actions, 1 samples.
        target_return: what a return-conditioned policy is asked for; None leaves it to the policy.
        realtime: how chunks follow each other that arrive late; None: they are there at once.
        exploration: noise on what the policy chose, for episodes that are learned from; None: none.
        shield: a risk network that chooses among the policy's chunks; None: the policy chooses.
    """

    replan_every: int | None = 1
    ensemble: float | None = None
    temperature: float = 0.0
    target_return: float | None = None
    realtime: RealtimeSettings | None = None
    exploration: Exploration | None = None
    shield: ShieldConfig | None = None

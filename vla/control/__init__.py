"""A policy in time: batched inference for robots of different age, chunks, temporal ensembling.

Rollouts in simulation, the policy server and robots all act through this room.
"""

from vla.control.batched_inference import BatchedPolicy, EpisodeState
from vla.control.realtime import RealtimeSettings
from vla.control.settings import ControlSettings
from vla.control.temporal_ensemble import TemporalEnsemble
from vla.types.finite import ActionError

__all__ = [
    "ActionError",
    "BatchedPolicy",
    "ControlSettings",
    "EpisodeState",
    "RealtimeSettings",
    "TemporalEnsemble",
]

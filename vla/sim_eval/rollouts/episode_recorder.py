"""What rollouts and collection note of a step beside what every recording does.

L: steps, A: action dimensions, K: actions per chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.data.episode_recorder import DECISION, EpisodeRecorder
from vla.data.extras import INTERVENTION, PRIVILEGED
from vla.sim_eval.env import SimEnv

EXPERT_ACTION = "expert_action"
"""Column: what the expert would have done, or did, at the step, (L, A) in robot units."""

EXPERT_CHUNK = "expert_chunk"
"""Column: what the expert would have done from the step on, (L, K * A) in robot units."""
EXPERT_STEPS = "expert_steps"
"""Column: how many of those actions are the expert's own; the episode's end repeats the last."""


def privileged_extras(env: SimEnv) -> dict[str, Any]:
    """What the env tells of its present world, as an extra column of the step; nothing if it tells
    nothing."""
    if not env.privileged_names:
        return {}
    return {PRIVILEGED: np.asarray(env.privileged(), np.float32)}


__all__ = [
    "DECISION",
    "EXPERT_ACTION",
    "EXPERT_CHUNK",
    "EXPERT_STEPS",
    "INTERVENTION",
    "EpisodeRecorder",
    "privileged_extras",
]

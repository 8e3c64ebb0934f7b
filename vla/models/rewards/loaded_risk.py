"""Risk networks that several parts of a process use, read from disk once."""

from __future__ import annotations

import functools
from pathlib import Path

from vla.models.rewards.base import RewardError
from vla.models.rewards.risk import RiskModel
from vla.models.rewards.storage import load_reward
from vla.types import Spec


def load_risk(path: str | Path, spec: Spec, key: str) -> RiskModel:
    """The risk network of a folder, in evaluation mode on the CPU.

    Read once in a process: every episode asks for it.

    Args:
        path: the folder of the model, or of its run.
        spec: of the robot that acts.
        key: what names the folder in the config, for messages.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        RewardError: it is no risk network, or of another robot.
    """
    model = _load(str(path))
    if not isinstance(model, RiskModel):
        kind = type(model).__name__
        raise RewardError(
            f"{key}: {path} holds a {kind}, not a risk network; train one by `vla reward` with "
            "model: {type: risk}"
        )
    lines = model.spec.differences(spec)
    if lines:
        raise RewardError(
            f"{key}: {lines[0]} (as the risk network in {path}); take one of this robot"
        )
    return model


_load = functools.lru_cache(maxsize=4)(load_reward)

__all__ = ["load_risk"]

"""What a trained policy says of its training: which method, which seed, from which policy on.

Evaluations keep it, so that a comparison knows whether several networks are trainings of one
method.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from vla.training.config import FREE_ON_RESUME, TrainConfig

# where a training begins and what its number is, but not how it is done
_NOT_OF_THE_METHOD = FREE_ON_RESUME | {"seed", "init_from", "version"}

_LATER_KEYS = {"format", "keys", "same_robot"}


def training_card(config: TrainConfig, start: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The part `training` of a policy's card.

    Args:
        config: of the training.
        start: the same part of the policy that it starts from (`init_from`); empty if there is
            none, or if it does not say.
        dataset: its name: the path is one of this machine.

    Returns:
        seed: of the training.
        objective: its registered name.
        method: a digest of all settings but the seed: trainings of one method share it.
        origin: `training` of the policy that it started from, "" if it began from random weights,
            "unknown" if that policy does not say.
        training: a digest that no other training has.
    """
    values = config.model_dump(mode="json")
    settings = {key: value for key, value in values.items() if key not in _NOT_OF_THE_METHOD}
    settings["data"] = _without_defaults(values["data"]) | {"path": dataset, "cache": None}
    settings["data"]["replay"] = [_without_defaults(entry) for entry in values["data"]["replay"]]
    if values["transfer"] is not None:
        settings["transfer"] = _without_defaults(values["transfer"])
    return method_card(
        settings,
        seed=config.seed,
        objective=str(values["objective"]["type"]),
        start=start if config.init_from is not None else None,
    )


def method_card(
    settings: dict[str, Any], *, seed: int, objective: str, start: dict[str, Any] | None
) -> dict[str, Any]:
    """`training_card` of any way of training.

    Args:
        settings: all that makes the method, JSON types.
        start: the part `training` of the policy that it starts from; None for random weights.
    """
    origin = ""
    if start is not None:
        origin = str(start.get("training", "unknown"))
        # continued by one method from clones of one method: their origins differ, this does not
        settings = settings | {"start": start.get("method", "unknown")}
    method = _digest(settings)
    return {
        "seed": seed,
        "objective": objective,
        "method": method,
        "origin": origin,
        "training": _digest([method, seed, origin]),
    }


def _without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Without keys that earlier versions lacked, as far as they are null: a method's digest stays
    as it was."""
    return {k: v for k, v in values.items() if k not in _LATER_KEYS or v is not None}


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


__all__ = ["training_card"]

"""What decides the numbers of an evaluation: its config, the software, and the policy's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from vla.control.actor_traits import traits_of
from vla.sim_eval.comparison.results import library_versions
from vla.sim_eval.evaluation_config import EvalConfig

# What changes where and how an evaluation runs, but not what comes out.
FREE_KEYS = frozenset({"out", "workers", "timeout", "launcher", "ray_address", "policy"})
FILM_KEYS = frozenset({"videos_per_task", "failure_videos"})
"""What changes which films are made, but no number."""


def decisive(config: Mapping[str, Any], *, films: bool = False) -> dict[str, Any]:
    """The settings of a config, as JSON types, that decide what comes out.

    Args:
        films: whether the films count as well as the numbers.
    """
    free = FREE_KEYS if films else FREE_KEYS | FILM_KEYS
    return {key: value for key, value in config.items() if key not in free}


def versions_of(config: EvalConfig) -> dict[str, str]:
    """Of the libraries and the simulator."""
    return {**library_versions(), **config.env.versions()}


def policy_identity(actor: object, name: str) -> str:
    """Tells policies apart: a hash of the weights of a torch module, else what the actor says of
    itself, else the name."""
    if isinstance(actor, str):
        return actor
    label = f"{type(actor).__module__}.{type(actor).__qualname__}"
    if not isinstance(actor, torch.nn.Module):
        return f"{label} {traits_of(actor).fingerprint or name}"
    digest = hashlib.sha256()
    # sorted: the same weights in another order of modules are the same policy
    for key, tensor in sorted(actor.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(key.encode())
            # as bytes: numpy has no bfloat16
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return f"{label} {digest.hexdigest()[:32]}"


def identity_of(decided: Mapping[str, Any]) -> str:
    """A hash of all that decides an evaluation, as JSON types."""
    text = json.dumps(decided, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

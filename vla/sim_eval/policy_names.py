"""What an evaluation calls the policy that it measures, what it knows of its training, and the
command that measures it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from vla.control.actor_traits import traits_of
from vla.sim_eval.evaluation_config import EvalConfig

BASELINES = ("expert", "random")
CONFIG_FILE = "eval.yaml"  # not config.yaml: that is training's, and both may share a folder
C = TypeVar("C", bound=EvalConfig)


def naming(actor: object, config: C) -> C:
    """The config whose `policy` is what plays: a baseline, or where the policy was loaded from.

    If that is not known, what the config says stays, unless it names a baseline: then it becomes
    the policy's class.
    """
    policy = _source(actor)
    if policy is None:
        # the default of `policy` is "expert": a saved config must not call a policy so
        policy = type(actor).__name__ if config.policy in BASELINES else config.policy
    return config.model_copy(update={"policy": policy})


def actor_name(actor: object) -> str:
    """What an actor is called in tables.

    A baseline's name, the place that a policy was loaded from, or its class.
    """
    source = _source(actor)
    return type(actor).__name__ if source is None else policy_name(source)


def policy_name(policy: str) -> str:
    """What a policy is called in tables.

    "runs/mt10/policy" is "mt10", other folders keep their last two parts.
    """
    parts = [part for part in policy.split("/") if part not in ("", ".")]
    # every training run calls its folder so: the run's own name tells them apart
    if len(parts) > 1 and parts[-1] == "policy":
        return parts[-2]
    return "/".join(parts[-2:])


def command_for(actor: object, config: EvalConfig) -> str:
    """What measures again by the config in `config.out`.

    A command line if it can name the policy, else a line of Python.
    """
    file = Path(config.out) / CONFIG_FILE
    if _source(actor) is not None:
        return f"vla eval {file}"
    load = f'vla.load_config(vla.EvalConfig, "{file}")'
    return f"vla.evaluate(policy, {load})  # policy: the same {type(actor).__name__}"


def training_of(actor: object) -> dict[str, Any]:
    """By which training an actor was made, as far as its card says; empty for baselines."""
    if isinstance(actor, str):
        return {}
    return dict(traits_of(actor).card.get("training", {}))


def _source(actor: object) -> str | None:
    """A baseline's name, or where a policy was loaded from; None if unknown."""
    return actor if isinstance(actor, str) else traits_of(actor).source

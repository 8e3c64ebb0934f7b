"""d3rlpy's side of `offline_rl_peer`, run in an interpreter that has d3rlpy 2.8.1: `python _offline_rl_d3rlpy.py SETTINGS`.

SETTINGS is a JSON object: `data` (an npz file of whole episodes: states, actions, rewards, lengths, terminated), `seed`,
`threads`, `algorithm` and its numbers. Reads one JSON request per line and answers each with one:

    {"update": 500}                       -> {"wall": seconds, "cpu": seconds, "critic_loss": ...}
    {"act": [[state], ...]}               -> {"actions": [[action], ...]}, the best ones

Training is d3rlpy's own `fit`. Numbers that are not named here are d3rlpy's defaults.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _d3rlpy import Answer, load, serve, update
from d3rlpy import algos
from d3rlpy.algos.utility import build_scalers_with_transition_picker
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import AdamFactory
from d3rlpy.preprocessing import StandardObservationScaler


def build(settings: dict[str, Any]) -> Any:
    """The algorithm with the sizes and numbers of `settings`."""
    network = VectorEncoderFactory([settings["hidden"]] * settings["depth"])
    adam = AdamFactory(betas=tuple(settings["betas"]), weight_decay=settings["weight_decay"])
    shared: dict[str, Any] = {
        "batch_size": settings["batch_size"],
        "observation_scaler": StandardObservationScaler(),
    }
    if settings["algorithm"] == "filtered_bc":
        config = algos.BCConfig(
            learning_rate=settings["lr"], encoder_factory=network, optim_factory=adam, **shared
        )
        return config.create(device="cpu")
    shared |= {
        "gamma": settings["discount"],
        "tau": settings["target_rate"],
        "n_critics": settings["critics"],
        "critic_learning_rate": settings["lr"],
        "actor_learning_rate": settings.get("policy_lr", settings["lr"]),
        "actor_encoder_factory": network,
        "critic_encoder_factory": network,
        "actor_optim_factory": adam,
        "critic_optim_factory": adam,
    }
    return CONFIGS[settings["algorithm"]](settings, network, adam, shared).create(device="cpu")


def _iql(settings: dict[str, Any], network: Any, adam: Any, shared: dict[str, Any]) -> Any:
    return algos.IQLConfig(
        expectile=settings["expectile"],
        weight_temp=settings["beta"],
        max_weight=settings["max_weight"],
        value_encoder_factory=network,
        **shared,
    )


def _awac(settings: dict[str, Any], network: Any, adam: Any, shared: dict[str, Any]) -> Any:
    return algos.AWACConfig(lam=1 / settings["beta"], **shared)


def _td3_bc(settings: dict[str, Any], network: Any, adam: Any, shared: dict[str, Any]) -> Any:
    return algos.TD3PlusBCConfig(
        alpha=settings["alpha"],
        target_smoothing_sigma=settings["noise"],
        target_smoothing_clip=settings["noise_clip"],
        update_actor_interval=settings["policy_every"],
        **shared,
    )


def _cql(settings: dict[str, Any], network: Any, adam: Any, shared: dict[str, Any]) -> Any:
    # the weight of the conservative loss stays as it is given: its own tuning is off, and so is the threshold
    return algos.CQLConfig(
        conservative_weight=settings["alpha"],
        n_action_samples=settings["sampled"],
        temp_learning_rate=settings["policy_lr"],
        temp_optim_factory=adam,
        alpha_learning_rate=0.0,
        initial_alpha=1.0,
        alpha_threshold=0.0,
        **shared,
    )


CONFIGS = {"iql": _iql, "awac": _awac, "td3_bc": _td3_bc, "cql": _cql}


def prepare(settings: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
    algo = build(settings)
    whole = load(settings["data"])
    algo.build_with_dataset(whole)
    build_scalers_with_transition_picker(
        algo, whole
    )  # states are scaled by all of the data, as ours are
    data = (
        load(settings["data"], fraction=settings["fraction"]) if "fraction" in settings else whole
    )

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "update" in request:
            return update(algo, data, request["update"])
        return {"actions": algo.predict(np.asarray(request["act"], dtype=np.float32)).tolist()}

    return answer, {"parameters": parameters(algo)}


def parameters(algo: Any) -> int:
    """Numbers that are trained: target copies are not."""
    modules = vars(algo.impl.modules)
    return sum(
        p.numel()
        for name, module in modules.items()
        if hasattr(module, "parameters") and not name.startswith("targ")
        for p in module.parameters()
    )


if __name__ == "__main__":
    serve(prepare)

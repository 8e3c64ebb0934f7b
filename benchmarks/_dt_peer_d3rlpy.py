"""d3rlpy's side of `dt_peer`, run in an interpreter that has d3rlpy 2.8.1: `python _dt_peer_d3rlpy.py SETTINGS`.

SETTINGS is a JSON object: `data` (an npz file of whole episodes: states, actions, rewards, lengths, terminated), `seed`,
`threads`, `device`, `compile` and the sizes of the network and of its training. Reads one JSON request per line and answers
each with one:

    {"update": 500}                                             -> {"wall": seconds, "cpu": seconds, "loss": ...}
    {"evaluate": [seeds], "env_id": ..., "target_return": ..., "horizon": ...} -> {"returns": [...]}

Training is d3rlpy's own `fit`, evaluation its own stateful wrapper on gymnasium's env.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from _d3rlpy import Answer, load, serve, update
from d3rlpy.algos import DecisionTransformer, DecisionTransformerConfig
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import GPTAdamWFactory, WarmupSchedulerFactory
from d3rlpy.preprocessing import MultiplyRewardScaler, StandardObservationScaler


def build(settings: dict[str, Any]) -> DecisionTransformer:
    """The configuration of d3rlpy's own reproduction of the paper, with the sizes of `settings`."""
    return DecisionTransformerConfig(
        batch_size=settings["batch_size"],
        context_size=settings["context"],
        num_layers=settings["layers"],
        num_heads=settings["heads"],
        attn_dropout=settings["dropout"],
        resid_dropout=settings["dropout"],
        embed_dropout=settings["dropout"],
        max_timestep=settings["horizon"],
        learning_rate=settings["lr"],
        encoder_factory=VectorEncoderFactory([settings["width"]], exclude_last_activation=True),
        optim_factory=GPTAdamWFactory(
            weight_decay=settings["weight_decay"],
            clip_grad_norm=settings["clip_norm"],
            lr_scheduler_factory=WarmupSchedulerFactory(warmup_steps=settings["warmup_steps"]),
        ),
        observation_scaler=StandardObservationScaler(),
        reward_scaler=MultiplyRewardScaler(1 / settings["return_scale"]),
        compile_graph=settings["compile"],
    ).create(device="cuda:0" if settings["device"] == "cuda" else "cpu")


def evaluate(
    algo: DecisionTransformer, seeds: Sequence[int], env_id: str, target: float, horizon: int
) -> list[float]:
    """The return of an episode from each seed, of at most `horizon` steps."""
    env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    actor = algo.as_stateful_wrapper(target_return=target)
    returns = []
    for seed in seeds:
        actor.reset()
        observation, _ = env.reset(seed=seed)
        reward, total = 0.0, 0.0
        for _ in range(horizon):
            action = actor.predict(observation.astype(np.float32), reward)
            observation, reward, terminated, _, _ = env.step(action)
            total += float(reward)
            if terminated:
                break
        returns.append(total)
    env.close()
    return returns


def prepare(settings: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
    data, algo = load(settings["data"]), build(settings)
    algo.build_with_dataset(data)

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "update" in request:
            return update(algo, data, request["update"])
        names = ("evaluate", "env_id", "target_return", "horizon")
        return {"returns": evaluate(algo, *(request[name] for name in names))}

    return answer, {
        "parameters": sum(p.numel() for p in algo.impl.modules.transformer.parameters())
    }


if __name__ == "__main__":
    serve(prepare)

"""d3rlpy's side of `dt_peer`, run in an interpreter that has d3rlpy 2.8.1: `python _dt_peer_d3rlpy.py SETTINGS`.

SETTINGS is a JSON object: `data` (an npz file of whole episodes: states, actions, rewards, lengths, terminated), `seed`,
`threads`, `device`, `compile` and the sizes of the network and of its training. Reads one JSON request per line and answers each with one:

    {"update": 500}                                             -> {"wall": seconds, "cpu": seconds, "loss": ...}
    {"evaluate": [seeds], "env_id": ..., "target_return": ..., "horizon": ...} -> {"returns": [...]}

Training is d3rlpy's own `fit`, evaluation its own stateful wrapper on gymnasium's env.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
import structlog
import torch
from d3rlpy.algos import DecisionTransformer, DecisionTransformerConfig
from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapter, NoopAdapterFactory
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.optimizers import GPTAdamWFactory, WarmupSchedulerFactory
from d3rlpy.preprocessing import MultiplyRewardScaler, StandardObservationScaler


def load(path: str) -> ReplayBuffer:
    """The episodes of the npz file as d3rlpy keeps them."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    cuts = np.cumsum(arrays["lengths"])[:-1]
    states, actions, rewards = (np.split(arrays[name], cuts) for name in ("states", "actions", "rewards"))
    episodes = [
        Episode(s, a, r[:, None], bool(t))
        for s, a, r, t in zip(states, actions, rewards, arrays["terminated"], strict=True)
    ]
    return ReplayBuffer(InfiniteBuffer(), episodes=episodes)


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


def update(algo: DecisionTransformer, data: ReplayBuffer, updates: int) -> dict[str, float]:
    """So many updates by `fit`, without logging, progress bar and saving."""
    loss = _LastLoss()
    wall, cpu = time.perf_counter(), time.process_time()
    algo.fit(
        data,
        n_steps=updates,
        n_steps_per_epoch=updates,
        logger_adapter=loss,
        show_progress=False,
        save_interval=updates + 1,
    )
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return seconds | {"loss": loss.value}


class _LastLoss(NoopAdapter, NoopAdapterFactory):
    """A logger that keeps the mean loss of the last epoch, and nothing else."""

    value = float("nan")

    def create(self, algo: Any, experiment_name: str, n_steps_per_epoch: int) -> _LastLoss:
        return self

    def write_metric(self, epoch: int, step: int, name: str, value: float) -> None:
        if name == "loss":
            self.value = float(value)


def evaluate(algo: DecisionTransformer, seeds: Sequence[int], env_id: str, target: float, horizon: int) -> list[float]:
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


def main() -> None:
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(settings["threads"])
    torch.set_flush_denormal(True)
    d3rlpy.seed(settings["seed"])
    data, algo = load(settings["data"]), build(settings)
    algo.build_with_dataset(data)
    facts = {
        "d3rlpy": d3rlpy.__version__,
        "torch": torch.__version__,
        "gymnasium": gymnasium.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in algo.impl.modules.transformer.parameters()),
    }
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "update" in request:
            answer: dict[str, Any] = update(algo, data, request["update"])
        else:
            names = ("evaluate", "env_id", "target_return", "horizon")
            answer = {"returns": evaluate(algo, *(request[name] for name in names))}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""lerobot's side of `eval_peer`, run in an interpreter that has lerobot 0.4.4: `python _eval_peer_lerobot.py CHECKPOINT`.

Reads one JSON request per line, {"episodes": 8, "horizon": 100, "replan": 2, "async_envs": false}, evaluates so many episodes with
lerobot's own `make_env` and `eval_policy`, and answers with {"seconds": ..., "steps": ...}. The policy is the network
of the checkpoint behind lerobot's `select_action`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))

from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import MetaworldEnv
from lerobot.envs.factory import make_env
from lerobot.envs.utils import close_envs
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.scripts.lerobot_eval import eval_policy

from vla.models import load_policy
from vla.types import Observation


@PreTrainedConfig.register_subclass("same_network")
@dataclass
class NetworkConfig(PreTrainedConfig):
    observation_delta_indices = None
    action_delta_indices = None
    reward_delta_indices = None

    def get_optimizer_preset(self) -> Any:
        return None

    def get_scheduler_preset(self) -> Any:
        return None

    def validate_features(self) -> None:
        return None


class Network(PreTrainedPolicy):
    """The checkpoint's network as a policy of lerobot: a queue of the next `replan` actions, as lerobot's own have."""

    config_class = NetworkConfig
    name = "same_network"

    replan = 1

    def __init__(self, checkpoint: str) -> None:
        super().__init__(NetworkConfig(device="cpu"))
        self.network = load_policy(checkpoint)
        [self.size] = self.network.spec.cameras.values()
        [self.camera] = self.network.spec.cameras
        [self.instruction] = self.network.language.cached()

    def reset(self) -> None:
        self.memory = None
        self.queue: list[torch.Tensor] = []

    def select_action(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if not self.queue:
            self.queue = list(self.predict_action_chunk(batch)[:, : self.replan].unbind(1))
        return self.queue.pop(0)

    def predict_action_chunk(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pictures = batch["observation.image"]
        if pictures.shape[-2:] != self.size:
            pictures = F.interpolate(pictures, self.size, mode="bilinear", antialias=True)
        images = (255 * pictures).to(torch.uint8).permute(0, 2, 3, 1)
        instructions = [self.instruction] * len(
            images
        )  # its text is the same all the time, and so not encoded again
        observation = Observation({self.camera: images}, batch["observation.state"], instructions)
        actions_BKA, self.memory = self.network.act(observation, self.memory)
        return actions_BKA

    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        raise TypeError("this policy is for control alone")

    def get_optim_params(self) -> dict[str, Any]:
        return {}


def evaluate(
    policy: Network, task: str, episodes: int, horizon: int, replan: int, async_envs: bool
) -> int:
    """One whole evaluation: envs are made, played and closed. Returns the control steps."""
    policy.replan = replan
    config = MetaworldEnv(task=task)
    envs = make_env(config, n_envs=episodes, use_async_envs=async_envs)
    [of_group] = envs.values()
    [env] = of_group.values()
    env.set_attr("_max_episode_steps", [horizon] * episodes)
    same = [lambda value: value] * 4
    with torch.no_grad():
        info = eval_policy(env, policy, *same, n_episodes=episodes, start_seed=1000)
    close_envs(envs)
    assert len(info["per_episode"]) == episodes
    assert not any(episode["success"] for episode in info["per_episode"]), (
        "a success would end an episode early"
    )
    return episodes * horizon


def main() -> None:
    checkpoint, task = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with the answers
    torch.set_flush_denormal(True)
    policy = Network(checkpoint)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        steps = evaluate(policy, task, **json.loads(line))
        print(
            json.dumps({"seconds": time.perf_counter() - start, "steps": steps}),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()

"""openpi's own client against `vla serve`: the same tabletop episodes as in this process, to the bit.

The simulator plays here; every observation goes through the unmodified openpi-client, in an interpreter of its own, to
a server process, one connection for each episode. The other side is the policy in this process, as `vla eval` plays
it. All actions are compared.

    make bench-openpi [POLICY=FOLDER]
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import cpu_count, publish
from _process import JsonProcess
from _serve_sides import CONFIG, served
from rich.table import Table

from vla.models import RT1Config, load_policy
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.scheduler import rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.types import Observation


class Recorded:
    """An actor, and all that it did: the chunk of every call, by episode."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.spec = actor.spec
        self.history = actor.history
        self.episodes: list[list[np.ndarray]] = []

    def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, Any]:
        if memory is None:
            self.episodes.append([])
        actions, memory = self.actor.act(observation, memory)
        self.episodes[-1].append(actions[0].numpy().copy())
        return actions, memory


class Alone:
    """Stands for the memory of a robot whose server remembers."""

    batch_size = 1

    def select(self, rows: list[int]) -> Alone:
        return self


class ThroughOpenpi:
    """An actor that asks openpi's client; one connection for each episode."""

    def __init__(self, policy: Any, client: JsonProcess) -> None:
        self.spec = policy.spec
        self.history = policy.history
        self.client = client

    def act(self, observation: Observation, memory: Any = None) -> tuple[torch.Tensor, Any]:
        if memory is None:
            self.client.ask(connect=True)
        seen = {f"observation/{c}": image[0].numpy() for c, image in observation.images.items()}
        seen["observation/state"] = observation.state[0].numpy()
        answer = self.ask(seen, observation.instruction[0])
        return torch.tensor(answer["actions"], dtype=torch.float32)[None], Alone()

    def ask(self, seen: dict[str, np.ndarray], prompt: str) -> dict[str, Any]:
        arrays = {
            key: [value.dtype.str, value.shape, base64.b64encode(value.tobytes()).decode()]
            for key, value in seen.items()
        }
        return self.client.ask(arrays=arrays, prompt=prompt)


def refusal(remote: ThroughOpenpi) -> dict[str, Any]:
    """What the client makes of a refused observation, and whether its connection goes on."""
    remote.client.ask(connect=True)
    seen = {
        f"observation/{c}": np.zeros((*size, 3), np.uint8)
        for c, size in remote.spec.cameras.items()
    }
    state = np.zeros(remote.spec.state_dim, np.float32)
    wrong = remote.ask({**seen, "observation/state": np.append(state, 0)}, "pick")
    right = remote.ask({**seen, "observation/state": state}, "pick")
    return {"error": wrong.get("error", ""), "goes_on": "actions" in right}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", default=".venv-openpi/bin/python", help="interpreter with openpi-client"
    )
    parser.add_argument("--policy", help="folder of a tabletop policy; an untrained RT-1 otherwise")
    parser.add_argument("--episodes", type=int, default=3, help="of each task")
    parser.add_argument("--horizon", type=int, default=60, help="most steps of an episode")
    parser.add_argument("--threads", type=int, default=max(1, cpu_count() // 2))
    arguments = parser.parse_args()
    env = TabletopConfig(type="tabletop", tasks=["reach", "pick"], cameras=["front"], image_size=96)
    jobs = [
        Job(task, task, episode, episode_seed("eval", 0, task, episode), arguments.horizon)
        for task in env.tasks
        for episode in range(arguments.episodes)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.policy or temporary)
        if arguments.policy is None:
            torch.manual_seed(0)
            policy = RT1Config(**CONFIG, history=6).build(env.spec())
            torch.nn.init.normal_(policy.head.weight)
            policy.save_pretrained(folder)
        policy = load_policy(folder)
        settings = {"workers": 0, "batch_size": 1, "num_envs": 1, "threads": arguments.threads}
        alone = Recorded(policy)
        expected = rollout(env, jobs, alone, **settings)
        with served("max_batch=1", folder, threads=arguments.threads, device="cpu") as server:
            host, _, port = server.url.removeprefix("ws://").rpartition(":")
            address = {"host": host, "port": int(port)}
            client = JsonProcess(arguments.python, "_openpi_side.py", address, {})
            remote = Recorded(ThroughOpenpi(policy, client))
            found = rollout(env, jobs, remote, **settings)
            refused = refusal(remote.actor)
            client.close()

    pairs = list(zip(alone.episodes, remote.episodes, strict=True))
    same = sum(len(a) == len(b) and np.array_equal(a, b) for a, b in pairs)
    steps = sum(len(a) for a, _ in pairs)
    table = Table("", "episodes", "steps", "successes", title="Tabletop through openpi-client")
    for name, records in (
        ("in this process", expected),
        ("through openpi-client and vla serve", found),
    ):
        successes = str(sum(record.success_ever for record in records))
        table.add_row(name, str(len(records)), str(sum(r.steps for r in records)), successes)
    table.add_row("episodes equal to the bit", str(same), "", "")
    publish(
        "openpi_interop",
        ours=same,
        theirs=None,
        ratio=None,
        unit="episodes whose actions are equal to the bit",
        table=table,
        episodes=len(jobs),
        records_equal=expected == found,
        calls_of_the_policy=steps,
        successes=[sum(r.success_ever for r in records) for records in (expected, found)],
        refused_observation=refused,
        client=client.facts["versions"],
        policy=arguments.policy or "untrained RT-1, history 6",
    )
    if same < len(jobs) or expected != found or not refused["goes_on"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

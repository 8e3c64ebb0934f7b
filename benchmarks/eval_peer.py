"""Episodes per minute of `vla eval` against lerobot 0.4.4's evaluation: the same Meta-World task, network and horizon.

Two comparisons, both against lerobot as it is (480 px, MuJoCo's full quality, one env after the other in one process):

- "fast preset": ours as configured by default, 96 px without shadows and anti-aliasing;
- "their render settings": ours with 480 px in full quality, and the same resizing in front of the network.

A round is a whole evaluation by each side: envs are built, played and closed. No side writes videos. The network has
random weights and the task is one that these never solve, so that all episodes last for the whole horizon. Both sides
execute two steps of a chunk before the network looks again, as `configs/metaworld_mt5.yaml` does; ours draws only what is
looked at, lerobot's envs draw at every step. `--replan 1` compares without this.
`make bench-eval_peer` makes the peer's environment, `.venv-interop`, first.

    python benchmarks/eval_peer.py [--episodes 16] [--horizon 100] [--rounds 3] [--replan 2] [--workers N] [--async-envs]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import alternate, publish, summary

HERE = Path(__file__).parent
TASK = "peg-insert-side"
NETWORK_SIZE = 96


def env_config(size: int, preset: str, horizon: int) -> Any:
    from vla.sim_eval.envs.metaworld import MetaworldConfig

    return MetaworldConfig(tasks=(TASK,), image_size=size, preset=preset, horizon=horizon)


def make_policy(size: int) -> Any:
    """The RT-1 of `configs/metaworld_mt5.yaml` with random weights, for pictures of `size` pixels, which it resizes to 96."""
    import torch
    import yaml

    from vla.models import RT1Config

    recipe = yaml.safe_load((HERE.parent / "configs" / "metaworld_mt5.yaml").read_text())
    torch.manual_seed(0)
    config = RT1Config.model_validate(
        recipe["train"]["policy"] | {"image_size": (NETWORK_SIZE, NETWORK_SIZE)}
    )
    env = env_config(size, "fast", 1)
    policy = config.build(env.spec())
    policy.language.embed([env.suite().tasks[0].instruction])
    return policy.eval()


class Ours:
    """Evaluations by `vla.sim_eval`, envs in worker processes."""

    def __init__(self, size: int, preset: str, arguments: argparse.Namespace) -> None:
        from vla.sim_eval.rollouts.jobs import Job
        from vla.sim_eval.rollouts.scheduler import default_workers
        from vla.sim_eval.rollouts.seeding import episode_seed

        self.policy = make_policy(size)
        self.config = env_config(size, preset, arguments.horizon)
        self.replan = arguments.replan
        self.workers = arguments.workers or default_workers(self.policy)
        self.jobs = [
            Job(TASK, "", e, episode_seed("eval", 0, TASK, e), arguments.horizon)
            for e in range(arguments.episodes)
        ]

    def __call__(self) -> float:
        from vla.sim_eval.rollouts.scheduler import rollout

        start = time.perf_counter()
        records = rollout(
            self.config, self.jobs, self.policy, workers=self.workers, replan_every=self.replan
        )
        seconds = time.perf_counter() - start
        assert all(
            record.steps == job.horizon for record, job in zip(records, self.jobs, strict=True)
        )
        return seconds


class Lerobot:
    """lerobot's process."""

    def __init__(self, python: Path, checkpoint: Path, arguments: argparse.Namespace) -> None:
        names = ("episodes", "horizon", "replan", "async_envs")
        self.request = {name: getattr(arguments, name) for name in names}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "_eval_peer_lerobot.py"), str(checkpoint), f"{TASK}-v3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
        )
        self.facts = self._answer()

    def __call__(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(self.request) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"eval_peer: lerobot's side ended with status {self.process.wait()}; see above"
            )
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--episodes",
        type=int,
        default=16,
        help="per evaluation; also lerobot's envs, as by default",
    )
    parser.add_argument("--horizon", type=int, default=100, help="control steps of every episode")
    parser.add_argument("--rounds", type=int, default=3, help="every side evaluates once in each")
    parser.add_argument(
        "--replan", type=int, default=2, help="steps of a chunk that both execute before a new look"
    )
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--workers", type=int, help="of ours; default: as `vla eval` chooses")
    parser.add_argument(
        "--async-envs", action="store_true", help="lerobot's envs in processes (not its default)"
    )
    parser.add_argument(
        "--peer", type=Path, default=Path(".venv-interop/bin/python"), help="lerobot's interpreter"
    )
    arguments = parser.parse_args()
    if not arguments.peer.is_file():
        print(
            f"eval_peer: no interpreter {arguments.peer}: run `make bench-eval_peer`, which makes it",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return arguments


def per_minute(arguments: argparse.Namespace, seconds: float) -> float:
    return 60 * arguments.episodes / seconds


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    from vla.sim_eval.envs.metaworld import MetaworldConfig
    from vla.sim_eval.rendering import choose_backend

    arguments = parse()
    choose_backend()  # lerobot's side inherits it
    with tempfile.TemporaryDirectory() as folder:
        make_policy(NETWORK_SIZE).save_pretrained(folder)
        lerobot = Lerobot(arguments.peer, Path(folder), arguments)
    presets = {"fast preset, 96 px": (96, "fast"), "their render settings, 480 px": (480, "full")}
    ours = {label: Ours(size, preset, arguments) for label, (size, preset) in presets.items()}
    sides: dict[str, Callable[[], float]] = {**ours, "lerobot": lerobot}
    with Console(stderr=True).status("measuring") as status:
        times = alternate(
            sides, rounds=arguments.rounds, warmup=arguments.warmup, tell=status.update
        )
    lerobot.close()

    medians = {name: summary(seconds)["median"] for name, seconds in times.items()}
    table = Table(
        title=f"{TASK}, {arguments.horizon} steps, {arguments.episodes} episodes: episodes per minute"
    )
    for column in ("", "ours", "lerobot 0.4.4", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    cases = []
    for label in ours:
        speeds = [per_minute(arguments, medians[name]) for name in (label, "lerobot")]
        ratio = medians["lerobot"] / medians[label]
        table.add_row(label, *(f"{speed:.1f}" for speed in speeds), f"{ratio:.2f}")
        cases.append({"case": label, "seconds": summary(times[label]), "ratio": round(ratio, 2)})
    first = next(iter(ours.values()))
    publish(
        "eval_peer",
        ours=per_minute(arguments, medians[next(iter(ours))]),
        theirs=per_minute(arguments, medians["lerobot"]),
        ratio=cases[0]["ratio"],
        unit="episodes per minute, ours with the fast preset at 96 px, theirs at 480 px; `cases` has both comparisons",
        table=table,
        cases=cases,
        lerobot={
            "version": "0.4.4",
            "seconds": summary(times["lerobot"]),
            "async_envs": arguments.async_envs,
            **lerobot.facts,
        },
        task=TASK,
        episodes=arguments.episodes,
        horizon=arguments.horizon,
        replan_every=arguments.replan,
        rounds=arguments.rounds,
        workers=first.workers,
        simulation=MetaworldConfig().versions(),
        method=(
            "whole evaluations in turn (envs built, played, closed), order swapped in every second round, medians; no "
            "videos on either side; same network with random weights on 96 px, denormals flushed; lerobot: its make_env, "
            "eval_policy and default vector env with as many envs as episodes, torch's default threads"
        ),
    )


if __name__ == "__main__":
    main()

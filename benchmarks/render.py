"""Env steps with pictures, one process: our `fast` preset against Meta-World's default rendering, and the tabletop.

Both sides take the same actions in the same task and make a picture of the same size after every step: ours by
`vla`'s env (which also turns it upright, reads the state and tells the failure), theirs by Meta-World's own `step`
and `render()`, set up as LeRobot does. The `full` preset stands beside them: it makes the same picture as theirs. The tabletop, our own suite of primitives,
makes as many pictures of the same size per step.

    python benchmarks/render.py [--task push] [--size 96] [--steps 10] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import alternate, clocked, publish, summary
from rich.console import Console
from rich.table import Table

from vla.sim_eval.envs.metaworld import CORNER2_POSITION, MetaworldConfig
from vla.sim_eval.envs.tabletop import TabletopConfig


def ours(task: str, size: int, preset: str, actions: np.ndarray) -> Callable[[], Any]:
    """Our env, which makes its picture in `step`."""
    env = MetaworldConfig(image_size=size, preset=preset, horizon=10**9).make(task)  # type: ignore[arg-type]
    env.reset(seed=1)

    def work() -> None:
        for action in actions:
            env.step(action)

    return work


def tabletop(size: int, steps: int) -> Callable[[], Any]:
    """Our tabletop with one picture per step; the expert's plan is no part of a step."""
    env = TabletopConfig(cameras=("front",), image_size=size, horizon=10**9).make("place")
    env.reset(seed=1)
    actions = []
    for _ in range(steps):
        actions.append(env.expert_action())
        env.step(actions[-1])

    def work() -> None:
        for action in actions:
            env.step(action)

    return work


def theirs(task: str, size: int, actions: np.ndarray) -> Callable[[], Any]:
    """Meta-World's own env and renderer."""
    import metaworld

    benchmark = metaworld.MT1(f"{task}-v3", seed=42)
    make = benchmark.train_classes[f"{task}-v3"]
    env = make(render_mode="rgb_array", camera_name="corner2", width=size, height=size)
    env.set_task(benchmark.train_tasks[0])
    env.model.cam_pos[env.model.camera("corner2").id] = CORNER2_POSITION
    env.max_path_length = 10**9
    env.reset()
    seen = env.render()
    viewer = env.mujoco_renderer.viewer

    def work() -> None:
        viewer.make_context_current()  # it takes for granted that nobody else renders: else it draws in the others' context
        for action in actions:
            env.step(action)
            picture = env.render()
        if abs(float(picture.mean()) - float(seen.mean())) > 20 or picture.std() < 10:
            raise RuntimeError(
                "Meta-World's own picture is not of its scene: nothing can be compared"
            )

    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="push")
    parser.add_argument(
        "--size", type=int, default=96, help="height and width of the pictures in pixels"
    )
    parser.add_argument("--steps", type=int, default=10, help="env steps in each round")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()

    versions = MetaworldConfig().versions()  # chooses the backend before Meta-World loads MuJoCo
    actions = np.random.default_rng(0).uniform(-1, 1, (options.steps, 4)).astype(np.float32)
    work = {
        "fast": ours(options.task, options.size, "fast", actions),
        "full": ours(options.task, options.size, "full", actions),
        "tabletop": tabletop(options.size, options.steps),
        "theirs": theirs(options.task, options.size, actions),
    }
    console = Console(stderr=True)
    times = alternate(
        {name: clocked(each) for name, each in work.items()},
        rounds=options.rounds,
        warmup=2,
        tell=console.print,
    )
    rate = {name: options.steps / statistics.median(seconds) for name, seconds in times.items()}
    table = Table(title=f"{options.task}, {options.size} px, {versions['gl_renderer']}")
    for column in ("", "env steps per second", "ms per step", "times Meta-World"):
        table.add_column(column, justify="right" if column else "left")
    names = {
        "fast": "vla, fast",
        "full": "vla, full",
        "tabletop": "vla's tabletop",
        "theirs": "Meta-World's own",
    }
    for name, label in names.items():
        table.add_row(
            label,
            f"{rate[name]:.1f}",
            f"{1000 / rate[name]:.1f}",
            f"{rate[name] / rate['theirs']:.2f}",
        )
    publish(
        "render",
        ours=rate["fast"],
        theirs=rate["theirs"],
        ratio=rate["fast"] / rate["theirs"],
        unit="env steps with pictures per second",
        table=table,
        full=round(rate["full"], 2),
        tabletop=round(rate["tabletop"], 2),
        tabletop_times_fast=round(rate["tabletop"] / rate["fast"], 2),
        task=options.task,
        image_size=options.size,
        seconds_per_round={name: summary(seconds) for name, seconds in times.items()},
        simulation=versions,
    )


if __name__ == "__main__":
    main()

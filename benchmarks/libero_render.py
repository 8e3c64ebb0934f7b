"""A control step of LIBERO with one picture: our `fast` and `full` presets against robosuite's own renderer.

    python benchmarks/libero_render.py [--suite libero_goal] [--task put_the_bowl_on_the_plate] [--size 128] [--steps 5]
        [--rounds 9]

All sides take the same actions from the same official start and draw the camera `agentview` after every step, in turn in
one process; a step without a picture stands beside them. robosuite draws with shadows, reflections and anti-aliasing, as
published evaluations do. Needs `pip install 'vla[libero]'`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable

import numpy as np
from _common import CLOCKS, alternate, publish, summary
from rich.console import Console
from rich.table import Table

from vla.sim_eval.envs.libero import LiberoConfig
from vla.sim_eval.envs.libero_parts.installed import env_class, quiet
from vla.sim_eval.envs.libero_parts.suites import suite_tasks

# numba looks for the package `coverage`, and would find the benchmark of that name beside this file
sys.modules["coverage"] = None  # type: ignore[assignment]
LABELS = {
    "without": "vla, no picture",
    "fast": "vla, fast",
    "full": "vla, full",
    "theirs": "robosuite's own",
}


def ours(
    suite: str, task: str, size: int, preset: str, actions: np.ndarray, now: Callable[[], float]
) -> Callable[[], float]:
    """Our env; without pictures if `preset` is "without". Returns the seconds of the steps alone."""
    config = LiberoConfig(
        suite=suite,
        protocol="official",
        cameras=("agentview",),
        image_size=size,
        preset="fast" if preset == "without" else preset,  # type: ignore[arg-type]
        horizon=10**9,
    )
    env = config.make(task)
    env.render_images = preset != "without"

    def work() -> float:
        env.reset(seed=1)
        start = now()
        for action in actions:
            env.step(action)
        return now() - start

    return work


def theirs(
    suite: str, name: str, size: int, actions: np.ndarray, now: Callable[[], float]
) -> Callable[[], float]:
    """The benchmark's own env, which draws in `step`. Returns the seconds of the steps alone."""
    task = next(task for task in suite_tasks(suite) if task.name == name)
    with quiet():
        env = env_class()(
            bddl_file_name=str(task.bddl),
            camera_names=["agentview"],
            camera_heights=size,
            camera_widths=size,
            hard_reset=False,
            ignore_done=True,
        )
        env.seed(0)
        env.reset()
    official = task.start_states()[0]

    def work() -> float:
        # the other sides' contexts: robosuite takes for granted that nobody else draws
        env.sim._render_context_offscreen.gl_ctx.make_current()
        with quiet():
            env.reset()
            env.set_init_state(official)
            for _ in range(10):
                env.step([0.0] * 6 + [-1.0])
            start = now()
            for action in actions:
                seen = env.step(action)[0]
            seconds = now() - start
        if seen["agentview_image"].std() < 10:
            raise RuntimeError("robosuite's picture is not of its scene: nothing can be compared")
        return seconds

    return work


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--task", default="put_the_bowl_on_the_plate")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    options = parser.parse_args()
    now = CLOCKS[options.clock]

    versions = LiberoConfig(suite=options.suite).versions()
    actions = np.random.default_rng(0).uniform(-1, 1, (options.steps, 7)).astype(np.float32)
    sides = ("without", "fast", "full")
    given = (options.suite, options.task, options.size)
    work = {name: ours(*given, name, actions, now) for name in sides}
    work["theirs"] = theirs(*given, actions, now)
    console = Console(stderr=True)
    times = alternate(work, rounds=options.rounds, warmup=2, tell=console.print)
    milliseconds = {
        name: 1000 * statistics.median(seconds) / options.steps for name, seconds in times.items()
    }
    table = Table(title=f"{options.task}, {options.size} px, {versions['gl_renderer']}")
    for column in ("", "ms per step", "times robosuite"):
        table.add_column(column, justify="right" if column else "left")
    for name, label in LABELS.items():
        ratio = milliseconds["theirs"] / milliseconds[name]
        table.add_row(label, f"{milliseconds[name]:.0f}", f"{ratio:.1f}")
    publish(
        "libero_render",
        ours=milliseconds["fast"],
        theirs=milliseconds["theirs"],
        ratio=milliseconds["theirs"] / milliseconds["fast"],
        unit=f"ms ({options.clock}) per control step with one picture",
        table=table,
        milliseconds={name: round(value, 2) for name, value in milliseconds.items()},
        task=options.task,
        image_size=options.size,
        seconds_per_round={name: summary(seconds) for name, seconds in times.items()},
        simulation=versions,
    )


if __name__ == "__main__":
    main()

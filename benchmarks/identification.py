"""How well the hidden numbers of a world are found out of one episode.

For each env several episodes of random pushes (pendulum, hopper) or of the scripted expert (quadruped), each in a world of
its own, are recorded and identified. Reported are the median and the greatest error, as a share of the range between which the
number is drawn, beside that of the middle of the range.

    python benchmarks/identification.py [--episodes 4] [--save]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import publish

FIRST_SEED = 910_000
GENERATIONS, POPULATION = 20, 8
# env, steps of an episode, whether the env's expert acts
CASES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "inverted-pendulum": (
        {"type": "locomotion", "robot": "inverted-pendulum", "hidden": {"mass": 0.7, "motor": 1.0}},
        15,
        False,
    ),
    "hopper": (
        {
            "type": "locomotion",
            "robot": "hopper",
            "hidden": {"friction": 0.5, "mass": 0.5, "motor": 0.7},
        },
        30,
        False,
    ),
    "quadruped": (
        {
            "type": "quadruped",
            "tasks": ["go-avoid"],
            "image_size": 16,
            "randomisation": {"friction": 1.0, "payload": 6.0, "motor": 0.3, "com": 0.05},
        },
        12,
        True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=4, help="of each env")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    rows = {name: measure(name, arguments.episodes) for name in CASES}
    errors = [number["median"] for row in rows.values() for number in row["numbers"].values()]
    publish(
        "identification",
        ours=statistics.median(errors),
        theirs=None,
        ratio=None,
        unit="median error of a hidden number, as a share of its range",
        table=table(rows),
        path=None if arguments.save else Path(tempfile.mkdtemp()) / "identification.json",
        episodes=arguments.episodes,
        envs=rows,
    )


def measure(name: str, episodes: int) -> dict[str, Any]:
    """Errors of one env's hidden numbers over its episodes."""
    from vla.config import load_config
    from vla.sim_eval.identification.identify import IdentifyConfig, identify

    env, steps, _ = CASES[name]
    errors: dict[str, list[float]] = {}
    middles: dict[str, list[float]] = {}
    distances, seconds, replays = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(episodes):
            data, ranges = record(name, Path(folder) / f"data{number}", FIRST_SEED + number)
            settings = {
                "env": env,
                "data": {"path": data},
                "out": Path(folder) / "out",
                "steps": steps,
            }
            found = identify(load_config(IdentifyConfig, settings))
            assert found.recorded is not None
            for key, value in found.found.items():
                low, high = ranges[key]
                truth = found.recorded[key]
                errors.setdefault(key, []).append(abs(value - truth) / (high - low))
                middles.setdefault(key, []).append(abs((low + high) / 2 - truth) / (high - low))
            distances.append(found.distance)
            seconds.append(found.seconds)
            replays.append(found.replays)
    return {
        "steps": steps,
        "numbers": {
            key: {
                "median": round(statistics.median(values), 4),
                "greatest": round(max(values), 4),
                "middle": round(statistics.median(middles[key]), 4),
            }
            for key, values in errors.items()
        },
        "distance": round(statistics.median(distances), 6),
        "seconds": round(statistics.median(seconds), 1),
        "replays": round(statistics.median(replays)),
    }


def record(name: str, out: Path, seed: int) -> tuple[Path, dict[str, tuple[float, float]]]:
    """One episode as a dataset, and between what each hidden number is drawn."""
    from vla.config import load_config
    from vla.data import DatasetWriter
    from vla.sim_eval.collection.recording import CollectConfig
    from vla.sim_eval.rollouts.episode_recorder import EpisodeRecorder, privileged_extras

    values, steps, expert = CASES[name]
    config = load_config(CollectConfig, {"env": values, "out": out}).env
    env = config.make(config.suite().tasks[0].name)
    low, high = env.privileged_range()
    rng = np.random.default_rng(seed)
    observation, start = env.reset(seed=seed)
    recorder = EpisodeRecorder(list(env.robot_spec.cameras))
    spec = env.robot_spec
    for _ in range(steps):
        recorder.add_observation(observation, start["instruction"])
        pushes = rng.uniform(-0.6, 0.6, spec.action_dim) * np.array(spec.action_high)
        action = env.expert_action() if expert else pushes.astype(np.float32)
        extras = privileged_extras(env)
        observation, reward, _, _, info = env.step(action)
        recorder.add_action(action, reward, info["success"], **extras)
    facts = {"seed": seed, "task": env.task.name}
    with DatasetWriter(out, spec) as writer:
        writer.add_episode(recorder.episode(terminated=False, info=facts))
    ranges = dict(
        zip(env.privileged_names, zip(low.tolist(), high.tolist(), strict=True), strict=True)
    )
    env.close()
    return out, ranges


def table(rows: dict[str, dict[str, Any]]) -> Any:
    from rich.table import Table

    shown = Table(title="errors as shares of the range")
    for column in ("env", "number", "median", "greatest", "middle of the range", "seconds"):
        shown.add_column(column, justify="left" if column in ("env", "number") else "right")
    for name, row in rows.items():
        for key, number in row["numbers"].items():
            errors = [f"{100 * number[what]:.1f} %" for what in ("median", "greatest", "middle")]
            shown.add_row(name, key, *errors, f"{row['seconds']:.1f}")
    return shown


if __name__ == "__main__":
    main()

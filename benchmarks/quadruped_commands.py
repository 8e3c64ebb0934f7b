"""What the quadruped's walking controller is asked, and what it does.

Three measurements, all without pictures:

- constant commands: each for eight seconds, the means of the last five, in the order of what is varied;
- random commands: all eleven numbers drawn again from the whole box every two seconds, the gait among the four; how many
  episodes of ten seconds end in a fall, and how far the means of the last 0.8 s of each command are from what is followed;
  once kept inside what each gait can do (`safe_command`), as the suite does, and once as drawn;
- speed: seconds of simulation per second of one core.

    python benchmarks/quadruped_commands.py [--episodes 200] [--save]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import publish

SECONDS, SETTLE = 8.0, 3.0
HOLD, EPISODE = 2.0, 10.0
CONSTANT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stand", {}),
    ("vx 0.3", {"vx": 0.3}),
    ("vx 0.6", {"vx": 0.6}),
    ("vx 1.0", {"vx": 1.0}),
    ("vx 1.2, 4 Hz", {"vx": 1.2, "frequency": 4.0}),
    ("vx -0.4", {"vx": -0.4}),
    ("vx -0.8", {"vx": -0.8}),
    ("vy 0.3", {"vy": 0.3}),
    ("vy -0.4", {"vy": -0.4}),
    ("wz 0.8", {"wz": 0.8}),
    ("wz -1.2", {"wz": -1.2}),
    ("vx 0.5, wz 0.6", {"vx": 0.5, "wz": 0.6}),
    ("vx 0.5, vy 0.2, wz -0.5", {"vx": 0.5, "vy": 0.2, "wz": -0.5}),
    ("vx 0.4, height 0.14", {"vx": 0.4, "height": 0.14}),
    ("vx 0.4, height 0.18", {"vx": 0.4, "height": 0.18}),
    ("vx 0.4, height 0.24", {"vx": 0.4, "height": 0.24}),
    ("vx 0.4, height 0.34", {"vx": 0.4, "height": 0.34}),
    ("vx 0.4, 2 Hz", {"vx": 0.4, "frequency": 2.0}),
    ("vx 0.4, 4 Hz", {"vx": 0.4, "frequency": 4.0}),
    ("vx 0.2, pitch 0.25", {"vx": 0.2, "pitch": 0.25}),
    ("vx 0.2, pitch -0.25", {"vx": 0.2, "pitch": -0.25}),
    ("stand, pitch 0.35", {"pitch": 0.35}),
    ("vx 0.4, swing 0.05", {"vx": 0.4, "swing": 0.05}),
    ("vx 0.4, swing 0.12", {"vx": 0.4, "swing": 0.12}),
    ("vx 0.4, width 0.20", {"vx": 0.4, "width": 0.20}),
    ("vx 0.4, width 0.40", {"vx": 0.4, "width": 0.40}),
    ("pace, vx 0.4", {"vx": 0.4, "gait": "pace"}),
    ("pace, vx 0.9, 4 Hz", {"vx": 0.9, "frequency": 4.0, "gait": "pace"}),
    ("pace, vx 0.3, wz 0.5", {"vx": 0.3, "wz": 0.5, "gait": "pace"}),
    ("bound, vx 0.4", {"vx": 0.4, "gait": "bound"}),
    ("bound, vx 0.9, 4 Hz", {"vx": 0.9, "frequency": 4.0, "gait": "bound"}),
    ("bound, vx 0.3, wz 0.5", {"vx": 0.3, "wz": 0.5, "gait": "bound"}),
    ("pronk, vx 0.4", {"vx": 0.4, "gait": "pronk"}),
    ("pronk, vx 0.3, wz 0.3", {"vx": 0.3, "wz": 0.3, "gait": "pronk"}),
)
MEASURED = ("vx", "vy", "wz", "height", "pitch")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=200, help="of random commands, each way")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    arguments = parser.parse_args()
    walks = [constant(what, values) for what, values in CONSTANT]
    safe = [random_episode(seed, safe=True) for seed in range(arguments.episodes)]
    free = [random_episode(seed, safe=False) for seed in range(arguments.episodes)]
    # of one core: processor time counts no other process of a shared machine
    milliseconds = statistics.median(walk["ms_per_tick"] for walk in walks)
    falls = sum(episode["fell"] for episode in safe)
    publish(
        "quadruped_commands",
        ours=10.0 / milliseconds,
        theirs=None,
        ratio=None,
        unit="seconds of walking simulated per second of one core",
        table=table(walks, safe, free),
        path=None if arguments.save else Path(tempfile.mkdtemp()) / "quadruped_commands.json",
        seconds=[SECONDS, SETTLE],
        constant=walks,
        constant_falls=sum(walk["fell"] for walk in walks),
        random={"safe": summary_of(safe), "as drawn": summary_of(free)},
        random_falls=falls,
        ms_per_tick=round(milliseconds, 3),
    )


def walker(safe: bool = True) -> Any:
    """The controller of a robot that stands alone on the floor."""
    import mujoco

    from vla.sim_eval.envs.quadruped_parts.gait import Gait, Tuning
    from vla.sim_eval.envs.quadruped_parts.robot import Robot, model_xml

    model = mujoco.MjModel.from_xml_string(model_xml())
    robot = Robot(model, mujoco.MjData(model))
    robot.stand()
    gait = Gait(robot, Tuning(safe=safe))
    gait.start()
    return gait


def tick(gait: Any, asked: np.ndarray) -> np.ndarray:
    """One tick; what is measured of the trunk (5,)."""
    import mujoco

    from vla.sim_eval.envs.quadruped_parts.gait import TICK_STEPS

    gait.control(asked)
    mujoco.mj_step(gait.robot.model, gait.robot.data, TICK_STEPS)
    body = gait.robot.sense()
    return np.array([*body.velocity, body.height, body.pitch])


def constant(what: str, values: dict[str, Any]) -> dict[str, Any]:
    """One command for SECONDS, from standing."""
    from vla.sim_eval.envs.quadruped_parts.commands import command, safe_command
    from vla.sim_eval.envs.quadruped_parts.manner import GAIT_WORDS, gait_of

    asked = command(**values)
    gait = walker()
    rows, contacts, fell = [], [], False
    start = time.process_time()
    for _ in range(round(SECONDS * 100)):
        rows.append(tick(gait, asked))
        contacts.append(gait.robot.feet_on_ground())
        fell |= gait.robot.fallen()
    milliseconds = 1000 * (time.process_time() - start) / len(rows)
    settled = np.array(rows[round(SETTLE * 100) :])
    wanted = safe_command(asked)
    walked = gait_of(np.array(contacts[round(SETTLE * 100) :]))
    return {
        "what": what,
        "asked": of(asked),
        "followed": of(wanted),
        "measured": dict(zip(MEASURED, settled.mean(0).round(4).tolist(), strict=True)),
        "sd_pitch": round(float(settled[:, 4].std()), 4),
        "gait": None if walked is None else GAIT_WORDS[walked],
        "fell": fell,
        "ms_per_tick": round(milliseconds, 4),
    }


def of(command: np.ndarray) -> dict[str, float]:
    """The numbers of a command that are measured."""
    from vla.sim_eval.envs.quadruped_parts.commands import NAMES

    return {name: round(float(command[NAMES.index(name)]), 4) for name in MEASURED}


def random_episode(seed: int, safe: bool) -> dict[str, Any]:
    """Whether the robot falls, when, and its mean errors (5,) for each command that was held."""
    from vla.sim_eval.envs.quadruped_parts.commands import GAIT_SLICE, GAITS, HIGH, LOW, NAMES

    where = [NAMES.index(name) for name in MEASURED]
    rng = np.random.default_rng(seed)
    gait = walker(safe)
    errors: list[np.ndarray] = []
    for turn in range(round(EPISODE / HOLD)):
        asked = rng.uniform(LOW, HIGH)
        asked[GAIT_SLICE] = list(GAITS.values())[rng.integers(len(GAITS))]
        rows = []
        for number in range(round(HOLD * 100)):
            measured = tick(gait, asked)
            if gait.robot.fallen():
                return {"fell": True, "at": turn * HOLD + number / 100, "errors": errors}
            if number >= 120:
                rows.append(measured - gait.command[where])
        errors.append(np.mean(rows, axis=0))
    return {"fell": False, "at": None, "errors": errors}


def summary_of(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    errors = np.array([error for episode in episodes for error in episode["errors"]])
    rms = np.sqrt((errors**2).mean(0)).round(4).tolist()
    return {
        "episodes": len(episodes),
        "falls": sum(episode["fell"] for episode in episodes),
        "rms_error": dict(zip(MEASURED, rms, strict=True)),
    }


def table(walks: list[dict[str, Any]], *random: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    falls = [f"{sum(e['fell'] for e in episodes)} of {len(episodes)}" for episodes in random]
    shown = Table(title=f"falls under random commands: {falls[0]} kept safe, {falls[1]} as drawn")
    for column in ("command", *MEASURED, "gait", "fell"):
        shown.add_column(column, justify="left" if column in ("command", "gait") else "right")
    for walk in walks:
        numbers = [
            f"{walk['measured'][name]:.2f} ({walk['followed'][name]:.2f})" for name in MEASURED
        ]
        shown.add_row(walk["what"], *numbers, walk["gait"] or "-", "yes" if walk["fell"] else "no")
    return shown


if __name__ == "__main__":
    main()

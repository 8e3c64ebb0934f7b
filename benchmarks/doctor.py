"""Does `vla doctor` find what is wrong? Faults planted in data, policies and runs, and healthy ones beside them.

Trains small policies on the CPU, plants one fault at a time, and counts: found if the check that is for it says so by
an error or a warning. On healthy policies every error or warning is a false alarm.

    python benchmarks/doctor.py                 # about ten minutes on two cores
    python benchmarks/doctor.py --only healthy  # one part
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _common import prepare_cpu, publish
from _drawn_table import SCENE, spec, write

from vla.config import load_config
from vla.data import Episode
from vla.models import load_policy
from vla.recipes.doctor.report import DoctorReport, doctor
from vla.training import TrainConfig, train

UNSEEN = 10_000  # numbers of the episodes that no policy has learned from

LOOKING: dict[str, Any] = {
    "type": "rt1", "history": 1, "chunk": 2, "trunk": "test_efficientnet", "stride": 8, "token_positions": True,
    "state_token": True, "keyframe_loss": 1.0, "standardise_language": True, "random_shift": [0, 0],
    "head": {"type": "categorical", "bin_smoothing": 8}, "width": 96, "depth": 2, "heads": 4, "key_dim": 24,
    "feed_forward": "gelu", "dropout": 0.0, "language_dim": 32, "tokenizer": {"type": "bins", "num_bins": 64},
}  # fmt: skip
FEELING: dict[str, Any] = {
    "type": "mlp", "language": "minilm", "standardise_language": True, "chunk": 2, "hidden": 128,
}  # fmt: skip
REMEMBERING: dict[str, Any] = {
    "type": "decision_transformer", "history": 3, "condition": "none", "language": "minilm",
    "standardise_language": True, "width": 96, "depth": 2, "heads": 4,
    "head": {"type": "clusters"}, "tokenizer": {"type": "kmeans", "centres": 24, "over": "chunk"},
}  # fmt: skip


@dataclass
class Case:
    """A policy or run, the data that it is held against, and the check that should say so."""

    name: str
    run: Path
    check: str
    data: Path | None = None
    env: Any = None


class Bench:
    """Datasets and runs, each made once.

    Args:
        root: folder for all of them.
        steps: optimiser steps of the policy that looks; the others take half of them.
    """

    def __init__(self, root: Path, steps: int) -> None:
        self.root = root
        self.steps = steps

    def data(self, name: str, episodes: int = 24, **options: Any) -> Path:
        path = self.root / name
        if not path.exists():
            write(path, episodes, **{"first": UNSEEN, **options})
        return path

    def run(
        self, name: str, dataset: Path, policy: dict[str, Any], steps: int, **changes: Any
    ) -> Path:
        out = self.root / "runs" / name
        if not (out / "policy" / "config.json").exists():
            values = {
                "out": str(out), "data": {"path": str(dataset), "validation_fraction": 0.1}, "policy": policy,
                "steps": steps, "batch_size": 64, "optim": {"lr": 1e-3, "warmup_steps": 20}, "ema_decay": 0.99,
                "log_every": 100, "validate_every": max(1, steps // 4), "save_every": None,
            }  # fmt: skip
            started = time.perf_counter()
            train(load_config(TrainConfig, values | changes))
            print(
                f"{name}: trained {steps} steps in {time.perf_counter() - started:.0f} s",
                flush=True,
            )
        return out

    # --- healthy ----------------------------------------------------------------------------------

    def looking(self) -> Path:
        data = self.data("seen", 320, first=0)
        return self.run("looking", data, LOOKING, self.steps)

    def feeling(self) -> Path:
        data = self.data("felt", 320, first=0, cameras=False, scene=True)
        return self.run("feeling", data, FEELING, self.steps)

    def remembering(self) -> Path:
        data = self.data("felt", 320, first=0, cameras=False, scene=True)
        return self.run("remembering", data, REMEMBERING, 2 * self.steps // 3)

    def tabletop(self) -> Path:
        """From states of a simulated table, which say in numbers what is asked for."""
        from vla.sim_eval import CollectConfig, collect

        env = {"type": "tabletop", "tasks": ["reach", "push"], "cameras": [], "state": "scene"}
        data = self.root / "tabletop"
        if not data.exists():
            values = {"env": env, "out": str(data), "episodes_per_task": 60, "workers": 1}
            collect(load_config(CollectConfig, values))
        return self.run(
            "tabletop",
            data,
            FEELING | {"language": None, "standardise_language": False},
            self.steps,
        )

    def healthy(self) -> list[Case]:
        env = {"type": "tabletop", "tasks": ["reach", "push"], "cameras": [], "state": "scene"}
        looking, feeling, remembering = self.looking(), self.feeling(), self.remembering()
        felt = {"cameras": False, "scene": True}
        return [
            Case("rt1 on pictures, its own data", looking, ""),
            Case("rt1 on pictures, new data", looking, "", self.data("new")),
            Case("mlp on states, its own data", feeling, ""),
            Case("mlp on states, new data", feeling, "", self.data("new_felt", **felt)),
            Case("clusters on states, its own data", remembering, ""),
            Case("clusters on states, new data", remembering, "", self.data("new_felt", **felt)),
            Case("mlp on the simulated table, with its env", self.tabletop(), "", None, env),
        ]

    # --- faults -----------------------------------------------------------------------------------

    def faults(self) -> list[Case]:
        looking, feeling = self.looking(), self.feeling()
        seen = {name: self.data(name, change=change) for name, change in SEEN.items()}
        felt = {
            name: self.data(f"felt {name}", change=change, cameras=False, scene=True)
            for name, change in FELT.items()
        }
        renamed = replace(
            spec(cameras=False, scene=True), state_names=(*SCENE[:2], *SCENE[3:], SCENE[2])
        )
        return [
            Case("cameras swapped", looking, "camera_order", seen["cameras swapped"]),
            Case("BGR", looking, "colours", seen["BGR"]),
            Case("pictures upside down", looking, "orientation", seen["upside down"]),
            Case("rate halved", feeling, "control_rate", felt["rate halved"]),
            Case("actions a step late", feeling, "delay", felt["actions a step late"]),
            Case("gripper inverted", feeling, "action_scale", felt["gripper inverted"]),
            Case("gripper inverted, seen", looking, "action_scale", seen["gripper inverted"]),
            Case("degrees", feeling, "normalisation", felt["degrees"]),
            Case("millimetres", feeling, "normalisation", felt["millimetres"]),
            Case("dead dimension", feeling, "dead_dimensions", felt["dead dimension"]),
            Case("state in another order", feeling, "spec", self.data(
                "felt reordered", cameras=False, scene=True, other_spec=renamed,
                change=lambda e: {"state": e.state[:, [0, 1, 3, 4, 5, 6, 2]]})),
            Case("wrong normalisation", self.other_statistics(feeling), "normalisation"),
            Case("instruction ignored", self.shuffled(), "instruction_used"),
            Case("pictures ignored", self.blind(), "pictures_used"),
            Case("learned by heart", self.by_heart(), "fit"),
            Case("hardly trained", self.hardly(), "fit"),
            Case("limits far too wide", self.wide(), "limits"),
        ]  # fmt: skip

    def other_statistics(self, run: Path) -> Path:
        """The policy scales by the statistics of another robot."""
        out = self.root / "runs" / "other_statistics"
        if not out.exists():
            shutil.copytree(run, out)
            policy = load_policy(out / "policy")
            policy.state_mean += 0.4
            policy.state_std *= 3
            policy.save_pretrained(out / "policy")
        return out

    def shuffled(self) -> Path:
        """Instructions that belong to other episodes."""
        rng = np.random.default_rng(0)

        def change(episode: Episode) -> dict[str, Any]:
            return {"instruction": f"Touch the {rng.choice(['red', 'blue'])} square"}

        data = self.data("shuffled", 320, first=0, cameras=False, scene=True, change=change)
        return self.run("shuffled", data, FEELING, self.steps // 2)

    def blind(self) -> Path:
        """Pictures that belong to other episodes."""
        before: list[Episode] = []

        def change(episode: Episode) -> dict[str, Any]:
            before.append(episode)
            return {"images": before[-min(5, len(before))].images}

        data = self.data("blind", 160, first=0, change=change)
        return self.run("blind", data, LOOKING, self.steps // 3)

    def by_heart(self) -> Path:
        data = self.data("few", 8, first=0, cameras=False, scene=True)
        return self.run(
            "by_heart",
            data,
            FEELING,
            self.steps,
            data={"path": str(data), "validation_fraction": 0.4},
        )

    def hardly(self) -> Path:
        data = self.data("felt", 320, first=0, cameras=False, scene=True)
        return self.run("hardly", data, FEELING, 3, optim={"lr": 1e-4, "warmup_steps": 0})

    def wide(self) -> Path:
        data = self.data("wide", 160, first=0, cameras=False, scene=True, limit=50.0)
        return self.run("wide", data, FEELING, self.steps // 2)


def _pictures(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Episode], dict[str, Any]]:
    return lambda e: {"images": {c: np.ascontiguousarray(change(e.frames(c))) for c in e.images}}


def _inverted(e: Episode) -> dict[str, Any]:
    return {"actions": e.actions * np.float32([1, 1, -1])}


def _halved(e: Episode) -> dict[str, Any]:
    """Every second step, as if the robot were asked half as often."""
    kept = slice(None, None, 2)
    fields = ("state", "actions", "rewards", "success")
    return {name: getattr(e, name)[kept] for name in fields}


def _late(e: Episode) -> dict[str, Any]:
    return {"actions": np.concatenate([e.actions[:1], e.actions[:-1]])}


SEEN: dict[str, Callable[[Episode], dict[str, Any]]] = {
    "cameras swapped": lambda e: {
        "images": {"front": e.images["wrist"], "wrist": e.images["front"]}
    },
    "BGR": _pictures(lambda frames: frames[..., ::-1]),
    "upside down": _pictures(lambda frames: frames[:, ::-1, ::-1]),
    "gripper inverted": _inverted,
}
FELT: dict[str, Callable[[Episode], dict[str, Any]]] = {
    "rate halved": _halved,
    "actions a step late": _late,
    "gripper inverted": _inverted,
    "degrees": lambda e: {"state": e.state * np.float32([57.29578] * 2 + [1] * 5)},
    "millimetres": lambda e: {"state": e.state * np.float32([1000] * 2 + [1] + [1000] * 4)},
    "dead dimension": lambda e: {"state": e.state * np.float32([1, 1, 0, 1, 1, 1, 1])},
}  # fmt: skip


def examine(case: Case) -> tuple[DoctorReport, float]:
    started = time.perf_counter()
    report = doctor(case.run, data=case.data, env=case.env)
    return report, time.perf_counter() - started


def alarms(report: DoctorReport) -> list[str]:
    found = [*report.of("error"), *report.of("warning")]
    return [f"{symptom.check}: {symptom.message}" for symptom in found]


def main() -> None:
    from rich.table import Table

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--steps", type=int, default=900, help="optimiser steps of the policy that looks"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=None, help="keeps datasets and runs, to look at them again"
    )
    parser.add_argument("--only", choices=("healthy", "faults"), default=None)
    arguments = parser.parse_args()
    prepare_cpu(arguments.threads)
    root = arguments.folder or Path(tempfile.mkdtemp(prefix="doctor-"))
    bench = Bench(root, arguments.steps)
    rows = []
    for kind in ("healthy", "faults"):
        if arguments.only not in (None, kind):
            continue
        for case in getattr(bench, kind)():
            report, seconds = examine(case)
            said = alarms(report)
            found = any(text.startswith(f"{case.check}:") for text in said) if case.check else None
            row = {
                "case": case.name,
                "check": case.check,
                "found": found,
                "alarms": said,
                "seconds": round(seconds, 1),
            }
            rows.append(row)
            print(f"{case.name}: found {found}, {seconds:.1f} s, {report.measured}", flush=True)
            for text in said:
                print(f"    {text}", flush=True)
    table = Table("case", "check", "found", "alarms", "s")
    for row in rows:
        table.add_row(row["case"], row["check"], str(row["found"] or "" if row["found"] is None else row["found"]),
                      str(len(row["alarms"])), str(row["seconds"]))  # fmt: skip
    faults = [row for row in rows if row["check"]]
    healthy = [row for row in rows if not row["check"]]
    if arguments.only:
        return
    publish(
        "doctor",
        ours=sum(bool(row["found"]) for row in faults),
        theirs=None,
        ratio=None,
        unit=f"faults found of {len(faults)}",
        table=table,
        false_alarms=sum(len(row["alarms"]) for row in healthy),
        healthy=len(healthy),
        rows=rows,
    )


if __name__ == "__main__":
    main()

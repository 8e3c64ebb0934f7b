"""Trains and plays one row by one seed, once: what is finished is found again.

Several processes may work in one folder: each training is locked by the process that does it.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _offline_rows import Row, valued_as_executed

from vla.common.atomic import atomic_path
from vla.config import read_yaml
from vla.data.storage.file_lock import FileLock
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.training import TrainConfig

RECORD = "record.json"
CLONE = "clone"


@dataclass(frozen=True)
class Setup:
    """What all rows share.

    Attributes:
        config: YAML file with the sections collect, train (the clone) and eval.
        data: folder of the dataset; None for the config's.
        out: folder of all trainings: OUT/ROW/seed0.
        clone_steps: optimiser steps of the clone; None for the config's.
        steps: optimiser steps of every row, from the clone on.
        lr: peak learning rate of every row.
        solved_share: share of each task's windows that come from solved episodes, where episodes
            of both kinds are there; None leaves it to the data.
        starts: of each task; the same for all.
        workers: processes that step the envs; None for the config's.
    """

    config: Path
    data: str | None
    out: Path
    clone_steps: int | None
    steps: int
    lr: float
    solved_share: float | None
    starts: int
    workers: int | None

    def folder(self, name: str, seed: int) -> Path:
        return self.out / name / f"seed{seed}"

    def dataset(self) -> Path:
        """Folder of the dataset."""
        return Path(self.data or self.clone_config(0).data.path)

    def replan_every(self) -> int:
        """Actions of a chunk that the config's evaluation executes before the policy looks again."""
        return int(read_yaml(self.config)["eval"].get("replan_every", 1))

    def clone_config(self, seed: int) -> TrainConfig:
        """The training that all rows of this seed start from."""
        texts = [*self._common(CLONE, seed), 'objective={"type": "bc"}']
        if self.clone_steps is not None:
            texts.append(f"steps={self.clone_steps}")
        return self._train_config(texts)

    def row_config(self, name: str, row: Row, seed: int) -> TrainConfig:
        """The training of a row.

        Raises ConfigError if this version has no such objective or option.
        """
        objective = valued_as_executed(row.objective, self.replan_every())
        texts = [
            *self._common(name, seed),
            f"init_from={self.folder(CLONE, seed) / 'policy'}",
            f"objective={json.dumps(objective)}",
            f"steps={self.steps}",
            f"optim.lr={self.lr}",
            *row.training,
        ]
        if row.sampler and self.solved_share is not None:
            texts.append(f"data.solved_share={self.solved_share}")
        return self._train_config(texts)

    def eval_config(self, name: str, row: Row | None, seed: int) -> EvalConfig:
        """The evaluation of a row, or of the clone (None): the same starts for all."""
        from vla.config import load_config

        folder = self.folder(name, seed)
        texts = [
            f"policy={folder / 'policy'}",
            f"out={folder / 'eval'}",
            f"episodes_per_task={self.starts}",
            "videos_per_task=0",
            "failure_videos=0",
        ]
        if self.workers is not None:
            texts.append(f"workers={self.workers}")
        texts += row.playing if row else ()
        return load_config(EvalConfig, self.config, texts, section="eval")

    def _common(self, name: str, seed: int) -> list[str]:
        texts = [
            f"out={self.folder(name, seed)}",
            # of everything: initial weights, order of the windows, held-out episodes
            f"seed={seed}",
            "validate_every=null",
            "keep_last=1",
        ]
        return texts if self.data is None else [*texts, f"data.path={self.data}"]

    def _train_config(self, texts: list[str]) -> TrainConfig:
        from vla.config import load_config

        return load_config(TrainConfig, self.config, texts, section="train")


def prepare_data(setup: Setup, *, collect: bool) -> None:
    """Makes the dataset by the config's section collect, if it is missing and `collect` says so."""
    from vla.config import load_config
    from vla.sim_eval.collection.demonstrations import CollectConfig
    from vla.sim_eval.collection.recording import collect as make

    root = setup.dataset()
    if collect:
        texts = [f"out={root}"]
        settings = load_config(CollectConfig, setup.config, texts, section="collect")
        setup.out.mkdir(parents=True, exist_ok=True)
        with FileLock(setup.out / "collect.lock"):
            make(settings, resume=True)  # finished data are left as they are
    if not (root / "meta" / "info.json").is_file():
        raise SystemExit(f"{root}: no dataset; make it by --collect, or name one by --data")


def marks_detours(setup: Setup) -> bool:
    """Whether the dataset knows which steps were detours."""
    from vla.data import EpisodeDataset
    from vla.data.detours import DETOURS

    infos = EpisodeDataset(setup.dataset()).episodes["info"]
    return any(DETOURS in json.loads(info) for info in infos)


def clone(setup: Setup, seed: int) -> dict[str, Any]:
    """Trains and plays the clone of a seed, or waits for the process that does."""
    with _lock(setup, CLONE, seed):
        return _learn_and_play(setup, CLONE, None, seed, setup.clone_config(seed))


def fine_tune(setup: Setup, name: str, row: Row, seed: int) -> dict[str, Any] | None:
    """Trains and plays a row from the clone of the same seed; None if another process does it."""
    lock = _lock(setup, name, seed)
    if not lock.try_acquire():
        return None
    try:
        return _learn_and_play(setup, name, row, seed, setup.row_config(name, row, seed))
    finally:
        lock.release()


def record_of(setup: Setup, name: str, seed: int) -> dict[str, Any] | None:
    """What a finished training reached in these starts; None if it is not finished."""
    path = setup.folder(name, seed) / RECORD
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text())
    fewest = min(len(task) for task in record["steps"].values())
    return record if fewest >= setup.starts else None


def _lock(setup: Setup, name: str, seed: int) -> FileLock:
    # beside the run directory, which must be the training's own
    folder = setup.folder(name, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def _learn_and_play(
    setup: Setup, name: str, row: Row | None, seed: int, training: TrainConfig
) -> dict[str, Any]:
    minutes = _learn(training)
    settings = setup.eval_config(name, row, seed)
    out = Path(settings.out)
    results = Results.load(out) if (out / "results.json").is_file() else None
    if results is None or _played(results.config) != _played(settings.model_dump(mode="json")):
        from vla.models import load_policy

        title = f"{name}, seed {seed}"
        results = evaluate(
            load_policy(settings.policy), settings, name=title, resume=True, restart=True
        )
    record = {
        "row": name,
        "seed": seed,
        "objective": row.objective if row else {"type": "bc"},
        "minutes": minutes,
        "steps": steps_to_success(results),
    }
    with atomic_path(Path(training.out) / RECORD) as path:
        path.write_text(json.dumps(record) + "\n")
    return record


def _played(config: Any) -> dict[str, Any]:
    """What decides the outcomes."""
    free = ("workers", "threads", "num_envs", "out", "policy", "timeout")
    return {key: value for key, value in config.items() if key not in free}


def _learn(config: TrainConfig) -> float:
    """Trains, or goes on, or finds done; -> minutes by the wall clock, over all calls.

    Raises ConfigError if the folder holds a training with other settings.
    """
    from vla.training import train
    from vla.training.run_directory import open_run

    out = Path(config.out)
    open_run(config, resume=True)
    clock = out / "minutes.json"
    before = json.loads(clock.read_text()) if clock.is_file() else 0.0
    if (out / "policy" / "config.json").is_file():
        return float(before)
    began = time.monotonic()
    try:
        train(config, resume=True)
    finally:
        # also of a call that was interrupted; a killed one is lost
        minutes = before + (time.monotonic() - began) / 60
        if out.is_dir():
            clock.write_text(json.dumps(minutes))
    # a hundred trainings' optimiser states would fill the disk
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return float(minutes)


def steps_to_success(results: Results) -> dict[str, list[int]]:
    """Task -> for each start by its number: the step of the first success, 0 if there is none."""
    found: dict[str, list[int]] = {}
    for episode in sorted(results.episodes, key=lambda e: (e.task, e.episode)):
        # an evaluation ends at the first success
        found.setdefault(episode.task, []).append(episode.steps if episode.success_ever else 0)
    return found

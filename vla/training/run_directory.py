"""The folder of a run: resolved config, versions, and whether a run may start or go on there."""

from __future__ import annotations

import json
import platform
import subprocess
import uuid
from pathlib import Path
from typing import Any

from vla.common.atomic import atomic_path, write_json
from vla.common.versions import version_of
from vla.config import ConfigError, dump_config, read_yaml
from vla.training.checkpoint import Checkpoint, newest_checkpoint
from vla.training.config import FREE_ON_RESUME, TrainConfig


def open_run(config: TrainConfig, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None where the run begins at step 0. Reads only.

    Raises:
        ConfigError: the folder holds a run and `resume` is off, the run there has another config, or an earlier version's
            evaluation has left its config there.
    """
    out = Path(config.out)
    begun = (out / "config.yaml").exists()
    if not begun:
        return None
    found = read_yaml(out / "config.yaml")
    if (
        "env" in found and "data" not in found
    ):  # earlier evaluations wrote it here, over a training run's where there was one
        remedy = (
            f"name another out, with init_from: {out / 'policy'} to start from what was trained"
            if (out / "versions.json").exists()
            else "name another out, or rename the file eval.yaml"
        )
        raise ConfigError(
            [
                f"out: {out / 'config.yaml'} is the config of an evaluation, not of a training run; {remedy}"
            ]
        )
    if not resume:
        raise ConfigError(
            [
                f"out: {out} holds a run already; resume it (--resume, or resume=True) or name another"
            ]
        )
    before, now = _flat(found), _flat(config.model_dump(mode="json"))
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    problems = [
        f"{key}: is {now.get(key)!r}, the run in {out} has {before.get(key)!r}; {_remedy(key, out)}"
        for key in changed
        if key.partition(".")[0] not in FREE_ON_RESUME
    ]
    if problems:
        raise ConfigError(problems)
    return newest_checkpoint(out / "checkpoints", warn=True)


def _remedy(key: str, out: Path) -> str:
    if (
        key == "steps"
    ):  # the learning rate's schedule follows it, so all steps so far would have been others
        return f"restore it; to train longer, set init_from: {out / 'policy'} and another out"
    return "restore it or name another out"


def write_run(config: TrainConfig) -> str:
    """Writes config.yaml and versions.json; -> the run's identity, the same after each resume."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    known = out / "versions.json"
    run_id = json.loads(known.read_text())["run_id"] if known.exists() else uuid.uuid4().hex
    write_json(known, {"run_id": run_id, **versions()})
    with atomic_path(out / "config.yaml") as temporary:
        temporary.write_text(dump_config(config))
    return run_id


def versions() -> dict[str, str | None]:
    """Versions of everything that decides the numbers; `git` is None where vla is not in a git tree."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("vla", "torch", "numpy", "transformers", "timm", "accelerate"):
        found[package] = version_of(package)
    return {**found, "git": _git_revision()}


def _git_revision() -> str | None:
    """The commit of vla's own source tree, with `-dirty` where files differ from it."""
    package = Path(__file__).parent
    try:
        for command in (
            ["ls-files", "--error-unmatch", __file__],
            ["describe", "--always", "--dirty", "--abbrev=40"],
        ):
            answer = subprocess.run(
                ["git", "-C", package, *command], capture_output=True, text=True, timeout=20
            )
            if answer.returncode:
                return None  # no repository, or one that merely contains the virtual environment
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

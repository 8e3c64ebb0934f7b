"""What `vla compare` was asked to compare: folders, or methods with folders of their trainings."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from vla.common.errors import UserError
from vla.common.paths import expanded_path
from vla.sim_eval.comparison.results import Results
from vla.sim_eval.comparison.trainings import grouped_by_method

_WILD = set("*?[")


def groups_of(
    texts: Sequence[str],
    *,
    methods: bool,
) -> dict[str, Sequence[Results | Path]]:
    """Name of a method -> its runs; empty if networks are to be compared.

    Raises UserError if some texts name a method and others do not, or a pattern fits nothing;
    ResultsError if a folder holds no results, ComparisonError if a run does not say its method.
    """
    named = [text for text in texts if _is_named(text)]
    if not named:
        if not methods:
            return {}
        found = grouped_by_method([Results.load(path) for path in paths_of(texts)])
        return dict(found)
    if len(named) < len(texts):
        odd = next(text for text in texts if not _is_named(text))
        raise UserError(
            f"{odd}: belongs to no method; write NAME={odd}, or name no method at all to compare "
            "networks"
        )
    groups: dict[str, Sequence[Results | Path]] = {}
    for text in named:
        name, _, folders = text.partition("=")
        # a method that is named twice has the runs of both
        groups[name] = [*groups.get(name, ()), *paths_of(folders.split(","))]
    return groups


def paths_of(texts: Sequence[str]) -> list[Path]:
    """The folders; patterns that the shell has left stand for what they fit.

    Raises UserError if a pattern fits nothing, or a folder has no name.
    """
    found: list[Path] = []
    for text in texts:
        if not text:
            raise UserError("a run is missing: write NAME=FOLDER,FOLDER without empty places")
        text = expanded_path(text)
        if not _WILD & set(text) or Path(text).exists():
            found.append(Path(text))
            continue
        fitting = sorted(glob.glob(text))
        if not fitting:
            raise UserError(f"{text}: fits no folder; name evaluations that exist")
        found += map(Path, fitting)
    return found


def _is_named(text: str) -> bool:
    # a folder may have an equals sign in its name, too
    return "=" in text and not Path(text).exists()

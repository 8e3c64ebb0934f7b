"""What trainings reached, kept in the result file, so that a later run adds to it what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _offline_trainings import RECORD, Setup

from vla.common.atomic import write_json

SAME = ("config", "steps", "clone_steps", "lr", "solved_share")
"""What must be alike for results of an earlier run to count."""


def restore(setup: Setup, path: Path, settings: Mapping[str, Any]) -> list[str]:
    """Writes the records of an earlier result file to where finished trainings keep theirs.

    Args:
        path: of the result file; nothing happens without it, or if its `settings` are others.

    Returns:
        what was restored, "row seed" each.
    """
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text())
    if any(earlier.get(key) != settings[key] for key in SAME):
        print(f"{path}: is of other settings and will be replaced", flush=True)
        return []
    restored = []
    for name, of_seed in earlier.get("records", {}).items():
        for seed, record in of_seed.items():
            target = setup.folder(name, int(seed)) / RECORD
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                write_json(target, record)
                restored.append(f"{name} {seed}")
    return restored


def kept(*groups: Mapping[str, Mapping[int, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The records by row and seed, as the result file holds them."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for name, of_seed in group.items():
            found[name] = {str(seed): of_seed[seed] for seed in sorted(of_seed)}
    return found

"""Small datasets to damage, one of each format, and the ways in which they are read."""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "helpers"))

WAYS = ("read", "validate", "info", "stats", "view", "convert")


@functools.cache
def clean(name: str) -> Path:
    """A dataset as it was written: one of `fuzz_sets.BUILDERS`."""
    import fuzz_sets

    root = Path(tempfile.mkdtemp(prefix="attack-data-")) / "set"
    return Path(fuzz_sets.BUILDERS[name][0](root))


def fresh(name: str, folder: Path) -> Path:
    """A copy of it in the folder."""
    source = clean(name)
    place = folder / source.name
    if source.is_file():
        return Path(shutil.copy(source, place))
    return Path(shutil.copytree(source, place))


def reading(way: str, root: Path, folder: Path, *keys: str) -> Callable[[], Any]:
    """Reads the dataset in one of `WAYS`: as a training does, or by a command."""
    if way == "read":
        return lambda: read_all(root)
    command = ["data", way, str(root)]
    if way in ("view", "convert"):
        command.append(str(folder / "out.html" if way == "view" else folder / "out"))
    return lambda: run_command([*command, *keys])


def read_all(root: Path) -> str:
    """Everything that a training would read."""
    from vla.data import EpisodeDataset
    from vla.data.storage.image_codec import as_frame

    dataset = EpisodeDataset(root)
    _ = dataset.columns, dataset.episodes, dataset.fingerprint()
    for camera, size in dataset.spec.cameras.items():
        for _, image in dataset.images(camera):
            as_frame(image, size)
    return f"{len(dataset)} episodes, {dataset.instructions}"


def run_command(command: list[str]) -> str:
    """What a command prints. Raises what it raises, UserError if it ends with status 2."""
    from typer.testing import CliRunner

    from vla.cli import app
    from vla.common.errors import UserError

    result = CliRunner().invoke(app, command)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    if result.exit_code not in (0, 1, 2):
        raise RuntimeError(f"exit status {result.exit_code}")
    if result.exit_code:
        raise UserError(result.output)
    return str(result.output)


def warm_all(*names: str) -> None:
    """Reads each of these datasets in every way."""
    import contextlib

    for name in names:
        for way in WAYS:
            with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as folder:
                reading(way, clean(name), Path(folder))()

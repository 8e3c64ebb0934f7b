"""Damages copies of datasets at random, and says what a reader made of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.data import EpisodeDataset
from vla.data.episode import decode_image
from vla.data.errors import DataError


def read_all(root: Path, **options: Any) -> None:
    """Everything a training would read."""
    dataset = EpisodeDataset(root, **options)
    _ = dataset.columns, dataset.episodes, dataset.fingerprint()
    for camera in dataset.spec.cameras:
        for _, picture in dataset.images(camera):
            if isinstance(picture, bytes):
                decode_image(picture)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off anywhere, one byte changed, or a stretch overwritten."""
    kind, at = rng.integers(3), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :]
    noise = rng.bytes(int(rng.integers(1, 9)))
    return data[:at] + noise + data[at + len(noise) :]


def corrupt(
    source: Path,
    files: Sequence[str],
    folder: Path,
    *,
    times: int,
    read: Callable[[Path], None] = read_all,
    seed: int = 0,
) -> int:
    """Reads `times` damaged copies of the dataset; returns how many were refused. Whatever is raised other than a
    DataError goes through.

    Args:
        source: the whole dataset; a file, or a folder.
        files: which of its files to damage, in turn; "" where it is a file.
    """
    rng = np.random.default_rng(seed)
    refused = 0
    for number in range(times):
        copy = folder / f"{number}{source.suffix}"
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        victim = copy / files[number % len(files)] if files[number % len(files)] else copy
        victim.write_bytes(damage(victim.read_bytes(), rng))
        try:
            read(copy)
        except DataError as error:
            refused += 1
            if str(copy) not in str(error) and "not a readable image" not in str(error):
                raise AssertionError(f"the error does not name the dataset: {error}") from error
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    return refused

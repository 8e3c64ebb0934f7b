"""How examples are drawn: rows of each kind by their shares, instructions evenly.

N steps, B windows, T steps of a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.trunk import TARGET, WEIGHT
from vla.types import Batch


class Pool:
    """Steps to draw from, each under the instruction for which it is an example.

    Every instruction is drawn equally often, however many of the steps are its own: else the words
    alone would say how likely a success is.

    Args:
        rows: int (n,).
        texts: the instruction of each row.
    """

    def __init__(self, rows: Sequence[int] | np.ndarray, texts: Sequence[str]) -> None:
        self.rows = np.asarray(rows, np.int64)
        self.texts = list(texts)
        groups: dict[str, list[int]] = {}
        for place, text in enumerate(self.texts):
            groups.setdefault(text, []).append(place)
        self._groups = {text: np.array(places) for text, places in groups.items()}
        self._names = list(self._groups)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def instructions(self) -> list[str]:
        """The distinct texts."""
        return self._names

    def draw(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
        """`size` rows and the instruction of each."""
        chosen = rng.integers(len(self._names), size=size)
        places = []
        for number, where in zip(chosen.tolist(), rng.random(size).tolist(), strict=True):
            group = self._groups[self._names[number]]
            places.append(int(group[int(where * len(group))]))
        return self.rows[places], [self.texts[place] for place in places]


def shares_of(sizes: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of the pools that hold anything, so that they sum to one."""
    there = {name: shares[name] for name, size in sizes.items() if size and shares[name] > 0}
    total = sum(there.values())
    return {name: share / total for name, share in there.items()} if total else {}


def counts_of(size: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of `size` examples each share is: whole numbers that sum to it."""
    names = list(shares)
    edges = np.round(np.cumsum([0.0, *(shares[name] for name in names)]) * size).astype(int)
    return dict(zip(names, np.diff(edges).tolist(), strict=True))


def as_examples(
    steps: LabelledSteps,
    rows: np.ndarray,
    targets: np.ndarray,
    *,
    texts: Sequence[str] | None = None,
    weights: np.ndarray | None = None,
) -> Batch:
    """Windows that end at `rows`, (B,), with what the model ought to say of their last step.

    Args:
        targets: float (B,).
        texts: instructions in place of their own.
        weights: float (B,), how much each example counts; 1 by default.
    """
    batch = steps.gather(np.asarray(rows, np.int64))
    T = batch.mask.shape[1]
    weights = np.ones(len(rows)) if weights is None else weights
    columns = {TARGET: targets, WEIGHT: weights}
    extras = dict(batch.extras)
    for name, values in columns.items():
        extras[name] = torch.from_numpy(np.asarray(values, np.float32))[:, None].expand(-1, T)
    instruction = batch.instruction if texts is None else list(texts)
    return dataclasses.replace(batch, extras=extras, instruction=instruction)


__all__ = ["Pool", "as_examples", "counts_of", "shares_of"]

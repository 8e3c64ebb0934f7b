"""Numbers that no sensor gives, such as 1e30: a few of them decide every range and deviation.

N: frames, D: dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.reader import EpisodeDataset
from vla.data.select import how_to_delete

_FAR = 1000.0
"""So many times the range of nearly all numbers is no movement."""
_HUGE = 1e6
"""The same of dimensions that hardly ever move, in numbers as they are, and of the range of most
numbers."""
_NEARLY_ALL = 0.01
_MOST = 0.1
"""Shares at either end that are not counted in the range of nearly all numbers, and of most."""


@dataclass(frozen=True)
class Outliers:
    """What lies absurdly far from all other numbers of a dimension.

    Attributes:
        episode: number of the first episode with one.
        fact: what was found.
        remedy: what leaves it out.
    """

    episode: int
    fact: str
    remedy: str

    @property
    def sentence(self) -> str:
        """Both."""
        return f"{self.fact}: {self.remedy}"


def outlying(values_N: np.ndarray) -> np.ndarray:
    """Which numbers no sensor gives, bool (N,); of what is not finite it says nothing."""
    finite = np.isfinite(values_N)
    if not finite.any():
        return np.zeros(len(values_N), bool)
    # numbers that are there: one between two of them would lie near an outlier in small datasets
    ordered = np.sort(values_N[finite].astype(np.float64))
    middle = ordered[len(ordered) // 2]
    nearly_all = _range(ordered, _NEARLY_ALL)
    far = max(_FAR * nearly_all, _HUGE * max(1e-6, abs(middle)))
    # of what is 0 nearly always, single ones are events: only what is huge in itself is odd
    if nearly_all == 0:
        far = max(far, _HUGE)
    # a fault of several steps is in the range of nearly all, not in that of most
    most = _range(ordered, _MOST)
    if most > 0:
        far = min(far, max(_HUGE * most, _HUGE * max(1.0, abs(middle))))
    return np.asarray(finite & (np.abs(values_N - middle) > far))


def outliers_of(
    root: Path,
    what: str,
    values_ND: np.ndarray,
    names: Sequence[str],
    episode_N: np.ndarray,
) -> list[Outliers]:
    """One for each dimension that has any.

    Args:
        root: of the dataset, for the command.
        what: `state` or `actions`.
        names: of the dimensions.
        episode_N: the number of each frame's episode.
    """
    found = []
    for dim, name in enumerate(names):
        values = values_ND[:, dim].astype(np.float64)
        outside = outlying(values)
        if not outside.any():
            continue
        frame = int(outside.argmax())
        episodes = sorted(set(episode_N[outside].tolist()))
        usual = np.median(np.abs(values[~outside & np.isfinite(values)]))
        fact = (
            f"{what}: {name!r} is {values[frame]:g} in episode {episode_N[frame]}, where nearly "
            f"all are of about {usual:.3g}; {int(outside.sum())} such numbers in {len(episodes)} "
            "episodes spoil every normalisation"
        )
        remedy = f"leave them out (`{how_to_delete(root, episodes)}`)"
        found.append(Outliers(int(episode_N[frame]), fact, remedy))
    return found


def dataset_outliers(dataset: EpisodeDataset) -> list[Outliers]:
    """Of the states and actions of a dataset."""
    lengths = dataset.reader.episodes["length"].to_numpy()
    episode_N = np.repeat(dataset.episode_numbers, lengths)
    columns = dataset.unchecked_columns
    spec = dataset.spec
    found = outliers_of(dataset.root, "state", columns.state, spec.state_names, episode_N)
    found += outliers_of(dataset.root, "actions", columns.actions, spec.action_names, episode_N)
    return found


def _range(ordered: np.ndarray, share: float) -> float:
    """From the least to the greatest number without a share of them, and one at least, at either
    end."""
    # one at least, or the outlier itself would be the range
    beyond = min(max(1, int(np.ceil(share * len(ordered)))), (len(ordered) - 1) // 2)
    return float(ordered[-1 - beyond] - ordered[beyond])


__all__ = ["Outliers", "dataset_outliers", "outliers_of", "outlying"]

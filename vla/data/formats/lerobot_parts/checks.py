"""Do the rows of a LeRobot dataset lie where its table of episodes says, and at the times that its
rate says?

N: frames, E: episodes, D: numbers in a row of a column.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from vla.data.errors import DataError
from vla.data.formats.lerobot_parts.missing import ranges
from vla.data.storage.video import TIME_TOLERANCE


def check_rows(
    root: Path,
    table: pd.DataFrame,
    numbers: dict[str, np.ndarray],
) -> None:
    """Rows must lie in the order of the table of episodes; those of files that were merged by hand
    may not.

    Args:
        table: `source` and `length` of each episode.
        numbers: columns (N, D); checked are `episode_index` and `frame_index`, if the dataset has
            them.

    Raises:
        DataError: naming the first row that belongs elsewhere.
    """
    length = table["length"].to_numpy()
    # These two say it of every row; the table of episodes says it once, and may be wrong.
    if "episode_index" in numbers:
        found = numbers["episode_index"][:, 0]
        expected = np.repeat(table["source"].to_numpy(), length)
        wrong = found != expected
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{root}: frame {row} belongs to episode {found[row]}, the episodes table says "
                f"{expected[row]}; data files are out of order, missing or foreign: restore the "
                "data folder"
            )
    if "frame_index" in numbers:
        found = numbers["frame_index"][:, 0]
        expected = _steps(length)
        wrong = found != expected
        if wrong.any():
            row = int(wrong.argmax())
            episode = table["source"].iloc[_episode(length, row)]
            raise DataError(
                f"{root}: episode {episode}: step {expected[row]} has frame_index {found[row]}; "
                "rows are missing or out of order: restore the data folder"
            )


def check_timestamps(
    root: Path,
    table: pd.DataFrame,
    numbers: dict[str, np.ndarray],
    fps: float,
) -> list[str]:
    """Sentences about timestamps that are not frame / fps.

    No more than sentences: real datasets have timestamps that are late or missing, so frames are
    read by their place, as frame_index says it.

    Raises DataError if time does not advance and there is no frame_index to tell the order by.
    """
    if "timestamp" not in numbers:
        return []
    length = table["length"].to_numpy()
    times = numbers["timestamp"][:, 0]
    steps = _steps(length)
    # `not >` instead of `<=`, which is False of NaN
    stuck = np.append(False, ~(np.diff(times) > 0)) & (steps > 0)
    wrong = stuck | ~np.isfinite(times)
    if wrong.any():
        row = int(wrong.argmax())
        problem = f"{_place(root, table, row)} has timestamp {times[row]:g}"
        if stuck[row] and steps[row]:
            problem += f" after {times[row - 1]:g}: time does not advance"
        if "frame_index" not in numbers:
            raise DataError(
                f"{problem}, and without frame_index the order of the rows is unknown; restore "
                "the file or drop the episode"
            )
        return [f"{problem}; steps are taken as frame_index orders them"]
    # Timestamps are stored as float32, which is coarser than the tolerance after half an hour.
    expected = steps / fps
    off = np.abs(times - expected) > TIME_TOLERANCE + 2.0**-23 * expected
    if not off.any():
        return []
    row = int(off.argmax())
    return [
        f"{_place(root, table, row)} has timestamp {times[row]:.6g} s, expected "
        f"{expected[row]:.6g} s at {fps:g} fps ({int(off.sum())} of {len(off)} steps differ); "
        "frames are read by their place, not by their timestamp"
    ]


def _steps(length: np.ndarray) -> np.ndarray:
    """0, 1, ... within each episode, (N,)."""
    return np.arange(int(length.sum())) - np.repeat(first_frames(length), length)


def first_frames(lengths: np.ndarray) -> np.ndarray:
    """The first frame of each episode when they lie side by side, int64 (E,)."""
    stops = np.cumsum(lengths)
    return np.concatenate([[0], stops[:-1]]).astype(np.int64)


def _episode(length: np.ndarray, row: int) -> int:
    return int(np.searchsorted(np.cumsum(length), row, side="right"))


def _place(root: Path, table: pd.DataFrame, row: int) -> str:
    length = table["length"].to_numpy()
    episode = table["source"].iloc[_episode(length, row)]
    return f"{root}: episode {episode}: step {_steps(length)[row]}"


def count_columns(table: pd.DataFrame, names: list[str], place: str) -> None:
    """Turns columns of `table` into int64. Raises DataError if one is missing, or holds anything
    but counts."""
    for name in names:
        if name not in table:
            raise DataError(
                f"{place}: lacks {name!r} (it has: {', '.join(map(str, table))}); restore it"
            )
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
        # from 2**53 on float64 has not every whole number
        in_range = np.isfinite(values) & (values >= 0) & (values < 2**53)
        bad = ~(in_range & (np.floor(values) == values))
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{place}: row {row}: {name} is {table[name].iloc[row]!r}, expected a whole "
                "number; restore it"
            )
        table[name] = values.astype(np.int64)


def check_episodes(table: pd.DataFrame, place: str) -> None:
    """Raises DataError if two episodes have one index. `table` is sorted by `source`."""
    twice = table["source"].duplicated()
    if twice.any():
        raise DataError(
            f"{place}: episode {table['source'][int(twice.argmax())]} is there twice; restore it"
        )


def without_empty(table: pd.DataFrame, place: str, warn: Callable[[str], None]) -> pd.DataFrame:
    """The episodes that have steps: a recorder that was stopped at once leaves others, in which
    nothing is lost. Raises DataError if there are none."""
    empty = table["length"] == 0
    if not empty.any():
        return table
    if empty.all():
        raise DataError(f"{place}: none of its {len(table)} episodes has a step; record it again")
    listed = ranges(table["source"][empty].tolist())
    warn(
        f"{place}: {int(empty.sum())} of {len(table)} episodes have no steps and are left out: "
        f"{listed}"
    )
    return table[~empty].reset_index(drop=True)

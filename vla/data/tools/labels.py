"""Rewards, successes and instructions from a file, put on the episodes of a dataset.

The file is CSV with a header, or JSON lines. A row names an episode (`episode_index`), perhaps one
of its steps (`frame_index`), and any of `reward`, `success`, `terminated`, `instruction`. Without a
step, `reward` is the episode's return, due at its last step; `success` says whether its last step
solved the task. An `instruction` with a step holds from there to the next step that gives one.

L: steps of an episode.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla.common.progress import ProgressCallback
from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.common.files import check_plain
from vla.data.formats.common.steps_csv import check_separator
from vla.data.reader import EpisodeDataset
from vla.data.storage.video import VideoConfig
from vla.data.tools.derived import Converted, write_derived
from vla.data.tools.plan import Plan, key_options, notes_of

PLACES = ("episode_index", "frame_index")
VALUES = ("reward", "success", "terminated", "instruction")
Unlabelled = Literal["keep", "drop", "refuse"]
_SHOWN = 20  # lines of a message
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass
class Labels:
    """What the file says of one episode: column -> step -> value, the step None if the row names
    none."""

    values: dict[str, dict[int | None, Any]] = field(default_factory=dict)


def label(
    src: str | Path,
    dst: str | Path,
    file: str | Path,
    *,
    unlabelled: Unlabelled = "keep",
    format: str | None = None,
    keys: KeyMap | None = None,
    video: VideoConfig | None = None,
    jobs: int | None = None,
    progress: ProgressCallback | None = None,
) -> Converted:
    """Writes the dataset with labels of a file in place of its own; resumable as `convert` is.

    Args:
        format, keys: as of EpisodeDataset.
        unlabelled: what becomes of episodes that the file does not name: they stay as they are, go,
            or are an error.

    Raises:
        DataError: a row is wrong: each is named by its line; or episodes are unlabelled and
            `unlabelled` is "refuse".
    """
    dataset = EpisodeDataset(src, format=format, keys=keys)
    file = Path(file)
    numbers = dataset.episode_numbers.tolist()
    named = read_labels(
        file,
        dict(zip(numbers, dataset.episodes["length"].tolist(), strict=True)),
        missing=dataset.reader.missing_episodes,
    )
    labels = {numbers.index(number): values for number, values in named.items()}
    missing = [index for index in range(len(dataset)) if index not in labels]
    if missing and unlabelled == "refuse":
        raise DataError(
            f"{file}: names {len(labels)} of {len(dataset)} episodes; {numbers[missing[0]]} is the "
            "first that it lacks: add them, or keep or drop the unlabelled ones"
        )
    chosen = range(len(dataset)) if unlabelled == "keep" else sorted(labels)
    places = [(0, index) for index in chosen]
    # By content, not by name alone: a changed file under the same name is another call.
    options: dict[str, Any] = {
        "labels": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "unlabelled": unlabelled,
    }
    options |= key_options(format, keys)
    notes = notes_of([dataset])
    if missing:
        notes.append(
            f"{len(missing)} of {len(dataset)} episodes are not in {file.name}: {unlabelled}"
        )

    def change(episode: Episode, source: int, index: int) -> Episode:
        return labelled(episode, labels[index]) if index in labels else episode

    plan = Plan(
        "label",
        [dataset],
        places,
        dataset.spec,
        options,
        change=change,
        notes=notes,
        labels=_labelled_everywhere(labels, chosen),
    )
    return write_derived(plan, dst, video=video, jobs=jobs, progress=progress)


def _labelled_everywhere(labels: dict[int, Labels], chosen: Iterable[int]) -> frozenset[str]:
    """What every episode of the new dataset has by the file; others have it by chance alone."""
    given = [set(labels[index].values) if index in labels else set() for index in chosen]
    everywhere = set.intersection(*given) if given else set()
    named = {"reward": "rewards", "success": "success", "terminated": "terminated"}
    return frozenset(name for column, name in named.items() if column in everywhere)


def labelled(episode: Episode, labels: Labels) -> Episode:
    """The episode with labels in place of its own; what the labels do not name stays."""
    values = labels.values
    # copies: the episode's arrays are views of the whole dataset's
    rewards = np.array(episode.rewards, np.float32)
    success = np.array(episode.success, bool)
    for column, array in (("reward", rewards), ("success", success)):
        for step, value in values.get(column, {}).items():
            if step is None:  # of the whole episode: due at its last step, nothing before
                array[:] = 0
                step = -1
            array[step] = value
    # given once or never
    (terminated,) = values.get("terminated", {None: episode.terminated}).values()
    texts = _instructed(episode.step_instructions, values.get("instruction", {}))
    return replace(
        episode,
        rewards=rewards,
        success=success,
        terminated=terminated,
        instruction=texts[0],
        instructions=texts if len(set(texts)) > 1 else None,
    )


def _instructed(texts: list[str], given: dict[int | None, str]) -> list[str]:
    """The instructions of an episode's steps, L texts, with those that are given in their place."""
    if None in given:
        return [given[None]] * len(texts)
    # sub-tasks are usually listed by where they begin
    starts = sorted(step for step in given if step is not None)
    for start, stop in pairwise([*starts, len(texts)]):
        texts[start:stop] = [given[start]] * (stop - start)
    return texts


def read_labels(
    file: Path,
    lengths: np.ndarray | Mapping[int, int],
    *,
    missing: Collection[int] = (),
) -> dict[int, Labels]:
    """Episode -> its labels. Raises DataError with a line for each wrong row (the first of them).

    Args:
        lengths: steps of each of the dataset's episodes, in order or by what the dataset calls
            them.
        missing: numbers of further episodes that cannot be read: their rows are passed over.
    """
    lengths = lengths if isinstance(lengths, Mapping) else dict(enumerate(lengths.tolist()))
    problems: list[str] = []
    labels: dict[int, Labels] = {}
    lines: dict[tuple[int, str, int | None], int] = {}
    for line, row in _rows(file):
        try:
            if row.get("episode_index") is not None and _whole(row, "episode_index") in missing:
                continue
            episode, step = _place(row, lengths)
            for column, value in _values(row, step, int(lengths[episode])):
                of_column = labels.setdefault(episode, Labels()).values.setdefault(column, {})
                _check_new(lines, of_column, episode, column, step)
                of_column[step] = value
                lines[episode, column, step] = line
        except _BadRow as error:
            problems.append(f"{file}: line {line}: {error}")
    if problems:
        shown = problems[:_SHOWN]
        if len(problems) > _SHOWN:
            shown.append(f"{file}: and {len(problems) - _SHOWN} lines more")
        raise DataError("\n".join(shown))
    if not labels:
        raise DataError(
            f"{file}: holds no row; expected {', '.join(PLACES)} and any of {', '.join(VALUES)}"
        )
    return labels


# --- rows -----------------------------------------------------------------------------------------


class _BadRow(Exception):
    """What is wrong with a row, and the remedy."""


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, column -> value), without empty values."""
    if file.suffix not in (".csv", ".jsonl"):
        raise DataError(f"{file}: expected a file that ends in .csv or .jsonl")
    check_plain(file)
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the text
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text: {error}") from error
    rows = _csv_rows(file, text) if file.suffix == ".csv" else _json_rows(file, text)
    for line, row in rows:
        unknown = set(row) - {*PLACES, *VALUES}
        if unknown:  # a misspelt column must not be passed over in silence
            raise DataError(
                f"{file}: line {line}: unknown column {min(map(str, unknown))!r}; "
                f"expected {', '.join((*PLACES, *VALUES))}"
            )
        # an empty cell gives no value, so that one table may label steps and episodes
        yield line, {key: value for key, value in row.items() if value not in (None, "")}


def _csv_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        # the same mistakes of spreadsheets as in steps.csv
        check_separator(file, text)
        header = [name.strip() for name in next(reader, [])]
        if "episode_index" not in header:
            raise DataError(
                f"{file}: line 1: expected a header with episode_index, found "
                f"{', '.join(header) or 'nothing'}; call the column of episode numbers so"
            )
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                raise DataError(
                    f"{file}: line {reader.line_num}: has {len(values)} values for {len(header)} "
                    "columns"
                )
            cells = [value.strip() for value in values]
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}: line {reader.line_num}: is no CSV: {error}") from error


def _json_rows(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise DataError(f"{file}: line {line}: is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{file}: line {line}: expected an object with episode_index, found {content[:40]}"
            )
        yield line, row


def _place(row: dict[str, Any], lengths: Mapping[int, int]) -> tuple[int, int | None]:
    if "episode_index" not in row:
        raise _BadRow("episode_index is missing")
    episode = _whole(row, "episode_index")
    if episode not in lengths:
        raise _BadRow(
            f"episode_index is {episode}; there are episodes {min(lengths)} to {max(lengths)}"
        )
    if "frame_index" not in row:
        return episode, None
    step = _whole(row, "frame_index")
    if not 0 <= step < lengths[episode]:
        raise _BadRow(
            f"frame_index is {step}; episode {episode} has frames 0 to {lengths[episode] - 1}"
        )
    return episode, step


def _values(
    row: dict[str, Any],
    step: int | None,
    length: int,
) -> list[tuple[str, Any]]:
    found = [(column, _READ[column](row[column], column)) for column in VALUES if column in row]
    if not found:
        raise _BadRow(f"gives none of {', '.join(VALUES)}")
    if "terminated" in row and step is not None and step != length - 1:
        raise _BadRow(
            f"terminated is of the last frame, {length - 1}, or without frame_index; frame_index "
            f"is {step}"
        )
    return found


def _check_new(
    lines: dict[tuple[int, str, int | None], int],
    known: dict[int | None, Any],
    episode: int,
    column: str,
    step: int | None,
) -> None:
    """A value may be given once: for the whole episode, or for each of its steps."""
    whole = step is None or None in known or column == "terminated"
    if known and (whole or step in known):
        line = lines[episode, column, step if step in known else next(iter(known))]
        raise _BadRow(
            f"{column} of episode {episode} was given in line {line} already; give it once"
        )


def _whole(row: dict[str, Any], key: str) -> int:
    value = row[key]
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    # int() takes True for 1 and 1.5 for 1
    rounded = isinstance(value, bool) or (isinstance(value, float) and value != number)
    if number is None or rounded:
        raise _BadRow(f"{key} is {value!r}; expected a whole number")
    return number


def _reward(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # `not <=` holds of NaN too; what float32 cannot hold would be stored as infinite
    if isinstance(value, bool) or not abs(number) <= float(np.finfo(np.float32).max):
        raise _BadRow(f"{column} is {value!r}; expected a finite number")
    return number


def _boolean(value: Any, column: str) -> bool:
    found = _BOOLEANS.get(str(value).lower())
    if found is None:
        raise _BadRow(f"{column} is {value!r}; expected true or false")
    return found


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _BadRow(f"{column} is {value!r}; expected words")
    return value.strip()


_READ: dict[str, Callable[[Any, str], Any]] = {
    "reward": _reward,
    "success": _boolean,
    "terminated": _boolean,
    "instruction": _text,
}

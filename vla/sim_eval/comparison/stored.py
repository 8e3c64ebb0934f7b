"""Results that others may have made: every field is of its kind before it is used, and no file
outside of their folder is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vla.common.errors import UserError
from vla.common.foreign.json_files import JsonError, read_json
from vla.common.foreign.plain_files import why_not_plain
from vla.common.machine_faults import machine_fault
from vla.sim_eval.comparison.installing import VIDEOS
from vla.sim_eval.rollouts.jobs import EpisodeRecord

MOST_EPISODES = 1_000_000
"""More than any evaluation plays; a small file may claim to hold billions of rows."""
MOST_BYTES = 64 * 2**20
"""Of results.json."""
_STRICT = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, lt=2**63)]


class ResultsError(UserError):
    """A folder holds no readable results; the message names the file and the remedy."""


class StoredResults(BaseModel):
    """What `results.json` says beyond what follows from the episodes."""

    model_config = _STRICT

    policy: str
    suite: str
    versions: dict[str, str]
    config: dict[str, Any] = Field(default_factory=dict)
    command: str = ""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    stopped_by: str = ""
    losses: list[str] = Field(default_factory=list)
    training: dict[str, Any] = Field(default_factory=dict)
    identity: str = ""


class _StoredEpisode(BaseModel):
    """A row of `episodes.parquet`."""

    model_config = _STRICT

    task: str
    group: str
    episode: Count
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    instruction: str
    success_ever: bool
    success_at_end: bool
    steps: Count
    return_: Annotated[float, Field(alias="return")]
    failure: str
    video: str = ""
    failure_step: Annotated[int, Field(ge=-1)] = -1
    max_reward: float | None = None


_EPISODES = TypeAdapter(list[_StoredEpisode])


def read_results(path: Path) -> StoredResults:
    """`results.json`. Raises ResultsError naming the first field that is not of its kind."""
    try:
        values = read_json(path, max_bytes=MOST_BYTES)
    except (JsonError, OSError) as error:
        reason = error.reason if isinstance(error, JsonError) else str(error)
        raise ResultsError(f"{path}: not the results of an evaluation: {reason}") from error
    try:
        return StoredResults.model_validate(values)
    except ValidationError as error:
        raise ResultsError(f"{path}: {_first(error)}; evaluate again") from error


def read_episodes(path: Path) -> tuple[EpisodeRecord, ...]:
    """`episodes.parquet`. Raises ResultsError naming row and column of the first mistake."""
    known = {field.alias or name for name, field in _StoredEpisode.model_fields.items()}
    problem = why_not_plain(path)
    if problem:
        raise ResultsError(f"{path}: {problem}")
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            if not 1 <= rows <= MOST_EPISODES:
                raise ResultsError(f"{path}: holds {rows} episodes; expected 1 to {MOST_EPISODES}")
            columns = [name for name in file.schema_arrow.names if name in known]
            table = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if machine_fault(error) and not isinstance(error, MemoryError):
            raise  # the file may be whole
        name = type(error).__name__
        raise ResultsError(f"{path}: not the results of an evaluation: {name}: {error}") from error
    try:
        found = _EPISODES.validate_python(table)
    except ValidationError as error:
        raise ResultsError(f"{path}: {_first(error)}; evaluate again") from error
    records = tuple(EpisodeRecord(**dict(row)) for row in found)
    _check_once(path, records)
    return records


def film_of(folder: Path, record: EpisodeRecord) -> Path | None:
    """The film of an episode, if it has one that is there.

    Raises ResultsError if the name leads out of the folder of the results.
    """
    if not record.video:
        return None
    parts = PurePosixPath(record.video).parts
    path = folder / record.video
    # the one place where evaluations put films: a page must not show any other file
    plain = len(parts) == 2 and parts[0] == VIDEOS and parts[1] not in ("..", ".")
    if not plain or "\\" in record.video or "\0" in record.video:
        raise ResultsError(
            f"{folder}: the episodes name the film {record.video!r}; expected {VIDEOS}/NAME"
        )
    if not path.is_file():
        return None
    if path.resolve().parent != (folder / VIDEOS).resolve() or (folder / VIDEOS).is_symlink():
        raise ResultsError(f"{path}: leads out of the folder of the results; put the film there")
    return path


def _check_once(path: Path, records: tuple[EpisodeRecord, ...]) -> None:
    seen: set[tuple[str, int]] = set()
    for record in records:
        place = (record.task, record.episode)
        if place in seen:
            raise ResultsError(
                f"{path}: episode {record.episode} of task {record.task!r} stands there twice; "
                "evaluate again"
            )
        seen.add(place)


def _first(error: ValidationError) -> str:
    """The first mistake in words: `row 3, column 'steps': ...`."""
    mistake: Mapping[str, Any] = error.errors(include_url=False)[0]
    place = list(mistake["loc"])
    row = f"row {place.pop(0)}, column " if place and isinstance(place[0], int) else ""
    key = ".".join(map(str, place)).removesuffix("_")
    shown = repr(mistake.get("input"))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{row}{key!r}: {mistake['msg'].lower()}, found {shown}"

"""A dataset that is continued is read to be written again: its damage must not get a new checksum."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset
from vla.data.detours import detour_steps
from vla.data.episode import read_info
from vla.types import Spec

SPEC = Spec({}, ("x",), ("a",), (-1.0,), (1.0,), 10.0)
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


def episode() -> Episode:
    done = np.arange(3) == 2
    return Episode(
        images={},
        state=np.linspace(0, 1, 3, dtype=np.float32)[:, None],
        actions=np.zeros((3, 1), np.float32),
        rewards=done.astype(np.float32),
        success=done,
        terminated=True,
        instruction="go",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        writer.add_episodes([episode(), episode()])
    return tmp_path / "data"


def replaced(put: Callable[[Path], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        put(path)

    return damage


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # a letter of JSON, or a byte of a page
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


def column(name: str, values: list[Any] | None) -> Callable[[Path], None]:
    """Another program's file, which has no checksum; without values the table has no rows."""

    def damage(path: Path) -> None:
        table = pq.read_table(path)
        if values is None:
            table = table.slice(0, 0)
        else:
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.array((values * len(table))[: len(table)]))
        pq.write_table(table, path)

    return damage


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": replaced(os.mkfifo),
    "device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "folder": replaced(lambda path: path.mkdir()),
    "one bit": flipped,
}
CASES = [(name, kind) for name in (DATA, EPISODES) for kind in KINDS]
CASES += [(f"meta/{name}", kind) for name in ("info.json", "vla_spec.json") for kind in KINDS]
CASES += [
    (f"meta/{name}", kind) for name in ("tasks.parquet", "vla_metadata.json") for kind in KINDS
]
OTHER_VALUES = [
    (DATA, column("episode_index", [None])),
    (DATA, column("episode_index", ["a"])),
    (DATA, column("", None)),
    (DATA, column("next.reward", [float("nan")])),
    (EPISODES, column("episode_index", [None])),
    (EPISODES, column("episode_index", [float("nan")])),
    (EPISODES, column("tasks", ["a"])),
    ("meta/info.json", lambda path: path.write_text("[]")),
    ("meta/info.json", lambda path: path.write_text('{"features": 7}')),
    ("meta/vla_metadata.json", lambda path: path.write_text("[]")),
]


def stays_as_it_is(root: Path, name: str) -> None:
    before = (root / name).lstat()
    with (
        pytest.raises(DataError, match="restore") as raised,
        DatasetWriter(root, SPEC, resume=True) as writer,
    ):
        writer.add_episode(episode())
    assert "\n" not in str(raised.value)
    after = (root / name).lstat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_is_not_the_file_that_was_written(root: Path, name: str, kind: str) -> None:
    KINDS[kind](root / name)
    stays_as_it_is(root, name)


@pytest.mark.parametrize("number", range(len(OTHER_VALUES)))
def test_files_without_a_checksum_that_hold_other_values(root: Path, number: int) -> None:
    name, damage = OTHER_VALUES[number]
    damage(root / name)
    stays_as_it_is(root, name)


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("lost", [DATA, EPISODES, None])
def test_episodes_without_info_json_are_not_written_over(
    root: Path, resume: bool, lost: str | None
) -> None:
    (root / "meta/info.json").unlink()
    if lost:
        (root / lost).unlink()
    before = sorted(path for path in root.rglob("*"))
    with pytest.raises(DataError, match=r"holds episodes .*meta/info.json is missing; restore"):
        DatasetWriter(root, SPEC, resume=resume)
    assert sorted(path for path in root.rglob("*")) == before


def test_what_a_writer_left_that_ended_in_its_first_moment_is_continued(root: Path) -> None:
    (root / "meta/info.json").unlink()
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "meta/episodes")
    with DatasetWriter(root, SPEC, resume=True) as writer:
        writer.add_episode(episode())
    assert len(EpisodeDataset(root)) == 1


@pytest.mark.parametrize("text", ["", "x", "[]", "7", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_notes_of_an_episode_that_are_no_object(root: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"info.*restore meta/episodes"):
        read_info(text)
    column("info", [text])(root / EPISODES)
    with pytest.raises(DataError, match=r"info.*restore meta/episodes"):
        EpisodeDataset(root).episode(0)


@pytest.mark.parametrize("detours", ["x", "7", "[1]", "[[1, 2, 3]]", '[["a", 1]]'])
def test_detours_that_are_no_pairs(detours: str) -> None:
    assert detour_steps({"detours": json.dumps([[0, 2]])}, 3).tolist() == [True, True, False]
    with pytest.raises(DataError, match=r"info\.detours"):
        detour_steps({"detours": detours}, 3)

"""Findings about LeRobot datasets: one for each cause, of what is in the dataset alone, with repairs that
can work."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from small_lerobot import DATA, POINTER, vector, write_v2

from vla.data import DataError, EpisodeDataset, KeyMap
from vla.data.formats.lerobot_parts.paths import opened_parquet
from vla.data.validation.report import Finding, validate

FEATURES = {"observation.state": vector(3), "action": vector(2), "next.reward": vector(1)}


def found(root: Path, check: str, **options: bool) -> list[Finding]:
    return [f for f in validate(root, deep=False, **options).findings if f.check == check]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_v2(tmp_path / "d", FEATURES, lengths=(12,) * 6)


def drop_line(root: Path, number: int) -> None:
    path = root / "meta/episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for i, line in enumerate(lines) if i != number))


def test_a_file_of_no_episode_is_one_note(root):
    drop_line(root, 2)
    (root / DATA.format(2)).write_bytes(b"damaged, and read by nobody")
    report = validate(root, deep=False)
    assert report.ok, report.of("error")
    (note,) = [f for f in report.findings if f.check == "unreferenced"]
    assert (note.severity, note.place) == ("note", DATA.format(2))


def test_many_files_of_no_episode_are_one_note(root):
    (root / "data/other").mkdir()
    for number in range(30):
        (root / f"data/other/{number:03d}.json").write_text("{}")
    (note,) = found(root, "unreferenced")
    assert "30 files" in note.message
    assert "data/other/000.json" in note.message


def test_findings_of_one_cause_are_one(root):
    for episode in range(5):
        path = root / DATA.format(episode)
        path.write_bytes(path.read_bytes()[: 900 + episode])
    (finding,) = found(root, "readable")
    assert "without footer" in finding.message
    assert "(and 4 more like it: data/chunk-000/episode_000001.parquet" in finding.message
    assert finding.others == tuple(DATA.format(episode) for episode in range(1, 5))
    # few enough to be read one by one
    write_v2(root.parent / "e", FEATURES)
    for episode in range(2):
        (root.parent / "e" / DATA.format(episode)).write_bytes(b"x")
    assert len(found(root.parent / "e", "readable")) == 2


def test_all_empty_tables_are_named_and_no_repair_that_would_fail(root):
    names = ("meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl")
    for name in names:
        (root / name).write_text("")
    report = validate(root, deep=False)
    assert set(names) <= {f.place for f in report.of("error")}
    assert not any(f.fix for f in report.findings)
    assert report.format == "lerobot_v2"
    again = validate(root, deep=False, fix=True)
    assert (again.repaired, [f.check for f in again.findings if f.check == "fix"]) == ((), [])


def test_pointers_of_lfs_are_one_finding(root):
    for episode in range(5):
        (root / DATA.format(episode)).write_text(POINTER)
    (finding,) = found(root, "files")
    assert "data files of episodes 0-4 are pointers of Git LFS" in finding.message
    assert f"run `git lfs pull` in {root}" in finding.message


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl"])
def test_metadata_that_is_a_pointer(root, name):
    (root / name).write_text(POINTER)
    with pytest.raises(DataError, match=r"is a pointer of Git LFS.*git lfs pull"):
        EpisodeDataset(root)


def test_episodes_of_one_step_and_actions_that_never_change(tmp_path):
    root = write_v2(tmp_path / "d", FEATURES, lengths=(1, 12, 1, 1))
    (finding,) = found(root, "single_steps")
    assert "3 of 4 episodes have one step (0, 2-3)" in finding.message
    # task_index is the same everywhere
    report = validate(root, deep=False, keys=KeyMap(action=["task_index"]))
    (same,) = [f for f in report.findings if f.check == "constant_actions"]
    assert same.severity == "warning"


def test_a_mistake_of_this_package_is_not_called_damage(root):
    file = root / DATA.format(0)
    with pytest.raises(ValueError, match="of ours"), opened_parquet(file, "restore it"):
        raise ValueError("of ours")
    with pytest.raises(DataError, match="damaged parquet"), opened_parquet(file, "restore it"):
        raise pa.ArrowInvalid("of the library")
    with pytest.raises(DataError, match="damaged parquet"), opened_parquet(file, "x") as parquet:
        parquet.read_row_group(99)

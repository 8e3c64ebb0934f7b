"""Results of others: each field is checked when they are loaded, and no film leads out of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.report import write_report
from vla.sim_eval.rollouts.jobs import EpisodeRecord

RECORD = EpisodeRecord("push", "all", 0, 7, "push it", True, True, 12, 1.0, "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = (RECORD, replace(RECORD, episode=1, seed=9, success_ever=False, failure="missed"))
    return Results("a", "suite", records, versions={"vla": "1"}).save(tmp_path / "run")


def test_what_was_saved_comes_back(folder: Path):
    found = Results.load(folder)
    assert found.episodes[0] == RECORD
    assert found.to_dict() == json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("success_ever", 7),
        ("success_ever", None),
        ("steps", "12"),
        ("steps", -1),
        ("return", "much"),
        ("return", float("nan")),
        ("return", float("inf")),
        ("task", None),
        ("task", 3),
        ("episode", "0</script><script>alert(1)</script>"),
        ("episode", -1),
        ("failure_step", -2),
        ("seed", 1.5),
        ("failure", 1),
        ("video", 3),
    ],
)
def test_a_column_of_another_kind_is_refused(folder: Path, column: str, value):
    table = pd.read_parquet(folder / "episodes.parquet")
    table[column] = [value, value]
    table.to_parquet(folder / "episodes.parquet", index=False)
    with pytest.raises(ResultsError, match=rf"row 0, column '{column}': .*; evaluate again"):
        Results.load(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy", None),
        ("policy", ["a"]),
        ("suite", 4),
        ("seconds", float("nan")),
        ("seconds", "long"),
        ("seconds", -1),
        ("config", "none"),
        ("versions", {"vla": 1}),
        ("losses", "one"),
        ("training", []),
    ],
)
def test_a_field_of_another_kind_is_refused(folder: Path, key: str, value):
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ResultsError, match=rf"results.json: '{key}.*'"):
        Results.load(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"policy": ', "[]", "\x00"])
def test_what_is_no_results_file_is_refused(folder: Path, text: str):
    (folder / "results.json").write_text(text)
    with pytest.raises(ResultsError, match=r"results.json: "):
        Results.load(folder)


def test_an_episode_that_stands_there_twice_is_refused(folder: Path):
    table = pd.read_parquet(folder / "episodes.parquet")
    pd.concat([table, table]).to_parquet(folder / "episodes.parquet", index=False)
    with pytest.raises(ResultsError, match="episode 0 of task 'push' stands there twice"):
        Results.load(folder)


@pytest.mark.parametrize("how", ["absolute", "up", "link", "linked folder"])
def test_a_film_outside_of_the_folder_is_not_shown(folder: Path, tmp_path: Path, how: str):
    secret = tmp_path / "private" / "film.mp4"
    secret.parent.mkdir()
    secret.write_text("private")
    names = {"absolute": str(secret), "up": "videos/../../private/film.mp4"}
    if how == "link":
        (folder / "videos").mkdir()
        (folder / "videos/film.mp4").symlink_to(secret)
    if how == "linked folder":
        (folder / "videos").symlink_to(secret.parent)
    table = pd.read_parquet(folder / "episodes.parquet")
    table["video"] = names.get(how, "videos/film.mp4")
    table.to_parquet(folder / "episodes.parquet", index=False)
    with pytest.raises(ResultsError, match=r"film|leads out"):
        write_report(tmp_path / "page.html", [Results.load(folder)])


def test_results_that_were_copied_without_their_films_are_read(folder: Path, tmp_path: Path):
    records = tuple(replace(r, video=f"videos/push-{r.episode}.mp4") for r in (RECORD,))
    replace(Results.load(folder), episodes=records).save(folder)
    shutil.copytree(folder, tmp_path / "copy")
    write_report(tmp_path / "page.html", [Results.load(tmp_path / "copy")])

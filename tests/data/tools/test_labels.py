"""Labels of a file on a dataset: what they mean, and which rows are wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DataError, EpisodeDataset
from vla.data.tools.labels import label, read_labels

LENGTHS = np.array([3, 2, 4])


@pytest.fixture
def csv(tmp_path):
    def make(text, name="labels.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


def test_labels_replace_what_they_name_and_nothing_else(write, csv, tmp_path):
    source = EpisodeDataset(write([3, 2, 4]))
    file = csv(
        "episode_index,frame_index,reward,success,terminated,instruction\n"
        "0,,2.5,true,yes,pour the tea\n"
        "2,1,7,1,,\n"
        "2,3,-1,,0,\n"
    )
    made = label(source.root, tmp_path / "out", file)
    dataset = EpisodeDataset(made.root)
    first, second, third = (dataset.episode(i) for i in range(3))
    assert first.rewards.tolist() == [0, 0, 2.5]
    assert first.success.tolist() == [False, False, True]
    assert (first.terminated, first.instruction) == (True, "pour the tea")
    np.testing.assert_array_equal(first.actions, source.episode(0).actions)
    assert first.images == source.episode(0).images
    np.testing.assert_array_equal(second.rewards, source.episode(1).rewards)
    assert second.instruction == source.episode(1).instruction
    old = source.episode(2)
    np.testing.assert_array_equal(
        third.rewards, np.array([old.rewards[0], 7, old.rewards[2], -1], np.float32)
    )
    assert third.success.tolist() == [False, True, False, False]
    assert third.instruction == old.instruction
    assert made.notes == ("1 of 3 episodes are not in labels.csv: keep",)
    assert dataset.episodes["return"].tolist()[0] == 2.5


def test_json_lines_give_the_same(csv):
    table = csv("episode_index,frame_index,reward,success\n0,,1.5,false\n1,1,2,\n")
    rows = [
        {"episode_index": 0, "reward": 1.5, "success": False},
        {"episode_index": 1, "frame_index": 1, "reward": 2},
    ]
    lines = csv("\n\n".join(map(json.dumps, rows)), "labels.jsonl")
    assert read_labels(table, LENGTHS) == read_labels(lines, LENGTHS)


def test_unlabelled_episodes_can_go_or_be_refused(write, csv, tmp_path):
    source, file = write([3, 2, 4]), csv("episode_index,success\n1,true\n")
    with pytest.raises(DataError, match=r"names 1 of 3 episodes; 0 is the first that it lacks"):
        label(source, tmp_path / "out", file, unlabelled="refuse")
    assert label(source, tmp_path / "out", file, unlabelled="drop").episodes == 1
    csv("episode_index,success\n1,false\n")
    with pytest.raises(DataError, match="sha256 was"):
        label(source, tmp_path / "out", file, unlabelled="drop")


def test_every_wrong_row_is_named(csv):
    file = csv(
        "episode_index,frame_index,reward,success,terminated,instruction\n"
        "3,,1,,,\n"
        "0,3,1,,,\n"
        ",,1,,,\n"
        "0,,nan,,,\n"
        "0,,,maybe,,\n"
        "0,1,,,true,\n"
        "0,,,,,\n"
        "0,1,1,,,\n"
        "0,1,2,,,\n"
        "0,,2,,,\n"
        "1.5,,1,,,\n"
        "1,,1e99,,,\n"
        "1,,4,,,\n"
    )
    with pytest.raises(DataError) as error:
        read_labels(file, LENGTHS)
    lines = [line.removeprefix(f"{file}: ") for line in str(error.value).splitlines()]
    expected = (
        "line 2: episode_index is 3; there are episodes 0 to 2",
        "line 3: frame_index is 3; episode 0 has frames 0 to 2",
        "line 4: episode_index is missing",
        "line 5: reward is 'nan'; expected a finite number",
        "line 6: success is 'maybe'; expected true or false",
        "line 7: terminated is of the last frame, 2, or without frame_index; frame_index is 1",
        "line 8: gives none of reward, success, terminated, instruction",
        "line 10: reward of episode 0 was given in line 9 already; give it once",
        "line 11: reward of episode 0 was given in line 9 already; give it once",
        "line 12: episode_index is '1.5'; expected a whole number",
        "line 13: reward is '1e99'; expected a finite number",
    )
    assert lines == list(expected)


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b"])
def test_lines_end_where_the_format_ends_them(tmp_path, separator):
    text = f"pour{separator}tea"
    (tmp_path / "a.csv").write_text(f"episode_index,instruction\n0,{text}\n", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"episode_index": 0, "instruction": text}, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    for name in ("a.csv", "a.jsonl"):
        labels = read_labels(tmp_path / name, np.array([3]))
        assert labels[0].values["instruction"] == {None: text}


def test_many_wrong_rows_are_cut_short(csv):
    file = csv("episode_index,reward\n" + "9,1\n" * 50)
    with pytest.raises(DataError) as error:
        read_labels(file, LENGTHS)
    lines = str(error.value).splitlines()
    assert len(lines) == 21
    assert lines[-1].endswith("and 30 lines more")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "episode_index,score\n0,1\n",
            "l.csv",
            "line 2: unknown column 'score'; expected episode_index, frame_index",
        ),
        ("a,b\n0,1\n", "l.csv", "line 1: expected a header with episode_index, found a, b"),
        ("", "l.csv", "line 1: expected a header with episode_index, found nothing"),
        ("episode_index;success\n0;1\n", "l.csv", "its cells are divided by semicolons"),
        ("episode,success\n0,1\n", "l.csv", "call the column of episode numbers so"),
        ("episode_index,reward\n", "l.csv", "holds no row"),
        ("episode_index,reward\n0,1,2\n", "l.csv", "line 2: has 3 values for 2 columns"),
        ('{"episode_index": 0, "reward": 1}\n{oops\n', "l.jsonl", "line 2: is no JSON"),
        ("[1]\n", "l.jsonl", "line 1: expected an object"),
        (
            '{"episode_index": true, "reward": 1}',
            "l.jsonl",
            "episode_index is True; expected a whole number",
        ),
        ('{"episode_index": 0, "instruction": 5}', "l.jsonl", "instruction is 5; expected words"),
        (
            '{"episode_index": Infinity, "reward": 1}',
            "l.jsonl",
            "episode_index is inf; expected a whole number",
        ),
        ("x", "l.txt", r"expected a file that ends in .csv or .jsonl"),
    ],
)
def test_files_that_hold_no_labels(csv, text, name, message):
    with pytest.raises(DataError, match=message):
        read_labels(csv(text, name), LENGTHS)


def test_a_file_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(DataError, match="cannot be read as text"):
        read_labels(tmp_path / "none.csv", LENGTHS)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="cannot be read as text"):
        read_labels(tmp_path / "bytes.csv", LENGTHS)


def test_command_line(write, csv, tmp_path):
    source, file = write([3, 2]), csv("episode_index,success\n0,true\n")
    result = CliRunner().invoke(
        app, ["data", "label", str(source), str(tmp_path / "out"), str(file)]
    )
    assert result.exit_code == 0, result.output
    assert "note: 1 of 2 episodes are not in labels.csv: keep" in result.output
    assert EpisodeDataset(tmp_path / "out").episodes["success"].tolist() == [True, True]
    for extra, message in (
        ("--unlabelled=x", "expected keep, drop or refuse"),
        ("--unlabelled=refuse", "names 1 of 2"),
    ):
        result = CliRunner().invoke(
            app, ["data", "label", str(source), str(tmp_path / "o"), str(file), extra]
        )
        assert result.exit_code == 2
        assert message in result.output

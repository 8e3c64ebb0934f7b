"""Named extra columns of steps: from an episode into the file and back, through every tool."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, KeyMap, Windows
from vla.data.extras import as_stored
from vla.data.tools.conversion import convert
from vla.data.tools.merging import merge
from vla.data.validation.report import validate
from vla.types import Spec

SPEC = Spec({}, ("x",), ("dx", "dy"), (-1.0, -1.0), (1.0, 1.0), 10.0)
LENGTHS = (3, 5)


def episode(length: int, seed: int = 0, **extras: np.ndarray) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        images={},
        state=rng.normal(size=(length, 1)).astype(np.float32),
        actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
        rewards=np.zeros(length, np.float32),
        success=np.zeros(length, bool),
        terminated=False,
        instruction="go",
        extras=extras,
    )


def with_extras(length: int, seed: int = 0) -> Episode:
    rng = np.random.default_rng((seed, 1))
    return episode(
        length,
        seed,
        log_prob=rng.normal(size=(length, 4)).astype(np.float32),
        intervention=rng.random(length) < 0.5,
        draw=rng.integers(2**40, size=length),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add_episode(with_extras(length, seed))
    return tmp_path / "data"


def assert_extras(dataset: EpisodeDataset) -> None:
    for seed, length in enumerate(LENGTHS):
        found, expected = dataset.episode(seed).extras, with_extras(length, seed).extras
        assert list(found) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype == values.dtype


def test_they_are_features_of_the_file(root: Path) -> None:
    assert_extras(EpisodeDataset(root))
    features = json.loads((root / "meta/info.json").read_text())["features"]
    assert features["log_prob"] == {"dtype": "float32", "shape": [4], "names": None}
    assert features["intervention"] == {"dtype": "bool", "shape": [1], "names": None}
    assert features["draw"] == {"dtype": "int64", "shape": [1], "names": None}
    (file,) = root.glob("data/*/*.parquet")
    assert pq.read_table(file).column("intervention").type == "bool"
    assert not EpisodeDataset(root).warnings
    report = validate(root)
    assert not [finding for finding in report.findings if finding.severity == "error"], report


def test_a_resumed_writer_asks_for_the_same_columns(root: Path) -> None:
    with DatasetWriter(root, SPEC, resume=True) as writer:
        with pytest.raises(DataError, match=r"episode 2: extras: none; .* log_prob \(float32, 4\)"):
            writer.add_episode(episode(2))
        with pytest.raises(DataError, match="give every episode the same columns"):
            writer.add_episodes([with_extras(2), episode(2, cost=np.ones(2))])
        writer.add_episode(with_extras(2, 2))
    assert len(EpisodeDataset(root)) == 3
    assert_extras(EpisodeDataset(root))


def test_tools_keep_them(root: Path, tmp_path: Path) -> None:
    convert(root, tmp_path / "copy")
    assert_extras(EpisodeDataset(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("action", np.zeros(3), "no name of an extra column"),
        ("next.cost", np.zeros(3), "no name of an extra column"),
        ("a/b", np.zeros(3), "no name of an extra column"),
        ("cost", np.zeros(4), r"shape is \(4,\), expected \(3,\) or \(3, D\)"),
        ("cost", np.zeros((3, 0)), "a row per action"),
        ("cost", np.array([0, np.nan, 0]), "step 1: is NaN or infinite"),
        ("cost", np.array([0, 1e300, 0]), "step 1: is NaN or infinite"),
        ("cost", np.array(["a", "b", "c"]), "give numbers or truth values"),
    ],
)
def test_what_is_no_column_is_refused(
    tmp_path: Path, name: str, values: np.ndarray, message: str
) -> None:
    with (
        DatasetWriter(tmp_path / "data", SPEC) as writer,
        pytest.raises(DataError, match=message),
    ):
        writer.add_episode(episode(3, **{name: values}))


def test_columns_of_other_makers_are_read_by_their_names(root: Path) -> None:
    """Without the spec of this package a column is extra if a key says so; LeRobot's
    `intervention` always is."""
    for name in ("meta/vla_spec.json", "meta/vla_metadata.json"):
        (root / name).unlink()
    dataset = EpisodeDataset(root)
    assert list(dataset.episode(0).extras) == ["intervention"]
    unread = [text for text in dataset.warnings if "not read" in text]
    assert "log_prob" in unread[0]
    chosen = EpisodeDataset(root, keys=KeyMap(extras=["draw", "log_prob"]))
    assert list(chosen.episode(1).extras) == ["draw", "log_prob"]
    assert not EpisodeDataset(root, keys=KeyMap(extras=[])).episode(0).extras
    with pytest.raises(DataError, match=r"no feature 'cots' of numbers; there are: .*draw"):
        EpisodeDataset(root, keys=KeyMap(extras=["cots"]))


def test_types_are_those_of_the_file() -> None:
    assert as_stored(np.zeros(2, np.float64)).dtype == np.float32
    assert as_stored(np.zeros(2, np.uint8)).dtype == np.int64
    assert dataclasses.replace(episode(2), extras={}).extras == {}


def test_windows_hold_the_columns_that_are_asked_for(root: Path) -> None:
    dataset = EpisodeDataset(root)
    windows = Windows(dataset, history=2, chunk=1, next_step=1, extras=["log_prob", "draw"])
    batch = windows.batch(np.array([0, 2, 7]))
    log_prob, draw = (dataset.columns.extras[name] for name in ("log_prob", "draw"))
    # the window before the first step and that after the last repeat the nearest step
    steps = np.array([[0, 0, 1], [1, 2, 2], [6, 7, 7]])
    np.testing.assert_array_equal(batch.extras["log_prob"], log_prob[steps])
    np.testing.assert_array_equal(batch.extras["draw"], draw[steps])
    assert set(batch.extras) == {"log_prob", "draw"}
    now = batch.steps(1, 2)
    np.testing.assert_array_equal(now.extras["draw"], draw[steps[:, 1:2]])
    chosen = batch.select(np.array([2, 0]))
    np.testing.assert_array_equal(chosen.extras["draw"], draw[steps[[2, 0]]])
    joined = type(batch).concat(
        [batch, dataclasses.replace(batch, extras={"draw": batch.extras["draw"]})]
    )
    assert set(joined.extras) == {"draw"}
    assert len(joined.extras["draw"]) == 6
    assert not Windows(dataset, history=1, chunk=1).batch(np.array([0])).extras
    with pytest.raises(DataError, match="no extra column 'cost'; it has: log_prob, interv"):
        Windows(dataset, history=1, chunk=1, extras=["cost"])


def test_a_merge_keeps_what_all_have_alike_and_names_the_rest(root: Path, tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "other", SPEC) as writer:
        writer.add_episode(episode(4, 9, draw=np.arange(4), intervention=np.ones(4)))
    made = merge([root, tmp_path / "other"], tmp_path / "both")
    dataset = EpisodeDataset(tmp_path / "both")
    assert list(dataset.episode(2).extras) == ["draw"]
    # here a flag, there a number
    lines = [note for note in made.notes if "extra columns" in note]
    assert lines[0].startswith("data: ")
    assert lines[0].endswith("go: log_prob, intervention")
    assert lines[1].endswith("go: intervention")


def test_resampling_takes_the_nearest_step(root: Path, tmp_path: Path) -> None:
    convert(root, tmp_path / "half", control_hz=5.0, kinds={"dx": "absolute", "dy": "absolute"})
    found = EpisodeDataset(tmp_path / "half").episode(1).extras
    expected = EpisodeDataset(root).episode(1).extras
    np.testing.assert_array_equal(found["draw"], expected["draw"][[0, 2, 4]])

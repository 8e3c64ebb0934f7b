"""NumPy archives of episodes: read as laid out, with keys, damaged and contradictory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corruption import corrupt, read_all

from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.format import KeyMap

LENGTHS = {"2": 3, "10": 4}
ADROIT = (
    Path(os.environ.get("VLA_TEST_DATA", Path(__file__).parents[3].parent / "shared/data"))
    / "adroit_door_human.npz"
)


def pixels(L: int) -> np.ndarray:
    return np.random.default_rng(L).integers(0, 256, (L, 5, 7, 3), dtype=np.uint8)


def numbers(L: int, width: int) -> np.ndarray:
    return np.random.default_rng([L, width]).normal(size=(L, width)).astype(np.float32)


def arrays() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, L in LENGTHS.items():
        found |= {
            f"{name}/observations": numbers(L + 1, 5),  # with the one after the last action
            f"{name}/actions": numbers(L, 2),
            f"{name}/rewards": np.arange(L, dtype=np.float64),
            f"{name}/success": np.arange(L) == L - 1,
            f"{name}/dones": np.arange(L) == L - 1,
            f"{name}/pixels/top": pixels(L + 1),
            f"{name}/joints": numbers(L, 3),
            f"{name}/instruction": np.array(f"task {name}"),
        }
    return found


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "toy.npz", **arrays())  # type: ignore[arg-type]
    return tmp_path / "toy.npz"


def test_one_number_for_a_whole_episode_is_due_at_its_last_step(tmp_path: Path) -> None:
    changed = arrays() | {
        "2/success": np.bool_(True),
        "10/success": np.bool_(False),
        "10/rewards": np.float64(2.5),
    }
    np.savez(tmp_path / "whole.npz", **changed)  # type: ignore[arg-type]
    dataset = EpisodeDataset(tmp_path / "whole.npz")
    assert dataset.episode(0).success.tolist() == [False, False, True]
    assert not dataset.episode(1).success.any()
    assert dataset.episode(1).rewards.tolist() == [0, 0, 0, 2.5]
    assert dataset.episodes["success"].tolist() == [True, False]


def test_what_is_not_read_is_reported(tmp_path: Path) -> None:
    odd = {"gray": (5, 7), "alpha": (5, 7, 4), "stack": (2, 5, 7, 3)}
    changed = {
        f"{e}/{key}": np.zeros((L, *shape), np.uint8)
        for key, shape in odd.items()
        for e, L in LENGTHS.items()
    }
    changed |= {f"{e}/action": np.zeros((L, 2, 2)) for e, L in LENGTHS.items()}
    changed["2/extra"] = np.array([{}], object)
    np.savez(tmp_path / "odd.npz", **arrays() | changed)  # type: ignore[arg-type]
    warnings = EpisodeDataset(tmp_path / "odd.npz").warnings
    for key in odd:
        assert any(
            warning.startswith(f"2/{key} is ") and "is not read" in warning for warning in warnings
        )
    assert (
        "2/extra holds pickled objects, which are never loaded: store numbers or texts" in warnings
    )
    assert any(
        "joints (3, 3), action (3, 2, 2); the key `state`" in warning for warning in warnings
    )


def test_reads_what_was_written(toy: Path) -> None:
    dataset = EpisodeDataset(toy)
    assert dataset.spec.cameras == {"pixels_top": (5, 7)}
    assert dataset.spec.action_names == ("action_0", "action_1")
    assert dataset.spec.state_names[0] == "state_0"
    assert dataset.instructions == ["task 2", "task 10"]
    assert dataset.warnings == [
        "numbers that are not read: joints (3, 3); the key `state` reads them, for example "
        "state=[observations,joints]",
        "does not say its control rate: 20 Hz is assumed; give it (`control_hz=5`)",
    ]
    assert dataset.reader.recorded == {"rewards", "success", "terminated"}
    for index, (name, L) in enumerate(LENGTHS.items()):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, numbers(L, 2))
        np.testing.assert_array_equal(episode.state, numbers(L + 1, 5)[:L])
        np.testing.assert_array_equal(episode.frames("pixels_top"), pixels(L + 1)[:L])
        assert episode.rewards.tolist() == list(range(L))
        assert episode.success.tolist() == [False] * (L - 1) + [True]
        assert (episode.terminated, episode.info) == (True, {"name": name})
    batch = Windows(dataset, history=1, chunk=2).batch(np.array([4]))
    np.testing.assert_array_equal(batch.images["pixels_top"][0, 0], pixels(5)[1])
    assert list(dict(dataset.images("pixels_top", 2, 5))) == [2, 3, 4]


def test_keys(toy: Path) -> None:
    keys = KeyMap(
        cameras={"main": "pixels/top"},
        state=["joints", "rewards"],
        action=["joints"],
        reward="dones",
        success="dones",
        task="lift",
        control_hz=25,
    )
    dataset = EpisodeDataset(toy, keys=keys)
    assert (dataset.spec.cameras, dataset.spec.control_hz) == ({"main": (5, 7)}, 25.0)
    assert dataset.spec.state_names == ("joints_0", "joints_1", "joints_2", "rewards")
    np.testing.assert_array_equal(
        dataset.columns.actions, np.concatenate([numbers(3, 3), numbers(4, 3)])
    )
    assert (dataset.instructions, dataset.warnings) == (["lift"], [])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"cameras": {"main": "side"}}, "no 'side' to read as camera 'main'; it has: pixels/top"),
        (
            {"state": ["pixels/top"]},
            "no 'pixels/top' to read as state; it has: observations, actions",
        ),
        ({"action": []}, "the key `action` is empty"),
        ({"reward": "actions"}, "no 'actions' to read as reward; it has: rewards"),
        ({"instruction": "words"}, "no 'words' to read as instruction; it has: instruction"),
        ({"split": "train"}, "has no splits"),
    ],
)
def test_keys_that_it_lacks(toy: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(toy, keys=KeyMap(**keys))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"10/actions": None}, "10 lacks 'actions', which 2 has"),
        ({"10/actions": numbers(6, 2)}, "10 has 6 actions and 5 of 'observations'"),
        ({"10/actions": numbers(4, 3)}, r"10/actions has shape \(4, 3\), expected 4 x 2 as in 2"),
        ({"10/pixels/top": pixels(4)[:, 1:]}, r"10/pixels/top is uint8 \(4, 4, 7, 3\), expected"),
        ({"10/pixels/top": None}, "10/pixels/top is missing"),
        (
            {"2/actions": np.zeros((0, 2)), "10/actions": np.zeros((0, 2))},
            "none of its 2 episodes has a",
        ),
        ({"actions": np.zeros((3, 2))}, "holds 'actions.npy', expected arrays named EPISODE/KEY"),
    ],
)
def test_contradictions_are_reported(
    tmp_path: Path, change: dict[str, np.ndarray | None], expected: str
) -> None:
    stored = {name: array for name, array in (arrays() | change).items() if array is not None}
    np.savez(tmp_path / "odd.npz", **stored)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(tmp_path / "odd.npz")


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    stored = arrays()
    stored["10/actions"][2, 1] = np.nan
    np.savez(tmp_path / "odd.npz", **stored)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"episode 1 \(10\).*step 2.*action_1"):
        _ = EpisodeDataset(tmp_path / "odd.npz").columns


def test_damage_is_refused_wherever_it_is(toy: Path, tmp_path: Path) -> None:
    whole = [EpisodeDataset(toy).columns, list(EpisodeDataset(toy).images("pixels_top"))]

    def read(path: Path) -> None:
        read_all(path)
        columns, pictures = (
            EpisodeDataset(path).columns,
            list(EpisodeDataset(path).images("pixels_top")),
        )
        for name in ("state", "actions", "rewards", "success", "terminated"):
            np.testing.assert_array_equal(getattr(columns, name), getattr(whole[0], name))
        assert all(
            np.array_equal(one[1], other[1]) for one, other in zip(pictures, whole[1], strict=True)
        )

    assert corrupt(toy, [""], tmp_path, times=150, read=read) > 120


def test_real_demonstrations_of_a_hand() -> None:
    if not ADROIT.exists():
        pytest.skip(f"no {ADROIT} here")
    dataset = EpisodeDataset(ADROIT, keys=KeyMap(task="open the door", control_hz=25))
    assert (dataset.num_episodes, dataset.spec.state_dim, dataset.spec.action_dim) == (25, 39, 28)
    with np.load(ADROIT) as stored:
        np.testing.assert_array_equal(dataset.episode(7).actions, stored["07/actions"])
        np.testing.assert_array_equal(dataset.episode(7).rewards, stored["07/rewards"])


def test_an_instruction_for_each_step(tmp_path: Path) -> None:
    changed = arrays() | {
        "2/instruction": np.array(["reach", "lift", "", "lift"]),  # and of what was seen last
        "10/instruction": np.array([b"reach", b"", b"lift", b"lift"]),
    }
    np.savez(tmp_path / "steps.npz", **changed)  # type: ignore[arg-type]
    dataset = EpisodeDataset(tmp_path / "steps.npz")
    assert dataset.instructions == ["reach", "lift"]
    assert dataset.task_of_frames.tolist() == [0, 1, 1, 0, 0, 1, 1]
    assert any(w.startswith("2 steps have no instruction") for w in dataset.warnings)
    windows = Windows(dataset, history=1, chunk=1)
    assert windows.batch(np.array([4, 5])).instruction == ["reach", "lift"]
    named = EpisodeDataset(tmp_path / "steps.npz", keys=KeyMap(task="tidy up"))
    assert (named.instructions, named.reader.frame_tasks) == (["tidy up"], None)


def test_texts_that_are_not_one_for_each_step_are_named(tmp_path: Path) -> None:
    changed = arrays() | {"10/instruction": np.array(["reach", "grasp"])}
    np.savez(tmp_path / "two.npz", **changed)  # type: ignore[arg-type]
    dataset = EpisodeDataset(tmp_path / "two.npz")
    assert dataset.instructions == ["task 2", "reach"]
    assert any("10 has 2 for 4 steps): the first is read" in w for w in dataset.warnings)

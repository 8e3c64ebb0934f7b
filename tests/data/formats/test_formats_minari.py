"""Minari datasets: written by the package itself, and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.format import KeyMap

h5py = pytest.importorskip("h5py", reason="needs the extra `minari`")
minari = pytest.importorskip("minari", reason="needs the extra `minari`")
from corruption import corrupt, read_all  # noqa: E402
from gymnasium import spaces  # noqa: E402
from minari.data_collector import EpisodeBuffer  # noqa: E402
from minari.dataset.minari_storage import MinariStorage  # noqa: E402

LENGTHS = (3, 4)
OBSERVATIONS = spaces.Dict(
    {
        "small": spaces.Box(0, 255, (6, 8, 3), np.uint8),
        "large": spaces.Box(0, 255, (32, 40, 3), np.uint8),
        "arm": spaces.Dict({"q": spaces.Box(-9, 9, (3,)), "grip": spaces.Discrete(2)}),
        "mission": spaces.Text(40),
    }
)


def pixels(number: int, *size: int) -> np.ndarray:
    return np.random.default_rng(number).integers(
        0, 256, (LENGTHS[number] + 1, *size, 3), dtype=np.uint8
    )


def numbers(number: int, rows: int, width: int) -> np.ndarray:
    return np.random.default_rng([number, width]).normal(size=(rows, width)).astype(np.float32)


def buffer(number: int) -> EpisodeBuffer:
    L = LENGTHS[number]
    return EpisodeBuffer(
        id=number,
        seed=number + 5,
        options={"level": "easy"},
        observations={
            "small": list(pixels(number, 6, 8)),
            "large": list(np.full_like(pixels(number, 32, 40), 30 * number + 60)),
            "arm": {"q": list(numbers(number, L + 1, 3)), "grip": [t % 2 for t in range(L + 1)]},
            "mission": [f"do task {number}"] * (L + 1),
        },
        actions=list(numbers(number, L, 2)),
        rewards=[float(t) for t in range(L)],
        terminations=[t == L - 1 and number == 1 for t in range(L)],
        truncations=[t == L - 1 and number == 0 for t in range(L)],
        infos={"success": [t == L and number == 1 for t in range(L + 1)]},
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("minari") / "toy-v0"
    (root / "data").mkdir(parents=True)
    storage = MinariStorage.new(root / "data", OBSERVATIONS, spaces.Box(-9, 9, (2,)))
    storage.update_episodes([buffer(number) for number in range(2)])
    storage.update_metadata({"dataset_id": "toy-v0", "minari_version": minari.__version__})
    return root


@pytest.fixture
def toy(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "toy-v0")
    return tmp_path / "toy-v0"


def test_reads_what_the_package_wrote(toy: Path) -> None:
    dataset = EpisodeDataset(toy)
    assert dataset.spec.cameras == {"large": (32, 40), "small": (6, 8)}
    assert dataset.spec.state_names == ("grip", "q_0", "q_1", "q_2")
    assert dataset.spec.action_names == ("action_0", "action_1")
    assert dataset.warnings == [
        "does not say its control rate: 20 Hz is assumed; give it (`control_hz=5`)"
    ]
    assert dataset.metadata["dataset_id"] == "toy-v0"
    for number, L in enumerate(LENGTHS):
        episode = dataset.episode(number)
        np.testing.assert_array_equal(episode.actions, numbers(number, L, 2))
        np.testing.assert_array_equal(episode.state[:, 1:], numbers(number, L + 1, 3)[:L])
        np.testing.assert_array_equal(episode.state[:, 0], np.arange(L) % 2)
        np.testing.assert_array_equal(episode.rewards, np.arange(L))
        np.testing.assert_array_equal(episode.frames("small"), pixels(number, 6, 8)[:L])
        assert abs(episode.frames("large").astype(int) - (30 * number + 60)).max() <= 2
        assert episode.success.tolist() == [False] * (L - 1) + [number == 1]
        assert (episode.terminated, episode.instruction) == (number == 1, f"do task {number}")
        assert (episode.info["seed"], episode.info["options/level"]) == (number + 5, "easy")
    assert EpisodeDataset(toy / "data").num_episodes == 2


def test_agrees_with_the_package(toy: Path) -> None:
    dataset = EpisodeDataset(toy)
    for number, theirs in enumerate(minari.MinariDataset(toy / "data")):
        ours = dataset.episode(number)
        np.testing.assert_array_equal(ours.frames("small"), theirs.observations["small"][:-1])
        np.testing.assert_array_equal(ours.frames("large"), theirs.observations["large"][:-1])
        np.testing.assert_array_equal(ours.actions, theirs.actions)


def test_trains_directly(toy: Path) -> None:
    batch = Windows(EpisodeDataset(toy), history=1, chunk=2).batch(np.array([4]))
    np.testing.assert_array_equal(batch.images["small"][0, 0], pixels(1, 6, 8)[1])
    np.testing.assert_array_equal(batch.actions[0, 0], numbers(1, 4, 2)[1:3])
    assert list(dict(EpisodeDataset(toy).images("large", 2, 5))) == [2, 3, 4]


def test_flat_observations_discrete_actions_and_raw_images(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    space = spaces.Box(-9, 9, (2,))
    storage = MinariStorage.new(tmp_path / "data", space, spaces.Discrete(3), jpeg_encoding=False)
    ends = [False, True]
    storage.update_episodes(
        [
            EpisodeBuffer(
                None,
                None,
                None,
                list(np.ones((3, 2), np.float32)),
                [2, 1],
                [0.0, 1.0],
                ends,
                ends,
                None,
            )
        ]
    )
    dataset = EpisodeDataset(tmp_path, keys=KeyMap(task="balance", control_hz=50))
    assert (dataset.spec.state_names, dataset.spec.action_names) == (
        ("state_0", "state_1"),
        ("action",),
    )
    assert (dataset.instructions, dataset.spec.control_hz, dataset.warnings) == (
        ["balance"],
        50.0,
        [],
    )
    assert dataset.columns.actions.tolist() == [[2], [1]]


def test_keys(toy: Path) -> None:
    keys = KeyMap(
        cameras={"main": "small"},
        state=["arm/q", "rewards"],
        action=["actions", "arm/grip"],
        reward="terminations",
        success="terminations",
        instruction="options/level",
        control_hz=7,
    )
    dataset = EpisodeDataset(toy, keys=keys)
    assert (dataset.spec.cameras, dataset.spec.control_hz) == ({"main": (6, 8)}, 7.0)
    assert dataset.spec.state_names == ("q_0", "q_1", "q_2", "rewards")
    assert dataset.spec.action_names == ("action_0", "action_1", "grip")
    assert (dataset.instructions, dataset.warnings) == (["easy"], [])
    assert dataset.columns.rewards.tolist() == [0] * 6 + [1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"cameras": {"main": "side"}},
            "no 'side' to read as camera 'main'; it has: observations/large",
        ),
        ({"state": ["joints"]}, "no 'joints' to read as state; it has: actions"),
        ({"action": ["mission"]}, "no 'mission' to read as action"),
        ({"action": []}, "the key `action` is empty"),
        ({"reward": "r"}, "no 'r' to read as reward"),
        (
            {"instruction": "words"},
            "no 'words' to read as instruction; it has: observations/mission, id",
        ),
        ({"split": "train"}, "has no splits"),
    ],
)
def test_keys_that_it_lacks(toy: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(toy, keys=KeyMap(**keys))


def replaced(name: str, values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with h5py.File(root / "data/main_data.hdf5", "a") as file:
            del file[name]
            if values is not None:
                file[name] = values

    return change


def metadata(**values: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "data/metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            replaced("episode_1/rewards", np.zeros(3)),
            "episode_1 has 4 actions and 3 of 'rewards'",
        ),
        (replaced("episode_1/rewards", None), "episode_1 lacks 'rewards', which episode_0 has"),
        (
            replaced("episode_1/actions", np.zeros((4, 3))),
            r"actions has shape \(4, 3\), expected 4 x 2",
        ),
        (replaced("episode_1/actions", np.zeros((3, 2))), "episode_1 has 3 actions and 5 of"),
        (
            replaced("episode_1/actions", np.full((4, 2), np.nan)),
            r"episode 1 \(episode_1\): actions: step 0, 'action_0'",
        ),
        (
            replaced("episode_1/observations/small", np.zeros((5, 6, 9, 3), np.uint8)),
            r"is uint8 \(5, 6, 9, 3\), expected uint8 \(4, 6, 8, 3\)",
        ),
        (
            replaced("episode_1/observations/small", np.zeros((2, 6, 8, 3), np.uint8)),
            r"is uint8 \(2, 6, 8, 3\), expected uint8 \(4, 6, 8, 3\)",
        ),
        (
            replaced("episode_1/actions", h5py.ExternalLink("other", "/x")),
            "episode_1/actions is a link to elsewhere",
        ),
        (metadata(total_episodes=3), "holds 2 episodes, metadata.json says 3"),
        (metadata(data_format="arrow"), "data_format is 'arrow'"),
        (lambda root: (root / "data/metadata.json").unlink(), r"metadata.json: no such file"),
        (
            lambda root: (root / "data/metadata.json").write_text("[]"),
            "metadata.json: expected keys and values",
        ),
        (lambda root: (root / "data/main_data.hdf5").unlink(), r"main_data.hdf5: no such file"),
        (
            lambda root: (root / "data/main_data.hdf5").write_bytes(b"HDF"),
            "main_data.hdf5: is damaged or no HDF5 file",
        ),
    ],
)
def test_contradictions_are_named(toy: Path, change: Callable[[Path], None], expected: str) -> None:
    change(toy)
    with pytest.raises(DataError, match=expected):
        read_all(toy)


def test_a_link_that_leaves_the_folder(toy: Path, tmp_path: Path) -> None:
    (toy / "data/main_data.hdf5").rename(tmp_path / "outside")
    (toy / "data/main_data.hdf5").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leads out of the dataset's folder"):
        EpisodeDataset(toy)


def test_random_damage_raises_nothing_else(toy: Path, tmp_path: Path) -> None:
    files = ["data/main_data.hdf5", "data/main_data.hdf5", "data/metadata.json"]
    assert corrupt(toy, files, tmp_path / "copies", times=60) > 20


def test_parts_of_keys(toy: Path) -> None:
    keys = KeyMap(action=["action_1"], state=["arm/q[0,2]", "grip"], success="rewards")
    dataset = EpisodeDataset(toy, keys=keys)
    whole = EpisodeDataset(toy)
    np.testing.assert_array_equal(dataset.columns.actions, whole.columns.actions[:, 1:])
    assert dataset.spec.state_names == ("q_0", "q_2", "grip")
    np.testing.assert_array_equal(dataset.columns.state, whole.columns.state[:, [1, 3, 0]])
    np.testing.assert_array_equal(dataset.columns.success, whole.columns.rewards > 0)
    assert whole.reader.recorded == {"rewards", "success", "terminated"}


def test_an_instruction_for_each_step(toy: Path) -> None:
    with h5py.File(toy / "data/main_data.hdf5", "r+") as file:
        missions = file["episode_1/observations/mission"]
        missions[1:] = [b"lift it"] * LENGTHS[1]
    dataset = EpisodeDataset(toy)
    assert dataset.instructions == ["do task 0", "do task 1", "lift it"]
    assert dataset.task_of_frames.tolist() == [0, 0, 0, 1, 2, 2, 2]

"""robomimic's HDF5 files: read as laid out, with keys, damaged and contradictory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.format import KeyMap

h5py = pytest.importorskip("h5py", reason="needs the extra `robomimic`")
from corruption import corrupt, read_all  # noqa: E402

ENV = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "reward_shaping": False}}
LENGTHS = {2: 3, 10: 4}


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(
        0, 256, (LENGTHS[number], 5, 7, 3), dtype=np.uint8
    )


def numbers(number: int, width: int) -> np.ndarray:
    return np.random.default_rng([number, width]).normal(size=(LENGTHS[number], width))


@pytest.fixture
def lift(tmp_path: Path) -> Path:
    path = tmp_path / "lift.hdf5"
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV)
        for number, L in LENGTHS.items():
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = L
            demo["actions"] = numbers(number, 7)
            demo["rewards"] = (np.arange(L) == L - 1).astype(np.float64)
            demo["dones"] = (np.arange(L) == L - 1).astype(np.int64)
            demo["states"] = numbers(number, 9)
            for name, width in (
                ("object", 4),
                ("gripper_qpos", 2),
                ("eef_quat", 5),
                ("eef_pos", 3),
            ):
                demo[f"obs/{'' if name == 'object' else 'robot0_'}{name}"] = numbers(number, width)
            demo.create_dataset(
                "obs/agentview_image", data=pixels(number), compression="gzip", chunks=(1, 5, 7, 3)
            )
            demo["next_obs/agentview_image"] = pixels(number)
        file["mask/valid"] = np.array([b"demo_10"])
    return path


def test_reads_what_was_written(lift: Path) -> None:
    dataset = EpisodeDataset(lift)
    assert (dataset.spec.cameras, dataset.spec.control_hz) == ({"agentview": (5, 7)}, 20.0)
    assert dataset.spec.state_names[:4] == tuple(f"robot0_eef_pos_{i}" for i in range(3)) + (
        "robot0_eef_quat_0",
    )
    assert dataset.spec.action_names[0] == "action_0"
    assert dataset.instructions == ["Lift"]
    assert [w for w in dataset.warnings if "instruction" not in w] == [
        "numbers that are not read: obs/object (3, 4), states (3, 9); the key `state` reads them, "
        "for example state=[obs/robot0_eef_pos,obs/robot0_eef_quat,obs/robot0_gripper_qpos,"
        "obs/object]"
    ]
    assert dataset.reader.recorded == {"rewards", "success", "terminated"}
    assert dataset.metadata["env_args"] == ENV
    for index, (number, L) in enumerate(LENGTHS.items()):
        episode = dataset.episode(index)
        np.testing.assert_array_equal(episode.actions, numbers(number, 7).astype(np.float32))
        state = np.concatenate([numbers(number, width) for width in (3, 5, 2)], axis=1)
        np.testing.assert_array_equal(episode.state, state.astype(np.float32))
        np.testing.assert_array_equal(episode.frames("agentview"), pixels(number))
        assert episode.success.tolist() == [False] * (L - 1) + [True]
        assert (episode.terminated, episode.info) == (True, {"demo": f"demo_{number}"})


def test_trains_directly(lift: Path) -> None:
    batch = Windows(EpisodeDataset(lift), history=1, chunk=2).batch(np.array([4]))
    np.testing.assert_array_equal(batch.images["agentview"][0, 0], pixels(10)[1])
    np.testing.assert_array_equal(batch.actions[0, 0], numbers(10, 7)[1:3].astype(np.float32))
    assert list(dict(EpisodeDataset(lift).images("agentview", 2, 5))) == [2, 3, 4]


def test_keys(lift: Path) -> None:
    with h5py.File(lift, "a") as file:
        file["data/demo_10"].attrs["words"] = "lift the cube"
    keys = KeyMap(
        cameras={"main": "agentview_image", "after": "next_obs/agentview_image"},
        state=["object", "states"],
        action=["obs/robot0_eef_pos", "rewards"],
        reward="dones",
        success="dones",
        instruction="words",
        control_hz=7,
        split="valid",
    )
    dataset = EpisodeDataset(lift, keys=keys)
    assert dataset.num_episodes == 1
    assert (dataset.spec.cameras, dataset.spec.control_hz) == (
        {"main": (5, 7), "after": (5, 7)},
        7.0,
    )
    expected = np.concatenate([numbers(10, 4), numbers(10, 9)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(dataset.columns.state, expected)
    assert dataset.spec.action_names == (*(f"robot0_eef_pos_{i}" for i in range(3)), "rewards")
    assert (dataset.instructions, dataset.warnings) == (["lift the cube"], [])
    assert dataset.columns.rewards.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"cameras": {"main": "side"}},
            "no 'side' to read as camera 'main'; it has: .*obs/agentview_image",
        ),
        ({"state": ["joints"]}, "no 'joints' to read as state; it has: actions"),
        ({"action": ["agentview_image"]}, "no 'agentview_image' to read as action"),
        ({"action": []}, "no numbers as action"),
        ({"reward": "r"}, "no 'r' to read as reward"),
        ({"success": "actions"}, "no 'actions' to read as success"),
        ({"instruction": "words"}, "no 'words' to read as instruction; it has: .*num_samples"),
        ({"split": "train"}, "no mask 'train'; it has: valid"),
    ],
)
def test_keys_that_it_lacks(lift: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(lift, keys=KeyMap(**keys))


def test_libero(tmp_path: Path) -> None:
    """Its instruction is in `problem_info`, its cameras and states have other names."""
    path = tmp_path / "libero.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["problem_info"] = json.dumps(
            {"language_instruction": "open the drawer"}
        )
        file["data/demo_0/actions"] = np.zeros((2, 7))
        file["data/demo_0/obs/ee_pos"] = np.ones((2, 3))
        file["data/demo_0/obs/gripper_states"] = np.ones((2, 2))
        file["data/demo_0/obs/agentview_rgb"] = np.zeros((2, 5, 7, 3), np.uint8)
    dataset = EpisodeDataset(path)
    assert (dataset.instructions, dataset.spec.cameras) == (
        ["open the drawer"],
        {"agentview_rgb": (5, 7)},
    )
    assert dataset.spec.state_names == (
        "ee_pos_0",
        "ee_pos_1",
        "ee_pos_2",
        "gripper_states_0",
        "gripper_states_1",
    )
    assert dataset.warnings == [
        "does not say its control rate: 20 Hz is assumed; give it (`control_hz=5`)"
    ]


def replaced(name: str, values: np.ndarray) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        del file[name]
        file[name] = values

    return change


def attribute(name: str, value: Any) -> Callable[[Any], None]:
    return lambda file: file["data"].attrs.__setitem__(name, value)


def linked(file: Any) -> None:
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = h5py.ExternalLink("other.hdf5", "/data")


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3, 7), "f8")
    layout[:] = h5py.VirtualSource("other.hdf5", "data", (3, 7))
    del file["data/demo_2/actions"]
    file["data/demo_2"].create_virtual_dataset("actions", layout)


def external(file: Any) -> None:
    del file["data/demo_2/actions"]
    file["data/demo_2"].create_dataset("actions", (3, 7), "f8", external=[("other.bin", 0, 168)])


def unwritten(file: Any) -> None:
    """Space that was reserved and never filled reads as zeros."""
    del file["data/demo_2/actions"]
    file["data/demo_2"].create_dataset("actions", (3, 7), "f8", chunks=(1, 7))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            replaced("data/demo_10/actions", np.zeros((4, 6))),
            r"demo_10/actions has shape \(4, 6\), expected 4 x 7",
        ),
        (
            replaced("data/demo_10/actions", np.zeros((3, 7))),
            "demo_10 has 3 actions, num_samples says 4",
        ),
        (
            replaced("data/demo_10/rewards", np.zeros(3)),
            "demo_10 has 4 actions and 3 of 'rewards'",
        ),
        (
            replaced("data/demo_10/obs/robot0_eef_pos", np.zeros((4, 2))),
            r"robot0_eef_pos has shape \(4, 2\)",
        ),
        (
            replaced("data/demo_10/obs/agentview_image", np.zeros((4, 5, 6, 3), np.uint8)),
            r"is uint8 \(4, 5, 6, 3\), expected uint8 \(4, 5, 7, 3\)",
        ),
        (
            replaced("data/demo_10/obs/agentview_image", np.zeros((4, 5, 7, 3))),
            r"expected uint8 \(4, 5, 7, 3\)",
        ),
        (
            replaced("data/demo_10/actions", np.full((4, 7), np.nan)),
            r"episode 1 \(demo_10\): actions: step 0, 'action_0'",
        ),
        (
            replaced("mask/valid", np.array([b"demo_3"])),
            "mask 'valid' names 'demo_3', which is not in 'data'",
        ),
        (
            lambda file: file["data/demo_10"].pop("rewards"),
            "demo_10 lacks 'rewards', which demo_2 has",
        ),
        (
            lambda file: [file["data"].pop(name) for name in list(file["data"])],
            "no demonstrations with 'actions'",
        ),
        (attribute("env_args", "{"), "env_args'.*is no JSON"),
        (attribute("env_args", "[]"), "env_args'.*expected keys and values"),
        (linked, "demo_2/actions is a link to elsewhere"),
        (virtual, "demo_2/actions lies in other files"),
        (external, "demo_2/actions lies in other files"),
        (unwritten, "demo_2/actions: says shape .* the file holds less"),
    ],
)
def test_contradictions_are_named(lift: Path, change: Callable[[Any], None], expected: str) -> None:
    with h5py.File(lift, "a") as file:
        change(file)
    with pytest.raises(DataError, match=expected):
        read_all(lift, keys=KeyMap(split="valid") if "mask" in expected else None)


def test_another_layout(lift: Path) -> None:
    """Groups that do not lie in `data` are read as arrays per episode."""
    expected = EpisodeDataset(lift).columns.actions
    with h5py.File(lift, "a") as file:
        file.move("data", "episodes")
    with pytest.raises(DataError, match=r"has no group 'data' \(it has: episodes, mask\)"):
        EpisodeDataset(lift, format="robomimic")
    np.testing.assert_array_equal(EpisodeDataset(lift).columns.actions, expected)


def test_cut_off_anywhere(lift: Path) -> None:
    whole = lift.read_bytes()
    for cut in np.linspace(0, len(whole) - 1, 40).astype(int):
        lift.write_bytes(whole[:cut])
        expected = "is damaged or no HDF5 file" if cut else "is empty"
        with pytest.raises(DataError, match=f"lift.hdf5: {expected}"):
            EpisodeDataset(lift)


def test_random_damage_raises_nothing_else(lift: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    assert corrupt(lift, [""], tmp_path / "copies", times=60) > 20


def test_parts_of_keys_and_nothing_to_see(lift: Path) -> None:
    keys = KeyMap(
        action=["action_6", "actions[:2]"], state=["robot0_eef_quat_4"], success="rewards"
    )
    dataset = EpisodeDataset(lift, keys=keys)
    whole = EpisodeDataset(lift)
    np.testing.assert_array_equal(dataset.columns.actions, whole.columns.actions[:, [6, 0, 1]])
    np.testing.assert_array_equal(dataset.columns.state[:, 0], whole.columns.state[:, 7])
    with h5py.File(lift, "a") as file:
        for number in LENGTHS:
            del file[f"data/demo_{number}/obs"]
            del file[f"data/demo_{number}/next_obs"]
    bare = EpisodeDataset(lift)
    expected = (
        "no state is read; the key `state` can name: states (3, 9); for example state=[states]"
    )
    assert expected in bare.warnings
    assert EpisodeDataset(lift, keys=KeyMap(state=["states"])).spec.state_dim == 9


@pytest.mark.parametrize("place", ["language", "obs/lang"])
def test_an_instruction_for_each_step(lift: Path, place: str) -> None:
    with h5py.File(lift, "r+") as file:
        for number, L in LENGTHS.items():
            texts = [b"reach"] + [b"lift"] * (L - 1)
            # as strings of any length, or of one
            kind = h5py.string_dtype() if number == 2 else "S8"
            file[f"data/demo_{number}"].create_dataset(place, data=texts, dtype=kind)
    dataset = EpisodeDataset(lift)
    assert dataset.instructions == ["reach", "lift"]
    assert dataset.task_of_frames.tolist() == [0, 1, 1, 0, 1, 1, 1]
    assert dataset.episode(0, images=False).instructions == ["reach", "lift", "lift"]

"""Arrays per episode: each public layout as its documentation describes it, and its numbers as h5py,
NumPy or zarr read them by hand."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vla
from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.format import KeyMap

h5py = pytest.importorskip("h5py", reason="needs the extra `hdf5`")
from corruption import corrupt  # noqa: E402

LENGTHS = (6, 9)


def pixels(seed: int, L: int, *size: int) -> np.ndarray:
    return np.random.default_rng([seed, L]).integers(0, 256, (L, *size, 3), dtype=np.uint8)


def numbers(seed: int, L: int, width: int) -> np.ndarray:
    return np.random.default_rng([seed, L, width]).normal(size=(L, width)).astype(np.float32)


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decoded(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


# --- public layouts -------------------------------------------------------------------------------


def aloha(folder: Path, *, packed: bool = False) -> Path:
    """ACT's record_episodes.py: episode_N.hdf5, compressed pictures filled up with zeros."""
    folder.mkdir()
    for number, L in enumerate(LENGTHS):
        with h5py.File(folder / f"episode_{number}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file.attrs["compress"] = packed
            file["action"] = numbers(1, L, 14)
            for name in ("qpos", "qvel", "effort"):
                file[f"observations/{name}"] = numbers(len(name), L, 14)
            for camera in ("top", "left_wrist"):
                images = pixels(number, L, 16, 24)
                if packed:
                    files = [jpeg(image) for image in images]
                    longest = max(map(len, files))
                    images = np.stack([np.pad(data, (0, longest - len(data))) for data in files])
                file[f"observations/images/{camera}"] = images
            if packed:
                file["compress_len"] = np.zeros((2, L))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_aloha(tmp_path: Path, packed: bool) -> None:
    dataset = EpisodeDataset(aloha(tmp_path / "d", packed=packed))
    assert dataset.spec.cameras == {"top": (16, 24), "left_wrist": (16, 24)}
    assert dataset.spec.state_names == tuple(f"qpos_{i}" for i in range(14))
    for number in range(2):
        episode = dataset.episode(number)
        with h5py.File(tmp_path / f"d/episode_{number}.hdf5") as file:
            np.testing.assert_array_equal(episode.actions, file["action"][()])
            np.testing.assert_array_equal(episode.state, file["observations/qpos"][()])
            stored = file["observations/images/top"][()]
            if packed:
                stored = np.stack([decoded(bytes(row)) for row in stored])
            np.testing.assert_array_equal(episode.frames("top"), stored)
    assert any(
        "observations/effort (6, 14), observations/qvel (6, 14)" in line
        and "state=[observations/qpos,observations/effort]" in line
        for line in dataset.warnings
    )
    assert dataset.reader.recorded == frozenset()
    batch = Windows(dataset, history=1, chunk=2).batch(np.array([7]))
    np.testing.assert_array_equal(batch.actions[0, 0], numbers(1, 9, 14)[1:3])


def test_aloha_keys(tmp_path: Path) -> None:
    keys = KeyMap(
        cameras={"top": "observations/images/top"},
        state=["observations/qpos[:6]", "qvel[13]"],
        action=["action_0", "action[7:9]"],
        control_hz=50,
        task="open the box",
    )
    dataset = EpisodeDataset(aloha(tmp_path / "d"), keys=keys)
    assert dataset.warnings == []
    assert dataset.spec.action_names == ("action_0", "action_7", "action_8")
    assert dataset.spec.state_names == (*(f"qpos_{i}" for i in range(6)), "qvel_13")
    episode = dataset.episode(1)
    np.testing.assert_array_equal(episode.actions, numbers(1, 9, 14)[:, [0, 7, 8]])


def test_npz_files_in_folders(tmp_path: Path) -> None:
    for number, L in enumerate(LENGTHS):
        folder = tmp_path / f"split_{number}/episode_{number:03d}"
        folder.mkdir(parents=True)
        np.savez(
            folder / "trajectory.npz",
            obs_rgb=pixels(1, L + 1, 8, 8),
            obs_state=numbers(2, L + 1, 5),
            actions=numbers(3, L, 2),
            dones=np.arange(L) == L - 1,
            success=np.array([number == 1]),
        )
        described = {"instruction": f"task {number}", "fps": 12, "operator": "B"}
        (folder / "meta.json").write_text(json.dumps(described))
    dataset = EpisodeDataset(tmp_path)
    assert (dataset.instructions, dataset.spec.control_hz) == (["task 0", "task 1"], 12)
    assert dataset.warnings == []
    assert dataset.episodes["success"].tolist() == [False, True]
    assert dataset.reader.recorded == {"success", "terminated"}
    episode = dataset.episode(1)
    np.testing.assert_array_equal(episode.state, numbers(2, 10, 5)[:9])
    np.testing.assert_array_equal(episode.frames("obs_rgb"), pixels(1, 10, 8, 8)[:9])
    assert (episode.terminated, episode.info["operator"]) == (True, "B")
    only = EpisodeDataset(tmp_path, keys=KeyMap(split="split_1"))
    assert only.instructions == ["task 1"]
    with pytest.raises(DataError, match="no folder 'test' to read as split; it has: split_0"):
        EpisodeDataset(tmp_path, keys=KeyMap(split="test"))
    path = tmp_path / "split_0/episode_000/trajectory.npz"
    assert EpisodeDataset(path).num_episodes == 1


@pytest.mark.parametrize("limits", [False, True])
def test_d4rl(tmp_path: Path, limits: bool) -> None:
    """Flat arrays; an episode ends at a terminal or at a time limit."""
    path = tmp_path / "hopper.hdf5"
    terminals = np.zeros(20, bool)
    timeouts = np.zeros(20, bool)
    terminals[[5, 14]] = True
    timeouts[9] = limits
    with h5py.File(path, "w") as file:
        file["observations"] = numbers(1, 20, 4)
        file["next_observations"] = numbers(1, 20, 4)
        file["actions"] = numbers(2, 20, 2)
        file["rewards"] = np.arange(20.0)
        file["terminals"] = terminals
        if limits:
            file["timeouts"] = timeouts
        file["infos/qpos"] = numbers(3, 20, 3)
        file["metadata/algorithm"] = "SAC"
        file["metadata/policy/fc0/weight"] = np.zeros((4, 4))
    dataset = EpisodeDataset(path)
    lengths = [6, 4, 5, 5] if limits else [6, 9, 5]
    assert dataset.reader.episodes["length"].tolist() == lengths
    np.testing.assert_array_equal(dataset.columns.state, numbers(1, 20, 4))
    assert dataset.columns.rewards.tolist() == list(range(20))
    ends = np.cumsum(lengths) - 1
    assert dataset.columns.terminated[ends].tolist() == terminals[ends].tolist()
    assert dataset.reader.recorded == {"rewards", "terminated"}
    text = "\n".join(dataset.warnings)
    assert "`terminals` or `timeouts` mark" in text if limits else "`terminals` mark" in text
    assert "last 5 steps have no such mark" in text
    assert "infos/qpos (6, 3)" in text
    solved = EpisodeDataset(path, keys=KeyMap(success="rewards"))
    assert solved.columns.success.tolist() == [False] + [True] * 19


def test_calvin(tmp_path: Path) -> None:
    """One file per frame; the annotations are a pickle, which is never loaded."""
    folder = tmp_path / "training"
    (folder / "lang_annotations").mkdir(parents=True)
    np.save(folder / "ep_start_end_ids.npy", np.array([[10, 14], [20, 22]]))
    frames = [*range(10, 15), *range(20, 23)]
    for frame in frames:
        np.savez(
            folder / f"episode_{frame:07d}.npz",
            actions=np.full(7, -frame, np.float64),
            rel_actions=np.full(7, frame / 100),
            robot_obs=np.full(15, frame, np.float64),
            scene_obs=np.zeros(24),
            rgb_static=np.full((20, 20, 3), frame, np.uint8),
            rgb_gripper=np.full((8, 8, 3), frame, np.uint8),
            depth_static=np.zeros((20, 20), np.float32),
        )
    with open(folder / "lang_annotations/auto_lang_ann.npy", "wb") as file:
        pickle.dump({"language": {"ann": ["never"]}}, file)
    dataset = EpisodeDataset(tmp_path)
    assert dataset.reader.episodes["length"].tolist() == [5, 3]
    np.testing.assert_allclose(dataset.columns.actions[:, 0], np.array(frames) / 100)
    np.testing.assert_array_equal(dataset.columns.state[:, 0], frames)
    assert dataset.spec.cameras == {"rgb_static": (20, 20), "rgb_gripper": (8, 8)}
    images = [int(image[0, 0, 0]) for _, image in dataset.images("rgb_gripper")]
    assert images == frames
    text = "\n".join(dataset.warnings)
    assert "auto_lang_ann.npy" in text
    assert "pickle" in text
    assert "`task=WORDS`" in text
    assert "depth_static is float32" in text
    assert "actions (5, 7)" in text
    (folder / "episode_0000012.npz").unlink()
    with pytest.raises(DataError, match=r"training: frame 12 is missing"):
        EpisodeDataset(tmp_path)


def test_maniskill(tmp_path: Path) -> None:
    path = tmp_path / "trajectory.h5"
    with h5py.File(path, "w") as file:
        for number, L in enumerate(LENGTHS):
            group = file.create_group(f"traj_{number}")
            group["actions"] = numbers(1, L, 8)
            group["obs/agent/qpos"] = numbers(2, L + 1, 9)
            group["obs/agent/qvel"] = numbers(3, L + 1, 9)
            group["obs/sensor_data/base_camera/rgb"] = pixels(number, L + 1, 16, 16)
            group["obs/sensor_data/base_camera/depth"] = np.zeros((L + 1, 16, 16, 1), np.int16)
            group["obs/sensor_param/base_camera/extrinsic_cv"] = np.zeros((L + 1, 3, 4))
            group["env_states/actors/cube"] = np.zeros((L + 1, 13))
            group["success"] = np.arange(L) == L - 1
            group["terminated"] = np.arange(L) == L - 1
            group["truncated"] = np.zeros(L, bool)
            group["rewards"] = numbers(4, L, 1)[:, 0]
    episodes = [{"episode_id": i, "episode_seed": 70 + i, "success": True} for i in range(2)]
    described = {"env_info": {"env_id": "PickCube-v1"}, "episodes": episodes}
    path.with_suffix(".json").write_text(json.dumps(described))
    dataset = EpisodeDataset(path)
    assert dataset.spec.cameras == {"base_camera": (16, 16)}
    assert dataset.instructions == ["PickCube-v1"]
    episode = dataset.episode(1)
    with h5py.File(path) as file:
        group = file["traj_1"]
        np.testing.assert_array_equal(episode.actions, group["actions"][()])
        np.testing.assert_array_equal(episode.state, group["obs/agent/qpos"][:-1])
        stored = group["obs/sensor_data/base_camera/rgb"][:-1]
        np.testing.assert_array_equal(episode.frames("base_camera"), stored)
        np.testing.assert_array_equal(episode.rewards, group["rewards"][()])
    assert episode.success.tolist() == [False] * 8 + [True]
    assert (episode.terminated, episode.info["episode_seed"]) == (True, 71)
    text = "\n".join(dataset.warnings)
    assert "base_camera/depth is int16" in text
    assert "obs/agent/qvel" in text


def test_groups_at_the_root_and_a_folder_of_libero_files(tmp_path: Path) -> None:
    (tmp_path / "libero").mkdir()
    for task in ("open", "close"):
        with h5py.File(tmp_path / f"libero/{task}_demo.hdf5", "w") as file:
            words = json.dumps({"language_instruction": f"{task} the drawer"})
            file.create_group("data").attrs["problem_info"] = words
            for number, L in enumerate(LENGTHS):
                file[f"data/demo_{number}/actions"] = numbers(number, L, 7)
                file[f"data/demo_{number}/obs/joint_states"] = numbers(5, L, 7)
                file[f"data/demo_{number}/obs/agentview_rgb"] = pixels(number, L, 8, 8)
    dataset = EpisodeDataset(tmp_path / "libero")
    assert dataset.num_episodes == 4
    assert dataset.instructions == ["close the drawer", "open the drawer"]
    np.testing.assert_array_equal(dataset.episode(3).actions, numbers(1, 9, 7))
    with (
        h5py.File(tmp_path / "libero/open_demo.hdf5") as file,
        h5py.File(tmp_path / "root.hdf5", "w") as other,
    ):
        for number in range(2):
            file.copy(f"data/demo_{number}", other)
    dataset = EpisodeDataset(tmp_path / "root.hdf5")
    assert [dataset.reader.episode_name(i) for i in range(2)] == [
        "episode 0 (demo_0)",
        "episode 1 (demo_1)",
    ]
    np.testing.assert_array_equal(dataset.episode(0).state, numbers(5, 6, 7))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_diffusion_policy(tmp_path: Path, zipped: bool, version: int) -> None:
    zarr = pytest.importorskip("zarr", reason="needs the extra `formats`")
    path = tmp_path / ("pusht.zarr.zip" if zipped else "pusht.zarr")
    store: Any = zarr.storage.ZipStore(path, mode="w") if zipped else path
    group = zarr.create_group(store, zarr_format=version)
    stored = {
        "data/action": numbers(1, 15, 2),
        "data/state": numbers(2, 15, 5),
        "data/img": pixels(1, 15, 12, 12).astype(np.float32),
        "meta/episode_ends": np.array([6, 15]),
    }
    for name, values in stored.items():
        array = group.create_array(
            name, shape=values.shape, dtype=values.dtype, chunks=values.shape
        )
        array[:] = values
    if zipped:
        store.close()
    dataset = EpisodeDataset(path, keys=KeyMap(control_hz=10, task="push the T"))
    assert dataset.reader.episodes["length"].tolist() == [6, 9]
    assert dataset.spec.cameras == {"img": (12, 12)}
    assert dataset.warnings == [
        "0/img is float32 (6, 12, 12, 3): its numbers are taken for colours from 0 to 255"
    ]
    again = zarr.open_group(zarr.storage.ZipStore(path) if zipped else path, mode="r")
    np.testing.assert_array_equal(dataset.columns.actions, again["data/action"][:])
    np.testing.assert_array_equal(dataset.columns.state, again["data/state"][:])
    np.testing.assert_array_equal(dataset.episode(1).frames("img"), again["data/img"][6:])


def test_zarr_of_umi(tmp_path: Path) -> None:
    """Its actions are the poses that follow, so that a key has to say so; its end is checked."""
    zarr = pytest.importorskip("zarr", reason="needs the extra `formats`")
    group = zarr.create_group(tmp_path / "umi.zarr", zarr_format=2)
    widths = {"eef_pos": 3, "eef_rot_axis_angle": 3, "gripper_width": 1, "demo_start_pose": 6}
    for name, width in widths.items():
        group[f"data/robot0_{name}"] = numbers(width, 15, width)
    group["data/camera0_rgb"] = pixels(1, 15, 8, 8)
    group["meta/episode_ends"] = np.array([6, 15])
    with pytest.raises(DataError, match=r"no array is named action.*`action=\[data/robot0_"):
        EpisodeDataset(tmp_path / "umi.zarr")
    pose = ["robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"]
    dataset = EpisodeDataset(tmp_path / "umi.zarr", keys=KeyMap(action=pose, state=pose))
    assert dataset.spec.action_dim == dataset.spec.state_dim == 7
    assert dataset.spec.cameras == {"camera0_rgb": (8, 8)}
    np.testing.assert_array_equal(dataset.columns.actions[:, :3], numbers(3, 15, 3))
    group["meta/episode_ends"][:] = [6, 14]
    with pytest.raises(
        DataError, match=r"meta/episode_ends are .* expected rising numbers up to 15"
    ):
        EpisodeDataset(tmp_path / "umi.zarr", keys=KeyMap(action=pose))


# --- what may be odd in any of them ---------------------------------------------------------------


def write(path: Path, L: int = 6, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["action"] = numbers(1, L, 2)
        for name, values in arrays.items():
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pixels(1, 6, 16, 20).transpose(0, 3, 1, 2), "its first axis is taken for the colours"),
        (pixels(1, 6, 16, 20) / np.float32(255), "taken for colours from 0 to 1"),
        (pixels(1, 6, 16, 20).astype(np.float64), "taken for colours from 0 to 255"),
        (
            (pixels(1, 6, 16, 20) / np.float32(255)).transpose(0, 3, 1, 2),
            "taken for colours from 0 to 1",
        ),
    ],
)
def test_forms_of_images(tmp_path: Path, values: np.ndarray, expected: str) -> None:
    dataset = EpisodeDataset(write(tmp_path / "d.h5", cam=values))
    assert dataset.spec.cameras == {"cam": (16, 20)}
    np.testing.assert_array_equal(dataset.episode(0).frames("cam"), pixels(1, 6, 16, 20))
    assert any("cam is" in line and expected in line for line in dataset.warnings)


def vlen(values: list[np.ndarray]) -> Callable[[Any], None]:
    def make(file: Any) -> None:
        packed = file.create_dataset("cam", (len(values),), dtype=h5py.vlen_dtype(np.uint8))
        for row, data in enumerate(values):
            packed[row] = data

    return make


def strings(values: list[np.ndarray]) -> Callable[[Any], None]:
    def make(file: Any) -> None:
        file["cam"] = np.array([data.tobytes() for data in values])

    return make


@pytest.mark.parametrize("form", [vlen, strings])
def test_image_files_in_rows(tmp_path: Path, form: Any) -> None:
    files = [jpeg(image) for image in pixels(1, 6, 16, 20)]
    path = write(tmp_path / "d.h5")
    with h5py.File(path, "a") as file:
        form(files)(file)
    dataset = EpisodeDataset(path)
    assert dataset.spec.cameras == {"cam": (16, 20)}
    expected = np.stack([decoded(data.tobytes()) for data in files])
    np.testing.assert_array_equal(dataset.episode(0).frames("cam"), expected)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("depth", np.zeros((6, 16, 20), np.float32), "one channel, such as depth"),
        ("depth", np.zeros((6, 16, 20, 1), np.uint16), "one channel, such as depth"),
        ("gray", np.zeros((6, 16, 20), np.uint8), "cameras.gray=gray reads it"),
        ("stack", np.zeros((6, 16, 20, 4), np.uint8), "4 channels"),
        ("mask", np.zeros((6, 16, 20), np.uint8), "one channel"),
        ("stack", np.zeros((6, 2, 16, 20, 3), np.uint8), "several for each step"),
        ("rgb", np.full((6, 16, 20, 3), -1.0), "numbers from -1 to -1, expected colours"),
        ("rgb", np.zeros((6, 16, 20, 3), np.int32), "expected uint8"),
    ],
)
def test_pictures_that_are_no_colour_images(
    tmp_path: Path, name: str, values: np.ndarray, expected: str
) -> None:
    dataset = EpisodeDataset(write(tmp_path / "d.h5", **{name: values}))
    assert dataset.spec.cameras == {}
    lines = [line for line in dataset.warnings if f"/{name} is {values.dtype}" in line]
    assert expected in lines[0]
    assert "not read" in lines[0]


def test_floats_beyond_the_range_that_was_taken(tmp_path: Path) -> None:
    values = np.zeros((40, 16, 20, 3), np.float32)
    values[3] = 200  # between the images that are looked at
    dataset = EpisodeDataset(write(tmp_path / "d.h5", 40, cam=values))
    with pytest.raises(DataError, match="cam: step 3: has colours from 200 to 200"):
        list(dataset.images("cam"))


def test_chunks_of_actions(tmp_path: Path) -> None:
    chunks = np.arange(6 * 4 * 2.0).reshape(6, 4, 2)
    np.savez(tmp_path / "d.npz", actions=chunks, state=numbers(1, 6, 3))
    dataset = EpisodeDataset(tmp_path / "d.npz")
    np.testing.assert_array_equal(dataset.columns.actions, chunks[:, 0])
    assert any(
        "chunks of 4 actions for each step: the first of each is read; action=[actions]" in line
        for line in dataset.warnings
    )
    whole = EpisodeDataset(tmp_path / "d.npz", keys=KeyMap(action=["actions"]))
    np.testing.assert_array_equal(whole.columns.actions, chunks.reshape(6, 8))


def test_names_that_say_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", u=numbers(1, 6, 2), x=numbers(2, 6, 3))
    with pytest.raises(DataError, match=r"it has: u \(6, 2\), x \(6, 3\).*`action=\[u\]`"):
        EpisodeDataset(tmp_path / "d.npz")
    dataset = EpisodeDataset(tmp_path / "d.npz", keys=KeyMap(action=["u"]))
    assert "no state is read; the key `state` can name: x (6, 3); for example state=[x]" in (
        dataset.warnings
    )
    named = EpisodeDataset(tmp_path / "d.npz", keys=KeyMap(action=["u_1"], state=["x"]))
    np.testing.assert_array_equal(named.columns.actions[:, 0], numbers(1, 6, 2)[:, 1])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"observations/qpos": numbers(1, 4, 14)}, "episode_1.hdf5 has 9 actions and 4 of"),
        ({"observations/qpos": numbers(1, 9, 13)}, r"has shape \(9, 13\), expected 9 x 14"),
        ({"observations/qpos": None}, "episode_1.hdf5 lacks 'observations/qpos', which episode_0"),
        ({"observations/images/top": None}, "top is missing, expected uint8"),
        ({"observations/images/top": np.zeros((9, 8, 8, 3), np.uint8)}, r"top is uint8 \(9, 8, 8"),
    ],
)
def test_contradictions_name_the_file(
    tmp_path: Path, change: dict[str, np.ndarray | None], expected: str
) -> None:
    folder = aloha(tmp_path / "d")
    with h5py.File(folder / "episode_1.hdf5", "a") as file:
        for name, values in change.items():
            del file[name]
            if values is not None:
                file[name] = values
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(folder)


def test_mistakes_of_ours_are_not_damage(tmp_path: Path, monkeypatch: Any) -> None:
    """An exception that a line of the package raises shows itself."""
    folder = aloha(tmp_path / "d")
    # a function of this package, as the traceback sees it
    code = compile("def broken(dataset):\n    raise KeyError('a mistake')\n", vla.__file__, "exec")
    scope: dict[str, Any] = {}
    exec(code, scope)
    monkeypatch.setattr("vla.data.formats.arrays_parts.hdf5_file.check_stored", scope["broken"])
    with pytest.raises(KeyError, match="a mistake"):
        EpisodeDataset(folder)


def test_random_damage_raises_nothing_else(tmp_path: Path) -> None:
    files = ["episode_0.hdf5", "episode_1.hdf5"]
    (tmp_path / "copies").mkdir()
    assert corrupt(aloha(tmp_path / "d"), files, tmp_path / "copies", times=60) > 15


# --- files of other makers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data.pkl", "is a pickle, which runs code"),
        ("model.pt", "is a file of torch.save: a pickle"),
        ("data.mat", "is a MATLAB file"),
        ("x.tfrecord-00000-of-00001", "is a TFRecord without features.json|features.json: no such"),
        ("data.parquet", "is a table alone; give the folder of the LeRobot dataset"),
        ("film.mp4", "is a video without states and actions"),
        ("meta.json", "is a description without data"),
        ("steps.npy", "is one NumPy array without a name"),
    ],
)
def test_files_that_no_reader_opens(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes(b"x" * 100)
    for root in (tmp_path / "d", tmp_path / "d" / name):
        if "tfrecord" in name and root.is_dir():
            continue
        with pytest.raises(DataError, match=expected):
            EpisodeDataset(root)

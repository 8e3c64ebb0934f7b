"""RLDS datasets in TFRecords: read as written, with the real Bridge data, damaged and
contradictory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corruption import corrupt, damage, read_all
from PIL import Image

from vla.data import EpisodeDataset, Windows
from vla.data.episode import encode_png
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.rlds_parts.tfrecord import example_class, masked_crc

BRIDGE = (
    Path(os.environ.get("VLA_TEST_DATA", Path(__file__).parents[3].parent / "shared/data"))
    / "bridge_rlds"
)
L = 3


def frame(data: bytes) -> bytes:
    """One record as it lies in a file."""
    length = struct.pack("<Q", len(data))
    return (
        length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))
    )


def encode(values: dict[str, Any]) -> bytes:
    """Arrays (flattened) and lists of bytes as a `tf.train.Example`."""
    message = example_class()()
    for name, value in values.items():
        feature = message.features.feature[name]
        if isinstance(value, list):
            feature.bytes_list.value.extend(value)
        elif np.issubdtype(value.dtype, np.floating):
            feature.float_list.value.extend(value.ravel().tolist())
        else:
            feature.int64_list.value.extend(value.ravel().astype(np.int64).tolist())
    return bytes(message.SerializeToString(deterministic=True))


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    return {
        "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
        "tensor": {
            "shape": {"dimensions": [str(v) for v in shape]},
            "dtype": dtype,
            "encoding": "none",
        },
    }


def image(*shape: int) -> dict[str, Any]:
    return {
        "pythonClassName": "Image",
        "image": {"shape": {"dimensions": [str(v) for v in shape]}, "dtype": "uint8"},
    }


def group(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


TEXT = {"pythonClassName": "Text", "text": {}}
STEP: dict[str, Any] = {
    "action": tensor("float32", 2),
    "reward": tensor("float32"),
    "is_terminal": tensor("bool"),
    "language_instruction": TEXT,
    "observation": group(
        front=image(4, 6, 3),
        depth=tensor("float32", 4, 6, 1),
        state=tensor("float32", 3),
        grip=tensor("int32"),
    ),
}


def values(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        "steps/action": rng.normal(size=(L, 2)).astype(np.float32),
        "steps/reward": np.array([0, 0, number % 2], np.float32),
        "steps/is_terminal": np.array([0, 0, number % 2]),
        "steps/language_instruction": [f"task {number % 2}".encode()] * L,
        "steps/observation/front": [encode_png(p) for p in pixels(number)],
        "steps/observation/depth": np.zeros(L * 24, np.float32),
        "steps/observation/state": rng.normal(size=(L, 3)).astype(np.float32),
        "steps/observation/grip": np.arange(L),
        "episode_metadata/id": np.array([number]),
        "episode_metadata/file": [b"somewhere.npy"],
    }


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng([1, number]).integers(0, 256, (L, 4, 6, 3), dtype=np.uint8)


def write(
    folder: Path, records: list[dict[str, Any]], step: dict[str, Any] | None = None, train: int = 2
) -> Path:
    """The records as two splits: `train` episodes, and the rest."""
    folder.mkdir(parents=True)
    metadata = group(id=tensor("int32"), file=TEXT)
    features = group(
        steps={"pythonClassName": "Dataset", "sequence": {"feature": group(**(step or STEP))}}
    )
    features["featuresDict"]["features"]["episode_metadata"] = metadata
    (folder / "features.json").write_text(json.dumps(features))
    splits = {"train": records[:train], "val": records[train:]}
    info = {
        "name": "toy",
        "version": folder.name,
        "fileFormat": "tfrecord",
        "splits": [
            {"name": name, "shardLengths": [str(len(part))]} for name, part in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name, part in splits.items():
        (folder / f"toy-{name}.tfrecord-00000-of-00001").write_bytes(
            b"".join(frame(encode(r)) for r in part)
        )
    return folder


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return write(tmp_path / "toy/1.0.0", [values(n) for n in range(4)])


def test_reads_what_was_written(toy: Path) -> None:
    dataset = EpisodeDataset(toy)
    assert dataset.spec.cameras == {"front": (4, 6)}
    assert dataset.spec.state_names == ("state_0", "state_1", "state_2")
    assert dataset.spec.control_hz == 5.0
    assert any("control rate" in line for line in dataset.warnings)
    for number in range(4):
        episode = dataset.episode(number)
        np.testing.assert_array_equal(episode.actions, values(number)["steps/action"])
        np.testing.assert_array_equal(episode.state, values(number)["steps/observation/state"])
        np.testing.assert_array_equal(episode.rewards, values(number)["steps/reward"])
        np.testing.assert_array_equal(episode.frames("front"), pixels(number))
        assert (episode.terminated, episode.instruction) == (bool(number % 2), f"task {number % 2}")
        split = "train" if number < 2 else "val"
        assert episode.info == {"split": split, "id": number, "file": "somewhere.npy"}


def test_trains_directly(toy: Path) -> None:
    windows = Windows(EpisodeDataset(toy), history=1, chunk=2)
    batch = windows.batch(np.array([L]))
    np.testing.assert_array_equal(batch.images["front"][0, 0], pixels(1)[0])
    np.testing.assert_array_equal(batch.actions[0, 0], values(1)["steps/action"][:2])


def test_frames_of_the_middle(toy: Path) -> None:
    found = dict(EpisodeDataset(toy).images("front", 2, 7))
    assert list(found) == [2, 3, 4, 5, 6]
    assert found[4] == encode_png(pixels(1)[1])


def test_opens_the_newest_version(toy: Path) -> None:
    write(toy.parent / "1.10.0", [values(n) for n in range(3)])
    assert EpisodeDataset(toy.parent).num_episodes == 3
    assert EpisodeDataset(toy).num_episodes == 4


def test_keys(toy: Path) -> None:
    keys = KeyMap(
        cameras={"main": "front"},
        state=["observation/grip", "steps/observation/state"],
        action=["observation/state"],
        success="reward",
        task="tidy up",
        control_hz=3,
        split="val",
    )
    dataset = EpisodeDataset(toy, keys=keys)
    assert (dataset.num_episodes, dataset.spec.control_hz, dataset.warnings) == (2, 3.0, [])
    assert dataset.spec.state_names == ("grip", "state_0", "state_1", "state_2")
    assert dataset.spec.action_names == ("state_0", "state_1", "state_2")
    np.testing.assert_array_equal(dataset.columns.state[:L, 0], np.arange(L))
    assert dataset.episodes["success"].tolist() == [False, True]
    assert dataset.instructions == ["tidy up"]
    assert dataset.spec.cameras == {"main": (4, 6)}
    assert EpisodeDataset(toy, keys=KeyMap(state=[], cameras={})).spec.state_names == ()
    named = EpisodeDataset(toy, keys=KeyMap(task="tidy up", instruction="language_instruction"))
    assert named.instructions == ["task 0", "task 1"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"cameras": {"main": "depth"}},
            r"no 'depth' to read as camera 'main'; it has: steps/observation/front",
        ),
        ({"state": ["joints"]}, "no 'joints' to read as state; it has: steps/action"),
        ({"action": ["language_instruction"]}, "no 'language_instruction' to read as action"),
        ({"action": []}, "no 'action'"),
        ({"reward": "action"}, "no 'action' to read as reward"),
        (
            {"instruction": "words"},
            "no 'words' to read as instruction; it has: .*steps/language_instruction",
        ),
        ({"split": "test"}, "no split 'test'; it has: train, val"),
    ],
)
def test_keys_that_it_lacks(toy: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(toy, keys=KeyMap(**keys))


def test_actions_in_a_dictionary_text_as_numbers_and_discounts(tmp_path: Path) -> None:
    """As RT-1 and Language Table have them."""
    step = {
        "action": group(
            world=tensor("float32", 2), grip=tensor("float32", 1), end=tensor("int32", 3)
        ),
        "discount": tensor("float32"),
        "observation": group(
            instruction=tensor("int32", 8), rgb=tensor("uint8", 2, 2, 3), image=image(-1, -1, 3)
        ),
    }
    picture = io.BytesIO()
    Image.fromarray(pixels(0)[0]).save(picture, format="JPEG")
    record = {
        "steps/action/world": np.array([[1, 2], [3, 4]], np.float32),
        "steps/action/grip": np.array([[5], [6]], np.float32),
        "steps/action/end": np.array([[0, 1, 0], [0, 0, 1]]),
        "steps/discount": np.array([1, 0], np.float32),
        "steps/observation/instruction": np.array([[112, 117, 115, 104, 0, 0, 0, 0]] * 2),
        "steps/observation/rgb": np.arange(24),
        "steps/observation/image": [b"", picture.getvalue()],
        "episode_metadata/id": np.array([0]),
    }
    dataset = EpisodeDataset(write(tmp_path / "1.0.0", [record], step, train=1))
    assert dataset.spec.action_names == ("end_0", "end_1", "end_2", "grip", "world_0", "world_1")
    np.testing.assert_array_equal(dataset.columns.actions, [[0, 1, 0, 5, 1, 2], [0, 0, 1, 6, 3, 4]])
    episode = dataset.episode(0)
    assert (episode.instruction, episode.terminated) == ("push", True)
    np.testing.assert_array_equal(episode.frames("rgb").ravel(), np.arange(24))
    assert dataset.spec.cameras == {"image": (4, 6), "rgb": (2, 2)}
    assert episode.frames("image")[0].max() == 0
    assert any("1 images are empty" in line for line in dataset.warnings)


def test_no_instruction_and_cameras_that_are_always_empty(tmp_path: Path) -> None:
    record = values(0) | {
        "steps/language_instruction": [b""] * L,
        "steps/observation/front": [b""] * L,
    }
    step = STEP | {"observation": group(front=image(-1, -1, 3))}
    dataset = EpisodeDataset(write(tmp_path / "1.0.0", [record], step, train=1))
    assert (dataset.instructions, dataset.spec.cameras) == (["toy"], {})
    assert any("1 of 1 episodes have no instruction" in line for line in dataset.warnings)
    assert any("camera 'front' is left out" in line for line in dataset.warnings)
    assert any("no state is read" in line for line in dataset.warnings)


def test_nan_names_episode_and_step(tmp_path: Path) -> None:
    records = [values(0), values(1)]
    records[1]["steps/action"][2, 1] = np.nan
    dataset = EpisodeDataset(write(tmp_path / "1.0.0", records))
    with pytest.raises(
        DataError, match=r"episode 1 \(.*record 1\): actions: step 2, 'action_1' is nan"
    ):
        _ = dataset.columns


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"steps/action": np.zeros(5, np.float32)},
            "record 1: .* has 5 numbers, expected 2 for each of 2 steps",
        ),
        ({"steps/reward": np.zeros(2, np.float32)}, "record 1: 'steps/reward' has 2 numbers"),
        (
            {"steps/observation/front": [b"x"]},
            "record 1: 'steps/observation/front' has 1 images for 3 steps",
        ),
        ({"steps/action": [b"a"]}, "record 1: 'steps/action' holds bytes, expected numbers"),
        (
            {"steps/language_instruction": [b"\xff"] * L},
            "record 1: 'steps/language_instruction' is no UTF-8",
        ),
        ({"steps/observation/front": np.zeros(3)}, "holds numbers, expected bytes"),
    ],
)
def test_records_that_contradict_the_features(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    folder = write(tmp_path / "1.0.0", [values(0), values(1) | change])
    with pytest.raises(DataError, match=expected):
        read_all(folder)


def test_damage_names_file_and_record(toy: Path) -> None:
    file = toy / "toy-val.tfrecord-00000-of-00001"
    whole = file.read_bytes()
    second = 16 + struct.unpack("<Q", whole[:8])[0]
    for at, expected in (
        (40, "toy-val.*record 0: its checksum is wrong"),
        (second + 3, "toy-val.*record 1: its length at byte"),
        (len(whole) - 1, "toy-val.*record 1: its checksum is wrong"),
    ):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match=expected):
            EpisodeDataset(toy)
    for cut, expected in (
        (second, "holds 1 records, expected 2"),
        (second + 5, "record 1 ends within its header"),
    ):
        file.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=expected):
            EpisodeDataset(toy)
    file.unlink()
    with pytest.raises(DataError, match=r"toy-val.*no such file"):
        EpisodeDataset(toy)


def test_every_change_of_the_records_is_found(toy: Path, tmp_path: Path) -> None:
    files = [f"toy-{split}.tfrecord-00000-of-00001" for split in ("train", "val")]
    assert corrupt(toy, files, tmp_path / "copies", times=100) == 100


def test_damaged_messages_with_right_checksums_raise_nothing_else(toy: Path) -> None:
    whole, rng, refused = encode(values(2)), np.random.default_rng(0), 0
    for _ in range(150):
        records = frame(damage(whole, rng)) + frame(encode(values(3)))
        (toy / "toy-val.tfrecord-00000-of-00001").write_bytes(records)
        try:
            read_all(toy, keys=KeyMap(split="val"))
        except DataError:
            refused += 1
    assert refused > 75


def test_damaged_metadata_raises_nothing_else(toy: Path, tmp_path: Path) -> None:
    assert corrupt(toy, ["features.json", "dataset_info.json"], tmp_path / "copies", times=60) > 20


@pytest.mark.parametrize("value", [None, [], "x", {"a": 1}, 1e400])
def test_metadata_of_wrong_kinds(toy: Path, value: Any) -> None:
    for name in ("features.json", "dataset_info.json"):
        text = (toy / name).read_text()
        for path in paths(json.loads(text)):
            document = json.loads(text)
            place = document
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            (toy / name).write_text(json.dumps(document))
            with contextlib.suppress(DataError):
                EpisodeDataset(toy, format="rlds")
        (toy / name).write_text(text)


def paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    return [p for key, value in items for p in ((*prefix, key), *paths(value, (*prefix, key)))]


def test_names_and_links_that_leave_the_folder(toy: Path, tmp_path: Path) -> None:
    file, text = toy / "toy-val.tfrecord-00000-of-00001", (toy / "dataset_info.json").read_text()
    outside = tmp_path / "outside"
    file.rename(outside)
    file.symlink_to(outside)
    with pytest.raises(DataError, match=r"leads out|expected one beside it"):
        EpisodeDataset(toy)
    info = json.loads(text)
    info["splits"][1]["filepathTemplate"] = "../../outside"
    (toy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"leads out|expected one beside it"):
        EpisodeDataset(toy)


def test_a_download_cache_of_the_hub_is_read(toy: Path, tmp_path: Path) -> None:
    cache = tmp_path / "datasets--some--toy"
    (cache / "snapshots/0123").mkdir(parents=True)
    (cache / "blobs").mkdir()
    for file in toy.iterdir():
        file.rename(cache / "blobs" / file.name)
        (cache / "snapshots/0123" / file.name).symlink_to(cache / "blobs" / file.name)
    assert EpisodeDataset(cache / "snapshots/0123").num_episodes == 4


def test_an_archive_is_not_read(tmp_path: Path) -> None:
    for name in ("data.tar", "data.tar.gz", "data.ZIP"):
        (tmp_path / name).write_bytes(b"x" * 1024)
        for format in (None, "rlds", "robomimic"):
            with pytest.raises(DataError, match="is an archive; unpack it"):
                EpisodeDataset(tmp_path / name, format=format)


@pytest.mark.skipif(not BRIDGE.exists(), reason="no bridge_rlds in the folder of VLA_TEST_DATA")
def test_real_bridge() -> None:
    from rlds_actions import read_actions

    dataset = EpisodeDataset(BRIDGE / "bridge_dataset", keys=KeyMap(control_hz=5))
    files = sorted((BRIDGE / "bridge_dataset/1.0.0").glob("*.tfrecord*"))
    expected = [actions for file in files for actions in read_actions(file, dims=7)]
    np.testing.assert_array_equal(dataset.columns.actions, np.concatenate(expected))
    assert dataset.episodes["length"].tolist() == [10] * 50
    assert dataset.spec.cameras == {f"image_{i}": (64, 64) for i in range(4)}
    assert dataset.spec.state_dim == 7
    assert dataset.columns.state.std() > 0
    assert dataset.instructions[0] == "put cup from counter or drying rack into sink"
    (warning,) = dataset.warnings
    assert warning.startswith("numbers that are not read: language_embedding (512,)")
    batch = Windows(dataset, history=2, chunk=4).batch(np.arange(5))
    assert [float(batch.images[f"image_{i}"].float().std()) > 10 for i in range(4)] == [
        True,
        True,
        True,
        False,
    ]


def test_parts_of_keys_and_what_is_recorded(toy: Path) -> None:
    whole = EpisodeDataset(toy)
    assert whole.reader.recorded == {"rewards", "terminated"}
    text = "\n".join(whole.warnings)
    assert "observation/grip ()" in text
    assert "observation/depth is float32 (4, 6, 1): it is not read" in text
    keys = KeyMap(action=["action_1"], state=["observation/state[1:]", "grip"], success="rewards")
    dataset = EpisodeDataset(toy, keys=keys)
    np.testing.assert_array_equal(dataset.columns.actions, whole.columns.actions[:, 1:])
    assert dataset.spec.state_names == ("state_1", "state_2", "grip")
    np.testing.assert_array_equal(dataset.columns.state[:, :2], whole.columns.state[:, 1:])
    np.testing.assert_array_equal(dataset.columns.success, whole.columns.rewards > 0)
    assert dataset.reader.recorded == {"rewards", "success", "terminated"}


def test_an_instruction_for_each_step(tmp_path: Path) -> None:
    texts = ([b"reach", b"", b"lift"], [b"lift"] * L, [b"", b"reach", b"reach"], [b""] * L)
    records = [values(n) | {"steps/language_instruction": own} for n, own in enumerate(texts)]
    dataset = EpisodeDataset(write(tmp_path / "toy/1.0.0", records))
    assert dataset.instructions == ["reach", "lift", "toy"]
    assert dataset.task_of_frames.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 2, 2, 2]
    assert dataset.episodes["task_index"].tolist() == [0, 1, 0, 2]
    assert any(w.startswith("2 steps have no instruction") for w in dataset.warnings)
    assert any(w.startswith("1 of 4 episodes have no instruction") for w in dataset.warnings)

"""Recordings of ROS, written by the library rosbags and read by hand with it: topics aligned at the
ticks of the control rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.format import KeyMap

pytest.importorskip("rosbags", reason="needs the extra `formats`")
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
MS = 1_000_000
KEYS = {"action": ["/cmd.data"], "state": ["/joint_states.position"], "control_hz": 10}


def header(time: int) -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=time // 10**9, nanosec=time % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="base")


def image(time: int, encoding: str, value: int, padding: int = 0) -> Any:
    channels = {"mono8": 1, "rgba8": 4, "16UC1": 2}.get(encoding, 3)
    pixels = np.zeros((4, 6 * channels + padding), np.uint8)
    pixels[:, 0 : 6 * channels : channels] = value  # the first channel
    return TYPES["sensor_msgs/msg/Image"](
        header(time), 4, 6, encoding, 0, 6 * channels + padding, pixels.reshape(-1)
    )


def messages(episode: int, encoding: str = "rgb8") -> list[tuple[str, int, Any]]:
    """(topic, time in ms, message): actions every 100 ms, joints every 40, a camera every 150."""
    layout = TYPES["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    found: list[tuple[str, int, Any]] = []
    found.append(("/instruction", 0, TYPES["std_msgs/msg/String"](f"task {episode}")))
    for time in range(0, 1000, 40):
        joints = TYPES["sensor_msgs/msg/JointState"](
            header(time * MS),
            ["shoulder", "elbow"],
            np.array([time, episode], np.float64),
            np.zeros(2),
            np.zeros(0),
        )
        found.append(("/joint_states", time, joints))
    for time in range(50, 1000, 100):
        command = TYPES["std_msgs/msg/Float64MultiArray"](layout, np.array([time, -time, 1.0]))
        found.append(("/cmd", time, command))
        pose = TYPES["geometry_msgs/msg/PoseStamped"](
            header(time),
            TYPES["geometry_msgs/msg/Pose"](
                TYPES["geometry_msgs/msg/Point"](float(time), 2.0, 3.0),
                TYPES["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
            ),
        )
        found.append(("/pose", time, pose))
    for time in range(30, 1000, 150):
        found.append(("/front/image_raw", time, image(time * MS, encoding, time % 256, padding=3)))
        data = np.frombuffer(b"\x89PNG", np.uint8)
        depth = TYPES["sensor_msgs/msg/CompressedImage"](
            header(time), "16UC1; compressedDepth", data
        )
        found.append(("/depth/compressed", time, depth))
    return sorted(found, key=lambda each: each[1])


def record(path: Path, episode: int, plugin: Any = StoragePlugin.MCAP, **options: Any) -> Path:
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}
        for topic, time, message in messages(episode, **options):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            data = STORE.serialize_cdr(message, kind)
            writer.write(connections[topic], 10**12 + time * MS, data)
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    for episode in range(2):
        record(folder / f"episode_{episode}", episode)
    return folder


def ticks() -> np.ndarray:
    """ms: from the first action, which is the last topic to begin, to the last action."""
    return np.arange(50, 951, 100)


def test_numbers_are_those_of_the_last_message_at_each_tick(bags: Path) -> None:
    dataset = EpisodeDataset(bags, keys=KeyMap(**KEYS))
    assert dataset.num_episodes == 2
    assert dataset.spec.cameras == {"front_image_raw": (4, 6)}
    assert dataset.spec.state_names == ("shoulder.position", "elbow.position")
    assert dataset.spec.action_names == ("data_0", "data_1", "data_2")
    assert dataset.instructions == ["task 0", "task 1"]
    for number in range(2):
        with AnyReader([bags / f"episode_{number}"]) as reader:
            read = {}
            for topic in ("/joint_states", "/front/image_raw"):
                connections = [each for each in reader.connections if each.topic == topic]
                read[topic] = [
                    (time / MS - 10**6, reader.deserialize(data, each.msgtype))
                    for each, time, data in reader.messages(connections)
                ]
        episode = dataset.episode(number)
        np.testing.assert_array_equal(episode.actions[:, 0], ticks())
        frames = episode.frames("front_image_raw")
        for step, tick in enumerate(ticks()):
            joints = [message for time, message in read["/joint_states"] if time <= tick][-1]
            np.testing.assert_array_equal(episode.state[step], joints.position)
            shown = [message for time, message in read["/front/image_raw"] if time <= tick][-1]
            assert frames[step, :, :, 0].tolist() == [[shown.data[0]] * 6] * 4
            assert not frames[step, :, :, 1:].any()
    assert any("/depth/compressed is left out" in line for line in dataset.warnings)
    assert dataset.reader.recorded == frozenset()
    batch = Windows(dataset, history=1, chunk=2).batch(np.array([12]))
    assert batch.actions[0, 0, :, 0].tolist() == [250, 350]
    assert list(dict(dataset.images("front_image_raw", 3, 12))) == list(range(3, 12))


def test_mcap_file_of_the_library_mcap(bags: Path) -> None:
    """One file by itself; its numbers as the package mcap reads them."""
    decoder = pytest.importorskip("mcap_ros2.decoder")
    reader = pytest.importorskip("mcap.reader")
    path = next((bags / "episode_1").glob("*.mcap"))
    keys = KeyMap(**KEYS | {"state": ["/pose"], "success": "/cmd.data[2]"})
    dataset = EpisodeDataset(path, keys=keys)
    with open(path, "rb") as file:
        decoded = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        expected = [
            list(message.data)
            for _, _, _, message in decoded.iter_decoded_messages(topics=["/cmd"])
        ]
    np.testing.assert_array_equal(dataset.columns.actions, expected)
    assert dataset.spec.state_names[:3] == ("position.x", "position.y", "position.z")
    np.testing.assert_array_equal(dataset.columns.state[:, 0], ticks())
    assert dataset.reader.recorded == {"success"}
    assert dataset.columns.success.all()


def test_sqlite_and_ros1(tmp_path: Path) -> None:
    record(tmp_path / "new", 0, StoragePlugin.SQLITE3)
    keys = KeyMap(action=["/cmd.data[:2]"], state=["/joint_states.position[1]"])
    dataset = EpisodeDataset(tmp_path / "new", keys=keys)
    assert dataset.columns.actions[3].tolist() == [350, -350]
    assert dataset.spec.state_names == ("elbow.position",)
    assert any("10 Hz is taken from /cmd" in line for line in dataset.warnings)
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(tmp_path / "old.bag") as writer:
        twist, vector = (store.types[f"geometry_msgs/msg/{name}"] for name in ("Twist", "Vector3"))
        connection = writer.add_connection("/cmd_vel", twist.__msgtype__, typestore=store)
        for step in range(5):
            message = twist(vector(float(step), 0.0, 0.0), vector(0.0, 0.0, -1.0))
            data = store.serialize_ros1(message, twist.__msgtype__)
            writer.write(connection, step * 100 * MS, data)
    old = EpisodeDataset(tmp_path / "old.bag", keys=KeyMap(action=["/cmd_vel"], task="drive"))
    assert old.spec.action_names == tuple(
        f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"
    )
    assert old.columns.actions[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("encoding", "channel"), [("bgr8", [0, 0, 1]), ("mono8", [1, 1, 1]), ("rgba8", [1, 0, 0])]
)
def test_encodings(tmp_path: Path, encoding: str, channel: list[int]) -> None:
    dataset = EpisodeDataset(record(tmp_path / "bag", 0, encoding=encoding), keys=KeyMap(**KEYS))
    frame = dataset.episode(0).frames("front_image_raw")[1]
    np.testing.assert_array_equal(frame[0, 0], 30 * np.array(channel))


def test_without_keys_the_topics_are_listed(bags: Path) -> None:
    with pytest.raises(DataError) as error:
        EpisodeDataset(bags)
    text = str(error.value)
    assert "action=[/cmd.data] state=[/" in text
    assert "/joint_states (sensor_msgs/msg/JointState, 25 messages, 25" in text


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"action": ["/other"]}, "no '/other' to read as action; it has: .*/cmd.data"),
        ({"cameras": {"main": "/cmd"}}, "no '/cmd' to read as camera 'main'; it has: /front"),
        ({"cameras": {"d": "/depth/compressed"}}, "/depth/compressed: its format is '16UC1"),
        ({"instruction": "/cmd"}, "no '/cmd' to read as instruction; it has: /instruction"),
        ({"split": "train"}, "have no splits"),
    ],
)
def test_keys_that_it_lacks(bags: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(bags, keys=KeyMap(**KEYS | keys))


def test_unknown_encodings_are_left_out_by_name_and_damage_is_named(tmp_path: Path) -> None:
    folder = record(tmp_path / "bag", 0, encoding="16UC1")
    dataset = EpisodeDataset(folder, keys=KeyMap(**KEYS))
    assert any(
        "/front/image_raw is left out: its encoding is '16UC1'" in w for w in dataset.warnings
    )
    path = next(folder.glob("*.mcap"))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="is damaged or no recording"):
        EpisodeDataset(folder, keys=KeyMap(**KEYS))

"""MCAP files of Foxglove: messages of JSON and Protocol Buffers, written by the library mcap."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vla.data import EpisodeDataset
from vla.data.errors import DataError
from vla.data.format import KeyMap

Writer = pytest.importorskip("mcap.writer", reason="needs the extra `formats`").Writer
descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
from google.protobuf import (  # noqa: E402
    descriptor_pool,
    message_factory,
    timestamp_pb2,
)

MS = 1_000_000
STEPS = 8
KEYS: dict[str, Any] = {
    "action": ["/command.target"],
    "state": ["/arm.position.x", "/arm.joints[1]"],
    "instruction": "/goal",
    "control_hz": 10,
}


def picture(value: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


def steps() -> list[dict[str, Any]]:
    """What every step says, as JSON has it."""
    return [
        {
            "/command": {"target": [float(step), -float(step), 0.5], "note": None},
            "/arm": {
                "timestamp": {"sec": step, "nsec": 0},
                "position": {"x": step / 4, "y": 0},
                "joints": [step, 10 * step],
            },
            "/camera": {
                "timestamp": {"sec": step, "nsec": 0},
                "frame_id": "front",
                "data": base64.b64encode(picture(step)).decode(),
                "format": "png",
            },
            "/goal": {"data": "open the drawer"},
        }
        for step in range(STEPS)
    ]


SCHEMAS = {
    "/command": "robot.Command",
    "/arm": "robot.Arm",
    "/camera": "foxglove.CompressedImage",
    "/goal": "robot.Goal",
}


def write_json(path: Path, **extra: str) -> Path:
    """A file of JSON; `extra`: topic -> encoding of a channel that nothing here reads."""
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channels = {}
        for topic, name in SCHEMAS.items():
            schema = writer.register_schema(name, "jsonschema", b"{}")
            channels[topic] = writer.register_channel(topic, "json", schema)
        for step, said in enumerate(steps()):
            for topic, message in said.items():
                time = step * 100 * MS
                writer.add_message(channels[topic], time, json.dumps(message).encode(), time)
        for topic, encoding in extra.items():
            writer.add_message(writer.register_channel(f"/{topic}", encoding, 0), 0, b"12", 0)
        writer.finish()
    return path


# --- Protocol Buffers -----------------------------------------------------------------------------

DOUBLE, TEXT, MESSAGE, BYTES = 1, 9, 11, 12
ONE, MANY = 1, 3


def layouts() -> Any:
    """The same messages as .proto files would describe them, in two files."""
    times = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(times)
    file = descriptor_pb2.FileDescriptorProto(
        name="robot.proto", package="robot", syntax="proto3", dependency=[times.name]
    )
    stamp = ".google.protobuf.Timestamp"
    messages: dict[str, list[tuple[str, int, int, str]]] = {
        "Point": [("x", DOUBLE, ONE, ""), ("y", DOUBLE, ONE, "")],
        "Command": [("target", DOUBLE, MANY, "")],
        "Arm": [
            ("timestamp", MESSAGE, ONE, stamp),
            ("position", MESSAGE, ONE, ".robot.Point"),
            ("joints", DOUBLE, MANY, ""),
        ],
        "Goal": [("data", TEXT, ONE, "")],
    }
    _describe(file, messages)
    seen = descriptor_pb2.FileDescriptorProto(
        name="image.proto", package="foxglove", syntax="proto3", dependency=[times.name]
    )
    image = [
        ("timestamp", MESSAGE, ONE, stamp),
        ("frame_id", TEXT, ONE, ""),
        ("data", BYTES, ONE, ""),
        ("format", TEXT, ONE, ""),
    ]
    _describe(seen, {"CompressedImage": image})
    # those that others need come last: a reader has to sort them
    return descriptor_pb2.FileDescriptorSet(file=[file, seen, times])


def _describe(file: Any, messages: dict[str, list[tuple[str, int, int, str]]]) -> None:
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, label, of) in enumerate(fields, start=1):
            named = {"type_name": of} if of else {}
            message.field.add(name=field, number=number, type=kind, label=label, **named)


def write_protobuf(path: Path) -> Path:
    described = layouts()
    pool = descriptor_pool.DescriptorPool()
    for file in reversed(described.file):
        pool.Add(file)
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channels, classes = {}, {}
        for topic, name in SCHEMAS.items():
            schema = writer.register_schema(name, "protobuf", described.SerializeToString())
            channels[topic] = writer.register_channel(topic, "protobuf", schema)
            classes[topic] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        for step, said in enumerate(steps()):
            command, arm, camera = said["/command"], said["/arm"], said["/camera"]
            time = step * 100 * MS
            made = {
                "/command": {"target": command["target"]},
                "/arm": {"position": arm["position"], "joints": arm["joints"]},
                "/camera": {"data": base64.b64decode(camera["data"]), "format": "png"},
                "/goal": said["/goal"],
            }
            for topic, values in made.items():
                data = classes[topic](**values).SerializeToString()
                writer.add_message(channels[topic], time, data, time)
        writer.finish()
    return path


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_json, write_protobuf])
def test_numbers_pictures_and_words(tmp_path: Path, write: Any) -> None:
    dataset = EpisodeDataset(write(tmp_path / "run.mcap"), keys=KeyMap(**KEYS))
    assert dataset.spec.state_names == ("position.x", "joints_1")
    assert dataset.spec.action_names == ("target_0", "target_1", "target_2")
    episode = dataset.episode(0)
    expected = np.arange(STEPS, dtype=np.float64)
    # the first step's x is zero, which Protocol Buffers do not send
    np.testing.assert_array_equal(episode.state[:, 0], expected / 4)
    np.testing.assert_array_equal(episode.state[:, 1], 10 * expected)
    np.testing.assert_array_equal(episode.actions[:, 1], -expected)
    assert episode.instruction == "open the drawer"
    assert list(dataset.spec.cameras) == ["camera"]
    assert episode.frames("camera")[:, 0, 0, 0].tolist() == list(range(STEPS))


def test_times_are_no_measurements(tmp_path: Path) -> None:
    keys = KeyMap(**KEYS | {"state": ["/arm"]})
    dataset = EpisodeDataset(write_json(tmp_path / "run.mcap"), keys=keys)
    assert dataset.spec.state_names == ("position.x", "position.y", "joints_0", "joints_1")


def test_topics_of_other_encodings_are_left_out_by_name(tmp_path: Path) -> None:
    path = write_json(tmp_path / "run.mcap", lidar="flatbuffer")
    dataset = EpisodeDataset(path, keys=KeyMap(**KEYS))
    left_out = [line for line in dataset.warnings if line.startswith("/lidar is left out")]
    assert len(left_out) == 1
    assert "'flatbuffer' with no schema" in left_out[0]


def test_without_keys_the_fields_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"action=\[/command.target\].*/arm \(robot.Arm, 8 messages"
    ):
        EpisodeDataset(write_json(tmp_path / "run.mcap"))


def test_a_recording_that_was_killed(tmp_path: Path) -> None:
    path = write_json(tmp_path / "run.mcap")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"run\.mcap.*mcap recover"):
        EpisodeDataset(path, keys=KeyMap(**KEYS))


def test_damage_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "run.mcap")
    data = bytearray(path.read_bytes())
    data[400:460] = bytes(60)
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"run\.mcap: is damaged"):
        EpisodeDataset(path, keys=KeyMap(**KEYS))


def test_no_base64(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        for topic, message in (
            ("/command", {"target": [1.0]}),
            ("/camera", {"data": "no base64!", "format": "png"}),
        ):
            schema = writer.register_schema(SCHEMAS[topic], "jsonschema", b"{}")
            channel = writer.register_channel(topic, "json", schema)
            writer.add_message(channel, 0, json.dumps(message).encode(), 0)
        writer.finish()
    with pytest.raises(DataError, match="/camera: its data is no base64"):
        EpisodeDataset(path, keys=KeyMap(action=["/command.target"], control_hz=10))


def test_the_library_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "run.mcap")
    monkeypatch.setitem(sys.modules, "mcap.reader", None)
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    with pytest.raises(DataError, match=r"pip install 'vla\[formats\]'"):
        EpisodeDataset(path, keys=KeyMap(**KEYS))

"""Messages of ROS 2, the config, and whole runs over a rosbridge on loopback."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from fake_rosbridge import running_rosbridge
from PIL import Image
from policy_servers import openpi_handler, running

from vla_client import ros_messages, rosbridge
from vla_client.errors import ClientError, ConnectionLostError
from vla_client.governor import Status
from vla_client.governor_config import GovernorConfig
from vla_client.ros_config import Topic, config_of, read_config
from vla_client.ros_robot import RosRobot, diagnostics

EXAMPLE = Path(__file__).parents[2] / "examples" / "ros2" / "robot.yaml"
SPEC = {
    "state_names": ["shoulder", "elbow"],
    "action_names": ["shoulder", "elbow", "gripper"],
    "action_low": [-1.0, -1.0, 0.0],
    "action_high": [1.0, 1.0, 1.0],
    "control_hz": 20.0,
}
VALUES: dict[str, Any] = {
    "server": "ws://127.0.0.1:1",
    "cameras": {"top": {"topic": "/top", "type": "sensor_msgs/msg/Image"}},
    "state": [
        {
            "topic": "/joint_states",
            "type": "sensor_msgs/msg/JointState",
            "names": ["shoulder", "elbow"],
        }
    ],
    "commands": [
        {
            "topic": "/arm",
            "type": "trajectory_msgs/msg/JointTrajectory",
            "names": ["shoulder", "elbow"],
        },
        {"topic": "/hand", "type": "std_msgs/msg/Float64MultiArray", "names": ["gripper"]},
    ],
    "measured": {"shoulder": "shoulder", "elbow": "elbow"},
    "enable_topic": "/enable",
    "instruction_topic": "/instruction",
    "governor": {
        "kind": {"shoulder": "absolute", "elbow": "absolute", "gripper": "keep"},
        "max_step": {"shoulder": 0.1, "elbow": 0.1},
        "ramp_s": 0.2,
        # a busy machine is no fault here
        "hold_after": 6,
        "max_observation_age": 20,
    },
}


def topic_of(kind: str, names: Any = (), **more: Any) -> Topic:
    names = names if isinstance(names, dict) else {name: name for name in names}
    return Topic("/t", kind, names, **more)


# --- messages ------------------------------------------------------------------------------------

IMAGE = topic_of("sensor_msgs/msg/Image")
COMPRESSED = topic_of("sensor_msgs/msg/CompressedImage")


def raw(encoding: str, data: bytes, **more: int) -> dict:
    size = {"height": 2, "width": 2, "step": 8, **more}
    return {"encoding": encoding, "data": base64.b64encode(data).decode(), **size}


def test_images_become_rgb_and_longer_rows_are_cut() -> None:
    rows = bytes([1, 2, 3, 4, 5, 6, 99, 99] * 2)
    found = ros_messages.image(raw("rgb8", rows), IMAGE)
    np.testing.assert_array_equal(found, [[[1, 2, 3], [4, 5, 6]]] * 2)
    found = ros_messages.image(raw("bgr8", rows), IMAGE)
    np.testing.assert_array_equal(found, [[[3, 2, 1], [6, 5, 4]]] * 2)
    found = ros_messages.image(raw("mono8", rows), IMAGE)
    np.testing.assert_array_equal(found, [[[1] * 3, [2] * 3]] * 2)


def test_messages_may_be_objects_as_in_rclpy() -> None:
    message = SimpleNamespace(
        encoding="rgb8", data=np.arange(12, dtype=np.uint8), height=2, width=2, step=6
    )
    assert ros_messages.image(message, IMAGE).shape == (2, 2, 3)
    joints = SimpleNamespace(name=["b", "a"], position=np.array([1.0, 2.0]).tolist())
    topic = topic_of("sensor_msgs/msg/JointState", {"first": "a", "second": "b"})
    assert ros_messages.values(joints, topic) == {"first": 2.0, "second": 1.0}


def test_compressed_images_are_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(buffer, "PNG")
    message = {"format": "png", "data": base64.b64encode(buffer.getvalue()).decode()}
    np.testing.assert_array_equal(ros_messages.image(message, COMPRESSED), [[[9, 8, 7]] * 3] * 2)


@pytest.mark.parametrize(
    ("message", "topic", "said"),
    [
        (raw("16UC1", bytes(16)), IMAGE, "encoding '16UC1'"),
        (raw("rgb8", bytes(15)), IMAGE, "15 bytes, expected 2 rows of 8"),
        (raw("rgb8", bytes(8), step=4), IMAGE, "rows of 4 bytes"),
        (raw("rgb8", bytes(8), height=-1), IMAGE, "image of -1x2"),
        ({**raw("rgb8", b""), "data": "§"}, IMAGE, "no bytes"),
        ({"data": "AAAA"}, COMPRESSED, "a damaged image"),
        ({}, COMPRESSED, "no field data"),
    ],
)
def test_a_damaged_image_is_named(message: dict, topic: Topic, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        ros_messages.image(message, topic)


JOINTS = topic_of("sensor_msgs/msg/JointState", ["a", "b"])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"name": ["a"], "position": [1.0]}, "'b' is not in the message, which has"),
        ({"name": ["a", "b"], "position": [1.0]}, "1 positions for 2 joints"),
        ({"name": ["a", "b"], "position": [1.0, float("nan")]}, "b is nan"),
        ({"name": ["a", "b"], "position": [1.0, None]}, "b is None"),
        ({"position": [1.0]}, "no field name"),
    ],
)
def test_a_joint_that_is_missing_is_never_zero(message: dict, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        ros_messages.values(message, JOINTS)


def test_poses_and_odometry_are_read_by_name() -> None:
    axes = {"x": 1.0, "y": 2.0, "z": 3.0}
    pose = {"position": axes, "orientation": {**axes, "w": 4.0}}
    stamped = topic_of("geometry_msgs/msg/PoseStamped", {"up": "z", "turn": "qw"})
    assert ros_messages.values({"pose": pose}, stamped) == {"up": 3.0, "turn": 4.0}
    odometry = topic_of("nav_msgs/msg/Odometry", ["x", "vx", "wz"])
    message = {"pose": {"pose": pose}, "twist": {"twist": {"linear": axes, "angular": axes}}}
    assert ros_messages.values(message, odometry) == {"x": 1.0, "vx": 1.0, "wz": 3.0}


def test_commands_of_each_type() -> None:
    action = {"a": 1.0, "b": -2.0}

    def command(kind: str, names: Any, **more: Any) -> dict:
        return ros_messages.command(action, topic_of(kind, names, **more), 0.1, 12.5)

    joints = {"a": "joint_a", "b": "joint_b"}
    assert command("std_msgs/msg/Float64MultiArray", joints) == {"data": [1.0, -2.0]}
    trajectory = command("trajectory_msgs/msg/JointTrajectory", joints)
    assert trajectory["joint_names"] == ["joint_a", "joint_b"]
    assert trajectory["points"] == [
        {"positions": [1.0, -2.0], "time_from_start": {"sec": 0, "nanosec": 100_000_000}}
    ]
    twist = command("geometry_msgs/msg/TwistStamped", {"a": "lx", "b": "az"}, frame_id="tool")
    assert twist["twist"]["linear"] == {"x": 1.0, "y": 0.0, "z": 0.0}
    assert twist["twist"]["angular"]["z"] == -2.0
    assert twist["header"] == {"stamp": {"sec": 12, "nanosec": 500_000_000}, "frame_id": "tool"}
    jog = command("control_msgs/msg/JointJog", joints)
    assert (jog["velocities"], jog["duration"]) == ([1.0, -2.0], 0.1)


def test_the_state_of_the_governor_is_a_diagnostic() -> None:
    status = Status("HOLDING", "no valid action", {"late": 3}, None, 0.25)
    entry = diagnostics(status, 1.5)["status"][0]
    assert (entry["level"], entry["message"]) == (1, "HOLDING: no valid action")
    assert {"key": "late", "value": "3"} in entry["values"]


# --- the config ----------------------------------------------------------------------------------


def changed(path: str, value: Any) -> dict:
    """VALUES with one key changed, or taken out."""
    found = yaml.safe_load(yaml.safe_dump(VALUES))
    *parents, last = path.split(".")
    place: Any = found
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return found


def test_the_example_is_a_config() -> None:
    config = read_config(EXAMPLE)
    assert config.cameras["top"].size == (224, 224)
    assert [*config.state[0].names.values()] == ["shoulder_joint", "elbow_joint", "gripper_joint"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("server", None, "server is missing"),
        ("servers", "x", "unknown key servers"),
        ("cameras.top.type", "sensor_msgs/Image", "cameras.top.type: 'sensor_msgs/Image'"),
        ("cameras.top.size", 3, r"cameras.top.size: 3, expected \[height, width\]"),
        ("state.0.names", None, r"state\[0\].names is missing"),
        ("state.0.topic", 3, r"state\[0\].topic: 3"),
        ("commands.0.type", 3, r"commands\[0\].type: 3"),
        ("governor", 3, "governor: 3, expected keys"),
        ("age_by", "guess", "age_by: 'guess'"),
        ("max_age_s", -1, "max_age_s: -1"),
        ("instruction", 3, "instruction: 3"),
    ],
)
def test_a_wrong_key_is_named(path: str, value: Any, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        config_of(changed(path, value))


def test_a_file_that_is_no_config_is_named(tmp_path: Path) -> None:
    for text in ("a: [", "3", "\x00"):
        (tmp_path / "robot.yaml").write_text(text)
        with pytest.raises(ClientError, match=r"robot\.yaml"):
            read_config(tmp_path / "robot.yaml")
    with pytest.raises(ClientError, match="cannot be read"):
        read_config(tmp_path / "nothing.yaml")


def robot_of(values: dict) -> RosRobot:
    config = config_of(values)
    limits = GovernorConfig.of_spec(SPEC, config.governor)
    return RosRobot(config, limits, SPEC["state_names"], lambda topic, message: None)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("state.0.names", ["shoulder"], "state: elbow is in 0 topics"),
        ("commands.1.names", ["gripper", "elbow"], "commands: elbow is in 2 topics"),
        ("commands.1.names", ["gripper", "x"], "x is none of the policy's"),
        ("commands.1.type", "geometry_msgs/msg/TwistStamped", "has no gripper"),
        ("measured", {"shoulder": "wrist"}, "measured.shoulder: wrist"),
    ],
)
def test_topics_have_to_fit_the_policy(path: str, value: Any, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        robot_of(changed(path, value))


def test_what_is_missing_or_old_is_no_observation() -> None:
    robot = robot_of(changed("max_age_s", 0.05))
    with pytest.raises(ClientError, match="/top: no message yet"):
        robot.wait_until_ready(0.0)
    assert not robot.enabled()
    robot.receive("/top", raw("rgb8", bytes(16)))
    robot.receive("/joint_states", {"name": ["elbow", "shoulder"], "position": [1.0, 2.0]})
    robot.receive("/enable", {"data": True})
    assert robot.read()["state"].tolist() == [2.0, 1.0]
    assert robot.enabled()
    time.sleep(0.06)
    with pytest.raises(ClientError, match=r"/top: the newest message is 0\.\d\d s old"):
        robot.read()


def test_age_by_stamp_reads_the_header() -> None:
    robot = robot_of({**VALUES, "age_by": "stamp", "cameras": {}})
    old = {"header": {"stamp": {"sec": 5, "nanosec": 0}}, "name": [], "position": []}
    robot.receive("/joint_states", old)
    with pytest.raises(ClientError, match="s old"):
        robot.read()


# --- whole runs ----------------------------------------------------------------------------------


def policy(observation: dict) -> dict:
    """Moves both joints by 0.05 per step, from where they are."""
    assert observation["prompt"] == "push"
    np.testing.assert_array_equal(observation["images"]["top"][0, 0], [30, 20, 10])
    steps = 0.05 * np.arange(1, 9)[:, None]
    joints = observation["state"] + steps
    actions = np.concatenate([joints, np.ones((8, 1))], axis=1).astype(np.float32)
    return {"actions": actions}


def test_a_policy_moves_the_arm_behind_a_rosbridge() -> None:
    metadata = {"spec": SPEC, "protocol": "openpi-websocket"}
    with running_rosbridge() as (bridge, url), running(openpi_handler(policy, metadata)) as port:
        config = config_of({**VALUES, "server": f"ws://127.0.0.1:{port}"})
        report = rosbridge.run(config, url, max_steps=20)
    assert report.ended == "20 steps", report
    assert report.executed >= 15
    assert bridge.joints["shoulder"] > -0.2
    assert bridge.joints["elbow"] == 1.0, "the policy goes on to its limit"
    assert bridge.published["/hand"][-1] == {"data": [1.0]}
    assert bridge.published["/diagnostics"][0]["status"][0]["name"] == "vla_client"


@pytest.mark.parametrize("cause", ["camera", "switch"])
def test_a_silent_camera_or_a_released_switch_stops_the_arm(cause: str) -> None:
    metadata = {"spec": SPEC}
    with running_rosbridge() as (bridge, url), running(openpi_handler(policy, metadata)) as port:

        def fail_later(observation: dict) -> dict:
            if len(bridge.published.get("/hand", [])) > 4:
                if cause == "camera":
                    bridge.silent.add("/top")
                else:
                    bridge.pressed = False
            return policy(observation)

        with running(openpi_handler(fail_later, metadata)) as failing:
            values = {**VALUES, "server": f"ws://127.0.0.1:{failing}", "max_age_s": 0.2}
            report = rosbridge.run(config_of(values), url, max_steps=400)
    assert port
    assert report.ended.startswith("stopped"), report
    last = [message["points"][0]["positions"] for message in bridge.published["/arm"][-3:]]
    assert last[0] == last[1] == last[2]


def test_the_command_line_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert rosbridge.main([str(tmp_path / "none.yaml"), "ws://127.0.0.1:1"]) == 2
    assert "none.yaml cannot be read" in capsys.readouterr().err
    with running(openpi_handler(policy, {"spec": SPEC})) as port:
        config = tmp_path / "robot.yaml"
        config.write_text(yaml.safe_dump({**VALUES, "server": f"ws://127.0.0.1:{port}"}))
        assert rosbridge.main([str(config), "ws://127.0.0.1:1"]) == 2
        assert "rosbridge_server" in capsys.readouterr().err
    with running(openpi_handler(policy, {})) as port:
        with pytest.raises(ClientError, match="does not say its spec"):
            rosbridge.run(config_of({**VALUES, "server": f"ws://127.0.0.1:{port}"}), "ws://x")
    with pytest.raises(ConnectionLostError, match="no rosbridge"):
        rosbridge.RosBridge("nowhere", lambda topic, message: None)

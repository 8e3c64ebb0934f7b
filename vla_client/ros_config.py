"""One YAML file for both ways to ROS 2: a node of rclpy, and rosbridge without ROS.

It says which topics are the policy's cameras and state, and which ones its actions go to.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Mapping

from vla_client.errors import ClientError, line, shown

IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
STATES = ("sensor_msgs/msg/JointState", "geometry_msgs/msg/PoseStamped", "nav_msgs/msg/Odometry")
COMMANDS = (
    "std_msgs/msg/Float64MultiArray",
    "trajectory_msgs/msg/JointTrajectory",
    "geometry_msgs/msg/TwistStamped",
    "control_msgs/msg/JointJog",
)


@dataclass(frozen=True)
class Topic:
    """One topic that is read or written.

    Attributes:
        topic: its name.
        type: its message type.
        names: the policy's name of each value -> the name in the message: joints of a
            JointState, x y z qx qy qz qw of a pose, those and vx vy vz wx wy wz of an odometry,
            joints of a command, lx ly lz ax ay az of a twist. In order of a Float64MultiArray.
        size: (height, width) to which an image is fitted; None: as it is.
        frame_id: of a command with a header.
    """

    topic: str
    type: str
    names: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    frame_id: str = ""


@dataclass(frozen=True)
class RosConfig:
    """What `examples/ros2/robot.yaml` holds.

    Attributes:
        server: address of the policy server.
        cameras: the policy's camera -> its topic.
        state: topics whose values are the state, together.
        commands: topics to which the actions go.
        governor: keys of `GovernorConfig`; limits and rate are the policy's unless named.
        measured: action dimension of kind `absolute` -> the state value that is its position.
        instruction: what to do, until `instruction_topic` says something else.
        instruction_topic: std_msgs/msg/String.
        enable_topic: std_msgs/msg/Bool, the deadman's switch; it counts for `enable_for_s`.
        enable_for_s: how long a True counts. A switch has to be sent again and again.
        max_age_s: a camera or a state that is older than this is no observation.
        age_by: `receive`, or `stamp`: by header.stamp, which needs synchronised clocks.
        return_home_s: at the end, positions go back to those of the start over this time.
    """

    server: str
    cameras: Mapping[str, Topic]
    state: tuple[Topic, ...]
    commands: tuple[Topic, ...]
    governor: Mapping[str, Any]
    measured: Mapping[str, str] = field(default_factory=dict)
    instruction: str = ""
    instruction_topic: str = ""
    enable_topic: str = ""
    enable_for_s: float = 0.5
    max_age_s: float = 0.5
    age_by: str = "receive"
    return_home_s: float | None = None


def read_config(path: str | Path) -> RosConfig:
    """Reads a YAML file; raises `ClientError`, which names the key, if it is wrong."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ClientError(f"{path} cannot be read: {line(error)}") from error
    try:
        return config_of(values)
    except ClientError as error:
        raise ClientError(f"{path}: {error}") from error


def config_of(values: Any) -> RosConfig:
    """A config of plain values; raises `ClientError`, which names the key, if it is wrong."""
    given = _mapping(values, "the file")
    _check_keys(given, RosConfig, "")
    given["cameras"] = {
        str(name): _topic(value, f"cameras.{name}", IMAGES)
        for name, value in _mapping(given["cameras"], "cameras").items()
    }
    for key, types in (("state", STATES), ("commands", COMMANDS)):
        entries = given[key] if isinstance(given[key], list) else [given[key]]
        given[key] = tuple(_topic(v, f"{key}[{i}]", types) for i, v in enumerate(entries))
        for i, topic in enumerate(given[key]):
            if not topic.names:
                raise ClientError(
                    f"{key}[{i}].names is missing: write the policy's names, in order"
                )
    given["measured"] = _mapping(given.get("measured") or {}, "measured")
    given["governor"] = _mapping(given["governor"], "governor")
    if given.get("age_by", "receive") not in ("receive", "stamp"):
        raise ClientError(f"age_by: {shown(given['age_by'])}, expected receive or stamp")
    for key in ("enable_for_s", "max_age_s", "return_home_s"):
        value = given.get(key)
        if value is not None and not (type(value) in (int, float) and 0 < value < 1e6):
            raise ClientError(f"{key}: {shown(value)}, expected seconds above 0")
    for key in ("server", "instruction", "instruction_topic", "enable_topic"):
        if not isinstance(given.get(key, ""), str):
            raise ClientError(f"{key}: {shown(given[key])}, expected text")
    return RosConfig(**given)


def _topic(value: Any, place: str, types: tuple[str, ...]) -> Topic:
    given = _mapping(value, place)
    _check_keys(given, Topic, f"{place}.")
    names = given.get("names", {})
    if isinstance(names, list):
        names = {name: name for name in names}
    given["names"] = {str(k): str(v) for k, v in _mapping(names, f"{place}.names").items()}
    if given["type"] not in types:
        raise ClientError(f"{place}.type: {shown(given['type'])}, expected {' or '.join(types)}")
    size = given.get("size")
    if size is not None:
        if not (isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)):
            raise ClientError(f"{place}.size: {shown(size)}, expected [height, width]")
        given["size"] = tuple(size)
    for key in ("topic", "frame_id"):
        if not isinstance(given.get(key, ""), str):
            raise ClientError(f"{place}.{key}: {shown(given[key])}, expected text")
    return Topic(**given)


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClientError(f"{place}: {shown(value)}, expected keys and values")
    return dict(value)


def _check_keys(given: dict[str, Any], kind: Any, prefix: str) -> None:
    known: dict[str, Field[Any]] = {key.name: key for key in fields(kind)}
    for key in given:
        if key not in known:
            raise ClientError(f"unknown key {prefix}{line(key)}; known: {', '.join(known)}")
    for entry in known.values():
        needed = entry.default is MISSING and entry.default_factory is MISSING
        if needed and entry.name not in given:
            raise ClientError(f"{prefix}{entry.name} is missing")

"""Messages of ROS 2 <-> numpy: as objects of rclpy, or as the JSON of rosbridge.

A dimension that a message lacks is an error: 0 would be a position.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from typing import Any, Mapping

import numpy as np

from vla_client.errors import ClientError, line, shown
from vla_client.ros_config import Topic

MAX_PIXELS = 2**25
POSE = {"x": "position.x", "y": "position.y", "z": "position.z"}
POSE.update({f"q{axis}": f"orientation.{axis}" for axis in "xyzw"})
TWIST = {f"v{axis}": f"linear.{axis}" for axis in "xyz"}
TWIST.update({f"w{axis}": f"angular.{axis}" for axis in "xyz"})
PATHS = {
    "geometry_msgs/msg/PoseStamped": {k: f"pose.{v}" for k, v in POSE.items()},
    "nav_msgs/msg/Odometry": {
        **{k: f"pose.pose.{v}" for k, v in POSE.items()},
        **{k: f"twist.twist.{v}" for k, v in TWIST.items()},
    },
}
TWIST_AXES = {
    f"{short}{axis}": (name, axis) for short, name in (("l", "linear"), ("a", "angular"))
    for axis in "xyz"
}  # fmt: skip


def part(message: Any, path: str) -> Any:
    """A field by its dotted path; raises `ClientError` if the message lacks it."""
    for name in path.split("."):
        message = message.get(name) if isinstance(message, dict) else getattr(message, name, None)
        if message is None:
            raise ClientError(f"the message has no field {path}")
    return message


def image(message: Any, topic: Topic) -> np.ndarray:
    """Uint8 (H, W, 3), red first, of an Image or a CompressedImage.

    Raises `ClientError` if it is damaged or of another encoding than rgb8, bgr8, mono8, PNG, JPEG.
    """
    data = _bytes(part(message, "data"))
    if topic.type.endswith("CompressedImage"):
        return _decompressed(data)
    encoding = part(message, "encoding")
    channels = {"rgb8": 3, "bgr8": 3, "mono8": 1}.get(encoding)
    if channels is None:
        raise ClientError(f"encoding {shown(encoding)}, expected rgb8, bgr8 or mono8")
    h, w, step = (part(message, key) for key in ("height", "width", "step"))
    if not all(type(n) is int and 0 < n < 2**20 for n in (h, w, step)) or step < w * channels:
        raise ClientError(f"an image of {shown(h)}x{shown(w)} in rows of {shown(step)} bytes")
    if len(data) != h * step:
        raise ClientError(f"an image of {len(data)} bytes, expected {h} rows of {step}")
    # rows may be longer than their pixels
    rows = np.frombuffer(data, np.uint8).reshape(h, step)[:, : w * channels]
    pixels = rows.reshape(h, w, channels)
    if encoding == "mono8":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, ::-1] if encoding == "bgr8" else pixels)


def values(message: Any, topic: Topic) -> dict[str, float]:
    """The policy's names -> values of a state message, by name and never by place.

    Raises `ClientError`, which names what is missing, or a value that is not finite.
    """
    if topic.type.endswith("JointState"):
        joints = [str(name) for name in part(message, "name")]
        positions = list(part(message, "position"))
        if len(joints) != len(positions):
            raise ClientError(f"{len(positions)} positions for {len(joints)} joints")
        named: Mapping[str, Any] = dict(zip(joints, positions))
    else:
        paths = PATHS[topic.type]
        wanted = set(topic.names.values())
        named = {key: part(message, path) for key, path in paths.items() if key in wanted}
    found = {}
    for ours, theirs in topic.names.items():
        if theirs not in named:
            raise ClientError(f"{shown(theirs)} is not in the message, which has {line([*named])}")
        value = named[theirs]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ClientError(f"{theirs} is {shown(value)}, expected a number")
        if not math.isfinite(value):
            raise ClientError(f"{theirs} is {value}, expected a finite number")
        found[ours] = float(value)
    return found


def stamp_s(message: Any) -> float:
    """Seconds since 1970 of the message's header."""
    return float(part(message, "header.stamp.sec")) + 1e-9 * part(message, "header.stamp.nanosec")


def command(action: Mapping[str, float], topic: Topic, period_s: float, now_s: float) -> dict:
    """A command message as plain values.

    Args:
        action: the policy's names -> values.
        topic: where it goes; its `names` say which values, and how the message calls them.
        period_s: time to the next action.
        now_s: seconds since 1970.
    """
    numbers = {theirs: float(action[ours]) for ours, theirs in topic.names.items()}
    if topic.type.endswith("Float64MultiArray"):
        return {"data": list(numbers.values())}
    header = {"stamp": _stamp(now_s), "frame_id": topic.frame_id}
    if topic.type.endswith("JointTrajectory"):
        point = {"positions": list(numbers.values()), "time_from_start": _duration(period_s)}
        # a stamp of 0 means at once; another one is dropped by controllers whose clock differs
        start = {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": topic.frame_id}
        return {"header": start, "joint_names": list(numbers), "points": [point]}
    if topic.type.endswith("JointJog"):
        joints = {"joint_names": list(numbers), "velocities": list(numbers.values())}
        return {"header": header, **joints, "duration": period_s}
    twist = {"linear": dict.fromkeys("xyz", 0.0), "angular": dict.fromkeys("xyz", 0.0)}
    for name, number in numbers.items():
        which, axis = TWIST_AXES[name]
        twist[which][axis] = number
    return {"header": header, "twist": twist}


def known_names(topic: Topic) -> frozenset[str] | None:
    """Names that a message of this type has; None if every message has its own."""
    if topic.type in PATHS:
        return frozenset(PATHS[topic.type])
    return frozenset(TWIST_AXES) if topic.type.endswith("TwistStamped") else None


def _stamp(now_s: float) -> dict[str, int]:
    return {"sec": int(now_s), "nanosec": int(1e9 * (now_s - int(now_s)))}


_duration = _stamp


def _bytes(data: Any) -> bytes:
    """The bytes of a uint8[]: base64 in rosbridge's JSON, an array in rclpy."""
    try:
        return base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ClientError(f"the message's data are no bytes: {line(error)}") from error


def _decompressed(data: bytes) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ClientError("compressed images need pillow: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as picture:
            if picture.size[0] * picture.size[1] > MAX_PIXELS:
                raise ClientError(f"an image of {picture.size} pixels is larger than any camera's")
            return np.array(picture.convert("RGB"))
    except ClientError:
        raise
    except Exception as error:  # the decoders raise errors of a dozen kinds for damaged files
        raise ClientError(f"a damaged image: {line(error)}") from error

"""Messages of ROS as numbers, texts and images.

H and W: image height and width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vla.data.errors import DataError
from vla.data.format import Image

_LARGEST = 4096
"""Numbers of a field that may be a state: more are maps and point clouds."""
_SKIPPED = ("header", "layout")
"""Times, and how arrays are laid out: no measurements."""
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def is_message(value: Any) -> bool:
    """Whether it is a message within a message."""
    return dataclasses.is_dataclass(value)


def number_fields(message: Any, path: str = "") -> dict[str, list[str]]:
    """Path of each field of numbers -> names of its dimensions, in the message's order.

    Joints of a JointState are called by their own names.
    """
    found: dict[str, list[str]] = {}
    joints = getattr(message, "name", None)
    for field in _fields(message):
        value = getattr(message, field)
        place = f"{path}.{field}"
        if field in _SKIPPED:
            continue
        if is_message(value):
            found |= number_fields(value, place)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                if is_message(inner):
                    found |= number_fields(inner, f"{place}.{number}")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            if 0 < value.size <= _LARGEST:
                found[place] = _names(field, value.size, joints)
        elif isinstance(value, bool | int | float | np.number):
            found[place] = [_short(place)]
    return found


def _fields(message: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(message) if not field.name.startswith("__")]


def _names(field: str, size: int, joints: Any) -> list[str]:
    if isinstance(joints, list) and len(joints) == size:
        return [f"{joint}.{field}" for joint in joints]
    return [field] if size == 1 else [f"{field}_{i}" for i in range(size)]


def _short(place: str) -> str:
    """`position.x` of `.pose.position.x`; a field alone by its own name."""
    return ".".join(place.strip(".").split(".")[-2:])


def field_of(message: Any, path: str) -> Any:
    """The value at a path such as `.pose.position.x`; None if it is not there."""
    value = message
    for name in filter(None, path.split(".")):
        if isinstance(value, list):
            value = value[int(name)] if name.isdigit() and int(name) < len(value) else None
        else:
            value = getattr(value, name, None)
        if value is None:
            return None
    return value


def numbers_of(message: Any, path: str) -> np.ndarray:
    """A field of numbers, float64 (D,); of no length if it is not there."""
    value = field_of(message, path)
    if value is None or is_message(value) or isinstance(value, str | list):
        return np.zeros(0)
    return np.asarray(value, np.float64).reshape(-1)


def text_of(message: Any) -> str:
    """The text of a std_msgs/String; empty if it is none."""
    value = getattr(message, "data", "")
    return value.strip() if isinstance(value, str) else ""


def why_no_image(message: Any, kind: str) -> str:
    """Why an image message cannot be read; empty if it can."""
    if kind == COMPRESSED:
        depth = "depth" in str(message.format).lower()
        return f"its format is {message.format!r}, depth is no colour image" if depth else ""
    if message.encoding in _CHANNELS:
        return ""
    return f"its encoding is {message.encoding!r}, known are: {', '.join(_CHANNELS)}"


def image_of(message: Any, kind: str, where: str) -> Image:
    """An image file, or uint8 (H, W, 3) RGB. Raises DataError beginning with `where`."""
    reason = why_no_image(message, kind)
    if reason:
        raise DataError(f"{where}: {reason}; leave the camera out")
    if kind == COMPRESSED:
        return bytes(message.data)
    H, W = int(message.height), int(message.width)
    channels = _CHANNELS[message.encoding]
    data = np.asarray(message.data, np.uint8)
    # rows may be filled up to a length that suits the camera
    stride = int(message.step)
    if stride < W * channels or data.size < H * stride:
        raise DataError(
            f"{where}: has {data.size} bytes, expected {H} x {W} pixels of {channels}; record it "
            "again or leave the camera out"
        )
    rows = data[: H * stride].reshape(H, stride)[:, : W * channels]
    pixels = rows.reshape(H, W, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    pixels = pixels[:, :, :3]
    if message.encoding.startswith("bgr"):
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)

"""Messages as numbers, texts and images: dataclasses of ROS, dicts of JSON and Protocol Buffers.

H and W: image height and width.
"""

from __future__ import annotations

import base64
import binascii
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
IMAGE, COMPRESSED, VIDEO = "Image", "CompressedImage", "CompressedVideo"
_MAKERS = ("sensor_msgs", "foxglove", "foxglove_msgs")
_TIMES = ({"sec", "nsec"}, {"sec", "nanosec"}, {"secs", "nsecs"}, {"seconds", "nanos"})
"""Fields of a message that is a time or a duration."""


def image_kind(kind: str) -> str | None:
    """IMAGE, COMPRESSED or VIDEO by the type of a message such as `sensor_msgs/msg/Image` or
    `foxglove.CompressedImage`; None for other messages."""
    parts = kind.replace(".", "/").split("/")
    # another maker's `Image` may be laid out in any way
    if parts[0] not in _MAKERS:
        return None
    last = "Image" if parts[-1] == "RawImage" else parts[-1]
    return last if last in (IMAGE, COMPRESSED, VIDEO) else None


def is_message(value: Any) -> bool:
    """Whether it is a message within a message."""
    return isinstance(value, dict) or dataclasses.is_dataclass(value)


def _field(message: Any, name: str, default: Any = None) -> Any:
    if isinstance(message, dict):
        return message.get(name, default)
    return getattr(message, name, default)


def number_fields(message: Any, path: str = "") -> dict[str, list[str]]:
    """Path of each field of numbers -> names of its dimensions, in the message's order.

    Joints of a JointState are called by their own names.
    """
    found: dict[str, list[str]] = {}
    joints = _field(message, "name")
    for field in _fields(message):
        value = _field(message, field)
        place = f"{path}.{field}"
        if field in _SKIPPED:
            continue
        if is_message(value):
            found |= number_fields(value, place)
        elif isinstance(value, list):
            # numbers alone are an array already: what is left are messages, or texts
            for number, inner in enumerate(value):
                if is_message(inner):
                    found |= number_fields(inner, f"{place}.{number}")
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            if 0 < value.size <= _LARGEST:
                found[place] = _names(field, value.size, joints)
        # a switch is a number too: grippers are often opened by one
        elif isinstance(value, bool | int | float | np.number):
            found[place] = [_short(place)]
    return found


def text_fields(message: Any, path: str = "") -> list[str]:
    """Paths of the fields that are texts, without those of headers."""
    found = []
    for field in _fields(message):
        value = _field(message, field)
        if field not in _SKIPPED and is_message(value):
            found += text_fields(value, f"{path}.{field}")
        elif isinstance(value, str):
            found.append(f"{path}.{field}")
    return found


def _fields(message: Any) -> list[str]:
    """Fields of a message; none of one that is a time."""
    if isinstance(message, dict):
        return [] if set(message) in _TIMES else list(message)
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
    if not path:
        return message
    if isinstance(message, list):
        number, _, rest = path[1:].partition(".")
        if not number.isdigit() or int(number) >= len(message):
            return None
        return field_of(message[int(number)], f".{rest}" if rest else "")
    # names of JSON may have dots in them
    for name in _fields(message) if is_message(message) else ():
        if f"{path}.".startswith(f".{name}."):
            found = field_of(_field(message, name), path[len(name) + 1 :])
            if found is not None:
                return found
    return None


def numbers_of(message: Any, path: str) -> np.ndarray:
    """A field of numbers, float64 (D,); of no length if it is not there."""
    value = field_of(message, path)
    if value is None or is_message(value) or isinstance(value, str | list):
        return np.zeros(0)
    return np.asarray(value, np.float64).reshape(-1)


def text_of(message: Any, path: str) -> str:
    """The text at a path; empty if there is none."""
    value = field_of(message, path)
    return value.strip() if isinstance(value, str) else ""


def why_no_image(message: Any, kind: str) -> str:
    """Why a message of IMAGE, COMPRESSED or VIDEO cannot be read; empty if it can."""
    if kind == VIDEO:
        return "it is a stream of video; store it as images"
    if kind == COMPRESSED:
        compression = str(_field(message, "format", ""))
        depth = "depth" in compression.lower()
        return f"its format is {compression!r}, depth is no colour image" if depth else ""
    encoding = _field(message, "encoding", "")
    if encoding in _CHANNELS:
        return ""
    return f"its encoding is {encoding!r}, known are: {', '.join(_CHANNELS)}"


def image_of(message: Any, kind: str, where: str) -> Image:
    """An image file, or uint8 (H, W, 3) RGB. Raises DataError beginning with `where`."""
    reason = why_no_image(message, kind)
    if reason:
        raise DataError(f"{where}: {reason}; leave the camera out")
    content = _bytes(message, where)
    if kind == COMPRESSED:
        return content
    encoding = _field(message, "encoding")
    channels = _CHANNELS[encoding]
    data = np.frombuffer(content, np.uint8)
    # rows may be filled up to a length that suits the camera
    H, W, stride = (int(_field(message, name, 0)) for name in ("height", "width", "step"))
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
    if encoding.startswith("bgr"):
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def _bytes(message: Any, where: str) -> bytes:
    """Field `data`: bytes, which JSON writes in base64."""
    data = _field(message, "data", b"")
    if not isinstance(data, str):
        return np.asarray(data, np.uint8).tobytes() if not isinstance(data, bytes) else data
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise DataError(
            f"{where}: its data is no base64 ({error}); leave the camera out"
        ) from error

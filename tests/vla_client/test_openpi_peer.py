"""Bytes and pixels beside openpi's own client; `make test-client` installs it."""

from __future__ import annotations

import numpy as np
import pytest

from vla_client.codec import pack, unpack
from vla_client.images import convert_to_uint8, resize_with_pad

theirs = pytest.importorskip("openpi_client.image_tools")
their_codec = pytest.importorskip("openpi_client.msgpack_numpy")


def test_messages_are_equal_byte_for_byte() -> None:
    generator = np.random.default_rng(0)
    for dtype in ("|b1", "|u1", "<i2", "<i8", "<f2", "<f4", "<f8"):
        array = generator.integers(0, 2, (2, 3, 4)).astype(dtype)
        value = {"a": array, "b": [array.T, array[0, 0, 0]], "prompt": "x", "n": None, "t": (1, 2)}
        message = their_codec.packb(value)
        assert pack(value) == message
        np.testing.assert_array_equal(unpack(message)["b"][0], array.T)
        np.testing.assert_array_equal(their_codec.unpackb(pack(value))["a"], array)


def test_pixels_are_equal() -> None:
    generator = np.random.default_rng(1)
    for _ in range(40):
        h, w, height, width = generator.integers(2, 90, 4)
        images = generator.integers(0, 256, (2, h, w, 3), np.uint8)
        wanted = theirs.resize_with_pad(images, height, width)
        np.testing.assert_array_equal(resize_with_pad(images, height, width), wanted)
    floats = generator.random((5, 5, 3), np.float32)
    np.testing.assert_array_equal(convert_to_uint8(floats), theirs.convert_to_uint8(floats))

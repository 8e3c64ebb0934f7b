"""vla-eval's wire form: text keys, images as PNG and JPEG, bombs."""

from __future__ import annotations

import io
import zlib

import msgpack
import numpy as np
import pytest
from PIL import Image

from vla_client.vla_eval_codec import Limits, WireError, pack, unpack

IMAGE = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)


@pytest.mark.parametrize("image_format", ["png", "raw"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_come_back_bit_for_bit(image_format: str, channels: int) -> None:
    image = np.concatenate([IMAGE, IMAGE], axis=2)[:, :, :channels]
    message = pack({"payload": {"images": {"top": image}}}, image_format)
    np.testing.assert_array_equal(unpack(message)["payload"]["images"]["top"], image)


def test_jpeg_is_close_and_other_channels_go_as_png() -> None:
    smooth = np.full((16, 16, 3), 90, np.uint8)
    assert np.abs(unpack(pack(smooth, "jpeg")).astype(int) - smooth).max() <= 2
    np.testing.assert_array_equal(unpack(pack(smooth[:, :, :1], "jpeg")), smooth[:, :, :1])


def test_the_bytes_of_an_array_are_those_of_vla_eval() -> None:
    state = np.arange(2, dtype=np.float32)
    parts = {"__ndarray__": True, "data": state.tobytes(), "dtype": "<f4", "shape": [2]}
    assert pack({"state": state}) == msgpack.packb({"state": parts})


def test_numpy_scalars_become_plain_numbers() -> None:
    found = unpack(pack({"success": np.bool_(True), "seq": np.int64(3), "x": np.float32(0.5)}))
    assert found == {"success": True, "seq": 3, "x": 0.5}
    assert [type(value) for value in found.values()] == [bool, int, float]


def test_empty_and_other_arrays_are_no_images() -> None:
    for array in (np.zeros((0, 4, 3), np.uint8), np.zeros((2, 2, 2), np.uint8)):
        assert unpack(pack(array)).shape == array.shape


def image_message(data: bytes, shape: list, form: str = "png", **more: object) -> bytes:
    return msgpack.packb({"__image__": True, "format": form, "data": data, "shape": shape, **more})


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that announces and holds many pixels."""
    small = bytearray(png(Image.new("L", (8, 8))))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(small[24:29])
    small[12:33] = header + zlib.crc32(header).to_bytes(4, "big")
    return bytes(small)


SMALL = png(Image.fromarray(IMAGE))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (image_message(bomb(60_000, 60_000), [60_000, 60_000]), "pixels|damaged"),
        (image_message(bomb(5_000, 5_000), [5_000, 5_000]), "more than 16777216 pixels"),
        (image_message(SMALL[:60], [6, 5, 3]), "damaged png"),
        (image_message(b"", [6, 5, 3]), "damaged png"),
        (image_message(SMALL, [6, 5, 3], "jpeg"), "damaged jpeg"),
        (image_message(SMALL, [6, 5, 3], "bmp"), "image format 'bmp'"),
        (image_message(SMALL, [5, 6, 3]), r"the image is \[6, 5, 3\], its map \[5, 6, 3\]"),
        (image_message(png(Image.new("I;16", (2, 2))), [2, 2]), "image mode"),
        (image_message(bytes(12), [2, 2, 3], "raw", dtype="|O"), "expected |u1"),
        (image_message(SMALL, [6, 5, 3], extra=1), "marks an array"),
        (msgpack.packb({b"__ndarray__": True}), "bytes keys"),
        (
            msgpack.packb({"__ndarray__": True, "data": bytes(8), "dtype": "|O", "shape": [1]}),
            "not accepted",
        ),
    ],
)
def test_what_is_no_message_is_refused(message: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        unpack(message)


def test_all_images_of_a_message_share_one_limit() -> None:
    message = pack([IMAGE, IMAGE])
    assert len(unpack(message, Limits(max_pixels=60))) == 2
    with pytest.raises(WireError, match="more than 59 pixels"):
        unpack(message, Limits(max_pixels=59))

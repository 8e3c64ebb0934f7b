"""Images as openpi's client makes them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vla_client.errors import ClientError
from vla_client.images import convert_to_uint8, resize_with_pad


def test_floats_are_rounded_down() -> None:
    image = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    np.testing.assert_array_equal(convert_to_uint8(image), [[[0, 127, 255]]])
    stays = np.zeros((1, 1, 3), np.uint8)
    assert convert_to_uint8(stays) is stays


@pytest.mark.parametrize(
    "image",
    [np.full((2, 2, 3), 255.0), np.full((2, 2, 3), np.nan), np.full((2, 2, 3), -0.1)],
)
def test_floats_outside_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ClientError, match=r"expected \[0, 1\]"):
        convert_to_uint8(image)


def test_other_types_are_refused() -> None:
    with pytest.raises(ClientError, match="int64"):
        convert_to_uint8(np.zeros((2, 2, 3), np.int64))
    with pytest.raises(ClientError, match="convert_to_uint8"):
        resize_with_pad(np.zeros((2, 2, 3)), 4, 4)


def test_a_wide_image_stands_in_the_middle() -> None:
    image = np.full((2, 4, 3), 200, np.uint8)
    fitted = resize_with_pad(image, 8, 8)
    assert fitted.shape == (8, 8, 3)
    assert (fitted[2:6] == 200).all()
    assert (fitted[:2] == 0).all()
    assert (fitted[6:] == 0).all()


def test_leading_axes_and_one_channel_are_kept() -> None:
    assert resize_with_pad(np.zeros((2, 3, 5, 7, 1), np.uint8), 4, 4).shape == (2, 3, 4, 4, 1)
    same = np.zeros((2, 4, 4, 3), np.uint8)
    assert resize_with_pad(same, 4, 4) is same
    assert resize_with_pad(np.ones((1, 500, 3), np.uint8), 4, 4).max() == 1


def test_without_pillow_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ClientError, match="pip install pillow"):
        resize_with_pad(np.zeros((2, 2, 3), np.uint8), 4, 4)

"""Cameras that are stored turned, mirrored or in BGR: read as they are meant, everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla.data import (
    DataError,
    DatasetWriter,
    EpisodeDataset,
    FrameCache,
    KeyMap,
    VideoConfig,
    Windows,
    encode_png,
)
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.data.storage.image_transforms import turned
from vla.data.tools.conversion import convert

EXPECTED = {
    "rotate_90": lambda image: image.transpose(1, 0, 2)[::-1],
    "rotate_180": lambda image: image[::-1, ::-1],
    "rotate_270": lambda image: image.transpose(1, 0, 2)[:, ::-1],
    "flip_up_down": lambda image: image[::-1],
    "flip_left_right": lambda image: image[:, ::-1],
}
KEYS = KeyMap(orientation={"front": "rotate_90"}, colours={"front": "bgr", "wrist": "rgb"})


def meant(frames: np.ndarray) -> np.ndarray:
    """What KEYS make of the frames (L, H, W, 3) of the camera `front`."""
    return np.stack([EXPECTED["rotate_90"](image)[..., ::-1] for image in frames])


def pixels(dataset: EpisodeDataset, camera: str = "front") -> np.ndarray:
    parts = [dataset.episode(index).frames(camera) for index in range(len(dataset))]
    return np.concatenate(parts)


@pytest.mark.parametrize("orientation", EXPECTED)
def test_turned_is_what_its_name_says(orientation):
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    found = turned(image, orientation)
    np.testing.assert_array_equal(found, EXPECTED[orientation](image))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(turned(image, None, "bgr"), image[..., ::-1])


def test_files_are_turned_wherever_they_are_read(write, episode, tmp_path):
    root = write([3, 4])
    stored = np.concatenate([episode(0, 3).frames("front"), episode(1, 4).frames("front")])
    dataset = EpisodeDataset(root, keys=KEYS)
    assert dataset.spec.cameras == {"front": (8, 6), "wrist": (4, 4)}
    np.testing.assert_array_equal(pixels(dataset), meant(stored))
    # a camera whose images stay as they are keeps its files
    assert isinstance(dataset.episode(0).images["wrist"][0], bytes)
    for storage in ("ram", "disk"):
        cache = FrameCache(dataset, storage)
        np.testing.assert_array_equal(cache.frames["front"], meant(stored))
    windows = Windows(dataset, history=1, chunk=1)
    streamed = StreamedWindows(dataset, history=1, chunk=1)
    rows = np.arange(7)
    for source in (windows, streamed):
        found = source.batch(rows).images["front"].numpy()[:, 0]
        np.testing.assert_array_equal(found, meant(stored))


def test_a_cache_of_images_as_stored_is_not_taken_for_turned_ones(write, episode):
    root = write([3])
    stored = episode(0, 3).frames("wrist")
    for keys, expected in (
        (None, stored),
        (KeyMap(orientation={"wrist": "rotate_180"}), stored[:, ::-1, ::-1]),
        (KeyMap(colours={"wrist": "bgr"}), stored[..., ::-1]),
        (None, stored),
    ):
        cache = FrameCache(EpisodeDataset(root, keys=keys), "disk")
        np.testing.assert_array_equal(cache.frames["wrist"], expected)
    plain = EpisodeDataset(root).fingerprint()
    assert EpisodeDataset(root, keys=KeyMap(colours={"wrist": "bgr"})).fingerprint() != plain


def test_a_converted_dataset_holds_the_turned_images(write, episode, tmp_path):
    source = write([3])
    stored = episode(0, 3).frames("front")
    convert(source, tmp_path / "copy", keys=KEYS)
    copy = EpisodeDataset(tmp_path / "copy")
    assert copy.spec.cameras["front"] == (8, 6)
    np.testing.assert_array_equal(pixels(copy), meant(stored))


def test_frames_of_videos_and_of_arrays_are_turned(spec, episode, tmp_path):
    with DatasetWriter(tmp_path / "film", spec, video=VideoConfig(codec="h264")) as writer:
        writer.add_episode(episode(0, 3))
    plain = pixels(EpisodeDataset(tmp_path / "film"))
    found = pixels(EpisodeDataset(tmp_path / "film", keys=KEYS))
    np.testing.assert_array_equal(found, meant(plain))
    images = episode(0, 3).frames("front")
    np.savez(tmp_path / "a.npz", **{"0/actions": np.zeros((3, 1)), "0/front": images})
    keys = KEYS.model_copy(update={"colours": {"front": "bgr"}})
    dataset = EpisodeDataset(tmp_path / "a.npz", keys=keys)
    assert dataset.spec.cameras == {"front": (8, 6)}
    np.testing.assert_array_equal(pixels(dataset), meant(images))


@pytest.mark.parametrize(
    "keys", [KeyMap(orientation={"top": "rotate_90"}), KeyMap(colours={"top": "bgr"})]
)
def test_a_key_that_names_no_camera_is_refused_with_those_there_are(write, keys):
    with pytest.raises(DataError, match=r"keys\.(orientation|colours): no camera 'top'; .*front"):
        EpisodeDataset(write([2]), keys=keys)


def test_a_damaged_image_of_a_turned_camera_is_named(tmp_path: Path):
    folder = tmp_path / "plain/0"
    (folder / "top").mkdir(parents=True)
    (folder / "steps.csv").write_text("timestamp,action.x\n0,0.5\n0.1,0.25\n")
    whole = encode_png(np.zeros((4, 6, 3), np.uint8))
    (folder / "top/0.png").write_bytes(whole)
    (folder / "top/1.png").write_bytes(whole[:45])
    keys = KeyMap(orientation={"top": "rotate_180"})
    with pytest.raises(DataError, match="frame 1, camera 'top'"):
        Windows(EpisodeDataset(tmp_path / "plain", keys=keys), history=1, chunk=1)

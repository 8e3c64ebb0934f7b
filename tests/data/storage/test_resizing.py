"""Images at another size: as policies resize, wherever a dataset is read, and each size in a cache of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vla.data import DataError, DatasetWriter, Episode, EpisodeDataset, FrameCache, KeyMap, Windows
from vla.data.loading import frame_cache
from vla.data.loading.frame_cache import kept_damage
from vla.data.loading.streaming.streamed_windows import StreamedWindows
from vla.data.storage.resizing import resized_image
from vla.types import ImageSize, Spec, resized

SIZE = ImageSize(12, 10)
LENGTHS = (7, 5)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short episodes of a camera of 60x80, and of one that is small already."""
    spec = Spec({"front": (60, 80), "wrist": (8, 8)}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("large") / "data"
    with DatasetWriter(folder, spec) as writer:
        for L in LENGTHS:
            sizes = spec.cameras.items()
            images = {c: rng.integers(0, 256, (L, *size, 3), np.uint8) for c, size in sizes}
            numbers = np.zeros((L, 1), np.float32)
            solved = np.arange(L) == L - 1
            writer.add_episode(
                Episode(images, numbers, numbers, solved.astype(np.float32), solved, True, "go")
            )
    return folder


@pytest.fixture
def dataset(root: Path) -> EpisodeDataset:
    return EpisodeDataset(root)


def small_frames(dataset: EpisodeDataset) -> np.ndarray:
    """What the front camera's frames are at SIZE, resized one by one."""
    whole = [dataset.episode(number).frames("front") for number in range(len(LENGTHS))]
    return np.stack([resized_image(frame, SIZE) for frame in np.concatenate(whole)])


# --- pixels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ("bilinear", (24, 32)),
        ("bilinear", (12, 10)),
        ("bilinear", (100, 120)),
        ("bilinear", (30, 90)),
        ("bicubic", (24, 32)),
        ("bicubic", (60, 20)),
    ],
)
def test_pixels_are_those_of_pillow_and_of_resizing_in_floats(kernel, size):
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    found = resized_image(image, ImageSize(*size, kernel)).astype(float)
    pillow = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[kernel]
    peer = np.asarray(Image.fromarray(image).resize(size[::-1], pillow), float)
    assert np.abs(found - peer).max() <= 1
    if kernel == "bilinear":
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        exact = F.interpolate(x, size=size, mode=kernel, antialias=True)[0].permute(1, 2, 0)
        assert np.abs(found - exact.numpy()).max() <= 1


def test_any_number_of_leading_axes_and_views_of_any_kind():
    images = torch.randint(0, 256, (2, 3, 9, 8, 3), dtype=torch.uint8)
    found = resized(images, (4, 5))
    assert found.shape == (2, 3, 4, 5, 3)
    assert found.is_contiguous()
    assert torch.equal(found[1, 2], resized(images[1, 2], (4, 5)))
    assert resized(images, (9, 8)) is images
    backwards = images[0, 0].numpy()[::-1]
    backwards.flags.writeable = False
    plain = resized_image(np.ascontiguousarray(backwards), (4, 5))
    np.testing.assert_array_equal(resized_image(backwards, (4, 5)), plain)


def test_sizes_as_texts():
    for text in ("96x128", "96x128-bicubic"):
        assert str(ImageSize.parse(text)) == text
    assert ImageSize.parse(" 96 ") == (96, 96, "bilinear")
    for text in ("", "96x", "x96", "0", "96x0", "-1", "96x96-nearest", "96.5"):
        with pytest.raises(ValueError, match=r"expected HEIGHTxWIDTH|at least 1"):
            ImageSize.parse(text)


# --- datasets -----------------------------------------------------------------------------------


def test_a_resized_dataset_is_the_same_but_for_its_images(dataset):
    small = dataset.resized({"front": SIZE})
    assert small.spec.cameras == {"front": (12, 10), "wrist": (8, 8)}
    assert dataset.spec.cameras["front"] == (60, 80)
    np.testing.assert_array_equal(small.episode(1).frames("front"), small_frames(dataset)[7:])
    for camera in dataset.spec.cameras:
        assert [frame for frame, _ in small.images(camera, 3, 9)] == list(range(3, 9))
    # what is not resized stays as it is stored
    assert all(isinstance(image, bytes) for _, image in small.images("wrist"))
    np.testing.assert_array_equal(small.columns.actions, dataset.columns.actions)


def test_stored_images_are_resized_once(dataset):
    twice = dataset.resized({"front": ImageSize(30, 40)}).resized({"front": SIZE})
    np.testing.assert_array_equal(
        next(twice.images("front"))[1], next(dataset.resized({"front": SIZE}).images("front"))[1]
    )
    back = twice.resized({"front": ImageSize(60, 80)})
    assert back.image_sizes == {}
    assert back.spec == dataset.spec
    with pytest.raises(KeyError, match="no camera 'top'"):
        dataset.resized({"top": SIZE})


def test_a_stored_image_of_another_size_is_no_image_of_the_wanted_one(dataset, monkeypatch):
    odd = np.zeros((*SIZE[:2], 3), np.uint8)
    monkeypatch.setattr(dataset.reader, "images", lambda *_: iter([(0, odd)]))
    with pytest.raises(DataError, match=r"frame 0: camera 'front' is 12x10, the spec says 60x80"):
        list(dataset.resized({"front": SIZE}).images("front"))


def test_a_damaged_image_is_named_with_its_frame(dataset, monkeypatch):
    monkeypatch.setattr(dataset.reader, "images", lambda *_: iter([(0, b"no image")]))
    with pytest.raises(DataError, match="frame 0, camera 'front': not a readable image"):
        FrameCache(dataset.resized({"front": SIZE}), cameras=["front"])


# --- caches and streams -------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["ram", "disk", "shared"])
def test_caches_hold_the_small_images(dataset, storage, tmp_path):
    found = FrameCache(dataset.resized({"front": SIZE}), storage, folder=tmp_path)
    np.testing.assert_array_equal(found.frames["front"], small_frames(dataset))
    whole = FrameCache(dataset, storage, folder=tmp_path)
    assert whole.frames["front"].nbytes == 40 * found.frames["front"].nbytes
    np.testing.assert_array_equal(whole.frames["wrist"], found.frames["wrist"])


def test_every_size_has_a_cache_of_its_own(dataset, tmp_path, monkeypatch):
    sizes = {
        "whole": {},
        "small": {"front": SIZE},
        "cubic": {"front": SIZE._replace(kernel="bicubic")},
    }
    frames = {}
    for name, sized in sizes.items():
        cache = FrameCache(dataset.resized(sized), "disk", folder=tmp_path)
        frames[name] = np.array(cache.frames["front"])
    assert len(list(tmp_path.glob("frames-*/key.json"))) == 4  # one for the other camera
    assert not np.array_equal(frames["small"], frames["cubic"])
    # all are found again: nothing is decoded
    monkeypatch.setattr(EpisodeDataset, "images", None)
    for name, sized in sizes.items():
        cache = FrameCache(dataset.resized(sized), "disk", folder=tmp_path)
        np.testing.assert_array_equal(cache.frames["front"], frames[name])


def test_damage_is_found_in_caches_of_every_size(dataset, tmp_path):
    for sized in (dataset, dataset.resized({"front": SIZE})):
        FrameCache(sized, "disk", folder=tmp_path)
    (tmp_path / "frames-0123-12x10.building").mkdir()
    assert kept_damage(dataset, tmp_path) == []
    [file] = tmp_path.glob("frames-*-12x10/frames.bin")
    file.write_bytes(bytes(file.stat().st_size))
    [line] = kept_damage(dataset, tmp_path)
    assert "12x10/frames.bin: frames 0 to 11 of camera 'front'" in line
    key = json.loads((file.parent / "key.json").read_text())
    assert key["shape"] == [12, 12, 10, 3]
    found = FrameCache(dataset.resized({"front": SIZE}), "disk", folder=tmp_path)
    # what a quick look finds is made again
    np.testing.assert_array_equal(found.frames["front"], small_frames(dataset))


def test_memory_is_asked_for_the_small_images_alone(dataset, monkeypatch):
    free = type("Memory", (), {"available": 12 * (12 * 10 + 8 * 8) * 3})
    monkeypatch.setattr(frame_cache.psutil, "virtual_memory", lambda: free)
    FrameCache(dataset.resized({"front": SIZE}))
    with pytest.raises(DataError, match="12 decoded frames need"):
        FrameCache(dataset)


def test_streams_give_the_small_images(dataset):
    small = dataset.resized({"front": SIZE})
    held = Windows(small, history=2, chunk=1)
    streamed = StreamedWindows(small, history=2, chunk=1, memory_gb=0.01)
    order = streamed.order(batch_size=4, seed=0)
    try:
        for step in range(4):
            rows = order.indices(step)
            for camera, images in streamed.batch(rows).images.items():
                assert torch.equal(images, held.batch(rows).images[camera])
        on_demand = StreamedWindows(small, history=2, chunk=1).batch(np.arange(12))
        for camera, images in held.batch(np.arange(12)).images.items():
            assert torch.equal(on_demand.images[camera], images)
    finally:
        streamed.close()


def test_images_are_turned_first(root):
    keys = KeyMap(orientation={"front": "rotate_90"}, colours={"front": "bgr"})
    turned = EpisodeDataset(root, keys=keys)
    small = turned.resized({"front": ImageSize(16, 12)})
    assert turned.spec.cameras["front"] == (80, 60)
    expected = [resized_image(image, (16, 12)) for _, image in turned.images("front")]
    np.testing.assert_array_equal([image for _, image in small.images("front")], expected)

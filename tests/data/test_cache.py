from __future__ import annotations

import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, EpisodeDataset, FrameCache, Windows, cache


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by one with each image that the cache decodes."""
    count: list[int] = []
    decode = cache.decode_png

    def counting(data: bytes) -> np.ndarray:
        count.append(1)
        return decode(data)

    monkeypatch.setattr(cache, "decode_png", counting)
    return count


@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_every_frame_is_decoded_exactly_once(write, episode, decoded, storage):
    dataset = EpisodeDataset(write([3, 5]))
    seen = []
    windows = Windows(
        dataset, history=6, chunk=1, cache=storage, progress=lambda done, total: seen.append((done, total))
    )
    for _ in range(3):
        batch = windows.batch(np.arange(8))
    assert len(decoded) == 8 * 2
    assert seen == [(8, 8), (8, 8)]
    for t in range(5):
        np.testing.assert_array_equal(batch.images["wrist"][3 + t, -1], episode(1, 5).frames("wrist")[t])


def test_ram_holds_the_chosen_episodes_only(write, episode, decoded):
    frames = FrameCache(EpisodeDataset(write([3, 5, 2])), episodes=[2, 0], cameras=["front"])
    assert frames.frames["front"].shape == (5, 6, 8, 3)
    assert (frames.first_row(0), frames.first_row(2)) == (0, 3)
    np.testing.assert_array_equal(frames.frames["front"][3:], episode(2, 2).frames("front"))
    assert len(decoded) == 5


def test_disk_cache_is_shared_and_survives(write, decoded, tmp_path):
    dataset = EpisodeDataset(write([3, 5]))
    FrameCache(dataset, "disk", folder=tmp_path / "cache")
    before = len(decoded)
    again = Windows(dataset, history=1, chunk=1, cache="disk", episodes=[1], cache_folder=tmp_path / "cache")
    assert len(decoded) == before
    assert len(again) == 5
    assert not list((tmp_path / "cache").glob("building-*"))


def test_a_stale_cache_is_rebuilt(write, episode, decoded, spec):
    root = write([3])
    FrameCache(EpisodeDataset(root), "disk")
    with DatasetWriter(root, spec, resume=True) as writer:
        writer.add_episode(episode(1, 2))
    frames = FrameCache(EpisodeDataset(root), "disk").frames["front"]
    assert len(decoded) == (3 + 5) * 2
    np.testing.assert_array_equal(frames[3:], episode(1, 2).frames("front"))


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no_key"])
def test_a_damaged_cache_is_rebuilt(write, episode, damage):
    root = write([3])
    FrameCache(EpisodeDataset(root), "disk")
    for folder in (root / ".cache").iterdir():
        file = folder / "frames.npy"
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-10])
        elif damage == "overwritten":
            file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
        else:
            (folder / "key.json").write_text("{")
    frames = FrameCache(EpisodeDataset(root), "disk").frames
    for camera in ("front", "wrist"):
        np.testing.assert_array_equal(frames[camera], episode(0, 3).frames(camera))


def test_an_interrupted_build_leaves_no_cache(write, monkeypatch):
    root = write([3])
    dataset = EpisodeDataset(root)
    monkeypatch.setattr(cache, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        FrameCache(dataset, "disk")
    assert list((root / ".cache").iterdir()) == []


def test_unknown_storage(write):
    with pytest.raises(ValueError, match="cache is 'gpu'; expected 'ram' or 'disk'"):
        FrameCache(EpisodeDataset(write([1])), "gpu")


def test_frames_that_memory_does_not_hold(write, monkeypatch, decoded):
    free = type("Memory", (), {"available": 100})
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match=r"3 decoded frames need .* of memory, .* use cache='disk'"):
        FrameCache(EpisodeDataset(write([3])))
    assert not decoded
    FrameCache(EpisodeDataset(write([3], "other")), "disk")

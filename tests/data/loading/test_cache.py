from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from vla.data import DataError, DatasetWriter, EpisodeDataset, FrameCache, KeyMap, Windows
from vla.data.loading import decoding
from vla.data.loading import frame_cache as cache
from vla.data.loading import frame_cache_file as disk_cache
from vla.data.loading.decoding import plan_blocks
from vla.data.loading.frame_cache import kept_damage

needs_fork = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs fork and /proc")


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Grows by one with each image that the cache decodes."""
    count: list[int] = []
    decode = decoding.decode_image

    def counting(data: bytes, size: tuple[int, int]) -> np.ndarray:
        count.append(1)
        return decode(data, size)

    monkeypatch.setattr(decoding, "decode_image", counting)
    return count


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """Every episode is a block of its own."""
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", 1)


def frames_of(root: Path, camera: str) -> Path:
    """The file of a camera's finished cache, in the default folder."""
    for folder in (root / ".cache").glob("frames-*"):
        if folder.is_dir() and json.loads((folder / "key.json").read_text())["camera"] == camera:
            return folder / "frames.bin"
    raise AssertionError(f"no cache of {camera}")


def assert_frames(found: FrameCache, episode, lengths) -> None:
    for camera in ("front", "wrist"):
        expected = np.concatenate(
            [episode(number, L).frames(camera) for number, L in enumerate(lengths)]
        )
        np.testing.assert_array_equal(found.frames[camera], expected)


# --- what it holds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["ram", "disk", "shared"])
def test_every_frame_is_decoded_exactly_once(write, episode, decoded, tmp_path, storage):
    dataset = EpisodeDataset(write([3, 5]))
    seen = []
    windows = Windows(
        dataset,
        history=6,
        chunk=1,
        cache=storage,
        cache_folder=tmp_path / "cache",
        progress=lambda done, total: seen.append((done, total)),
    )
    for _ in range(3):
        batch = windows.batch(np.arange(8))
    assert len(decoded) == 8 * 2
    assert seen.count((8, 8)) == 2  # once for each camera
    for t in range(5):
        np.testing.assert_array_equal(
            batch.images["wrist"][3 + t, -1], episode(1, 5).frames("wrist")[t]
        )


def test_ram_holds_the_chosen_episodes_only(write, episode, decoded):
    frames = FrameCache(EpisodeDataset(write([3, 5, 2])), episodes=[2, 0], cameras=["front"])
    assert frames.frames["front"].shape == (5, 6, 8, 3)
    assert (frames.first_row(0), frames.first_row(2)) == (0, 3)
    np.testing.assert_array_equal(frames.frames["front"][3:], episode(2, 2).frames("front"))
    assert len(decoded) == 5


def test_blocks_cover_the_ranges_in_order(monkeypatch):
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(decoding, "_LONGEST", 50)
    ranges = [(0, 3), (3, 10), (10, 12), (20, 21), (21, 141)]
    blocks = plan_blocks(ranges, 1)
    assert [(b.row, b.start, b.stop) for b in blocks] == [
        (0, 0, 10),
        (10, 10, 12),
        (12, 20, 21),
        (13, 21, 71),
        (63, 71, 121),
        (113, 121, 141),
    ]


@pytest.mark.parametrize("storage", ["ram", "disk"])
def test_blocks_side_by_side_are_one_cache(write, episode, small_blocks, storage, monkeypatch):
    monkeypatch.setattr(disk_cache, "_PIECE_BYTES", 200)
    lengths = [1, 4, 2, 7]
    dataset = EpisodeDataset(write(lengths))
    found = FrameCache(dataset, storage, threads=3)
    assert_frames(found, episode, lengths)
    assert found.damage() == []


def test_disk_cache_is_kept(write, decoded, tmp_path):
    dataset = EpisodeDataset(write([3, 5]))
    FrameCache(dataset, "disk", folder=tmp_path / "cache")
    before = len(decoded)
    again = Windows(
        dataset, history=1, chunk=1, cache="disk", episodes=[1], cache_folder=tmp_path / "cache"
    )
    assert len(decoded) == before
    assert len(again) == 5
    assert not list((tmp_path / "cache").glob("*.building"))


def test_datasets_in_one_folder_of_caches_do_not_meet(write, decoded, tmp_path, episode):
    one, other = write([3], "one"), write([3, 2], "other")
    for root in (one, other, one, other):
        FrameCache(EpisodeDataset(root), "disk", folder=tmp_path / "cache")
    assert len(decoded) == (3 + 5) * 2


def test_a_camera_that_is_read_as_another_has_a_cache_of_its_own(write, tmp_path):
    root = write([3])
    (root / "meta" / "vla_spec.json").unlink(missing_ok=True)
    plain = disk_cache.CameraCache(EpisodeDataset(root), "front", tmp_path)
    dataset = EpisodeDataset(root)
    dataset.reader.keys = KeyMap(cameras={"front": "observation.images.wrist"})
    assert disk_cache.CameraCache(dataset, "front", tmp_path).folder != plain.folder


def test_a_stale_cache_is_rebuilt(write, episode, decoded, spec):
    root = write([3])
    FrameCache(EpisodeDataset(root), "disk")
    with DatasetWriter(root, spec, resume=True) as writer:
        writer.add_episode(episode(1, 2))
    frames = FrameCache(EpisodeDataset(root), "disk").frames["front"]
    assert len(decoded) == (3 + 5) * 2
    np.testing.assert_array_equal(frames[3:], episode(1, 2).frames("front"))


def test_a_dataset_that_changes_while_it_is_decoded(write, episode, spec):
    root = write([3])

    def grow(done: int, total: int) -> None:
        if not grown:
            grown.append(1)
            with DatasetWriter(root, spec, resume=True) as writer:
                writer.add_episode(episode(1, 2))

    grown: list[int] = []
    with pytest.raises(DataError, match="changed while its frames were decoded"):
        FrameCache(EpisodeDataset(root), "disk", progress=grow)
    assert_frames(FrameCache(EpisodeDataset(root), "disk"), episode, [3, 2])


def test_a_dataset_that_is_one_file_has_its_cache_beside_it(tmp_path):
    file = tmp_path / "demo.hdf5"
    file.touch()
    assert cache._cache_folder(type("Dataset", (), {"root": file}), None) == (
        tmp_path / "demo.hdf5.cache",
        "",
    )


# --- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "no_key"])
def test_a_damaged_cache_is_rebuilt(write, episode, damage):
    root = write([3])
    FrameCache(EpisodeDataset(root), "disk")
    for camera in ("front", "wrist"):
        file = frames_of(root, camera)
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-10])
        elif damage == "overwritten":
            file.write_bytes(file.read_bytes()[:-10] + b"0123456789")
        else:
            (file.parent / "key.json").write_text("{")
    assert_frames(FrameCache(EpisodeDataset(root), "disk"), episode, [3])


def test_any_flipped_byte_is_found_by_looking_at_all(write, small_blocks, tmp_path):
    dataset = EpisodeDataset(write([4, 3, 9]))
    found = FrameCache(dataset, "disk")
    assert found.damage() == kept_damage(dataset) == []
    file = frames_of(dataset.root, "front")
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        file.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :]
        )
        [line] = kept_damage(dataset)
        first = next(row for row in (7, 4, 0) if place >= row * 6 * 8 * 3)
        assert f"frames {first} to " in line
        assert "delete" in line
    file.write_bytes(whole[:-1])
    assert "expected" in kept_damage(dataset)[0]
    file.write_bytes(whole)
    assert kept_damage(dataset) == []


def test_a_damaged_key_is_found(write):
    dataset = EpisodeDataset(write([4, 3]))
    FrameCache(dataset, "disk", cameras=["front"])
    path = frames_of(dataset.root, "front").parent / "key.json"
    stored = json.loads(path.read_text())
    for change in (
        {"sample": "0"},
        {"blocks": []},
        {"blocks": [[0, 7, 1]]},
        {"blocks": 5},
        {"shape": [1]},
    ):
        path.write_text(json.dumps(stored | change))
        assert len(kept_damage(dataset)) == 1
    path.unlink()
    assert len(kept_damage(dataset)) == 1


# --- what goes wrong ------------------------------------------------------------------------------------


def test_an_interrupted_build_goes_on_where_it_stopped(write, episode, small_blocks, decoded):
    lengths = [3, 4, 2]
    root = write(lengths)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FrameCache(EpisodeDataset(root), "disk", progress=interrupt, threads=1)
    before = len(decoded)
    assert before == 9  # all of the first camera: progress is reported when its blocks are done
    [building] = (root / ".cache").glob("*.building")
    with open(building / "journal.jsonl", "a") as journal:
        journal.write("[7, 12")  # a line cut by a kill
    file = building / "frames.bin"
    content = bytearray(file.read_bytes())
    content[4 * 6 * 8 * 3] ^= 1  # in the second episode: not what the journal says
    file.write_bytes(content)
    assert_frames(FrameCache(EpisodeDataset(root), "disk"), episode, lengths)
    assert len(decoded) - before == 4 + 9
    assert not list((root / ".cache").glob("*.building"))


def test_a_damaged_image_keeps_the_other_blocks(write, small_blocks, decoded, monkeypatch):
    root = write([3, 4, 2])
    counting = decoding.decode_image

    def failing(data: bytes, size: tuple[int, int]) -> np.ndarray:
        if len(decoded) == 7:
            raise DataError("not a readable image file")
        return counting(data, size)

    monkeypatch.setattr(decoding, "decode_image", failing)
    with pytest.raises(DataError, match=r"frame 7, camera 'front': not a readable image"):
        FrameCache(EpisodeDataset(root), "disk", threads=1)
    monkeypatch.setattr(decoding, "decode_image", counting)
    FrameCache(EpisodeDataset(root), "disk", cameras=["front"])
    assert len(decoded) == 7 + 2


def test_frames_that_a_reader_leaves_out(write, monkeypatch):
    dataset = EpisodeDataset(write([3, 4]))
    whole = dataset.images
    monkeypatch.setattr(
        dataset, "images", lambda *place: (item for item in whole(*place) if item[0] != 5)
    )
    with pytest.raises(
        DataError, match=r"camera 'front' goes on with frame 6 where frame 5 is expected"
    ):
        FrameCache(dataset)
    monkeypatch.setattr(
        dataset, "images", lambda *place: (item for item in whole(*place) if item[0] < 5)
    )
    with pytest.raises(DataError, match=r"camera 'front' ends where frame 5 is expected"):
        FrameCache(dataset)


def test_unknown_storage(write):
    with pytest.raises(ValueError, match="cache is 'gpu'; expected one of 'ram', 'disk', 'shared'"):
        FrameCache(EpisodeDataset(write([1])), "gpu")


def test_frames_that_memory_does_not_hold(write, monkeypatch, decoded, tmp_path):
    free = type("Memory", (), {"available": 100})
    monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: free)
    with pytest.raises(DataError, match=r"3 decoded frames need .* of memory, .* use cache='disk'"):
        FrameCache(EpisodeDataset(write([3])))
    with pytest.raises(DataError, match=r"need .* \(576 bytes\), .* \(100 bytes\) are free"):
        FrameCache(EpisodeDataset(write([3], "one")), "shared", folder=tmp_path / "shm")
    assert not decoded
    FrameCache(EpisodeDataset(write([3], "other")), "disk")


def test_frames_that_the_disk_does_not_hold(write, monkeypatch, decoded):
    root = write([3])
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage(575))
    with pytest.raises(
        DataError, match=r"need .* \(576 bytes\), .* \(575 bytes\) are free there; make room"
    ):
        FrameCache(EpisodeDataset(root), "disk")
    assert not decoded
    monkeypatch.setattr(disk_cache.shutil, "disk_usage", lambda _: usage(576))
    FrameCache(EpisodeDataset(root), "disk")


def test_a_disk_that_fills_up_meanwhile(write, monkeypatch, episode):
    root = write([3])

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk_cache.CameraCache, "_decode", full)
        with pytest.raises(DataError, match=r"decoded frames need .* are free there"):
            FrameCache(EpisodeDataset(root), "disk")
    assert_frames(FrameCache(EpisodeDataset(root), "disk"), episode, [3])


def test_a_folder_that_cannot_be_written(write, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be kept here: .*; use another cache folder"):
        FrameCache(EpisodeDataset(write([3])), "disk", folder=tmp_path / "file" / "cache")


# --- several processes ----------------------------------------------------------------------------------

# Forks a process for each line it reads, so that the imports are paid once. A child opens the cache, tells how many images
# it decoded and what it found, and ends when the file `hold` is gone.
OPENER = """
import json, os, signal, sys, time, zlib
from pathlib import Path
from vla.data import EpisodeDataset, FrameCache
from vla.data.loading import decoding
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no trace
decoding._BLOCK_BYTES = 1
decode, count = decoding.decode_image, 0
def slow(data, size):
    global count
    count += 1
    time.sleep(job["delay"])
    return decode(data, size)
decoding.decode_image = slow
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        continue
    out = Path(job["out"])
    cache = FrameCache(EpisodeDataset(job["root"]), job["storage"], folder=job["folder"], threads=1,
                       progress=lambda done, total: out.with_suffix(".progress").write_text(str(done)))
    report = {"decoded": count, "sum": {c: zlib.crc32(f) for c, f in cache.frames.items()}}
    out.with_suffix(".part").write_text(json.dumps(report))
    out.with_suffix(".part").replace(out)
    while os.path.exists(job["hold"]):
        time.sleep(0.01)
    del cache
    sys.exit()
"""


class Openers:
    """Processes that open one cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.server = subprocess.Popen(
            [sys.executable, "-c", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def open(
        self, root: Path, storage: str, folder: Path, *, delay: float = 0.0
    ) -> tuple[int, Path]:
        """-> process id, and the file of its answer."""
        self.number += 1
        out, hold = self.folder / f"{self.number}.json", self.folder / f"{self.number}.hold"
        hold.touch()
        job = {"root": str(root), "storage": storage, "folder": str(folder), "delay": delay}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(
            json.dumps(job | {"out": str(out), "hold": str(hold)}),
            file=self.server.stdin,
            flush=True,
        )
        return int(self.server.stdout.readline()), out

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()


def until(condition) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def kill(process: int) -> None:
    """Returns when the process is gone."""
    os.kill(process, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{process}").exists())


def answer(out: Path) -> dict:
    until(out.exists)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def openers(tmp_path_factory):
    made = Openers(tmp_path_factory.mktemp("openers"))
    yield made
    made.close()


@needs_fork
@pytest.mark.parametrize("storage", ["disk", "shared"])
def test_one_of_two_processes_decodes(write, openers, tmp_path, storage):
    root, folder = write([2, 3, 4]), tmp_path / "cache"
    (_, first), (_, second) = (openers.open(root, storage, folder, delay=0.01) for _ in range(2))
    found = [answer(first), answer(second)]
    assert sorted(each["decoded"] for each in found) in (
        [0, 18],
        [9, 9],
    )  # a camera is locked by itself
    assert found[0]["sum"] == found[1]["sum"]
    for out in (first, second):
        out.with_suffix(".hold").unlink()


@needs_fork
def test_a_killed_builder_is_followed_by_the_one_that_waits(write, openers, tmp_path):
    root, folder = write([2] * 12), tmp_path / "cache"
    builder, first = openers.open(root, "disk", folder, delay=0.15)

    def finished() -> int:
        """Blocks in the journal, of two frames each."""
        return sum(
            len(path.read_text().splitlines()) for path in folder.glob("*.building/journal.jsonl")
        )

    until(lambda: finished() >= 3)
    _, second = openers.open(root, "disk", folder)
    until(second.with_suffix(".progress").exists)  # it waits, and tells how far the other one is
    kill(builder)
    found = answer(second)
    assert not first.exists()
    assert 0 < found["decoded"] <= 2 * 24 - 3 * 2
    second.with_suffix(".hold").unlink()
    assert kept_damage(EpisodeDataset(root), folder) == []


@needs_fork
def test_shared_memory_is_left_when_the_last_user_ends(write, openers, tmp_path, episode):
    root, base = write([2, 3]), tmp_path / "memory"
    mine = FrameCache(EpisodeDataset(root), "shared", folder=base)
    killed, first = openers.open(root, "shared", base)
    _, second = openers.open(root, "shared", base)
    assert answer(first)["decoded"] == answer(second)["decoded"] == 0
    [shared] = [path for path in base.iterdir() if path.is_dir()]
    kill(killed)
    del mine
    assert shared.exists()  # the second uses it
    second.with_suffix(".hold").unlink()
    until(lambda: not shared.exists())

    killed, out = openers.open(root, "shared", base)
    answer(out)
    kill(killed)
    assert shared.exists()  # nobody was left to remove it
    other = FrameCache(EpisodeDataset(write([1], "other")), "shared", folder=base)
    assert not shared.exists()
    assert_frames(other, episode, [1])


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory folder")
def test_the_systems_shared_memory(write, episode):
    root = write([2, 3])
    found = FrameCache(EpisodeDataset(root), "shared")
    assert_frames(found, episode, [2, 3])
    folder = found._shared.path
    assert folder.parent.parent == Path("/dev/shm")
    assert folder.stat().st_uid == os.getuid()
    del found
    assert not folder.exists()


def test_two_threads_of_one_process_decode_once(write, decoded):
    root = write([3, 4])
    threads = [
        threading.Thread(target=FrameCache, args=(EpisodeDataset(root), "disk")) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 7 * 2


def test_a_folder_deleted_under_a_waiting_lock(tmp_path):
    from vla.data.storage.file_lock import FileLock

    base = tmp_path / "cache"
    base.mkdir()
    held, waiting = FileLock(base / "lock"), FileLock(base / "lock")
    held.acquire()
    assert not waiting.try_acquire()
    shutil.rmtree(base)
    with pytest.raises(DataError, match="cannot be locked: No such file"):
        waiting.try_acquire()
    base.mkdir()
    assert waiting.try_acquire()
    held.release()
    waiting.release()

"""Small files that stand for much, and files that are none: refused in a sentence, and quickly."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_lerobot import vector, write_v2

from vla.data import EpisodeDataset
from vla.data.episode import decode_image
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.formats.rlds_parts.tfrecord import index_records, masked_crc
from vla.data.loading.image_text import ImageTextPairs
from vla.data.validation.report import validate

FEATURES = {"action": vector(2), "observation.state": vector(3)}


def black_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    data = zlib.compress(b"\0" * 1000)  # far fewer pixels than the header says
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def robomimic(path: Path, fill: Callable[[h5py.Group], None]) -> Path:
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((3, 2))
        demo["obs/arm"] = np.zeros((3, 1))
        fill(demo)
    return path


def endless(demo: h5py.Group) -> None:
    demo.create_dataset("rewards", (10**9,), "f4", chunks=(2**21,), compression="gzip")
    del demo["actions"]
    made = demo.create_dataset("actions", (10**8, 2), "f4", chunks=(2**22, 2), compression="gzip")
    piece = zlib.compress(b"\0" * (2**22 * 8))
    for at in range(0, 10**8, 2**22):
        made.id.write_direct_chunk((at, 0), piece)


def linked(demo: h5py.Group) -> None:
    group = demo["obs"]
    for level in range(12):
        inner = demo.file.create_group(f"level_{level}")
        for number in range(8):
            group[f"way_{number}"] = inner
        group = inner


def many(demo: h5py.Group) -> None:
    for number in range(1100):
        demo["obs"][f"arm_{number}"] = demo["obs/arm"]


HDF5 = {
    "endless": (endless, "would take .* of memory .* `export VLA_UNPACK_GIB="),
    "hard links": (linked, "is a group that is reached by several names"),
    "many datasets": (many, "holds .* datasets, expected at most 1000"),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5_files_of_much(kind: str, tmp_path: Path) -> None:
    fill, expected = HDF5[kind]
    path = robomimic(tmp_path / "data.hdf5", fill)
    with pytest.raises(DataError, match=expected):
        EpisodeDataset(path)
    assert not validate(path).ok


@pytest.mark.parametrize("way", ["external", "link", "virtual"])
@pytest.mark.parametrize("what", ["lang", "mask/train"])
def test_texts_that_lie_in_other_files(way: str, what: str, tmp_path: Path) -> None:
    secret = tmp_path / "private.txt"
    secret.write_text("a private text" * 9)
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.array([secret.read_bytes()[:40]])

    def fill(demo: h5py.Group) -> None:
        group = demo.file if what.startswith("mask") else demo
        if way == "external":
            group.create_dataset(what, (1,), "S40", external=[(str(secret), 0, 40)])
        elif way == "link":
            group[what] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "x")
        else:
            layout = h5py.VirtualLayout(shape=(1,), dtype="S40")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", shape=(1,))
            group.create_virtual_dataset(what, layout)

    path = robomimic(tmp_path / "data.hdf5", fill)
    keys = KeyMap(instruction="lang") if what == "lang" else KeyMap(split="train")
    with pytest.raises(DataError, match=r"lies in other files|is a link to elsewhere"):
        EpisodeDataset(path, keys=keys)


def test_an_archive_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **{"0/actions": np.zeros((40_000_000, 2), np.float32)})
    with pytest.raises(DataError, match=r"would take .* of memory"):
        EpisodeDataset(path)
    assert not validate(path).ok


def test_a_table_of_equal_rows(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", FEATURES)
    path = sorted(root.glob("data/*/*.parquet"))[0]
    table = pq.read_table(path)
    rows = table.take(pa.array(np.zeros(10**6, np.int64)))
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        for _ in range(8):
            writer.write_table(rows)
    with pytest.raises(DataError, match=r"episode_000000.parquet: would take .* of memory"):
        _ = EpisodeDataset(root).columns
    assert not validate(root).ok


def test_a_long_table_of_episodes_that_are_not_here(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", FEATURES)
    line = json.dumps({"episode_index": 0, "tasks": ["x"], "length": 6}) + "\n"
    (root / "meta/episodes.jsonl").write_text(line * 100_000)
    with pytest.raises(DataError, match="has 100000 lines, and 3 files are in"):
        EpisodeDataset(root)


@pytest.mark.parametrize("name", ["a\0b", "/etc/{episode_index}", "../{episode_index}"])
@pytest.mark.parametrize("key", ["data_path", "video_path"])
def test_patterns_that_lead_out(key: str, name: str, tmp_path: Path) -> None:
    features = FEATURES | {"observation.images.front": vector(16, 24, 3, dtype="video")}
    root = write_v2(tmp_path / "set", FEATURES)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= features
    (root / "meta/info.json").write_text(json.dumps(info | {key: name}))
    with pytest.raises(DataError, match="which is no path within the dataset's folder"):
        EpisodeDataset(root)
    assert not validate(root).ok


@pytest.mark.parametrize("fps", [1e-320, 1e308])
def test_rates_of_no_robot(fps: float, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", FEATURES)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"fps": fps}))
    assert not validate(root).ok


@pytest.mark.parametrize("text", ["\ud800", "a" * 200_000])
def test_instructions_that_are_none(text: str, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", FEATURES)
    task = json.dumps({"task_index": 0, "task": text})
    (root / "meta/tasks.jsonl").write_text(task)
    with pytest.raises(DataError, match="instruction 0"):
        EpisodeDataset(root)
    assert not validate(root).ok


def test_empty_records(tmp_path: Path) -> None:
    length = struct.pack("<Q", 0)
    record = length + struct.pack("<I", masked_crc(length)) + struct.pack("<I", masked_crc(b""))
    path = tmp_path / "x.tfrecord"
    path.write_bytes(record * 1000)
    with pytest.raises(DataError, match="record 0 is empty"):
        index_records(path)


@pytest.mark.parametrize("side", [13_000, 20_000])
def test_pictures_far_larger_than_their_files(side: int) -> None:
    with pytest.raises(DataError, match=r"would take|decompression bomb"):
        decode_image(black_png(side))
    with pytest.raises(DataError, match="the spec says 16x16"):
        decode_image(black_png(500), (16, 16))


def steps(folder: Path, text: str) -> Path:
    (folder / "episode_0").mkdir(parents=True)
    (folder / "episode_0" / "steps.csv").write_text(text)
    return folder


def test_a_table_of_many_columns(tmp_path: Path) -> None:
    names = ",".join(f"state.s{i}" for i in range(60_000))
    row = "0," * 60_000 + "0"
    root = steps(tmp_path / "set", f"action.a,{names}\n{row}\n{row}\n")
    with pytest.raises(DataError, match="has 60001 columns, expected at most 4096"):
        EpisodeDataset(root)


@pytest.mark.parametrize("name", ["steps.csv", "instruction.txt", "front/0.png"])
def test_pipes_in_a_folder(name: str, tmp_path: Path) -> None:
    root = steps(tmp_path / "set", "timestamp,action.a\n0,0\n0.1,1\n")
    (root / "episode_0/front").mkdir()
    for number in range(2):
        Image.new("RGB", (4, 4)).save(root / f"episode_0/front/{number}.png")
    path = root / "episode_0" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(DataError, match="is no plain file but a pipe"):
        EpisodeDataset(root)
    places = [finding.place for finding in validate(root).of("error")]
    assert f"episode_0/{name}" in places


def test_pipes_among_parquet_files(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", FEATURES)
    path = sorted(root.glob("data/*/*.parquet"))[0]
    path.unlink()
    os.mkfifo(path)
    assert any("a pipe" in finding.message for finding in validate(root).of("error"))


def pair(folder: Path, name: str) -> Path:
    folder.mkdir()
    row = json.dumps({"file_name": name, "prompt": "a", "answer": "b"})
    (folder / "metadata.jsonl").write_text(row)
    return folder


@pytest.mark.parametrize("way", ["path", "absolute", "link"])
def test_pictures_of_pairs_stay_in_their_folder(way: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (4, 4)).save(photo)
    name = {"path": "../photo.png", "absolute": str(photo), "link": "0.png"}[way]
    folder = pair(tmp_path / "pairs", name)
    if way == "link":
        (folder / "0.png").symlink_to(photo)
    with pytest.raises(DataError, match="the dataset's folder"):
        ImageTextPairs(folder)


def test_deep_and_large_pictures_of_pairs(tmp_path: Path) -> None:
    folder = pair(tmp_path / "pairs", "0.png")
    Image.fromarray(np.full((4, 4), 999, np.uint16)).save(folder / "0.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        ImageTextPairs(folder).batch(np.array([0]))
    (folder / "0.png").write_bytes(black_png(13_000))
    with pytest.raises(DataError, match="would take"):
        ImageTextPairs(folder).batch(np.array([0]))

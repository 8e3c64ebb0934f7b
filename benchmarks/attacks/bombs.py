"""Files of a few megabytes that stand for gigabytes, for millions of parts, or for hours."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from attacks._case import Case
from attacks._datasets import fresh, reading, warm_all

COUNT = 90


def warm() -> None:
    warm_all("folder", "NumPy archive", "robomimic", "LeRobot v3, images", "LeRobot v2.1", "RLDS")


def case(rng: random.Random, folder: Path) -> Case:
    make = rng.choice(BOMBS)
    way = rng.choice(["read", "read", "validate", "validate", "info", "convert"])
    root = make(rng, folder)
    name = make.__name__.strip("_").replace("_", " ")
    # to list a dataset, pictures are not looked at
    harmless = way == "info" and "frame" in name

    def check(found: object) -> str:
        return "" if harmless else "was read"

    return Case(f"{name}, {way}", reading(way, root, folder), check=check)


# --- arrays ---------------------------------------------------------------------------------------


def _zeros_in_npz(rng: random.Random, folder: Path) -> Path:
    """An archive of zeros, written in pieces."""
    import zipfile

    path = folder / "data.npz"
    rows = rng.choice([10**8, 4 * 10**8])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("actions", "observations"):
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 2), }}"
            header = header.ljust(117) + "\n"
            with archive.open(f"0/{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
                for _ in range(8 * rows // 2**24):
                    file.write(_ZEROS)
                file.write(b"\0" * (8 * rows % 2**24))
    return path


_ZEROS = b"\0" * 2**24


def _zeros_in_hdf5(rng: random.Random, folder: Path) -> Path:
    import h5py
    import numpy as np

    path = folder / "data.hdf5"
    rows = 10**8
    with h5py.File(path, "w") as file:
        for demo in range(2):
            group = file.create_group(f"data/demo_{demo}")
            for name, width in (("actions", 2), ("obs/arm", 1)):
                shape = (rows, width)
                chunk = (2**21, width)
                made = group.create_dataset(
                    name, shape, "f4", chunks=chunk, compression="gzip", compression_opts=9
                )
                piece = zlib.compress(np.zeros(chunk, "f4").tobytes(), 9)
                for at in range(0, rows, chunk[0]):
                    made.id.write_direct_chunk((at, 0), piece)
    return path


def _links_in_hdf5(rng: random.Random, folder: Path) -> Path:
    import h5py

    path = folder / "data.hdf5"
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = [[0.0], [1.0]]
        group = demo.create_group("obs")
        for level in range(12):
            inner = file.create_group(f"level_{level}")
            for number in range(8):
                group[f"way_{number}"] = inner
            group = inner
        group["arm"] = [[0.0], [1.0]]
    return path


def _many_datasets_in_hdf5(rng: random.Random, folder: Path) -> Path:
    import h5py

    path = folder / "data.hdf5"
    with h5py.File(path, "w", libver="latest") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = [[0.0], [1.0]]
        one = demo.create_dataset("obs/arm", data=[[0.0], [1.0]])
        for number in range(20_000):
            # names of one dataset: to list them takes as long as to list as many datasets
            demo["obs"][f"arm_{number}"] = one
    return path


# --- tables ---------------------------------------------------------------------------------------


def _equal_rows_in_parquet(rng: random.Random, folder: Path) -> Path:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = fresh("LeRobot v3, images", folder)
    path = next((root / "data").rglob("*.parquet"))
    schema = pq.read_schema(path)
    rows = 10**6
    zeros = {}
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            numbers = pa.array(np.zeros(rows * field.type.list_size, np.float32))
            zeros[field.name] = pa.FixedSizeListArray.from_arrays(numbers, field.type.list_size)
        elif not pa.types.is_nested(field.type):
            zeros[field.name] = pa.array(np.zeros(rows)).cast(field.type)
        else:
            zeros[field.name] = pa.nulls(rows, field.type)
    table = pa.table(zeros).cast(schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(100):
            writer.write_table(table)
    return root


def _many_columns_in_csv(rng: random.Random, folder: Path) -> Path:
    root = fresh("folder", folder)
    names = ",".join(f"state.s{i}" for i in range(60_000))
    row = ",".join(["0"] * 60_000)
    text = f"timestamp,action.a,{names}\n0,0,{row}\n0.1,0,{row}\n"
    (next(root.glob("*/")) / "steps.csv").write_text(text)
    return root


def _many_episodes_of_v2(rng: random.Random, folder: Path) -> Path:
    root = fresh("LeRobot v2.1", folder)
    lines = [
        json.dumps({"episode_index": i, "tasks": ["push the button"], "length": 4})
        for i in range(200_000)
    ]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    return root


def _empty_tfrecords(rng: random.Random, folder: Path) -> Path:
    from vla.data.formats.rlds_parts.tfrecord import masked_crc

    root = fresh("RLDS", folder)
    length = struct.pack("<Q", 0)
    record = length + struct.pack("<I", masked_crc(length)) + struct.pack("<I", masked_crc(b""))
    next(root.rglob("*train*")).write_bytes(record * 1_000_000)
    info = json.loads((root / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = ["1000000"]
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


# --- pictures -------------------------------------------------------------------------------------


def black_png(side: int) -> bytes:
    """A PNG of black pixels, of which no more than a row is ever in memory."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + 3 * side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _large_frame(rng: random.Random, folder: Path) -> Path:
    root = fresh("folder", folder)
    frames = sorted(root.rglob("*.png"))
    frames[rng.choice([0, 1, 5])].write_bytes(black_png(rng.choice([5000, 13_000, 20_000])))
    return root


def _large_frames(rng: random.Random, folder: Path) -> Path:
    root = fresh("folder", folder)
    data = black_png(13_000)
    for frame in sorted(root.rglob("*.png")):
        frame.write_bytes(data)
    return root


def _large_frame_in_parquet(rng: random.Random, folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = fresh("LeRobot v3, images", folder)
    path = next((root / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    name = next(f.name for f in table.schema if pa.types.is_struct(f.type))
    images = table.column(name).to_pylist()
    images[rng.choice([0, 3])]["bytes"] = black_png(rng.choice([13_000, 20_000]))
    place = table.column_names.index(name)
    column = pa.array(images, table.schema.field(name).type)
    pq.write_table(table.set_column(place, table.schema.field(name), column), path)
    return root


BOMBS: tuple[Callable[[random.Random, Path], Path], ...] = (
    _zeros_in_npz,
    _zeros_in_hdf5,
    _links_in_hdf5,
    _many_datasets_in_hdf5,
    _equal_rows_in_parquet,
    _many_columns_in_csv,
    _many_episodes_of_v2,
    _empty_tfrecords,
    _large_frame,
    _large_frames,
    _large_frame_in_parquet,
)

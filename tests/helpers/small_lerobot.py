"""Small LeRobotDatasets v2.1 and v3.0 as other makers write them, with whatever features a test names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 10
VIDEO = "videos/chunk-000/observation.images.{}/episode_{:06d}.mp4"
DATA = "data/chunk-000/episode_{:06d}.parquet"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 82515\n"
SINGLE = {"dtype": "int64", "shape": [1], "names": None}


def vector(*shape: int, names: Any = None, dtype: str = "float32") -> dict[str, Any]:
    """A feature of numbers."""
    return {"dtype": dtype, "shape": list(shape), "names": names}


def values_of(name: str, episode: int, L: int, width: int) -> np.ndarray:
    """(L, width), other numbers for each feature, episode, step and dimension."""
    base = sum(map(ord, name)) % 97
    return (base + episode + np.arange(L)[:, None] / 50 + np.arange(width) / 1000).astype(
        np.float32
    )


def write_v2(
    root: Path,
    features: Mapping[str, Mapping[str, Any]],
    *,
    lengths: Sequence[int] = (6, 5, 7),
    cameras: Sequence[str] = (),
    film: Callable[..., None] | None = None,
    fps: float = FPS,
) -> Path:
    """One parquet file and, for each camera, one film per episode."""
    film = film or write_film
    described = {name: dict(feature) for name, feature in features.items()}
    index = ("frame_index", "episode_index", "index", "task_index")
    described |= dict.fromkeys(index, SINGLE) | {"timestamp": vector(1)}
    first = 0
    (root / "meta").mkdir(parents=True)
    for episode, L in enumerate(lengths):
        columns = {name: _column(name, episode, L, f) for name, f in features.items()}
        columns |= {
            "timestamp": pa.array((np.arange(L) / fps).astype(np.float32)),
            "frame_index": pa.array(np.arange(L)),
            "episode_index": pa.array(np.full(L, episode)),
            "index": pa.array(np.arange(first, first + L)),
            "task_index": pa.array(np.zeros(L, np.int64)),
        }
        path = root / DATA.format(episode)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
        for camera in cameras:
            path = root / VIDEO.format(camera, episode)
            path.parent.mkdir(parents=True, exist_ok=True)
            film(path, episode, L)
        first += L
    for camera in cameras:
        names = ["height", "width", "channels"]
        described[f"observation.images.{camera}"] = vector(16, 24, 3, names=names, dtype="video")
    info = {
        "codebase_version": "v2.1",
        "fps": fps,
        "total_episodes": len(lengths),
        "total_frames": first,
        "chunks_size": 1000,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": described,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    rows = [
        {"episode_index": episode, "tasks": ["pick the cube"], "length": L}
        for episode, L in enumerate(lengths)
    ]
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "pick the cube"}\n')
    return root


def _column(name: str, episode: int, L: int, feature: Mapping[str, Any]) -> pa.Array | None:
    if feature["dtype"] in ("video", "image"):
        return None
    if feature["dtype"] == "string":
        return pa.array([f"text {episode}"] * L)
    shape = feature["shape"]
    numbers = values_of(name, episode, L, int(np.prod(shape)))
    if shape == [1]:
        return pa.array(numbers[:, 0])
    array: pa.Array = pa.array(numbers.reshape(-1))
    for size in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def write_film(
    path: Path,
    episode: int,
    L: int,
    *,
    rate: Fraction | int = FPS,
    start: float = 0.0,
    times: Sequence[float] | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Gray frames, 8 levels apart from step to step."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=dict(options or {"bf": "0"}))
        stream.height, stream.width, stream.pix_fmt = 16, 24, "yuv420p"
        if times is not None:  # else times are rounded to those of the rate
            stream.codec_context.time_base = Fraction(1, 90000)
        for t in range(L):
            image = np.full((16, 24, 3), 20 + 8 * t + episode, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if start or times is not None:
                time = t / FPS + start if times is None else times[t]
                frame.pts, frame.time_base = round(90000 * time), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

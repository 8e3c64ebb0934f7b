"""Small datasets of every format, each with the same robot, for the fuzzer to damage.

L: steps of an episode.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla.data import DatasetWriter, Episode, EpisodeDataset, FrameCache
from vla.data.storage.video import VideoConfig, encode_video
from vla.types import Spec

SIZES = {"front": (32, 48), "wrist": (8, 12)}
LENGTHS = (4, 3, 5, 4)
TASKS = ("open the drawer", "push the button")
HZ = 10.0
OURS = ("next.terminated", "success", "return", "terminated", "info")


@dataclass(frozen=True)
class Sample:
    """A dataset to damage.

    Attributes:
        name: of the kind.
        path: its folder or file.
        unchecked: endings of files whose content carries no checksum by the nature of the format: a plausible edit of them
            cannot be distinguished from what was recorded.
    """

    name: str
    path: Path
    unchecked: tuple[str, ...]


def episode(number: int) -> Episode:
    """Pictures that a video codec keeps apart, numbers that are unlike all others."""
    rng = np.random.default_rng([3, number])
    L = LENGTHS[number]
    images = {}
    for camera, (h, w) in SIZES.items():
        ramp = np.add.outer(np.arange(h), np.arange(w)) * 2
        shade = 20 * number + 12 * np.arange(L)
        images[camera] = np.clip(
            ramp[None, :, :, None] + shade[:, None, None, None] + [0, 9, 18], 0, 255
        ).astype(np.uint8)
    return Episode(
        images=images,
        state=rng.normal(size=(L, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (L, 2)).astype(np.float32),
        rewards=(rng.uniform(size=L) / L).astype(np.float32),
        success=np.arange(L) >= L - number % 2,
        terminated=bool(number % 2),
        instruction=TASKS[number % 2],
        info={"seed": number},
    )


def _spec(*cameras: str) -> Spec:
    sizes = {camera: SIZES[camera] for camera in cameras}
    return Spec(sizes, ("x", "y", "grip"), ("dx", "dy"), (-1.0, -1.0), (1.0, 1.0), HZ)


def _episodes(*cameras: str) -> list[Episode]:
    made = [episode(number) for number in range(len(LENGTHS))]
    return [
        Episode(**{**vars(e), "images": {camera: e.images[camera] for camera in cameras}})
        for e in made
    ]


# --- LeRobot ----------------------------------------------------------------------------------------


def native_images(folder: Path) -> Path:
    """Two cameras as PNG, with decoded frames kept beside them."""
    with DatasetWriter(folder, _spec("front", "wrist")) as writer:
        for made in _episodes("front", "wrist"):
            writer.add_episode(made)
    FrameCache(EpisodeDataset(folder), "disk", threads=1)
    return folder


def native_video(folder: Path) -> Path:
    """One camera as video."""
    with DatasetWriter(folder, _spec("front"), video=VideoConfig(crf=10)) as writer:
        writer.add_episodes(_episodes("front"))
    return folder


def _as_others_write(folder: Path) -> Path:
    """Takes away what only this project writes: checksums, spec, labels of true ends."""
    for name in ("vla_spec.json", "vla_metadata.json"):
        (folder / "meta" / name).unlink()
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        drop = [name for name in table.column_names if name in OURS or name.endswith("/crc32")]
        if path.parts[-3] == "episodes":
            drop.append("task_index")
        kept = {
            key: value for key, value in (table.schema.metadata or {}).items() if key != b"checksum"
        }
        pq.write_table(table.drop(drop).replace_schema_metadata(kept or None), path)
    for path in folder.rglob("*.mp4"):
        data = path.read_bytes()
        path.write_bytes(data[: data.rindex(b"free") - 4])
    info = json.loads((folder / "meta/info.json").read_text())
    info["features"] = {key: value for key, value in info["features"].items() if key not in OURS}
    del info["checksum"]
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))
    stats = json.loads((folder / "meta/stats.json").read_text())
    (folder / "meta/stats.json").write_text(
        json.dumps({k: v for k, v in stats.items() if k not in OURS})
    )
    return folder


def foreign_images(folder: Path) -> Path:
    native_images(folder)
    shutil.rmtree(folder / ".cache")
    return _as_others_write(folder)


def foreign_video(folder: Path) -> Path:
    return _as_others_write(native_video(folder))


def lerobot_v2(folder: Path) -> Path:
    """Version 2.1: a parquet file and a video for each episode."""
    native_video(folder.with_name("made"))
    made = _as_others_write(folder.with_name("made"))
    info = json.loads((made / "meta/info.json").read_text())
    table = pq.read_table(made / "data/chunk-000/file-000.parquet")
    rows, stats = pq.read_table(made / "meta/episodes/chunk-000/file-000.parquet").to_pylist(), []
    (folder / "meta").mkdir(parents=True)
    for number, (row, one) in enumerate(zip(rows, _episodes("front"), strict=True)):
        path = folder / f"data/chunk-000/episode_{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(row["dataset_from_index"], row["length"]), path)
        film = folder / f"videos/chunk-000/observation.images.front/episode_{number:06d}.mp4"
        encode_video(film, one.frames("front"), HZ, VideoConfig(crf=10))
        found: dict[str, dict[str, Any]] = {}
        for key, value in row.items():
            if key.startswith("stats/"):
                feature, _, name = key.removeprefix("stats/").rpartition("/")
                found.setdefault(feature, {})[name] = value
        stats.append({"episode_index": number, "stats": found})
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (folder / "meta/info.json").write_text(json.dumps(info, indent=4))
    _lines(
        folder / "meta/episodes.jsonl",
        [{key: row[key] for key in ("episode_index", "tasks", "length")} for row in rows],
    )
    _lines(
        folder / "meta/tasks.jsonl",
        [{"task_index": i, "task": task} for i, task in enumerate(TASKS)],
    )
    _lines(folder / "meta/episodes_stats.jsonl", stats)
    shutil.rmtree(made)
    return folder


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# --- others -----------------------------------------------------------------------------------------


def rlds(folder: Path) -> Path:
    """Two splits of TFRecords."""
    from vla.data.formats.rlds_parts.tfrecord import example_class, masked_crc

    def tensor(dtype: str, *shape: int) -> dict[str, Any]:
        dimensions = [str(v) for v in shape]
        return {
            "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
            "tensor": {"shape": {"dimensions": dimensions}, "dtype": dtype, "encoding": "none"},
        }

    def group(**features: Any) -> dict[str, Any]:
        return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}

    def record(one: Episode) -> bytes:
        message, L = example_class()(), len(one)
        values: dict[str, Any] = {
            "action": one.actions,
            "reward": one.rewards,
            "is_terminal": np.append(np.zeros(L - 1, np.int64), int(one.terminated)),
            "language_instruction": [one.instruction.encode()] * L,
            "observation/front": one.png("front"),
            "observation/state": one.state,
        }
        for name, value in values.items():
            feature = message.features.feature[f"steps/{name}"]
            if isinstance(value, list):
                feature.bytes_list.value.extend(value)
            elif value.dtype == np.float32:
                feature.float_list.value.extend(value.ravel().tolist())
            else:
                feature.int64_list.value.extend(value.tolist())
        data = bytes(message.SerializeToString(deterministic=True))
        length = struct.pack("<Q", len(data))
        return (
            length
            + struct.pack("<I", masked_crc(length))
            + data
            + struct.pack("<I", masked_crc(data))
        )

    folder = folder / "1.0.0"
    folder.mkdir(parents=True)
    picture = {
        "pythonClassName": "Image",
        "image": {"shape": {"dimensions": ["32", "48", "3"]}, "dtype": "uint8"},
    }
    step = group(
        action=tensor("float32", 2),
        reward=tensor("float32"),
        is_terminal=tensor("bool"),
        language_instruction={"pythonClassName": "Text", "text": {}},
        observation=group(front=picture, state=tensor("float32", 3)),
    )
    features = group(steps={"pythonClassName": "Dataset", "sequence": {"feature": step}})
    (folder / "features.json").write_text(json.dumps(features))
    made = _episodes("front")
    splits = {"train": made[:3], "val": made[3:]}
    info = {
        "name": "toy",
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {"name": name, "shardLengths": [str(len(part))]} for name, part in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for name, part in splits.items():
        (folder / f"toy-{name}.tfrecord-00000-of-00001").write_bytes(b"".join(map(record, part)))
    return folder


def robomimic(folder: Path) -> Path:
    import h5py

    folder.mkdir(parents=True)
    env = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 10}}
    with h5py.File(folder / "lift.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env)
        for number, one in enumerate(_episodes("front")):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(one)
            demo["actions"], demo["rewards"] = one.actions, one.rewards
            demo["dones"] = (np.arange(len(one)) == len(one) - 1).astype(np.int64)
            demo["obs/robot0_eef_pos"] = one.state
            demo.create_dataset("obs/agentview_image", data=one.frames("front"), compression="gzip")
        file["mask/train"] = np.array([b"demo_0", b"demo_1", b"demo_2"])
    return folder / "lift.hdf5"


def npz(folder: Path) -> Path:
    folder.mkdir(parents=True)
    stored: dict[str, Any] = {}
    for number, one in enumerate(_episodes("front")):
        arrays = {
            "observations": one.state,
            "actions": one.actions,
            "rewards": one.rewards,
            "success": one.success,
        }
        arrays |= {"front": one.frames("front"), "instruction": np.array(one.instruction)}
        stored |= {f"{number}/{key}": array for key, array in arrays.items()}
    np.savez_compressed(folder / "toy.npz", **stored)
    return folder / "toy.npz"


def minari(folder: Path) -> Path:
    import minari as package
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    (folder / "data").mkdir(parents=True)
    seen = spaces.Dict(
        {"front": spaces.Box(0, 255, (8, 12, 3), np.uint8), "arm": spaces.Box(-9, 9, (3,))}
    )
    storage = MinariStorage.new(folder / "data", seen, spaces.Box(-9, 9, (2,)))
    buffers = []
    for number, one in enumerate(_episodes("wrist")):
        L = len(one)
        pictures, state = one.frames("wrist"), one.state
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations={"front": [*pictures, pictures[-1]], "arm": [*state, state[-1]]},
                actions=list(one.actions),
                rewards=one.rewards.tolist(),
                terminations=[t == L - 1 and one.terminated for t in range(L)],
                truncations=[t == L - 1 and not one.terminated for t in range(L)],
                infos={"success": [False, *one.success.tolist()]},
            )
        )
    storage.update_episodes(buffers)
    storage.update_metadata({"dataset_id": "toy-v0", "minari_version": package.__version__})
    return folder


def plain_folder(folder: Path) -> Path:
    """A camera as PNG files and one as video."""
    for number, one in enumerate(_episodes("front", "wrist")):
        place = folder / f"episode_{number}"
        (place / "wrist").mkdir(parents=True)
        lines = [
            "timestamp,state.x,state.y,state.grip,action.dx,action.dy,reward,success,terminated"
        ]
        for t in range(len(one)):
            ended = int(one.terminated and t == len(one) - 1)
            numbers = [
                t / HZ,
                *one.state[t],
                *one.actions[t],
                one.rewards[t],
                int(one.success[t]),
                ended,
            ]
            lines.append(",".join(f"{float(v):.7g}" for v in numbers))
        (place / "steps.csv").write_text("\n".join(lines) + "\n")
        (place / "instruction.txt").write_text(one.instruction + "\n")
        for t, data in enumerate(one.png("wrist")):
            (place / "wrist" / f"{t:06d}.png").write_bytes(data)
        encode_video(place / "front.mp4", one.frames("front"), HZ, VideoConfig(crf=10))
    return folder


_LEROBOT = (".json", ".jsonl", ".parquet", ".mp4")
BUILDERS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "native, images": (native_images, ()),
    "native, video": (native_video, ()),
    "LeRobot v3, images": (foreign_images, _LEROBOT),
    "LeRobot v3, video": (foreign_video, _LEROBOT),
    "LeRobot v2.1": (lerobot_v2, _LEROBOT),
    "RLDS": (rlds, (".json",)),
    "robomimic": (robomimic, (".hdf5",)),
    "NumPy archive": (npz, ()),
    "Minari": (minari, (".hdf5", ".json")),
    "folder": (plain_folder, (".csv", ".txt", ".mp4")),
}
"""Name -> what writes the dataset, and which of its files carry no checksum."""


def build(folder: Path) -> list[Sample]:
    """Writes all of them."""
    samples = []
    for name, (make, unchecked) in BUILDERS.items():
        place = folder / name.replace(",", "").replace(" ", "_")
        place.parent.mkdir(parents=True, exist_ok=True)
        samples.append(Sample(name, make(place), unchecked))
    return samples


def table_edit(path: Path, rng: np.random.Generator) -> str:
    """Changes one value of a parquet table, and writes it as any other program would."""
    table = pq.read_table(path)
    names = [f.name for f in table.schema if not pa.types.is_struct(f.type)]
    name = names[int(rng.integers(len(names)))]
    column, row = table.column(name).to_pylist(), int(rng.integers(len(table)))
    kind = table.schema.field(name).type
    for value in rng.permutation(
        np.array([-1, 0, 7, 10**9, float("nan"), True, "another"], object)
    ):
        changed = [
            *column[:row],
            [value, *column[row][1:]] if isinstance(column[row], list) else value,
            *column[row + 1 :],
        ]
        try:
            array = pa.array(changed, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
        pq.write_table(
            table.set_column(table.column_names.index(name), table.schema.field(name), array), path
        )
        return f"{name}[{row}] = {value!r}"
    return "nothing"

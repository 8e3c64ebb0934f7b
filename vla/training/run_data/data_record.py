"""What a run learned from, as `data.json` of its folder keeps it.

A resumed run knows its data again by what they are, wherever they lie by now. The file also keeps
what the readers warned of.

E episodes, D dimensions, H and W image height and width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.atomic import write_json
from vla.common.foreign.json_files import read_json
from vla.config import ConfigError
from vla.data import EpisodeDataset
from vla.data.loading.image_text import ImageTextPairs
from vla.data.storage.image_codec import as_frame
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.models.transfer.cameras import cameras_of
from vla.training.config import TrainConfig
from vla.training.run_data.opening import Sources
from vla.types import Spec

DATA_FILE = "data.json"
_GRID = 4  # an image is known by the means of so many rows and columns of fields
_SAME_COLOUR = 4.0  # of 255: videos that were encoded again differ by less
_PLACES = 3  # episodes whose first image is looked at

_START = "init_from"

Record = dict[str, dict[str, Any]]
"""Place in the config (`data`, `data.replay.0`, `co_training`, `init_from`) -> what lies there, as
JSON types."""


def record_of(
    config: TrainConfig, sources: Sources, policy: Policy, pairs: ImageTextPairs | None
) -> Record:
    """What the data of a run are. Raises DataError if they cannot be read."""
    found = {}
    for place, dataset in sources.named().items():
        found[place] = _described(dataset, _cameras(config, policy, place))
    if pairs is not None:
        rows = json.dumps(pairs.rows, sort_keys=True).encode()
        found["co_training"] = {"pairs": len(pairs.rows), "texts": _digest(rows)}
    if config.init_from is not None:
        found[_START] = _start(config.init_from)
    return found


def check_same_data(config: TrainConfig, record: Record) -> None:
    """Raises ConfigError with every way in which the data are not those that the run in
    `config.out` began with.

    A run from before there was such a record is not checked.
    """
    before = read_record(Path(config.out))
    problems = []
    if before:
        problems += _other_start(config, before.get(_START), record.get(_START))
    for place in before.keys() & record.keys() - {_START}:
        for line in _differences(before[place], record[place]):
            problems.append(
                f"{place}.path: {_path(config, place)} holds other data than the run in "
                f"{config.out} learned from: {line}; name the same data, or another out"
            )
    if problems:
        raise ConfigError(sorted(problems))


def _start(folder: str) -> dict[str, Any]:
    """The policy that a run starts from: its weights tell it, wherever it lies."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    # a resumed run goes on from a checkpoint, and needs its start no more
    return {"path": folder, "weights": digest.hexdigest() if files else None}


def _other_start(
    config: TrainConfig, before: dict[str, Any] | None, now: dict[str, Any] | None
) -> list[str]:
    if before is None or now is None:
        was, found = (None if start is None else start["path"] for start in (before, now))
        remedy = "restore it or name another out"
        problem = f"init_from: is {found!r}, the run in {config.out} has {was!r}; {remedy}"
        return [] if was == found else [problem]
    if now["weights"] is None and now["path"] == before["path"]:
        now["weights"] = before["weights"]
    if now["weights"] == before["weights"]:
        return []
    if now["weights"] is None:
        return [f"init_from: {now['path']}: no policy is here; write {before['path']}"]
    return [
        f"init_from: {now['path']} holds another policy than the run in {config.out} started from; "
        "name the same policy, or another out"
    ]


def write_record(out: Path, record: Record, warnings: Mapping[str, Sequence[str]]) -> None:
    """Writes data.json: the record, and beside it what each dataset was warned of."""
    values = {}
    for place, described in record.items():
        of_place = {"warnings": list(warnings[place])} if place in warnings else {}
        values[place] = described | of_place
    write_json(out / DATA_FILE, values)


def read_record(out: Path) -> Record:
    """What data.json holds; empty if there is none. Raises ConfigError if it is damaged."""
    path = out / DATA_FILE
    if not path.exists():
        return {}
    try:
        values = read_json(path)
        return {str(place): dict(described) for place, described in values.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            [f"{path}: cannot be read ({error}); delete it to go on without comparing the data"]
        ) from error


def _cameras(config: TrainConfig, policy: Policy, place: str) -> list[str]:
    """The cameras of a dataset that are looked through."""
    robot = place.removeprefix("data.multi_robot.")
    if robot != place and isinstance(policy, MultiRobotPolicy):
        return list(policy.part(robot).spec.cameras)
    if place == "data":
        return list(policy.spec.cameras)
    entry = config.data.replay[int(place.rpartition(".")[2])]
    return [entry.cameras.get(camera, camera) for camera in cameras_of(policy)]


def _path(config: TrainConfig, place: str) -> str:
    node: Any = config
    for part in place.split("."):
        # fields, robots by name, replayed datasets by number
        if isinstance(node, list):
            node = node[int(part)]
        else:
            node = node[part] if isinstance(node, dict) else getattr(node, part)
    return str(node.path)


def _described(dataset: EpisodeDataset, cameras: Sequence[str]) -> dict[str, Any]:
    columns = dataset.unchecked_columns
    table = dataset.episodes
    texts = [dataset.instructions[index] for index in table["task_index"]]
    there = [camera for camera in dict.fromkeys(cameras) if camera in dataset.spec.cameras]
    spec = dataset.spec.to_dict()
    return {
        "name": dataset.name,
        "episodes": len(dataset),
        "frames": dataset.num_frames,
        "spec": {**spec, "cameras": {camera: spec["cameras"][camera] for camera in there}},
        "lengths": _digest(table["length"].to_numpy(np.int64).tobytes()),
        "instructions": _digest(json.dumps(texts).encode()),
        "actions": _numbers(columns.actions),
        "state": _numbers(columns.state),
        "rewards": _numbers(columns.rewards),
        "success": _numbers(columns.success),
        "terminated": _numbers(columns.terminated),
        "images": {camera: _images(dataset, camera) for camera in there},
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _numbers(values: np.ndarray) -> dict[str, Any]:
    """A digest for equality, and means for words."""
    # what is not finite has no mean in JSON; episodes that hold it may be left out of the training
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    mean_D = finite.reshape(len(values), -1).mean(0)
    return {"sha256": _digest(np.ascontiguousarray(values).tobytes()), "mean": mean_D.tolist()}


def _images(dataset: EpisodeDataset, camera: str) -> list[list[float]]:
    """Colours of the first images of a few episodes, field by field, 0 to 255."""
    firsts = dataset.episodes["first_frame"].to_numpy()
    places = sorted({round(i * (len(firsts) - 1) / (_PLACES - 1)) for i in range(_PLACES)})
    found = []
    for place in places:
        frame = int(firsts[place])
        for _, image in dataset.images(camera, frame, frame + 1):
            found.append(_fields(as_frame(image)))
    return found


def _fields(image_HW3: np.ndarray) -> list[float]:
    fields: list[float] = []
    for row in np.array_split(image_HW3.astype(np.float64), _GRID, axis=0):
        for field in np.array_split(row, _GRID, axis=1):
            fields += field.reshape(-1, 3).mean(0).tolist() if field.size else [0.0] * 3
    return [round(value, 2) for value in fields]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each way in which a dataset is another; the plainest ways first."""
    lines = []
    for name in ("episodes", "frames", "pairs"):
        if before.get(name) != now.get(name):
            lines.append(f"{now.get(name)} {name}, it had {before.get(name)}")
    if "spec" in before and "spec" in now:
        lines += _spec_differences(Spec.from_dict(before["spec"]), Spec.from_dict(now["spec"]))
    if lines:
        # other numbers, lengths and texts follow from these
        return lines
    for name in ("lengths", "instructions", "texts"):
        if before.get(name) != now.get(name):
            lines.append(f"other {name}")
    for name in ("actions", "state", "rewards", "success", "terminated"):
        if name in before and before[name]["sha256"] != now[name]["sha256"]:
            lines.append(f"other numbers as {name} ({_means(before[name], now[name])})")
    for camera, fields in before.get("images", {}).items():
        if not _alike(fields, now["images"].get(camera)):
            lines.append(f"other images of camera {camera!r}")
    return lines


def _spec_differences(before: Spec, now: Spec) -> list[str]:
    lines = [line.replace("expected", "it was") for line in before.differences(now)]
    if before.control_hz != now.control_hz:
        lines.append(f"control_hz is {now.control_hz:g}, it was {before.control_hz:g}")
    return lines


def _means(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    pairs = list(zip(before["mean"], now["mean"], strict=False))
    was, found = max(pairs, key=lambda pair: abs(pair[0] - pair[1]), default=(0.0, 0.0))
    return f"a mean is {found:g}, it was {was:g}"


def _alike(before: Any, now: Any) -> bool:
    there, here = np.asarray(before, np.float64), np.asarray(now or [], np.float64)
    return there.shape == here.shape and bool((np.abs(there - here) <= _SAME_COLOUR).all())


__all__ = ["DATA_FILE", "check_same_data", "read_record", "record_of", "write_record"]

"""What a new dataset is made of, and how that is recorded: in its metadata, and with each episode.

L: steps of an episode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from vla.common.registry import name_of
from vla.data.episode import Episode, Scalar
from vla.data.extras import extra_features
from vla.data.format import RECORDED, KeyMap
from vla.data.reader import EpisodeDataset
from vla.data.storage.video import VideoConfig
from vla.types import Spec


@dataclass(frozen=True)
class Plan:
    """What a new dataset is made of.

    Attributes:
        command: what makes it, for example "merge".
        sources: datasets that are read.
        episodes: (number of the source, episode there), in the order of the new dataset.
        spec: of the new dataset.
        options: JSON values that the result depends on.
        change: (episode without images, source, index there) -> what becomes of it; by default
            nothing.
        frames: length of a source's episode -> which of its frames' images are kept, int64 (L,),
            ascending.
        notes: one line for each thing that the user should know.
        labels: what of `RECORDED` the change gives to every episode, whatever the sources say.
    """

    command: str
    sources: Sequence[EpisodeDataset]
    episodes: Sequence[tuple[int, int]]
    spec: Spec
    options: dict[str, Any]
    change: Callable[[Episode, int, int], Episode] | None = None
    frames: Callable[[int], np.ndarray] | None = None
    notes: Sequence[str] = field(default=())
    labels: frozenset[str] = frozenset()

    def unrecorded(self) -> list[str]:
        """What of `RECORDED` no source says, sorted: in the new dataset it is 0 or False, and
        unknown."""
        said = self.labels.union(*(dataset.recorded for dataset in self.sources))
        return sorted(RECORDED - said)

    def extras_left_out(self) -> dict[str, list[str]]:
        """Name of a source -> its extra columns that not all sources have, alike; they are not
        written."""
        first, *others = parts = [_extra_features(dataset) for dataset in self.sources]
        kept = [name for name in first if all(first[name] == part.get(name) for part in others)]
        found = {}
        for dataset, part in zip(self.sources, parts, strict=True):
            found[dataset.name] = [name for name in part if name not in kept]
        return {name: left for name, left in found.items() if left}

    def length(self, place: tuple[int, int]) -> int:
        """Steps of an episode of a source."""
        return int(self.sources[place[0]].episodes["length"].iloc[place[1]])


def _extra_features(dataset: EpisodeDataset) -> dict[str, dict[str, Any]]:
    return extra_features(dataset.unchecked_columns.extras)


def key_options(format: str | None, keys: KeyMap | None) -> dict[str, Any]:
    """What the result of a command depends on in how its source is read; empty for what the format
    finds by itself."""
    given: dict[str, Any] = {} if format is None else {"format": format}
    chosen = {} if keys is None else keys.model_dump(mode="json", exclude_defaults=True)
    return given | ({"keys": chosen} if chosen else {})


def warnings_of(dataset: EpisodeDataset) -> list[str]:
    """What is odd in a dataset, without the folder that it happens to lie in."""
    root = str(dataset.root)
    return [warning.replace(root, dataset.name) for warning in dataset.warnings]


def notes_of(sources: Sequence[EpisodeDataset]) -> list[str]:
    """The warnings of the datasets that a new one is made of, each of several with its name."""
    if len(sources) == 1:
        return warnings_of(sources[0])
    return [f"{dataset.name}: {text}" for dataset in sources for text in warnings_of(dataset)]


def format_of(dataset: EpisodeDataset) -> str:
    """Name under which the dataset's format is registered."""
    reader = type(dataset.reader)
    # a reader of a remote dataset is registered under no name
    return name_of("formats", reader) or reader.__name__


def _fingerprint(dataset: EpisodeDataset) -> str:
    """Of images, numbers and instructions."""
    table = dataset.episodes.to_csv(index=False)
    facts = [dataset.fingerprint(), dataset.spec.to_dict(), dataset.instructions, table]
    content = hashlib.sha256(json.dumps(facts).encode())
    if dataset.num_changing:
        # otherwise the table says it, and recipes from before stay what they were
        content.update(dataset.task_of_frames.tobytes())
    columns = dataset.unchecked_columns
    arrays = [getattr(columns, part.name) for part in fields(columns) if part.name != "extras"]
    for name, values in columns.extras.items():
        content.update(name.encode())
        arrays.append(values)
    for values in arrays:
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()


def recipe(plan: Plan, video: VideoConfig | None) -> dict[str, Any]:
    """What the new dataset's metadata says of its making."""
    sources = []
    for dataset in plan.sources:
        sources.append(
            {
                "name": dataset.name,
                "format": format_of(dataset),
                "fingerprint": _fingerprint(dataset),
            }
        )
    places = json.dumps([list(place) for place in plan.episodes])
    options = {**plan.options, "video": None if video is None else video.model_dump(mode="json")}
    made: dict[str, Any] = {
        "command": plan.command,
        "sources": sources,
        "options": options,
        "chosen": hashlib.sha256(places.encode()).hexdigest(),
        "episodes": len(plan.episodes),
        "spec": plan.spec.to_dict(),
        "notes": list(plan.notes),
    }
    unrecorded = plan.unrecorded()
    if unrecorded:
        made["unrecorded"] = unrecorded
    # through JSON, so that it equals what is read back from the file: tuples become lists
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def provenance(dataset: EpisodeDataset, index: int, episode: Episode) -> dict[str, Scalar]:
    """What the episode remembers, with its source, and with the first of its sources if that is
    another.

    What the maker of the data noted under one of our names is kept as `original_NAME`.
    """
    known = dict(episode.info)
    ours: dict[str, Scalar] = {
        "source": dataset.name,
        "source_episode": int(dataset.episode_numbers[index]),
        "source_format": format_of(dataset),
    }
    if ours.keys() <= known.keys():
        # written by a tool before: its source was a derived dataset, `origin` is the first of all
        known.setdefault("origin", f"{known['source']}#{known['source_episode']}")
    else:
        known |= {f"original_{key}": known[key] for key in ours if key in known}
    return {**known, **ours}

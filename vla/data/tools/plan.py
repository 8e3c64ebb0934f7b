"""What a new dataset is made of, and how that is told: in its metadata, and with each episode.

L: steps of an episode.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla.config import registered
from vla.data.episode import Episode, Scalar
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
    """

    command: str
    sources: Sequence[EpisodeDataset]
    episodes: Sequence[tuple[int, int]]
    spec: Spec
    options: dict[str, Any]
    change: Callable[[Episode, int, int], Episode] | None = None
    frames: Callable[[int], np.ndarray] | None = None
    notes: Sequence[str] = field(default=())

    def length(self, place: tuple[int, int]) -> int:
        """Steps of an episode of a source."""
        return int(self.sources[place[0]].episodes["length"].iloc[place[1]])


def source_name(root: Path) -> str:
    """The last part of a path; with the part before it where the last is a version number, as TFDS
    has it."""
    root = Path(os.path.abspath(root))
    versioned = re.fullmatch(r"v?\d+(\.\d+)*", root.name) and root.parent.name
    return f"{root.parent.name}/{root.name}" if versioned else root.name


def warnings_of(dataset: EpisodeDataset) -> list[str]:
    """What is odd in a dataset, without the folder that it happens to lie in."""
    return [
        warning.replace(str(dataset.root), source_name(dataset.root))
        for warning in dataset.warnings
    ]


def format_of(dataset: EpisodeDataset) -> str:
    """Name under which the dataset's format is registered."""
    reader = type(dataset.reader)
    return next(
        (name for name, cls in registered("formats").items() if cls is reader), reader.__name__
    )


def _fingerprint(dataset: EpisodeDataset) -> str:
    """Of images, numbers and words."""
    table = dataset.episodes.to_csv(index=False)
    facts = [dataset.fingerprint(), dataset.spec.to_dict(), dataset.instructions, table]
    content = hashlib.sha256(json.dumps(facts).encode())
    for values in dataclasses.astuple(dataset.unchecked_columns):
        content.update(np.ascontiguousarray(values).tobytes())
    return content.hexdigest()


def recipe(plan: Plan, video: VideoConfig | None) -> dict[str, Any]:
    """What the new dataset's metadata says of its making."""
    sources = [
        {"name": source_name(d.root), "format": format_of(d), "fingerprint": _fingerprint(d)}
        for d in plan.sources
    ]
    chosen = hashlib.sha256(
        json.dumps([list(place) for place in plan.episodes]).encode()
    ).hexdigest()
    options = {**plan.options, "video": None if video is None else video.model_dump(mode="json")}
    made: dict[str, Any] = {
        "command": plan.command,
        "sources": sources,
        "options": options,
        "chosen": chosen,
    }
    made |= {"episodes": len(plan.episodes), "spec": plan.spec.to_dict(), "notes": list(plan.notes)}
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def provenance(dataset: EpisodeDataset, index: int, episode: Episode) -> dict[str, Scalar]:
    """What the episode remembers, with its source, and with the first of its sources where it comes
    from afar.

    What the maker of the data noted under one of our names is kept as `original_NAME`.
    """
    known = dict(episode.info)
    name: dict[str, Scalar] = {
        "source": source_name(dataset.root),
        "source_episode": index,
        "source_format": format_of(dataset),
    }
    if name.keys() <= known.keys():
        known.setdefault("origin", f"{known['source']}#{known['source_episode']}")
    else:
        known |= {f"original_{key}": known[key] for key in name if key in known}
    return {**known, **name}

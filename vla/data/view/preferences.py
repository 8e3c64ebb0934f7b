"""A page on which somebody says which of two films is better; it saves a file of labels.

The file is what `vla.data.tools.preference_labels` reads. The page asks for nothing but itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla.common.atomic import atomic_path
from vla.common.html import asset, content_policy, encoded, render
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.reader import EpisodeDataset, dataset_name
from vla.data.tools.preference_labels import draw_segment_pairs
from vla.data.view.videos import Quality, encode_camera

QUALITY = Quality(256, 30)


@dataclass(frozen=True)
class PreferencePage:
    """The page that was written.

    Attributes:
        path: of the page.
        bytes: its size.
        pairs: how many it asks about.
    """

    path: Path
    bytes: int
    pairs: int


def write_preference_page(
    path: str | Path,
    dataset: EpisodeDataset,
    *,
    pairs: int = 50,
    steps: int = 25,
    seed: int = 0,
    video: bool | None = None,
    progress: ProgressCallback | None = None,
) -> PreferencePage:
    """Writes one HTML file with pairs of films, three buttons, and one that saves the labels.

    Both films of a pair are of the same instruction, of two episodes.

    Args:
        path: of the page.
        pairs: how many there are at most; fewer if there are too few episodes, none twice.
        steps: of each film; shorter episodes are shown whole.
        seed: which parts are shown.
        video: films as H.264; False as images of all frames, None as H.264 if there is an encoder
            for it.
        progress: called with (pairs done, pairs in all).

    Raises DataError if the dataset has no cameras or an image is damaged, or no instruction has two
    episodes.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the file of the page, for example pairs.html")
    if pairs < 1 or steps < 1:
        raise DataError(f"pairs is {pairs} and steps is {steps}; expected at least 1 of each")
    if not dataset.spec.cameras:
        raise DataError(
            f"{dataset.root}: has no cameras, so there is nothing to watch; label pairs by returns "
            "(model.labels=returns)"
        )
    table = dataset.episodes
    drawn = draw_segment_pairs(
        table["task_index"].to_numpy(),
        table["length"].to_numpy(),
        pairs=pairs,
        steps=steps,
        rng=np.random.default_rng(seed),
    )
    drawn = list(dict.fromkeys(drawn))  # in a small dataset a pair may be drawn twice
    if not drawn:
        raise DataError(f"{dataset.root}: no instruction has two episodes to compare; add some")
    # held from the start: who comes second learns it before it has worked
    with atomic_path(path) as temporary:
        shown = []
        for number, sides in enumerate(drawn, start=1):
            shown.append(_pair(dataset, sides, video))
            if progress is not None:
                progress(number, len(drawn))
        written = encoded(_page(dataset, shown))
        temporary.write_bytes(written)
    return PreferencePage(path, len(written), len(drawn))


Side = tuple[int, int, int]
"""Episode by its place, first step, step behind the last."""


def _pair(dataset: EpisodeDataset, sides: tuple[Side, Side], video: bool | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (episode, start, stop) in zip(("a", "b"), sides, strict=True):
        first = int(dataset.episodes["first_frame"].iloc[episode])
        films = []
        for camera in dataset.spec.cameras:
            film = encode_camera(dataset, camera, first + start, first + stop, QUALITY, video=video)
            films.append({"camera": camera, "film": film})
        segment = {
            # as the dataset itself calls it: the file of labels is about that
            "episode": int(dataset.episode_numbers[episode]),
            "start": start,
            "stop": stop,
        }
        found[name] = {"films": films, "segment": segment}
    found["instruction"] = dataset.instruction_starts(sides[0][0])[0][1]
    segments = {name: found[name]["segment"] for name in ("a", "b")}
    found["segments"] = json.dumps(segments)
    return found


def _page(dataset: EpisodeDataset, shown: list[dict[str, Any]]) -> str:
    script = asset("data/view/preferences.js")
    name = dataset_name(dataset.root)
    return render(
        "data/view/preferences.html.j2",
        title=name,
        policy=content_policy(script),
        css=asset("data/view/page.css") + asset("data/view/preferences.css"),
        js=script,
        pairs=shown,
        rate=dataset.spec.control_hz,
        file_name="".join(c if c.isalnum() or c in "-_." else "_" for c in name),
    )


__all__ = ["PreferencePage", "write_preference_page"]

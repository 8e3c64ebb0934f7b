"""One episode on the page: its line in the list, its videos and curves, and what was noted of it.

The numbers of the curves lie in the page as float32 in base64, exactly as the dataset holds them;
the page's script draws them.

L: steps of the episode, D: curves, A: action dimensions, S: state dimensions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from vla.common.html import render
from vla.data.episode import read_info
from vla.data.reader import EpisodeDataset
from vla.data.view.videos import CameraVideo

LONGEST = 2000
"""Of longer episodes every second, third, ... step is drawn."""
WIDEST = 16
"""Of wider extra columns (log-probabilities of tokens, say) the first so many numbers are drawn."""
_GRIPPERS = ("grip", "claw", "jaw")


Signal = dict[str, Any]
"""What the page's script is to know of a curve: `group`, `name`, `low`, `high`, `steps`."""


@dataclass
class Shown:
    """An episode of the page.

    Attributes:
        index: its number in the dataset.
        videos: camera -> video, or what was wrong with its images; empty if the page has no room
            for them.
        thumbnail: address of a tiny picture; may be empty.
    """

    index: int
    videos: dict[str, CameraVideo | str] = field(default_factory=dict)
    thumbnail: str = ""


def signals(dataset: EpisodeDataset, *, rewards: bool) -> list[Signal]:
    """What the curves are: group, name, range in the whole dataset, whether drawn as steps.

    Dimensions of two values, and those that are called grippers, are steps: there open and closed
    are seen at once.
    """
    columns = dataset.columns
    found = []
    # in the order of `curves`
    for i, name in enumerate(dataset.spec.action_names):
        found.append(_signal("Action", name, columns.actions[:, i]))
    for i, name in enumerate(dataset.spec.state_names):
        found.append(_signal("State", name, columns.state[:, i]))
    if rewards:
        found.append(_signal("Reward", "reward", columns.rewards))
        returns = dataset.episodes["return"].to_numpy(np.float64)
        returns = returns[np.isfinite(returns)]
        # a return begins at 0, wherever it ends
        signal: Signal = {"group": "Reward", "name": "return so far"}
        signal["low"] = float(returns.min(initial=0.0))
        signal["high"] = float(returns.max(initial=0.0))
        signal["steps"] = False
        found.append(signal)
    for name, values in _extra_curves(columns.extras):
        found.append(_signal("Extra columns", name, values))
    return found


def _extra_curves(extras: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values (N,) of each extra column, and of the first numbers of those that have
    many."""
    for name, values in extras.items():
        if values.ndim == 1:
            yield name, values.astype(np.float32)
            continue
        for i in range(min(values.shape[1], WIDEST)):
            yield f"{name}[{i}]", values[:, i].astype(np.float32)


def _signal(group: str, name: str, values: np.ndarray) -> Signal:
    values = values[np.isfinite(values)]  # rewards may be anything, and JSON has no NaN
    low = float(values.min()) if len(values) else 0.0
    high = float(values.max()) if len(values) else 0.0
    is_gripper = any(word in name.lower() for word in _GRIPPERS)
    at_an_end = (values == low) | (values == high)
    has_two_values = bool(at_an_end.all()) and low < high
    return {
        "group": group,
        "name": name,
        "low": low,
        "high": high,
        "steps": is_gripper or has_two_values,
    }


def curves(dataset: EpisodeDataset, index: int, *, rewards: bool) -> tuple[np.ndarray, int]:
    """float32 (D, L / stride), in the order of `signals`, and the stride."""
    row, columns = dataset.episodes.iloc[index], dataset.columns
    start = int(row["first_frame"])
    stop = start + int(row["length"])
    parts = [
        columns.actions[start:stop],  # (L, A)
        columns.state[start:stop],  # (L, S)
    ]
    if rewards:
        # summed as float64: the last of them is the return that the list shows
        rewards_L = columns.rewards[start:stop].astype(np.float64)
        parts.append(rewards_L[:, None])
        parts.append(np.cumsum(rewards_L)[:, None])
    extras = {name: values[start:stop] for name, values in columns.extras.items()}
    parts += [values_L[:, None] for _, values_L in _extra_curves(extras)]
    stride = -(-(stop - start) // LONGEST)  # rounded up
    values_LD = np.concatenate(parts, axis=1)[::stride]
    # curve by curve, since the page's script cuts the bytes so; of the order of bytes that it reads
    values_DL = np.ascontiguousarray(values_LD.T, dtype="<f4")
    return values_DL, stride


def episode_html(
    dataset: EpisodeDataset, shown: Shown, *, rewards: bool, labelled: bool, opened: bool
) -> Markup:
    """The episode as a `<details>`: its line in the list is the summary.

    Args:
        rewards: whether the dataset has any.
        labelled: whether it says of any episode that it was solved.
    """
    row = dataset.episodes.iloc[shown.index]
    values_DL, stride = curves(dataset, shown.index, rewards=rewards)
    starts = dataset.instruction_starts(shown.index)
    texts = [text for _, text in starts]
    return render(
        "data/view/episode.html.j2",
        shown=shown,
        episode_number=int(dataset.episode_numbers[shown.index]),
        task=" → ".join(texts),
        tasks=json.dumps(texts),
        starts=json.dumps(starts) if len(starts) > 1 else "",
        steps=int(row["length"]),
        solved=bool(row["success"]),
        solved_at=_solved_at(dataset, row),
        gained=float(row["return"]),
        rate=dataset.spec.control_hz,
        cameras=list(dataset.spec.cameras),
        stride=stride,
        values=base64.b64encode(values_DL.tobytes()).decode(),
        info=_info(row),
        rewards=rewards,
        labelled=labelled,
        opened=opened,
    )


def _solved_at(dataset: EpisodeDataset, row: Any) -> int:
    """The first step that counts as solved; -1 if none does."""
    if not row["success"]:
        return -1
    start = int(row["first_frame"])
    stop = start + int(row["length"])
    # the first of the greatest values, which are True
    return int(np.argmax(dataset.columns.success[start:stop]))


def _info(row: Any) -> list[tuple[str, str]]:
    """How the episode ended, and what was noted of it."""
    info: dict[str, Any] = {}
    if row["terminated"]:
        info["ended"] = "by the task, not by time"
    info |= read_info(row["info"])  # the maker's own `ended` wins
    return [(name, str(value)) for name, value in info.items()]

"""One episode on the page: its line in the list, films, curves and what it remembers.

The numbers of the curves lie in the page as float32 in base64, exactly as the dataset holds them; the page's script draws
them.

L: steps of the episode, D: curves.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from vla.common.html import render
from vla.data.reader import EpisodeDataset
from vla.data.view.videos import Film

LONGEST = 2000
"""Of longer episodes every second, third, ... step is drawn."""
_GRIPPERS = ("grip", "claw", "jaw")


@dataclass
class Shown:
    """An episode of the page.

    Attributes:
        index: its number in the dataset.
        films: camera -> film, or what was wrong with its images; empty where the page has no room for them.
        thumbnail: address of a tiny picture; may be empty.
    """

    index: int
    films: dict[str, Film | str] = field(default_factory=dict)
    thumbnail: str = ""


def signals(dataset: EpisodeDataset, *, rewards: bool) -> list[dict[str, Any]]:
    """What the curves are: group, name, range in the whole dataset, and whether they are drawn as steps.

    Dimensions of two values, and those that are called grippers, are steps: there open and closed are seen at once.
    """
    columns, table = dataset.columns, dataset.episodes
    found = [
        _signal("Action", name, columns.actions[:, i])
        for i, name in enumerate(dataset.spec.action_names)
    ]
    found += [
        _signal("State", name, columns.state[:, i])
        for i, name in enumerate(dataset.spec.state_names)
    ]
    if rewards:
        found.append(_signal("Reward", "reward", columns.rewards))
        returns = table["return"].to_numpy(np.float64)
        low, high = (float(f(returns[np.isfinite(returns)], initial=0.0)) for f in (np.min, np.max))
        found.append(
            {"group": "Reward", "name": "return so far", "low": low, "high": high, "steps": False}
        )
    return found


def _signal(group: str, name: str, values: np.ndarray) -> dict[str, Any]:
    is_gripper = any(word in name.lower() for word in _GRIPPERS)
    values = values[np.isfinite(values)]  # rewards may be anything
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    two = bool(((values == low) | (values == high)).all()) and low < high
    return {"group": group, "name": name, "low": low, "high": high, "steps": is_gripper or two}


def curves(dataset: EpisodeDataset, index: int, *, rewards: bool) -> tuple[np.ndarray, int]:
    """float32 (D, L / stride), in the order of `signals`, and the stride."""
    row, columns = dataset.episodes.iloc[index], dataset.columns
    start, stop = int(row["first_frame"]), int(row["first_frame"] + row["length"])
    parts = [columns.actions[start:stop], columns.state[start:stop]]
    if rewards:
        reward = columns.rewards[start:stop].astype(np.float64)
        parts += [reward[:, None], np.cumsum(reward)[:, None]]
    stride = -(-(stop - start) // LONGEST)
    values = np.concatenate(parts, axis=1)[::stride].T
    return np.ascontiguousarray(values, dtype="<f4"), stride


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
    return render(
        "data/view/episode.html.j2",
        shown=shown,
        task=dataset.instructions[int(row["task_index"])],
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
    return int(np.argmax(dataset.columns.success[start : start + int(row["length"])]))


def _info(row: Any) -> list[tuple[str, str]]:
    """How the episode ended, and what was noted of it."""
    info: dict[str, Any] = {}
    if row["terminated"]:
        info["ended"] = "by the task, not by time"
    info |= json.loads(row["info"])
    return [(name, str(value)) for name, value in info.items()]

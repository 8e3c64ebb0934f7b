"""One episode on the page: its line in the list, films, curves and what it remembers.

The numbers of the curves lie in the page as float32 in base64, exactly as the dataset holds them; the page's script draws
them.

L: steps of the episode, D: curves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from vla.data.reader import EpisodeDataset
from vla.data.view.markup import counted, facts
from vla.data.view.plots import number
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
) -> str:
    """The episode as a `<details>`: its line in the list is the summary.

    Args:
        rewards: whether the dataset has any.
        labelled: whether it says of any episode that it was solved.
    """
    row, index, rate = dataset.episodes.iloc[shown.index], shown.index, dataset.spec.control_hz
    steps, solved = int(row["length"]), bool(row["success"])
    task = dataset.instructions[int(row["task_index"])]
    start = int(row["first_frame"])
    at = int(np.argmax(dataset.columns.success[start : start + steps])) if solved else -1
    values, stride = curves(dataset, index, rewards=rewards)
    data = (
        f'data-episode="{index}" data-task="{escape(task)}" data-success="{int(solved)}" '
        f'data-return="{row["return"]:.9g}" data-steps="{steps}"'
    )
    picture = f'<img src="{shown.thumbnail}" alt="">' if shown.thumbnail else ""
    outcome = _outcome(solved) if labelled else ""
    gained = (
        f'<span class="number"><small>return</small> {number(row["return"])}</span>'
        if rewards
        else ""
    )
    return (
        f'<details class="episode" id="episode-{index}" {data}{" open" * opened}>\n'
        f'<summary><span class="picture">{picture}</span><span class="index">{index}</span>'
        f'<span class="task">{escape(task)}</span><span class="facts">{outcome}{gained}'
        f'<span class="number">{counted(steps, "step")}</span></span></summary>\n'
        f'<div class="player" data-rate="{rate:.9g}" data-steps="{steps}" data-solved="{at}">\n'
        f'<div class="seen">\n{_films(dataset, shown)}{_transport(index, at, rate)}</div>\n'
        f'<div class="curves" data-stride="{stride}" data-values="{base64.b64encode(values.tobytes()).decode()}"></div>\n'
        f"{_told(row)}</div>\n</details>\n"
    )


def _outcome(solved: bool) -> str:
    return f'<span class="outcome {"good" if solved else "bad"}">{"solved" if solved else "not solved"}</span>'


def _films(dataset: EpisodeDataset, shown: Shown) -> str:
    if not shown.films:
        return '<p class="note">The page had no room for its films.</p>\n' * bool(
            dataset.spec.cameras
        )
    parts = [_film(camera, film, shown.index) for camera, film in shown.films.items()]
    return f'<div class="films n{min(len(parts), 2)}">\n{"".join(parts)}</div>\n'


def _film(camera: str, film: Film | str, index: int) -> str:
    name = escape(camera)
    if isinstance(film, str):
        return f'<figure><p class="broken">{escape(film)}</p><figcaption>{name}</figcaption></figure>\n'
    width, height = film.size
    label = f"episode {index}, camera {name}"
    if film.columns:
        place = (
            f'data-columns="{film.columns}" data-frames="{film.frames}" data-stride="{film.stride}"'
        )
        screen = f'<img class="sheet" src="{film.source}" alt="{label}" width="{width}" height="{height}" {place}>'
    else:
        screen = (
            f'<video muted playsinline controls preload="none" width="{width}" height="{height}" aria-label="{label}" '
            f'data-frames="{film.frames}" data-stride="{film.stride}" src="{film.source}"></video>'
        )
    return f"<figure>{screen}<figcaption>{name}</figcaption></figure>\n"


def _transport(index: int, solved_at: int, rate: float) -> str:
    jump = ""
    if solved_at >= 0:
        when = f"solved at step {solved_at} ({solved_at / rate:.2f} s)"
        jump = f'<button type="button" class="jump good" data-step="{solved_at}">{when}</button>'
    return (
        '<div class="transport" hidden><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" step="1" value="0" aria-label="Step of episode {index}">'
        '<select class="speed" aria-label="Speed"><option value="0.25">¼×</option><option value="0.5">½×</option>'
        '<option value="1" selected>1×</option><option value="2">2×</option><option value="4">4×</option></select>'
        f'<output class="now"></output>{jump}</div>\n'
    )


def _told(row: Any) -> str:
    """How the episode ended, and its info."""
    info = {**json.loads(row["info"])}
    if row["terminated"]:
        info = {"ended": "by the task, not by time", **info}
    pairs: Sequence[tuple[str, str]] = [(key, str(value)) for key, value in info.items()]
    return facts(pairs, "info") if pairs else ""

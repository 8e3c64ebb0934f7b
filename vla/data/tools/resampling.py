"""Episodes at another control rate.

A new step spans r = (old rate) / (new rate) old steps, any rational number; step k spans the old
steps' time [k r, (k + 1) r). What was seen, and the instruction if it changes, is taken from the
nearest old step, the earlier of two.
Actions are joined by what their numbers are:

| kind | of the old actions in the span |
|---|---|
| absolute | a goal such as a pose or joint angles: the last |
| delta | a displacement per step: the sum; what reaches into the next span is divided by time |
| velocity | per second: the mean over time |
| command | such as open or close: the last |

Rewards are summed and successes joined by `or` in the step in which they fall due (at the end of an
old step), so that returns keep their value.

K: new steps, L: old steps, A: action dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Literal, get_args

import numpy as np

from vla.data.episode import Episode
from vla.data.errors import DataError
from vla.data.tools.plan import Plan
from vla.types import Spec

Kind = Literal["absolute", "delta", "velocity", "command"]
_LARGEST_DENOMINATOR = 1000  # rates are written with few digits: 29.97 is 2997 / 100
_DISPLACEMENT = re.compile(
    r"(d|delta_?|rel_?)(x|y|z|roll|pitch|yaw|rx|ry|rz)|.*(delta|displacement).*", re.IGNORECASE
)


def resampled(plan: Plan, control_hz: float, kinds: Mapping[str, Kind]) -> Plan:
    """A plan whose unchanged episodes come at another rate.

    Args:
        plan: of one source, whose actions keep to the plan's limits.
        control_hz: the new rate.
        kinds: action dimension -> what its numbers are; `absolute` by default.

    Raises:
        DataError: a dimension or kind is unknown, or the rates have no simple ratio.
    """
    spec = plan.spec
    where = str(plan.sources[0].root)
    _check_kinds(where, spec, kinds)
    r = _ratio(where, spec.control_hz, control_hz)
    of_dims = [kinds.get(name, "absolute") for name in spec.action_names]
    # A displacement that is resampled as a goal moves the robot too little or too far, silently.
    unnamed = [name for name in spec.action_names if name not in kinds]
    suspects = [name for name in unnamed if _DISPLACEMENT.fullmatch(name)]
    notes = list(plan.notes)
    if suspects and r != 1:
        notes.append(
            f"{', '.join(suspects)} look like displacements but are resampled as absolute goals: "
            f"say for example kinds.{suspects[0]}=delta"
        )
    new = resampled_spec(spec, control_hz, r, of_dims)

    def change(episode: Episode, source: int, index: int) -> Episode:
        made = resampled_episode(episode, r, of_dims)
        # sums of floats may leave limits that hold in exact numbers
        actions = np.clip(made.actions, new.action_low, new.action_high)
        return replace(made, actions=new.to_ends(actions.astype(np.float32)))

    if "delta" in of_dims and r != 1:
        notes.append(
            f"limits of displacements were multiplied by {r} for steps that are that much longer"
        )
    return replace(
        plan,
        spec=new,
        options={**plan.options, "control_hz": control_hz, "kinds": dict(kinds)},
        change=change,
        frames=lambda length: nearest_steps(length, r),
        notes=notes,
    )


def nearest_steps(length: int, r: Fraction) -> np.ndarray:
    """The old step nearest to the start of each new one, the earlier of two; int64 (K,),
    ascending."""
    p, q = r.numerator, r.denominator
    # In integers, times q: floats would round k r to the wrong side of a half. The result is
    # ceil(k r - 1/2), which takes the earlier of two.
    starts = np.arange(new_length(length, r), dtype=np.int64) * p
    return np.clip(-((q - 2 * starts) // (2 * q)), 0, length - 1)


def new_length(length: int, r: Fraction) -> int:
    """How many new steps hold all `length` old ones."""
    # rounded up: the last new step may reach beyond the end
    return -(-length * r.denominator // r.numerator)


def resampled_episode(episode: Episode, r: Fraction, kinds: list[Kind]) -> Episode:
    """The episode in steps that span `r` old ones. Its images, where it has some, are those of the
    nearest steps."""
    L = len(episode)
    nearest = nearest_steps(L, r)
    due = _due(L, r)
    rewards = np.zeros(len(nearest), np.float64)
    # add.at, since `rewards[due] +=` counts an index that occurs twice only once
    np.add.at(rewards, due, episode.rewards.astype(np.float64))
    images: dict[str, np.ndarray | list[bytes]] = {}
    for camera, of_camera in episode.images.items():
        if isinstance(of_camera, list):
            images[camera] = [of_camera[t] for t in nearest]
        else:
            images[camera] = of_camera[nearest]
    texts = episode.instructions
    return replace(
        episode,
        # its own first step is the nearest of the new first one
        instructions=None if texts is None else [texts[t] for t in nearest],
        images=images,
        state=episode.state[nearest],
        extras={name: values[nearest] for name, values in episode.extras.items()},
        actions=_actions(episode.actions, r, kinds),
        rewards=rewards.astype(np.float32),
        success=_success(episode.success, due, len(nearest)),
    )


def resampled_spec(
    spec: Spec,
    control_hz: float,
    r: Fraction,
    kinds: list[Kind],
) -> Spec:
    """The spec at the new rate; displacements of steps r times as long are r times as large, the
    last of an episode may be smaller."""
    low = list(spec.action_low)
    high = list(spec.action_high)
    for dim, kind in enumerate(kinds):
        if kind == "delta" and r != 1:
            # 0 too: the last new step may hold a part of an old one alone
            low[dim] = min(0.0, low[dim] * float(r))
            high[dim] = max(0.0, high[dim] * float(r))
    return replace(spec, action_low=tuple(low), action_high=tuple(high), control_hz=control_hz)


def _due(length: int, r: Fraction) -> np.ndarray:
    """The new step within which each old one ends (or with which it ends), int64 (L,)."""
    ends = np.arange(1, length + 1, dtype=np.int64) * r.denominator
    return -(-ends // r.numerator) - 1


def _success(
    success_L: np.ndarray,
    due_L: np.ndarray,
    K: int,
) -> np.ndarray:
    """bool (K,); if no old step ends within a new one, what was known before."""
    solved = np.zeros(K, bool)
    known = np.zeros(K, bool)
    np.logical_or.at(solved, due_L, success_L.astype(bool))
    known[due_L] = True
    newest = np.maximum.accumulate(np.where(known, np.arange(K), -1))  # last known one up to each
    return np.where(newest >= 0, solved[newest], False)


def _actions(
    actions_LA: np.ndarray,
    r: Fraction,
    kinds: list[Kind],
) -> np.ndarray:
    """The actions of the new steps, float32 (K, A)."""
    L, A = actions_LA.shape
    K, p, q = new_length(L, r), r.numerator, r.denominator
    # absolute and command: the last old action that begins within the new step
    last = np.minimum(-(-np.arange(1, K + 1, dtype=np.int64) * p // q), L) - 1
    made = actions_LA[last].astype(np.float64)
    # The way travelled by the start of each old step, (L + 1, A), and read off between two of them
    # at the edges of new steps: so sums over an episode stay the same at any ratio.
    travelled = np.cumsum(actions_LA.astype(np.float64), axis=0)
    travelled = np.concatenate([np.zeros((1, A)), travelled])
    edges = np.minimum(np.arange(K + 1, dtype=np.int64) * p, L * q)  # in old steps, times q
    whole = edges // q
    part = (edges % q) / q
    step = travelled[np.minimum(whole + 1, L)] - travelled[whole]
    reached = travelled[whole] + part[:, None] * step
    sums = np.diff(reached, axis=0)  # (K, A)
    spans = (np.diff(edges) / q)[:, None]
    for dim, kind in enumerate(kinds):
        if kind == "delta":
            made[:, dim] = sums[:, dim]
        elif kind == "velocity":
            made[:, dim] = (sums / spans)[:, dim]
    return made.astype(np.float32)


def _ratio(where: str, old: float, new: float) -> Fraction:
    if not new > 0 or not np.isfinite(new):
        raise DataError(f"{where}: control_hz is {new}; expected actions per second, above 0")
    old_rate = Fraction(old).limit_denominator(_LARGEST_DENOMINATOR)
    new_rate = Fraction(new).limit_denominator(_LARGEST_DENOMINATOR)
    # simple, or K steps would be millions of parts; and close, or steps would drift over an episode
    if 0 in (old_rate, new_rate) or abs(float(old_rate / new_rate) * new / old - 1.0) > 1e-6:
        raise DataError(
            f"{where}: {old:g} and {new:g} actions per second have no simple ratio; choose a "
            "rounder rate"
        )
    return old_rate / new_rate


def _check_kinds(where: str, spec: Spec, kinds: Mapping[str, Kind]) -> None:
    for name, kind in kinds.items():
        if name not in spec.action_names:
            raise DataError(
                f"{where}: kinds.{name}: no such action dimension; there are: "
                f"{', '.join(spec.action_names)}"
            )
        if name in spec.binary_actions and kind in ("delta", "velocity"):
            raise DataError(
                f"{where}: kinds.{name} is {kind!r}, but it is binary, and sums of its values are "
                "none; say absolute or command"
            )
        if kind not in get_args(Kind):
            raise DataError(
                f"{where}: kinds.{name} is {kind!r}; expected one of: {', '.join(get_args(Kind))}"
            )

"""Episodes at another control rate.

A new step spans r = (old rate) / (new rate) old steps, any rational number; step k spans the old
steps' time [k r, (k + 1) r). What was seen is taken from the nearest old step, the earlier of two.
Actions are joined by what their numbers are:

| kind | of the old actions in the span |
|---|---|
| absolute | a goal such as a pose or joint angles: the last |
| delta | a displacement per step: the sum, an action that reaches into the next span divided by time |
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
_LARGEST_DENOMINATOR = 1000
_DISPLACEMENT = re.compile(
    r"(d|delta_?|rel_?)(x|y|z|roll|pitch|yaw|rx|ry|rz)|.*(delta|displacement).*", re.IGNORECASE
)


def resampled(plan: Plan, control_hz: float, kinds: Mapping[str, Kind]) -> Plan:
    """A plan whose unchanged episodes come at another rate.

    Args:
        plan: of one source, whose actions keep to the plan's limits.
        control_hz: the new rate.
        kinds: action dimension -> what its numbers are; `absolute` where nothing is said.

    Raises:
        DataError: a dimension or kind is unknown, or the rates have no simple ratio.
    """
    spec = plan.spec
    where = str(plan.sources[0].root)
    _check_kinds(where, spec, kinds)
    r = _ratio(where, spec.control_hz, control_hz)
    of_dims = [kinds.get(name, "absolute") for name in spec.action_names]
    suspects = [n for n in spec.action_names if n not in kinds and _DISPLACEMENT.fullmatch(n)]
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
        return replace(
            made, actions=np.clip(made.actions, new.action_low, new.action_high).astype(np.float32)
        )

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
    starts = np.arange(new_length(length, r), dtype=np.int64) * p
    return np.clip(-((q - 2 * starts) // (2 * q)), 0, length - 1)


def new_length(length: int, r: Fraction) -> int:
    """How many new steps hold all `length` old ones."""
    return -(-length * r.denominator // r.numerator)


def resampled_episode(episode: Episode, r: Fraction, kinds: list[Kind]) -> Episode:
    """The episode in steps that span `r` old ones. Its images, where it has some, are those of the
    nearest steps."""
    L = len(episode)
    nearest = nearest_steps(L, r)
    due = _due(L, r)
    rewards = np.zeros(len(nearest), np.float64)
    np.add.at(rewards, due, episode.rewards.astype(np.float64))
    images = {
        camera: [pictures[t] for t in nearest] if isinstance(pictures, list) else pictures[nearest]
        for camera, pictures in episode.images.items()
    }
    return replace(
        episode,
        images=images,
        state=episode.state[nearest],
        actions=_actions(episode.actions, r, kinds),
        rewards=rewards.astype(np.float32),
        success=_success(episode.success, due, len(nearest)),
    )


def resampled_spec(spec: Spec, control_hz: float, r: Fraction, kinds: list[Kind]) -> Spec:
    """The spec at the new rate; displacements of steps r times as long are r times as large, the
    last of an episode may be smaller."""
    low, high = list(spec.action_low), list(spec.action_high)
    for dim, kind in enumerate(kinds):
        if kind == "delta" and r != 1:
            low[dim], high[dim] = min(0.0, low[dim] * float(r)), max(0.0, high[dim] * float(r))
    return replace(spec, action_low=tuple(low), action_high=tuple(high), control_hz=control_hz)


def _due(length: int, r: Fraction) -> np.ndarray:
    """The new step within which each old one ends (or with which it ends), int64 (L,)."""
    ends = np.arange(1, length + 1, dtype=np.int64) * r.denominator
    return -(-ends // r.numerator) - 1


def _success(success_L: np.ndarray, due_L: np.ndarray, K: int) -> np.ndarray:
    """bool (K,); where no old step ends within a new one, what was known before."""
    solved, known = np.zeros(K, bool), np.zeros(K, bool)
    np.logical_or.at(solved, due_L, success_L.astype(bool))
    known[due_L] = True
    newest = np.maximum.accumulate(np.where(known, np.arange(K), -1))
    return np.where(newest >= 0, solved[newest], False)


def _actions(actions_LA: np.ndarray, r: Fraction, kinds: list[Kind]) -> np.ndarray:
    L = len(actions_LA)
    K, p, q = new_length(L, r), r.numerator, r.denominator
    last = np.minimum(-(-np.arange(1, K + 1, dtype=np.int64) * p // q), L) - 1
    made = actions_LA[last].astype(np.float64)
    total = np.concatenate(
        [np.zeros((1, actions_LA.shape[1])), np.cumsum(actions_LA.astype(np.float64), axis=0)]
    )
    edges = np.minimum(np.arange(K + 1, dtype=np.int64) * p, L * q)  # in old steps, times q
    whole, part = edges // q, (edges % q) / q
    reached = total[whole] + part[:, None] * (total[np.minimum(whole + 1, L)] - total[whole])
    sums = np.diff(reached, axis=0)
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
    rates = [Fraction(rate).limit_denominator(_LARGEST_DENOMINATOR) for rate in (old, new)]
    if 0 in rates or abs(float(rates[0] / rates[1]) * new / old - 1.0) > 1e-6:
        raise DataError(
            f"{where}: {old:g} and {new:g} actions per second have no simple ratio; choose a "
            "rounder rate"
        )
    return rates[0] / rates[1]


def _check_kinds(where: str, spec: Spec, kinds: Mapping[str, Kind]) -> None:
    for name, kind in kinds.items():
        if name not in spec.action_names:
            raise DataError(
                f"{where}: kinds.{name}: no such action dimension; there are: "
                f"{', '.join(spec.action_names)}"
            )
        if kind not in get_args(Kind):
            raise DataError(
                f"{where}: kinds.{name} is {kind!r}; expected one of: {', '.join(get_args(Kind))}"
            )

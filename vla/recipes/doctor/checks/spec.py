"""Names, sizes and limits: what the policy's spec says, beside data and env."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.common.registry import register
from vla.data import EpisodeDataset
from vla.recipes.doctor.check import Severity, Symptom, examines
from vla.recipes.doctor.subject import Subject
from vla.types import Spec
from vla.types.dimension_names import made_up_names

_BEYOND = 0.01
"""Share of an action's range that the data may pass the limits by."""
_OFTEN = 0.005
"""Share of the steps that may."""
_UNUSED = 0.05
"""Limits of which the actions use less than this are of another unit, or cost all resolution."""
_SMOOTH = 0.5
"""Share of its deviation that a state may move in a step to be called a movement."""
_DRIVEN = 0.6
"""Correlation from which on a state follows an action."""
_SLOWER, _FASTER = 0.6, 1.6
"""Ratios of movements between which two data sets are of one rate."""
_SAME_UNIT = 4.0
_RATE = 0.02
"""Relative difference of control rates that no robot feels."""


@register("doctor_checks", "spec")
@examines("names, sizes and order of cameras, state and actions, in policy, data and env")
def spec(subject: Subject) -> Iterator[Symptom]:
    """Data and env have the cameras, the state and the actions that the policy is for."""
    for what, other in _others(subject):
        lines = subject.policy.spec.differences(other)
        # limits have a check of their own, which looks at the actions too
        lines = [line for line in lines if not line.startswith("action_") or "names" in line]
        for line in lines:
            severity: Severity = (
                "warning" if _only_invented(line, subject.policy.spec, other) else "error"
            )
            yield Symptom(
                severity,
                f"{what}: {line}",
                "bring names, order and sizes to those of the policy (state=[KEY,...] "
                "action=[KEY,...] cameras.NAME=KEY), or carry the policy over with `transfer`",
            )


def _only_invented(line: str, mine: Spec, other: Spec) -> bool:
    """Whether names differ that a reader made up, which says nothing about the robot."""
    for field in ("state_names", "action_names"):
        if line.startswith(field):
            names, theirs = getattr(mine, field), getattr(other, field)
            invented = made_up_names(names) or made_up_names(theirs)
            return bool(invented) and len(names) == len(theirs)
    return False


def _others(subject: Subject) -> Iterator[tuple[str, Spec]]:
    if subject.data is not None and not subject.own_data:
        yield f"data {subject.data.root}", subject.data.spec
    if subject.evaluation is not None:
        yield "env", subject.evaluation.env.spec()


@register("doctor_checks", "control_rate")
@examines("the control rate of policy, data and env")
def control_rate(subject: Subject) -> Iterator[Symptom]:
    """Everything acts at the rate that was learned: an action moves as far as it did."""
    learned = subject.policy.spec.control_hz
    for what, other in _others(subject):
        if abs(other.control_hz / learned - 1) > _RATE:
            yield Symptom(
                "error",
                f"{what} runs at {other.control_hz:g} Hz, the policy learned at {learned:g} Hz: "
                f"each action is held {learned / other.control_hz:.3g} times as long",
                "run the robot at the policy's rate, or bring the data to its rate with `vla data "
                "resample --control-hz` and train again",
                {"policy_hz": learned, "other_hz": other.control_hz},
            )
    yield from _steps_of_another_size(subject)


def _steps_of_another_size(subject: Subject) -> Iterator[Symptom]:
    """Data that say the same rate, but whose state moves another distance at each step."""
    if subject.training is None or subject.data is None or subject.own_data:
        return
    if subject.policy.spec.differences(subject.data.spec):
        return  # dimensions of other names do not compare
    learned = _Movement(subject.training)
    given = _Movement(subject.data)
    # a state in another unit is another check's
    factor_S = given.spread / np.maximum(learned.spread, 1e-12)
    same_unit_S = (factor_S > 1 / _SAME_UNIT) & (factor_S < _SAME_UNIT)
    pairs = [(s, a) for s, a in learned.driven() if same_unit_S[s]]
    if pairs:
        ratios = [given.gain[s, a] / learned.gain[s, a] for s, a in pairs]
        what = "the same action moves the state"
    else:
        moves_S = same_unit_S & (learned.step > 0) & (given.step > 0)
        ratios = list(given.step[moves_S] / learned.step[moves_S])
        what = "the state moves"
    ratio = float(np.median(ratios)) if ratios else 1.0
    if _SLOWER < ratio < _FASTER:
        return
    yield Symptom(
        "warning",
        f"data {subject.data.root}: {what} {ratio:.2g} times as far at each step as in the data "
        "that the policy learned from: steps were left out or doubled, or actions are of another "
        "unit or rate",
        "compare timestamps with the control rate; `vla data resample --control-hz` brings data "
        "to another rate",
        {"step_ratio": ratio},
    )


class _Movement:
    """How the state moves from one step to the next within episodes.

    Attributes:
        spread: (S,), deviation of the state.
        step: (S,), a long step, the 90 % quantile of distances; 0 of what does not move smoothly.
        gain: (S, A), how far a state moves for each unit of an action, by least squares.
        correlation: (S, A), of movements and actions.
        is_continuous: (A,), False of commands to open or to close, which move nothing farther.
    """

    def __init__(self, dataset: EpisodeDataset) -> None:
        columns = dataset.unchecked_columns
        states, actions = columns.state.astype(np.float64), columns.actions.astype(np.float64)
        inside = np.ones(len(states) - 1, bool)
        inside[dataset.reader.episodes["first_frame"].to_numpy()[1:] - 1] = False
        inside &= np.isfinite(states[1:]).all(1) & np.isfinite(states[:-1]).all(1)
        inside &= np.isfinite(actions[:-1]).all(1)
        moves = np.diff(states, axis=0)[inside]
        given = actions[:-1][inside]
        self.spread = states[1:][inside].std(0)
        self.step = np.quantile(np.abs(moves), 0.9, axis=0)
        # what leaps about at every step says nothing about a rate
        self.step[np.median(np.abs(moves), axis=0) > _SMOOTH * self.spread] = 0.0
        self.is_continuous = np.array([len(np.unique(column)) > 3 for column in given.T])
        centred = given - given.mean(0)
        covariance = (moves - moves.mean(0)).T @ centred / len(given)
        deviation = np.maximum(centred.std(0), 1e-12)
        self.gain = covariance / deviation**2
        self.correlation = covariance / deviation / np.maximum(moves.std(0), 1e-12)[:, None]

    def driven(self) -> list[tuple[int, int]]:
        """(state, action) for each action that a dimension of the state follows closely."""
        found = []
        for action in np.flatnonzero(self.is_continuous):
            state = int(np.abs(self.correlation[:, action]).argmax())
            if abs(self.correlation[state, action]) > _DRIVEN:
                found.append((state, int(action)))
        return found


@register("doctor_checks", "limits")
@examines("limits of the actions against the actions of the data", needs=("data",))
def limits(subject: Subject) -> Iterator[Symptom]:
    """The policy can give the actions of the data, and its range is not far larger."""
    mine = subject.policy.spec
    actions = subject.action_data
    if actions.shape[1] != mine.action_dim or not len(actions):
        return
    beyond, wide = [], []
    for dim, name in enumerate(mine.action_names):
        low, high = mine.action_low[dim], mine.action_high[dim]
        values = actions[:, dim]
        slack = _BEYOND * (high - low)
        outside = float(((values < low - slack) | (values > high + slack)).mean())
        if outside > _OFTEN:
            found = f"{name} ({values.min():.3g} to {values.max():.3g}, limits {low:g} to {high:g})"
            beyond.append(found)
        used = np.ptp(np.quantile(values, [0.001, 0.999])) / (high - low)
        if 0 < used < _UNUSED:
            wide.append(f"{name} ({100 * used:.1f} % of {low:g} to {high:g})")
    if beyond:
        yield Symptom(
            "error",
            f"actions of the data lie beyond the policy's limits, which it cannot give: "
            f"{', '.join(beyond)}",
            "use actions in the policy's unit, or train with limits that hold them (`vla data "
            "convert` widens them)",
        )
    if wide:
        yield Symptom(
            "warning",
            f"the actions use a small part of the policy's limits: {', '.join(wide)}; tokens and "
            "heads that are scaled to the limits lose their resolution",
            "give limits that fit the actions (action_low and action_high of the dataset's spec), "
            "or use policy.tokenizer: {type: bins, method: quantile}",
        )

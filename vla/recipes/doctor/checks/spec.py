"""Names, sizes and limits: what the policy's spec says, beside data and env."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.common.registry import register
from vla.models.transfer.dimension_names import made_up_names
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.subject import Subject
from vla.types import Spec

_BEYOND = 0.01
"""Share of an action's range that the data may pass the limits by."""
_OFTEN = 0.005
"""Share of the steps that may."""
_UNUSED = 0.05
"""Limits of which the actions use less than this are of another unit, or cost all resolution."""
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
            severity = "warning" if _only_invented(line, subject.policy.spec, other) else "error"
            yield Symptom(
                severity,
                f"{what}: {line}",
                "bring names, order and sizes to those of the policy (keys.state, keys.action, "
                "keys.cameras), or carry the policy over with `transfer`",
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
    if subject.training.spec.state_dim != subject.data.spec.state_dim:
        return
    learned_S = _median_step(subject.training)
    given_S = _median_step(subject.data)
    moves = (learned_S > 0) & (given_S > 0)
    if not moves.any():
        return
    ratio = float(np.median(given_S[moves] / learned_S[moves]))
    if 0.6 < ratio < 1.7:
        return
    yield Symptom(
        "warning",
        f"data {subject.data.root}: the state moves {ratio:.2g} times as far at each step as in "
        "the data that the policy learned from: steps were left out or doubled, or the robot moves "
        "at another speed",
        "compare timestamps with the control rate; `vla data resample --control-hz` brings data "
        "to another rate",
        {"step_ratio": ratio},
    )


def _median_step(dataset: object) -> np.ndarray:
    """(S,), the median distance from one step to the next within episodes, where it moves."""
    from vla.data import EpisodeDataset

    assert isinstance(dataset, EpisodeDataset)
    states = dataset.unchecked_columns.state.astype(np.float64)
    inside = np.ones(len(states) - 1, bool)
    inside[dataset.reader.episodes["first_frame"].to_numpy()[1:] - 1] = False
    steps = np.abs(np.diff(states, axis=0))[inside]
    found = np.zeros(states.shape[1])
    for dim in range(states.shape[1]):
        moving = steps[np.isfinite(steps[:, dim]) & (steps[:, dim] > 0), dim]
        # a goal that stands still within an episode says nothing about the rate
        if len(moving) > len(steps) / 2:
            found[dim] = np.median(moving)
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

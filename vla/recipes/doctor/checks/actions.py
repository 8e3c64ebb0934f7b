"""Whether the data's actions are those that the policy was taught: sign, unit, offset, and time.

N windows, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.common.registry import register
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.checks.pictures import best_change
from vla.recipes.doctor.checks.statistics import unit_of
from vla.recipes.doctor.subject import Subject

_INVERTED = -0.4
"""Correlation of predicted and recorded actions below which the sign is another."""
_ALIKE = 0.8
"""Correlation above which slopes and offsets mean something."""
_SLOPE = 2.0
_OFFSET = 1.0
"""In deviations of the data's actions."""
_SHIFTS = (-3, -2, -1, 1, 2, 3)
_LEARNED = 0.85
"""Share of the error of a constant action below which something was learned."""
_MOST = 0.4
"""Share of the error that pictures explain, above which actions are not judged."""
_BETTER = 0.08
"""A shift that makes the error smaller by this share is no chance."""


@register("doctor_checks", "action_scale")
@examines(
    "sign, unit and offset of each action, against what the policy would do", needs=("forward",)
)
def action_scale(subject: Subject) -> Iterator[Symptom]:
    """Each dimension of the action is recorded as the policy gives it."""
    probe = subject.probe
    assert probe is not None
    if _sees_wrongly(subject):
        return
    predicted_NA = probe.own.mode[:, 0].astype(np.float64)
    for dim, name in enumerate(subject.policy.spec.action_names):
        predicted, data = predicted_NA[:, dim], probe.actions[:, dim].astype(np.float64)
        spread = data.std()
        if spread <= 1e-6 or predicted.std() <= 1e-6 * max(1.0, spread):
            continue
        correlation = float(np.corrcoef(predicted, data)[0, 1])
        # data = slope * predicted, by deviations: noise of either does not flatten it
        slope = float(spread / predicted.std())
        offset = float((data - predicted).mean() / spread)
        measured = {"dimension": name, "correlation": round(correlation, 3)}
        if correlation < _INVERTED:
            yield Symptom(
                "error",
                f"action {name!r} has the other sign: the policy's and the data's go against each "
                f"other (correlation {correlation:.2f})",
                "change the sign on one side; of a gripper: open and closed are swapped",
                measured,
            )
        elif correlation > _ALIKE and not 1 / _SLOPE < slope < _SLOPE:
            unit = unit_of(slope)
            yield Symptom(
                "error" if unit else "warning",
                f"action {name!r} of the data is {slope:.3g} times as large as the policy's "
                f"(correlation {correlation:.2f}){f': {unit}' if unit else ''}",
                "bring both to one unit, and both to one control rate",
                measured | {"factor": slope},
            )
        elif correlation > _ALIKE and abs(offset) > _OFFSET:
            yield Symptom(
                "warning",
                f"action {name!r} of the data lies {offset:+.2g} deviations beside the policy's",
                "look for another zero: an offset of the joint, or another frame of reference",
                measured | {"offset": offset},
            )


@register("doctor_checks", "delay")
@examines(
    "whether the policy fits the actions of an earlier or a later step better", needs=("forward",)
)
def delay(subject: Subject) -> Iterator[Symptom]:
    """An action is recorded beside what was seen when it was decided."""
    probe = subject.probe
    assert probe is not None
    # what was learned from these very data fits them; a policy that learned nothing fits any step
    if subject.own_data or not _has_learned(subject) or _sees_wrongly(subject):
        return
    windows = probe.windows
    length_N = windows.lengths[probe.episode]
    predicted_NA = probe.own.mode[:, 0]
    # the same windows for every shift, or ends of episodes would be compared with middles
    most = max(_SHIFTS)
    inside = np.flatnonzero((probe.step >= most) & (probe.step < length_N - most))
    if len(inside) < 16:
        return
    own = probe.error(predicted_NA[inside], probe.actions[inside])
    falls = {}
    for shift in _SHIFTS:
        actions = windows.actions[probe.rows[inside] + shift]
        error = probe.error(predicted_NA[inside], actions)
        difference = probe.difference(error, own, rows=inside)
        if difference.high < 0:
            falls[shift] = -difference.mean / max(float(own.mean()), 1e-9)
    if not falls:
        return
    shift, fall = max(falls.items(), key=lambda item: item[1])
    # a policy that is lost fits no step, and some step by chance a little better
    fits = (1 - fall) * float(own.mean()) < _LEARNED * probe.constant_error
    if fall < _BETTER or not fits:
        return
    steps = f"{abs(shift)} step{'s' if abs(shift) > 1 else ''}"
    when = f"{steps} {'late' if shift > 0 else 'early'}"
    yield Symptom(
        "error",
        f"actions are recorded {when}: against those of {steps} "
        f"{'later' if shift > 0 else 'earlier'} the policy's error is {100 * fall:.0f} % smaller",
        "put each action beside the observation that it was decided on: an off-by-one in the "
        "recorder, or a delay between camera and command",
        {"shift": shift, "error_fall": fall},
    )


def _sees_wrongly(subject: Subject) -> bool:
    """Whether wrong pictures explain most of the error: actions that follow from them say nothing
    about the recorded ones."""
    change = best_change(subject)
    if change is None or change.fall < _MOST:
        return False
    subject.skipped["actions"] = "the pictures are wrong (see above): mend them first"
    return True


def _has_learned(subject: Subject) -> bool:
    """Whether the policy does what its own data do, as far as they are within reach."""
    home = subject.home_probe
    return home is None or float(home.own.error.mean()) < _LEARNED * home.constant_error

"""How the policy scales what it sees, against the data: normalisation, units, dead dimensions.

S: state dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla.common.registry import register
from vla.recipes.doctor.check import Severity, Symptom, examines
from vla.recipes.doctor.subject import Subject

_OWN_SHIFT, _OWN_RATIO = 0.5, 2.0
"""What the policy's own data may differ by, in deviations and as a factor: it is computed from
them."""
_SHIFT, _RATIO = 4.0, 6.0
"""The same of other data, whose task may be another."""
UNITS = {
    57.29578: "degrees where radians were learned",
    1000.0: "millimetres where metres were learned",
    100.0: "centimetres or per cent where metres or shares were learned",
    255.0: "0 to 255 where 0 to 1 was learned",
}
_NEAR = 0.3
"""Relative distance at which a factor is taken for that of a unit."""
_DEAD = 1e-6
"""Share of its learned deviation below which a dimension stands still; not of one in other
units."""


def unit_of(factor: float) -> str:
    """Which unit a factor speaks of, in words; empty if none."""
    for known, words in UNITS.items():
        if abs(factor / known - 1) < _NEAR:
            return words
        if abs(factor * known - 1) < _NEAR:
            learned, _, other = words.partition(" where ")
            return f"{other.removesuffix(' were learned').removesuffix(' was learned')} where " + (
                f"{learned} were learned"
            )
    return ""


@register("doctor_checks", "normalisation")
@examines(
    "mean and deviation that the policy scales the state by, against the data's", needs=("data",)
)
def normalisation(subject: Subject) -> Iterator[Symptom]:
    """The state is scaled by the statistics of the data."""
    states = subject.state_data
    mean_S = subject.policy.state_mean.double().cpu().numpy()
    std_S = subject.policy.state_std.double().cpu().numpy()
    if states.shape[1] != len(mean_S) or len(states) < 2:
        return
    data_std_S = states.std(0)
    live = (data_std_S > _DEAD * std_S) & ~_constant_in_training(subject)
    shift_S = np.abs(states.mean(0) - mean_S) / std_S
    ratio_S = np.where(live, data_std_S / std_S, 1.0)
    own = subject.own_data
    most_shift, most_ratio = (_OWN_SHIFT, _OWN_RATIO) if own else (_SHIFT, _RATIO)
    # a factor between units is no other task, however wide the bounds are
    odd_S = (shift_S > most_shift) | (ratio_S > most_ratio) | (ratio_S < 1 / most_ratio)
    odd_S &= live
    if not odd_S.any():
        return
    names = subject.policy.spec.state_names
    listed, words = [], set()
    for dim in np.flatnonzero(odd_S):
        listed.append(
            f"{names[dim]} (learned {mean_S[dim]:.3g} \u00b1 {std_S[dim]:.3g}, data "
            f"{states[:, dim].mean():.3g} \u00b1 {data_std_S[dim]:.3g})"
        )
        words.add(unit_of(float(ratio_S[dim])))
    words.discard("")
    unit = f"; the factor is that of {', '.join(sorted(words))}" if words else ""
    severity: Severity = "error" if own or words else "warning"
    yield Symptom(
        severity,
        f"the policy scales the state by other statistics than the data have: "
        f"{', '.join(listed[:4])}{' ...' if len(listed) > 4 else ''}{unit}",
        "convert the units, or fit the statistics to this robot's data (train with "
        "transfer.keep_statistics: false)",
        {
            "dimensions": [names[dim] for dim in np.flatnonzero(odd_S)],
            "shift": [round(float(v), 3) for v in shift_S[odd_S]],
            "ratio": [round(float(v), 4) for v in ratio_S[odd_S]],
        },
    )


def _constant_in_training(subject: Subject) -> np.ndarray:
    """Which dimensions of the state never moved in training: they are divided by exactly 1."""
    return np.asarray(subject.policy.state_std.double().cpu().numpy() == 1.0)


@register("doctor_checks", "dead_dimensions")
@examines(
    "dimensions of the state that stood still in training, or stand still now", needs=("data",)
)
def dead_dimensions(subject: Subject) -> Iterator[Symptom]:
    """What moves now moved in training, and the other way round."""
    states = subject.state_data
    names = subject.policy.spec.state_names
    std_S = subject.policy.state_std.double().cpu().numpy()
    if states.shape[1] != len(names) or len(states) < 2:
        return
    data_std_S = states.std(0)
    constant_S = _constant_in_training(subject)
    still_S = ~constant_S & (data_std_S < _DEAD * std_S)
    # a deviation of just 1 is rare, but known data say it for sure
    wakes_S = constant_S & (data_std_S > 1e-6) & (np.abs(data_std_S - 1) > 1e-3)
    if still_S.any():
        listed = ", ".join(names[dim] for dim in np.flatnonzero(still_S))
        yield Symptom(
            "warning",
            f"never move in the data, though they did in training: {listed}",
            "look whether the sensor is connected, and whether its key is the right one",
            {"dimensions": [names[dim] for dim in np.flatnonzero(still_S)]},
        )
    if wakes_S.any() and not subject.own_data:
        listed = ", ".join(names[dim] for dim in np.flatnonzero(wakes_S))
        yield Symptom(
            "warning",
            f"stood still in training and move now: {listed}; the network has never seen them move",
            "train again without them (data.keys.state names the others)",
            {"dimensions": [names[dim] for dim in np.flatnonzero(wakes_S)]},
        )
    elif constant_S.any() and (subject.own_data and (data_std_S[constant_S] <= 1e-6).any()):
        listed = ", ".join(names[dim] for dim in np.flatnonzero(constant_S & (data_std_S <= 1e-6)))
        yield Symptom(
            "note",
            f"never moved in training: {listed}; another value than the one that was seen is new "
            "to the policy",
            "leave them out of the state (data.keys.state names the others), or record data in "
            "which they move",
        )


@register("doctor_checks", "outliers")
@examines("numbers of the data that lie absurdly far from all others", needs=("data",))
def outliers(subject: Subject) -> Iterator[Symptom]:
    """No number is so large that ranges and deviations tell of it alone."""
    for found in subject.outliers:
        remedy = f"{found.remedy} and train again" if subject.own_data else found.remedy
        yield Symptom("error", found.fact, remedy, {"episode": found.episode})

"""How well the policy fits what it learned from, and what it has not seen."""

from __future__ import annotations

from collections.abc import Iterator

from vla.common.registry import register
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.subject import Subject

_HARDLY = 0.9
"""Share of the error of a constant action above which hardly anything was learned."""
_LOST = 0.5
"""Share of what was learned that may be lost on unseen episodes."""
_FOREIGN = 0.95


@register("doctor_checks", "fit")
@examines("the error on training and on held-out episodes, beside that of a constant action")
def fit(subject: Subject) -> Iterator[Symptom]:
    """The policy has learned its data, and not by heart."""
    trained = subject.trained_probe
    if trained is None:
        return
    constant = trained.constant_error
    error = float(trained.own.error.mean())
    subject.measured |= {
        "error_training": round(error, 4),
        "error_constant_action": round(constant, 4),
    }
    if constant > 0 and error > _HARDLY * constant:
        remedy = (
            "train longer (steps), with a larger optim.lr, or look whether the data tell what to "
            "do; of random actions among the data nothing can be learned by imitation"
        )
        if subject.outliers:
            # longer training does not mend a range of 1e30
            remedy = "mend the data first: see the check `outliers`"
        yield Symptom(
            "warning",
            f"hardly anything was learned: on its own training data the error is {error:.3g} "
            f"deviations of the actions, that of one constant action {constant:.3g}",
            remedy,
            {"error": error, "constant": constant},
        )
        return
    unseen = subject.unseen_probe
    if unseen is None:
        return
    held_out = float(unseen.own.error.mean())
    subject.measured["error_held_out"] = round(held_out, 4)
    lost = (held_out - error) / max(constant - error, 1e-9)
    if lost > _LOST:
        yield Symptom(
            "warning",
            f"learned by heart: the error is {error:.3g} on training episodes, {held_out:.3g} on "
            f"held-out ones and {constant:.3g} for one constant action",
            "collect more episodes, stop earlier (the checkpoint of least validation loss is "
            "kept), or use a smaller network, augmentation or dropout",
            {"training": error, "held_out": held_out, "constant": constant},
        )


@register("doctor_checks", "foreign")
@examines(
    "the error on the data that were given, beside that on held-out episodes", needs=("forward",)
)
def foreign(subject: Subject) -> Iterator[Symptom]:
    """The policy fits the data that were given about as well as those that it learned from."""
    probe = subject.probe
    assert probe is not None
    if subject.own_data:
        return
    error = float(probe.own.error.mean())
    constant = probe.constant_error
    subject.measured |= {
        "error_data": round(error, 4),
        "error_data_constant_action": round(constant, 4),
    }
    if constant > 0 and error > _FOREIGN * constant:
        yield Symptom(
            "warning",
            f"on the data that were given the policy is no better than one constant action "
            f"({error:.3g} and {constant:.3g} deviations of the actions)",
            "see the other findings for what differs; if nothing does, fine-tune on these data",
            {"error": error, "constant": constant},
        )

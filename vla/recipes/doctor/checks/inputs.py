"""Which of its inputs a policy uses: what it costs to see those of another episode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from vla.common.registry import register
from vla.recipes.doctor.check import Symptom, examines
from vla.recipes.doctor.probe import Difference, Probe
from vla.recipes.doctor.subject import Subject
from vla.types import Batch

_USED = 0.03
"""Relative rise of the error below which an input may as well be another's."""


@register("doctor_checks", "instruction_used")
@examines(
    "whether the policy does something else if it is given another instruction", needs=("forward",)
)
def instruction_used(subject: Subject) -> Iterator[Symptom]:
    """Another episode's instruction makes its actions worse."""
    probe = subject.home_probe or subject.probe
    assert probe is not None
    texts = probe.instructions()
    distinct = len(set(texts.values()))
    if distinct < 2:
        yield Symptom(
            "note",
            f"all {len(texts)} episodes have one instruction: whether the policy reads it cannot "
            "be seen, and could not be learned",
            "examine and train with data of several instructions",
        )
        return
    if not subject.policy.reads_words and not subject.policy.language.dim:
        yield Symptom(
            "note",
            f"the policy reads no instruction, and the data have {distinct} of them",
            "set policy.language: minilm, if the state does not say what is asked for",
        )
        return

    def take(batch: Batch, others: Batch) -> Batch:
        return dataclasses.replace(batch, instruction=others.instruction)

    cost, relative = _cost(subject, probe, "instruction", take, probe.of_other_episodes(texts))
    if cost.low <= 0 and relative < _USED:
        yield Symptom(
            "warning",
            "the policy does not use the instruction: with another episode's its error is "
            f"{100 * relative:+.1f} % (of the loss {cost.mean:+.3g}, 95 % {cost.low:.3g} to "
            f"{cost.high:.3g})",
            "look whether instructions belong to their episodes; train on scenes in which several "
            "things can be asked for; policy.standardise_language: true helps with sentences that "
            "differ little",
            {"loss_rise": cost.mean, "error_rise": relative},
        )


@register("doctor_checks", "pictures_used")
@examines("whether the policy does something else if it sees another scene", needs=("pictures",))
def pictures_used(subject: Subject) -> Iterator[Symptom]:
    """Another episode's pictures make its actions worse."""
    probe = subject.home_probe or subject.probe
    assert probe is not None
    if len(probe.windows.lengths) < 2:
        return

    def take(batch: Batch, others: Batch) -> Batch:
        return dataclasses.replace(batch, images=others.images)

    cost, relative = _cost(subject, probe, "pictures", take, probe.of_other_episodes())
    if cost.low <= 0 and relative < _USED:
        yield Symptom(
            "warning",
            "the policy does not look: with another episode's pictures its error is "
            f"{100 * relative:+.1f} %: it goes on from its state alone",
            "train longer or with policy.keyframe_loss: 1, weaken the state (policy.state_dropout, "
            "policy.state_token: false), or look whether the cameras show the scene",
            {"loss_rise": cost.mean, "error_rise": relative},
        )


@register("doctor_checks", "state_used")
@examines("whether the policy does something else if it feels another state", needs=("forward",))
def state_used(subject: Subject) -> Iterator[Symptom]:
    """What another episode's state costs, beside what other pictures cost."""
    probe = subject.home_probe or subject.probe
    assert probe is not None
    if not subject.policy.spec.state_dim or len(probe.windows.lengths) < 2:
        return

    def take(batch: Batch, others: Batch) -> Batch:
        return dataclasses.replace(batch, state=others.state)

    cost, relative = _cost(subject, probe, "state", take, probe.of_other_episodes())
    if cost.low <= 0 and relative < _USED:
        yield Symptom(
            "note",
            f"the policy does not use its state: with another episode's its error is "
            f"{100 * relative:+.1f} %",
            "nothing, if the pictures show where the hand is",
        )


def _cost(
    subject: Subject,
    probe: Probe,
    name: str,
    take: Callable[[Batch, Batch], Batch],
    other_N: object,
) -> tuple[Difference, float]:
    """What another episode's input costs: in loss, and the relative rise of the error."""
    changed = probe.scores_with(take, other_N)  # type: ignore[arg-type]  # rows of windows
    rise = probe.difference(changed.error, probe.own.error).mean
    relative = rise / max(float(probe.own.error.mean()), 1e-9)
    subject.measured[f"error_rise_{name}"] = round(relative, 4)
    return probe.difference(changed.loss, probe.own.loss), relative

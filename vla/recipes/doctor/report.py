"""Why does a trained policy fail? Every check in one run, within about a minute."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.data.format import KeyMap
from vla.recipes.doctor.check import SEVERITIES, Need, Symptom, doctor_checks
from vla.recipes.doctor.subject import Subject, open_subject


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        policy: folder of the policy.
        data: root of the dataset that it was held against; None if there is none.
        symptoms: the gravest first.
        measured: main numbers by name, JSON types.
        ran: names of the checks that ran.
        skipped: what could not be looked at -> why.
    """

    policy: str
    data: str | None
    symptoms: tuple[Symptom, ...]
    measured: dict[str, Any]
    ran: tuple[str, ...]
    skipped: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return not self.of("error") and not self.of("warning")

    def of(self, severity: str) -> list[Symptom]:
        return [symptom for symptom in self.symptoms if symptom.severity == severity]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return dataclasses.asdict(self) | {"ok": self.ok}


def doctor(
    run_or_policy: str | Path,
    *,
    data: str | Path | None = None,
    format: str | None = None,
    keys: KeyMap | None = None,
    env: str | Path | dict[str, Any] | None = None,
    windows: int = 256,
    seconds: float = 60.0,
    tell: Callable[[str], None] | None = None,
) -> DoctorReport:
    """Looks for the reason why a trained policy fails.

    Args:
        run_or_policy: folder of a training run, of a policy or of a checkpoint.
        data: a dataset of the robot that it is to work on, such as recordings of another day; or
            where the run's own dataset lies now. By default the run's own.
        format, keys: of `data`, as `EpisodeDataset` takes them.
        env: the env that it is to work in: a config file with `env`, or its values or type.
        windows: most windows that are put through the policy.
        seconds: about so long the passes through the policy may take.
        tell: called with what is being looked at.

    Raises:
        UserError: no policy is there, it is for several robots, or data or env cannot be opened.
    """
    subject = open_subject(run_or_policy, data=data, format=format, keys=keys, env=env)
    subject.limit = windows
    subject.seconds = seconds
    symptoms: list[Symptom] = []
    ran = []
    for name, check in doctor_checks().items():
        if not all(_has(subject, need) for need in check.needs):
            continue
        if tell is not None:
            tell(check.looks_at)
        symptoms += [dataclasses.replace(found, check=name) for found in check.run(subject)]
        ran.append(name)
    symptoms.sort(key=lambda symptom: SEVERITIES.index(symptom.severity))
    return DoctorReport(
        policy=str(subject.folder),
        data=None if subject.data is None else str(subject.data.root),
        symptoms=tuple(symptoms),
        measured=subject.measured,
        ran=tuple(ran),
        skipped=subject.skipped,
    )


def _has(subject: Subject, need: Need) -> bool:
    if need == "data":
        return subject.data is not None
    if need == "env":
        return subject.evaluation is not None
    if need == "pictures":
        return bool(subject.policy.spec.cameras) and subject.probe is not None
    return subject.probe is not None


__all__ = ["DoctorReport", "doctor"]

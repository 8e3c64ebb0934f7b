"""What a check of policies is: a small function of a subject that yields symptoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vla.common.registry import lookup, names_in_file_order

if TYPE_CHECKING:
    from vla.recipes.doctor.subject import Subject

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The gravest first."""


@dataclass(frozen=True)
class Symptom:
    """What a check found.

    Attributes:
        severity: "error" if the policy cannot work so, "warning" if it is likely why it fails,
            "note" if there is something to know.
        message: what is wrong, with the numbers that were measured.
        remedy: what can be done.
        measured: the numbers by name, JSON types.
        check: name of the check; filled in by `doctor`.
    """

    severity: Severity
    message: str
    remedy: str
    measured: dict[str, Any] = field(default_factory=dict)
    check: str = ""


Run = Callable[["Subject"], Iterator[Symptom]]
Need = Literal["data", "forward", "pictures", "env"]
"""What a check cannot do without: a dataset, a dataset that can be put through the policy, the same
with cameras, or an env."""


@dataclass(frozen=True)
class DoctorCheck:
    """A check, as `@examines` makes it of a function.

    Attributes:
        looks_at: what it looks at, in words.
        needs: what it cannot do without.
        run: yields what it finds.
    """

    looks_at: str
    needs: tuple[Need, ...]
    run: Run

    def __post_init__(self) -> None:
        # as functools.wraps does: the registry finds module and name of the function by it
        object.__setattr__(self, "__wrapped__", self.run)
        object.__setattr__(self, "__doc__", self.run.__doc__)


def examines(looks_at: str, *, needs: tuple[Need, ...] = ()) -> Callable[[Run], DoctorCheck]:
    """Decorator that makes a `DoctorCheck` of a function; `@register("doctor_checks", NAME)` stands
    above it."""

    def make(run: Run) -> DoctorCheck:
        return DoctorCheck(looks_at, needs, run)

    return make


def doctor_checks() -> dict[str, DoctorCheck]:
    """name -> check, in the order of files and lines."""
    return {name: lookup("doctor_checks", name) for name in names_in_file_order("doctor_checks")}


__all__ = ["DoctorCheck", "Need", "Severity", "Symptom", "doctor_checks", "examines"]

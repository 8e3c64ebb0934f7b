"""What a check of datasets is: a small function of a dataset that yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vla.common.registry import lookup, name_of, names_in_file_order, register
from vla.common.renamed import announce_renamed

if TYPE_CHECKING:
    from vla.data.validation.examined import Examined

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The gravest first."""
LEROBOT = ("lerobot", "lerobot_v2")


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        severity: "error" if reading fails or numbers would be wrong, "warning" if the dataset
            contradicts itself or is suspicious, "note" if there is something to know.
        place: file or episode.
        message: what is wrong there, and what can be done.
        fix: name of the repair that `fix=True` applies; empty if there is none.
        others: further places of the same cause, which the message counts.
    """

    check: str
    severity: Severity
    place: str
    message: str
    fix: str = ""
    others: tuple[str, ...] = ()


Run = Callable[["Examined"], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A check, as `@check` makes it of a function.

    Attributes:
        looks_at: what it looks at, in words.
        formats: names of the formats that it is for; all if it is None.
        deep: whether it decodes images.
        run: yields what it finds.
    """

    looks_at: str
    formats: tuple[str, ...] | None
    deep: bool
    run: Run

    def __post_init__(self) -> None:
        # As functools.wraps does: inspect.unwrap finds the function, and with it the registry its
        # module and name, `vla list checks` its docstring.
        object.__setattr__(self, "__wrapped__", self.run)
        object.__setattr__(self, "__doc__", self.run.__doc__)

    @property
    def name(self) -> str:
        """The name that it is registered by; empty if it is not."""
        return name_of("checks", self) or ""


def check(
    looks_at: str,
    former_looks_at: str | None = None,
    *,
    formats: tuple[str, ...] | None = None,
    deep: bool = False,
) -> Callable[[Run], Any]:
    """Decorator that makes a `Check` of a function; `@register("checks", NAME)` stands above it.

    Args:
        looks_at: what the check looks at, in words.
        former_looks_at: the second argument of the former `@check(name, looks_at)`, which
            registered the check by itself.
        formats: names of the formats that it is for; all by default.
        deep: whether it decodes images; such a check does not run with `--fast`.
    """

    def make(run: Run) -> Any:
        if former_looks_at is None:
            return Check(looks_at, formats, deep, run)
        announce_renamed(
            "@check(name, looks_at)", '@register("checks", name) above @check(looks_at)'
        )
        register("checks", looks_at)(Check(former_looks_at, formats, deep, run))
        return run

    return make


def checks() -> dict[str, Check]:
    """name -> check, in the order in which they run."""
    # not by name: some read what others leave behind, such as warnings that reading images made
    return {name: lookup("checks", name) for name in names_in_file_order("checks")}

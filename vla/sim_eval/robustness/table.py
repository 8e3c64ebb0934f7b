"""What perturbations do to a policy's success: a row for each kind, paired tests against clean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from vla.common.atomic import write_text
from vla.common.foreign.json_files import read_json
from vla.sim_eval.comparison.comparability import paired_counts
from vla.sim_eval.comparison.results import Results, ResultsError, summary
from vla.sim_eval.perturbations import describe
from vla.sim_eval.statistics import holm, mcnemar_exact

ROBUSTNESS_FILE = "robustness.json"
CLEAN = "clean"
ALPHA = 0.05


@dataclass(frozen=True)
class Condition:
    """One policy under one perturbation.

    Attributes:
        kind: of the perturbation; "clean" for none.
        severity: 0 for clean, 1 to 3, None for a control.
        successes, episodes, rate: success at any step.
        interval: 95 % interval of the rate (Wilson).
        wins, losses, ties: paired episodes that only this condition, only the clean one, and both
            or neither solved.
        p_value: McNemar's exact test against clean; 1 for clean itself.
        p_adjusted: Holm's correction over all conditions.
        folder: of its results, relative to that of the table.
    """

    kind: str
    severity: int | None
    successes: int
    episodes: int
    rate: float
    interval: tuple[float, float]
    wins: int
    losses: int
    ties: int
    p_value: float
    p_adjusted: float
    folder: str

    @property
    def differs(self) -> bool:
        """Whether its success differs significantly from the clean one."""
        # clean itself has p 1 and never differs
        return self.p_adjusted <= ALPHA

    def summary(self) -> dict[str, Any]:
        """As `vla.sim_eval.comparison.results.summary` gives it."""
        counts = {"successes": self.successes, "episodes": self.episodes}
        return {**counts, "rate": self.rate, "wilson95": list(self.interval)}


@dataclass(frozen=True)
class Robustness:
    """One policy on one suite, clean and under perturbations, always from the same starts.

    Attributes:
        policy, suite: names.
        clean: the condition without a perturbation.
        conditions: the others, kind by kind in rising severity, controls last.
        skipped: kind -> why it could not be played.
        versions: what else decides the numbers.
        command: what to type to measure again.
        seconds: wall time of the evaluations.
        folder: where the conditions' folders lie; None before they are saved.
    """

    policy: str
    suite: str
    clean: Condition
    conditions: tuple[Condition, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    seconds: float = 0.0
    folder: Path | None = None

    @property
    def kinds(self) -> dict[str, dict[int, Condition]]:
        """Kind -> severity -> condition, of the kinds that have severities."""
        found: dict[str, dict[int, Condition]] = {}
        for condition in self.conditions:
            if condition.severity is not None:
                found.setdefault(condition.kind, {})[condition.severity] = condition
        return found

    @property
    def severities(self) -> list[int]:
        """Those that were played."""
        return sorted({severity for by_severity in self.kinds.values() for severity in by_severity})

    @property
    def controls(self) -> list[Condition]:
        """The conditions without severities, which should destroy success."""
        return [condition for condition in self.conditions if condition.severity is None]

    def to_dict(self) -> dict[str, Any]:
        """What `robustness.json` holds."""
        values = asdict(self)
        # the file may be moved with its folder
        del values["folder"]
        return {**values, "alpha": ALPHA}

    def save(self, folder: str | Path) -> Path:
        """Writes `robustness.json` into `folder`; returns the file."""
        path = Path(folder) / ROBUSTNESS_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what `save` wrote. Raises ResultsError if it is missing or broken."""
        path = Path(folder) / ROBUSTNESS_FILE
        if not path.is_file():
            raise ResultsError(f"{path}: no such file; `vla eval perturb` writes it")
        try:
            values = read_json(path)
            # for readers of the file; today's ALPHA decides what differs
            del values["alpha"]
            clean = _condition_from(values.pop("clean"))
            others = tuple(map(_condition_from, values.pop("conditions")))
            return cls(**values, clean=clean, conditions=others, folder=Path(folder))
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(
                f"{path}: no table of perturbations: {type(error).__name__}: {error}"
            ) from error

    def table(self) -> Any:
        """A rich table for the terminal."""
        from vla.common.terminal.tables import Table, whole

        heads = ["clean", *(f"severity {severity}" for severity in self.severities)]
        title = f"{self.policy} on {self.suite}"
        table = Table(*whole("", *heads), title=title, caption=_explained(self), leading=1)
        for name, cells in self._rows():
            table.add_row(name, *(_cell(cell) if cell else "" for cell in cells))
        return table

    def markdown(self) -> str:
        """The table for a document: rate, 95 % interval and adjusted p of each condition.

        Significant ones are bold.
        """
        heads = ["perturbation", "clean"]
        heads += [f"severity {severity}" for severity in self.severities]
        heads.append("what it is")
        lines = [_line(heads), _line(["---"] * len(heads))]
        for name, cells in self._rows():
            # one line a cell: a table of markdown breaks at a newline
            texts = [_cell(cell, strong="**", gap=", ") if cell else "" for cell in cells]
            lines.append(_line([name, *texts, describe(name)]))
        lines += ["", _explained(self)]
        for kind, reason in self.skipped.items():
            # reasons of several lines as one
            lines.append(f"Not played: {kind} ({' '.join(reason.split())}).")
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def _rows(self) -> Iterator[tuple[str, list[Condition | None]]]:
        """Name and cells of each row: clean, then one for each severity.

        A control stands in the first of these.
        """
        # controls alone need a column, too
        severities = self.severities or [1]
        for kind, found in self.kinds.items():
            yield kind, [self.clean, *map(found.get, severities)]
        for control in self.controls:
            empty = [None] * (len(severities) - 1)
            yield control.kind, [self.clean, control, *empty]


def _condition_from(values: dict[str, Any]) -> Condition:
    # JSON has no tuples
    return Condition(**{**values, "interval": tuple(values["interval"])})


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(condition: Condition, strong: str = "", gap: str = "\n") -> str:
    low, high = condition.interval
    text = f"{100 * condition.rate:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
    if condition.kind == CLEAN:
        return text
    mark = strong if condition.differs else ""
    return f"{mark}{text}{mark}{gap}p {p_text(condition.p_adjusted)}"


def p_text(p: float) -> str:
    """Two figures; below one in a thousand only that."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _explained(found: Robustness) -> str:
    return (
        f"{found.clean.episodes} episodes for each condition, the same starts for all; "
        "in brackets 95 % intervals (Wilson); p: McNemar's exact test against clean, "
        f"adjusted for {len(found.conditions)} conditions (Holm)."
    )


def tabulate(
    clean: Results,
    played: Mapping[tuple[str, int | None], Results],
    *,
    skipped: Mapping[str, str],
    command: str,
    folder: Path,
) -> Robustness:
    """The table of these evaluations. played: (kind, severity) -> results of the same episodes."""
    pairs = {key: paired_counts(results, clean) for key, results in played.items()}
    p_values = [mcnemar_exact(*counts) for counts in pairs.values()]
    # over all conditions of the table at once: each of them is a chance of a false alarm
    adjusted = holm(p_values)
    conditions = []
    for key, p_value, p_adjusted in zip(played, p_values, adjusted, strict=True):
        kind, severity = key
        condition = _condition(kind, severity, played[key], pairs[key], p_value, p_adjusted, folder)
        conditions.append(condition)
    # clean beside itself
    ties = (0, 0, len(clean.episodes))
    return Robustness(
        policy=clean.policy,
        suite=clean.suite,
        clean=_condition(CLEAN, 0, clean, ties, 1.0, 1.0, folder),
        conditions=tuple(conditions),
        skipped=dict(skipped),
        versions=dict(clean.versions),
        command=command,
        seconds=round(clean.seconds + sum(results.seconds for results in played.values()), 3),
        folder=folder,
    )


def _condition(
    kind: str,
    severity: int | None,
    results: Results,
    pairs: tuple[int, int, int],
    p_value: float,
    p_adjusted: float,
    folder: Path,
) -> Condition:
    values = summary(results.episodes)
    low, high = values["wilson95"]
    place = ""  # of results that were never saved
    if results.folder is not None:
        place = results.folder.relative_to(folder).as_posix()
    return Condition(
        kind=kind,
        severity=severity,
        successes=values["successes"],
        episodes=values["episodes"],
        rate=values["rate"],
        interval=(low, high),
        wins=pairs[0],
        losses=pairs[1],
        ties=pairs[2],
        p_value=p_value,
        p_adjusted=p_adjusted,
        folder=place,
    )

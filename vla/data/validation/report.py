"""Is a dataset what it says it is? Every check in one run, and repairs that lose nothing.

One damaged file does not hide the others: if the dataset cannot be opened, the checks of single
files still run.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.common.folder_lock import alone
from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.validation.check import SEVERITIES
from vla.data.validation.check import Check as Check
from vla.data.validation.check import Finding as Finding
from vla.data.validation.check import checks as checks
from vla.data.validation.examined import Examined
from vla.data.validation.repairs import REPAIRS, WITHOUT_DATASET

_SHOWN_ALIKE = 3
"""Findings of one cause that are shown one by one; more of them are one line."""
_NAMED = 5


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        root: of the dataset.
        format: its name; None if it is of none.
        findings: errors first. After repairs, what is left.
        repaired: (repair, what was done) for each that was applied.
        ran: names of the checks that ran.
    """

    root: Path
    format: str | None
    findings: tuple[Finding, ...]
    repaired: tuple[tuple[str, str], ...] = ()
    ran: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.of("error")

    def of(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "root": str(self.root),
            "format": self.format,
            "ok": self.ok,
            "findings": [_values(finding) for finding in self.findings],
            "repaired": [{"fix": name, "done": done} for name, done in self.repaired],
            "checks": list(self.ran),
        }


def _values(finding: Finding) -> dict[str, Any]:
    values = dataclasses.asdict(finding)
    if not finding.others:
        del values["others"]
    return values


def validate(
    root: str | Path,
    *,
    format: str | None = None,
    keys: KeyMap | None = None,
    fix: bool = False,
    deep: bool = True,
    progress: ProgressCallback | None = None,
) -> Report:
    """Looks at everything in a dataset of any format.

    Args:
        root: folder of the dataset, or its file.
        format, keys: as `EpisodeDataset` takes them.
        fix: repair what can be repaired without loss (LeRobot datasets); originals are kept in
            `.replaced`, and the findings are those of a second look.
        deep: decode every image.
        progress: called with (frames decoded, frames in all).

    Raises:
        DataError: there is nothing at `root`, or it is an archive.
        FolderInUseError: `fix`, and another process writes to the dataset.
    """
    root = Path(root)
    report = _look(root, format, keys, deep, progress)
    if not fix:
        return report
    with alone(root if root.is_dir() else root.parent):
        return _repaired(report, root, format, keys, deep, progress)


def _repaired(
    report: Report,
    root: Path,
    format: str | None,
    keys: KeyMap | None,
    deep: bool,
    progress: ProgressCallback | None,
) -> Report:
    """The findings of a second look, after repairs."""
    repaired, failed = [], []
    wanted = {finding.fix for finding in report.findings}
    for name, repair in REPAIRS.items():
        if name not in wanted:
            continue
        try:
            # opened again for each: the repair before has changed its files
            repaired.append((name, repair(Examined(root, format, keys, deep=False))))
        except (DataError, OSError) as error:
            failed.append(Finding("fix", "error", root.name, f"{name}: {error}"))
    if repaired:
        report = _look(root, format, keys, deep, progress)
    findings = _sorted([*report.findings, *failed])
    return dataclasses.replace(report, findings=findings, repaired=tuple(repaired))


def _look(
    root: Path,
    format: str | None,
    keys: KeyMap | None,
    deep: bool,
    progress: ProgressCallback | None,
) -> Report:
    examined = Examined(root, format, keys, deep=deep, progress=progress)
    ran = []
    findings: list[Finding] = []
    for name, check in checks().items():
        is_for_it = check.formats is None or examined.format in check.formats
        if is_for_it and (deep or not check.deep):
            findings += check.run(examined)
            ran.append(name)
    found = [_repairable(examined, finding) for finding in findings]
    return Report(root, examined.format, _sorted(_grouped(examined, found)), ran=tuple(ran))


def _repairable(examined: Examined, finding: Finding) -> Finding:
    """Without a repair that could only fail: all but those of single files read the dataset."""
    if examined.dataset is not None or finding.fix in ("", *WITHOUT_DATASET):
        return finding
    return dataclasses.replace(finding, fix="")


def _grouped(examined: Examined, findings: list[Finding]) -> list[Finding]:
    """One finding for each cause: what differs by file, episode and number alone is counted."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in dict.fromkeys(findings):  # two checks may meet the same damage
        text = finding.message
        for name in (str(examined.root / finding.place), finding.place, str(examined.root)):
            text = text.replace(name, "") if name else text
        cause = re.sub(r"[\d.]+", "#", text)
        key = (finding.check, finding.severity, finding.fix, cause)
        groups.setdefault(key, []).append(finding)
    found = []
    for alike in groups.values():
        if len(alike) <= _SHOWN_ALIKE:
            found += alike
            continue
        others = tuple(finding.place for finding in alike[1:])
        named = ", ".join(others[:_NAMED]) + (", ..." if others[_NAMED:] else "")
        message = f"{alike[0].message} (and {len(others)} more like it: {named})"
        found.append(dataclasses.replace(alike[0], message=message, others=others))
    return found


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))

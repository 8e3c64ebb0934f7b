"""Is a dataset what it says it is? Every check in one run, and repairs that lose nothing.

One damaged file does not hide the others: if the dataset cannot be opened, the checks of single
files still run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.common.progress import ProgressCallback
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.validation.check import SEVERITIES
from vla.data.validation.check import Check as Check
from vla.data.validation.check import Finding as Finding
from vla.data.validation.check import checks as checks
from vla.data.validation.examined import Examined
from vla.data.validation.repairs import REPAIRS


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
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "repaired": [{"fix": name, "done": done} for name, done in self.repaired],
            "checks": list(self.ran),
        }


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
    """
    root = Path(root)
    report = _look(root, format, keys, deep, progress)
    if not fix:
        return report
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
    return Report(root, examined.format, _sorted(findings), ran=tuple(ran))


def _sorted(findings: list[Finding]) -> tuple[Finding, ...]:
    unique = dict.fromkeys(findings)  # two checks may meet the same damage
    return tuple(sorted(unique, key=lambda finding: SEVERITIES.index(finding.severity)))

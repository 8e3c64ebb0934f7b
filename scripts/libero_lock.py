"""Writes requirements-libero.lock: LIBERO and all that it needs, at versions that fit requirements.lock.

    python -m scripts.libero_lock        (needs uv)

A lock of its own, since LIBERO's meshes take 1.2 GB and have licences of their own: `make setup` leaves them out, and
`make libero` adds them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-libero.lock"
OPTIONS = [
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"),
    *("--no-annotate", "--no-emit-index-url", "--quiet"),
]


def wanted(project: str) -> list[str]:
    """The requirements of the extra `libero` that are not extras of the package itself."""
    extra = tomllib.loads(project)["project"]["optional-dependencies"]["libero"]
    return [line for line in extra if not line.startswith("vla[")]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "libero.in"
        asked.write_text("\n".join(wanted((ROOT / "pyproject.toml").read_text())) + "\n")
        pins = Path(folder) / "pins.txt"
        # versions alone: hashes are made again for what is taken from there
        lines = (ROOT / "requirements.lock").read_text().splitlines()
        pins.write_text("\n".join(line.rstrip("\\ ") for line in lines if line[:1] not in " #-"))
        command = ["uv", "pip", "compile", str(asked), "--constraint", str(pins), *OPTIONS]
        return subprocess.run([*command, "--output-file", str(LOCK)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

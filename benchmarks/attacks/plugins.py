"""Packages whose plug-in raises, cannot be imported, ends the process or takes a taken name."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from attacks._case import Case

COUNT = 24
MODULES = {
    "raises": "raise RuntimeError('no')",
    "imports what is not there": "import no_such_package_at_all",
    "is no Python": "def (",
    "ends": "raise SystemExit(3)",
    "takes a name": (
        "from vla.common.registry import register\n"
        "from vla.models.policies.mlp import MLPConfig\n"
        "@register('policies', 'mlp')\nclass Other(MLPConfig): pass\n"
    ),
    "names no kind": "from vla.common.registry import register\nregister('nothing', 'x')(int)\n",
    "registers, then raises": (
        "from vla.common.registry import register\n"
        "register('formats', 'half')(int)\nraise ValueError('late')\n"
    ),
}
COMMANDS = (["list", "policies"], ["list", "formats"], ["data", "info", "/nowhere"], ["--help"])


def warm() -> None:
    """Each command is a process of its own."""


def case(rng: random.Random, folder: Path) -> Case:
    name = rng.choice(sorted(MODULES))
    command = rng.choice(COMMANDS)
    site = folder / "site"
    described = site / "bad_plugin-1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[vla.plugins]\nbad = bad_plugin\n")
    (site / "bad_plugin.py").write_text(MODULES[name])

    def read() -> int:
        import os

        from vla.common.errors import UserError

        path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", ""), *sys.path])
        done = subprocess.run(
            [sys.executable, "-m", "vla.cli", *command],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "Traceback" in done.stderr:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        if done.returncode == 2:
            raise UserError(done.stderr)
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-200:]}")
        return done.returncode

    return Case(f"a plug-in that {name}, vla {' '.join(command)}", read, harmless=0)

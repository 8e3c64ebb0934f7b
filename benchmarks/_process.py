"""The other side of a benchmark in an interpreter of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class JsonProcess:
    """A process that answers each line of JSON with one.

    Args:
        interpreter: that of the side's environment.
        script: a file beside this one.
        settings: JSON types, its only argument.
        env: environment variables, beside those of this process.

    Attributes:
        facts: what it tells of itself at the start.
    """

    def __init__(
        self, interpreter: str | Path, script: str, settings: dict[str, Any], env: Mapping[str, str]
    ) -> None:
        self.script = script
        self.process = subprocess.Popen(
            [str(interpreter), str(HERE / script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        self.facts = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.script}: ended with status {self.process.wait()}; see above")
        return dict(json.loads(line))

    def close(self) -> None:
        """Ends the process, which gets a minute for it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

"""Names and texts with control characters, in commands: what reaches the terminal."""

from __future__ import annotations

import random
import re
from pathlib import Path

from attacks._case import Case

COUNT = 100
CODES = (
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b[8m",
    "\x9b31m",
    "\x07",
    "\x08" * 5,
    "\r",
    "\x00",
    "\x7f",
    "\u202e",
    "\u2028",
    "\x1bP1;1|x\x1b\\",
)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def warm() -> None:
    for topic in ("data info", "data view", "config check", "train", "compare"):
        _printed([*topic.split(), "/nowhere"])


def case(rng: random.Random, folder: Path) -> Case:
    text = "".join(rng.choice([rng.choice(CODES), "go", "[red]", "[/x]"]) for _ in range(5))
    kind = rng.choice(["info", "check", "key", "override", "list", "compare"])
    name = text.replace("\0", "")
    if kind == "info":
        command = ["data", rng.choice(["info", "stats", "validate", "view"]), str(folder / name)]
    elif kind == "check":
        command = ["config", "check", str(folder / name)]
    elif kind == "key":
        (folder / "c.yaml").write_text(f"train:\n  {_quoted(name)}: 1\n")
        command = ["config", "check", str(folder / "c.yaml")]
    elif kind == "override":
        (folder / "c.yaml").write_text("train: {}\n")
        command = ["train", str(folder / "c.yaml"), f"{name}=1"]
    elif kind == "list":
        command = ["list", name]
    else:
        command = ["compare", str(folder / name), str(folder / "other")]
    return Case(f"vla {' '.join(command)!r}", lambda: _printed(command), check=_codes)


def _quoted(text: str) -> str:
    escaped = "".join(f"\\x{ord(c):02x}" if ord(c) < 256 and not c.isalnum() else c for c in text)
    return f'"{escaped}"'


def _printed(command: list[str]) -> str:
    """What a command writes, as on a terminal."""
    from typer.testing import CliRunner

    from vla.cli import app

    result = CliRunner().invoke(app, command)
    error = result.exception
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.output


def _codes(output: str) -> str:
    found = UNSEEN.search(output)
    return f"the terminal gets {found[0]!r}" if found else ""

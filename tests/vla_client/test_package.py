"""The client stands alone: no torch, nothing of `vla`, and the syntax of Python 3.8."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vla_client

ROOT = Path(vla_client.__file__).parent
FILES = sorted(ROOT.glob("*.py"))
NEEDED = {"msgpack", "numpy", "websockets", "vla_client"}
OPTIONAL = {"PIL", "yaml"}
"""Imported inside functions alone."""


def imported(statements: list) -> set[str]:
    """First names of the modules that statements import."""
    found = set()
    for node in statements:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def standard() -> set[str]:
    names = getattr(sys, "stdlib_module_names", None)
    if names is None:
        pytest.skip("this Python does not name its standard library")
    return set(names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_short_old_and_imports_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    assert len(text.splitlines()) <= 500
    assert max(map(len, text.splitlines())) <= 100
    assert imported(list(ast.walk(tree))) - standard() <= NEEDED | OPTIONAL
    assert imported(tree.body) - standard() <= NEEDED


def test_the_folder_is_not_too_full() -> None:
    assert 0 < len(FILES) <= 18


def test_it_is_imported_without_torch_and_without_optional_packages() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'PIL', 'yaml', 'vla'): sys.modules[name] = None\n"
        "import vla_client.runner, vla_client.rosbridge, vla_client.vla_eval_codec\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

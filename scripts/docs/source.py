"""Code of the package as it stands, for pages that show it: it cannot go stale."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]


class SourceError(ValueError):
    """A page names code that does not exist."""


def module_of(dotted: str) -> tuple[Path, list[str]]:
    """The file of a dotted name, and the names within it.

    Raises SourceError if no module of the package begins the name.
    """
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:count])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, parts[count:]
    raise SourceError(f"{dotted}: there is no such module")


def find(dotted: str) -> tuple[Path, ast.AST]:
    """The file that defines a function, method or class, and its node.

    Raises SourceError if there is none.
    """
    path, names = module_of(dotted)
    node: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for name in names:
        inner = [n for n in getattr(node, "body", []) if getattr(n, "name", None) == name]
        if not inner:
            where = path.relative_to(ROOT)
            raise SourceError(
                f"{dotted}: {where} defines no {name} at its top level or in the class"
            )
        node = inner[-1]
    return path, node


def code_block(dotted: str) -> str:
    """A fenced block with the code of a function, method or class, without its docstring."""
    path, node = find(dotted)
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        raise SourceError(f"{dotted}: neither a function nor a class")
    lines = path.read_text(encoding="utf-8").splitlines()
    shown = _without_docstring(lines, node)
    code = textwrap.dedent("\n".join(shown)).rstrip()
    return f'```python title="{path.relative_to(ROOT)}"\n{code}\n```'


def _without_docstring(lines: list[str], node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    begin = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    end = node.end_lineno
    first = node.body[0]
    documented = ast.get_docstring(node) is not None and len(node.body) > 1
    if not documented:
        return lines[begin:end]
    return lines[begin : first.lineno - 1] + lines[first.end_lineno : end]

"""The text below a field of a config, which is its help."""

from __future__ import annotations

import ast
import functools
import inspect
from itertools import pairwise

from pydantic import BaseModel


def field_docstrings(cls: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring that stands below it, for those that have one.

    The source is read when somebody asks. Pydantic would read it as each class is made, which was
    two fifths of the time in which this package is imported.
    """
    found: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if not issubclass(owner, BaseModel):
            continue
        own = _written_in(owner)
        for name in inspect.get_annotations(owner):
            # a field that is declared once more stands alone, also without its text
            found.pop(name, None)
            if name in own:
                found[name] = own[name]
    return found


@functools.cache
def _written_in(cls: type[BaseModel]) -> dict[str, str]:
    """Field -> docstring, of the fields that the body of the class declares."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # a class of a prompt, whose source nobody kept
        return {}
    # a class inside a function is indented, and the lines of its texts may not be
    body = ast.parse(f"if True:\n{source}" if source[0].isspace() else source).body
    node = body[0].body[0] if isinstance(body[0], ast.If) else body[0]
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in pairwise(node.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = inspect.cleandoc(text.value.value)
    return found

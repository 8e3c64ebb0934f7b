"""Paths as people type them: `~` and environment variables stand for what they name.

A shell expands them at the start of a word alone: neither in YAML nor behind `key=`.
"""

from __future__ import annotations

import os
import re

from vla.common.errors import UserError

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<bare>[A-Za-z_]\w*))")


def expanded_path(text: str) -> str:
    """`text` with `~`, `~USER`, `$NAME` and `${NAME}` replaced by what they stand for.

    What lies there under the very name, dollars and all, is left as it is.

    Raises UserError if the text holds a NUL, a variable is not set, or there is no such user.
    """
    if "\0" in text:
        raise UserError(f"{text!r} holds a NUL character, which no path may; leave it out")
    if not ("$" in text or text.startswith("~")) or os.path.lexists(text):
        return text

    def value_of(match: re.Match[str]) -> str:
        name = match["braced"] or match["bare"]
        if not os.environ.get(name):
            raise UserError(
                f"{text}: the environment variable {name} is not set; set it "
                f"(export {name}=...) or write the path out"
            )
        return os.environ[name]

    # before `~`: a variable may hold one
    filled = _VARIABLE.sub(value_of, text)
    expanded = os.path.expanduser(filled)
    if expanded.startswith("~"):
        # a folder of that name would have to be removed with `rm -r ~...`, which nobody should type
        raise UserError(f"{text}: there is no such user; write the path out, or ./{text}")
    return expanded

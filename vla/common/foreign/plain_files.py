"""Whether what lies at a path may be opened: pipes and devices make whoever opens them wait."""

from __future__ import annotations

import stat
from pathlib import Path

from vla.common.errors import UserError

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def why_not_plain(path: Path) -> str:
    """The end of a sentence if there is something at the path that is neither a file nor a folder;
    empty otherwise, also if there is nothing."""
    try:
        kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return ""
    return f"is no plain file but {kind}; put the file itself there" if kind else ""


class NotPlainError(OSError, UserError):
    """Something lies at a path that whoever opens it would wait for; the message names both.

    An OSError, as the others that opening a file raises.
    """


def check_plain_file(path: Path) -> None:
    """Raises NotPlainError if something lies at the path that whoever opens it would wait for."""
    problem = why_not_plain(path)
    if problem:
        raise NotPlainError(f"{path} {problem}")


__all__ = ["NotPlainError", "check_plain_file", "why_not_plain"]

"""Where commands print: a terminal has a width, a file or a pipe has none."""

from __future__ import annotations

from vla.common.printing.visible_console import VisibleConsole


def output_console(*, stderr: bool = False) -> VisibleConsole:
    """A console that breaks lines only for the eye.

    On a terminal and in a notebook lines are wrapped at its width. Elsewhere each stays one line,
    as long as it is: what reads a pipe or a file would have to join it again.
    """
    console = VisibleConsole(stderr=stderr)
    console.soft_wrap = not (console.is_terminal or console.is_jupyter)
    return console

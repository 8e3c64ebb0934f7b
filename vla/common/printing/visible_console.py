"""The console of everything that is printed: control characters in texts of others are shown, not
sent.

A terminal obeys escape codes: an instruction that holds them could clear the screen, hide lines,
or set the window's title.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

_UNSEEN = re.compile(
    # control characters but for line breaks and tabs; what turns the direction of writing; line
    # breaks that only some programs know; halves of letters, which UTF-8 cannot write
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with control characters as `\x1b` or `\u202e`."""
    return _UNSEEN.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class VisibleConsole(Console):
    """rich's console; whatever text is printed, no control character of it reaches the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        # here and below: columns are as wide as what is shown
        return super().render_str(visible(text), **options)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        # the last place before the terminal, which no object of rich goes around; rich's own codes
        # for colours are added behind it, and those that move the cursor are marked as control
        shown = []
        for segment in buffer:
            if segment.control is None and _UNSEEN.search(segment.text):
                segment = Segment(visible(segment.text), segment.style)
            shown.append(segment)
        return super()._render_buffer(shown)


__all__ = ["VisibleConsole", "visible"]

"""Texts of others: what can be written again, and what is too long to be read by anybody."""

from __future__ import annotations

MOST_CHARACTERS = 100_000
"""Of an instruction, and of what else one person says to another."""


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can hold halves of characters (surrogates)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def why_no_instruction(text: str) -> str:
    """The end of a sentence if a text is no instruction; empty if it is one."""
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text)} characters, expected at most {MOST_CHARACTERS}; shorten it"
    if not is_text(text):
        return f"is {text[:80]!r}, which holds half a character; write it again"
    return ""


__all__ = ["is_text", "why_no_instruction"]

"""Errors of the client. Each message is one line that says what is wrong and how to mend it."""

from __future__ import annotations


class ClientError(Exception):
    """What the program around the client can mend, or has to answer."""


class WireError(ClientError, ValueError):
    """A message cannot be sent, or what arrived is no message of this protocol."""


def shown(value: object, longest: int = 60) -> str:
    """A value as one line of ASCII for an error: no control characters, and cut if it is long."""
    # what is cut first is never written out whole: the value may be a message of megabytes
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: longest + 1]
    text = ascii(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."

"""Errors of the client. Each message is one line that says what is wrong and how to mend it."""

from __future__ import annotations


class ClientError(Exception):
    """What the program around the client can mend, or has to answer."""


class WireError(ClientError, ValueError):
    """A message cannot be sent, or what arrived is no message of this protocol."""


class ServerError(ClientError):
    """The server answers that it cannot serve this request; its text is the message."""


class ConnectionLostError(ClientError, ConnectionError):
    """There is no connection to the server. The next request opens one."""


class GovernorError(ClientError, ValueError):
    """A setting of the governor is wrong, or the robot may not be armed as it stands."""


def shown(value: object, longest: int = 60) -> str:
    """A value as one line of ASCII for an error: no control characters, and cut if it is long."""
    # what is cut first is never written out whole: the value may be a message of megabytes
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: longest + 1]
    text = ascii(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def line(text: object, longest: int = 200) -> str:
    """A text of others as one line for an error: what is not printable is escaped, and cut."""
    cut = str(text)[: longest + 1]
    clean = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return clean if len(clean) <= longest else clean[: longest - 3] + "..."

"""What a protocol defines: how one client and the server speak."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any, ClassVar

from vla.serving.service import Service
from vla.serving.session import Session


class Conversation(ABC):
    """One client's side of a protocol; registered under "protocols". A connection has its own.

    Attributes:
        slow_reading: whether `read` decodes pictures, and is then called in a thread.
    """

    slow_reading: ClassVar[bool] = False

    def __init__(self, service: Service) -> None:
        self.service = service
        self.sessions: dict[str, Session] = {}

    def session(self, name: str = "") -> Session:
        """The session of that name in this connection, a new one the first time."""
        if name not in self.sessions:
            self.sessions[name] = self.service.new_session(name)
        return self.sessions[name]

    def greeting(self) -> bytes | None:
        """What the server says first; None if the client does."""
        return None

    @abstractmethod
    def read(self, data: bytes) -> Any:
        """The message in `data`. Raises WireError if it is none."""

    @abstractmethod
    def begin(self, message: Any, received: float) -> Awaitable[bytes] | None:
        """Takes a message up; what is awaited is the answer. None if there is none.

        Called in the order of the messages, on the event loop: it must not compute.

        Args:
            message: what `read` gave.
            received: when it came in, in seconds of `time.perf_counter`.

        Raises UserError if the message is wrong.
        """

    @abstractmethod
    def failure(self, message: Any, text: str) -> str | bytes:
        """How the client is given an error of one line; `message` is None if it could not be
        read."""

    def close(self) -> None:
        """The client is gone: what waits for it is dropped."""
        for session in self.sessions.values():
            self.service.dispatcher.drop(session)
            self.service.end_episodes(session)

"""What runs inside a worker: it carries out requests, and what they raise comes back as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vla.common.machine_faults import text_of
from vla.config import ConfigError

Work = Callable[[Any], Any]
"""What carries out a request. If it has a method `close`, that is called at the end."""
MakeWork = Callable[[], Work]
"""Called once in each worker; it is sent there, as are requests and results."""


@dataclass(frozen=True)
class Result:
    value: Any


@dataclass(frozen=True)
class ErrorText:
    """What a request raised, in words."""

    text: str


class Worker:
    """Carries out requests; what does it is made for the first one."""

    def __init__(self, make_work: MakeWork) -> None:
        self._make_work = make_work
        self._work: Work | None = None

    def handle(self, request: Any) -> Result | ErrorText:
        try:
            # here and not in __init__: what it raises is the answer to the first request
            if self._work is None:
                self._work = self._make_work()
            return Result(self._work(request))
        except ConfigError as error:
            # its words say all; a traceback would only hide them
            return ErrorText(f"{type(error).__name__}: {error}")
        except Exception as error:
            return ErrorText(text_of(error))

    def close(self) -> None:
        close_work(self._work)


def close_work(work: Work | None) -> None:
    """Closes what has to be closed; a plain function has not."""
    if work is not None and hasattr(work, "close"):
        work.close()

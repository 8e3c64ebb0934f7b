"""The other processes of a training: if one has ended or hangs, all end with one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from torch import distributed

from vla.common.errors import UserError

BEAT_SECONDS = 5.0
"""So often each process says that it is there."""
PATIENCE_SECONDS = 120.0
"""So long one may be silent: a machine that swaps is slow, but not for minutes."""
_ENDED = "ended"
_LOST = re.compile(r"connection (closed|reset|refused)|gloo|broken pipe|socket", re.I)
_REMEDY = "see what it said last, mend that, and repeat the command with --resume"


class LostProcessError(UserError):
    """Another process of the training has ended or hangs."""


@contextlib.contextmanager
def companions_watched() -> Iterator[None]:
    """Watches the other processes of the training during the block; nothing if there are none.

    A process that waits for one that hangs cannot raise: it is ended with status 2 and a line on
    standard error. What its checkpoints hold stays.

    Raises LostProcessError if the connection to another process is lost.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        yield
        return
    watch = _Watch()
    watch.start()
    try:
        yield
    except Exception as error:
        if _is_lost(error):
            raise LostProcessError(
                f"another process of this training has ended or cannot be reached; {_REMEDY}"
            ) from error
        raise
    finally:
        watch.stop()


def _is_lost(error: Exception) -> bool:
    if isinstance(error, UserError):
        return False
    of_torch = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return of_torch or (isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None)


class _Watch(threading.Thread):
    """Says that this process is there, and looks whether the others are.

    A thread of its own, so that it goes on while the process waits or evaluates for hours; a
    process that was stopped, or has no time at all, is silent.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        # not a public name, but the only store that all processes have
        store: Any = distributed.distributed_c10d._get_default_store()
        # a connection of its own: the main thread may be waiting in the other
        self._store = store.clone()
        self._store.set_timeout(timedelta(seconds=PATIENCE_SECONDS))
        self._rank = distributed.get_rank()
        self._others = set(range(distributed.get_world_size())) - {self._rank}
        self._seen = {rank: ("", time.monotonic()) for rank in self._others}
        self._stopped = threading.Event()
        self._last_round = time.monotonic()
        self._say("0")
        # the store answers through process 0, and if that hangs, asking has no end
        threading.Thread(target=self._guard, daemon=True).start()

    def _guard(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            if time.monotonic() - self._last_round > PATIENCE_SECONDS + BEAT_SECONDS:
                _end(0)

    def run(self) -> None:
        count = 0
        while not self._stopped.wait(BEAT_SECONDS):
            count += 1
            try:
                self._say(str(count))
                silent = [rank for rank in sorted(self._others) if self._is_silent(rank)]
            # the process that keeps the store has ended or hangs
            except RuntimeError:
                silent = [0]
            self._last_round = time.monotonic()
            if silent and not self._stopped.is_set():
                _end(silent[0])

    def stop(self) -> None:
        """Says to the others that this process has ended in order."""
        self._stopped.set()
        with contextlib.suppress(RuntimeError):
            self._say(_ENDED)

    def _say(self, text: str) -> None:
        self._store.set(f"vla/there/{self._rank}", text)

    def _is_silent(self, rank: int) -> bool:
        said = self._store.get(f"vla/there/{rank}").decode()
        before, since = self._seen[rank]
        if said != before:
            self._seen[rank] = (said, time.monotonic())
            return False
        return said != _ENDED and time.monotonic() - since > PATIENCE_SECONDS


def _end(rank: int) -> None:
    line = (
        f"error: process {rank} of this training has not answered for {PATIENCE_SECONDS:g} s: it "
        f"hangs or has ended; {_REMEDY}\n"
    )
    sys.stderr.write(line)
    sys.stderr.flush()
    # the main thread waits for the other process, and would not see an exception
    os._exit(2)

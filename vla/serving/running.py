"""A server in a thread of this process: for notebooks, tests and benchmarks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from vla.serving.config import ServeConfig
from vla.serving.server import PolicyServer
from vla.types import Actor


@contextlib.contextmanager
def running_server(actor: Actor, config: ServeConfig) -> Iterator[PolicyServer]:
    """A server that clients can reach within (its `url`); it has ended afterwards.

    Raises what `PolicyServer` raises.
    """
    server = PolicyServer(actor, config)
    is_up = threading.Event()
    failures: list[BaseException] = []
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()

    async def run() -> None:
        async with server.started():
            is_up.set()
            await stopped.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # raised where the caller waits
            failures.append(error)
        finally:
            loop.close()
            is_up.set()

    thread = threading.Thread(target=work, name="vla-server")
    thread.start()
    is_up.wait()
    try:
        if failures:
            raise failures[0]
        yield server
    finally:
        with contextlib.suppress(RuntimeError):  # the loop is closed if the server failed
            loop.call_soon_threadsafe(stopped.set)
        thread.join()

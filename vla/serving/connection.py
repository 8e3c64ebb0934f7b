"""One client's connection: what comes in, in order; what goes out, in order; and its limits."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from vla.common.errors import UserError
from vla.common.terminal.visible_console import visible
from vla.serving.conversation import Conversation
from vla.serving.dispatch import ServerError
from vla.serving.metrics import Metrics
from vla_client.codec import WireError

log = logging.getLogger("vla.serving")
SEND_TIMEOUT = 5.0
"""Seconds that a client may take to read an answer."""
MAX_WAITING = 32
"""Messages of one client that are under way; what it sends beyond is left in its socket."""
MAX_ERROR = 2000
"""Characters of an error."""
NO_TEXT, POLICY = 1003, 1008
"""Codes of the WebSocket protocol (RFC 6455, section 7.4.1)."""

Waiting = tuple[object, Awaitable[bytes]]
"""A message and its answer to come."""


class Allowance:
    """How many observations a client may send ahead: `rate` a second, as many at once.

    (A token bucket.)
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._left = max(rate, 1.0)
        self._at = time.monotonic()

    def take(self) -> bool:
        """Whether one more may be sent now."""
        now = time.monotonic()
        self._left = min(max(self.rate, 1.0), self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Connection:
    """Talks with one client until it is gone.

    Args:
        socket: the client's.
        conversation: the protocol.
        protocol: its name.
    """

    def __init__(self, socket: ServerConnection, conversation: Conversation, protocol: str) -> None:
        self.socket = socket
        self.conversation = conversation
        self.protocol = protocol
        service = conversation.service
        self._metrics = service.metrics
        self._idle_timeout = service.config.idle_timeout_s
        self._allowance = Allowance(service.max_rate)
        self._answers: asyncio.Queue[Waiting | str | bytes] = asyncio.Queue(MAX_WAITING)
        self._under_way = 0

    async def run(self) -> None:
        """Returns when the client is gone, or was sent away."""
        tasks = set()
        try:
            greeting = self.conversation.greeting()
            if greeting is not None:
                await self._send(greeting)
            tasks = {
                asyncio.create_task(self._receive()),
                asyncio.create_task(self._send_answers()),
            }
            # whichever ends first, the client is gone for the other one too
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except ConnectionClosed:
            pass
        finally:
            self.conversation.close()
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                    log.error("a connection failed", exc_info=result)
            self._forget_answers()

    async def finish(self) -> None:
        """Waits until all that is under way has been answered."""
        await self._answers.join()

    # --- what comes in -------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._idle_timeout):
                    data = await self.socket.recv()
            except TimeoutError:
                self._metrics.add("vla_refused_total", reason="idle")
                await self.socket.close(POLICY, f"no message for {self._idle_timeout:g} s")
                return
            if isinstance(data, str):
                self._metrics.add("vla_refused_total", reason="text")
                await self.socket.close(NO_TEXT, "expected a binary message (msgpack)")
                return
            await self._answers.put(await self._take_up(data))

    async def _take_up(self, data: bytes) -> Waiting | str | bytes:
        """The answer to come, or an error."""
        received = time.perf_counter()
        self._metrics.add("vla_requests_total", protocol=self.protocol)
        # whoever waits for answers sets its own pace: the server's
        if self._under_way and not self._allowance.take():
            self._metrics.add("vla_refused_total", reason="rate")
            return self._failure(
                None,
                f"more than {self._allowance.rate:g} observations a second; wait for each answer, "
                "or start the server with a greater max_rate",
            )
        message = None
        try:
            if self.conversation.slow_reading:
                message = await asyncio.to_thread(self.conversation.read, data)
            else:
                message = self.conversation.read(data)
            answer = self.conversation.begin(message, received)
        except Exception as error:
            return self._failure(message, error_line(error, self._metrics))
        if answer is None:
            return b""
        self._under_way += 1
        return message, answer

    # --- what goes out -------------------------------------------------------------------------

    async def _send_answers(self) -> None:
        while True:
            waiting = await self._answers.get()
            try:
                answer = await self._answer(waiting) if isinstance(waiting, tuple) else waiting
                if answer:
                    await self._send(answer)
            except ConnectionClosed:
                return
            finally:
                self._answers.task_done()

    async def _answer(self, waiting: Waiting) -> str | bytes:
        message, answer = waiting
        try:
            return await answer
        except Exception as error:
            return self._failure(message, error_line(error, self._metrics))
        finally:
            self._under_way -= 1

    async def _send(self, answer: str | bytes) -> None:
        try:
            async with asyncio.timeout(SEND_TIMEOUT):
                await self.socket.send(answer)
        except TimeoutError:
            # who does not read its answers would fill this machine's memory with them
            self._metrics.add("vla_refused_total", reason="slow")
            self.socket.transport.abort()

    def _failure(self, message: object, text: str) -> str | bytes:
        return self.conversation.failure(message, text)

    def _forget_answers(self) -> None:
        while not self._answers.empty():
            waiting = self._answers.get_nowait()
            if isinstance(waiting, tuple):
                # else Python would warn of a coroutine that nobody awaited
                waiting[1].close()  # type: ignore[attr-defined]
            self._answers.task_done()


def error_line(error: Exception, metrics: Metrics) -> str:
    """The error in one line for a client, without a path or a traceback; it is counted."""
    if isinstance(error, UserError | WireError):
        kind = "server" if isinstance(error, ServerError) else "observation"
        metrics.add("vla_errors_total", kind=kind)
        text = "; ".join(line.strip() for line in str(error).splitlines())
        # names out of the message stand in it, and it is shown on a robot's terminal
        return visible(text)[:MAX_ERROR]
    number = uuid.uuid4().hex[:8]
    log.error("internal error %s", number, exc_info=error)
    metrics.add("vla_errors_total", kind="server")
    return f"the server failed on this message (its log has it as {number})"

"""openpi's WebSocket protocol, as openpi-client 0.1.2 speaks it.

The server speaks first, a map of metadata; then a map of observations is answered by a map with
`actions`, or by a text that says what is wrong. Keys `vla/...` are ours and optional.

Source: openpi, src/openpi/serving/websocket_policy_server.py and packages/openpi-client.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import time
from collections.abc import Awaitable, Mapping
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.common.names import did_you_mean
from vla.common.registry import register
from vla.serving.continuation import DELAY, PREFIX
from vla.serving.conversation import Conversation
from vla.serving.dispatch import Answer, Request
from vla.serving.observations import RobotInputs
from vla_client.codec import pack, unpack

KEYS = (
    "vla/reset",
    "vla/step",
    "vla/session",
    "vla/max_age_ms",
    "vla/sent_ns",
    PREFIX,
    DELAY,
)
"""Optional keys of an observation."""
MAX_SESSIONS = 256
"""Of one connection."""
MAX_NAME = 100


@register("protocols", "openpi")
class OpenpiConversation(Conversation):
    """openpi's WebSocket protocol, for the unmodified openpi-client."""

    _last_total_ms: float | None = None

    def greeting(self) -> bytes:
        return pack({"protocol": "openpi-websocket", **self.service.metadata()})

    def read(self, data: bytes) -> Any:
        return unpack(data, self.service.limits)

    def begin(self, message: Any, received: float) -> Awaitable[bytes]:
        decode_ms = 1000 * (time.perf_counter() - received)
        if not isinstance(message, Mapping):
            raise UserError(f"the message is {type(message).__name__}, expected a map of inputs")
        options = {key: message[key] for key in message if str(key).startswith("vla/")}
        _check_names(options)
        step = _option(options, "vla/step", int)
        request = Request(
            session=self._session(_option(options, "vla/session", str) or ""),
            policy=self.service.chunks,
            read=functools.partial(self._inputs, message, options),
            reset=_reset(options.get("vla/reset", False)),
            step=step,
            received=received,
        )
        max_age = _option(options, "vla/max_age_ms", float)
        # it is sent back as it came: no more than a number
        _option(options, "vla/sent_ns", int)
        self.service.dispatcher.submit(request)
        return self._answer(request, options, max_age, decode_ms)

    def failure(self, message: Any, text: str) -> str:
        # a text frame is an error to openpi's client; the connection stays open
        return text

    def _inputs(self, message: Mapping[str, Any], options: Mapping[str, Any]) -> RobotInputs:
        """What the robots see, and what they still execute."""
        inputs = self.service.reader.read(message)
        queued = self.service.continuation.read(options, inputs)
        return dataclasses.replace(inputs, queued=queued)

    def _session(self, name: str) -> Any:
        if len(name) > MAX_NAME or (
            name not in self.sessions and len(self.sessions) >= MAX_SESSIONS
        ):
            raise UserError(
                f"vla/session: at most {MAX_SESSIONS} names of {MAX_NAME} characters in one "
                "connection; open another one"
            )
        return self.session(name)

    async def _answer(
        self, request: Request, options: dict[str, Any], max_age: float | None, decode_ms: float
    ) -> bytes:
        answer = await asyncio.wrap_future(request.future)
        total_ms = 1000 * (time.perf_counter() - request.received)
        if max_age is not None and total_ms > max_age:
            raise UserError(
                f"the answer is {total_ms:.0f} ms old, vla/max_age_ms allows {max_age:g}; hold the "
                "robot and send what it sees now"
            )
        self.service.note_sent(request, answer)
        timing = {
            "infer_ms": answer.infer_ms,
            "queue_ms": answer.queue_ms,
            "decode_ms": decode_ms,
            "batch": answer.batch,
            # a client that notes its own two times finds how its clock differs from ours
            "received_unix_s": time.time() - total_ms / 1000,
            "sent_unix_s": time.time(),
        }
        if self._last_total_ms is not None:
            timing["prev_total_ms"] = self._last_total_ms
        self._last_total_ms = total_ms
        for key in ("vla/step", "vla/sent_ns"):
            if key in options:
                timing[key] = options[key]
        return pack(
            {
                "actions": _stacked(answer),
                "server_timing": timing,
                "policy_timing": {"infer_ms": answer.policy_ms},
            }
        )


def _stacked(answer: Answer) -> np.ndarray:
    """float32 (K, A); (B, K, A) if the client sent the axis of robots."""
    # openpi's clients index the first axis by the step
    return np.stack(answer.actions) if answer.inputs.batched else answer.actions[0]


def _check_names(options: Mapping[str, Any]) -> None:
    for key in options:
        if key not in KEYS:
            raise UserError(
                f"{key}: this server has no such option{did_you_mean(key, KEYS)}; its metadata "
                "name its `features`"
            )


def _option(options: Mapping[str, Any], key: str, kind: type) -> Any:
    """The value of an optional key; None without it. Raises UserError if it is of another kind."""
    value = options.get(key)
    if isinstance(value, np.generic):
        value = value.item()
    if kind is float and type(value) is int:
        value = float(value)
    # NaN is no limit: no age is greater than it
    if type(value) is float and not math.isfinite(value):
        raise UserError(f"{key}: is {value}, expected a finite number; leave it out for no limit")
    # truth values are integers to Python
    if value is None or type(value) is kind:
        return value
    raise UserError(f"{key}: is {type(value).__name__}, expected {kind.__name__}")


def _reset(value: Any) -> bool | list[bool]:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and all(isinstance(item, bool) for item in value):
        return value
    raise UserError(
        f"vla/reset: is {type(value).__name__}, expected true or false, or one for each robot"
    )

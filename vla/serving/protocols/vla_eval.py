"""The protocol of the vla-eval harness (0.8.0, protocol version 1).

The harness measures policies in LIBERO, SimplerEnv, CALVIN and others.

Every message is a map {`type`, `payload`, `seq`, `timestamp`}. One action is given for each
observation; what is left of a chunk waits here.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import time
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any

import numpy as np

from vla.common.errors import UserError
from vla.common.registry import register
from vla.serving.conversation import Conversation
from vla.serving.dispatch import Request
from vla.serving.service import Service
from vla_client.vla_eval_codec import pack, unpack

VERSION = 1
TYPES = ("hello", "episode_start", "episode_end", "observation")
_FIELDS = {"type": str, "payload": Mapping, "seq": int}


@register("protocols", "vla_eval")
class VlaEvalConversation(Conversation):
    """The vla-eval harness: LIBERO, SimplerEnv, CALVIN and others measure the policy."""

    slow_reading = True  # pictures come as PNG

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._starts = True
        self._episode = 0
        self._left: deque[np.ndarray] = deque()
        self._episodes: list[int] = []

    def read(self, data: bytes) -> Any:
        return unpack(data, self.service.limits)

    def begin(self, message: Any, received: float) -> Awaitable[bytes] | None:
        kind, payload, seq = _checked(message)
        if kind == "hello":
            return _now(self._hello(payload, seq))
        if kind in ("episode_start", "episode_end"):
            # this harness says where episodes begin, and expects no answer
            self._starts = True
            self._episode += 1
            self._left.clear()
            self.service.dispatcher.drop(self.session())
            self.service.end_episodes(self.session())
            return None
        if self._left:
            self.service.note_played(
                self.session(),
                self._episodes,
                functools.partial(self.service.reader.read, _inputs(payload)),
                np.stack(self._left),
                received,
                _size(payload),
            )
            return _now(_packed("action", {"actions": self._left.popleft()}, seq))
        request = Request(
            session=self.session(),
            policy=self.service.actions,
            read=functools.partial(self.service.reader.read, _inputs(payload)),
            reset=self._starts,
            received=received,
        )
        self.service.dispatcher.submit(request)
        self._starts = False
        return self._answer(request, self._episode, seq)

    def failure(self, message: Any, text: str) -> bytes:
        seq = message.get("seq") if isinstance(message, Mapping) else None
        return _packed("error", {"error": text}, seq if type(seq) is int else 0)

    def _hello(self, payload: Mapping[str, Any], seq: int) -> bytes:
        found = payload.get("protocol_version", VERSION)
        if found != VERSION:
            raise UserError(
                f"protocol_version: is {found!r}, this server speaks {VERSION}; install vla-eval "
                "0.8.0"
            )
        spec = self.service.spec
        return _packed(
            "hello",
            {
                "harness_version": payload.get("harness_version", ""),
                "protocol_version": VERSION,
                "model_server": f"vla {importlib.metadata.version('vla')}",
                "capabilities": {},
                "observation_params": {
                    "send_wrist_image": any("wrist" in camera for camera in spec.cameras),
                    "send_state": bool(spec.state_dim),
                },
            },
            seq,
        )

    async def _answer(self, request: Request, episode: int, seq: int) -> bytes:
        try:
            answer = await asyncio.wrap_future(request.future)
        except UserError:
            # the episode has not begun yet
            self._starts = self._starts or request.reset is True
            raise
        # (n, A) of the one robot of a connection
        first, *rest = answer.actions[0]
        # a harness that does not wait may be in the next episode by now
        if episode == self._episode:
            self._left.extend(rest)
            self._episodes = answer.episodes
            self.service.note_sent(request, answer)
        return _packed("action", {"actions": first}, seq)


def _checked(message: Any) -> tuple[str, Mapping[str, Any], int]:
    """Type, payload and number of a message. Raises UserError if it is none of the protocol."""
    if not isinstance(message, Mapping):
        raise UserError(f"the message is {type(message).__name__}, expected a map")
    for field, kind in _FIELDS.items():
        value = message.get(field)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = type(value).__name__
            raise UserError(f"{field}: is {found}, expected {kind.__name__}")
    if message["type"] not in TYPES:
        raise UserError(f"type: is {message['type']!r:.60}, expected one of {', '.join(TYPES)}")
    return message["type"], message["payload"], message["seq"]


def _inputs(payload: Mapping[str, Any]) -> dict[str, Any]:
    """An observation of the harness under our keys; other keys stay, for `keys` to name."""
    inputs = dict(payload)
    # LIBERO's harness says `states`
    for theirs, ours in (("task_description", "prompt"), ("states", "state")):
        if theirs in inputs and ours not in inputs:
            inputs[ours] = inputs.pop(theirs)
    return inputs


def _size(value: Any) -> int:
    """Bytes of the arrays in a payload."""
    if isinstance(value, Mapping):
        return sum(_size(part) for part in value.values())
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _packed(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    message = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return pack(message, "raw")


async def _now(answer: bytes) -> bytes:
    return answer

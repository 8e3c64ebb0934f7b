"""GR00T's ZeroMQ protocol: its own clients ask for chunks of our policies.

A client sends {`endpoint`, `data`, `api_token`} and waits for the answer. N1.6 and N1.7 send groups
with the axes of robots and steps, N1.5 flat keys without the axis of robots. There is no `kill`.

Source: Isaac-GR00T, gr00t/policy/server_client.py (N1.6, N1.7) and gr00t/eval/service.py (N1.5).

B robots, T steps (1), K actions per chunk, A action dimensions.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq
import zmq.asyncio

from vla.common.errors import UserError
from vla.common.names import did_you_mean
from vla.serving.auth import ApiKeys, is_loopback
from vla.serving.connection import error_line
from vla.serving.dispatch import Request
from vla.serving.groot_codec import pack, unpack
from vla.serving.service import Service
from vla.serving.session import Session

ENDPOINTS = ("get_action", "get_modality_config", "ping", "reset")
LANGUAGE = "annotation.human.task_description"
ACTION = "action"
"""The group of an answer, unless `groot_actions` names others."""
STOP_MS = 1000
"""How long answers that are on their way may take when the server ends."""


@dataclass
class _Client:
    """One client, known by the identity that ZeroMQ gave its connection."""

    session: Session
    asked: float = field(default_factory=time.monotonic)
    starts: bool = True
    is_waiting: bool = False


class GrootServer:
    """GR00T's clients at a ZeroMQ socket, beside the others of a server.

    Args:
        service: the policy.
        keys: any of them is accepted as `api_token`.

    Attributes:
        url: where it listens, once started.

    Raises UserError if `groot_actions` do not name the policy's actions, or what is encrypted
    elsewhere would travel in the clear.
    """

    def __init__(self, service: Service, keys: ApiKeys) -> None:
        config = service.config
        if config.tls_cert is not None and not is_loopback(config.host):
            raise UserError(
                "groot_port: this protocol is not encrypted, and tls_cert is set; drop one of the "
                "two, or keep host=127.0.0.1"
            )
        self.service = service
        self.url = ""
        self._keys = keys
        self._groups = _groups(config.groot_actions, service.spec.action_names)
        self._clients: dict[bytes, _Client] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._context: zmq.asyncio.Context | None = None
        self._receiving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listens, on the running event loop. Raises UserError if the address is taken."""
        config = self.service.config
        host = "127.0.0.1" if config.host == "localhost" else config.host
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        # one frame; who sends more is cut off before it is in memory
        self._socket.setsockopt(zmq.MAXMSGSIZE, self.service.max_message_bytes)
        self._socket.setsockopt(zmq.RCVHWM, 2)
        self._socket.setsockopt(zmq.IPV6, ":" in host)
        address = f"tcp://[{host}]" if ":" in host else f"tcp://{host}"
        try:
            if config.groot_port == 0:
                self.url = f"{address}:{self._socket.bind_to_random_port(address)}"
            else:
                self.url = f"{address}:{config.groot_port}"
                self._socket.bind(self.url)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise UserError(
                f"groot_port: cannot listen at {address}:{config.groot_port}: "
                f"{(error.strerror or str(error)).lower()}; choose another groot_port, or 0 for a "
                "free one"
            ) from error
        self._receiving = asyncio.create_task(self._receive())

    def hold(self) -> None:
        """Takes no further messages."""
        if self._receiving is not None:
            self._receiving.cancel()

    async def stop(self) -> None:
        """Sends what is answered, and ends. The dispatcher has to have ended before."""
        if self._receiving is not None and self._context is not None:
            await asyncio.gather(*self._tasks, self._receiving, return_exceptions=True)
            self._context.destroy(linger=STOP_MS)

    # --- what comes in -------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            if len(frames) != 3 or frames[1]:
                # no REQ socket: there is no form of an answer
                self.service.metrics.add("vla_refused_total", reason="frames")
                continue
            identity, _, body = frames
            task = asyncio.create_task(self._converse(identity, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, identity: bytes, body: bytes) -> None:
        self.service.metrics.add("vla_requests_total", protocol="groot")
        try:
            answer = await self._answer(identity, body, time.perf_counter())
        except Exception as error:
            answer = {"error": error_line(error, self.service.metrics)}
        await self._socket.send_multipart([identity, b"", pack(answer)])

    async def _answer(self, identity: bytes, body: bytes, received: float) -> Any:
        message = unpack(body, self.service.limits)
        if not isinstance(message, Mapping):
            raise UserError(f"the message is {type(message).__name__}, expected a map")
        token = message.get("api_token")
        if self._keys and self._keys.owner(f"Api-Key {token}") is None:
            self.service.metrics.add("vla_refused_total", reason="key")
            raise UserError("api_token: is missing or wrong; give the client its key")
        endpoint = message.get("endpoint", "get_action")
        if endpoint not in ENDPOINTS:
            raise UserError(
                f"endpoint: {endpoint!r:.60} is not served; there are: {', '.join(ENDPOINTS)}"
            )
        if endpoint == "ping":
            return {"status": "ok", "message": "Server is running"}
        if endpoint == "get_modality_config":
            return self._modalities()
        client = self._client(identity)
        if endpoint == "reset":
            client.starts = True
            self._forget(client)
            return {}
        data = message.get("data")
        if not isinstance(data, Mapping):
            raise UserError(f"data: is {type(data).__name__}, expected a map with an observation")
        return await self._act(client, data, received)

    def _client(self, identity: bytes) -> _Client:
        """What is known of a client. ZeroMQ does not say when one is gone, so that who was silent
        for long makes room."""
        now = time.monotonic()
        config = self.service.config
        for other, client in list(self._clients.items()):
            if not client.is_waiting and now - client.asked > config.idle_timeout_s:
                self._forget(self._clients.pop(other))
        if identity not in self._clients:
            if len(self._clients) >= config.max_clients:
                raise UserError(f"all {config.max_clients} places are taken (max_clients)")
            self._clients[identity] = _Client(self.service.new_session())
        client = self._clients[identity]
        client.asked = now
        return client

    def _forget(self, client: _Client) -> None:
        self.service.dispatcher.drop(client.session)
        self.service.end_episodes(client.session)

    # --- actions -------------------------------------------------------------------------------

    async def _act(self, client: _Client, data: Mapping[str, Any], received: float) -> Any:
        if client.is_waiting:
            raise UserError("an observation came before the last one was answered; wait for it")
        # N1.5 sends the observation itself
        is_flat = "observation" not in data
        sent = data if is_flat else _flat(data["observation"])
        inputs = self._inputs(sent)
        request = Request(
            session=client.session,
            policy=self.service.chunks,
            read=functools.partial(self.service.reader.read, inputs),
            reset=client.starts,
            received=received,
        )
        client.is_waiting = True
        try:
            self.service.dispatcher.submit(request)
            answer = await asyncio.wrap_future(request.future)
        finally:
            client.is_waiting = False
        client.starts = False
        self.service.note_sent(request, answer)
        actions = np.stack(answer.actions) if answer.inputs.batched else answer.actions[0]
        found = {group: actions[..., places] for group, places in self._groups.items()}
        if is_flat:
            return {f"{ACTION}.{group}": values for group, values in found.items()}
        return [found, {}]

    def _inputs(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The observation under our keys, without the axis of steps."""
        named = self.service.config.keys
        of_kind: dict[str, list[str]] = {"video": [], "state": [], "instruction": []}
        inputs: dict[str, Any] = {}
        for key, value in sent.items():
            kind, _, camera = key.partition(".")
            kind = kind if kind in of_kind else "instruction"
            if kind not in named.values() and key not in named:
                of_kind[kind].append(key)
            ours = {"video": f"images/{camera}", "state": "state", "instruction": "prompt"}[kind]
            plain = _texts(value) if kind == "instruction" else _present(key, value)
            inputs[key if key in named else ours] = plain
        for role in ("state", "instruction"):
            is_read = role == "instruction" or self.service.spec.state_dim
            if len(of_kind[role]) > 1 and is_read:
                keys = ", ".join(f"{key}: {role}" for key in of_kind[role])
                raise UserError(
                    f"{of_kind[role][1]}: one of {len(of_kind[role])} keys of the {role}; start "
                    f"the server with keys={{{keys}}}, or with those of them that the policy knows"
                )
        return inputs

    def _modalities(self) -> dict[str, Any]:
        """What N1.6's and N1.7's clients ask the policy's inputs and outputs by."""
        spec = self.service.spec
        steps = {
            "video": ([0], list(spec.cameras)),
            "state": ([0], ["state"]),
            "action": (list(range(self.service.action_horizon)), list(self._groups)),
            "language": ([0], [LANGUAGE]),
        }
        return {
            name: {
                "__ModalityConfig_class__": True,
                "as_json": {"delta_indices": indices, "modality_keys": keys},
            }
            for name, (indices, keys) in steps.items()
        }


def _flat(observation: Any) -> dict[str, Any]:
    """N1.6's groups as N1.5's keys."""
    if not isinstance(observation, Mapping):
        raise UserError(f"observation: is {type(observation).__name__}, expected a map of groups")
    found: dict[str, Any] = {}
    for kind, group in observation.items():
        if not isinstance(group, Mapping):
            raise UserError(f"{kind}: is {type(group).__name__}, expected a map")
        # language keys have a dot already
        prefix = f"{kind}." if kind in ("video", "state") else ""
        found |= {f"{prefix}{name}": value for name, value in group.items()}
    return found


def _present(key: str, value: Any) -> Any:
    """An array without the axis T, which must be 1."""
    if not isinstance(value, np.ndarray):
        raise UserError(f"{key}: is {type(value).__name__}, expected an array")
    full = 5 if key.startswith("video.") else 3
    axis = value.ndim - full + 1
    if axis not in (0, 1):
        raise UserError(
            f"{key}: has shape {value.shape}, expected {full} axes, robots and steps first, or "
            f"{full - 1} without robots"
        )
    if value.shape[axis] != 1:
        raise UserError(
            f"{key}: has {value.shape[axis]} steps; send the present one alone, the server "
            "remembers those before"
        )
    return np.take(value, 0, axis)


def _texts(value: Any) -> Any:
    """N1.6's [[text]], B x 1, and N1.5's [text]: a list of B texts, or one text."""
    if isinstance(value, list) and value and all(isinstance(item, list) for item in value):
        return [item[0] if len(item) == 1 else item for item in value]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _groups(groups: Mapping[str, list[str]], names: tuple[str, ...]) -> dict[str, list[int]]:
    """Group of an answer -> places of its actions. Raises UserError if a name is wrong."""
    if not groups:
        return {ACTION: list(range(len(names)))}
    for group, members in groups.items():
        for name in members:
            if name not in names:
                raise UserError(
                    f"groot_actions: {group} has {name!r}{did_you_mean(name, names)}; the policy's "
                    f"actions are {', '.join(names)}"
                )
    named = [name for members in groups.values() for name in members]
    for name in names:
        if named.count(name) != 1:
            where = "in no group" if name not in named else f"named {named.count(name)} times"
            raise UserError(f"groot_actions: {name!r} is {where}; name every action once")
    return {group: [names.index(name) for name in members] for group, members in groups.items()}


__all__ = ["GrootServer"]

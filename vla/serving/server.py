"""The policy server: sockets, who may connect, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import torch
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as serve_sockets
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from vla.common.cores import usable_cores
from vla.common.errors import UserError
from vla.common.registry import lookup, names
from vla.export.runtime import is_exported, load
from vla.models import load_policy
from vla.models.checkpoint_files import checked_device
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.serving.auth import check_exposure, is_loopback, load_keys, tls_context
from vla.serving.config import ServeConfig
from vla.serving.connection import Connection
from vla.serving.service import Service
from vla.types import Actor

if TYPE_CHECKING:
    from vla.serving.groot import GrootServer

log = logging.getLogger("vla.serving")
GOING_AWAY = 1001
OPEN_TIMEOUT = 10.0
"""Seconds for TLS and the handshake."""
PING = 20.0
"""Seconds between two pings, and until the answer to one."""
QUEUE = 2
"""Messages of a client that are read ahead of the one that is worked on."""


class PolicyServer:
    """Serves one policy to many robots.

    Args:
        actor: the policy, on the device where it is to compute.
        config: how it is served.

    Attributes:
        url: where it listens, once `run` or `started` has begun.
        groot: what answers GR00T's clients; None if nothing does.

    Raises UserError if the policy cannot be served so, or the address needs a key.
    """

    def __init__(self, actor: Actor, config: ServeConfig) -> None:
        self.config = config
        self.keys = load_keys(config.api_keys_file)
        check_exposure(config.host, self.keys, insecure=config.insecure)
        self._tls = tls_context(config.tls_cert, config.tls_key)
        self._protocols = {name: lookup("protocols", name) for name in names("protocols")}
        self.service = Service(actor, config)
        self.url = ""
        self.groot = self._groot_server()
        self._connections: set[Connection] = set()

    @contextlib.asynccontextmanager
    async def started(self) -> AsyncIterator[PolicyServer]:
        """Listens within; on the way out all that is under way is answered first.

        Raises UserError if the address is taken or not of this machine, or the dataset to record
        into is another one; OSError if the disk fails.
        """
        self.service.start()
        try:
            server = await self._listen()
        except OSError as error:
            self.service.dispatcher.stop()
            self.service.stop_recording()
            where = f"{self.config.host}:{self.config.port}"
            raise UserError(
                f"cannot listen at {where}: {(error.strerror or str(error)).lower()}; choose "
                "another port=, or port=0 for a free one"
            ) from error
        port = server.sockets[0].getsockname()[1]
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self.url = f"{'wss' if self._tls else 'ws'}://{host}:{port}"
        try:
            if self.groot is not None:
                self.groot.start()
            yield self
        finally:
            await self._end(server)

    async def run(self, announce: Callable[[str], None]) -> None:
        """Serves until SIGTERM or SIGINT.

        Args:
            announce: called with a line that says where, once clients can connect.
        """
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        async with self.started():
            paths = ", ".join(f"{name} at /{name}" for name in self._protocols)
            announce(f"serving at {self.url} ({self.config.protocol} at /, {paths})")
            if self.groot is not None:
                announce(f"serving GR00T's clients at {self.groot.url}")
            await stopped.wait()

    def _groot_server(self) -> GrootServer | None:
        if self.config.groot_port is None:
            return None
        # here, not above: ZeroMQ is an extra of its own
        from vla.serving.groot import GrootServer

        return GrootServer(self.service, self.keys)

    async def _listen(self) -> Server:
        return await serve_sockets(
            self._talk,
            self.config.host,
            self.config.port,
            ssl=self._tls,
            # pixels hardly shrink, and a small message may unfold into a huge one
            compression=None,
            process_request=self._admit,
            server_header=None,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=PING,
            ping_timeout=PING,
            max_size=self.service.max_message_bytes,
            max_queue=QUEUE,
            logger=logging.getLogger("vla.serving.sockets"),
        )

    async def _end(self, server: Server) -> None:
        """No new clients, answers for those that wait, then goodbye."""
        # not the close of websockets, which can be called once and would hang up at once
        server.server.close()
        if self.groot is not None:
            self.groot.hold()
        # in a thread: the loop has to send the answers meanwhile
        await asyncio.to_thread(self.service.dispatcher.stop)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_TIMEOUT):
                await asyncio.gather(*(c.finish() for c in self._connections))
        server.close(code=GOING_AWAY, reason="the server is stopping")
        await server.wait_closed()
        if self.groot is not None:
            await self.groot.stop()
        await asyncio.to_thread(self.service.stop_recording)

    # --- before the upgrade --------------------------------------------------------------------

    def _admit(self, socket: ServerConnection, request: HttpRequest) -> Response | None:
        """Plain HTTP answers, and refusals; None lets the client in."""
        path = request.path.partition("?")[0]
        upgrade = request.headers.get("Upgrade", "")
        if upgrade.lower() != "websocket":
            return self._http(socket, path, request)
        origin = _header(request, "Origin")
        # browsers send it: a page of anybody's could speak with a server of this machine
        if origin is not None and origin not in self.config.origins:
            return self._refuse(socket, http.HTTPStatus.FORBIDDEN, "origin", "origin not listed")
        if not self._has_key(request):
            return self._refuse(socket, http.HTTPStatus.UNAUTHORIZED, "key", "API key needed")
        if path != "/" and path[1:] not in self._protocols:
            known = ", ".join(f"/{name}" for name in self._protocols)
            text = f"no protocol at this path; there are: /, {known}"
            return self._refuse(socket, http.HTTPStatus.NOT_FOUND, "path", text)
        if len(self._connections) >= self.config.max_clients:
            text = f"all {self.config.max_clients} places are taken (max_clients)"
            return self._refuse(socket, http.HTTPStatus.SERVICE_UNAVAILABLE, "full", text)
        return None

    def _http(self, socket: ServerConnection, path: str, request: HttpRequest) -> Response:
        service = self.service
        healthy = service.dispatcher.is_healthy()
        status = http.HTTPStatus.OK if healthy else http.HTTPStatus.SERVICE_UNAVAILABLE
        if path == "/healthz":
            return socket.respond(status, "OK\n" if healthy else "no batch was finished lately\n")
        if path == "/health":  # vla-eval's
            return socket.respond(status, json.dumps({"status": "ok" if healthy else "stuck"}))
        if not is_loopback(self.config.host) and not self._has_key(request):
            return self._refuse(socket, http.HTTPStatus.UNAUTHORIZED, "key", "API key needed")
        if path == "/metrics":
            return socket.respond(http.HTTPStatus.OK, service.metrics.text())
        if path == "/config":  # vla-eval's; theirs can be changed by anybody
            values = {"max_batch_size": self.config.max_batch}
            return socket.respond(http.HTTPStatus.OK, json.dumps(values))
        text = "a policy server: connect by WebSocket; /healthz, /metrics by HTTP\n"
        return socket.respond(http.HTTPStatus.NOT_FOUND, text)

    def _has_key(self, request: HttpRequest) -> bool:
        if not self.keys:
            return True
        return self.keys.owner(_header(request, "Authorization")) is not None

    def _refuse(
        self, socket: ServerConnection, status: http.HTTPStatus, reason: str, text: str
    ) -> Response:
        self.service.metrics.add("vla_refused_total", reason=reason)
        log.info("refused %s: %s", socket.remote_address, text)
        return socket.respond(status, text + "\n")

    # --- after it ------------------------------------------------------------------------------

    async def _talk(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        path = socket.request.path.partition("?")[0]
        name = path[1:] or self.config.protocol
        if len(self._connections) >= self.config.max_clients:
            # several were let in at the same moment
            await socket.close(1013, "all places are taken (max_clients)")
            return
        connection = Connection(socket, self._protocols[name](self.service), name)
        self._connections.add(connection)
        self.service.metrics.add("vla_connections")
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.service.metrics.add("vla_connections", -1)


def _header(request: HttpRequest, name: str) -> str | None:
    """The value of a header; a repeated one counts as wrong, not as absent."""
    found = request.headers.get_all(name)
    return found[0] if len(found) == 1 else (None if not found else "")


def serve(config: ServeConfig, announce: Callable[[str], None] = print) -> None:
    """Serves `config.policy` until SIGTERM or SIGINT.

    Args:
        config: how.
        announce: called with a line that says where.

    Raises what `load_actor` raises, and UserError if the policy cannot be served so.
    """
    # before the weights, which may take a minute
    check_exposure(config.host, load_keys(config.api_keys_file), insecure=config.insecure)
    asyncio.run(PolicyServer(load_actor(config), config).run(announce))


def load_actor(config: ServeConfig) -> Actor:
    """The policy that a config names, a checkpoint's or an exported one.

    Raises CheckpointError, PackageError of an exported policy, or UserError if it cannot be served
    so.
    """
    if is_exported(config.policy):
        if config.device not in ("auto", "cpu"):
            raise UserError(
                f"device={config.device}: an exported policy computes on the CPU; leave device out"
            )
        return load(config.policy, threads=config.threads or max(1, usable_cores() // 2))
    policy = load_policy(config.policy, device=checked_device(_device(config.device)))
    if isinstance(policy, MultiRobotPolicy):
        raise policy.one_of_several("be served")
    return policy


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

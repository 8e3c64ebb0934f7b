"""A connection to a policy server that speaks openpi's WebSocket protocol.

The server speaks first (a map that describes it); then requests and answers alternate. A text
message is an error of the server. Source: openpi, websocket_client_policy.py; keys that begin with
`vla/` are additions which other servers ignore, and are sent only to servers that name them.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any, Callable, Mapping
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect

from vla_client.codec import Limits, pack, unpack
from vla_client.errors import ClientError, ConnectionLostError, ServerError, WireError, line, shown

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
OURS = "openpi-websocket"
"""What a server of `vla` writes as `protocol` into its metadata."""


class Client:
    """Asks a policy server for actions, and connects again after a loss.

    A request that was under way when the connection broke is not repeated: by the time there is a
    new one, its observation is old. It raises `ConnectionLostError`, and the next request connects.

    Args:
        url: `ws://HOST:PORT` or `wss://HOST:PORT`.
        api_key: sent as `Authorization: Api-Key ...`; by default the variable `VLA_API_KEY`.
        ca_file: certificate by which a `wss://` server is known, if the system does not know it.
        timeout_s: longest wait for an answer. A later one is discarded with its connection.
        patience_s: how long one request goes on trying to connect; 0 tries once.
        limits: what an answer may hold.
        on_disconnect: called at once when a connection is lost, such as `governor.hold`.

    Raises `ClientError` if the URL, key or certificate is wrong, and `ConnectionLostError` if there
    is no server within `patience_s`.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 10.0,
        patience_s: float = 10.0,
        limits: Limits | None = None,
        on_disconnect: Callable[[], object] | None = None,
    ) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.patience_s = patience_s
        self.limits = limits or Limits()
        self.on_disconnect = on_disconnect
        self._key = os.environ.get("VLA_API_KEY") if api_key is None else api_key
        self._tls = _tls_context(url, ca_file)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._connection: ClientConnection | None = None
        self._reset_next = False
        self.metadata: dict[str, Any] = {}
        """What the server says of itself: of `vla` its spec, `action_horizon`, `features` ..."""
        with self._lock:
            self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def features(self) -> frozenset[str]:
        """Names of the additions that the server understands: `reset`, `prefix`, `batch`."""
        named = self.metadata.get("features", [])
        return frozenset(str(name) for name in named) if isinstance(named, list) else frozenset()

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as is known; asks nobody, and never waits."""
        connection = self._connection
        return connection is not None and connection.protocol.state is State.OPEN

    def reset(self) -> None:
        """The next observation is the first of an episode.

        A server that cannot be asked for it gets a new connection, which starts one everywhere.
        """
        with self._lock:
            self._reset_next = True
            if "reset" not in self.features:
                self._disconnect()

    def infer(
        self,
        observation: Mapping[str, Any],
        *,
        step: int | None = None,
        prefix: np.ndarray | None = None,
        delay: int | None = None,
        max_age_ms: float | None = None,
    ) -> dict[str, Any]:
        """Sends an observation and returns the result, whose `actions` are float (K, A).

        Args:
            observation: images, state and prompt under the server's names.
            step: number of the control step of this observation.
            prefix: float (n, A), actions that are still queued; the first is executed now.
            delay: how many of them will surely be executed before the answer is there.
            max_age_ms: an answer that takes longer than this is an error.

        Raises:
            WireError: the observation or the answer is of no kind that travels.
            ServerError: the server refuses the request. The connection can be used again.
            ConnectionLostError: there is no connection, or no answer within `timeout_s`.
            ClientError: the server does not know `prefix` or `delay`.
        """
        with self._lock:
            self._ensure_open()
            asked = self._with_additions(dict(observation), step, prefix, delay, max_age_ms)
            message = pack(asked)
            result = self._result(self._exchange(message))
            self._reset_next = False
            return result

    def ping(self) -> float:
        """Seconds that a ping of the WebSocket takes; the policy is not asked."""
        with self._lock:
            self._ensure_open()
            assert self._connection is not None
            start = time.perf_counter()
            try:
                answered = self._connection.ping().wait(self.timeout_s)
            except (ConnectionClosed, OSError) as error:
                raise self._lost(_said(error)) from error
            if not answered:
                raise self._lost(f"no answer to a ping within {self.timeout_s:g} s")
            return time.perf_counter() - start

    def close(self) -> None:
        """Ends the connection. A later request opens a new one."""
        with self._lock:
            self._disconnect()

    # --- one request -----------------------------------------------------------------------------

    def _with_additions(
        self,
        observation: dict[str, Any],
        step: int | None,
        prefix: np.ndarray | None,
        delay: int | None,
        max_age_ms: float | None,
    ) -> dict[str, Any]:
        if (prefix is not None or delay is not None) and "prefix" not in self.features:
            raise ClientError(
                f"{self.url} does not continue chunks: leave out prefix and delay, or ask whether "
                "`'prefix' in client.features`"
            )
        if self._reset_next and "reset" in self.features:
            observation["vla/reset"] = True
        if self.metadata.get("protocol") == OURS:
            observation["vla/sent_ns"] = time.monotonic_ns()
            named = {"vla/step": step, "vla/max_age_ms": max_age_ms, "vla/delay": delay}
            observation.update({key: value for key, value in named.items() if value is not None})
        if prefix is not None:
            observation["vla/prefix"] = np.asarray(prefix, np.float32)
        return observation

    def _exchange(self, message: bytes) -> bytes:
        assert self._connection is not None
        try:
            self._connection.send(message)
            answer = self._connection.recv(self.timeout_s)
        except TimeoutError as error:
            # it may still come, and would then be taken for the answer to the next request
            raise self._lost(f"no answer within {self.timeout_s:g} s") from error
        except (ConnectionClosed, OSError) as error:
            raise self._lost(_said(error)) from error
        except BaseException:
            # an interrupt: what comes later would be taken for the next answer as well
            self._disconnect()
            raise
        if isinstance(answer, str):
            raise ServerError(f"{self.url} answers: {line(answer, 2000)}")
        return answer

    def _result(self, answer: bytes) -> dict[str, Any]:
        try:
            result = unpack(answer, self.limits)
        except WireError as error:
            raise WireError(f"{self.url} answers with something else: {error}") from error
        if not isinstance(result, dict):
            raise WireError(f"{self.url} answers with {type(result).__name__}, expected a map")
        return result

    # --- the connection --------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        if self._connection is not None and not self.connected:
            self._lost("closed by the server")  # while nothing was under way: no request is lost
        if self._connection is None:
            self._connect()

    def _connect(self) -> None:
        """Tries until there is a connection, waiting 0.1 s at first and 2 s at last."""
        deadline = time.monotonic() + self.patience_s
        wait = FIRST_WAIT_S
        while True:
            try:
                return self._open()
            except (WebSocketException, OSError) as error:
                fatal = self._fatal(error)
                if fatal is not None:
                    raise fatal from error
                if time.monotonic() + wait > deadline:
                    raise ConnectionLostError(
                        f"no policy server at {self.url}: {_said(error)}; start one there with "
                        "`vla serve POLICY`"
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _open(self) -> None:
        self._stack = ExitStack()
        headers = {"Authorization": f"Api-Key {self._key}"} if self._key else None
        connection = self._stack.enter_context(
            connect(
                self.url,
                ssl=self._tls,
                additional_headers=headers,
                compression=None,
                max_size=self.limits.max_bytes,
                open_timeout=self.timeout_s,
                close_timeout=1.0,
            )
        )
        try:
            first = connection.recv(self.timeout_s)
            if isinstance(first, str):
                raise ServerError(f"{self.url} answers: {line(first, 2000)}")
            self.metadata = self._result(first)
        except BaseException:
            self._disconnect()
            raise
        self._connection = connection

    def _fatal(self, error: Exception) -> ClientError | None:
        """The error to raise at once if trying again cannot help."""
        if isinstance(error, InvalidURI):
            return _wrong_url(self.url)
        if isinstance(error, ssl.SSLCertVerificationError):
            return ClientError(
                f"the certificate of {self.url} is not trusted ({error.verify_message}): give the "
                "server's certificate as ca_file=PATH"
            )
        if isinstance(error, ssl.SSLError):
            return ClientError(f"{self.url} speaks no TLS: write ws:// instead of wss://")
        if not isinstance(error, InvalidStatus):
            return None
        status = error.response.status_code
        if status in (401, 403):
            return ServerError(
                f"{self.url} refuses this client (HTTP {status}): give its key as api_key=KEY or "
                "in the variable VLA_API_KEY"
            )
        # 502 to 504: the server is full, or a proxy waits for it
        return None if status >= 500 else ServerError(f"{self.url} answers HTTP {status}")

    def _lost(self, why: str) -> ConnectionLostError:
        """Gives the connection up; the caller raises what this returns."""
        self._disconnect()
        if self.on_disconnect is not None:
            self.on_disconnect()
        return ConnectionLostError(f"the connection to {self.url} is lost: {why}")

    def _disconnect(self) -> None:
        self._connection = None
        with suppress(WebSocketException, OSError):  # it may be broken already
            self._stack.close()


def _said(error: BaseException) -> str:
    """One line of an error of the network."""
    return line(str(error) or type(error).__name__)


def is_address(url: object) -> bool:
    """Whether it is `ws://HOST:PORT` or `wss://HOST:PORT`."""
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        # reading the port checks its range
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _wrong_url(url: str) -> ClientError:
    return ClientError(f"{shown(url)} is no address of a server: expected ws://HOST:PORT")


def _tls_context(url: str, ca_file: str | None) -> ssl.SSLContext | None:
    """How a `wss://` server is known; None for `ws://`. Raises `ClientError` for others."""
    if not is_address(url):
        raise _wrong_url(url)
    if url.startswith("ws://"):
        if ca_file is not None:
            raise ClientError(f"ca_file is given, and {url} is not encrypted: write wss://")
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ClientError(f"ca_file={shown(ca_file)} cannot be read: {_said(error)}") from error

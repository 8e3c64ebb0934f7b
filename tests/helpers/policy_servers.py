"""Policy servers of a few lines for tests of the client, on loopback, in threads."""

from __future__ import annotations

import contextlib
import threading
from typing import Any, Callable, Iterator

from websockets.sync.server import ServerConnection, serve

from vla_client.codec import pack, unpack

Answer = Callable[[dict], Any]


def openpi_handler(answer: Answer, metadata: dict) -> Callable[[ServerConnection], None]:
    """One connection as openpi's server has it: metadata, then answers; text is an error.

    Source: openpi, src/openpi/serving/websocket_policy_server.py.
    """

    def handle(connection: ServerConnection) -> None:
        connection.send(pack(metadata))
        for message in connection:
            try:
                result = answer(unpack(message))
            except Exception as error:  # openpi sends the traceback as text, and closes
                connection.send(f"{type(error).__name__}: {error}")
                if "stay" not in str(error):
                    connection.close(1011, "Internal server error.")
                continue
            connection.send(result if isinstance(result, (bytes, str)) else pack(result))

    return handle


@contextlib.contextmanager
def running(
    handler: Callable[[ServerConnection], None], port: int = 0, **options: Any
) -> Iterator[int]:
    """Runs a server in a thread; yields its port."""
    connections = []

    def handle(connection: ServerConnection) -> None:
        connections.append(connection)
        handler(connection)

    server = serve(handle, "127.0.0.1", port, compression=None, max_size=None, **options)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        thread.join(5)
        for connection in connections:  # older versions of websockets leave them open
            connection.close()

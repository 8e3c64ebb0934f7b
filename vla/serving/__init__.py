"""A policy behind a socket: sessions with exact memories, batches over clients, protocols.

`vla serve` and `vla ping` call this room. Sockets live on an event loop that never computes; one
thread does (`dispatch`).
"""

from vla.serving.config import ServeConfig
from vla.serving.running import running_server
from vla.serving.server import PolicyServer, serve

__all__ = ["PolicyServer", "ServeConfig", "running_server", "serve"]

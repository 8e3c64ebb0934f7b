"""A tiny policy, and servers on loopback that end with the test."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served_robots import tiny_policy

from vla.models import RT1
from vla.serving import PolicyServer, ServeConfig, running_server


@pytest.fixture(scope="session")
def policy() -> RT1:
    return tiny_policy()


@pytest.fixture
def serve() -> Iterator[Callable[..., PolicyServer]]:
    """Starts servers on free ports; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(actor: Any, **settings: Any) -> PolicyServer:
            values = {"policy": "-", "port": 0, "threads": 1, **settings}
            return stack.enter_context(running_server(actor, ServeConfig(**values)))

        yield start

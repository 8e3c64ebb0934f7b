"""GR00T's ZeroMQ protocol: its own clients ask for chunks of our policies.

A client sends {`endpoint`, `data`, `api_token`} and waits for the answer. N1.6 and N1.7 send groups
with the axes of robots and steps, N1.5 flat keys without the axis of robots. There is no `kill`.

Source: Isaac-GR00T, gr00t/policy/server_client.py (N1.6, N1.7) and gr00t/eval/service.py (N1.5).

B robots, T steps (1), K actions per chunk, A action dimensions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq
import zmq.asyncio

from vla.common.errors import UserError
from vla.serving.auth import ApiKeys
from vla.serving.dispatch import Answer, Request
from vla.serving.groot_codec import pack, unpack
from vla.serving.observations import RobotInputs, numbers
from vla.serving.one_line import one_line
from vla.serving.service import Service
from vla.serving.session import Session
from vla_client.codec import WireError

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

"""A rosbridge server with one simulated arm, on loopback: the protocol's JSON, and no ROS."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from typing import Any, Iterator

import numpy as np
from policy_servers import running
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection


class FakeRosbridge:
    """Publishes what was subscribed, each `throttle_rate`, and moves its joints as commanded."""

    def __init__(self) -> None:
        self.joints = {"elbow": 0.5, "shoulder": -0.5}  # in another order than the policy's
        self.pressed = True
        self.silent: set[str] = set()
        self.advertised: dict[str, str] = {}
        self.published: dict[str, list[Any]] = {}

    def message(self, kind: str) -> Any:
        """A message of a type, as rosbridge writes it."""
        now = time.time()
        header = {"stamp": {"sec": int(now), "nanosec": int(1e9 * (now % 1))}, "frame_id": ""}
        if kind == "sensor_msgs/msg/JointState":
            names = list(self.joints)
            positions = [self.joints[name] for name in names]
            return {"header": header, "name": names, "position": positions, "velocity": []}
        if kind == "sensor_msgs/msg/Image":
            pixels = np.full((4, 6, 3), (10, 20, 30), np.uint8)
            rows = np.pad(pixels.reshape(4, 18), ((0, 0), (0, 2)))
            data = base64.b64encode(rows.tobytes()).decode()
            size = {"height": 4, "width": 6, "step": 20, "encoding": "bgr8"}
            return {"header": header, **size, "data": data}
        return {"data": self.pressed if kind.endswith("Bool") else "push"}

    def handle(self, connection: ServerConnection) -> None:
        """One client."""
        ended = threading.Event()
        try:
            for text in connection:
                operation = json.loads(text)
                kind, topic = operation["op"], operation.get("topic")
                if kind == "subscribe":
                    arguments = (connection, operation, ended)
                    threading.Thread(target=self._stream, args=arguments, daemon=True).start()
                elif kind == "advertise":
                    self.advertised[topic] = operation["type"]
                elif kind == "publish":
                    assert topic in self.advertised, "rosbridge drops what was not advertised"
                    self._move(topic, operation["msg"])
        finally:
            ended.set()

    def _move(self, topic: str, message: Any) -> None:
        self.published.setdefault(topic, []).append(message)
        if self.advertised[topic].endswith("JointTrajectory"):
            positions = message["points"][0]["positions"]
            self.joints.update(zip(message["joint_names"], positions))

    def _stream(self, connection: ServerConnection, wanted: dict, ended: threading.Event) -> None:
        with contextlib.suppress(ConnectionClosed):
            while not ended.wait(max(0.005, wanted["throttle_rate"] / 1000)):
                if wanted["topic"] not in self.silent:
                    message = self.message(wanted["type"])
                    sent = {"op": "publish", "topic": wanted["topic"], "msg": message}
                    connection.send(json.dumps(sent))


@contextlib.contextmanager
def running_rosbridge() -> Iterator[tuple[FakeRosbridge, str]]:
    """Runs one; yields it and its address."""
    bridge = FakeRosbridge()
    with running(bridge.handle) as port:
        yield bridge, f"ws://127.0.0.1:{port}"

"""ROS 2 without ROS on this computer: JSON over WebSockets to a rosbridge server.

    python -m vla_client.rosbridge robot.yaml ws://ROBOT:9090

Source: rosbridge protocol 2.0 (advertise, subscribe, publish, unsubscribe, status).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any, Callable, Mapping

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from vla_client.client import Client
from vla_client.errors import ClientError, ConnectionLostError, line
from vla_client.governor_config import GovernorConfig
from vla_client.ros_config import RosConfig, read_config
from vla_client.ros_robot import RosRobot, diagnostics
from vla_client.runner import Runner, RunReport

log = logging.getLogger("vla_client.rosbridge")
MAX_MESSAGE_BYTES = 64 * 2**20
READY_S = 10.0


class RosBridge:
    """A connection to a rosbridge server. Messages arrive in a thread of its own.

    Args:
        url: `ws://HOST:9090`.
        on_message: called with the topic and its message as plain values.

    Raises `ConnectionLostError` if nobody is there.
    """

    def __init__(self, url: str, on_message: Callable[[str, Any], None]) -> None:
        self.url = url
        self.on_message = on_message
        self._types: dict[str, str] = {}
        self._stack = ExitStack()
        try:
            self._connection = self._stack.enter_context(
                connect(url, compression=None, max_size=MAX_MESSAGE_BYTES, close_timeout=1.0)
            )
        except (WebSocketException, OSError, ValueError) as error:
            raise ConnectionLostError(
                f"no rosbridge at {url}: {line(error)}; start one there with `ros2 launch "
                "rosbridge_server rosbridge_websocket_launch.xml`"
            ) from error
        threading.Thread(target=self._listen, name="rosbridge", daemon=True).start()

    def __enter__(self) -> RosBridge:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def subscribe(self, topics: Mapping[str, str], period_s: float) -> None:
        """Subscribes topics (name -> type), at most one message per period and only the newest."""
        for topic, kind in topics.items():
            wanted = {"topic": topic, "type": kind, "queue_length": 1}
            self._send({"op": "subscribe", **wanted, "throttle_rate": int(500 * period_s)})

    def advertise(self, topics: Mapping[str, str]) -> None:
        """Announces topics (name -> type) that will be published."""
        for topic, kind in topics.items():
            self._send({"op": "advertise", "topic": topic, "type": kind})

    def publish(self, topic: str, message: dict[str, Any]) -> None:
        """Publishes plain values; raises `ConnectionLostError` if the bridge is gone."""
        self._send({"op": "publish", "topic": topic, "msg": message})

    def close(self) -> None:
        """Ends the connection; rosbridge then drops its subscriptions."""
        self._stack.close()

    def _send(self, operation: dict[str, Any]) -> None:
        try:
            self._connection.send(json.dumps(operation))
        except (ConnectionClosed, OSError) as error:
            raise ConnectionLostError(f"rosbridge at {self.url} is lost: {line(error)}") from error

    def _listen(self) -> None:
        try:
            for text in self._connection:
                self._receive(text)
        except (WebSocketException, OSError) as error:
            # silence is what the governor watches; the next command raises
            log.warning("rosbridge at %s is lost: %s", self.url, line(error))

    def _receive(self, text: str | bytes) -> None:
        try:
            operation = json.loads(text)
            kind = operation["op"]
            if kind == "publish":
                self.on_message(operation["topic"], operation["msg"])
            elif kind == "status":
                log.warning("rosbridge says: %s", line(operation.get("msg", "")))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("rosbridge sends something else than its protocol: %s", line(error))


def run(config: RosConfig, bridge_url: str, max_steps: int | None = None) -> RunReport:
    """Runs the policy at `config.server` on the robot behind a rosbridge.

    Raises `ClientError` if the server, the bridge or a topic is missing or does not fit.
    """
    with Client(config.server) as client, ExitStack() as stack:
        spec = client.metadata.get("spec")
        if not isinstance(spec, dict):
            raise ClientError(f"{config.server} does not say its spec, as `vla serve` does")
        limits = GovernorConfig.of_spec(spec, config.governor)
        bridges: list[RosBridge] = []
        robot = RosRobot(
            config,
            limits,
            spec["state_names"],
            lambda topic, message: bridges[0].publish(topic, message),
        )
        bridges.append(stack.enter_context(RosBridge(bridge_url, robot.receive)))
        bridge = bridges[0]
        bridge.advertise({topic.topic: topic.type for topic in config.commands})
        bridge.advertise({"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"})
        bridge.subscribe(robot.subscriptions, limits.period_s)
        robot.wait_until_ready(READY_S)
        runner = Runner(robot, client, limits, measured=robot.measured, enable=robot.enabled)
        said_s = [0.0]

        def report_each_second() -> bool:
            if time.monotonic() - said_s[0] >= 1:
                said_s[0] = time.monotonic()
                status = runner.governor.status()
                bridge.publish("/diagnostics", diagnostics(status, time.time()))
            return False

        return runner.run(max_steps, until=report_each_second, return_home_s=config.return_home_s)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m vla_client.rosbridge", description=__doc__)
    parser.add_argument("config", help="the YAML file, such as examples/ros2/robot.yaml")
    parser.add_argument("bridge", help="address of the rosbridge, such as ws://robot:9090")
    parser.add_argument("--steps", type=int, default=None, help="control steps; without: until ^C")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        report = run(read_config(given.config), given.bridge, given.steps)
    except ClientError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A robot behind ROS topics: the newest message of each, and commands by the config.

It neither subscribes nor publishes itself: a node of rclpy or a rosbridge does.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from vla_client import ros_messages
from vla_client.errors import ClientError
from vla_client.governor import HOLDING, RUNNING, Status
from vla_client.governor_config import GovernorConfig
from vla_client.images import resize_with_pad
from vla_client.ros_config import RosConfig, Topic

Publish = Callable[[str, dict], None]


@dataclass(frozen=True)
class _Received:
    message: Any
    at_s: float


class RosRobot:
    """What the runner's loop needs of a robot (`vla_client.runner.Robot`).

    Args:
        config: topics and names.
        limits: of the governor; its names are the action dimensions.
        state_names: the policy's state dimensions, in its order.
        publish: sends plain values to a topic.

    Raises `ClientError` if the topics do not give or take exactly the policy's dimensions.
    """

    def __init__(
        self,
        config: RosConfig,
        limits: GovernorConfig,
        state_names: Sequence[str],
        publish: Publish,
    ) -> None:
        self.config = config
        self.limits = limits
        self.state_names = tuple(state_names)
        self._publish = publish
        self._newest: dict[str, _Received] = {}
        self._lock = threading.Lock()
        _check_covered("state", config.state, self.state_names)
        _check_covered("commands", config.commands, limits.names)
        for name, source in config.measured.items():
            if name not in limits.names or source not in self.state_names:
                raise ClientError(
                    f"measured.{name}: {source}, expected an action and one of the state's names: "
                    f"{', '.join(self.state_names)}"
                )

    @property
    def subscriptions(self) -> dict[str, str]:
        """Topic -> type of all that is to be subscribed."""
        topics = [*self.config.cameras.values(), *self.config.state]
        found = {topic.topic: topic.type for topic in topics}
        if self.config.instruction_topic:
            found[self.config.instruction_topic] = "std_msgs/msg/String"
        if self.config.enable_topic:
            found[self.config.enable_topic] = "std_msgs/msg/Bool"
        return found

    def receive(self, topic: str, message: Any) -> None:
        """Keeps the newest message of a topic; to be called from any thread."""
        with self._lock:
            self._newest[topic] = _Received(message, time.monotonic())

    def wait_until_ready(self, seconds: float) -> None:
        """Waits for the first observation; raises `ClientError`, which names what is missing."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.read()
                return
            except ClientError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    # --- what the loop asks for ------------------------------------------------------------------

    def read(self) -> dict[str, Any]:
        """Images (H, W, 3), the state (S,) and the instruction.

        Raises `ClientError` if a message is missing, older than `max_age_s`, or damaged.
        """
        images = {name: self._of(topic, self._image) for name, topic in self.config.cameras.items()}
        state: dict[str, float] = {}
        for topic in self.config.state:
            state.update(self._of(topic, ros_messages.values))
        ordered = np.array([state[name] for name in self.state_names], np.float32)
        observation: dict[str, Any] = {"images": images, "state": ordered}
        instruction = self._instruction()
        return {**observation, "prompt": instruction} if instruction else observation

    def send(self, action_A: np.ndarray) -> None:
        """Publishes an action (A,) on all command topics."""
        action = dict(zip(self.limits.names, action_A.tolist()))
        for topic in self.config.commands:
            message = ros_messages.command(action, topic, self.limits.period_s, time.time())
            self._publish(topic.topic, message)

    def measured(self, observation: dict[str, Any]) -> np.ndarray | None:
        """Positions (A,), NaN in dimensions that have none; None if no dimension has one."""
        if not self.config.measured:
            return None
        where_A = np.full(len(self.limits.names), np.nan)
        for name, source in self.config.measured.items():
            state = observation["state"][self.state_names.index(source)]
            where_A[self.limits.names.index(name)] = state
        return where_A

    def enabled(self) -> bool:
        """Whether the deadman's switch was sent as True within the last `enable_for_s`."""
        if not self.config.enable_topic:
            return True
        received = self._received(self.config.enable_topic)
        if received is None or time.monotonic() - received.at_s > self.config.enable_for_s:
            return False
        return ros_messages.part(received.message, "data") is True

    # --- messages --------------------------------------------------------------------------------

    def _received(self, topic: str) -> _Received | None:
        with self._lock:
            return self._newest.get(topic)

    def _of(self, topic: Topic, convert: Callable[[Any, Topic], Any]) -> Any:
        """What a topic's newest message says; errors name the topic."""
        received = self._received(topic.topic)
        if received is None:
            raise ClientError(f"{topic.topic}: no message yet; is it published as {topic.type}?")
        try:
            age_s = time.monotonic() - received.at_s
            if self.config.age_by == "stamp":
                age_s = time.time() - ros_messages.stamp_s(received.message)
            if not abs(age_s) <= self.config.max_age_s:
                raise ClientError(f"the newest message is {age_s:.2f} s old")
            return convert(received.message, topic)
        except ClientError as error:
            raise ClientError(f"{topic.topic}: {error}") from error

    def _image(self, message: Any, topic: Topic) -> np.ndarray:
        image_HWC = ros_messages.image(message, topic)
        return image_HWC if topic.size is None else resize_with_pad(image_HWC, *topic.size)

    def _instruction(self) -> str:
        received = self._received(self.config.instruction_topic)
        if received is None:
            return self.config.instruction
        return str(ros_messages.part(received.message, "data"))


def diagnostics(status: Status, now_s: float) -> dict[str, Any]:
    """A diagnostic_msgs/msg/DiagnosticArray of the governor, as plain values."""
    level = {RUNNING: 0, HOLDING: 1}.get(status.state, 2)
    pairs = {"silence_s": f"{status.silence_s:.3f}", **status.counts}
    values = [{"key": key, "value": str(value)} for key, value in pairs.items()]
    entry = {
        "level": level,
        "name": "vla_client",
        "message": f"{status.state}: {status.reason}",
        "hardware_id": "",
        "values": values,
    }
    stamp = {"sec": int(now_s), "nanosec": int(1e9 * (now_s % 1))}
    return {"header": {"stamp": stamp, "frame_id": ""}, "status": [entry]}


def _check_covered(key: str, topics: Sequence[Topic], names: Sequence[str]) -> None:
    """Each of the policy's dimensions is in exactly one topic, and each name is one of them."""
    given = [name for topic in topics for name in topic.names]
    for name in names:
        if given.count(name) != 1:
            raise ClientError(f"{key}: {name} is in {given.count(name)} topics, expected one")
    for topic in topics:
        known = ros_messages.known_names(topic)
        for ours, theirs in topic.names.items():
            if ours not in names:
                raise ClientError(f"{key}: {ours} is none of the policy's: {', '.join(names)}")
            if known is not None and theirs not in known:
                raise ClientError(
                    f"{key}: {topic.type} has no {theirs}: {', '.join(sorted(known))}"
                )

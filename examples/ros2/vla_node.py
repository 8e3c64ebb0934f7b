"""A policy on a robot of ROS 2 (Humble or newer): one node, which imports `vla_client` and no torch.

    pip install ./vla_client pillow PyYAML
    python3 examples/ros2/vla_node.py examples/ros2/robot.yaml

Subscriptions are best effort with depth 1: an image that is late is of no use. Commands are reliable.
"""

from __future__ import annotations

import sys
import threading
from functools import partial

import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosidl_runtime_py import set_message_fields
from rosidl_runtime_py.utilities import get_message

from vla_client.client import Client
from vla_client.errors import ClientError
from vla_client.governor_config import GovernorConfig
from vla_client.ros_config import RosConfig, read_config
from vla_client.ros_robot import RosRobot
from vla_client.runner import Runner

SENSORS = QoSProfile(
    depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT
)


def make_robot(node: rclpy.node.Node, config: RosConfig, spec: dict) -> RosRobot:
    """Publishers and subscriptions of the config's topics, joined to a robot."""
    limits = GovernorConfig.of_spec(spec, config.governor)
    types = {topic.topic: get_message(topic.type) for topic in config.commands}
    publishers = {topic: node.create_publisher(kind, topic, 1) for topic, kind in types.items()}

    def publish(topic: str, values: dict) -> None:
        message = types[topic]()
        set_message_fields(message, values)
        publishers[topic].publish(message)

    robot = RosRobot(config, limits, spec["state_names"], publish)
    for topic, kind in robot.subscriptions.items():
        node.create_subscription(get_message(kind), topic, partial(robot.receive, topic), SENSORS)
    return robot


def main() -> None:
    config = read_config(sys.argv[1])
    rclpy.init()
    node = rclpy.create_node("vla")
    try:
        with Client(config.server) as client:
            robot = make_robot(node, config, client.metadata["spec"])
            threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
            robot.wait_until_ready(10.0)
            runner = Runner(
                robot, client, robot.limits, measured=robot.measured, enable=robot.enabled
            )
            report = runner.run(return_home_s=config.return_home_s)
            node.get_logger().info(str(report))
    except ClientError as error:
        sys.exit(f"error: {error}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()

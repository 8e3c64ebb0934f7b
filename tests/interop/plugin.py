"""`make interop`: LeRobot's own scripts run an exported policy on a robot without hardware.

The actions that the robot was sent are compared with the policy's own on the same observations: once with
the policy inside LeRobot's process, once behind a server of openpi's protocol in this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HELPERS = Path(__file__).parents[1] / "helpers"
sys.path.insert(0, str(HELPERS))

from policy_servers import openpi_handler, running  # noqa: E402
from small_policies import TEXTS, rt1  # noqa: E402

from vla.control import BatchedPolicy, EpisodeState  # noqa: E402
from vla.export import export_lerobot  # noqa: E402
from vla.models import Policy, load_policy  # noqa: E402
from vla.types import Spec  # noqa: E402

TASK = TEXTS[0]
# in another order than the robot's
SPEC = Spec(
    cameras={"top": (64, 96)},
    state_names=("elbow.pos", "shoulder.pos", "gripper.pos"),
    action_names=("gripper.pos", "shoulder.pos", "elbow.pos"),
    action_low=(-1.0, -2.0, -3.0),
    action_high=(1.0, 2.0, 3.0),
    control_hz=10,
)
ROBOT = ("shoulder.pos", "elbow.pos", "gripper.pos")
SECONDS = 4


def arguments_of(script: str, work: Path, name: str) -> list[str]:
    """What lerobot-record (0.4) or lerobot-rollout (0.6) is to do."""
    if script == "lerobot-rollout":
        return [
            "--strategy.type=base",
            "--inference.type=sync",
            f"--fps={SPEC.control_hz:g}",
            f"--duration={SECONDS}",
            f"--task={TASK}",
        ]
    return [
        f"--dataset.repo_id=local/eval_{name}",
        f"--dataset.root={work / ('data-' + name)}",
        f"--dataset.single_task={TASK}",
        "--dataset.num_episodes=1",
        f"--dataset.episode_time_s={SECONDS}",
        "--dataset.reset_time_s=0",
        f"--dataset.fps={SPEC.control_hz:g}",
        "--dataset.push_to_hub=false",
        "--play_sounds=false",
    ]


def record(script: Path, work: Path, exported: Path, *more: str) -> dict[str, np.ndarray]:
    """Runs a script of LeRobot; returns what the robot showed and was sent."""
    log = work / f"log{len(list(work.glob('log*')))}.npz"
    command = [str(script), "--robot.type=vla_fake", f"--policy.path={exported}"]
    command += [*arguments_of(script.name, work, log.stem), *more]
    environment = {**os.environ, "VLA_FAKE_LOG": str(log), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(work / "hub"), "HF_LEROBOT_HOME": str(work / "lerobot")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-6000:]}")
    with np.load(log) as found:
        return dict(found)


def actions_of(policy: Policy, shown: dict[str, np.ndarray]) -> np.ndarray:
    """What the policy does on these observations, in the robot's order."""
    acting, episode = BatchedPolicy(policy), EpisodeState(instruction=TASK)
    states = shown["states"][:, [ROBOT.index(name) for name in SPEC.state_names]]
    found = []
    for image, state in zip(shown["images"], states, strict=True):
        episode.robot_state = state
        found.append(acting.act([episode], {"top": image[None]})[0][0])
    return np.stack(found)[:, [SPEC.action_names.index(name) for name in ROBOT]]


def compare(name: str, policy: Policy, shown: dict[str, np.ndarray]) -> None:
    """Prints how far the sent actions are from the policy's own; fails if they are others."""
    # the last observation may have had no action, and a rollout goes home after its last one
    count = min(len(shown["actions"]), len(shown["images"]))
    wanted = actions_of(policy, {key: value[:count] for key, value in shown.items()})
    difference = float(np.abs(wanted - shown["actions"][:count]).max())
    print(f"{name}: {count} actions, largest difference {difference:.2g}", flush=True)
    assert count >= SECONDS * SPEC.control_hz / 2
    assert np.ptp(shown["actions"], axis=0).max() > 0, "the policy does not look"
    assert difference < 1e-5


def answering(policy: Policy) -> Any:
    """The policy as a server's answer."""
    acting = BatchedPolicy(policy)
    episode = EpisodeState()

    def answer(observation: dict) -> dict:
        nonlocal episode
        if observation.get("vla/reset"):
            episode = EpisodeState()
        episode.robot_state, episode.instruction = observation["state"], observation["prompt"]
        images = {name: image[None] for name, image in observation["images"].items()}
        return {"actions": acting.act([episode], images)[0]}

    return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", type=Path, required=True)
    parser.add_argument("--script", default="lerobot-record")
    given = parser.parse_args()
    script = given.lerobot_python.absolute().parent / given.script
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        exported = work / "exported"
        export_lerobot(rt1(SPEC, cameras=["top"]), exported)
        policy = load_policy(exported / "vla")
        compare(f"policy inside {given.script}", policy, record(script, work, exported))
        said = {"spec": SPEC.to_dict(), "every_step": True, "features": ["reset"]}
        metadata = {"protocol": "openpi-websocket", **said}
        with running(openpi_handler(answering(policy), metadata)) as port:
            remote = f"--policy.remote=ws://127.0.0.1:{port}"
            compare("policy behind a server", policy, record(script, work, exported, remote))
    print("interop of the plugin: all equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())

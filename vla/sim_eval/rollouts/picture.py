"""A picture of one episode: played by a policy, then drawn as large as one likes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.batched_inference import Pilot, Robot, inference
from vla.sim_eval.rollouts.env_worker import EpisodePlayer, Job
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.rollouts.video import film_frame, film_strip
from vla.types import Actor


def rollout_picture(
    path: str | Path,
    actor: Actor,
    config: EnvConfig,
    task: str,
    *,
    seed: int,
    show: EnvConfig | None = None,
    replan_every: int = 1,
    count: int = 8,
) -> Path:
    """Plays one episode and writes a PNG film strip of it: frames with step numbers under the instruction.

    Args:
        path: file to write.
        actor: the policy.
        config: the envs as the policy sees them.
        task: name of the task.
        seed: of the episode, as in the column `seed` of `episodes.parquet`.
        show: the same envs for human eyes, for example with larger images: the actions of the episode are
            repeated there. Default: the policy's own view.
        replan_every: steps of a chunk that are executed before the next `act`.
        count: frames in the strip, at most.

    Raises SpecError where the env does not fit the policy.
    """
    entry = config.suite().task(task)
    job = Job(task, entry.group, 0, seed, entry.horizon)
    instruction, actions = _play(actor, config, job, replan_every)
    return film_strip(path, _frames(show or config, job, actions), instruction, count=count)


def _play(
    actor: Actor, config: EnvConfig, job: Job, replan_every: int
) -> tuple[str, list[np.ndarray]]:
    pilot = Pilot(actor, RolloutSettings(replan_every=replan_every))
    pilot.check(config)
    env = config.make(job.task)
    try:
        player, robot, actions = EpisodePlayer(env, job), Robot(), []
        robot.instruction = player.instruction
        with inference(actor):
            while not player.over:
                robot.state = player.observation["state"]
                images = {
                    camera: image[None] for camera, image in player.observation["images"].items()
                }
                planned = pilot.act([robot], images)[0]
                robot.reward = 0.0
                for action in planned:
                    if not player.over:
                        player.step(action)
                        robot.reward += player.reward
                        actions.append(action)
        return robot.instruction, actions
    finally:
        env.close()


def _frames(config: EnvConfig, job: Job, actions: list[np.ndarray]) -> list[np.ndarray]:
    """Frame i shows the scene before action i; cameras side by side."""
    env = config.make(job.task)
    try:
        frames = [film_frame(env, env.reset(seed=job.seed)[0])]
        for action in actions:
            frames.append(film_frame(env, env.step(action)[0]))
        return [frame for frame in frames if frame is not None]
    finally:
        env.close()

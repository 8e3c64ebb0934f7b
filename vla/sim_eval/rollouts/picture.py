"""A picture of one episode: played by a policy, then drawn in any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.control.batched_inference import BatchedPolicy, EpisodeState
from vla.control.inference_mode import inference
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.episode_player import EpisodePlayer
from vla.sim_eval.rollouts.film_strips import film_strip
from vla.sim_eval.rollouts.jobs import Job
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.rollouts.video import film_frame
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
    """Plays one episode and writes a PNG film strip of it, under its instruction.

    Args:
        path: file to write.
        actor: the policy.
        config: the envs as the policy sees them.
        task: name of the task.
        seed: of the episode, as in the column `seed` of `episodes.parquet`.
        show: the same envs for human eyes, for example with larger images: the actions of the
            episode are repeated there. Default: the policy's own view.
        replan_every: steps of a chunk that are executed before the next `act`.
        count: frames in the strip, at most.

    Raises SpecError if the env does not fit the policy.
    """
    entry = config.suite().task(task)
    job = Job(task, entry.group, 0, seed, entry.horizon)
    policy = BatchedPolicy(actor, RolloutSettings(replan_every=replan_every))
    policy.check(config.spec())
    instruction, actions = _play(policy, config, job)
    return film_strip(path, _frames(show or config, job, actions), instruction, count=count)


def _play(policy: BatchedPolicy, config: EnvConfig, job: Job) -> tuple[str, list[np.ndarray]]:
    """The instruction and the actions (A,) of the episode."""
    env = config.make(job.task)
    actions: list[np.ndarray] = []
    try:
        player = EpisodePlayer(env, job)
        state = EpisodeState(instruction=player.instruction)
        with inference(policy.actor):
            while not player.over:
                state.robot_state = player.observation["state"]
                images = {}
                for camera, image in player.observation["images"].items():
                    images[camera] = image[None]  # a batch of one
                (planned,) = policy.act([state], images)
                state.reward = 0.0
                for action in planned:
                    if player.over:  # within the chunk
                        break
                    player.step(action)
                    state.reward += player.reward
                    actions.append(action)
        return player.instruction, actions
    finally:
        env.close()


def _frames(config: EnvConfig, job: Job, actions: list[np.ndarray]) -> list[np.ndarray]:
    """Frame i shows the scene before action i; cameras side by side."""
    # Played again from its seed: what an episode looks like does not change what happens.
    env = config.make(job.task)
    try:
        observation, _ = env.reset(seed=job.seed)
        frames = [film_frame(env, observation)]
        for action in actions:
            observation = env.step(action)[0]
            frames.append(film_frame(env, observation))
        return [frame for frame in frames if frame is not None]
    finally:
        env.close()

"""One running episode on one env: its steps, its film, its record."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla.data import Episode
from vla.data.episode import Scalar
from vla.sim_eval.env import SimEnv
from vla.sim_eval.gates.stuck import StuckGate
from vla.sim_eval.rollouts.env_checks import check_images, checked_reset, checked_step
from vla.sim_eval.rollouts.episode_recorder import EpisodeRecorder, privileged_extras
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.video import VideoWriter, film_frame
from vla.types import Spec

FILM_BYTES = 8_000_000  # of memory for an episode that is filmed in case it fails


class EpisodePlayer:
    """Plays a job on an env, from its reset on.

    Attributes:
        observation, info, reward: what the env gave last.
        instruction: what the episode asks for now.
        steps, return_: control steps played, and the sum of their rewards.
        max_reward: the greatest of them; None before the first step.
        success: whether the task is solved now.
        success_ever: whether it was solved at some step.
        over: whether nothing is left to play.
        terminated: whether it has truly ended, and not by a time limit.
        stuck: whether nothing has moved for as long as the job allows.
        recorder: of its steps; None if they are not kept.

    Raises EnvError if the env breaks its contract.
    """

    def __init__(self, env: SimEnv, job: Job) -> None:
        self.env = env
        self.job = job
        self.steps = 0
        self.return_ = 0.0
        self.reward = 0.0
        self.max_reward: float | None = None
        self.over = False
        self.success = False
        self.success_ever = False
        self._after_success = 0
        self.terminated = False
        self._stillness: StuckGate | None = None
        if job.stop_if_stuck is not None:
            self._stillness = job.stop_if_stuck.build(env.robot_spec)
        self._every_step_drawn = job.video is not None or job.record
        self._video = _film_of(job, env.robot_spec)
        # rendering costs more than physics, and a baseline looks at nothing
        env.render_images = self._every_step_drawn or job.driver == "policy"
        start = env.reset(seed=job.seed)
        self.observation, self.info = checked_reset(start, env.robot_spec)
        self.instruction = str(self.info["instruction"])
        self._first_instruction = self.instruction
        self._film(self.observation)
        self.stuck = self._is_still()
        self.recorder: EpisodeRecorder | None = None
        if job.record:
            check_images(self.observation, env.robot_spec.cameras, env.robot_spec)
            self.recorder = EpisodeRecorder(list(env.robot_spec.cameras))

    def step(self, action: np.ndarray, *, look: bool = True, **extras: Any) -> None:
        """Executes one action (A,).

        Args:
            look: whether a policy will see the images that follow.
            extras: what else is recorded of the step, if it is.
        """
        if self.recorder is not None:
            self.recorder.add_observation(self.observation, self.instruction)
            extras |= privileged_extras(self.env)
        self.env.render_images = look or self._every_step_drawn
        result = self.env.step(action)
        self.observation, self.reward, terminated, truncated, self.info = checked_step(
            result, self.env.robot_spec
        )
        # an episode of several sub-tasks asks for one after the other
        self.instruction = str(self.info.get("instruction", self.instruction))
        self.steps += 1
        self.return_ += self.reward
        before = self.reward if self.max_reward is None else self.max_reward
        self.max_reward = max(self.reward, before)
        self.success = bool(self.info["success"])
        if self.success_ever:  # before this step
            self._after_success += 1
        self.success_ever = self.success_ever or self.success
        played_on = self._after_success >= self.job.after_success_steps
        satisfied = self.success_ever and played_on and self.env.task.ends_at_success
        self.terminated = satisfied or terminated
        self.stuck = self._is_still()
        time_is_up = truncated or self.steps >= self.job.horizon
        self.over = self.terminated or time_is_up or self.stuck
        if self.recorder is not None:
            self.recorder.add_action(action, self.reward, self.success, **extras)
        if self.env.render_images:
            self._film(self.observation)

    def _is_still(self) -> bool:
        """Whether nothing has moved for as long as the job allows; called at every observation."""
        return self._stillness is not None and self._stillness.still(self.observation)

    def _film(self, observation: dict[str, Any]) -> None:
        if self._video is None:
            return
        check_images(observation, self.env.robot_spec.cameras, self.env.robot_spec)
        frame = film_frame(self.env, observation)
        if frame is None:
            # an env that has no picture now has none later: no film, and no error either
            self._video = None
        else:
            self._video.add(frame, self.steps)

    @property
    def filmed(self) -> bool:
        return self._video is not None

    @property
    def failure(self) -> str:
        """How far the episode came, in the simulator's words; empty after a success."""
        if self.success_ever:
            return ""
        return str(self.info.get("failure") or ("stuck" if self.stuck else "time limit"))

    @property
    def _failure_step(self) -> int:
        if self.success_ever:
            return -1
        return int(self.info.get("failure_step", self.steps))

    def record(self, *, keep_film: bool = True) -> EpisodeRecord:
        """Ends the episode; writes its film, if there is one to keep."""
        if keep_film:
            self._write_film()
        job = self.job
        video = ""
        if job.video is not None and self.filmed:
            # relative; a film of a failure gets its name where all records come together
            video = f"{job.video.parent.name}/{job.video.name}"
        return EpisodeRecord(
            task=job.task,
            group=job.group,
            episode=job.episode,
            seed=job.seed,
            instruction=self._first_instruction,
            success_ever=self.success_ever,
            success_at_end=self.success,
            steps=self.steps,
            return_=self.return_,
            failure=self.failure,
            video=video,
            failure_step=self._failure_step,
            max_reward=self.max_reward,
        )

    def episode(self) -> Episode | None:
        """What was recorded; None if nothing was."""
        if self.recorder is None:
            return None
        job = self.job
        info: dict[str, Scalar] = {
            "task": job.task,
            "episode": job.episode,
            "seed": job.seed,
            "draw": job.draw,
        }
        return self.recorder.episode(terminated=self.terminated, info=info)

    def _write_film(self) -> None:
        if self._video is not None and self._video.last_step < self.steps:
            # it ended within a chunk, whose steps are not drawn: the film lacks its end
            self.env.render_images = True
            self._film(self.env.observe())
        if self._video is not None:  # `_film` may have given it up
            self._video.close()


def _film_of(job: Job, spec: Spec) -> VideoWriter | None:
    """The film that the job asks for, or one that waits in memory for a failure."""
    if job.video is not None:
        # without cameras `env.render` draws, in pictures of a size of its own
        max_bytes = None if spec.cameras else 4 * FILM_BYTES
        return VideoWriter(job.video, spec.control_hz, max_bytes=max_bytes)
    # for a baseline nothing is drawn, so its failures are not filmed
    drawn = job.driver == "policy" and spec.cameras
    if job.failure_video is not None and drawn:
        return VideoWriter(job.failure_video, spec.control_hz, max_bytes=FILM_BYTES)
    return None

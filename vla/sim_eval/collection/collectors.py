"""Who acts while data is made: the expert, an expert that has misunderstood, or trained policies of any quality.

Every episode draws its behaviour by its seed alone, so a dataset is the same however many workers make it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import Field, model_validator

from vla.config import Config, ConfigError
from vla.data.episode import Scalar
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.rollouts.batched_inference import Pilot, Robot, inference
from vla.sim_eval.rollouts.settings import RolloutSettings


class PolicyBehaviour(Config):
    """A checkpoint that plays a share of the episodes, undisturbed: an early one for data of medium quality, a late one
    for its failures."""

    path: Path
    """Folder of the policy."""
    share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of all episodes."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0 for the policy's most likely actions, 1 for samples."""
    replan_every: Annotated[int, Field(ge=1)] = 1
    """Steps of a chunk that are executed before the policy is asked again."""


class BehavioursConfig(Config):
    """Who acts in place of the expert; the expert plays what is left of 1. Every episode draws one, by its seed."""

    mistaken: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the episodes in which the expert acts out another instruction of the same scene than the recorded one, by
    which it is judged. Such an episode ends, truly and in failure, when the other instruction is fulfilled. For envs that
    know other instructions (tabletop)."""
    policies: tuple[PolicyBehaviour, ...] = ()
    """Trained policies with their shares."""

    @model_validator(mode="after")
    def _shares_fit(self) -> BehavioursConfig:
        total = self.mistaken + sum(policy.share for policy in self.policies)
        if total > 1 + 1e-9:
            raise ValueError(
                f"the shares of mistaken and policies sum to {total:g}; expected at most 1"
            )
        return self

    @property
    def expert_alone(self) -> bool:
        return not self.mistaken and not self.policies


class Behaviour(Protocol):
    """Who acts in one episode.

    Attributes:
        disturbed: whether noise comes between its actions and the robot.
        acted: the instruction that it acts out, where that is not the recorded one; else "".
        info: what the episode remembers of it.
    """

    disturbed: bool
    acted: str
    info: dict[str, Scalar]

    def act(self, observation: dict[str, Any], reward: float) -> np.ndarray:
        """The action (A,); `reward` followed the last one."""


class ExpertBehaviour:
    """The env's expert, which may have been told something else."""

    disturbed = True

    def __init__(self, env: SimEnv, acted: str = "") -> None:
        self._env, self.acted = env, acted
        self.info: dict[str, Scalar] = (
            {"behaviour": "mistaken", "acted": acted} if acted else {"behaviour": "expert"}
        )

    def act(self, observation: dict[str, Any], reward: float) -> np.ndarray:
        return self._env.expert_action()


class PolicyInEpisode:
    """A policy in one episode: what it remembers, the rest of its chunk, and its random numbers."""

    disturbed = False
    acted = ""

    def __init__(self, config: PolicyBehaviour, pilot: Pilot, instruction: str, seed: int) -> None:
        self._pilot, self._robot = pilot, Robot(instruction=instruction)
        self._rng = np.random.default_rng((seed, 4))
        self._chunk: list[np.ndarray] = []
        self.info: dict[str, Scalar] = {
            "behaviour": "policy",
            "policy": str(config.path),
            "temperature": config.temperature,
        }

    def act(self, observation: dict[str, Any], reward: float) -> np.ndarray:
        self._robot.reward += reward
        if not self._chunk:
            self._robot.state = np.asarray(observation["state"], dtype=np.float32)
            images = {camera: image[None] for camera, image in observation["images"].items()}
            with inference(self._pilot.actor, threads=1):  # one of many workers
                (chunk,) = self._pilot.act(
                    [self._robot], images, seed=int(self._rng.integers(2**62))
                )
            self._chunk, self._robot.reward = list(chunk), 0.0
        return self._chunk.pop(0)


class Behaviours:
    """Draws who acts in each episode. A policy is loaded when an episode first asks for it, and kept."""

    def __init__(self, config: BehavioursConfig) -> None:
        self.config = config
        self._pilots: dict[int, Pilot] = {}

    def begin(self, env: SimEnv, instruction: str, seed: int) -> Behaviour:
        """Who acts in the episode of this seed, whose env has just been reset.

        Raises ConfigError where a mistake is drawn and the env knows none."""
        rng = np.random.default_rng(
            (seed, 3)
        )  # the env draws from (seed), noise from (seed, 1), snapshots from (seed, 2)
        drawn = rng.random() - self.config.mistaken
        if drawn < 0:
            acted = env.mistake(rng)
            if not acted:
                raise ConfigError(
                    [
                        f"behaviours.mistaken: {env.task.name} knows no other instruction; set it to 0"
                    ]
                )
            return ExpertBehaviour(env, acted)
        for number, policy in enumerate(self.config.policies):
            drawn -= policy.share
            if drawn < 0:
                return PolicyInEpisode(policy, self._pilot(number), instruction, seed)
        return ExpertBehaviour(env)

    def _pilot(self, number: int) -> Pilot:
        if number not in self._pilots:
            from vla.models.policy import load_policy  # imports the libraries of all policies

            config = self.config.policies[number]
            self._pilots[number] = Pilot(
                load_policy(config.path),
                RolloutSettings(replan_every=config.replan_every, temperature=config.temperature),
            )
        return self._pilots[number]

    def check(self, env: EnvConfig) -> list[str]:
        """Loads every policy and returns their digests: what a resumed collection must find unchanged.

        Raises:
            CheckpointError: a checkpoint is missing or damaged.
            SpecError: a policy does not fit the env.
            UserError: a policy cannot be used as its options say.
        """
        digests = []
        for number, policy in enumerate(self.config.policies):
            self._pilot(number).check(env)
            digests.append(_digest(policy.path))
        return digests


def _digest(folder: Path) -> str:
    """Tells checkpoints apart by their config and weights."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]

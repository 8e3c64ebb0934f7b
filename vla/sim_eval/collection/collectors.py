"""What acts while data is made: the expert, a mistaken one, one with detours, or trained policies.

Every episode draws its behaviour by its seed alone, so a dataset is the same however many workers
make it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, model_validator

from vla.config import Config, ConfigError, ConfigPath
from vla.control.batched_inference import BatchedPolicy, EpisodeState
from vla.control.inference_mode import inference
from vla.data.episode import Scalar
from vla.data.extras import PRIVILEGED
from vla.export.runtime import is_exported, load
from vla.sim_eval.collection.detours import Detours, DetoursConfig
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.gates.base import Proposal
from vla.sim_eval.rollouts.episode_recorder import privileged_extras
from vla.sim_eval.rollouts.expert_labels import expert_label
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.rollouts.takeover import Takeover, TakeoverConfig
from vla.types import Actor


class PolicyBehaviour(Config):
    """A checkpoint that plays a share of the episodes, undisturbed: an early one for data of medium
    quality, a late one for its failures."""

    path: ConfigPath
    """Folder of the policy."""
    share: float = Field(gt=0.0, le=1.0)
    """Share of all episodes."""
    temperature: float = Field(default=0.0, ge=0.0)
    """0 for the policy's most likely actions, 1 for samples."""
    replan_every: int = Field(default=1, ge=1)
    """Steps of a chunk that are executed before the policy is asked again."""
    takeover: TakeoverConfig | None = None
    """When the expert acts in the policy's place; null for never."""


class HalvesConfig(Config):
    """Episodes that show one half of an instruction of two goals each, and none both: only values
    can join them. For envs whose instructions have two goals in order (tabletop's two-step)."""

    first: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the episodes in which the expert brings about the first goal alone and stops, a
    failure."""
    second: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the episodes that begin with the first goal met; the expert brings about the
    second."""


class BehavioursConfig(Config):
    """What acts in place of the expert, which plays what is left of 1; drawn by an episode's
    seed."""

    mistaken: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the episodes in which the expert acts out another instruction of the same scene than
    the recorded one, by which it is judged. Such an episode ends, truly and in failure, when the
    other instruction is fulfilled. For envs that know other instructions (tabletop)."""
    halves: HalvesConfig = HalvesConfig()
    """Shares of the episodes that show half of what is asked."""
    detours: DetoursConfig | None = None
    """The expert acts out other instructions for a while and then goes on with the recorded one,
    in a share of the episodes that are its own; null for an expert without detours."""
    policies: tuple[PolicyBehaviour, ...] = ()
    """Trained policies with their shares."""

    @model_validator(mode="after")
    def _shares_fit(self) -> BehavioursConfig:
        total = self.mistaken + sum(policy.share for policy in self.policies)
        total += self.halves.first + self.halves.second
        if total > 1 + 1e-9:
            raise ValueError(
                f"the shares of mistaken, halves and policies sum to {total:g}; expected at most 1"
            )
        return self

    @property
    def failing(self) -> list[str]:
        """The keys by which episodes are made that fail."""
        shares = {"mistaken": self.mistaken, "halves.first": self.halves.first}
        return [key for key, share in shares.items() if share]

    @property
    def corrects(self) -> bool:
        """Whether the expert takes over from a policy in some episode."""
        return any(policy.takeover is not None for policy in self.policies)

    @property
    def expert_alone(self) -> bool:
        halves = self.halves.first or self.halves.second
        others = self.mistaken or halves or self.policies
        return not others and self.detours is None


class Behaviour(Protocol):
    """What acts in one episode.

    Attributes:
        disturbed: whether noise comes between its actions and the robot.
        acted: the instruction that it acts out, if that is not the recorded one; else "".
        by_expert: whether the last action was one of the env's expert.
        info: what is recorded of it with the episode.
    """

    disturbed: bool
    acted: str
    by_expert: bool

    @property
    def info(self) -> dict[str, Scalar]: ...

    def act(self, observation: dict[str, Any], reward: float, instruction: str) -> np.ndarray:
        """The action (A,); `reward` followed the last one, `instruction` is asked for now."""

    def close(self) -> None:
        """Called at the end of the episode."""


class ExpertBehaviour:
    """The env's expert; `acted` is the instruction that it acts out, if not the recorded one."""

    disturbed = True
    by_expert = True

    def __init__(self, env: SimEnv, name: str = "expert", acted: str = "") -> None:
        self._env = env
        self.acted = acted
        self.info: dict[str, Scalar] = {"behaviour": name}
        if acted:
            self.info["acted"] = acted

    def act(self, observation: dict[str, Any], reward: float, instruction: str) -> np.ndarray:
        return self._env.expert_action()

    def close(self) -> None:
        """See `Behaviour.close`: nothing is left to do."""


class PolicyInEpisode:
    """A policy in one episode: what it remembers, the rest of its chunk, its random numbers, and
    who corrects it."""

    disturbed = False
    acted = ""

    def __init__(
        self, config: PolicyBehaviour, policy: BatchedPolicy, env: SimEnv, seed: int
    ) -> None:
        self._policy = policy
        self._env = env
        self._state = EpisodeState()
        # of the episode alone, so that a sampling policy draws the same in whatever worker it runs
        self._rng = np.random.default_rng((seed, 4))
        self._chunk: list[np.ndarray] = []
        self._executed: list[np.ndarray] = []
        self._takeover: Takeover | None = None
        if config.takeover is not None:
            self._takeover = Takeover(config.takeover, env, seed)
            self._state.measure = config.takeover.policy_measure
        self.by_expert = False
        self.info: dict[str, Scalar] = {
            "behaviour": "policy",
            "policy": str(config.path),
            "temperature": config.temperature,
        }

    def act(self, observation: dict[str, Any], reward: float, instruction: str) -> np.ndarray:
        self._state.instruction = instruction
        self._state.reward += reward
        if not self._chunk:
            self._choose(observation)
        action = self._chunk.pop(0)
        self.by_expert = False
        if self._takeover is not None:
            expert = expert_label(self._env)
            proposal = Proposal(observation, action, expert, self._state.uncertainty, instruction)
            self.by_expert = self._takeover.expert_acts(proposal)
            if self.by_expert:
                action = expert
                self._chunk = []  # it looks again once the expert has acted
            self._executed.append(action)
        return action

    def _choose(self, observation: dict[str, Any]) -> None:
        """Asks the policy for its next chunk."""
        if self._executed:
            self._policy.tell_executed(self._state, np.stack(self._executed))
            self._executed = []
        self._state.robot_state = np.asarray(observation["state"], dtype=np.float32)
        self._state.privileged = privileged_extras(self._env).get(PRIVILEGED)
        # a batch of one: how sums are rounded depends on the size of a batch
        images = {}
        for camera, image in observation["images"].items():
            images[camera] = image[None]
        seed = int(self._rng.integers(2**62))
        with inference(self._policy.actor, threads=1):  # it is one of many workers
            (chunk,) = self._policy.act([self._state], images, seed=seed)
        self._chunk = list(chunk)
        self._state.reward = 0.0

    def close(self) -> None:
        """See `Behaviour.close`."""
        if self._takeover is not None:
            self._takeover.close()


class Behaviours:
    """Draws what acts in each episode. A policy is loaded when it is first drawn, and kept."""

    def __init__(self, config: BehavioursConfig) -> None:
        self.config = config
        self._policies: dict[int, BatchedPolicy] = {}

    def begin(self, env: SimEnv, seed: int) -> Behaviour:
        """What acts in the episode of this seed, whose env has just been reset.

        Raises ConfigError if a mistake or detour is drawn and the env knows no other
        instruction."""
        # A stream of its own: the env draws from (seed), noise from (seed, 1), snapshots from
        # (seed, 2) and a policy from (seed, 4). So the choice does not change the start.
        rng = np.random.default_rng((seed, 3))
        drawn = rng.random() - self.config.mistaken
        if drawn < 0:
            acted = env.mistake(rng)
            if not acted:
                name = env.task.name
                raise ConfigError(
                    [f"behaviours.mistaken: {name} knows no other instruction; set it to 0"]
                )
            return ExpertBehaviour(env, "mistaken", acted)
        half, drawn = self._half(env, drawn)
        if half is not None:
            return half
        for number, policy in enumerate(self.config.policies):
            drawn -= policy.share
            if drawn < 0:
                return PolicyInEpisode(policy, self._policy(number), env, seed)
        detours = self.config.detours
        # drawn for this alone: without detours the stream is that of a config without the key
        if detours is not None and rng.random() < detours.share:
            return Detours(detours, env, rng)
        return ExpertBehaviour(env)

    def _half(self, env: SimEnv, drawn: float) -> tuple[ExpertBehaviour | None, float]:
        """The expert of one half if that is drawn, and what is left of the drawn number."""
        halves = self.config.halves
        drawn -= halves.first
        if drawn < 0:
            acted = env.first_goal()
            if not acted:
                raise ConfigError([_no_halves("first", env)])
            return ExpertBehaviour(env, "first half", acted), drawn
        drawn -= halves.second
        if drawn < 0:
            if not env.skip_first_goal():
                raise ConfigError([_no_halves("second", env)])
            return ExpertBehaviour(env, "second half"), drawn
        return None, drawn

    def _policy(self, number: int) -> BatchedPolicy:
        if number not in self._policies:
            config = self.config.policies[number]
            settings = RolloutSettings(
                replan_every=config.replan_every, temperature=config.temperature
            )
            self._policies[number] = BatchedPolicy(_load(config.path), settings)
        return self._policies[number]

    def check(self, env: EnvConfig) -> list[str]:
        """Loads every policy; returns their digests, which must be the same when resuming.

        Raises:
            CheckpointError: a checkpoint is missing or damaged.
            SpecError: a policy does not fit the env.
            UserError: a policy cannot be used as its options say.
        """
        digests = []
        for number, policy in enumerate(self.config.policies):
            self._policy(number).check(env.spec())
            digests.append(_digest(policy.path))
        return digests

    def longest_chunk(self) -> int:
        """The most actions that one of the policies plans at once."""
        policies = range(len(self.config.policies))
        return max(int(getattr(self._policy(number).actor, "chunk", 1)) for number in policies)


def _no_halves(key: str, env: SimEnv) -> str:
    return (
        f"behaviours.halves.{key}: {env.task.name} asks for one goal, or its first cannot be "
        "reached; set it to 0, or env.tasks: [two-step]"
    )


def _load(path: Path) -> Actor:
    """A policy, or an exported one, for one of many workers."""
    if is_exported(path):
        return load(path, threads=1)
    from vla.models.policy import load_policy  # imports the libraries of all policies

    return load_policy(path)


def _digest(folder: Path) -> str:
    """Tells checkpoints apart by their config and weights."""
    # by content: a path may hold another checkpoint when the collection is resumed
    digest = hashlib.sha256()
    files = [*folder.glob("*.json"), *folder.glob("*.safetensors")]
    for path in sorted(path for path in files if path.is_file()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]

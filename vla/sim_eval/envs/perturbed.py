"""Any env under a perturbation: the same tasks and seeds, so that its episodes are paired
with those of the env alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import PrivateAttr, field_validator, model_validator

from vla.config import Choice, ConfigError, register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite
from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.sim_eval.perturbations import Episode, Perturbation, kind_named, level_of, missing, unfit
from vla.types import Spec


@register("envs", "perturbed")
class PerturbedConfig(EnvConfig):
    """Another env under one perturbation; `vla eval perturb` plays them all."""

    type: Literal["perturbed"] = "perturbed"
    env: Annotated[Any, Choice("envs", unlisted=["perturbed"])]
    """The env that is perturbed."""
    kind: str
    """What is changed: light, camera, colours, distractors, noise, blur, action_delay,
    observation_delay, mass, friction, initial_pose, paraphrase; a control: wrong_instruction,
    empty_instruction, blank_image, frozen_state; or a kind of a plug-in."""
    severity: int | None = None
    """1 (slight), 2 or 3 (strong); controls have none."""
    # It travels with the config: unpickling it in a worker imports the module that registers the
    # kind, of which the worker would know nothing by the name alone.
    _kind_class: Any = PrivateAttr(default=None)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return kind_named(kind).kind

    @model_validator(mode="after")
    def _possible(self) -> PerturbedConfig:
        level_of(self.kind, self.severity)
        problem = missing(self.kind, self.spec())
        if problem:
            raise ValueError(f"{self.kind}: {problem}")
        self._kind_class = kind_named(self.kind)
        return self

    def spec(self) -> Spec:
        spec: Spec = self.env.spec()
        return spec

    def suite(self) -> Suite:
        suite: Suite = self.env.suite()
        name = self.kind if self.severity is None else f"{self.kind} {self.severity}"
        # the same tasks, or episodes could not be paired with those of the env alone
        return replace(suite, name=f"{suite.name} ({name})")

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError if there is no such task, or the env lacks what
        the perturbation changes."""
        # dict.fromkeys keeps the suite's order, on which the drawing of a wrong instruction depends
        instructions = tuple(dict.fromkeys(other.instruction for other in self.env.suite().tasks))
        env = self.env.make(task)
        try:
            return PerturbedEnv(env, self.kind, self.severity, instructions)
        except ConfigError:
            env.close()
            raise

    def starts_per_task(self) -> int | None:
        starts: int | None = self.env.starts_per_task()
        return starts

    def evaluation_seed(self, seed: int, episode: int) -> int:
        return int(self.env.evaluation_seed(seed, episode))

    def versions(self) -> dict[str, str]:
        versions: dict[str, str] = self.env.versions()
        return versions


class PerturbedEnv(SimEnv):
    """An env under a perturbation. Everything that an episode changes in it is
    undone before the next begins.

    Args:
        env: what is perturbed; this env owns it, and closes it.
        kind: name of the perturbation; None changes nothing.
        severity: 1 to 3; None for a control.
        instructions: those of the suite, for the control that gives a wrong one.

    Raises ConfigError if the env lacks what the perturbation changes.
    """

    def __init__(
        self,
        env: SimEnv,
        kind: str | None,
        severity: int | None = None,
        instructions: tuple[str, ...] = (),
    ) -> None:
        self.env, self.instructions = env, instructions
        self._class = Perturbation if kind is None else kind_named(kind)
        self._level = None if kind is None else level_of(kind, severity)
        problem = "" if kind is None else unfit(kind, env)
        if problem:
            raise ConfigError([f"{kind}: {problem}"])
        self.robot_spec, self.task = env.robot_spec, env.task
        self.metadata, self.render_mode = env.metadata, env.render_mode
        # gymnasium only declares the spaces: an env that sets none has no such attribute
        for name in ("observation_space", "action_space"):
            if hasattr(env, name):
                setattr(self, name, getattr(env, name))
        self._editor: SceneEditor | None = None
        self._perturbation: Perturbation | None = None
        self._share_simulation()

    def _share_simulation(self) -> None:
        self.model, self.data = self.env.model, self.env.data
        self.renderer = self.env.renderer

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode of the env inside, and what its seed makes of the perturbation.

        Raises ConfigError if this episode cannot be perturbed so, for
        example for want of a paraphrase.
        """
        super().reset(seed=seed)
        own_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        # before the inner reset, which may read the model: a start must be that of the clean env
        self._undo()
        self.env.render_images = False  # the scene is drawn after it has changed
        _, info = self.env.reset(seed=seed, options=options)
        self.expert_name = self.env.expert_name
        self.expert_has_memory = self.env.expert_has_memory
        # an env may build a new model in its reset
        self._share_simulation()
        if "model" in self._class.needs:
            self._editor = SceneEditor(self.model)
            self._extras = self.renderer.extras if self.renderer is not None else ()
        instruction = str(info["instruction"])
        episode = Episode(self.env, own_seed, instruction, self.instructions, self._editor)
        problem = self._class.obstacle(episode)
        if problem:
            raise ConfigError([f"{self._class.kind}: {problem}"])
        self._perturbation = self._class(episode, self._level)
        # steps played before the policy takes over have an info of their own
        info = self._perturbation.begin() or info
        self._instruction = self._perturbation.instruction()
        self._changes_instruction = self._instruction != instruction
        self._steps = 0
        self._watched = self.render_images
        return self.observe(), self._perturbed_info(info)

    def _undo(self) -> None:
        if self._editor is not None:
            self._editor.restore()
            if self.renderer is not None:
                self.renderer.extras = self._extras
        self._editor = None

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Raises RuntimeError before `reset`, and what the env inside raises."""
        if self._perturbation is None:
            raise RuntimeError("step before reset: call reset first")
        self.env.render_images = self._draws
        action = self._perturbation.action(np.asarray(action, dtype=np.float32))
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._steps += 1
        info = self._perturbed_info(info)
        return self._seen(observation), float(reward), terminated, truncated, info

    def observe(self) -> dict[str, Any]:
        self.env.render_images = self._draws
        return self._seen(self.env.observe())

    @property
    def _draws(self) -> bool:
        """Whether the env inside draws: a picture that is shown late must be drawn
        before anyone asks for it."""
        return self.render_images or (self._class.looks_back and self._watched)

    def _seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        assert self._perturbation is not None
        seen = self._perturbation.observation(observation, self._steps)
        return seen if self.render_images else {**seen, "images": {}}

    def _perturbed_info(self, info: dict[str, Any]) -> dict[str, Any]:
        assert self._perturbation is not None
        found = dict(info)
        # other words hold for the whole episode; else sub-tasks are asked for as the env does
        if self._changes_instruction or "instruction" not in info:
            found["instruction"] = self._instruction
        if "failure_step" in info:
            # the env counts steps that were played before the policy took over; the policy does not
            started = self._perturbation.episode.started
            found["failure_step"] = max(-1, info["failure_step"] - started)
        return found

    def expert_action(self) -> np.ndarray:
        """Of the env inside: the expert knows the true state, whatever a policy is shown."""
        return self.env.expert_action()

    def paraphrases(self) -> tuple[str, ...]:
        return self.env.paraphrases()

    def held_out_paraphrases(self) -> tuple[str, ...]:
        return self.env.held_out_paraphrases()

    def wrong_instructions(self) -> tuple[str, ...]:
        return self.env.wrong_instructions()

    def achieved(self) -> frozenset[str]:
        return self.env.achieved()

    def mistake(self, rng: np.random.Generator) -> str:
        return self.env.mistake(rng)

    def follow_instruction(self) -> None:
        self.env.follow_instruction()

    def first_goal(self) -> str:
        return self.env.first_goal()

    def skip_first_goal(self) -> bool:
        return self.env.skip_first_goal()

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self._undo()
        self.env.close()


__all__ = ["PerturbedConfig", "PerturbedEnv"]

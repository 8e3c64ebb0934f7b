"""Any env under a perturbation: the same tasks and seeds, so that its episodes are paired with those of the env alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import field_validator, model_validator

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
    """What is changed: light, camera, colours, distractors, noise, blur, action_delay, observation_delay, mass, friction,
    initial_pose, paraphrase; or a control: wrong_instruction, empty_instruction, blank_image, frozen_state."""
    severity: int | None = None
    """1 (slight), 2 or 3 (strong); controls have none."""

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        kind_named(kind)
        return kind

    @model_validator(mode="after")
    def _possible(self) -> PerturbedConfig:
        level_of(self.kind, self.severity)
        if problem := missing(self.kind, self.spec()):
            raise ValueError(f"{self.kind}: {problem}")
        return self

    def spec(self) -> Spec:
        spec: Spec = self.env.spec()
        return spec

    def suite(self) -> Suite:
        suite: Suite = self.env.suite()
        name = self.kind if self.severity is None else f"{self.kind} {self.severity}"
        return replace(suite, name=f"{suite.name} ({name})")

    def make(self, task: str) -> SimEnv:
        """Raises ConfigError where there is no such task, or the env lacks what the perturbation changes."""
        instructions = tuple(dict.fromkeys(other.instruction for other in self.env.suite().tasks))
        env = self.env.make(task)
        try:
            return PerturbedEnv(env, self.kind, self.severity, instructions)
        except ConfigError:
            env.close()
            raise

    def versions(self) -> dict[str, str]:
        versions: dict[str, str] = self.env.versions()
        return versions


class PerturbedEnv(SimEnv):
    """An env under a perturbation. Everything that an episode changes in it is undone before the next begins.

    Args:
        env: what is perturbed; this env owns it, and closes it.
        kind: name of the perturbation; None changes nothing.
        severity: 1 to 3; None for a control.
        instructions: those of the suite, for the control that gives a wrong one.

    Raises ConfigError where the env lacks what the perturbation changes.
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
        if kind is not None and (problem := unfit(kind, env)):
            raise ConfigError([f"{kind}: {problem}"])
        self.robot_spec, self.task = env.robot_spec, env.task
        for name in ("observation_space", "action_space", "metadata", "render_mode"):
            if hasattr(env, name):
                setattr(self, name, getattr(env, name))
        self._editor: SceneEditor | None = None
        self._perturbation: Perturbation | None = None
        self._refer()

    def _refer(self) -> None:
        self.model, self.data, self.renderer = self.env.model, self.env.data, self.env.renderer

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode of the env inside, and what its seed makes of the perturbation.

        Raises ConfigError where this episode cannot be perturbed so, for example for want of a paraphrase.
        """
        super().reset(seed=seed)
        own_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._undo()
        self.env.render_images = False  # the scene is drawn after it has changed
        _, info = self.env.reset(seed=seed, options=options)
        self.expert_name = self.env.expert_name
        self._refer()
        if "model" in self._class.needs:
            self._editor = SceneEditor(self.model)
            self._extras = self.renderer.extras if self.renderer is not None else ()
        episode = Episode(
            self.env, own_seed, str(info["instruction"]), self.instructions, self._editor
        )
        if problem := self._class.obstacle(episode):
            raise ConfigError([f"{self._class.kind}: {problem}"])
        self._perturbation = self._class(episode, self._level)
        info = self._perturbation.begin() or info
        self._instruction, self._steps, self._watched = (
            self._perturbation.instruction(),
            0,
            self.render_images,
        )
        return self.observe(), self._told(info)

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
        return self._seen(observation), float(reward), terminated, truncated, self._told(info)

    def observe(self) -> dict[str, Any]:
        self.env.render_images = self._draws
        return self._seen(self.env.observe())

    @property
    def _draws(self) -> bool:
        """Whether the env inside draws: a picture that is shown late must be drawn before anyone asks for it."""
        return self.render_images or (self._class.looks_back and self._watched)

    def _seen(self, observation: dict[str, Any]) -> dict[str, Any]:
        assert self._perturbation is not None
        seen = self._perturbation.observation(observation, self._steps)
        return seen if self.render_images else {**seen, "images": {}}

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        assert self._perturbation is not None
        told = {**info, "instruction": self._instruction}
        if "failure_step" in info:
            told["failure_step"] = max(
                -1, info["failure_step"] - self._perturbation.episode.started
            )
        return told

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

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self._undo()
        self.env.close()


__all__ = ["PerturbedConfig", "PerturbedEnv"]

"""An expert that acts out another instruction for a while, changes its mind, and goes on.

People's demonstrations are like this: most of them are solved in the end, and not every moment of
them is worth imitating. Such data tell apart what weighs whole episodes from what weighs moments.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from vla.config import Config, ConfigError
from vla.data.detours import DETOURS
from vla.data.episode import Scalar
from vla.sim_eval.env import SimEnv

Duration = Annotated[int, Field(ge=1)]
"""Control steps."""


class DetoursConfig(Config):
    """Detours of the expert, drawn by an episode's seed.

    Whether the task is solved is judged by the recorded instruction throughout.
    """

    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the expert's own episodes that have detours."""
    count: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = (1, 3)
    """Least and greatest number of detours in an episode; null: one after the other for as long as
    the episode lasts, so that its end is no better than its start."""
    steps: tuple[Duration, Duration] = (8, 26)
    """Shortest and longest detour, control steps."""
    between: tuple[Duration, Duration] = (5, 14)
    """Shortest and longest time between two detours in which the expert follows its instruction,
    control steps."""
    starts: float = Field(default=0.9, ge=0.0, le=1.0)
    """Share of these episodes that begin with a detour."""

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> DetoursConfig:
        for name in ("count", "steps", "between"):
            bounds = getattr(self, name)
            if bounds is not None and bounds[0] > bounds[1]:
                low, high = bounds
                raise ValueError(
                    f"{name}: {low} to {high} holds no number; write the smaller first: "
                    f"[{high}, {low}]"
                )
        return self


class Detours:
    """The expert of one episode; `info["detours"]` says which of its steps were detours.

    Args:
        env: just reset.
        rng: of the episode alone.

    Raises ConfigError if the env knows no other instruction.
    """

    disturbed = True
    acted = ""
    by_expert = True

    def __init__(self, config: DetoursConfig, env: SimEnv, rng: np.random.Generator) -> None:
        self.config = config
        self._env = env
        self._rng = rng
        self._step = 0
        self._spans: list[list[int]] = []
        self._wrong = bool(rng.random() < config.starts)
        # None: until the episode ends
        self._detours_left = None if config.count is None else self._draw(config.count)
        self._steps_left = self._begin()

    @property
    def info(self) -> dict[str, Scalar]:
        """`detours` is JSON: [first step, step after the last] of each detour so far."""
        spans = []
        for first, stop in self._spans:
            # an episode may end within a detour
            spans.append([first, min(stop, self._step)])
        return {"behaviour": "detours", DETOURS: json.dumps(spans)}

    def act(self, observation: dict[str, Any], reward: float, instruction: str) -> np.ndarray:
        """See `Behaviour.act`."""
        if self._steps_left == 0:
            self._wrong = not self._wrong
            self._steps_left = self._begin()
        if self._steps_left is not None:
            self._steps_left -= 1
        self._step += 1
        return self._env.expert_action()

    def close(self) -> None:
        """See `Behaviour.close`: nothing is left to do."""

    def _begin(self) -> int | None:
        """Starts a detour or ends one; how many steps that lasts, None for the whole rest."""
        if not self._wrong:
            self._env.follow_instruction()
            return self._draw(self.config.between) if self._detours_left != 0 else None
        if not self._env.mistake(self._rng):
            raise ConfigError(
                [
                    f"behaviours.detours: {self._env.task.name} knows no other instruction; set it "
                    "to null"
                ]
            )
        if self._detours_left is not None:
            self._detours_left -= 1
        steps = self._draw(self.config.steps)
        self._spans.append([self._step, self._step + steps])
        return steps

    def _draw(self, bounds: tuple[int, int]) -> int:
        low, high = bounds
        return int(self._rng.integers(low, high + 1))


__all__ = ["Detours", "DetoursConfig"]

"""What a perturbation is: one way in which an episode differs from those of the
training, at three severities.

`PerturbedEnv` wraps an env and asks its perturbation at fixed places: once after the env's reset
(`begin`), then for every action, observation and instruction that passes. All draws depend on the
kind and the episode's seed alone, and a greater severity makes the same change greater.

A kind is a subclass under `@register("perturbations", KIND)`, in a file of this
folder or in another package.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from vla.common import registry
from vla.config import ConfigError
from vla.sim_eval.env import SimEnv
from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.types import Spec

SEVERITIES = (1, 2, 3)
Need = Literal["cameras", "state", "model", "renderer"]
Observed = dict[str, Any]


@dataclass
class Episode:
    """What a perturbation knows of the episode that it changes.

    Attributes:
        env: the env inside, after its reset.
        seed: of the episode.
        instruction: the right one.
        others: instructions of the other tasks of the suite.
        editor: of the env's model, for the perturbations that need it.
        started: control steps that were played before the policy takes over.
    """

    env: SimEnv
    seed: int
    instruction: str
    others: tuple[str, ...] = ()
    editor: SceneEditor | None = None
    started: int = field(default=0, init=False)


class Perturbation:
    """One kind of perturbation in one episode. This base class changes nothing.

    Class attributes, which a subclass sets in its body and which are checked there (ValueError):
        kind: the name under which it is registered.
        levels: what the severities 1, 2 and 3 mean, in `unit`; empty for a
            control, which has no severity.
        unit: a text with the level in it as `{}`; of a control: what it does.
        needs: what the env must have.
        looks_back: whether pictures of earlier steps are shown.
    """

    kind: ClassVar[str] = "none"
    levels: ClassVar[tuple[Any, ...]] = ()
    unit: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ()
    looks_back: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # here, not when it is played: a mistake shows where the class is written
        name = cls.__name__
        if len(cls.levels) not in (0, len(SEVERITIES)):
            raise ValueError(
                f"{name}.levels: has {len(cls.levels)}, expected one for each of the severities "
                "1 to 3, or none for a control"
            )
        # without a place for it the tables would describe three severities by one and the same text
        if cls.levels and "{}" not in cls.unit:
            raise ValueError(f"{name}.unit: is {cls.unit!r}; write {{}} where the level belongs")
        unknown = set(cls.needs) - set(get_args(Need))
        if unknown:
            known = ", ".join(get_args(Need))
            raise ValueError(f"{name}.needs: has {sorted(unknown)[0]!r}; expected some of {known}")

    def __init__(self, episode: Episode, level: Any = None) -> None:
        """level: one of `levels`; None for a control."""
        self.episode, self.level = episode, level

    def rng(self, *numbers: int) -> np.random.Generator:
        """A generator of (seed, kind) and, for example, the step."""
        # crc32, not hash(): Python salts the hashes of strings differently in every process
        kind = zlib.crc32(self.kind.encode())
        return np.random.default_rng([self.episode.seed, kind, *numbers])

    @property
    def editor(self) -> SceneEditor:
        assert self.episode.editor is not None, "a perturbation that edits the scene needs a model"
        return self.episode.editor

    @classmethod
    def obstacle(cls, episode: Episode) -> str:
        """Why this episode cannot be perturbed so, beyond what `needs` says; empty if it can."""
        return ""

    def begin(self) -> dict[str, Any] | None:
        """After the env's reset, before its first observation is drawn.

        Returns the info if steps were played.
        """
        return None

    def action(self, action: np.ndarray) -> np.ndarray:
        """What the env executes in place of `action` (A,), once per control step."""
        return action

    def observation(self, observation: Observed, step: int) -> Observed:
        """What the policy sees after `step` control steps in place of `observation`,
        whose arrays are left alone.

        May be called several times for a step, or without pictures.
        """
        return observation

    def instruction(self) -> str:
        """The instruction that the policy is given."""
        return self.episode.instruction


def kind_named(name: str) -> type[Perturbation]:
    """The class registered as `name`. Raises ConfigError with the nearest name if there is none."""
    try:
        found = registry.lookup("perturbations", name)
    except KeyError:
        unknown = registry.unknown_name("perturbations", name)
        raise ConfigError([f"no perturbation {name!r}{unknown}"]) from None
    # `kind` seeds the draws and names the condition's folder: two kinds must never share one
    current = registry.current_name("perturbations", name)
    fits = isinstance(found, type) and issubclass(found, Perturbation)
    if not fits or found.kind != current:
        raise ConfigError(
            [
                f"perturbation {name!r}: {found.__module__}.{found.__qualname__} must derive from "
                f"Perturbation and say `kind = {current!r}`"
            ]
        )
    return found


def level_of(kind: str, severity: int | None) -> Any:
    """What a severity means for a kind; None for controls.

    Raises ConfigError if the two do not fit.
    """
    levels = kind_named(kind).levels
    if not levels and severity is not None:
        raise ConfigError(
            [f"severity: is {severity}, but {kind} is a control and has none; leave it out"]
        )
    if levels and severity not in SEVERITIES:
        raise ConfigError([f"severity: is {severity} for {kind}; expected 1, 2 or 3"])
    return levels[severity - 1] if levels and severity is not None else None


def describe(kind: str, severity: int | None = None) -> str:
    """What is done, with its numbers; without a severity those of all three."""
    cls = kind_named(kind)
    if not cls.levels:
        return cls.unit
    levels = cls.levels if severity is None else (level_of(kind, severity),)
    # :g, so that 2.0 is shown as 2
    texts = [f"{level:g}" if isinstance(level, float) else str(level) for level in levels]
    return cls.unit.format(", ".join(texts))


def missing(kind: str, spec: Spec) -> str:
    """Why a robot does not allow this kind, as far as its spec says; empty if it does."""
    # by the spec alone: a config is refused before any env is built
    needs = kind_named(kind).needs
    if "cameras" in needs and not spec.cameras:
        return "it changes pictures, but the env has no cameras"
    if "state" in needs and spec.state_dim == 0:
        return "it changes the robot's state, but the env has none"
    return ""


def unfit(kind: str, env: SimEnv) -> str:
    """Why an env does not allow this kind; empty if it does."""
    needs, name = kind_named(kind).needs, type(env).__name__
    if "model" in needs and (env.model is None or env.data is None):
        return f"it changes the MuJoCo model, but {name} has none: its `model` or `data` is None"
    if "renderer" in needs and env.renderer is None:
        return f"it adds to the picture, but {name} draws it itself: its `renderer` is None"
    return missing(kind, env.robot_spec)

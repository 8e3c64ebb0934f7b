"""Tabletop: a suite in which only the instruction tells what to do.

Every scene holds three objects of different colour and shape, a bowl, a tray and a drawer, whatever is asked. Ten
families of instructions (`tabletop_language.py`), four splits:

- "seen": pairs, wordings and compositions of training; starts are drawn from the seed.
- "unseen_pairs": the object asked for is a pair of colour and shape that training never shows.
- "paraphrase": wordings that training never shows.
- "long": two goals in compositions that training never shows.

Actions are displacements of the hand and the gripper's opening in [-1, 1], as in Meta-World.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from pydantic import Field, model_validator

from vla.common.names import did_you_mean
from vla.common.versions import installed_versions
from vla.config import Config, ConfigError, register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.tabletop_parts import scene
from vla.sim_eval.envs.tabletop_parts.expert import Expert
from vla.sim_eval.envs.tabletop_parts.goals import Progress, Table
from vla.sim_eval.envs.tabletop_parts.language import (
    FAMILIES,
    TRAIN_PAIRS,
    Command,
    Family,
    Split,
    Thing,
    draw_command,
    draw_things,
    other_commands,
    scene_commands,
    texts,
)
from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.sim_eval.rendering import SceneRenderer, choose_backend, gl_renderer
from vla.types import Spec

STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")
TABLETOP_VERSION = "1"
"""Raised whenever scene, goals or grammar change what an episode is: results of two versions do not compare."""
TWO_GOALS: tuple[Family, ...] = ("sort", "two-step")
_EXAMPLE: dict[Family, str] = {
    "reach": "Touch the red cube",
    "push": "Push the blue ball to the left",
    "pick": "Pick up the yellow cylinder",
    "place": "Put the green ball in the bowl",
    "stack": "Stack the red cube on the yellow cube",
    "open-drawer": "Open the drawer",
    "close-drawer": "Close the drawer",
    "sort": "Sort: the red cube in the bowl, the blue ball in the tray",
    "other-one": "Pick up the cube that is not red",
    "two-step": "Put the red cube in the bowl, then open the drawer",
}


class RandomisationConfig(Config):
    """Domain randomisation, drawn anew for every episode. Strength 0 is off; 1 is what `scene_edits` calls strength 1."""

    light: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Direction, brightness and colour of the light."""
    camera: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Pose of the front camera."""
    texture: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Chance that the table gets another surface."""
    colours: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Shades of everything; low strengths keep a colour's name true."""
    mass: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Weights of the objects."""
    friction: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    """Friction of all surfaces."""
    latency: Annotated[int, Field(ge=0, le=10)] = 0
    """Greatest delay of the actions in control steps; drawn from 0 to this."""


@register("envs", "tabletop")
class TabletopConfig(EnvConfig):
    """Objects, receptacles and a drawer on a table; the instruction says what to do with which."""

    type: Literal["tabletop"] = "tabletop"
    split: Split = "seen"
    """What the commands are drawn from: seen, unseen_pairs, paraphrase or long."""
    tasks: tuple[Family, ...] | None = None
    """Families by name, for example [reach, pick]; by default all that the split can ask for."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 96
    """Height and width of the pictures in pixels."""
    cameras: Annotated[tuple[Literal["front", "wrist"], ...], Field(min_length=1)] = (
        "front",
        "wrist",
    )
    """What the policy sees."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `full` adds shadows, reflections and anti-aliasing."""
    horizon: Annotated[int, Field(ge=1)] = 120
    """Control steps of a command with one goal; those with two get twice as many."""
    randomisation: RandomisationConfig = RandomisationConfig()
    """What else changes from episode to episode."""

    @model_validator(mode="after")
    def _families_fit(self) -> TabletopConfig:
        possible = families_of(self.split)
        if self.tasks is not None and not self.tasks:
            raise ValueError("tasks: is empty; name at least one family, or leave it out")
        wrong = [task for task in self.tasks or () if task not in possible]
        if wrong:
            raise ValueError(
                f"tasks: the split {self.split!r} asks for {', '.join(possible)}, not for {wrong[0]!r}"
            )
        if len(set(self.tasks or ())) != len(self.tasks or ()):
            raise ValueError("tasks: a family is named twice")
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError("cameras: a camera is named twice")
        return self

    def spec(self) -> Spec:
        return Spec(
            cameras=dict.fromkeys(self.cameras, (self.image_size, self.image_size)),
            state_names=STATE_NAMES,
            action_names=ACTION_NAMES,
            action_low=(-1.0,) * 4,
            action_high=(1.0,) * 4,
            control_hz=scene.CONTROL_HZ,
        )

    def suite(self) -> Suite:
        families = self.tasks or families_of(self.split)
        return Suite(f"tabletop/{self.split}", tuple(self._task(family) for family in families))

    def _task(self, family: Family) -> Task:
        horizon = self.horizon * (2 if family in TWO_GOALS else 1)
        return Task(family, self.split, _EXAMPLE[family], horizon=horizon)

    def make(self, task: str) -> TabletopEnv:
        """Raises ConfigError where there is no such family, RenderingError where the machine cannot render."""
        if task not in FAMILIES:
            hint = did_you_mean(task, FAMILIES)
            raise ConfigError(
                [f"tabletop has no family {task!r}{hint}; it has: {', '.join(FAMILIES)}"]
            )
        return TabletopEnv(self, self._task(task))  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        return {
            "tabletop": TABLETOP_VERSION,
            **installed_versions(("mujoco", "gymnasium")),
            "gl_renderer": gl_renderer(),
            "render_preset": self.preset,
        }


def families_of(split: Split) -> tuple[Family, ...]:
    """The families of which a split can ask something that is its own."""
    if split == "long":
        return ("two-step",)
    if split == "unseen_pairs":
        return tuple(family for family in FAMILIES if family not in ("open-drawer", "close-drawer"))
    return FAMILIES


class TabletopEnv(SimEnv):
    """One family of commands as a gymnasium env; see `SimEnv` for what it observes and tells.

    Rewards are 1 at a step at which the command is fulfilled, else 0. It never terminates by itself: whoever
    runs it decides what success ends. It truncates at the horizon.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": scene.CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init__(self, config: TabletopConfig, task: Task) -> None:
        choose_backend()  # before mujoco is imported
        import mujoco

        self._mujoco = mujoco
        self.config, self.task, self.robot_spec = config, task, config.spec()
        size = config.image_size
        pictures: dict[str, gymnasium.Space[Any]] = {
            c: gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8) for c in config.cameras
        }
        state = gymnasium.spaces.Box(-np.inf, np.inf, (len(STATE_NAMES),), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"images": gymnasium.spaces.Dict(pictures), "state": state}
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)
        self.model = mujoco.MjModel.from_xml_string(scene.model_xml())
        self.data = mujoco.MjData(self.model)
        self.table = Table(self.model, self.data)
        self.renderer = SceneRenderer(self.model, size, size, config.preset)
        self._cameras = {name: int(self.model.camera(name).id) for name in config.cameras}
        self._editor = SceneEditor(self.model)
        self._progress: Progress | None = None

    # --- episodes -----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new scene and command. The same seed gives the same; without one, the next of the present sequence."""
        super().reset(seed=seed)
        rng = self.np_random
        self._mujoco.mj_resetData(self.model, self.data)
        self._editor.restore()
        things = draw_things(rng, self.task.name, self.config.split, scene.SLOTS)  # type: ignore[arg-type]
        self._lay_table(rng, things)
        self.command = draw_command(
            rng,
            self.task.name,  # type: ignore[arg-type]
            self.config.split,
            drawer_open=self.table.drawer > 0.5 * scene.DRAWER_TRAVEL,
        )
        wordings = texts(self.command, things, held_out=self.config.split == "paraphrase")
        self._instruction = wordings[rng.integers(len(wordings))]
        self._randomise(rng)
        self._mujoco.mj_step(self.model, self.data, 40)  # things come to rest
        self._target = np.array(self.table.hand)
        self._progress = Progress(self.table, self.command)
        self._expert = Expert(self._progress)
        self._sayable = [(texts(c, things)[0], c) for c in scene_commands(things)]
        self._steps = 0
        return self.observe(), self._info()

    def _lay_table(self, rng: np.random.Generator, things: tuple[Thing, ...]) -> None:
        """Draws where everything stands, the same for all families: the scene must not tell what is asked."""
        table = self.table
        table.things = things
        families = {"open-drawer": 0.0, "close-drawer": scene.DRAWER_TRAVEL}
        drawn = scene.DRAWER_TRAVEL * float(rng.integers(2))
        table.set_drawer(families.get(self.task.name, drawn))
        cabinet = float(rng.uniform(-0.15, 0.15))
        table.place_fixture("cabinet", cabinet, scene.CABINET_Y)
        spots = lay_out(rng, cabinet)
        for name, (x, y) in zip(scene.RECEPTACLES, spots, strict=False):
            table.place_fixture(name, x, y)
        for slot, (thing, spot) in enumerate(
            zip(things, spots[len(scene.RECEPTACLES) :], strict=True)
        ):
            self._dress(slot, thing)
            height = scene.SHAPES[thing.shape].half_height
            table.place(slot, np.array([*spot, height]), float(rng.uniform(-0.2, 0.2)))
        hand = rng.uniform(scene.HAND_LOW, scene.HAND_HIGH)
        self.data.qpos[:3] = hand
        self.data.qpos[3:5] = scene.FINGER_TRAVEL
        self.data.ctrl[:] = [*hand, scene.FINGER_TRAVEL, scene.FINGER_TRAVEL]
        self._mujoco.mj_forward(self.model, self.data)

    def _dress(self, slot: int, thing: Thing) -> None:
        """Switches on the geom of the thing's shape, in its colour."""
        for name in scene.SHAPES:
            geom, on = self.model.geom(f"object{slot}_{name}").id, name == thing.shape
            self.model.geom_rgba[geom] = [*scene.COLOURS[thing.colour], float(on)]
            self.model.geom_contype[geom] = self.model.geom_conaffinity[geom] = int(on)

    def _randomise(self, rng: np.random.Generator) -> None:
        config = self.config.randomisation
        self._delayed: list[np.ndarray] = []
        self._latency = int(rng.integers(config.latency + 1)) if config.latency else 0
        if config.light:
            self._editor.light(rng, config.light)
        if config.camera:
            self._editor.camera(rng, config.camera, names=("front",))
        if config.colours:
            self._editor.colours(rng, config.colours)
        if config.texture and rng.random() < config.texture:
            materials = [self.model.material(i).id for i in range(self.model.nmat)]
            self.model.geom_matid[self.model.geom("table").id] = materials[
                rng.integers(len(materials))
            ]
        if config.mass:
            self._editor.mass(rng, config.mass)
        if config.friction:
            self._editor.friction(rng, config.friction)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to [-1, 1]. Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`."""
        action = np.asarray(action, dtype=np.float32)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(
                f"action: expected {self.action_space.shape} finite numbers, got {action}"
            )
        if self._progress is None:
            raise RuntimeError("step before reset: call reset first")
        action = self._late(np.clip(action, -1.0, 1.0))
        # The target never runs away from a hand that is held up by something.
        hand = self.table.hand
        near = np.clip(self._target, hand - scene.STEP_METRES, hand + scene.STEP_METRES)
        self._target = np.clip(
            near + scene.STEP_METRES * action[:3], scene.WORKSPACE_LOW, scene.WORKSPACE_HIGH
        )
        finger = scene.FINGER_TRAVEL * (action[3] + 1) / 2
        before = np.array(self.data.ctrl)
        after = np.array([*self._target, finger, finger])
        for i in range(scene.SUBSTEPS):
            self.data.ctrl[:] = before + (after - before) * (i + 1) / scene.SUBSTEPS
            self._mujoco.mj_step(self.model, self.data)
        self._steps += 1
        success = self._progress.update()
        return self.observe(), float(success), False, self._steps >= self.task.horizon, self._info()

    def _late(self, action: np.ndarray) -> np.ndarray:
        self._delayed.append(action)
        if len(self._delayed) <= self._latency:
            return np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32)
        return self._delayed.pop(0)

    def expert_action(self) -> np.ndarray:
        if self._progress is None:
            raise RuntimeError("expert_action before reset: call reset first")
        return self._expert.action()

    # --- what is seen and told ----------------------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        state = np.array([*self.table.hand, self.table.opening], dtype=np.float32)
        names = self._cameras if self.render_images else {}
        return {
            "images": {name: self.renderer.render(self.data, i) for name, i in names.items()},
            "state": state,
        }

    def _info(self) -> dict[str, Any]:
        assert self._progress is not None
        failure, step = self._progress.failure()
        return {
            "instruction": self._instruction,
            "success": self._progress.success,
            "failure": failure,
            "failure_step": step,
        }

    def paraphrases(self) -> tuple[str, ...]:
        """The other wordings of the split's grammar."""
        wordings = texts(
            self.command, self.table.things, held_out=self.config.split == "paraphrase"
        )
        return tuple(text for text in wordings if text != self._instruction)

    def held_out_paraphrases(self) -> tuple[str, ...]:
        return texts(self.command, self.table.things, held_out=True)

    def wrong_instructions(self) -> tuple[str, ...]:
        """Commands about the other objects of this very scene, in their primary wording."""
        others: list[Command] = list(other_commands(self.command, self.table.things))
        return tuple(texts(other, self.table.things)[0] for other in others)

    def achieved(self) -> frozenset[str]:
        """Commands of one goal, in their primary wording."""
        assert self._progress is not None
        satisfied = self._progress.satisfied
        return frozenset(text for text, command in self._sayable if satisfied(command.goals[0]))

    def mistake(self, rng: np.random.Generator) -> str:
        """Of the kind that is asked, with another object or place; of any kind where there is none (the drawer's)."""
        assert self._progress is not None
        asked, satisfied = self.command.goals, self._progress.satisfied
        others = [
            (t, c)
            for t, c in self._sayable
            if c.goals[0] not in asked and not satisfied(c.goals[0])
        ]
        alike = [(t, c) for t, c in others if c.goals[0].kind == asked[0].kind] or others
        text, mistaken = alike[rng.integers(len(alike))]
        self._expert = Expert(Progress(self.table, mistaken))
        return text

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The picture of the first camera, uint8 (H, W, 3)."""
        return self.renderer.render(self.data, next(iter(self._cameras.values())))

    def close(self) -> None:
        self.renderer.close()


def lay_out(rng: np.random.Generator, cabinet: float) -> np.ndarray:
    """Places (x, y) for the receptacles and then the objects, metres: far enough from each other and from the drawer.

    cabinet: x of the drawer, which must have room to come out.
    """
    radii = [0.060] * len(scene.RECEPTACLES) + [0.048] * scene.SLOTS
    while True:
        spots: list[np.ndarray] = []
        for radius in radii:
            for _ in range(40):
                spot = rng.uniform(scene.OBJECTS_LOW, scene.OBJECTS_HIGH)
                before_drawer = abs(spot[0] - cabinet) < 0.062 + radius and spot[1] > 0.055 - radius
                apart = all(
                    np.linalg.norm(spot - s) > radius + r
                    for s, r in zip(spots, radii, strict=False)
                )
                if apart and not before_drawer:
                    spots.append(spot)
                    break
            else:
                break
        if len(spots) == len(radii):
            return np.stack(spots)


__all__ = ["TABLETOP_VERSION", "TRAIN_PAIRS", "TabletopConfig", "TabletopEnv"]

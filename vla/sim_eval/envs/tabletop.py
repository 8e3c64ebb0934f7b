"""Tabletop: a suite in which only the instruction tells what to do.

Every scene holds three objects of different colour and shape, a bowl, a tray and a drawer, whatever
is asked. Ten families of instructions (`tabletop_parts/language.py`), four splits:

- "seen": pairs, wordings and compositions of training; starts are drawn from the seed.
- "unseen_pairs": the object asked for is a pair of colour and shape that training never shows.
- "paraphrase": wordings that training never shows.
- "long": two goals in compositions that training never shows.

Actions are displacements of the hand and the gripper's opening in [-1, 1], as in Meta-World.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.common.names import did_you_mean
from vla.common.versions import installed_versions
from vla.config import Config, ConfigError, register
from vla.sim_eval.env import Caption, EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.tabletop_parts import scene
from vla.sim_eval.envs.tabletop_parts.captions import scene_captions
from vla.sim_eval.envs.tabletop_parts.expert import Expert
from vla.sim_eval.envs.tabletop_parts.goals import Progress, Table
from vla.sim_eval.envs.tabletop_parts.language import (
    FAMILIES,
    TRAIN_PAIRS,
    Command,
    Family,
    GoalName,
    Split,
    Thing,
    check_compositions,
    draw_command,
    draw_things,
    other_commands,
    scene_commands,
    texts,
)
from vla.sim_eval.envs.tabletop_parts.placing import lay_out
from vla.sim_eval.envs.tabletop_parts.scene_state import SCENE_STATE_NAMES, scene_state
from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.sim_eval.mujoco.spaces import action_space, checked_action, observation_space
from vla.sim_eval.rendering import RenderingError, SceneRenderer, choose_backend, gl_renderer
from vla.types import Spec

STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")
TABLETOP_VERSION = "1"
"""Raised whenever scene, goals or grammar change what an episode is: results of
two versions do not compare."""
# commands of two goals get twice the horizon
TWO_GOALS: tuple[Family, ...] = ("sort", "two-step")
# What a list of tasks shows; each episode draws a command of its own.
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
    """Domain randomisation, drawn for every episode.

    Strength 0 is off; 1 is what `scene_edits` calls strength 1.
    """

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
    cameras: tuple[Literal["front", "wrist"], ...] = ("front", "wrist")
    """What the policy sees; may be empty with `state: scene`."""
    state: Literal["hand", "scene"] = "hand"
    """What it feels: its hand, or in numbers also where everything is and what is asked, for quick
    experiments without pictures and instructions."""
    two_step: tuple[tuple[GoalName, GoalName], ...] | None = None
    """Compositions that the family two-step asks for, such as [[open, lift]]; by default those of
    the split."""
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
                f"tasks: the split {self.split!r} asks for {', '.join(possible)}, "
                f"not for {wrong[0]!r}"
            )
        if self.tasks is not None and len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks: a family is named twice")
        if not self.cameras and self.state != "scene":
            raise ValueError(
                "cameras: is empty, and the hand alone shows nothing of the scene; name one, or "
                "set state: scene"
            )
        if self.two_step is not None:
            check_compositions(self.two_step)
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError("cameras: a camera is named twice")
        return self

    def spec(self) -> Spec:
        return Spec(
            cameras=dict.fromkeys(self.cameras, (self.image_size, self.image_size)),
            state_names=STATE_NAMES + (SCENE_STATE_NAMES if self.state == "scene" else ()),
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
        """Raises ConfigError if there is no such family, RenderingError if
        the machine cannot render."""
        if task not in FAMILIES:
            hint = did_you_mean(task, FAMILIES)
            raise ConfigError(
                [f"tabletop has no family {task!r}{hint}; it has: {', '.join(FAMILIES)}"]
            )
        return TabletopEnv(self, self._task(task))  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        versions = {"tabletop": TABLETOP_VERSION, **installed_versions(("mujoco", "gymnasium"))}
        try:
            versions["gl_renderer"] = gl_renderer()
        except RenderingError:
            # nobody looks at pictures, but films
            if self.cameras:
                raise
        return versions | {"render_preset": self.preset}


def families_of(split: Split) -> tuple[Family, ...]:
    """The families of which a split can ask something that is its own."""
    if split == "long":
        return ("two-step",)
    if split == "unseen_pairs":
        return tuple(family for family in FAMILIES if family not in ("open-drawer", "close-drawer"))
    return FAMILIES


class TabletopEnv(SimEnv):
    """One family of commands as a gymnasium env; see `SimEnv` for its observations and info.

    Rewards are 1 at a step at which the command is fulfilled, else 0. It never terminates by
    itself: whoever runs it decides what success ends. It truncates at the horizon.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": scene.CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init__(self, config: TabletopConfig, task: Task) -> None:
        choose_backend(required=bool(config.cameras))  # before mujoco is imported
        import mujoco

        self._mujoco = mujoco
        self.config, self.task, self.robot_spec = config, task, config.spec()
        size = config.image_size
        self.observation_space = observation_space(self.robot_spec)
        self.action_space = action_space(self.robot_spec)
        # compiled once: a start switches geoms on and moves bodies, so that between episodes
        # nothing is compiled and no rendering context is made
        self.model = mujoco.MjModel.from_xml_string(scene.model_xml())
        self.data = mujoco.MjData(self.model)
        self.table = Table(self.model, self.data)
        self.renderer = SceneRenderer(self.model, size, size, config.preset)
        self._cameras = {name: int(self.model.camera(name).id) for name in config.cameras}
        self._editor = SceneEditor(self.model)
        self._progress: Progress | None = None

    # --- episodes ---------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new scene and command.

        The same seed gives the same; without one, the next of the present sequence.
        """
        super().reset(seed=seed)
        # one generator, and the order of its draws is part of what an episode is (TABLETOP_VERSION)
        rng = self.np_random
        self._mujoco.mj_resetData(self.model, self.data)
        # before the scene is laid: what the last episode's randomisation changed
        # must not leak into this one
        self._editor.restore()
        family: Family = self.task.name  # type: ignore[assignment]
        things = draw_things(rng, family, self.config.split, scene.SLOTS)
        self._lay_table(rng, things)
        drawer_open = self.table.drawer > 0.5 * scene.DRAWER_TRAVEL
        self.command = draw_command(
            rng, family, self.config.split, drawer_open=drawer_open, steps=self.config.two_step
        )
        wordings = texts(self.command, things, held_out=self.config.split == "paraphrase")
        self._instruction = wordings[rng.integers(len(wordings))]
        self._randomise(rng)
        self._mujoco.mj_step(self.model, self.data, 40)  # 0.2 s: things come to rest
        # progress is measured from where things have come to rest, so after these steps
        self._target = np.array(self.table.hand)
        self._progress = Progress(self.table, self.command)
        self._own_expert = Expert(self._progress)
        self._expert = self._own_expert
        # text and command of everything of one goal that could be asked here; the
        # key of `achieved` is the text
        self._sayable = [(texts(c, things)[0], c) for c in scene_commands(things)]
        self._steps = 0
        return self.observe(), self._info()

    def _lay_table(
        self,
        rng: np.random.Generator,
        things: tuple[Thing, ...],
    ) -> None:
        """Draws where everything stands, the same for all families: the scene
        must not tell what is asked."""
        table = self.table
        table.things = things
        # drawn by the drawer's own families too, which do not use it: the rest of the
        # scene is the same for a seed
        drawn = scene.DRAWER_TRAVEL * float(rng.integers(2))
        fixed = {"open-drawer": 0.0, "close-drawer": scene.DRAWER_TRAVEL}
        table.set_drawer(fixed.get(self.task.name, drawn))
        cabinet = float(rng.uniform(-0.15, 0.15))
        table.place_fixture("cabinet", cabinet, scene.CABINET_Y)
        spots = lay_out(rng, cabinet)
        first_object = len(scene.RECEPTACLES)
        for name, (x, y) in zip(scene.RECEPTACLES, spots[:first_object], strict=True):
            table.place_fixture(name, x, y)
        for slot, thing in enumerate(things):
            self._dress(slot, thing)
            spot = spots[first_object + slot]
            height = scene.SHAPES[thing.shape].half_height
            # at most 0.2 rad: the hand cannot turn, so its fingers must meet a cube's faces
            yaw = float(rng.uniform(-0.2, 0.2))
            table.place(slot, np.array([*spot, height]), yaw)
        hand = rng.uniform(scene.HAND_LOW, scene.HAND_HIGH)
        self.data.qpos[:3] = hand
        self.data.qpos[3:5] = scene.FINGER_TRAVEL
        # the controllers hold what is there, or the hand would jump at the first step
        self.data.ctrl[:] = [*hand, scene.FINGER_TRAVEL, scene.FINGER_TRAVEL]
        self._mujoco.mj_forward(self.model, self.data)

    def _dress(self, slot: int, thing: Thing) -> None:
        """Switches on the geom of the thing's shape, in its colour."""
        for name in scene.SHAPES:
            geom = self.model.geom(f"object{slot}_{name}").id
            on = name == thing.shape
            # unseen and untouchable: one without the other would leave a
            # ghost or an invisible obstacle
            self.model.geom_rgba[geom] = [*scene.COLOURS[thing.colour], float(on)]
            self.model.geom_contype[geom] = self.model.geom_conaffinity[geom] = int(on)

    def _randomise(self, rng: np.random.Generator) -> None:
        config = self.config.randomisation
        # what is off draws nothing: without randomisation the numbers are those of a
        # config that never had the key
        self._delayed: list[np.ndarray] = []
        self._latency = int(rng.integers(config.latency + 1)) if config.latency else 0
        if config.light:
            self._editor.light(rng, config.light)
        if config.camera:
            self._editor.camera(rng, config.camera, names=("front",))
        if config.colours:
            self._editor.colours(rng, config.colours)
        if config.texture and rng.random() < config.texture:
            # a material's id is its number
            table = self.model.geom("table").id
            self.model.geom_matid[table] = rng.integers(self.model.nmat)
        if config.mass:
            self._editor.mass(rng, config.mass)
        if config.friction:
            self._editor.friction(rng, config.friction)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to [-1, 1].

        Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`.
        """
        action = checked_action(action, self.robot_spec)
        if self._progress is None:
            raise RuntimeError("step before reset: call reset first")
        action = self._late(np.clip(action, -1.0, 1.0))
        # the target never runs away from a hand that is held up by something
        hand = self.table.hand
        near = np.clip(self._target, hand - scene.STEP_METRES, hand + scene.STEP_METRES)
        wanted = near + scene.STEP_METRES * action[:3]
        self._target = np.clip(wanted, scene.WORKSPACE_LOW, scene.WORKSPACE_HIGH)
        # -1 is closed, 1 is open
        finger = scene.FINGER_TRAVEL * (action[3] + 1) / 2
        before = np.array(self.data.ctrl)
        way = np.array([*self._target, finger, finger]) - before
        # a ramp over the control step: a jump of the target would throw what the fingers hold
        for i in range(scene.SUBSTEPS):
            self.data.ctrl[:] = before + way * (i + 1) / scene.SUBSTEPS
            self._mujoco.mj_step(self.model, self.data)
        self._steps += 1
        success = self._progress.update()
        truncated = self._steps >= self.task.horizon
        return self.observe(), float(success), False, truncated, self._info()

    def _late(self, action: np.ndarray) -> np.ndarray:
        """The action that is executed now, `_latency` steps after it was given."""
        self._delayed.append(action)
        if len(self._delayed) <= self._latency:
            # nothing was given yet: the hand stays, the gripper stays open
            return np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32)
        return self._delayed.pop(0)

    def expert_action(self) -> np.ndarray:
        if self._progress is None:
            raise RuntimeError("expert_action before reset: call reset first")
        return self._expert.action()

    def changing_parts(self) -> tuple[object, ...]:
        return (self, self._progress)

    # --- observations, info, instructions ---------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        state = np.array([*self.table.hand, self.table.opening], dtype=np.float32)
        if self.config.state == "scene":
            assert self._progress is not None
            numbers = scene_state(self.table, self.command, self._progress)
            state = np.concatenate([state, numbers])
        images = {}
        if self.render_images:
            for name, number in self._cameras.items():
                images[name] = self.renderer.render(self.data, number)
        return {"images": images, "state": state}

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

    def captions(self, rng: np.random.Generator) -> tuple[Caption, ...]:
        """See `tabletop_parts.captions`."""
        return scene_captions(self.table, rng)

    def mistake(self, rng: np.random.Generator) -> str:
        """Of the kind that is asked, with another object or place; of any kind if
        there is none (the drawer's)."""
        assert self._progress is not None
        asked = self.command.goals
        # what is fulfilled already would make an episode in which the expert does nothing
        others = []
        for text, command in self._sayable:
            [goal] = command.goals
            if goal not in asked and not self._progress.satisfied(goal):
                others.append((text, command))
        kind = asked[0].kind
        alike = [(text, command) for text, command in others if command.goals[0].kind == kind]
        choices = alike or others
        text, mistaken = choices[rng.integers(len(choices))]
        # the expert follows a progress of its own; success stays that of the command
        self._expert = Expert(Progress(self.table, mistaken))
        return text

    def follow_instruction(self) -> None:
        self._expert = self._own_expert

    def first_goal(self) -> str:
        goals = self.command.goals
        if len(goals) < 2 or not self.command.ordered:
            return ""
        alone = Command(self.command.family, goals[:1])
        self._expert = Expert(Progress(self.table, alone))
        return texts(alone, self.table.things)[0]

    def skip_first_goal(self) -> bool:
        progress = self._progress
        if progress is None or len(self.command.goals) < 2 or not self.command.ordered:
            return False
        shown = self.render_images
        self.render_images = False
        while progress.done == 0 and self._steps < self.task.horizon:
            self.step(self.expert_action())
        self.render_images = shown
        self._steps = 0
        return progress.done == 1

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The picture of the first camera, the front one if there is none; uint8 (H, W, 3)."""
        front = int(self.model.camera("front").id)
        return self.renderer.render(self.data, next(iter(self._cameras.values()), front))

    def close(self) -> None:
        self.renderer.close()


__all__ = ["TABLETOP_VERSION", "TRAIN_PAIRS", "TabletopConfig", "TabletopEnv"]

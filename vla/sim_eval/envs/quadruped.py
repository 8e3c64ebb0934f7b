"""Quadruped: a walking robot whose instruction says where to go, and how fast in which gait.

Nine families of instructions (`quadruped_parts/language.py`), four splits:

- "seen": pairs, wordings and compositions of training; starts are drawn from the seed.
- "unseen_pairs": the thing asked for is a pair of colour and shape that training never shows.
- "paraphrase": wordings that training never shows.
- "long": two goals in a composition that training never shows.

Actions are QUART's twelve (Ding et al. 2023, arXiv 2312.14457): eleven commands of the walking
controller (`quadruped_parts/commands.py`) and `done`, at 5 Hz; the controller runs at 100 Hz.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from vla.common.names import did_you_mean
from vla.common.versions import installed_versions
from vla.config import ConfigError, register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.quadruped_parts import commands
from vla.sim_eval.envs.quadruped_parts.expert import Expert
from vla.sim_eval.envs.quadruped_parts.gait import CONTROL_TICK, TICK_STEPS, Gait
from vla.sim_eval.envs.quadruped_parts.goals import Progress, Watch
from vla.sim_eval.envs.quadruped_parts.language import (
    FAMILIES,
    FAMILY_OF,
    Command,
    Family,
    Split,
    draw_command,
    draw_words,
    families_of,
    other_commands,
    pieces_of,
    scene_commands,
    sentence,
    texts,
)
from vla.sim_eval.envs.quadruped_parts.manner import (
    BANDS,
    FASTEST,
    GAIT_WORDS,
    SPEEDS,
    GaitWord,
    Manner,
    Speed,
    adverbs,
    speed_of,
)
from vla.sim_eval.envs.quadruped_parts.placing import lay_out
from vla.sim_eval.envs.quadruped_parts.randomisation import QuadrupedRandomisation
from vla.sim_eval.envs.quadruped_parts.robot import Robot
from vla.sim_eval.envs.quadruped_parts.scene import Scene, scene_xml
from vla.sim_eval.envs.quadruped_parts.understanding import understand
from vla.sim_eval.mujoco.scene_edits import SceneEditor
from vla.sim_eval.mujoco.spaces import action_space, checked_action, observation_space
from vla.sim_eval.rendering import RenderingError, SceneRenderer, choose_backend, gl_renderer
from vla.types import Spec

CONTROL_HZ = 5.0
TICKS = round(1 / (CONTROL_HZ * CONTROL_TICK))
"""Ticks of the controller in one control step."""
STATE_NAMES = ("roll", "pitch", "height", "vx", "vy", "wz", "walked", "heading")
"""What legs and inertial sensor tell; way walked (m) and heading (rad) are since the start, so that
"behind the bar" can be known when the bar is out of sight."""
QUADRUPED_VERSION = "2"
"""Raised whenever robot, scene, goals or grammar change what an episode is: results of two versions
do not compare."""
# What a list of tasks shows; each episode draws a command of its own.
_EXAMPLE: dict[Family, str] = {
    "go-to": "Go to the red cube",
    "go-avoid": "Go to the red cube and avoid the obstacle",
    "around": "Go around the obstacle on the left to the red cube",
    "crawl": "Crawl under the red bar",
    "go-through": "Go through the red gate",
    "distinguish": "Distinguish the letter a",
    "unload": "Unload the ball into the red tray",
    "stop": "Stop the blue ball",
    "two-step": "Go through the red gate, then go to the blue cube",
}


@register("envs", "quadruped")
class QuadrupedConfig(EnvConfig):
    """A walking quadruped among coloured things; the instruction says where to go, and how."""

    type: Literal["quadruped"] = "quadruped"
    split: Split = "seen"
    """What the commands are drawn from: seen, unseen_pairs, paraphrase or long."""
    tasks: tuple[Family, ...] | None = None
    """Families by name, for example [go-to, crawl]; by default all that the split can ask for."""
    manner: bool = False
    """Commands say a speed and a gait as well, and both are judged by what was walked."""
    speeds: tuple[Speed, ...] = SPEEDS
    """Speeds that commands ask for with `manner`."""
    gaits: tuple[GaitWord, ...] = ("trotting", "pacing", "bounding")
    """Gaits that commands ask for with `manner`; pronking does not reach every speed."""
    success: Literal["done", "quart"] = "done"
    """`done`: the robot says that it has arrived, twice in a row, it is there, and has touched
    nothing. `quart`: QUART's own rule, within 1 m at any time, whatever was touched."""
    done: Literal["first", "last"] = "last"
    """Where `done` stands among the twelve action dimensions; QUART-Online has it first."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 96
    """Height and width of the pictures in pixels."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `full` adds shadows, reflections and anti-aliasing."""
    horizon: Annotated[int, Field(ge=1)] = 100
    """Control steps (5 a second) of a command with one goal; two-step has twice as many."""
    randomisation: QuadrupedRandomisation = QuadrupedRandomisation()
    """What else changes from episode to episode."""

    @model_validator(mode="after")
    def _families_fit(self) -> QuadrupedConfig:
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
        return self

    @model_validator(mode="after")
    def _manners_fit(self) -> QuadrupedConfig:
        for key, listed in (("speeds", self.speeds), ("gaits", self.gaits)):
            if not listed:
                raise ValueError(f"{key}: is empty; name at least one, or leave it out")
            if len(set(listed)) != len(listed):
                raise ValueError(f"{key}: one is named twice")
        # every speed is drawn with every gait, so all of them must go together
        for gait in self.gaits:
            for speed in self.speeds:
                if FASTEST[gait] <= BANDS[speed][0]:
                    raise ValueError(
                        f"gaits: {gait} reaches {FASTEST[gait]:g} m/s, and {speed!r} asks for "
                        f"{BANDS[speed][0]:g} and more; leave one of them out"
                    )
        return self

    def spec(self) -> Spec:
        where = 0 if self.done == "first" else len(commands.NAMES)
        names = list(commands.NAMES)
        names.insert(where, "done")
        return Spec(
            cameras={"front": (self.image_size, self.image_size)},
            state_names=STATE_NAMES,
            action_names=tuple(names),
            action_low=tuple(np.insert(commands.LOW, where, 0.0).tolist()),
            action_high=tuple(np.insert(commands.HIGH, where, 1.0).tolist()),
            control_hz=CONTROL_HZ,
            binary_actions=("done",),
        )

    def suite(self) -> Suite:
        families = self.tasks or families_of(self.split)
        return Suite(f"quadruped/{self.split}", tuple(self._task(family) for family in families))

    def _task(self, family: Family) -> Task:
        horizon = self.horizon * (2 if family == "two-step" else 1)
        return Task(family, self.split, _EXAMPLE[family], horizon=horizon)

    def make(self, task: str) -> QuadrupedEnv:
        """Raises ConfigError if there is no such family, RenderingError if the machine cannot
        render."""
        if task not in FAMILIES:
            hint = did_you_mean(task, FAMILIES)
            raise ConfigError(
                [f"quadruped has no family {task!r}{hint}; it has: {', '.join(FAMILIES)}"]
            )
        return QuadrupedEnv(self, self._task(task))  # type: ignore[arg-type]

    def versions(self) -> dict[str, str]:
        versions = {"quadruped": QUADRUPED_VERSION, **installed_versions(("mujoco", "gymnasium"))}
        return versions | {"gl_renderer": gl_renderer(), "render_preset": self.preset}


class QuadrupedEnv(SimEnv):
    """One family of commands as a gymnasium env; see `SimEnv` for its observations and info.

    Rewards are 1 at a step at which the command is fulfilled, else 0. It terminates when the robot
    has fallen, or has said `done` where nothing is done; it truncates at the horizon. A step's info
    has `not_followed`: what of the action the gait cannot do (`commands.not_followed`).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init__(self, config: QuadrupedConfig, task: Task) -> None:
        choose_backend()  # before mujoco is imported
        import mujoco

        self._mujoco = mujoco
        self.config, self.task, self.robot_spec = config, task, config.spec()
        self.observation_space = observation_space(self.robot_spec)
        self.action_space = action_space(self.robot_spec)
        pieces = pieces_of(task.name, config.split)  # type: ignore[arg-type]
        # compiled once: a start moves the pieces and paints them
        self.model = mujoco.MjModel.from_xml_string(scene_xml(pieces))
        self.data = mujoco.MjData(self.model)
        self.robot = Robot(self.model, self.data)
        if config.randomisation.changes_world:
            # what is always the same is no secret, and would be a column of constants
            self.privileged_names = tuple(self.robot.world)
        self.gait = Gait(self.robot)
        self.scene = Scene(self.model, self.data, pieces)
        size = config.image_size
        self.renderer = SceneRenderer(self.model, size, size, config.preset)
        self._camera = int(self.model.camera("front").id)
        self._film = int(self.model.camera("chase").id)
        self._editor = SceneEditor(self.model)
        self._done = self.robot_spec.action_names.index("done")
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
        `options={"instruction": text}` asks for something else in the scene of that seed.

        Raises InstructionError or MannerError for a text that cannot be followed there.
        """
        super().reset(seed=seed)
        # one generator, and the order of its draws is part of what an episode is
        # (QUADRUPED_VERSION)
        rng = self.np_random
        self._mujoco.mj_resetData(self.model, self.data)
        # what the last episode's randomisation changed must not leak into this one
        self._editor.restore()
        self.robot.set_world()
        family: Family = self.task.name  # type: ignore[assignment]
        words = draw_words(rng, family, self.config.split)
        self.command = draw_command(rng, family, words)
        self.manner = self._draw_manner(rng)
        self.scene.lay_out(lay_out(rng, self.command, words))
        wordings = self._texts(self.command, held_out=self.config.split == "paraphrase")
        self._instruction = wordings[rng.integers(len(wordings))]
        if options and options.get("instruction"):
            self._ask(str(options["instruction"]))
        self.robot.stand(yaw=float(rng.uniform(-0.06, 0.06)))
        self.gait.start()
        if self.scene.has_ball:
            self.scene.seat_ball()
        self._randomise(rng)
        self._mujoco.mj_forward(self.model, self.data)
        for _ in range(TICKS):  # 0.2 s: the robot settles on its feet
            self._tick(commands.STAND)
        self._begin()
        return self.observe(), self._info()

    def _ask(self, text: str) -> None:
        """Replaces the drawn command by what a text asks for."""
        words = self.scene.layout.words
        possible = (self.command, *other_commands(self.command, words))
        known = (*possible, *scene_commands(self.command, words))
        self.command, self.manner = understand(text, words, known)
        self._instruction = text

    def _begin(self) -> None:
        self._steps, self._walked = 0, 0.0
        self._heading = self.robot.sense().yaw
        self.watch = Watch(self.robot, self.scene, self.command)
        self._progress = Progress(self.watch, self.command, self.manner)
        self._own_expert = Expert(self._progress, self.manner)
        self._expert = self._own_expert
        sayable = scene_commands(self.command, self.scene.layout.words)
        self._sayable = [(texts(c, self.scene.layout.words)[0], c) for c in sayable]

    def _draw_manner(self, rng: np.random.Generator) -> Manner | None:
        # drawn in any case: with and without adverbs the scenes of a seed are the same
        speed = self.config.speeds[rng.integers(len(self.config.speeds))]
        gait = self.config.gaits[rng.integers(len(self.config.gaits))]
        return Manner(speed, gait) if self.config.manner else None

    def _randomise(self, rng: np.random.Generator) -> None:
        config = self.config.randomisation
        # what is off draws nothing: without randomisation the numbers are those of a config that
        # never had the key
        if config.light:
            self._editor.light(rng, config.light)
        if config.camera:
            self._editor.camera(rng, config.camera, names=("front",))
        if config.colours:
            self._editor.colours(rng, config.colours)
        if config.texture and rng.random() < config.texture:
            self.model.geom_matid[self.model.geom("floor").id] = rng.integers(self.model.nmat)
        world = config.draw_world(rng)
        if world:
            self.robot.set_world(**world)

    def privileged(self) -> np.ndarray:
        """Of `Robot.set_world`: friction, payload, motor, com."""
        return np.array([self.robot.world[name] for name in self.privileged_names], np.float32)

    def set_privileged(self, values: np.ndarray) -> None:
        """Raises WorldError for what cannot be."""
        named = zip(self.privileged_names, np.asarray(values, float).tolist(), strict=True)
        self.robot.set_world(**dict(named))

    def privileged_range(self) -> tuple[np.ndarray, np.ndarray]:
        ranges = self.config.randomisation.world_ranges()
        bounds = np.array([ranges[name] for name in self.privileged_names]).reshape(-1, 2)
        return bounds[:, 0], bounds[:, 1]

    def _tick(self, command: np.ndarray) -> None:
        self.gait.control(command)
        self._mujoco.mj_step(self.model, self.data, TICK_STEPS)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to the box of commands; `done` counts above 0.5.

        Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`.
        """
        action = checked_action(action, self.robot_spec)
        progress = self.progress
        command = np.delete(action, self._done).astype(float)
        before = self.watch.xy
        for _ in range(TICKS):
            self._tick(command)
            self.watch.tick(CONTROL_TICK)
        way = float(np.linalg.norm(self.watch.xy - before))
        self._walked += way
        self.watch.step(way * CONTROL_HZ, done=bool(action[self._done] > 0.5))
        progress.step()
        self._steps += 1
        success = self._success()
        truncated = self._steps >= self.task.horizon
        info = self._info() | {"not_followed": commands.not_followed(command)}
        return self.observe(), float(success), progress.over, truncated, info

    def _success(self) -> bool:
        if self.config.success == "quart":
            return self.progress.meets_quart
        return self.progress.success

    def expert_action(self) -> np.ndarray:
        if self._progress is None:
            raise RuntimeError("expert_action before reset: call reset first")
        command, done = self._expert.action()
        return np.insert(command, self._done, float(done)).astype(np.float32)

    def changing_parts(self) -> tuple[object, ...]:
        watch = self.watch
        return (self, self._progress, self._expert, watch, watch.gauge, self.gait, self.robot)

    @property
    def progress(self) -> Progress:
        """How far the command of the episode is fulfilled. Raises RuntimeError before `reset`."""
        if self._progress is None:
            raise RuntimeError("no episode before reset: call reset first")
        return self._progress

    # --- observations, info, instructions ---------------------------------------------------------

    def observe(self) -> dict[str, Any]:
        body = self.robot.sense()
        heading = (body.yaw - self._heading + np.pi) % (2 * np.pi) - np.pi
        numbers = (body.roll, body.pitch, body.height, *body.velocity, self._walked, heading)
        images = {}
        if self.render_images:
            images["front"] = self.renderer.render(self.data, self._camera)
        return {"images": images, "state": np.array(numbers, dtype=np.float32)}

    def _info(self) -> dict[str, Any]:
        success = self._success()
        failure, step = ("", -1) if success else self.progress.failure()
        return {
            "instruction": self._instruction,
            "success": success,
            "failure": failure,
            "failure_step": step,
        }

    def _texts(self, command: Command, *, held_out: bool = False) -> tuple[str, ...]:
        """Wordings with the adverbs that are asked for."""
        behind = "" if self.manner is None else f" {adverbs(self.manner, held_out=held_out)}"
        wordings = texts(command, self.scene.layout.words, held_out=held_out)
        return tuple(sentence(f"{text}{behind}") for text in wordings)

    def paraphrases(self) -> tuple[str, ...]:
        """The other wordings of the split's grammar."""
        wordings = self._texts(self.command, held_out=self.config.split == "paraphrase")
        return tuple(text for text in wordings if text != self._instruction)

    def held_out_paraphrases(self) -> tuple[str, ...]:
        return self._texts(self.command, held_out=True)

    def wrong_instructions(self) -> tuple[str, ...]:
        """Commands about the other pieces of this very scene, in their primary wording."""
        others = other_commands(self.command, self.scene.layout.words)
        return tuple(self._texts(other)[0] for other in others)

    def achieved(self) -> frozenset[str]:
        """Commands of one goal, in their primary wording; with `manner`, how it was walked.

        By the rule of `success`: what was not said to be done is not done.
        """
        met = [text for text, command in self._sayable if self._has_done(command)]
        if not met or self.manner is None:
            return frozenset(sentence(text) for text in met)
        # a walk in no known gait, or in no band of speed, fulfils no instruction with adverbs
        speed, gait = speed_of(self.watch.gauge.speed), self.watch.gauge.gait
        if speed is None or gait is None or FASTEST[gait] <= BANDS[speed][0]:
            return frozenset()
        return frozenset(sentence(f"{text} {adverbs(Manner(speed, gait))}") for text in met)

    def _has_done(self, command: Command) -> bool:
        if self.config.success == "quart":
            return self.watch.near_by_quart(command.goals[0])
        progress = Progress(self.watch, command)
        return progress.said_done and progress.met()

    def mistake(self, rng: np.random.Generator) -> str:
        """The same kind of goal with another piece of the scene."""
        others = other_commands(self.command, self.scene.layout.words)
        others = tuple(other for other in others if len(other.goals) == 1)
        if not others:
            return ""
        mistaken = others[rng.integers(len(others))]
        self._expert = Expert(Progress(self.watch, mistaken), self.manner)
        return self._texts(mistaken)[0]

    def follow_instruction(self) -> None:
        self._expert = self._own_expert

    def first_goal(self) -> str:
        goals = self.command.goals
        if len(goals) < 2:
            return ""
        alone = Command(FAMILY_OF[goals[0].kind], goals[:1])
        self._expert = Expert(Progress(self.watch, alone), self.manner)
        return self._texts(alone)[0]

    def skip_first_goal(self) -> bool:
        watch, goals = self.watch, self.command.goals
        if len(goals) < 2:
            return False
        shown = self.render_images
        self.render_images = False
        while not (watch.at(goals[0]) or watch.fell or self._steps >= self.task.horizon):
            self.step(self.expert_action())
        self.render_images = shown
        # way and heading go on: the second half looks as it does within a whole walk
        self._steps = watch.steps = 0
        return watch.at(goals[0]) and not (watch.fell or watch.hit)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The picture of a camera that follows the robot; uint8 (H, W, 3)."""
        return self.renderer.render(self.data, self._film)

    def close(self) -> None:
        self.renderer.close()


__all__ = ["GAIT_WORDS", "QUADRUPED_VERSION", "QuadrupedConfig", "QuadrupedEnv", "RenderingError"]

"""Meta-World: 50 tasks of a Sawyer arm in MuJoCo, each with a scripted expert.

Follows the convention of published results: camera `corner2`, moved closer and
turned upright; state = hand position and gripper opening; actions = hand
displacement and gripper effort in [-1, 1].
"""

from __future__ import annotations

import functools
import importlib
import pickle
import warnings
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from vla.common.names import did_you_mean
from vla.common.versions import installed_versions
from vla.config import ConfigError, register
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.envs.metaworld_parts.instructions import (
    BAKU30,
    INSTRUCTIONS,
    MT10,
    group_of,
)
from vla.sim_eval.mujoco.spaces import action_space, checked_action, observation_space
from vla.sim_eval.rendering import SceneRenderer, choose_backend, gl_renderer
from vla.types import Spec

CONTROL_HZ = 80.0  # 5 physics steps of 2.5 ms per action
CORNER2_POSITION = (0.75, 0.075, 0.7)
STATE_NAMES = ("hand_x", "hand_y", "hand_z", "gripper")
ACTION_NAMES = ("dx", "dy", "dz", "gripper")

# Meta-World's `near_object` and `grasp_success` mean little in many tasks (constants, or the
# gripper's width). In these the expert succeeds although `near_object` is never set:
NEAR_UNKNOWN = frozenset(
    (
        "button-press",
        "coffee-button",
        "door-close",
        "drawer-close",
        "faucet-close",
        "faucet-open",
        "plate-slide",
        "plate-slide-back",
        "plate-slide-side",
        "reach-wall",
        "soccer",
    )
)
# In these the grasp is a real one, and `grasp_success` is always set before the expert succeeds:
GRASP_KNOWN = frozenset(
    (
        "assembly",
        "basketball",
        "bin-picking",
        "box-close",
        "disassemble",
        "hammer",
        "hand-insert",
        "pick-out-of-hole",
        "pick-place-wall",
        "shelf-place",
        "stick-pull",
        "stick-push",
    )
)

Camera = Literal[
    "topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV"
]


@register("envs", "metaworld")
class MetaworldConfig(EnvConfig):
    """Meta-World's tasks, seen by cameras and named by an instruction."""

    # `suite` is the config's key, but EnvConfig has a method of that name
    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["metaworld"] = "metaworld"
    suite_name: Literal["mt10", "mt50", "baku30", "easy", "medium", "hard", "very_hard"] = Field(
        "mt10", alias="suite"
    )
    """Tasks by the name of their list; baku30 are those of BAKU's table, a difficulty is one of the
    groups in which results are published."""
    tasks: tuple[str, ...] | None = None
    """Tasks by name, for example [drawer-open, reach]; they take the place of the suite."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 96
    """Height and width of the pictures in pixels."""
    cameras: Annotated[tuple[Camera, ...], Field(min_length=1)] = ("corner2",)
    """What the policy sees."""
    preset: Literal["fast", "full"] = "fast"
    """Rendering: `fast` is without shadows, reflections and anti-aliasing;
    `full` is Meta-World's own."""
    horizon: Annotated[int, Field(ge=1)] = 500
    """Control steps after which an episode is cut off."""
    paraphrase: Annotated[int, Field(ge=0, le=4)] = 0
    """Which instruction the policy is given: 0 is the primary one, 1 to 4
    are other wordings of it."""

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Raises ValueError, which becomes a ConfigError, naming what is
        unknown, empty or there twice."""
        if tasks is None:
            return None
        if not tasks:
            raise ValueError("is empty: name at least one task, or leave it out and set suite")
        for task in tasks:
            if task not in INSTRUCTIONS:
                raise ValueError(_unknown_task(task))
        twice = {task for task in tasks if tasks.count(task) > 1}
        if twice:
            raise ValueError(f"{', '.join(sorted(twice))}: named twice")
        return tasks

    def spec(self) -> Spec:
        return Spec(
            cameras=dict.fromkeys(self.cameras, (self.image_size, self.image_size)),
            state_names=STATE_NAMES,
            action_names=ACTION_NAMES,
            action_low=(-1.0,) * 4,
            action_high=(1.0,) * 4,
            control_hz=CONTROL_HZ,
        )

    def suite(self) -> Suite:
        if self.tasks is not None:
            return Suite("metaworld", tuple(self._task(task) for task in self.tasks))
        tasks = tuple(self._task(task) for task in tasks_of(self.suite_name))
        return Suite(f"metaworld/{self.suite_name}", tasks)

    def _task(self, name: str) -> Task:
        texts = INSTRUCTIONS[name]
        chosen = texts[self.paraphrase]
        others = tuple(text for text in texts if text != chosen)
        return Task(name, group_of(name), chosen, others, self.horizon)

    def make(self, task: str) -> MetaworldEnv:
        """Raises ConfigError if there is no such task, RenderingError if
        the machine cannot render."""
        if task not in INSTRUCTIONS:
            raise ConfigError([_unknown_task(task)])
        return MetaworldEnv(self, self._task(task))

    def versions(self) -> dict[str, str]:
        return {
            **installed_versions(("metaworld", "mujoco", "gymnasium")),
            "gl_renderer": gl_renderer(),
            "render_preset": self.preset,
        }


def tasks_of(suite: str) -> tuple[str, ...]:
    """Names of the tasks of a suite: "mt10", "mt50", "baku30" or a difficulty."""
    lists = {"mt10": MT10, "baku30": BAKU30}
    if suite in lists:
        return lists[suite]
    return tuple(task for task in INSTRUCTIONS if suite in ("mt50", group_of(task)))


def _unknown_task(name: str) -> str:
    hint = did_you_mean(name, INSTRUCTIONS)
    return f"Meta-World has no task {name!r}{hint}; it has: {', '.join(INSTRUCTIONS)}"


class MetaworldEnv(SimEnv):
    """One Meta-World task as a gymnasium env; see `SimEnv` for what it observes and tells.

    It never terminates by itself: whoever runs it decides what success ends. It truncates at the
    horizon. `close` frees the rendering context.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012
    render_mode = "rgb_array"
    renderer: SceneRenderer

    def __init__(self, config: MetaworldConfig, task: Task) -> None:
        choose_backend()  # before mujoco is imported
        self.config, self.task, self.robot_spec = config, task, config.spec()
        self.observation_space = observation_space(self.robot_spec)
        self.action_space = action_space(self.robot_spec)
        self._sim = _build(task.name)
        self._sim.max_path_length = config.horizon + 1  # its own limit raises where ours truncates
        self.model, self.data = self._sim.model, self._sim.data
        self._cameras: dict[str, int] = {
            name: self.model.camera(name).id for name in config.cameras
        }
        # closer than Meta-World has it, as published results that learn from pictures do
        self.model.cam_pos[self.model.camera("corner2").id] = CORNER2_POSITION
        size = config.image_size
        self.renderer = SceneRenderer(self.model, size, size, config.preset)
        # the state of Meta-World, (39,): hand and gripper, objects, the
        # same of the frame before, goal
        self._raw: np.ndarray | None = None

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new episode.

        The same seed gives the same start; without one, the next start of the present sequence.
        """
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._sim.seed(seed)
        self._raw, _ = self._sim.reset()
        self._expert = _expert_class(self.task.name)()
        self._steps, self._progress = 0, Progress(self.task.name)
        # Meta-World moves the mark of the goal after its last forward pass: without
        # this the first picture shows the mark of the episode before; positions only,
        # so the dynamics stay as they are
        mujoco = importlib.import_module("mujoco")
        mujoco.mj_kinematics(self._sim.model, self._sim.data)
        return self.observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Actions are clipped to [-1, 1].

        Raises ValueError for a wrong shape or NaN, RuntimeError before `reset`.
        """
        action = checked_action(action, self.robot_spec)
        if self._raw is None:
            raise RuntimeError("step before reset: call reset first")
        clipped = np.clip(action, -1.0, 1.0)
        self._raw, reward, _, _, info = self._sim.step(clipped)
        self._steps += 1
        success = bool(info["success"])
        self._progress.update(success, info)
        truncated = self._steps >= self.task.horizon
        return self.observe(), float(reward), False, truncated, self._info(success)

    def expert_action(self) -> np.ndarray:
        if self._raw is None:
            raise RuntimeError("expert_action before reset: call reset first")
        # up to 11 in size: the experts count on the simulator's clipping
        action = self._expert.get_action(self._raw)
        return np.clip(np.asarray(action, dtype=np.float32), -1.0, 1.0)

    def changing_parts(self) -> tuple[object, ...]:
        return (self, self._progress, self._expert, self._sim)

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The picture of the first camera, uint8 (H, W, 3)."""
        return self._image(self.config.cameras[0])

    def close(self) -> None:
        self.renderer.close()
        self._sim.close()

    def _image(self, camera: Camera) -> np.ndarray:
        image = self.renderer.render(self._sim.data, self._cameras[camera])
        # the cameras at the corners hang upside down
        turned = image[::-1, ::-1] if camera.startswith("corner") else image
        return np.ascontiguousarray(turned)

    def observe(self) -> dict[str, Any]:
        assert self._raw is not None
        cameras = self.config.cameras if self.render_images else ()
        return {
            "images": {camera: self._image(camera) for camera in cameras},
            # the robot's own part alone: where the objects are, a policy has to see
            "state": self._raw[: len(STATE_NAMES)].astype(np.float32),
        }

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "instruction": self.task.instruction,
            "success": success,
            "failure": self._progress.failure(),
        }


class Progress:
    """How far an episode has come, from Meta-World's info at each step."""

    def __init__(self, task: str) -> None:
        self._knows_near, self._knows_grasp = task not in NEAR_UNKNOWN, task in GRASP_KNOWN
        self._succeeded = self._near = self._grasped = False

    def update(self, success: bool, info: dict[str, Any]) -> None:
        """Adds one step; `info` is Meta-World's."""
        # kept once true: what is released again was grasped all the same
        self._succeeded |= success
        self._near |= bool(info.get("near_object", 0.0))
        self._grasped |= bool(info.get("grasp_success", 0.0))

    def failure(self) -> str:
        """What is missing: "never reached", "no grasp" or "missed goal"; ""
        once the task was solved."""
        if self._succeeded:
            return ""
        if self._knows_near and not self._near:
            return "never reached"
        if self._knows_grasp and not self._grasped:
            return "no grasp"
        return "missed goal"


def _build(task: str) -> Any:
    """Meta-World's own env with the task set, drawing its starts from `seed`."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.types import Task as MetaworldTask

    # `MT1(name)` would build the env 50 times over to draw goals that are never used. A task of our
    # own gives the same env: `set_task` needs it to show the goal to the expert (setting the flag
    # alone leaves an observation space that clips the goal to zero).
    env_class = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    sim = env_class()
    data = {"rand_vec": np.zeros(3), "env_cls": env_class, "partially_observable": False}
    sim.set_task(MetaworldTask(env_name=f"{task}-v3", data=pickle.dumps(data)))
    # starts from the seed, not from the task's one vector
    sim._freeze_rand_vec = False
    sim.seeded_rand_vec = True
    return sim


@functools.cache
def _expert_class(task: str) -> Any:
    from metaworld.policies import ENV_POLICY_MAP

    # every expert asks for more than the greatest action; that is what the clipping is for
    warnings.filterwarnings("ignore", message="Constant.* may be too high", module="metaworld")
    return ENV_POLICY_MAP[f"{task}-v3"]

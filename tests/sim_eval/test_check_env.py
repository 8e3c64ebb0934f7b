"""`check_env` on an env without faults, and on that env with one fault at a time."""

import gymnasium
import numpy as np
import pytest

from vla.common.renamed import RenamedWarning
from vla.sim_eval.env import SimEnv, Task
from vla.sim_eval.env_contract import EnvError, check_env
from vla.types import Spec

SPEC = Spec({"front": (8, 16)}, ("x",), ("push",), (-1.0,), (1.0,), 10.0)


class Dot(SimEnv):
    """A dot that is pushed along a line to its end; its picture is drawn by hand."""

    fault = ""

    def __init__(self):
        self._describe()
        self.task = Task("right", "easy", "Push the dot to the right", horizon=30)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._canvas = np.zeros((8, 16, 3), np.uint8)

    def _describe(self):
        self.robot_spec = SPEC

    def reset(self, *, seed=None, options=None):
        super().reset(seed=None if self.fault == "seed ignored" else seed)
        rng = np.random.default_rng() if self.fault == "not repeatable" else self.np_random
        self.x = (
            0.0 if self.fault in ("one start", "seed ignored") else float(rng.uniform(-0.9, 0.5))
        )
        self.steps = 0
        if self.fault == "no info":
            return self.observe()
        return self.observe(), self._info()

    def step(self, action):
        slip = np.random.default_rng().normal() if self.fault == "random physics" else 0.0
        slip += 0.1 if self.fault == "physics see rendering" and not self.render_images else 0.0
        self.x = float(np.clip(self.x + 0.1 * float(action[0]) + slip, -1, 1))
        self.steps += 1
        reward = np.nan if self.fault == "reward" else self.x
        truncated = self.steps >= self.task.horizon and self.fault != "endless"
        return (
            self.observe(),
            reward,
            False,
            1 if self.fault == "truncated" else truncated,
            self._info(),
        )

    def observe(self):
        picture = self._canvas if self.fault == "overwritten" else np.zeros((8, 16, 3), np.uint8)
        picture[:] = 0
        if self.fault != "black":
            picture[2:6, round(7 + 7 * self.x)] = 255
        if self.fault == "float picture":
            picture = picture / 255.0
        state = np.array([np.inf if self.fault == "infinite state" else self.x])
        name = "back" if self.fault == "camera" else "front"
        return {
            "images": {name: picture},
            "state": state.astype(np.float64 if self.fault == "state" else np.float32),
        }

    def _info(self):
        success = self.x > 0.9
        return (
            {"instruction": "", "success": success}
            if self.fault == "instruction"
            else {
                "instruction": self.task.instruction,
                "success": None if self.fault == "success" else success,
            }
        )

    def expert_action(self):
        return np.array([3.0 if self.fault == "expert" else 1.0], np.float32)


class Attributes(Dot):
    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


def test_an_env_without_faults_passes():
    check_env(Dot())


def test_an_env_without_an_expert_passes(monkeypatch):
    def none(self):
        raise RuntimeError("no expert")

    monkeypatch.setattr(Dot, "expert_action", none)
    check_env(Dot())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no info", "expected the two values"),
        ("camera", "lack camera 'front'"),
        ("float picture", "expected uint8"),
        ("black", "one colour everywhere"),
        ("state", "expected float32"),
        ("infinite state", "NaN or infinity"),
        ("instruction", "instruction"),
        ("success", "True or False: whether it is solved"),
        ("reward", "finite number"),
        ("truncated", "truncated is 1"),
        ("overwritten", "return a new array"),
        ("not repeatable", "two different"),
        ("random physics", "reset all of the simulator's state"),
        ("one start", "use the seed"),
        ("physics see rendering", "must not touch the physics"),
        ("endless", "neither terminated nor truncated after task.horizon = 30"),
        ("expert", "outside the spec's bounds"),
    ],
)
def test_each_fault_is_named(fault, message):
    env = Dot()
    env.fault = fault
    with pytest.raises(EnvError, match=message):
        check_env(env)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"robot_spec": None}, "robot_spec: is NoneType"),
        ({"task": "right"}, "task: is str"),
        ({"task": Task("right", "easy", "  ")}, "say the task in words"),
        ({"action_space": gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)}, "make them agree"),
        ({"action_space": gymnasium.spaces.Discrete(3)}, "make them agree"),
    ],
)
def test_wrong_attributes_are_named(values, message):
    with pytest.raises(EnvError, match=message):
        check_env(Attributes(**values))


def _set_in_init():
    class Former(Dot):
        def _describe(self):
            self.spec_ = SPEC

    return Former


def _set_in_class():
    class Former(Dot):
        spec_ = SPEC

        def _describe(self):
            pass

    return Former


def _set_by_property():
    class Former(Dot):
        @property
        def spec_(self):
            return SPEC

        def _describe(self):
            pass

    return Former


def _specs_of(former):
    env = former()()
    check_env(env)
    return env.robot_spec, env.spec_


@pytest.mark.parametrize("former", [_set_in_init, _set_in_class, _set_by_property])
def test_the_former_name_of_the_spec_works_and_says_so_once(former, monkeypatch):
    monkeypatch.setattr("vla.common.renamed._announced", set())
    with pytest.warns(RenamedWarning, match=r"SimEnv\.spec_ is now called") as warned:
        specs = _specs_of(former)
    assert specs == (SPEC, SPEC)
    assert len(warned) == 1


def test_what_is_no_env_at_all():
    with pytest.raises(EnvError, match="derive it from"):
        check_env(object())


def test_all_faults_of_a_group_are_told_at_once():
    env = Dot()
    env.fault = "camera"
    env._info = lambda: {"success": 3}
    with pytest.raises(EnvError) as caught:
        check_env(env)
    assert len(caught.value.problems) == 3

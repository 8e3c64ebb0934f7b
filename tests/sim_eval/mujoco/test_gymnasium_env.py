"""The hooks of `GymEnv`: by their names, and by the former ones of a user's subclass."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from vla.common.renamed import RenamedWarning
from vla.sim_eval.env import Task
from vla.sim_eval.envs.stitch import CAMERA, Maze, StitchConfig, StitchEnv
from vla.sim_eval.mujoco import gymnasium_env
from vla.sim_eval.mujoco.gymnasium_env import GymEnv

TASK = Task("stitch", "stitch", "Go to the green mark")


def play(cls: type[GymEnv]) -> tuple[list[str], dict[str, Any], np.ndarray]:
    """What an env has noted, the info of one step, and the state that it observes then."""
    env = cls(Maze(), StitchConfig().spec(), TASK, camera=CAMERA)
    env.render_images = False
    env.notes = []  # type: ignore[attr-defined]
    env.reset(seed=1)
    info = env.step(np.ones(2, np.float32))[4]
    state = env.observe()["state"]
    env.close()
    return env.notes, info, state  # type: ignore[attr-defined]


def make_present() -> type[GymEnv]:
    class Present(GymEnv):
        notes: list[str]

        def on_reset(self, seed: int, info: dict[str, Any]) -> None:
            self.notes.append(f"reset {seed}")

        def outcome(self, info: dict[str, Any], *, terminated: bool) -> tuple[bool, str]:
            return self.steps > 0, "far away"

        def observe_raw(self) -> Any:
            return 2 * super().observe_raw()

    return Present


def make_former() -> type[GymEnv]:
    class Former(GymEnv):
        notes: list[str]

        def begin(self, seed: int, info: dict[str, Any]) -> None:
            super().begin(seed, info)
            self.notes.append(f"reset {seed}")

        def judge(self, info: dict[str, Any], *, terminated: bool) -> tuple[bool, str]:
            success, _ = super().judge(info, terminated=terminated)
            assert not success
            return self.steps > 0, "far away"

        def look(self) -> Any:
            return 2 * super().look()

    return Former


@pytest.fixture(autouse=True)
def nothing_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.common.renamed._announced", set())


def test_former_hooks_do_what_the_present_ones_do() -> None:
    with pytest.warns(RenamedWarning) as record:
        former = make_former()
    assert [str(w.message).split("; ")[0] for w in record] == [
        "Former.begin is now called on_reset",
        "Former.judge is now called outcome",
        "Former.look is now called observe_raw",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        present = make_present()
        notes, info, state = play(present)
        assert (notes, info["success"], info["failure"]) == (["reset 1"], True, "far away")
        former_notes, former_info, former_state = play(former)
    assert (former_notes, former_info) == (notes, info)
    assert np.array_equal(former_state, state)


def test_former_names_can_be_called_on_an_env_that_has_the_present_ones() -> None:
    env = StitchConfig().make("stitch")
    assert isinstance(env, StitchEnv)
    env.reset(seed=0)
    assert np.array_equal(env.look(), env.observe_raw())
    assert env.judge({}, terminated=False) == env.outcome({}, terminated=False)
    env.close()


def test_the_present_name_wins_in_a_class_that_has_both() -> None:
    class Both(GymEnv):
        def outcome(self, info: dict[str, Any], *, terminated: bool) -> tuple[bool, str]:
            return True, ""

        def judge(self, info: dict[str, Any], *, terminated: bool) -> tuple[bool, str]:
            raise AssertionError("the former hook of a class that also works with older versions")

    assert set(gymnasium_env._FORMER_HOOKS.values()) == {"on_reset", "outcome", "observe_raw"}
    env = Both(Maze(), StitchConfig().spec(), TASK, camera=CAMERA)
    env.render_images = False
    assert env.reset(seed=0)[1]["success"]
    env.close()

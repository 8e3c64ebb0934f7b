"""Physics that an episode draws and tells as `privileged` alone."""

import numpy as np
import pytest

from vla.config import ConfigError, validate
from vla.sim_eval.collection.demonstrations import CollectConfig, demonstrate
from vla.sim_eval.envs.locomotion import LocomotionConfig
from vla.sim_eval.mujoco.hidden_world import HiddenWorldConfig

HIDDEN = {"friction": 0.5, "mass": 0.7, "motor": 0.3}


def make(**options):
    return LocomotionConfig(robot="inverted-pendulum", horizon=20, **options).make(
        "inverted-pendulum"
    )


def test_factors_are_drawn_by_the_seed_and_undone():
    env, plain = make(hidden=HIDDEN), make()
    assert env.privileged_names == ("friction", "mass", "motor")
    masses = np.array(plain.model.body_mass)
    gear = np.array(plain.model.actuator_gear)
    drawn = []
    for seed in (0, 1, 0):
        start, _ = env.reset(seed=seed)
        friction, mass, motor = env.privileged()
        np.testing.assert_allclose(env.model.body_mass, masses * mass, rtol=1e-5)
        np.testing.assert_allclose(env.model.actuator_gear, gear * motor, rtol=1e-5)
        ratio = env.model.geom_friction / plain.model.geom_friction
        np.testing.assert_allclose(ratio, friction, rtol=1e-5)
        drawn.append(env.privileged().tolist())
        # the start is that of the same seed in gymnasium's own world
        np.testing.assert_array_equal(start["state"], plain.reset(seed=seed)[0]["state"])
    assert drawn[0] == drawn[2] != drawn[1]
    limits = np.exp([0.5, 0.7, 0.3])
    assert (np.array(drawn) <= limits).all()
    assert (np.array(drawn) >= 1 / limits).all()
    env.close()
    plain.close()


def test_the_same_actions_lead_elsewhere():
    states = []
    for hidden in (None, {"motor": 1.5}):
        env = make(hidden=hidden)
        env.reset(seed=3)
        for _ in range(5):
            observation, *_ = env.step(np.array([0.3], np.float32))
        states.append(observation["state"])
        env.close()
    assert np.abs(states[0] - states[1]).max() > 1e-3


def test_a_world_can_be_given():
    env, other = make(hidden=HIDDEN), make(hidden=HIDDEN)
    env.reset(seed=0)
    drawn, masses = env.privileged(), np.array(env.model.body_mass)
    low, high = env.privileged_range()
    assert (low <= drawn).all()
    assert (drawn <= high).all()
    env.set_privileged([1.0, 2.0, 1.1])
    np.testing.assert_allclose(env.privileged(), [1.0, 2.0, 1.1], rtol=1e-6)
    np.testing.assert_allclose(env.model.body_mass, masses / drawn[1] * 2.0, rtol=1e-5)
    # in the place of the drawn world, not on top of it
    env.set_privileged(drawn)
    assert np.array_equal(env.model.body_mass, masses)
    other.reset(seed=0)
    action = np.array([0.4], np.float32)
    assert np.array_equal(env.step(action)[0]["state"], other.step(action)[0]["state"])
    env.close()
    other.close()
    plain = make()
    plain.reset(seed=0)
    with pytest.raises(RuntimeError, match="LocomotionEnv has no hidden numbers"):
        plain.set_privileged([1.0])
    plain.close()


def test_recordings_hold_them():
    config = CollectConfig(
        env=LocomotionConfig(robot="inverted-pendulum", horizon=5, hidden=HIDDEN),
        out="unused",
        noise={"std": 0.0},
        only_successes=False,
    )
    env = make(hidden=HIDDEN)
    env.expert_action = lambda: np.zeros(1, np.float32)
    episode, _ = demonstrate(env, config, seed=1)
    column = episode.extras["privileged"]
    assert column.shape == (len(episode), 3)
    assert (column == column[0]).all()
    env.close()


def test_a_world_without_secrets_is_refused():
    with pytest.raises(ConfigError, match=r"all are 0; widen one, such as mass=0\.7"):
        validate(HiddenWorldConfig, {})

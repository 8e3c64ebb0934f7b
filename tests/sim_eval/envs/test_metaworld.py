import numpy as np
import pytest

from vla.config import ConfigError, dump_config, load_config
from vla.sim_eval.env_contract import check_env
from vla.sim_eval.envs.metaworld import CORNER2_POSITION, MetaworldConfig, Progress
from vla.sim_eval.envs.metaworld_parts.instructions import GROUPS, INSTRUCTIONS, MT10

SMALL = {"image_size": 32, "horizon": 150}


@pytest.fixture(scope="module")
def reach():
    env = MetaworldConfig(**SMALL).make("reach")
    yield env
    env.close()


def expert_episode(env, seed):
    env.render_images = False
    _, info = env.reset(seed=seed)
    steps, over = 0, False
    while not (over or info["success"]):
        _, _, _, over, info = env.step(env.expert_action())
        steps += 1
    return info, steps


# --- tasks and texts --------------------------------------------------------------------------------


def test_tasks_are_those_of_metaworld():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

    assert {f"{task}-v3" for task in INSTRUCTIONS} == set(ALL_V3_ENVIRONMENTS)
    assert {f"{task}-v3" for task in MT10} == set(MT10_V3)


def test_groups_have_the_published_sizes():
    sizes = {
        suite: len(MetaworldConfig(suite=suite).suite().tasks)
        for suite in ("mt50", "baku30", "easy", *GROUPS)
    }
    assert sizes == {"mt50": 50, "baku30": 30, "easy": 28, "medium": 11, "hard": 6, "very_hard": 5}
    assert set().union(*GROUPS.values()) < set(INSTRUCTIONS)


def test_all_texts_are_different():
    texts = [text.lower().rstrip(".") for task in INSTRUCTIONS.values() for text in task]
    assert len(texts) == len(set(texts)) >= 250
    assert all(len(task) >= 5 for task in INSTRUCTIONS.values())


def test_paraphrase_takes_the_place_of_the_primary_text():
    primary = MetaworldConfig().suite().task("drawer-open")
    other = MetaworldConfig(paraphrase=2).suite().task("drawer-open")
    assert other.instruction == primary.paraphrases[1]
    assert {other.instruction, *other.paraphrases} == {primary.instruction, *primary.paraphrases}


# --- config -----------------------------------------------------------------------------------------


def test_config_round_trip(tmp_path):
    config = MetaworldConfig(suite="hard", cameras=["corner2", "gripperPOV"], image_size=64)
    file = tmp_path / "env.yaml"
    file.write_text(dump_config(config))
    assert "suite: hard" in file.read_text()
    assert load_config(MetaworldConfig, file) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": ["drawer-opn"]}, "did you mean 'drawer-open'"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": ["reach", "reach"]}, "named twice"),
        ({"suite": "mt11"}, "suite.*mt10"),
        ({"cameras": ["corner9"]}, "corner2"),
        ({"image_size": 0}, "image_size"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_wrong_configs_are_explained(values, message):
    with pytest.raises(ConfigError, match=message):
        load_config(MetaworldConfig, {"type": "metaworld", **values})


def test_unknown_task_to_make():
    with pytest.raises(ConfigError, match="did you mean 'window-open'"):
        MetaworldConfig().make("window-opens")


# --- the env ----------------------------------------------------------------------------------------


def test_env_keeps_the_contract():
    env = MetaworldConfig(image_size=32, horizon=40, cameras=["corner2", "gripperPOV"]).make("push")
    check_env(env)
    assert env.observation_space.contains(env.reset(seed=1)[0])
    env.close()


def test_control_rate_is_that_of_the_simulator(reach):
    assert reach.robot_spec.control_hz == pytest.approx(1 / reach._sim.dt)


def test_picture_is_metaworlds_own_turned_by_half(reach):
    """With the full preset: what Meta-World renders, moved camera, flipped on both axes."""
    env = MetaworldConfig(image_size=64, preset="full").make("drawer-open")
    observation, _ = env.reset(seed=3)
    theirs = type(env._sim)(render_mode="rgb_array", camera_name="corner2", width=64, height=64)
    theirs.model.cam_pos[theirs.model.camera("corner2").id] = CORNER2_POSITION
    for name in ("body_pos", "site_pos"):
        getattr(theirs.model, name)[:] = getattr(env._sim.model, name)
    theirs.set_state(env._sim.data.qpos, env._sim.data.qvel)
    picture = theirs.render()[::-1, ::-1]
    theirs.mujoco_renderer.close()
    env.close()
    np.testing.assert_array_equal(observation["images"]["corner2"], picture)


def test_goal_is_where_the_first_picture_shows_it(reach):
    for seed in (1, 2):
        reach.reset(seed=seed)
        np.testing.assert_allclose(reach._sim.data.site("goal").xpos, reach._sim._target_pos)


def test_a_seed_gives_one_start_whatever_came_before(reach):
    reach.render_images = True
    first, _ = reach.reset(seed=5)
    other, _ = reach.reset(seed=6)
    reach.step(np.ones(4, dtype=np.float32))
    again, _ = reach.reset(seed=5)
    np.testing.assert_array_equal(first["images"]["corner2"], again["images"]["corner2"])
    np.testing.assert_array_equal(first["state"], again["state"])
    assert (first["images"]["corner2"] != other["images"]["corner2"]).any()


def test_reset_without_a_seed_goes_on(reach):
    reach.reset(seed=5)
    starts = []
    for _ in range(3):
        reach.reset()
        starts.append(reach._sim._target_pos.copy())
    assert len(np.unique(starts, axis=0)) == 3


def test_horizon_longer_than_metaworlds_own():
    env = MetaworldConfig(image_size=16, horizon=520).make("reach")
    env.render_images = False
    env.reset(seed=0)
    ends = [env.step(np.zeros(4, dtype=np.float32))[3] for _ in range(520)]
    assert ends == [False] * 519 + [True]
    env.close()


def test_actions_are_clipped_and_checked(reach):
    reach.render_images = False
    ends = []
    for size in (1.0, 50.0):
        reach.reset(seed=3)
        ends.append(reach.step(np.full(4, size))[0]["state"])
    np.testing.assert_array_equal(*ends)
    with pytest.raises(ValueError, match=r"expected \(4,\)"):
        reach.step(np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        reach.step(np.array([0, 0, np.nan, 0]))


def test_step_before_reset():
    env = MetaworldConfig(**SMALL).make("reach")
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(4))
    with pytest.raises(RuntimeError, match="reset"):
        env.expert_action()
    env.close()


@pytest.mark.parametrize("task", ["drawer-open", "button-press-topdown", "pick-place"])
def test_expert_succeeds(task):
    env = MetaworldConfig(**SMALL).make(task)
    results = [expert_episode(env, seed) for seed in (11, 12)]
    env.close()
    assert all(info["success"] and info["failure"] == "" for info, _ in results)
    assert all(steps < 150 for _, steps in results)


@pytest.mark.slow
def test_experts_of_all_tasks():
    """98 of 100 with these seeds when written (stick-pull and soccer fail on seed 0), as often as published."""
    wins = []
    for task in INSTRUCTIONS:
        env = MetaworldConfig(image_size=16).make(task)
        wins += [bool(expert_episode(env, seed)[0]["success"]) for seed in (0, 1)]
        env.close()
    assert sum(wins) >= 95


@pytest.mark.parametrize(
    ("task", "infos", "label"),
    [
        ("stick-pull", [{}], "never reached"),
        ("stick-pull", [{"near_object": 1.0}], "no grasp"),
        ("stick-pull", [{"near_object": 1.0}, {"grasp_success": True}], "missed goal"),
        ("push", [{"near_object": 1.0}], "missed goal"),
        ("soccer", [{}], "missed goal"),
    ],
)
def test_failure_labels(task, infos, label):
    progress = Progress(task)
    for each in infos:
        progress.update(False, each)
    assert progress.failure() == label
    progress.update(True, {})
    assert progress.failure() == ""

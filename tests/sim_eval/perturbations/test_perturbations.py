"""Every perturbation changes what it says and nothing else, from the episode's seed alone, and leaves no trace."""

import numpy as np
import point_env
import pytest

from vla.common import registry
from vla.common.renamed import RenamedWarning
from vla.config import ConfigError, load_config, schema
from vla.sim_eval import EvalConfig
from vla.sim_eval.env import Task
from vla.sim_eval.env_contract import EnvError, check_env
from vla.sim_eval.envs.perturbed import PerturbedConfig, PerturbedEnv
from vla.sim_eval.perturbations import (
    CONTROLS,
    GRADED,
    Perturbation,
    all_kinds,
    describe,
    kind_named,
)
from vla.types import Spec

PHYSICS = {"mass", "action_delay", "initial_pose"}
LOOKS = {"light", "camera", "colours", "distractors", "blur", "blank_image"}
TEXTS = {"paraphrase", "wrong_instruction", "empty_instruction"}
SEEN_STATE = {"noise", "observation_delay", "frozen_state"}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)


class WordyEnv(point_env.PointEnv):
    """The tasks of the point env, with paraphrases."""

    def __init__(self, config, task):
        super().__init__(config, task)
        self.task = Task(
            task,
            self.task.group,
            self.task.instruction,
            ("Find it", "Seek it", "Reach it"),
            config.horizon,
        )


def severity_of(kind, severity=3):
    return severity if kind_named(kind).levels else None


def make(kind, severity=3, inner=None, task="red", image_size=32):
    config = point_env.PointConfig(horizon=40, image_size=image_size)
    instructions = tuple(other.instruction for other in config.suite().tasks)
    env = WordyEnv(config, task) if inner is None else inner
    return PerturbedEnv(env, kind, severity_of(kind, severity) if kind else None, instructions)


def play(env, seed=5, actions=ACTIONS):
    """What an episode shows: states as the policy sees them, true ones, pictures, instructions."""
    observation, info = env.reset(seed=seed)
    seen, pictures, texts = (
        [observation["state"]],
        [observation["images"].get("top")],
        [info["instruction"]],
    )
    true, rewards = [np.array(env.data.qpos)], []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        seen.append(observation["state"])
        pictures.append(observation["images"].get("top"))
        texts.append(info["instruction"])
        true.append(np.array(env.data.qpos))
        rewards.append(reward)
    return {"seen": seen, "pictures": pictures, "texts": texts, "true": true, "rewards": rewards}


def same(a, b, what):
    return all(np.array_equal(x, y) for x, y in zip(a[what], b[what], strict=True))


@pytest.fixture(scope="module")
def clean():
    env = WordyEnv(point_env.PointConfig(horizon=40), "red")
    yield play(env)
    env.close()


def test_every_kind_is_in_the_order_of_reports():
    kinds = all_kinds()
    assert kinds == (*GRADED, *CONTROLS)
    assert sorted(kinds) == registry.names("perturbations")
    assert all(kind_named(kind).kind == kind for kind in kinds)
    assert all(kind_named(kind).levels for kind in GRADED)
    assert not any(kind_named(kind).levels for kind in CONTROLS)
    assert all(
        describe(kind) and (kind in CONTROLS or "{" not in describe(kind, 2)) for kind in kinds
    )


def test_without_a_perturbation_the_env_is_the_one_inside_to_the_bit(clean):
    env = make(None)
    found = play(env)
    env.close()
    assert all(same(found, clean, what) for what in clean)


@pytest.mark.parametrize("kind", [*GRADED, *CONTROLS])
def test_a_kind_changes_what_it_says_and_nothing_else_and_leaves_no_trace(kind, clean):
    env = make(kind)
    first, again = play(env), play(env)
    other = play(env, seed=6)
    assert all(
        same(first, again, what) for what in first
    )  # the seed alone decides, also after other episodes
    assert not all(same(first, other, what) for what in first)
    assert same(first, clean, "true") == (kind not in PHYSICS)
    assert same(first, clean, "rewards") == (kind not in PHYSICS)
    assert same(first, clean, "seen") == (kind not in PHYSICS | SEEN_STATE)
    untouched = kind in TEXTS | {"frozen_state", "friction"}
    assert same(first, clean, "pictures") == untouched
    assert same(first, clean, "texts") == (kind not in TEXTS)
    if kind in LOOKS:
        assert not np.array_equal(first["pictures"][0], clean["pictures"][0])
    inner = env.env
    env._undo()
    inner.render_images = True
    assert all(same(play(inner), clean, what) for what in clean)
    env.close()


def test_friction_is_changed_and_put_back():
    env = make("friction")
    before = np.array(env.model.geom_friction)
    env.reset(seed=1)
    factor = env.model.geom_friction / before
    assert not np.allclose(factor, 1)
    assert np.allclose(factor, factor.flat[0])
    env.close()
    assert np.array_equal(env.model.geom_friction, before)


@pytest.mark.parametrize("kind", [*GRADED, *CONTROLS])
def test_check_env_passes_but_for_what_a_control_takes_away(kind):
    env = make(kind, severity=2)
    try:
        if kind == "blank_image":
            with pytest.raises(EnvError) as error:
                check_env(env)
            assert all("one colour" in problem for problem in error.value.problems)
        elif kind == "empty_instruction":
            with pytest.raises(EnvError) as error:
                check_env(env)
            assert all("instruction" in problem for problem in error.value.problems)
        else:
            check_env(env)
    finally:
        env.close()


@pytest.mark.parametrize("kind", ["light", "camera", "colours", "noise", "blur"])
def test_pictures_change_more_with_severity(kind):
    pictures = []
    for severity in (None, 1, 2, 3):
        env = make(kind if severity else None, severity, image_size=96)
        pictures.append(env.reset(seed=5)[0]["images"]["top"].astype(int))
        env.close()
    sizes = [np.abs(picture - pictures[0]).mean() for picture in pictures[1:]]
    assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_more_distractors_are_the_fewer_and_others():
    extras = []
    for severity in (1, 2, 3):
        env = make("distractors", severity)
        env.reset(seed=5)
        extras.append(tuple(env.renderer.extras))
        env.close()
        assert env.renderer.extras == ()
    assert [len(found) for found in extras][:2] == [2, 4]
    assert extras[1][:2] == extras[0]
    assert extras[2][:4] == extras[1]


def test_the_expert_reaches_the_target_whatever_is_shown():
    for kind in (
        "camera",
        "noise",
        "observation_delay",
        "initial_pose",
        "action_delay",
        "blank_image",
    ):
        env = make(kind, severity=1)
        env.render_images = False
        _, info = env.reset(seed=2)
        for _ in range(env.task.horizon):
            _, _, _, over, info = env.step(env.expert_action())
            if info["success"] or over:
                break
        assert info["success"], kind
        env.close()


def test_delays_are_those_of_their_steps():
    late = make(
        "observation_delay", 2
    )  # 0.1 s are one step at 10 Hz; the second severity is two at least
    found, plain = play(late), play(make(None))
    for step in range(len(ACTIONS) + 1):
        assert np.array_equal(found["seen"][step], plain["seen"][max(0, step - 2)])
        assert np.array_equal(found["pictures"][step], plain["pictures"][max(0, step - 2)])
    slow = make("action_delay", 2)
    shifted = play(make(None), actions=[np.zeros(2, np.float32)] * 2 + list(ACTIONS[:-2]))
    assert same(play(slow), shifted, "true")


def test_late_pictures_are_drawn_although_nobody_looked_meanwhile():
    env = make("observation_delay", 1)
    env.reset(seed=5)
    env.render_images = False
    unseen = env.step(ACTIONS[0])[0]
    assert unseen["images"] == {}
    env.render_images = True
    shown = env.step(ACTIONS[1])[0]["images"]["top"]
    assert np.array_equal(shown, play(make(None))["pictures"][1])
    env.close()


def test_instructions():
    given = {}
    for kind, severity in (
        ("paraphrase", 1),
        ("paraphrase", 3),
        ("wrong_instruction", None),
        ("empty_instruction", None),
    ):
        env = make(kind, severity)
        given[kind, severity] = env.reset(seed=0)[1]["instruction"]
        env.close()
    assert list(given.values()) == ["Find it", "Reach it", "Go to the blue square", ""]


def test_frozen_state_and_blank_image(clean):
    frozen = play(make("frozen_state"))
    assert all(np.array_equal(state, clean["seen"][0]) for state in frozen["seen"])
    assert all(len(np.unique(picture)) == 1 for picture in play(make("blank_image"))["pictures"])


def test_two_perturbations_on_top_of_each_other(clean):
    env = PerturbedEnv(make("colours"), "distractors", 1)
    found = play(env)
    assert same(found, clean, "true")
    assert not same(found, clean, "pictures")
    inner = env.env.env
    env.close()
    plain = WordyEnv(point_env.PointConfig(horizon=40), "red").model
    assert inner.renderer.extras == ()
    assert np.array_equal(inner.model.geom_rgba, plain.geom_rgba)


# --- kinds of others --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"levels": (1, 2), "unit": "{}"}, ["Mine.levels", "has 2", "severities 1 to 3"]),
        ({"levels": (1, 2, 3), "unit": "much"}, ["Mine.unit", "'much'", "{}"]),
        ({"needs": ("model", "legs")}, ["Mine.needs", "'legs'", "cameras, state, model, renderer"]),
    ],
)
def test_a_class_is_checked_where_it_is_written(attributes, words):
    with pytest.raises(ValueError, match=r"^Mine\.") as error:
        type("Mine", (Perturbation,), {"kind": "mine", **attributes})
    assert all(word in str(error.value) for word in words)


def test_a_kind_must_say_its_own_name(monkeypatch):
    monkeypatch.setattr(registry, "_registry", {**registry._registry, "perturbations": {}})
    registry.register("perturbations", "mine")(type("Mine", (Perturbation,), {"kind": "yours"}))
    with pytest.raises(ConfigError, match="must derive from Perturbation and say `kind = 'mine'`"):
        kind_named("mine")


def test_a_former_name_is_replaced_by_the_present_one(monkeypatch):
    monkeypatch.setitem(registry._former["perturbations"], "grain", "noise")
    with pytest.warns(RenamedWarning, match="type: grain is now called type: noise"):
        config = PerturbedConfig(env=point_env.PointConfig(), kind="grain", severity=1)
    assert config.kind == "noise"


# --- configs and bad input --------------------------------------------------------------------------


def test_the_config_keeps_tasks_and_spec_and_round_trips():
    inner = point_env.PointConfig()
    config = PerturbedConfig(env=inner, kind="light", severity=2)
    assert config.spec() == inner.spec()
    assert config.suite().tasks == inner.suite().tasks
    assert config.suite().name == "points (light 2)"
    assert config.versions() == inner.versions()
    assert PerturbedConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_schema_of_an_evaluation_has_an_end():
    assert "PerturbedConfig" in str(schema(EvalConfig))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "ligth", "severity": 1}, ["kind", "'ligth'", "did you mean 'light'"]),
        ({"kind": "light"}, ["severity", "None", "expected 1, 2 or 3"]),
        ({"kind": "light", "severity": 4}, ["severity", "4", "expected 1, 2 or 3"]),
        ({"kind": "blank_image", "severity": 1}, ["blank_image", "control", "leave it out"]),
    ],
)
def test_wrong_configs_are_explained(settings, words):
    with pytest.raises(ConfigError) as error:
        load_config(PerturbedConfig, {"env": {"type": "test_point"}, **settings})
    assert all(word in str(error.value) for word in words)


class BlindConfig(point_env.PointConfig):
    def spec(self):
        return Spec({}, ("x", "y"), ("vx", "vy"), (-1.0, -1.0), (1.0, 1.0), control_hz=10)


@pytest.mark.parametrize(
    "kind", ["light", "camera", "colours", "distractors", "blur", "blank_image"]
)
def test_pictures_cannot_be_perturbed_where_there_are_none(kind):
    with pytest.raises(
        ValueError, match=f"{kind}: it changes pictures, but the env has no cameras"
    ):
        PerturbedConfig(
            env=BlindConfig.model_construct(**dict(point_env.PointConfig())),
            kind=kind,
            severity=severity_of(kind),
        )


@pytest.mark.parametrize("kind", ["light", "camera", "colours", "distractors", "mass", "friction"])
def test_an_env_without_a_model_is_refused(kind):
    env = point_env.PointEnv(point_env.PointConfig(), "red")
    env.model = None
    with pytest.raises(
        ConfigError, match=f"{kind}: it changes the MuJoCo model, but PointEnv has none"
    ):
        make(kind, inner=env)


def test_what_an_env_cannot_say_is_refused():
    plain = point_env.PointEnv(point_env.PointConfig(), "red")
    with pytest.raises(ConfigError, match="no other words for 'Go to the red square'"):
        make("paraphrase", inner=plain).reset(seed=0)
    with pytest.raises(ConfigError, match="add a task with another instruction"):
        PerturbedEnv(plain, "wrong_instruction").reset(seed=0)
    plain.renderer = None
    with pytest.raises(ConfigError, match="draws it itself"):
        make("distractors", inner=plain)
    with pytest.raises(RuntimeError, match="reset first"):
        make("noise").step(ACTIONS[0])


# --- Meta-World -------------------------------------------------------------------------------------


def test_metaworld_is_perturbed_and_restored():
    metaworld = pytest.importorskip("vla.sim_eval.envs.metaworld")
    inner = metaworld.MetaworldConfig(tasks=("drawer-open",), image_size=48).make("drawer-open")
    actions = np.random.default_rng(1).uniform(-1, 1, (3, 4)).astype(np.float32)

    def episode(env):
        found, _ = env.reset(seed=11)
        shown = [found["images"]["corner2"]]
        states = [found["state"]]
        for action in actions:
            found = env.step(action)[0]
            shown.append(found["images"]["corner2"])
            states.append(found["state"])
        return np.stack(shown), np.stack(states)

    pictures, states = episode(inner)
    for kind in ("camera", "distractors", "mass"):
        env = PerturbedEnv(inner, kind, 3)
        shown, seen = episode(env)
        assert np.array_equal(shown, pictures) == (
            kind == "mass"
        )  # the drawer is not touched in these steps
        assert np.array_equal(seen, states)
        env._undo()
        inner.render_images = True
        assert all(
            np.array_equal(a, b) for a, b in zip(episode(inner), (pictures, states), strict=True)
        )
    inner.close()

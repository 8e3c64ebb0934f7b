"""The tabletop: experts solve it, the grammar keeps what is held out apart, the scene does not tell what is asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vla.config import ConfigError, load_config
from vla.sim_eval import check_env
from vla.sim_eval.env import FAILURES
from vla.sim_eval.envs.tabletop import TabletopConfig, TabletopEnv, families_of
from vla.sim_eval.envs.tabletop_parts.language import (
    FAMILIES,
    HELD_OUT_PAIRS,
    HELD_OUT_STEPS,
    SPLITS,
    TRAIN_PAIRS,
    TRAIN_STEPS,
    Thing,
    draw_command,
    draw_things,
    texts,
)


@pytest.fixture(scope="module")
def make():
    """Envs of 48 px that are closed at the end."""
    envs: list[TabletopEnv] = []

    def build(family: str, **settings) -> TabletopEnv:
        envs.append(TabletopConfig(image_size=48, **settings).make(family))
        return envs[-1]

    yield build
    for env in envs:
        env.close()


def play(env, seed, *, act=None):
    env.render_images = False
    env.reset(seed=seed)
    for _ in range(env.task.horizon):
        info = env.step(env.expert_action() if act is None else act(env))[4]
        if info["success"]:
            break
    return info


def test_suites_and_specs():
    assert [t.name for t in TabletopConfig().suite().tasks] == list(FAMILIES)
    assert TabletopConfig(split="long").suite().name == "tabletop/long"
    assert [t.name for t in TabletopConfig(split="long").suite().tasks] == ["two-step"]
    suite = TabletopConfig(tasks=("pick", "sort"), horizon=50).suite()
    assert [t.horizon for t in suite.tasks] == [50, 100]
    assert TabletopConfig(image_size=32).spec().cameras == {"front": (32, 32), "wrist": (32, 32)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "unsen_pairs"}, ["split", "unseen_pairs"]),
        ({"tasks": ["pik"]}, ["tasks", "pick"]),
        ({"tasks": []}, ["tasks", "empty"]),
        ({"tasks": ["pick", "pick"]}, ["twice"]),
        ({"split": "long", "tasks": ["pick"]}, ["long", "two-step", "pick"]),
        ({"cameras": ["front", "front"]}, ["cameras", "twice"]),
        ({"randomisation": {"ligth": 1}}, ["randomisation.ligth", "light"]),
    ],
)
def test_wrong_configs_are_explained(settings, words):
    with pytest.raises(ConfigError) as error:
        load_config(TabletopConfig, settings)
    assert all(word in str(error.value) for word in words)


def test_an_unknown_family_is_reported():
    with pytest.raises(ConfigError, match=r"'stak' \(did you mean 'stack'\?\)"):
        TabletopConfig().make("stak")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_solves_every_family(make, family):
    solved = [play(make(family), seed)["success"] for seed in range(4)]
    assert sum(solved) >= 3


def test_the_expert_recovers_from_disturbance(make):
    rng = np.random.default_rng(0)

    def disturbed(env):
        action = env.expert_action()
        return (
            np.clip(action + [*rng.normal(scale=0.6, size=3), 0.0], -1, 1)
            if rng.random() < 0.3
            else action
        )

    assert sum(play(make("place"), seed, act=disturbed)["success"] for seed in range(5)) >= 4


def test_check_env(make):
    check_env(make("two-step", horizon=20), steps=6)


def test_the_scene_does_not_tell_what_is_asked(make):
    """Reach, push, pick and place of one seed show the very same picture."""
    pictures = []
    for family in ("reach", "push", "pick", "place"):
        env = make(family)
        env.render_images = True
        pictures.append(env.reset(seed=5)[0]["images"]["front"])
    assert all(np.array_equal(pictures[0], picture) for picture in pictures[1:])


def test_seeds_give_starts_that_repeat_and_differ(make):
    env = make("pick")
    env.render_images = True
    first, _ = env.reset(seed=1)
    other, _ = env.reset(seed=2)
    again, _ = env.reset(seed=1)
    assert np.array_equal(first["images"]["front"], again["images"]["front"])
    assert not np.array_equal(first["images"]["front"], other["images"]["front"])


def test_nothing_to_do_is_no_success(make):
    """Standing still solves nothing, in any family."""
    still = np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32)
    for family in FAMILIES:
        info = play(make(family, horizon=15), 0, act=lambda env: still)
        assert not info["success"]
        assert info["failure"] in FAILURES


# --- held out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["seen", "paraphrase", "long"])
def test_held_out_pairs_never_lie_on_the_table(split):
    rng = np.random.default_rng(0)
    for family in families_of(split):
        for _ in range(100):
            things = draw_things(rng, family, split, 3)
            assert len(set(things)) == 3
            assert not any((t.colour, t.shape) in HELD_OUT_PAIRS for t in things)


def test_unseen_pairs_are_what_is_asked_for():
    rng = np.random.default_rng(0)
    for family in families_of("unseen_pairs"):
        for _ in range(50):
            things = draw_things(rng, family, "unseen_pairs", 3)
            assert (things[0].colour, things[0].shape) in HELD_OUT_PAIRS
            assert all((t.colour, t.shape) in TRAIN_PAIRS for t in things[1:])


def test_wordings_of_the_splits_do_not_overlap():
    rng = np.random.default_rng(0)
    seen, held_out = set(), set()
    for family in FAMILIES:
        for _ in range(60):
            things = draw_things(rng, family, "seen", 3)
            command = draw_command(rng, family, "seen", drawer_open=bool(rng.integers(2)))
            seen |= set(texts(command, things))
            held_out |= set(texts(command, things, held_out=True))
    assert not seen & held_out
    assert all(text[0].isupper() and "{" not in text for text in seen | held_out)


def test_compositions_of_the_splits_do_not_overlap():
    assert not set(TRAIN_STEPS) & set(HELD_OUT_STEPS)
    rng = np.random.default_rng(0)
    for split, steps in (("seen", TRAIN_STEPS), ("long", HELD_OUT_STEPS)):
        drawn = set()
        for i in range(200):
            command = draw_command(rng, "two-step", split, drawer_open=bool(i % 2))
            drawn.add(tuple(goal.kind for goal in command.goals))
        assert drawn == set(steps)


def test_a_command_never_asks_for_what_is_so_already(make):
    for split, family in (
        ("seen", "two-step"),
        ("seen", "open-drawer"),
        ("seen", "close-drawer"),
        ("long", "two-step"),
    ):
        env = make(family, split=split)
        env.render_images = False
        for seed in range(20):
            env.reset(seed=seed)
            assert not any(env._progress.satisfied(goal) for goal in env.command.goals), (
                split,
                family,
                seed,
            )


def test_wrong_instructions_ask_for_something_else(make):
    for family in FAMILIES:
        env = make(family)
        env.render_images = False
        env.reset(seed=3)
        right = set(texts(env.command, env.table.things))
        wrong = env.wrong_instructions()
        assert wrong
        assert not right & set(wrong)
        assert not set(env.paraphrases()) & set(env.held_out_paraphrases())


def test_texts_name_the_things():
    things = (Thing("red", "cube"), Thing("blue", "cube"), Thing("green", "ball"))
    rng = np.random.default_rng(0)
    other = texts(draw_command(rng, "other-one", "seen", drawer_open=False), things)
    assert other[0] == "Pick up the cube that is not blue"
    stack = texts(draw_command(rng, "stack", "seen", drawer_open=False), things)
    assert stack[0] == "Stack the red cube on the blue cube"
    assert set(itertools.chain(SPLITS)) == {"seen", "unseen_pairs", "paraphrase", "long"}


# --- failures and randomisation ---------------------------------------------------------------------


def test_failures_say_how_far_it_came(make):
    def still(env):
        return np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32)

    assert play(make("pick", horizon=20), 0, act=still)["failure"] == "never reached"

    def never_close(env):
        return np.array([*env.expert_action()[:3], 1.0], dtype=np.float32)

    assert play(make("pick", horizon=40), 0, act=never_close)["failure"] == "no grasp"

    def drop(env):
        lifted = env.table.position(0)[2] > 0.07
        return np.array(
            [*env.expert_action()[:3], 1.0 if lifted else env.expert_action()[3]], dtype=np.float32
        )

    info = play(make("place", horizon=40), 0, act=drop)
    assert info["failure"] in ("dropped", "missed goal")
    assert 0 < info["failure_step"] < 40


def test_randomisation_changes_the_picture_and_is_undone(make):
    plain, varied = (
        make("pick"),
        make("pick", randomisation={"light": 1.0, "camera": 1.0, "texture": 1.0, "mass": 1.0}),
    )
    plain.render_images = varied.render_images = True
    assert not np.array_equal(
        plain.reset(seed=4)[0]["images"]["front"], varied.reset(seed=4)[0]["images"]["front"]
    )
    first = varied.reset(seed=7)[0]["images"]["front"]
    varied.reset(seed=8)
    assert np.array_equal(first, varied.reset(seed=7)[0]["images"]["front"])
    assert play(varied, 0)["success"]


def test_latency_delays_actions(make):
    env = make("pick", randomisation={"latency": 5})
    env.render_images = False
    starts = []
    for seed in range(12):
        env.reset(seed=seed)
        before = env.table.hand
        moved = 0
        while np.linalg.norm(env.table.hand - before) < 0.004:
            env.step(np.array([1.0, 0.0, 0.0, 1.0], dtype=np.float32))
            moved += 1
        starts.append(moved)
    assert min(starts) < max(starts) <= 8

"""The suite quadruped: the expert solves it, only words tell what is asked, failures have their names."""

from __future__ import annotations

import numpy as np
import pytest

from vla.config import ConfigError, UserError, load_config
from vla.sim_eval import check_env
from vla.sim_eval.envs.quadruped import QuadrupedConfig, QuadrupedEnv
from vla.sim_eval.envs.quadruped_parts.commands import NAMES
from vla.sim_eval.envs.quadruped_parts.goals import FAILURES
from vla.sim_eval.envs.quadruped_parts.language import (
    FAMILIES,
    HELD_OUT_PAIRS,
    TRAIN_PAIRS,
    draw_command,
    draw_words,
    families_of,
    other_commands,
    texts,
)
from vla.sim_eval.envs.quadruped_parts.manner import Manner, MannerError, read_manner
from vla.sim_eval.envs.quadruped_parts.placing import APART, lay_out


@pytest.fixture(scope="module")
def make():
    """Envs of 32 px that are closed at the end."""
    envs: dict[str, QuadrupedEnv] = {}

    def build(family: str, **settings) -> QuadrupedEnv:
        # compiled and given a rendering context once for all tests that want the same
        key = f"{family}{settings}"
        if key not in envs:
            envs[key] = QuadrupedConfig(image_size=32, **settings).make(family)
        envs[key].render_images = False
        return envs[key]

    yield build
    for env in envs.values():
        env.close()


def play(env, seed, *, act=None, instruction=None):
    env.reset(seed=seed, options={"instruction": instruction})
    over = False
    while not over:
        action = env.expert_action() if act is None else act(env)
        _, _, terminated, truncated, info = env.step(action)
        over = info["success"] or terminated or truncated
    return info


def action(**values):
    """Standing, and the values that are given."""
    names = (*NAMES, "done")
    standing = dict(zip(names, (0, 0, 0, 0.29, 3, 0.5, 0, 0, 0.08, 0, 0.26, 0), strict=True))
    return np.array(list((standing | values).values()), dtype=np.float32)


# --- configs --------------------------------------------------------------------------------------


def test_suites_and_specs():
    assert [task.name for task in QuadrupedConfig().suite().tasks] == list(FAMILIES)
    assert QuadrupedConfig(split="long").suite().name == "quadruped/long"
    assert [t.horizon for t in QuadrupedConfig(tasks=("crawl", "two-step")).suite().tasks] == [
        100,
        200,
    ]
    spec = QuadrupedConfig().spec()
    assert spec.action_names == (*NAMES, "done")
    assert spec.binary_actions == ("done",)
    first = QuadrupedConfig(done="first").spec()
    assert first.action_names == ("done", *NAMES)
    assert (first.action_low[:2], first.action_high[:2]) == ((0.0, -0.8), (1.0, 1.2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "unsen_pairs"}, ["split", "unseen_pairs"]),
        ({"tasks": ["craw"]}, ["tasks", "crawl"]),
        ({"tasks": []}, ["tasks", "empty"]),
        ({"tasks": ["crawl", "crawl"]}, ["twice"]),
        ({"split": "long", "tasks": ["crawl"]}, ["long", "two-step", "crawl"]),
        ({"gaits": ["pronking"]}, ["pronking reaches 0.6 m/s", "quickly", "leave one of them out"]),
        ({"speeds": []}, ["speeds", "empty"]),
        ({"gaits": ["pacing", "pacing"]}, ["gaits", "twice"]),
        ({"randomisation": {"paylod": 1}}, ["randomisation.paylod", "payload"]),
    ],
)
def test_wrong_configs_are_explained(settings, words):
    with pytest.raises(ConfigError) as error:
        load_config(QuadrupedConfig, settings)
    assert all(word in str(error.value) for word in words)


def test_an_unknown_family_is_reported():
    with pytest.raises(ConfigError, match=r"'crawll' \(did you mean 'crawl'\?\)"):
        QuadrupedConfig().make("crawll")


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings"), [("unload", {}), ("stop", {"done": "first", "manner": True})]
)
def test_check_env(make, family, settings):
    env = make(family, horizon=12, **settings)
    env.render_images = True
    check_env(env, steps=5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_solves_every_family(make, family):
    info = play(make(family), 0)
    assert info["success"], info


@pytest.mark.parametrize("family", ["go-to", "around"])
def test_the_expert_walks_as_the_adverbs_ask(make, family):
    env = make(family, manner=True)
    assert play(env, 3)["success"]
    assert env.watch.gauge.shows(env.manner)


def test_the_expert_recovers_from_disturbance(make):
    rng = np.random.default_rng(0)

    def disturbed(env):
        clean = env.expert_action()
        if rng.random() < 0.2:
            clean[:3] += rng.normal(scale=0.4, size=3)
        return clean

    assert sum(play(make("go-through"), seed, act=disturbed)["success"] for seed in range(3)) >= 2


def test_bad_actions_are_refused(make):
    env = make("go-to")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step(action(vx=float("nan")))
    with pytest.raises(ValueError, match=r"\(12,\)"):
        env.step(np.zeros(11, dtype=np.float32))


def test_commands_outside_the_box_are_clipped(make):
    env = make("go-to")
    env.reset(seed=0)
    for _ in range(5):
        state = env.step(action(vx=50.0, height=9.0))[0]["state"]
    assert np.isfinite(state).all()
    assert state[3] < 1.3


# --- success and failure --------------------------------------------------------------------------


def test_done_must_be_said_twice_and_at_the_place(make):
    env = make("go-to")
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(action(done=1.0))
    assert (terminated, info["failure"]) == (False, "time limit")
    assert info["failure_step"] == 1
    # once more in between resets the count
    env.step(action())
    env.step(action(done=1.0))
    _, _, terminated, _, info = env.step(action(done=1.0))
    assert (terminated, info["failure"], info["failure_step"]) == (True, "wrong place", 4)


def test_a_robot_put_upside_down_fails_at_the_first_step(make):
    env = make("go-to")
    env.reset(seed=0)
    env.data.qpos[3:7] = [0.0, 1.0, 0.0, 0.0]
    _, _, terminated, _, info = env.step(action())
    assert (terminated, info["failure"], info["failure_step"]) == (True, "fell", 1)


def test_walking_into_the_target_is_a_hit(make):
    env = make("go-to")
    env.reset(seed=0)
    for _ in range(40):
        clean = env.expert_action()
        way = env.scene.place("thing0") - env.watch.xy
        turn = np.arctan2(way[1], way[0]) - env.robot.sense().yaw
        _, _, terminated, _, info = env.step(action(vx=0.6, wz=np.clip(2 * turn, -1, 1)))
        if info["failure"] == "hit" or terminated:
            break
    assert info["failure"] == "hit"
    assert clean.shape == (12,)
    hit_at = info["failure_step"]
    assert hit_at == env.watch.steps
    # the step of the first touch, however the episode goes on
    assert env.step(action())[4]["failure_step"] == hit_at


def test_time_limit_and_wrong_manner(make):
    assert play(make("crawl", horizon=3), 0, act=lambda env: action())["failure"] == "time limit"
    env = make("go-to", manner=True)
    env.reset(seed=1)

    def other_gait(env):
        asked = env.expert_action()
        asked[5:8] = (0.0, 0.5, 0.0) if env.manner.gait != "bounding" else (0.5, 0.0, 0.0)
        return asked

    assert play(env, 1, act=other_gait)["failure"] == "wrong manner"


def test_the_side_of_the_obstacle_counts(make):
    env = make("around")
    env.reset(seed=0)
    [wrong] = [
        text for text in env.wrong_instructions() if env.scene.layout.words["thing0"] in text
    ]
    assert play(env, 0)["success"]
    assert env.watch.side == env.command.goals[0].side
    other = play(env, 0, instruction=wrong)
    assert other["success"]
    assert env.watch.side == env.command.goals[0].side


def test_quarts_rule_counts_who_comes_near(make):
    env = make("go-to", success="quart")

    def never_done(env):
        asked = env.expert_action()
        asked[-1] = 0.0
        return asked

    assert play(env, 0, act=never_done)["success"]
    assert not play(make("go-to", horizon=40), 0, act=never_done)["success"]


def test_relabelling_says_what_was_done(make):
    env = make("go-to")
    env.reset(seed=2)
    mistaken = env.mistake(np.random.default_rng(0))
    assert mistaken in env.wrong_instructions()
    for _ in range(40):
        _, _, terminated, _, info = env.step(env.expert_action())
        if terminated:
            break
    assert info["failure"] == "wrong place"
    assert env.achieved() == {mistaken}


def test_passing_a_thing_without_a_word_is_not_achieved(make):
    for success, seen in (("done", False), ("quart", True)):
        env = make("go-to", success=success)
        env.reset(seed=2)
        target = env.scene.layout.words["thing0"]
        while env.watch.distance("thing0") > 0.8:
            silent = env.expert_action()
            silent[-1] = 0.0
            env.step(silent)
        assert env.achieved() == ({f"Go to the {target}"} if seen else set())


def test_halves_of_an_instruction_of_two_goals(make):
    env = make("two-step")
    env.reset(seed=0)
    first = env.first_goal()
    gate = env.scene.layout.words["gate0"]
    assert first == f"Go through the {gate} gate"
    over = False
    while not over:
        _, _, over, truncated, info = env.step(env.expert_action())
        assert not truncated
    # `done` is said twice behind the gate: what was asked in whole has failed, its half is done
    assert info["failure"] == "wrong place"
    assert env.achieved() == {first}
    env.reset(seed=0)
    assert env.skip_first_goal()
    assert env.progress.goal == env.command.goals[1]
    assert env.watch.steps == 0
    before = env.observe()["state"][6]
    assert before > 2.0
    info = {"success": False}
    while not info["success"]:
        _, _, over, truncated, info = env.step(env.expert_action())
        assert not truncated
        assert info["success"] or not over
    assert not make("go-to").skip_first_goal()
    assert make("go-to").first_goal() == ""


def test_the_same_action_for_the_same_state(make):
    env = make("around")
    env.reset(seed=1)
    for _ in range(4):
        env.step(env.expert_action())
    assert np.array_equal(env.expert_action(), env.expert_action())


def test_failures_are_the_words_that_are_listed():
    assert set(FAILURES) == {"fell", "hit", "wrong place", "wrong manner", "time limit"}


# --- language -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_held_out_wordings_are_kept_apart(family):
    words = draw_words(np.random.default_rng(0), family, "seen")
    command = draw_command(np.random.default_rng(0), family, words)
    seen, held_out = texts(command, words), texts(command, words, held_out=True)
    assert seen
    assert held_out
    assert not set(seen) & set(held_out)


def test_held_out_pairs_are_asked_for_in_their_split_alone():
    held_out = {" ".join(pair) for pair in HELD_OUT_PAIRS}
    assert not held_out & {" ".join(pair) for pair in TRAIN_PAIRS}
    for split in ("seen", "unseen_pairs"):
        for family in families_of(split):
            for seed in range(20):
                words = draw_words(np.random.default_rng(seed), family, split)
                things = [name for body, name in words.items() if body.startswith("thing")]
                assert (set(things[:1]) <= held_out) == (
                    split == "unseen_pairs" and bool(things)
                ) or not things
                assert not set(things[1:]) & held_out


def test_things_stand_apart_and_in_view():
    for family in ("go-to", "go-avoid", "distinguish", "stop", "two-step"):
        for seed in range(30):
            rng = np.random.default_rng(seed)
            words = draw_words(rng, family, "seen")
            layout = lay_out(rng, draw_command(rng, family, words), words)
            places = [layout.places[b] for b in words if b.startswith(("thing", "letter"))]
            for i, place in enumerate(places):
                assert abs(np.arctan2(place[1], place[0])) < 0.62
                assert all(np.linalg.norm(place - other) > APART for other in places[:i])


def test_wrong_instructions_ask_for_something_else_of_the_scene(make):
    for family in ("go-to", "crawl", "distinguish", "unload", "two-step", "around"):
        env = make(family)
        env.reset(seed=0)
        wrong = env.wrong_instructions()
        assert wrong
        assert env._instruction not in wrong
        words = env.scene.layout.words
        assert len(wrong) == len(other_commands(env.command, words))


def test_an_instruction_in_ones_own_words(make):
    env = make("go-to")
    env.reset(seed=0)
    other = env.scene.layout.words["thing1"]
    info = env.reset(seed=0, options={"instruction": f"Navigate to the {other} slowly."})[1]
    assert info["instruction"] == f"Navigate to the {other} slowly."
    assert env.command.goals[0].body == "thing1"
    assert env.manner == Manner("slowly", "trotting")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Go to the green cube", "instruction: there is no green cube in this scene; there are: "),
        (
            "Fetch the newspaper",
            "instruction: 'Fetch the newspaper' is no wording of this family; say",
        ),
        (
            "Go to the {thing} slowly and quickly",
            "adverbs: 'slowly' and 'quickly' contradict each other",
        ),
        (
            "Go to the {thing} with a trotting pacing gait",
            "adverbs: 'trotting' and 'pacing' contradict",
        ),
        (
            "Go to the {thing} quickly with a pronking gait",
            "adverbs: pronking reaches 0.6 m/s, 'quickly'",
        ),
    ],
)
def test_instructions_that_cannot_be_followed_are_refused_in_one_line(make, text, message):
    env = make("go-to")
    env.reset(seed=0)
    text = text.format(thing=env.scene.layout.words["thing0"])
    with pytest.raises(UserError) as error:
        env.reset(seed=0, options={"instruction": text})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_adverbs_are_read_and_taken_off():
    assert read_manner("go to the red cube slowly with a pacing gait") == (
        "go to the red cube",
        "slowly",
        "pacing",
    )
    assert read_manner("go to the red cube bounding quickly") == (
        "go to the red cube",
        "quickly",
        "bounding",
    )
    assert read_manner("go to the red cube") == ("go to the red cube", None, None)
    with pytest.raises(MannerError):
        Manner("quickly", "pronking")


# --- the physics ----------------------------------------------------------------------------------


def test_randomisation_is_drawn_and_undone(make):
    env = make("go-to", randomisation={"friction": 1.0, "payload": 5.0, "motor": 0.3, "com": 0.05})
    model = env.model
    nominal = QuadrupedConfig(image_size=32).make("go-to")
    seen = []
    for seed in range(3):
        env.reset(seed=seed)
        seen.append(float(model.body_mass[model.body("trunk").id]))
    assert len(set(seen)) == 3
    assert env.privileged_names == ("friction", "payload", "motor", "com")
    friction, payload, motor, com = env.privileged().tolist()
    assert model.body_mass[model.body("trunk").id] == pytest.approx(
        nominal.model.body_mass[nominal.model.body("trunk").id] + payload, rel=1e-5
    )
    assert 0.4 <= friction <= 1.4
    assert 0.7 <= motor <= 1.3
    assert abs(com) <= 0.05
    assert nominal.privileged_names == ()
    assert nominal.privileged().shape == (0,)
    low, high = env.privileged_range()
    np.testing.assert_allclose(low, [0.4, 0.0, 0.7, -0.05])
    np.testing.assert_allclose(high, [1.4, 5.0, 1.3, 0.05])
    env.set_privileged(np.array([1.2, 3.0, 0.8, -0.02]))
    np.testing.assert_allclose(env.privileged(), [1.2, 3.0, 0.8, -0.02], rtol=1e-6)
    assert env.robot.motor == 0.8
    assert min(seen) >= nominal.model.body_mass[nominal.model.body("trunk").id]
    nominal.close()


def test_the_ball_is_carried_and_tipped_into_the_tray(make):
    env = make("unload")
    env.reset(seed=1)
    for _ in range(8):
        env.step(env.expert_action())
    assert env.watch.ball_on_back
    assert play(env, 1)["success"]
    assert not env.watch.ball_on_back
    assert env.watch.unloaded("tray0")
    assert not env.watch.unloaded("tray1")

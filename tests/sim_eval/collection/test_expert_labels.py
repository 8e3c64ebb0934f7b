"""Corrections as a dataset: the expert's answers where policies act, and who acted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from point_env import PointConfig, PointEnv

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
    if values.get("actions") != "executed":
        # one label for each step, whose chunks are what of the labels was executed
        base["label_chunk"] = 1
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


SCENE = {"type": "tabletop", "tasks": ["reach"], "cameras": [], "state": "scene", "horizon": 12}


@pytest.fixture(scope="module")
def tabletop_policy(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tabletop") / "policy"
    spec = load_config(CollectConfig, {"env": SCENE, "out": "x"}).env.spec()
    config = MLPConfig(hidden=8, chunk=3, tokenizer=BinsConfig(num_bins=16))
    config.build(spec).save_pretrained(folder)
    return folder


def test_the_expert_labels_the_whole_chunk_of_the_policy(tmp_path, tabletop_policy):
    scene = {"env": SCENE}
    labelled = collect(config_of(tmp_path / "labels", tabletop_policy, label_chunk=None, **scene))
    executed = collect(
        config_of(tmp_path / "executed", tabletop_policy, actions="executed", **scene)
    )
    by_policy = 0
    for labels, done in zip(contents(labelled), contents(executed), strict=True):
        chunks = labels.extras["action_chunk"].reshape(len(labels), 3, -1)
        np.testing.assert_array_equal(chunks[:, 0], labels.actions)
        valid = labels.extras["valid_actions"]
        if labels.info["behaviour"] != "policy":
            # what the expert did next
            np.testing.assert_array_equal(chunks[0], labels.actions[:3])
            assert valid.tolist() == list(range(len(labels), 0, -1))
            continue
        by_policy += 1
        env = load_config(CollectConfig, {"env": SCENE, "out": "x"}).env.make("reach")
        for step in (0, 4):
            env.reset(seed=labels.info["seed"])
            for action in done.actions[:step]:
                env.step(action)
            for number in range(3):
                answer = env.expert_action().astype(np.float32)
                np.testing.assert_array_equal(chunks[step, number], answer)
                env.step(answer)
            assert valid[step] == 3
        env.close()
    assert by_policy
    # and they are what is learned
    batch = Windows(EpisodeDataset(labelled), history=1, chunk=3).batch(np.array([0]))
    first = contents(labelled)[0].extras["action_chunk"][0]
    np.testing.assert_array_equal(batch.actions[0, 0].numpy().reshape(-1), first)


def test_a_chunk_of_labels_is_resumed_and_asked_for_where_it_can_be(tmp_path, tabletop_policy):
    one = collect(config_of(tmp_path / "one", tabletop_policy, env=SCENE))
    assert "action_chunk" not in EpisodeDataset(one).columns.extras
    longer = config_of(tmp_path / "one", tabletop_policy, env=SCENE, label_chunk=None)
    with pytest.raises(ConfigError, match="set label_chunk=1"):
        collect(longer, resume=True)
    again = config_of(tmp_path / "one", tabletop_policy, env=SCENE)
    assert len(EpisodeDataset(collect(again, resume=True))) == 4
    without = config_of(tmp_path / "two", tabletop_policy, env=SCENE, label_chunk=2)
    without = without.model_copy(update={"actions": "executed"})
    with pytest.raises(ConfigError, match="label_chunk: is for states that policies visit"):
        collect(without)


def test_an_env_that_cannot_be_put_back_gives_one_label(tmp_path, policy, monkeypatch):
    monkeypatch.setattr(PointEnv, "changing_parts", lambda self: ())
    one = collect(config_of(tmp_path / "one", policy, label_chunk=None))
    assert "action_chunk" not in EpisodeDataset(one).columns.extras
    with pytest.raises(ConfigError, match=r"cannot be put back.*set label_chunk=1"):
        collect(config_of(tmp_path / "d", policy, label_chunk=3))


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

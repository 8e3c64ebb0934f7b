"""Data of mixed quality: who acts in an episode, and what it tells of it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from vla.config import ConfigError, UserError, load_config
from vla.data import EpisodeDataset
from vla.models.policies.mlp import MLPConfig
from vla.sim_eval.collection.collectors import Behaviours, BehavioursConfig
from vla.sim_eval.collection.recording import CollectConfig, collect, demonstrate
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.sim_eval.envs.tabletop_parts.language import texts
from vla.types import Spec, SpecError

ENV = {
    "type": "tabletop",
    "tasks": ["reach", "open-drawer"],
    "cameras": ["front"],
    "image_size": 16,
    "horizon": 60,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A checkpoint that draws its actions at random."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("policy") / "policy"
    MLPConfig(hidden=8).build(TabletopConfig.model_validate(ENV).spec()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def env():
    env = TabletopConfig.model_validate(ENV | {"horizon": 120}).make("reach")
    yield env
    env.close()


def config_of(out, policy, **values) -> CollectConfig:
    behaviours = {
        "mistaken": 0.4,
        "policies": [{"path": str(policy), "share": 0.4, "temperature": 1.0}],
    }
    base = {"env": ENV, "out": out, "episodes_per_task": 3, "workers": 1, "actions": "executed"}
    return load_config(
        CollectConfig, base | {"only_successes": False, "behaviours": behaviours} | values
    )


def contents(out):
    dataset = EpisodeDataset(out)
    return [dataset.episode(i) for i in range(len(dataset))]


@pytest.fixture(scope="module")
def made(tmp_path_factory, policy):
    return collect(config_of(tmp_path_factory.mktemp("mixed") / "dataset", policy))


def test_episodes_tell_who_acted(made, policy):
    episodes = contents(made)
    assert {e.info["behaviour"] for e in episodes} == {"expert", "mistaken", "policy"}
    for e in episodes:
        if e.info["behaviour"] == "policy":
            assert (e.info["policy"], e.info["temperature"], e.info["noisy_steps"]) == (
                str(policy),
                1.0,
                0,
            )
        if e.info["behaviour"] == "mistaken":
            assert e.info["acted"] != e.instruction
    assert len(EpisodeDataset(made).metadata["collect"]["behaviours"]["checkpoints"]) == 1


def test_workers_and_resuming_do_not_change_the_dataset(made, policy, tmp_path):
    out = tmp_path / "again"
    collect(config_of(out, policy, episodes_per_task=1))
    collect(config_of(out, policy, workers=2), resume=True)
    ours = {(e.info["task"], e.info["episode"]): e for e in contents(made)}
    theirs = {(e.info["task"], e.info["episode"]): e for e in contents(out)}
    assert ours.keys() == theirs.keys()
    for key, e in ours.items():
        assert e.info == theirs[key].info
        np.testing.assert_array_equal(e.actions, theirs[key].actions)
        np.testing.assert_array_equal(e.state, theirs[key].state)


def test_a_changed_checkpoint_does_not_resume(made, tmp_path):
    torch.manual_seed(1)
    config = EpisodeDataset(made).metadata["collect"]
    path = config["behaviours"]["policies"][0]["path"]
    changed = tmp_path / "policy"
    MLPConfig(hidden=8).build(TabletopConfig.model_validate(ENV).spec()).save_pretrained(changed)
    with pytest.raises(ConfigError, match=r"behaviours\.checkpoints: is .* was collected with"):
        collect(config_of(made, changed), resume=True)
    assert path != str(changed)


def test_shares_are_drawn(policy, env):
    config = BehavioursConfig(mistaken=0.2, policies=({"path": policy, "share": 0.5},))
    behaviours = Behaviours(config)
    env.render_images = False
    env.reset(seed=0)
    drawn = Counter(behaviours.begin(env, seed).info["behaviour"] for seed in range(400))
    assert drawn["mistaken"] == pytest.approx(80, abs=25)
    assert drawn["policy"] == pytest.approx(200, abs=35)
    assert drawn["expert"] == pytest.approx(120, abs=30)


def test_a_policy_acts_as_it_does_in_control(policy, env, tmp_path):
    """At temperature 0 its rollout is that of `act`."""
    from vla.control.inference_mode import inference
    from vla.models import load_policy
    from vla.types import Observation

    behaviours = {"policies": [{"path": str(policy), "share": 1.0}]}
    env.render_images = True
    config = config_of(tmp_path, policy, behaviours=behaviours, noise={"random_shares": [1.0]})
    episode, failure = demonstrate(env, config, 8)
    assert failure
    assert "random_share" not in episode.info  # nothing disturbs a policy
    assert not episode.terminated
    actor = load_policy(policy)
    with inference(actor):
        for t in (0, 50):
            images = {c: episode.frames(c)[t] for c in actor.spec.cameras}
            action = actor.act(
                Observation.from_numpy(images, episode.state[t], episode.instruction)
            )[0][0, 0]
            np.testing.assert_allclose(episode.actions[t], action, rtol=1e-5)


def test_the_mistaken_expert_does_what_it_understood(policy, env, tmp_path):
    config = config_of(tmp_path, policy, behaviours={"mistaken": 1.0}, noise={"std": 0})
    env.render_images = True
    for seed in (2, 4):
        episode, _ = demonstrate(env, config, seed)
        achieved = json.loads(episode.info["achieved"])
        assert episode.info["acted"].startswith("Touch the")  # another thing than asked
        assert achieved[episode.info["acted"]] == len(episode) - 1
        assert not episode.success.any()
        assert episode.terminated  # who believes to be done ends the task


@pytest.mark.parametrize("family", ["push", "pick", "place", "stack", "close-drawer"])
def test_the_scene_tells_what_was_achieved_and_experts_mistake_it(family):
    env = TabletopConfig(tasks=(family,), image_size=16).make(family)
    env.render_images = False
    try:
        env.reset(seed=6)
        asked = texts(env.command, env.table.things)[0]
        assert asked not in env.achieved()
        while not env.step(env.expert_action())[4]["success"]:
            pass
        assert asked in env.achieved()
        env.reset(seed=6)
        acted, info = env.mistake(np.random.default_rng(0)), {}
        assert acted != asked
        while acted not in env.achieved():
            info = env.step(env.expert_action())[4]
        assert not info["success"]
    finally:
        env.close()


def test_wrong_configs_are_explained(tmp_path, policy):
    for values, message in (
        (
            {"behaviours": {"mistaken": 0.7, "policies": [{"path": "p", "share": 0.4}]}},
            r"sum to 1\.1",
        ),
        (
            {"behaviours": {"mistaken": 0.5}, "only_successes": True},
            r"behaviours\.mistaken.*only_successes: false",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            config_of(tmp_path, policy, **values)
    with pytest.raises(UserError, match="no such checkpoint folder"):
        collect(config_of(tmp_path / "x", tmp_path / "nowhere"))
    other = Spec({}, ("x",), ("vx",), (-1.0,), (1.0,), 10)
    MLPConfig(hidden=8).build(other).save_pretrained(tmp_path / "other")
    with pytest.raises(SpecError, match="does not fit the env"):
        collect(config_of(tmp_path / "x", tmp_path / "other"))
    config = config_of(
        tmp_path / "y", policy, env={"type": "test_point"}, behaviours={"mistaken": 1.0}
    )
    with pytest.raises(UserError, match=r"behaviours\.mistaken: red knows no other instruction"):
        collect(config)

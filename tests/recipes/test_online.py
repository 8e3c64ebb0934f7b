"""Rounds of acting, labelling and learning: what they leave, that they resume to the bit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import point_env  # noqa: F401 - registers its env
import pytest
import torch

from vla.config import ConfigError, validate
from vla.data import EpisodeDataset
from vla.data.errors import DataError
from vla.data.replay.growing_windows import GrowingWindows
from vla.models import load_policy
from vla.recipes.online import OnlineConfig, online
from vla.recipes.online import loop as loop_module
from vla.recipes.online.acting import jobs_of_round
from vla.recipes.online.labels import labelled, run_lengths, unlabelled
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.training.objective import ObjectiveError

MLP = {
    "type": "mlp",
    "hidden": 16,
    "language": None,
    "head": {"type": "categorical"},
    "tokenizer": {"type": "bins", "num_bins": 5},
}
POINT: dict[str, Any] = {
    "env": {"type": "test_point", "image_size": 16, "horizon": 12},
    "policy": MLP,
    "objective": {"type": "ppo", "critic": {"hidden": 16}, "value_warmup": 0},
    "optim": {"lr": 1e-3},
    "rounds": 3,
    "episodes_per_round": 4,
    "epochs": 2,
    "batch_size": 16,
    "keep": "round",
    "evaluate": {"every": 2, "episodes_per_task": 4},
}


def config_of(out: Path, **changes: Any) -> OnlineConfig:
    return validate(OnlineConfig, {**POINT, "out": str(out), **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_policy(folder).state_dict())


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first / "policy"), weights(second / "policy")
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


class Stop(Exception):
    pass


@pytest.fixture(scope="module", params=["round", 60])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run that nothing cuts off, by what it keeps, and its changes of the config."""
    changes: dict[str, Any] = {"keep": request.param}
    if request.param != "round":
        changes["objective"] = {"type": "iql", "critic": {"hidden": 16}}
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    online(config_of(out, **changes))
    return out, changes


@pytest.mark.parametrize("moment", ["act", "learn", "save"])
def test_a_run_that_was_cut_off_resumes_to_the_same_weights(
    undisturbed: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    whole_run, changes = undisturbed
    places = {"act": "play_round", "learn": "_Run._learn", "save": "_Run._keep"}
    owner = loop_module if moment == "act" else loop_module._Run
    name = places[moment].rpartition(".")[2]
    real = getattr(owner, name)
    calls = 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*arguments, **options)
        if calls == 2:  # in the midst of the second round
            raise Stop
        return result

    monkeypatch.setattr(owner, name, stopping)
    cut = config_of(tmp_path / "cut", **changes)
    with pytest.raises(Stop):
        online(cut)
    monkeypatch.setattr(owner, name, real)
    result = online(cut, resume=True)
    assert result.rounds == 3
    assert_same_weights(whole_run, tmp_path / "cut")
    runs = (whole_run, tmp_path / "cut")
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in runs]
    rounds = [[json.loads(line) for line in of_run] for of_run in lines]
    for whole, again in zip(*rounds, strict=True):
        steady = {k: v for k, v in whole.items() if not k.startswith("seconds")}
        assert steady == {k: v for k, v in again.items() if not k.startswith("seconds")}
    episodes = [EpisodeDataset(run / "episodes") for run in runs]
    assert [len(dataset) for dataset in episodes] == [12, 12]
    np.testing.assert_array_equal(episodes[0].columns.actions, episodes[1].columns.actions)


def test_workers_change_nothing(tmp_path: Path) -> None:
    alone = online(config_of(tmp_path / "0", evaluate=None))
    spread = online(config_of(tmp_path / "2", evaluate=None, act={"workers": 2}))
    assert alone.metrics["played/return"] == spread.metrics["played/return"]
    assert_same_weights(tmp_path / "0", tmp_path / "2")


def test_a_run_leaves_a_policy_episodes_and_paired_evaluations(tmp_path: Path) -> None:
    result = online(config_of(tmp_path / "run"))
    policy = load_policy(tmp_path / "run" / "policy")
    assert policy.card["online"]["rounds"] == 3
    assert policy.card["training"]["objective"] == "ppo"
    folders = sorted(path.name for path in (tmp_path / "run" / "evaluations").iterdir())
    assert folders == ["round-0000", "round-0002", "round-0003"]
    assert {"evaluation/success", "evaluation/p_value", "kl", "entropy"} <= result.metrics.keys()
    dataset = EpisodeDataset(tmp_path / "run" / "episodes")
    infos = [json.loads(text) for text in dataset.episodes["info"]]
    assert [info["round"] for info in infos] == [1] * 4 + [2] * 4 + [3] * 4
    assert (dataset.columns.extras["decision"] == 1).all()
    # one that is done adds nothing
    again = online(config_of(tmp_path / "run"), resume=True)
    assert again.rounds == 3
    assert len(EpisodeDataset(tmp_path / "run" / "episodes")) == 12


def test_starts_are_those_of_collection_and_groups_share_them(tmp_path: Path) -> None:
    config = config_of(tmp_path, episodes_per_round=8, episodes_per_start=4)
    first, second = jobs_of_round(config, 1), jobs_of_round(config, 2)
    assert [job.draw for job in first] == [0, 1, 2, 3] * 2
    starts = [(task, number) for number in (0, 1) for task in ("red", "blue")]
    seeds = [episode_seed("collect", 0, *start) for start in starts]
    assert [job.seed for job in first + second] == [seed for seed in seeds for _ in range(4)]
    assert len({(job.task, job.episode) for job in first + second}) == 16


def test_imitating_the_expert_in_its_own_states_teaches_a_policy_with_pictures(
    tmp_path: Path,
) -> None:
    config = validate(
        OnlineConfig,
        {
            "env": POINT["env"],
            "policy": {**MLP, "language": "minilm"},
            "objective": {"type": "bc"},
            "label": {"beta": 1.0},
            "optim": {"lr": 3e-3},
            "rounds": 2,
            "episodes_per_round": 8,
            "updates": 150,
            "batch_size": 32,
            "episode_balance": True,
            "evaluate": None,
            "out": str(tmp_path / "run"),
        },
    )
    result = online(config)
    played = EpisodeDataset(tmp_path / "run" / "episodes")
    acted = played.columns.extras["intervention"]
    ends = np.cumsum(played.episodes["length"].to_numpy())
    assert acted[: ends[7]].all()  # the expert's round
    assert not acted[ends[7] :].any()  # the policy's
    assert result.metrics["loss"] < 1.2  # ln 5 = 1.6 knows nothing


def test_labels_go_on_as_far_as_the_expert_acted(tmp_path: Path) -> None:
    assert run_lengths(np.array([1, 1, 0, 1], bool)).tolist() == [2, 1, 0, 1]
    online(config_of(tmp_path / "run", rounds=1, evaluate=None, save_episodes=True))
    [episode, *_] = [EpisodeDataset(tmp_path / "run" / "episodes").episode(0)]
    by_expert = np.zeros(len(episode), bool)
    by_expert[3:5] = True
    extras = {"intervention": by_expert, "expert_action": np.ones((len(episode), 2), np.float32)}
    corrected = type(episode)(**{**vars(episode), "extras": extras})
    every = labelled(corrected, "all")
    assert every.extras["valid_actions"].tolist()[:7] == [1, 1, 1, 3, 2, 1, 1]
    assert (every.actions == 1).all()
    only = labelled(corrected, "corrections")
    assert only.extras["valid_actions"].tolist()[:7] == [0, 0, 0, 2, 1, 0, 0]


def test_the_expert_labels_whole_chunks_where_it_can_be_played_ahead(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "objective": {"type": "bc"},
        "label": {},
        "policy": {**MLP, "chunk": 3},
        "keep": "all",
        "rounds": 1,
        "evaluate": None,
    }
    online(config_of(tmp_path / "whole", **changes))
    kept = EpisodeDataset(tmp_path / "whole" / "episodes")
    chunks = kept.columns.extras["expert_chunk"].reshape(-1, 3, 2)
    np.testing.assert_array_equal(chunks[:, 0], kept.columns.extras["expert_action"])
    own = kept.columns.extras["expert_steps"]
    assert set(own.tolist()) <= {1, 2, 3}
    assert (own == 3).any()

    episode = labelled(kept.episode(0), "all")
    length = len(episode)
    windows = GrowingWindows(kept.spec, history=1, chunk=3, cameras=[], extras=[], discount=1.0)
    windows.append([episode])
    batch = windows.batch(np.arange(length))
    np.testing.assert_array_equal(batch.actions[:, 0].numpy(), chunks[:length])
    np.testing.assert_array_equal(batch.action_mask[:, 0].sum(1).numpy(), own[:length])

    changes["label"] = {"whole_chunks": False}
    online(config_of(tmp_path / "first", **changes))
    assert "expert_chunk" not in EpisodeDataset(tmp_path / "first" / "episodes").columns.extras


def test_demonstrations_beside_labels_of_whole_chunks_are_learned_as_before(tmp_path: Path) -> None:
    online(config_of(tmp_path / "run", rounds=1, evaluate=None, save_episodes=True))
    kept = EpisodeDataset(tmp_path / "run" / "episodes")
    batches = []
    for chunk in (1, 3):
        windows = GrowingWindows(kept.spec, history=1, chunk=3, cameras=[], extras=[])
        windows.append([unlabelled(kept.episode(0), chunk)])
        batches.append(windows.batch(np.arange(len(windows))))
    first, second = batches
    mask = first.action_mask.numpy()
    np.testing.assert_array_equal(mask, second.action_mask.numpy())
    np.testing.assert_array_equal(first.actions.numpy()[mask], second.actions.numpy()[mask])


def test_chunks_of_labels_that_are_too_short_are_refused(tmp_path: Path) -> None:
    online(config_of(tmp_path / "run", rounds=1, evaluate=None, save_episodes=True))
    kept = EpisodeDataset(tmp_path / "run" / "episodes")
    windows = GrowingWindows(kept.spec, history=1, chunk=4, cameras=[], extras=[])
    with pytest.raises(DataError, match=r"policy\.chunk=3"):
        windows.append([unlabelled(kept.episode(0), 3)])


def test_groups_without_any_difference_teach_nothing_and_are_told(tmp_path: Path) -> None:
    # two episodes of a start, both failures: all came to the same
    config = config_of(
        tmp_path / "run",
        objective={"type": "grpo"},
        episodes_per_start=2,
        rewards={"kind": "success"},
        rounds=1,
        evaluate=None,
    )
    result = online(config)
    assert result.metrics["teaches"] == 0
    assert result.metrics["groups_kept"] == 0


def test_what_explores_may_find_no_reward_at_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(
        tmp_path / "run",
        policy={**MLP, "head": {"type": "q_values", "depth": 1, "hidden": 16, "heads": 2}},
        objective={"type": "q_transformer"},
        rewards={"kind": "success"},
        keep="all",
        rounds=2,
        evaluate=None,
    )
    result = online(config)
    assert result.rounds == 2
    assert result.metrics["updates"] == 0
    assert "nothing is learned yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": "all"}, "keep: policy gradients learn from what the present policy did"),
        ({"ema_decay": 0.9}, "ema_decay: the running mean would act"),
        ({"label": {}}, "label: policy gradients learn from the policy's own actions"),
        ({"objective": {"type": "grpo"}}, "episodes_per_start: the objective compares episodes"),
        ({"objective": {"type": "ppo", "kl": 0.1}}, "objective.prior: goes with objective.kl"),
        ({"act": {"temperature": 0.5}}, "act.temperature: is 0.5, but the objective takes"),
        ({"epochs": None}, "epochs, updates, updates_per_step: give one of them"),
        ({"init_from": "x"}, "init_from, policy: give one of them"),
        ({"keep": "all", "save_episodes": False}, "save_episodes: a resumed run needs"),
        ({"episodes_per_round": 6, "episodes_per_start": 4}, "is no multiple of"),
    ],
)
def test_what_contradicts_itself_is_told(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        online(config_of(tmp_path / "run", **changes))


def test_heads_without_likelihoods_are_refused(tmp_path: Path) -> None:
    changes = {"policy": {**MLP, "head": {"type": "regression"}}, "evaluate": None}
    with pytest.raises(ObjectiveError, match="needs the probability of each token"):
        online(config_of(tmp_path / "run", **changes))


def test_another_run_in_the_folder_is_not_gone_on_with(tmp_path: Path) -> None:
    online(config_of(tmp_path / "run", rounds=1, evaluate=None))
    with pytest.raises(ConfigError, match="holds a run already"):
        online(config_of(tmp_path / "run", rounds=1, evaluate=None))
    with pytest.raises(ConfigError, match=r"batch_size: is 8, the run in .* has 16"):
        online(config_of(tmp_path / "run", rounds=1, evaluate=None, batch_size=8), resume=True)
    more = online(config_of(tmp_path / "run", rounds=2, evaluate=None), resume=True)
    assert more.rounds == 2


def test_starts_that_prior_data_know_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online(config_of(tmp_path / "first", rounds=1, evaluate=None))
    capsys.readouterr()
    prior = {
        "prior_data": {"path": str(tmp_path / "first" / "episodes")},
        "objective": {"type": "bc"},
        "keep": "all",
        "rounds": 1,
        "evaluate": None,
    }
    online(config_of(tmp_path / "same", **prior))
    assert "4 episodes of the first round begin where some of" in capsys.readouterr().err
    online(config_of(tmp_path / "other", seed=1, **prior))
    assert "begin where" not in capsys.readouterr().err


def test_a_run_from_another_runs_policy_names_that_run_as_its_origin(tmp_path: Path) -> None:
    short: dict[str, Any] = {"rounds": 1, "evaluate": None}
    first = online(config_of(tmp_path / "first", **short)).policy.card["training"]
    go_on = {"policy": None, "init_from": str(tmp_path / "first" / "policy")}
    second = online(config_of(tmp_path / "second", **go_on, **short)).policy.card["training"]
    assert second["origin"] == first["training"]
    resumed = config_of(tmp_path / "second", **go_on, **{**short, "rounds": 2})
    assert online(resumed, resume=True).policy.card["training"]["origin"] == first["training"]


def test_a_schedule_over_all_rounds_keeps_their_number(tmp_path: Path) -> None:
    cosine = {"optim": {"lr": 1e-3, "schedule": "cosine"}, "epochs": None, "updates": 2}
    online(config_of(tmp_path / "run", rounds=1, evaluate=None, **cosine))
    with pytest.raises(ConfigError, match=r"rounds: is 2, the run in .* has 1"):
        online(config_of(tmp_path / "run", rounds=2, evaluate=None, **cosine), resume=True)


def test_updates_in_bfloat16_are_recorded_and_learn(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "objective": {"type": "bc"},
        "label": {},
        "keep": "all",
        "evaluate": None,
    }
    full = online(config_of(tmp_path / "full", **changes))
    half = online(config_of(tmp_path / "half", precision="bf16", **changes))
    assert "precision: bf16" in (tmp_path / "half" / "config.yaml").read_text()
    # rounded, and the same loss but for that
    assert half.metrics["loss"] != full.metrics["loss"]
    assert half.metrics["loss"] == pytest.approx(full.metrics["loss"], rel=0.05)

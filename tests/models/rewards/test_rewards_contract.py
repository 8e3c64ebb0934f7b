"""What every reward model must do: score, be saved and come back the same, and refuse what is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import reward_toys as toys
import torch

from vla.common.registry import names
from vla.config import UserError, lookup, validate
from vla.data import EpisodeDataset
from vla.models import Policy
from vla.models.checkpoint_files import CheckpointError
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.mlp import MLPConfig
from vla.models.rewards.base import RewardError, RewardModel
from vla.models.rewards.labelled import LabelledSteps
from vla.models.rewards.running_episode import RunningEpisode, batch_of
from vla.models.rewards.scoring import (
    score_dataset,
    score_episodes,
    score_steps,
    steps_of,
    windows_of,
)
from vla.models.rewards.storage import load_reward, save_reward

SMALL = {
    "classifier": {"hidden": 16},
    "progress": {"hidden": 16, "bins": 21},
    "preference": {"hidden": 16, "pairs": 40, "segment": 5},
    "discriminator": {"hidden": 16},
    "maxent": {"clusters": 20},
    "risk": {"hidden": 16, "horizon": 0.3},
}
"""Every kind but `vlm`, which has a test of its own."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    return EpisodeDataset(toys.write(tmp_path_factory.mktemp("toy") / "data"))


def trunk() -> Policy:
    torch.manual_seed(0)
    policy = MLPConfig(hidden=8, language="minilm").build(toys.SPEC)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, policy.language.dim, generator=generator) / 20
    policy.language.preload(dict(zip(toys.TEXTS, vectors, strict=True)))
    return policy.eval()


def build(kind: str, data: EpisodeDataset) -> RewardModel:
    config = validate(lookup("rewards", kind), {"type": kind, **SMALL[kind]})
    model: RewardModel = config.build(toys.SPEC, trunk() if config.needs_policy else None)
    steps = LabelledSteps.of_windows(windows_of(model, data))
    model.fit(steps, steps)
    for parameter in model.parameters():
        # what is zero at the start could hide a mistake
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def test_every_kind_is_tested() -> None:
    assert set(SMALL) | {"vlm"} == set(names("rewards"))


@pytest.mark.parametrize("kind", SMALL)
def test_scores_depend_on_no_batch_and_on_no_later_step(kind: str, data: EpisodeDataset) -> None:
    model = build(kind, data)
    steps = LabelledSteps.of_windows(windows_of(model, data))
    found = score_steps(model, steps)
    assert found.scores.shape == found.rewards.shape == (data.num_frames,)
    assert np.ptp(found.scores) > 0
    batch = steps.gather(np.array([3, 40]))
    with torch.no_grad():
        alone = model.score(batch)
        assert alone.shape == batch.mask.shape
        np.testing.assert_allclose(alone[:, -1].numpy(), found.scores[[3, 40]], atol=1e-5)
        if model.judges_success:
            assert found.success is not None
            assert ((found.success >= 0) & (found.success <= 1)).all()
        else:
            assert found.success is None
            with pytest.raises(RewardError, match="use a reward model of type classifier"):
                model.success(batch)


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_brings_the_same_model_back(
    kind: str, data: EpisodeDataset, tmp_path: Path
) -> None:
    model = build(kind, data)
    model.threshold.fill_(0.7)
    model.card = {"steps": 3}
    save_reward(model, tmp_path / "reward")
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt"))
    # the folder of the run will do, too
    loaded = load_reward(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.card == {"steps": 3}
    assert float(loaded.threshold) == pytest.approx(0.7)
    assert not loaded.training
    before, after = score_dataset(model, data), score_dataset(loaded, data)
    np.testing.assert_array_equal(before.rewards, after.rewards)


@pytest.mark.parametrize("kind", SMALL)
def test_episodes_in_memory_get_the_rewards_of_those_on_disk(
    kind: str, data: EpisodeDataset
) -> None:
    model = build(kind, data)
    on_disk = score_dataset(model, data)
    made = score_episodes(model, [data.episode(i) for i in range(len(data))])
    rewards = np.concatenate([episode.rewards for episode in made])
    expected = on_disk.rewards
    if model.adds_to_rewards:
        expected = expected + data.columns.rewards
    np.testing.assert_allclose(rewards, expected, atol=1e-6)
    success = np.concatenate([episode.success for episode in made])
    if on_disk.success is None:
        np.testing.assert_array_equal(success, data.columns.success)
    else:
        np.testing.assert_array_equal(success, on_disk.success >= 0.5)
    assert score_episodes(model, []) == []


def test_a_model_that_sees_the_start_gets_it_in_front_of_every_window(
    data: EpisodeDataset, tmp_path: Path
) -> None:
    config = validate(lookup("rewards", "classifier"), {"sees_start": True, "hidden": 16})
    with pytest.raises(RewardError, match=r"policy\.history=2"):
        config.build(toys.SPEC, trunk())
    policy = DecisionTransformerConfig(history=3, width=16, depth=1, heads=2).build(toys.SPEC)
    policy.language.preload({text: torch.ones(policy.language.dim) for text in toys.TEXTS})
    model = config.build(toys.SPEC, policy).eval()
    steps = steps_of(model, windows_of(model, data))
    last = int(steps.starts[1]) - 1
    batch = steps.gather(np.array([last]))
    # the first step, and the history of two that is left
    assert batch.timesteps.tolist() == [[0, last - 1, last]]
    np.testing.assert_array_equal(batch.state[0].numpy(), steps.states[[0, last - 1, last]])
    chosen = steps.chosen(np.array([1])).gather(np.array([2]))
    assert chosen.timesteps.tolist() == [[0, 1, 2]]

    running = RunningEpisode(model)
    episode = data.episode(0)
    for step in range(3):
        running.see({}, episode.state[step], episode.instruction)
        seen, recorded = batch_of(model, [running]), steps.gather(np.array([step]))
        for name in ("state", "timesteps", "mask"):
            np.testing.assert_array_equal(getattr(seen, name), getattr(recorded, name))
        running.did(episode.actions[step])

    save_reward(model, tmp_path / "reward")
    loaded = load_reward(tmp_path / "reward")
    on_disk = score_dataset(loaded, data)
    made = score_episodes(loaded, [data.episode(i) for i in range(len(data))])
    np.testing.assert_allclose(
        np.concatenate([episode.rewards for episode in made]), on_disk.rewards, atol=1e-6
    )


def test_an_episode_of_another_robot_is_refused(data: EpisodeDataset) -> None:
    model = build("classifier", data)
    other = toys.episodes(1)[0]
    wide = np.repeat(other.state, 2, axis=1)
    with pytest.raises(RewardError, match=r"episode 0: state: has 2 dimensions.*is for 1"):
        score_episodes(model, [type(other)(**{**vars(other), "state": wide})])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"not a tensor", "not a readable safetensors file"),
        ("config.json", b"{}", "expected the keys version, type and config"),
        ("policy/model.safetensors", b"", "not a readable safetensors file"),
        ("spec.json", None, "lacks spec.json"),
    ],
)
def test_damage_is_named(
    data: EpisodeDataset, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    save_reward(build("classifier", data), tmp_path)
    path = tmp_path / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_reward(tmp_path)


def test_a_flipped_number_is_found_by_its_checksum(data: EpisodeDataset, tmp_path: Path) -> None:
    save_reward(build("classifier", data), tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256"):
        load_reward(tmp_path)


def test_a_config_that_asks_for_another_size_is_refused(
    data: EpisodeDataset, tmp_path: Path
) -> None:
    save_reward(build("classifier", data), tmp_path)
    header = json.loads((tmp_path / "config.json").read_text())
    header["config"]["hidden"] = 65536
    (tmp_path / "config.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError):
        load_reward(tmp_path)


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    trunk().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no 'mlp' among rewards.*vla reward"):
        load_reward(tmp_path)

"""An instruction that changes within an episode: policies are given it, datasets keep it."""

from pathlib import Path

import pytest
from seeker import jobs
from sub_tasks import CHANGE, FIRST, THEN, Listener, SubTaskConfig

from vla.config import load_config
from vla.data import EpisodeDataset
from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.envs.perturbed import PerturbedConfig
from vla.sim_eval.rollouts.scheduler import rollout

CONFIG = SubTaskConfig()


def instructions_of(config, **options) -> tuple[list[str], list]:
    listener = Listener(config.spec())
    records = rollout(config, jobs(config)[:1], listener, workers=0, num_envs=1, **options)
    return listener.instructions, records


def test_a_policy_is_asked_for_each_sub_task():
    asked, (record,) = instructions_of(CONFIG)
    assert asked == [FIRST] * CHANGE + [THEN] * (len(asked) - CHANGE)
    assert len(asked) == record.steps > CHANGE
    assert record.instruction == FIRST  # what the episode began with


@pytest.mark.parametrize(
    ("kind", "severity", "changes"),
    [("noise", 1, True), ("empty_instruction", None, False), ("wrong_instruction", None, False)],
)
def test_a_perturbed_env_passes_sub_tasks_on_unless_it_changes_words(kind, severity, changes):
    env = SubTaskConfig(tasks=("red", "blue"))
    config = PerturbedConfig(env=env, kind=kind, severity=severity)
    asked, _ = instructions_of(config)
    assert (THEN in asked) is changes
    assert len(set(asked)) == 1 + changes


@pytest.mark.parametrize("paraphrases", ["primary", "all"])
def test_a_dataset_keeps_the_instruction_of_each_step(tmp_path: Path, paraphrases: str):
    values = {"env": CONFIG.model_dump(), "out": tmp_path / "data", "episodes_per_task": 1}
    values |= {"workers": 1, "paraphrases": paraphrases}
    collect(load_config(CollectConfig, values))
    dataset = EpisodeDataset(tmp_path / "data")
    texts = dataset.episode(0).step_instructions
    assert texts[:CHANGE] == [FIRST] * CHANGE
    assert set(texts[CHANGE:]) == {THEN}

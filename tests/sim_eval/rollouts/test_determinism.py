"""The same policy and seeds give the same `episodes.parquet`, byte for byte, however the work is spread."""

from __future__ import annotations

from pathlib import Path

import torch
from point_env import PointConfig
from restless import Restless

from vla.models.policies.rt1 import RT1Config
from vla.sim_eval.comparison.results import EPISODES_FILE
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.envs.metaworld import MetaworldConfig
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.types import Actor

POINT = PointConfig(image_size=48, horizon=12)


def measured(actor: Actor, env: EnvConfig, out: Path, **options) -> bytes:
    config = EvalConfig(env=env, out=str(out), videos_per_task=0, failure_videos=0, **options)
    evaluate(actor, config, progress=False)
    return (out / EPISODES_FILE).read_bytes()


def test_workers_and_repetitions_change_no_bit(tmp_path: Path) -> None:
    actor = Restless(POINT.spec())
    spread = [0, 1, 2, 4, 4]
    found = [
        measured(actor, POINT, tmp_path / str(i), episodes_per_task=6, workers=w)
        for i, w in enumerate(spread)
    ]
    found.append(
        measured(actor, POINT, tmp_path / "more", episodes_per_task=6, workers=2, num_envs=16)
    )
    assert len(set(found)) == 1


def test_rt1_on_metaworld(tmp_path: Path) -> None:
    env = MetaworldConfig(tasks=("reach",), image_size=48, horizon=10)
    torch.manual_seed(0)
    policy = RT1Config(
        history=2,
        trunk="test_efficientnet",
        stride=8,
        state_token=True,
        width=64,
        depth=2,
        heads=2,
        key_dim=32,
    ).build(env.spec())
    found = [
        measured(policy, env, tmp_path / str(i), episodes_per_task=3, batch_size=2, workers=w)
        for i, w in enumerate([1, 2, 4])
    ]
    assert len(set(found)) == 1

"""The same policy and seeds give the same `episodes.parquet`, byte for byte, however the work is spread."""

from __future__ import annotations

from pathlib import Path

import torch
from point_env import PointConfig
from torch import nn

from vla.models.rt1 import RT1Config
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.envs.metaworld import MetaworldConfig
from vla.sim_eval.evaluate import EvalConfig, evaluate
from vla.sim_eval.results import EPISODES_FILE
from vla.types import Actor, Observation, Spec

POINT = PointConfig(image_size=48, horizon=12)


class Restless(nn.Module):
    """Continuous actions whose every bit depends on the picture, a memory, and a draw of torch's generator."""

    history = 1

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec = spec
        self.see = nn.Sequential(nn.Conv2d(3, 16, 5, 3), nn.SiLU(), nn.Conv2d(16, 32, 5, 3), nn.SiLU(), nn.Flatten())
        self.decide = nn.Sequential(nn.LazyLinear(64), nn.Tanh(), nn.Linear(64, spec.action_dim))
        self.see.add_module("decide", self.decide)
        self.see(torch.zeros(1, 3, 48, 48))

    def act(self, observation: Observation, memory: Trace | None = None) -> tuple[torch.Tensor, Trace]:
        seen = self.see(observation.images["top"].permute(0, 3, 1, 2) / 255.0)
        past = torch.zeros_like(seen) if memory is None else memory.past
        past = 0.7 * past + seen + 0.1 * torch.randn(seen.shape[1])
        return (5 * past).tanh()[:, None], Trace(past)


class Trace:
    """Memory of `Restless`."""

    def __init__(self, past: torch.Tensor) -> None:
        self.past = past

    @property
    def batch_size(self) -> int:
        return len(self.past)

    def select(self, rows: list[int]) -> Trace:
        return Trace(self.past[rows])

    @classmethod
    def stack(cls, memories: list[Trace]) -> Trace:
        return cls(torch.cat([memory.past for memory in memories]))


def measured(actor: Actor, env: EnvConfig, out: Path, **options) -> bytes:
    config = EvalConfig(env=env, out=str(out), videos_per_task=0, **options)
    evaluate(actor, config, progress=False)
    return (out / EPISODES_FILE).read_bytes()


def test_workers_and_repetitions_change_no_bit(tmp_path: Path) -> None:
    actor = Restless(POINT.spec())
    spread = [0, 1, 2, 2, 4, 4]
    found = [measured(actor, POINT, tmp_path / str(i), episodes_per_task=6, workers=w) for i, w in enumerate(spread)]
    found.append(measured(actor, POINT, tmp_path / "more", episodes_per_task=6, workers=2, num_envs=16))
    assert len(set(found)) == 1


def test_rt1_on_metaworld(tmp_path: Path) -> None:
    env = MetaworldConfig(tasks=("reach",), image_size=48, horizon=10)
    torch.manual_seed(0)
    policy = RT1Config(
        history=2, trunk="test_efficientnet", stride=8, state_token=True, width=64, depth=2, heads=2, key_dim=32
    ).build(env.spec())
    found = [
        measured(policy, env, tmp_path / str(i), episodes_per_task=5, workers=w) for i, w in enumerate([1, 2, 2, 4])
    ]
    assert len(set(found)) == 1

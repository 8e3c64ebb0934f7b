"""A policy for tests of reproducibility: its actions show every bit of what it saw, remembers and draws."""

from __future__ import annotations

import multiprocessing
import os
import signal

import torch
from torch import nn

from vla.types import Observation, Spec


class Restless(nn.Module):
    """Continuous actions whose every bit depends on the picture, a memory, and a draw of torch's generator."""

    history = 1

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spec = spec
        self.see = nn.Sequential(
            nn.Conv2d(3, 16, 5, 3), nn.SiLU(), nn.Conv2d(16, 32, 5, 3), nn.SiLU(), nn.Flatten()
        )
        self.decide = nn.Sequential(nn.LazyLinear(64), nn.Tanh(), nn.Linear(64, spec.action_dim))
        self.see.add_module("decide", self.decide)
        self.see(torch.zeros(1, 3, 48, 48))

    def act(
        self, observation: Observation, memory: Trace | None = None
    ) -> tuple[torch.Tensor, Trace]:
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


class Killer(Restless):
    """Kills a worker process, in the midst of its episodes, whenever it acts for the n-th time."""

    def __init__(self, spec: Spec, calls: set[int]) -> None:
        super().__init__(spec)
        self.calls, self.count, self.killed = calls, 0, 0

    def act(
        self, observation: Observation, memory: Trace | None = None
    ) -> tuple[torch.Tensor, Trace]:
        self.count += 1
        if self.count in self.calls:
            children = sorted(multiprocessing.active_children(), key=lambda process: process.name)
            os.kill(children[self.killed % len(children)].pid, signal.SIGKILL)
            self.killed += 1
        return super().act(observation, memory)

"""Batched inference for robots of different age, whatever the policy.

What the policy remembers stays with each robot; ensembling of chunks happens here, outside of the policy.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vla.config import UserError
from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.actor_traits import traits_of
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.rollouts.temporal_ensemble import TemporalEnsemble
from vla.types import Actor, Observation, SpecError


class ActionError(UserError):
    """A policy gave actions of a wrong shape, or none that are numbers."""


@dataclass
class _Recollection:
    """What the policy remembers of one robot: a row of the memory of a whole batch."""

    batch: int  # number of the call of `act` that it comes from
    memory: Any
    row: int


@dataclass
class Robot:
    """What the policy's side keeps of one running episode.

    Attributes:
        state: float32 (S,), where the robot waits for actions; else None.
        instruction: what it was told.
        reward: sum of the rewards of the last chunk of actions.
    """

    state: np.ndarray | None = None
    instruction: str = ""
    reward: float = 0.0
    recollection: _Recollection | None = None
    ensemble: TemporalEnsemble | None = None


class Pilot:
    """Batched inference for many robots of different age.

    Args:
        actor: whatever has `spec`, `history` and `act`.
        settings: of which `replan_every`, `ensemble`, `temperature` and `target_return` count here.

    Raises UserError where the policy cannot be used so.
    """

    def __init__(self, actor: Actor, settings: RolloutSettings | None = None) -> None:
        settings = settings or RolloutSettings()
        replan_every, ensemble = settings.replan_every, settings.ensemble
        temperature, target_return = settings.temperature, settings.target_return
        self.traits = traits_of(actor)
        if target_return is not None and not self.traits.return_conditioned:
            raise UserError(
                f"target_return is {target_return:g}, but the policy is not conditioned on returns: drop it"
            )
        if replan_every > 1 and actor.history > 1:
            raise UserError(
                f"replan_every is {replan_every}, but the policy looks back over {actor.history} steps and must see "
                "every one of them: set replan_every=1, or train the policy with history=1"
            )
        if replan_every > 1 and self.traits.counts_steps:
            raise UserError(
                f"replan_every is {replan_every}, but the policy counts the steps of an episode and must see every one of "
                "them: set replan_every=1"
            )
        if temperature and "temperature" not in inspect.signature(actor.act).parameters:
            raise UserError(
                f"temperature is {temperature:g}, but act of {type(actor).__name__} takes no temperature: set it to 0"
            )
        if replan_every > 1 and ensemble is not None:
            raise UserError(
                f"replan_every is {replan_every}, but ensembling needs a chunk for every step: set it to 1"
            )
        self.actor, self.replan_every, self.ensemble = actor, replan_every, ensemble
        self.target_return = target_return
        self._options = {"temperature": temperature} if temperature else {}
        self._calls = 0

    def check(self, config: EnvConfig) -> None:
        """Raises SpecError with every way in which the env does not fit the policy."""
        if problems := self.actor.spec.differences(config.spec()):
            raise SpecError(
                "the policy does not fit the env:\n" + "\n".join(f"  {line}" for line in problems)
            )

    def act(
        self, robots: Sequence[Robot], images: dict[str, np.ndarray], *, seed: int | None = None
    ) -> list[np.ndarray]:
        """The actions (n, A) that each waiting robot executes next; images: camera -> uint8 (B, H, W, 3).

        With a seed, a policy that draws from torch's own generators draws the same at every repetition.
        Raises ActionError where the policy gives no usable actions.
        """
        if seed is not None:
            _seed(self.actor, seed)
        chosen: list[np.ndarray] = [np.empty(0)] * len(robots)
        # memory=None starts an episode, so robots that start cannot share a batch with the others.
        fresh = [i for i, robot in enumerate(robots) if robot.recollection is None]
        known = [i for i, robot in enumerate(robots) if robot.recollection is not None]
        known.sort(key=lambda i: robots[i].recollection.batch)  # type: ignore[union-attr]
        for rows in (fresh, known):
            if rows:
                for i, actions in zip(
                    rows, self._act([robots[i] for i in rows], images, rows), strict=True
                ):
                    chosen[i] = actions
        return chosen

    def _act(
        self, robots: list[Robot], images: dict[str, np.ndarray], rows: list[int]
    ) -> list[np.ndarray]:
        observation = Observation.from_numpy(
            {camera: images[camera][rows] for camera in self.actor.spec.cameras},
            np.stack([robot.state for robot in robots if robot.state is not None]),
            [robot.instruction for robot in robots],
            reward=[robot.reward for robot in robots],
            target_return=None
            if self.target_return is None
            else [self.target_return] * len(robots),
        )
        chunk_BKA, memory = self.actor.act(observation, _recall(robots), **self._options)
        chunks = self._checked(chunk_BKA, len(robots))
        chosen = [chunk[: self.replan_every] for chunk in chunks]
        if self.ensemble is not None:
            chosen = [
                self._ensembled(robot, chunk) for robot, chunk in zip(robots, chunks, strict=True)
            ]
            if memory is not None:
                # not what its last chunk began with
                memory = self.traits.remember(memory, torch.from_numpy(np.stack(chosen)))
        self._calls += 1
        for row, robot in enumerate(robots):
            robot.recollection = None if memory is None else _Recollection(self._calls, memory, row)
            robot.state = None
        return chosen

    def _ensembled(self, robot: Robot, chunk: np.ndarray) -> np.ndarray:
        assert self.ensemble is not None
        robot.ensemble = robot.ensemble or TemporalEnsemble(self.ensemble)
        return robot.ensemble.add(chunk)[None]

    def _checked(self, chunk_BKA: torch.Tensor, B: int) -> np.ndarray:
        chunk = chunk_BKA.detach().float().cpu().numpy()
        A = self.actor.spec.action_dim
        if chunk.ndim != 3 or chunk.shape[0] != B or chunk.shape[2] != A:
            raise ActionError(
                f"act of {type(self.actor).__name__} gave actions {chunk.shape}, expected ({B}, K, {A})"
            )
        if chunk.shape[1] < self.replan_every:
            raise UserError(
                f"replan_every is {self.replan_every}, but the policy plans {chunk.shape[1]} steps: set it to that or less"
            )
        if not np.isfinite(chunk).all():
            raise ActionError(
                f"act of {type(self.actor).__name__} gave actions that are not finite"
            )
        return chunk


def _recall(robots: Sequence[Robot]) -> Any:
    """One memory for all robots, sorted by the batch they were last in: few cuts, few joints."""
    recollections = [robot.recollection for robot in robots if robot.recollection is not None]
    parts = []
    for _, group in itertools.groupby(recollections, key=lambda r: r.batch):
        members = list(group)
        parts.append(members[0].memory.select([r.row for r in members]))
    return None if not parts else parts[0] if len(parts) == 1 else type(parts[0]).stack(parts)


def thinks_on_cpu(actor: object) -> bool:
    """Whether the policy computes on the processor that the envs need too."""
    device = _device(actor)
    return device is not None and device.type == "cpu"


def _device(actor: object) -> torch.device | None:
    parameter = next(actor.parameters(), None) if isinstance(actor, torch.nn.Module) else None
    return None if parameter is None else parameter.device


def _seed(actor: object, seed: int) -> None:
    # not torch.manual_seed: it would reach for every device of the machine, at every control step
    torch.default_generator.manual_seed(seed)
    device = _device(actor)
    if device is not None and device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextlib.contextmanager
def inference(actor: object, *, threads: int | None = None) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards everything is as it was: the policy's mode, torch's generators.

    Denormal numbers are flushed to zero meanwhile, as in training: whether they are must not depend on who asks.

    threads: for torch meanwhile. More threads than free cores cost dearly: they wait for each other in busy
    loops (on two cores that also rendered, two threads took 40 times as long as one).
    """
    module, device = actor if isinstance(actor, torch.nn.Module) else None, _device(actor)
    was_training, had_threads = module is not None and module.training, torch.get_num_threads()
    flushed = float(torch.tensor(1e-39) * 1.0) == 0.0  # torch has no way to ask
    if module is not None:
        module.eval()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        with (
            torch.no_grad(),
            torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []),
        ):
            yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(had_threads)
        if module is not None:
            module.train(was_training)

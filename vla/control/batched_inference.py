"""Batched inference for episodes of different age, whatever the policy.

What the policy remembers stays with each episode; chunks are ensembled here, outside of the policy.

B robots in a batch, K actions per chunk, A action dimensions, S state dimensions, n actions that
are executed.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vla.config import UserError
from vla.control.actor_traits import ActorTraits, traits_of
from vla.control.exploration import Held
from vla.control.inference_mode import seed_generators
from vla.control.realtime import CONTINUING
from vla.control.realtime_methods import can_choose, chooser
from vla.control.realtime_plan import Plan, Queued, next_actions
from vla.control.settings import ControlSettings, Measure
from vla.control.temporal_ensemble import TemporalEnsemble
from vla.control.uncertainty import MeasuredChoice
from vla.types import ActionDistribution, Actor, Observation, Spec, SpecError
from vla.types.finite import ActionError

if TYPE_CHECKING:
    from vla.control.shield import Shield, ShieldedChoice
    from vla.models.rewards.running_episode import RunningEpisode


@dataclass
class _MemoryRow:
    """What the policy remembers of one episode: a row of the memory of a whole batch."""

    batch: int  # number of the call of `act` that it comes from, from 1 on
    memory: Any
    row: int


@dataclass
class EpisodeState:
    """What the policy's side keeps of one running episode.

    Attributes:
        robot_state: float32 (S,) while the robot waits for actions, else None.
        instruction: what it is asked to do.
        reward: sum of the rewards of the last chunk of actions.
        plan: what it executes while the next chunk is computed; of real-time chunking.
        queued: the same by the robot's own account, of this observation alone; None without one.
        measure: what is asked of the distributions that its chunks come from; None for nothing.
        uncertainty: that measure of its last chunk.
        held: the action (A,) that it tries for a while; of exploration.
        running: what a shield has to remember of it.
        privileged: float32 (D,), what the env tells of its world; None if it tells nothing.
    """

    robot_state: np.ndarray | None = None
    instruction: str = ""
    reward: float = 0.0
    memory_row: _MemoryRow | None = None
    ensemble: TemporalEnsemble | None = None
    plan: Plan | None = None
    queued: Queued | None = None
    measure: Measure | None = None
    uncertainty: float | None = None
    held: Held = None
    running: RunningEpisode | None = None
    privileged: np.ndarray | None = None

    @property
    def waits(self) -> bool:
        """Whether the robot waits for actions."""
        return self.robot_state is not None

    @property
    def memory_batch(self) -> int:
        """The call of `act` that its memory comes from; 0 for an episode that has none."""
        return 0 if self.memory_row is None else self.memory_row.batch

    @property
    def call(self) -> tuple[Any, ...]:
        """Equal for episodes that can share a call of the policy, and in order: those that start
        come first."""
        # memory=None starts an episode, so episodes that start cannot share a batch with the
        # others; and only of a robot that has a plan a chunk can go on from it
        queued = () if self.queued is None else self.queued.call
        return self.memory_row is not None, self.plan is not None, queued


class BatchedPolicy:
    """A policy that acts in many episodes of different age.

    Args:
        actor: an object with `spec`, `history` and `act`.
        settings: how its chunks are executed.

    Raises UserError if the policy cannot be used so.
    """

    def __init__(self, actor: Actor, settings: ControlSettings | None = None) -> None:
        self.actor = actor
        self.settings = settings or ControlSettings()
        self.traits = traits_of(actor)
        _check_options(actor, self.traits, self.settings)
        # an actor of a user's own need not take a temperature, so it is named only if it is wanted
        temperature = self.settings.temperature
        self._options = {"temperature": temperature} if temperature else {}
        self._calls = 0
        self.shield: Shield | None = None
        if self.settings.shield is not None:
            # here, not above: only a shielded policy needs the room of reward models
            from vla.control.shield import Shield

            every = self.settings.replan_every
            self.shield = Shield(self.settings.shield, actor.spec, replan_every=every)
        # a critic that values n actions of a chunk has not looked at those behind them
        self._given = self.settings.replan_every or self.traits.executed_actions

    def check(self, spec: Spec) -> None:
        """Raises SpecError with every way in which a robot's spec does not fit the policy."""
        problems = self.actor.spec.differences(spec)
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise SpecError(f"the policy does not fit the env:\n{lines}")

    def act(
        self,
        episodes: Sequence[EpisodeState],
        images: dict[str, np.ndarray],
        *,
        seed: int | None = None,
    ) -> list[np.ndarray]:
        """The actions (n, A) that each waiting robot executes next.

        Args:
            episodes: B of them, all waiting.
            images: camera -> uint8 (B, H, W, 3).
            seed: with one, a policy that draws from torch's own generators draws the same at every
                repetition.

        Raises ActionError if the policy gives no usable actions.
        """
        if seed is not None:
            seed_generators(self.actor, seed)
        alike: dict[tuple[Any, ...], list[int]] = {}
        for i, episode in enumerate(episodes):
            alike.setdefault(episode.call, []).append(i)
        chosen: dict[int, np.ndarray] = {}
        # those that start come first: what is drawn at random goes by this order
        for _, rows in sorted(alike.items()):
            # rows of one earlier batch side by side: the fewest cuts and joints of memories
            rows.sort(key=lambda i: episodes[i].memory_batch)
            batch = [episodes[i] for i in rows]
            actions = self._act_batch(batch, images, rows)
            chosen.update(zip(rows, actions, strict=True))
        return [chosen[i] for i in range(len(episodes))]

    def tell_executed(self, episode: EpisodeState, actions: np.ndarray) -> None:
        """The robot executed other actions (n, A) than it was given: what the policy remembers of
        its last step is put right."""
        if episode.running is not None:
            episode.running.did(actions[-1])
        row = episode.memory_row
        if row is None:
            return
        memory = row.memory.select([row.row])
        memory = self.traits.remember(memory, torch.from_numpy(actions[None]))
        self._calls += 1
        episode.memory_row = _MemoryRow(self._calls, memory, 0)

    def _act_batch(
        self,
        episodes: list[EpisodeState],
        images: dict[str, np.ndarray],
        rows: list[int],
    ) -> list[np.ndarray]:
        """One call of the policy; episode i sees row `rows[i]` of the images."""
        observation = self._observation(episodes, images, rows)
        memory = _joined_memory(episodes)
        options = self._options | self._choice(episodes)
        running: list[RunningEpisode] = []
        if self.shield is not None:
            # copies: if the call fails, no episode has seen this step
            running = [
                self.shield.begin() if episode.running is None else episode.running.copy()
                for episode in episodes
            ]
            options["choose"] = self._shielded(self.shield, running, episodes, images, rows)
        measured = self._measured(episodes, options)
        if measured is not None:
            options["choose"] = measured
        chunk_BKA, memory = self.actor.act(observation, memory, **options)
        if measured is not None:
            self._note_uncertainty(episodes, measured)
        chunks_BKA = self._checked(chunk_BKA, len(episodes))
        exploration = self.settings.exploration
        if exploration is not None:
            before = [episode.held for episode in episodes]
            chunks_BKA, after = exploration.applied(chunks_BKA, before, self.actor.spec)
            for episode, action in zip(episodes, after, strict=True):
                episode.held = action
        chosen = [
            self._continued(episode, chunk_KA[: self._given])
            for episode, chunk_KA in zip(episodes, chunks_BKA, strict=True)
        ]
        execute = None
        if self.settings.ensemble is not None:
            execute = self._ensembled
        elif self.settings.realtime is not None:
            execute = self._planned
        if execute is not None:
            merged = [execute(*pair) for pair in zip(episodes, chunks_BKA, strict=True)]
            # an average of chunks may lie between the two ends of a binary dimension
            chosen = [self.actor.spec.to_ends(actions_nA) for actions_nA in merged]
        others = execute is not None or exploration is not None
        others = others or any(episode.queued is not None for episode in episodes)
        if memory is not None and others:
            # `act` remembered what its chunk begins with, but the robot executes others
            executed_BnA = torch.from_numpy(np.stack(chosen))
            memory = self.traits.remember(memory, executed_BnA)
        if self.shield is not None:
            self.shield.remember(running, [actions_nA[0] for actions_nA in chosen])
            for episode, seen in zip(episodes, running, strict=True):
                episode.running = seen
        self._calls += 1
        for row, episode in enumerate(episodes):
            episode.memory_row = None if memory is None else _MemoryRow(self._calls, memory, row)
            episode.robot_state = None  # it waits no longer
            episode.queued = None
        return chosen

    def _observation(
        self,
        episodes: list[EpisodeState],
        images: dict[str, np.ndarray],
        rows: list[int],
    ) -> Observation:
        seen = {camera: images[camera][rows] for camera in self.actor.spec.cameras}
        states = [episode.robot_state for episode in episodes if episode.robot_state is not None]
        target_return = None
        if self.settings.target_return is not None:
            target_return = [self.settings.target_return] * len(episodes)
        known = [episode.privileged for episode in episodes if episode.privileged is not None]
        observation = Observation.from_numpy(
            seen,
            np.stack(states),
            [episode.instruction for episode in episodes],
            # a return-conditioned policy counts its target down by these
            reward=[episode.reward for episode in episodes],
            target_return=target_return,
        )
        if len(known) == len(episodes):
            privileged = torch.from_numpy(np.stack(known))
            observation = dataclasses.replace(observation, privileged=privileged)
        return observation

    def _continued(self, episode: EpisodeState, chunk_KA: np.ndarray) -> np.ndarray:
        """The chunk as it is; to a robot with a queue, as it goes on from that."""
        if episode.queued is None:
            return chunk_KA
        return self.actor.spec.to_ends(episode.queued.followed_by(chunk_KA))

    def _ensembled(self, episode: EpisodeState, chunk_KA: np.ndarray) -> np.ndarray:
        """The averaged action of this step, (1, A)."""
        assert self.settings.ensemble is not None
        if episode.ensemble is None:
            episode.ensemble = TemporalEnsemble(self.settings.ensemble)
        return episode.ensemble.add(chunk_KA)[None]

    def _choice(self, episodes: Sequence[EpisodeState]) -> dict[str, Any]:
        """What `act` is given so that chunks go on from the plans; nothing if it is not asked."""
        # the queues of episodes that share a call are of one length, method and delay
        queues = [episode.queued for episode in episodes if episode.call[-1] and episode.queued]
        if queues:
            first = queues[0]
            choose = chooser(
                [queued.plan for queued in queues],
                first.settings,
                self.actor.spec,
                every=first.every,
                temperature=self.settings.temperature,
            )
            return {"choose": choose}
        realtime = self.settings.realtime
        plans = [episode.plan for episode in episodes if episode.plan is not None]
        if realtime is None or realtime.method not in CONTINUING or not plans:
            return {}
        every, temperature = self._every, self.settings.temperature
        choose = chooser(plans, realtime, self.actor.spec, every=every, temperature=temperature)
        return {"choose": choose}

    def _shielded(
        self,
        shield: Shield,
        running: Sequence[RunningEpisode],
        episodes: Sequence[EpisodeState],
        images: dict[str, np.ndarray],
        rows: list[int],
    ) -> ShieldedChoice:
        """What chooses the next chunks in the policy's place."""
        states = [episode.robot_state for episode in episodes if episode.robot_state is not None]
        return shield.choice(
            running,
            {camera: images[camera][rows] for camera in shield.model.cameras},
            np.stack(states),
            [episode.instruction for episode in episodes],
            temperature=self.settings.temperature,
        )

    def _measured(
        self, episodes: Sequence[EpisodeState], options: dict[str, Any]
    ) -> MeasuredChoice | None:
        """What looks at the distribution of the next chunks while they are chosen as the options
        say; None if no episode asks.

        Raises UserError if the policy has no distribution to look at.
        """
        measures = {episode.measure for episode in episodes} - {None}
        if not measures:
            return None
        if not can_choose(self.actor):
            raise UserError(
                f"gate: act of {type(self.actor).__name__} gives actions and no distribution, so "
                "how sure it is cannot be measured: use gate={type: expert_error}"
            )
        (measure,) = measures  # episodes of one batch are of one task and one setting
        temperature = self.settings.temperature

        def drawn(actions: ActionDistribution) -> torch.Tensor:
            return actions.sample(temperature=temperature)

        assert measure is not None
        return MeasuredChoice(options.get("choose", drawn), measure, self.actor.spec)

    def _note_uncertainty(self, episodes: Sequence[EpisodeState], measured: MeasuredChoice) -> None:
        if measured.found is None:
            raise UserError(
                f"gate: {type(self.actor).__name__} does not choose its actions by its "
                "distribution, so how sure it is says nothing: use gate={type: expert_error}"
            )
        for episode, value in zip(episodes, measured.found.tolist(), strict=True):
            episode.uncertainty = value

    def _planned(self, episode: EpisodeState, chunk_KA: np.ndarray) -> np.ndarray:
        """The actions (n, A) until the next observation."""
        assert self.settings.realtime is not None
        spec = self.actor.spec
        null_A = np.clip(0, spec.action_low, spec.action_high).astype(np.float32)
        realtime = self.settings.realtime
        actions_nA, episode.plan = next_actions(
            episode.plan, chunk_KA, realtime, self._every, null_A
        )
        return actions_nA

    @property
    def _every(self) -> int:
        """Actions per request under real-time chunking."""
        assert self.settings.replan_every is not None
        return self.settings.replan_every

    def _checked(self, chunk_BKA: torch.Tensor, B: int) -> np.ndarray:
        chunk = chunk_BKA.detach().float().cpu().numpy()
        name = type(self.actor).__name__
        A = self.actor.spec.action_dim
        if chunk.ndim != 3 or chunk.shape[0] != B or chunk.shape[2] != A:
            raise ActionError(f"act of {name} gave actions {chunk.shape}, expected ({B}, K, {A})")
        # how many steps a policy plans is known only now: an `Actor` need not say it
        every = self.settings.replan_every
        if every is not None and chunk.shape[1] < every:
            raise UserError(
                f"replan_every is {every}, but the policy plans "
                f"{chunk.shape[1]} steps: set it to that or less"
            )
        if not np.isfinite(chunk).all():
            raise ActionError(f"act of {name} gave actions that are not finite")
        return chunk


def _check_options(actor: Actor, traits: ActorTraits, settings: ControlSettings) -> None:
    """Raises UserError if the policy cannot be used as the settings say."""
    every = settings.replan_every
    _check_realtime(actor, traits, settings)
    _check_shield(actor, settings)
    if settings.target_return is not None and not traits.return_conditioned:
        raise UserError(
            f"target_return is {settings.target_return:g}, but the policy is not conditioned on "
            "returns: drop it"
        )
    # a policy that looks back, or counts, would take every n-th step for the one after the last
    several = every is not None and every > 1
    if several and actor.history > 1:
        raise UserError(
            f"replan_every is {every}, but the policy looks back over {actor.history} steps and "
            "must see every one of them: set replan_every=1, or train the policy with history=1"
        )
    if several and traits.counts_steps:
        raise UserError(
            f"replan_every is {every}, but the policy counts the steps of an episode and must see "
            "every one of them: set replan_every=1"
        )
    valued = traits.executed_actions
    if None not in (valued, every) and every != valued:
        raise UserError(
            f"replan_every is {every}, but the policy chooses chunks by the value of their first "
            f"{valued} actions: set replan_every={valued}, or train it with "
            f"objective.critic.executed={every}"
        )
    if settings.temperature and "temperature" not in inspect.signature(actor.act).parameters:
        raise UserError(
            f"temperature is {settings.temperature:g}, but act of {type(actor).__name__} takes no "
            "temperature: set it to 0"
        )
    if several and settings.ensemble is not None:
        raise UserError(
            f"replan_every is {every}, but ensembling needs a chunk for every step: set it to 1"
        )


def _check_shield(actor: Actor, settings: ControlSettings) -> None:
    """Raises UserError if what a shield has judged would not be what is executed."""
    if settings.shield is None:
        return
    if not can_choose(actor):
        raise UserError(
            f"shield: act of {type(actor).__name__} gives actions and no distribution, so there "
            "are no chunks to choose among: drop shield"
        )
    others = {
        "ensemble": settings.ensemble,
        "latency": settings.realtime,
        "explore": settings.exploration,
    }
    for key, value in others.items():
        if value is not None:
            raise UserError(
                f"shield: judges the chunks that the policy draws, and {key} executes others: drop "
                "one of the two"
            )


def _check_realtime(actor: Actor, traits: ActorTraits, settings: ControlSettings) -> None:
    """Raises UserError if the policy's chunks cannot arrive late as the settings say."""
    realtime = settings.realtime
    if realtime is None:
        return
    if settings.replan_every is None:
        raise UserError("replan_every is null: real-time chunking needs a number, such as 4")
    if settings.ensemble is not None:
        raise UserError(
            f"ensemble is {settings.ensemble:g}, which averages a chunk of every step: drop it, "
            "and set method=ensemble"
        )
    if actor.history > 1 or traits.counts_steps:
        raise UserError(
            f"the latency is {realtime.delay} control steps, but the policy must see every step "
            "of an episode: train it with policy.history=1"
        )
    if realtime.method in CONTINUING and not can_choose(actor):
        raise UserError(
            f"method is {realtime.method!r}, but act of {type(actor).__name__} gives actions and "
            "no distribution: set method=blend"
        )


def _joined_memory(episodes: Sequence[EpisodeState]) -> Any:
    """One memory for episodes that are sorted by their last batch; None if they start."""
    rows = [episode.memory_row for episode in episodes if episode.memory_row is not None]
    parts = []
    for _, same_batch in itertools.groupby(rows, key=lambda row: row.batch):
        members = list(same_batch)
        memory = members[0].memory
        parts.append(memory.select([member.row for member in members]))
    if len(parts) > 1:
        return type(parts[0]).stack(parts)
    return parts[0] if parts else None

"""A policy in a world that does not wait: the same episodes under every latency and method.

Nothing is timed: latencies are given, so episodes are the same at every repetition, on any machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from vla.common.atomic import write_text
from vla.common.folder_lock import alone
from vla.common.foreign.json_files import read_json
from vla.config import UserError, check_config, dump_config
from vla.control.actor_traits import traits_of
from vla.control.realtime import (
    DRAWS,
    ActionKind,
    Method,
    RealtimeSettings,
    Schedule,
    delay_steps,
)
from vla.control.realtime_methods import Abilities, abilities_of, chosen_method
from vla.control.realtime_plan import check_lengths
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.evaluation import (
    LOCK_FILE,
    check_playable,
    episode_progress,
    naming,
    play,
    save_config,
    save_results,
    training_of,
)
from vla.sim_eval.evaluation_config import EvalConfig
from vla.sim_eval.identity import decisive, identity_of, policy_identity, versions_of
from vla.sim_eval.policy_names import actor_name
from vla.sim_eval.realtime.motion import Motion, motion_of
from vla.sim_eval.realtime.table import NO_DELAY, Played, RealtimeTable, conditions_of
from vla.sim_eval.rollouts.scheduler import RolloutStats
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.types import Actor

CONFIG = "realtime.yaml"
MOTION_FILE = "motion.json"
Latency = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False)]
MethodChoice = Literal["auto"] | Method


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) else value


class RealtimeConfig(EvalConfig):
    """An evaluation in a world that does not wait for the policy.

    `vla eval realtime CONFIG`; the config is that of `vla eval`.
    """

    latency: Annotated[tuple[Latency, ...], BeforeValidator(_as_list)] = (0.05, 0.1, 0.2)
    """Seconds from an observation to its chunk; one or several. Each is played by `hold` too."""
    method: Annotated[tuple[MethodChoice, ...], BeforeValidator(_as_list)] = ("auto",)
    """How a late chunk follows the one before: auto, guidance, prefix, bid, blend, ensemble, switch
    or hold; one or several. auto is the first of prefix, guidance, bid and blend that the policy
    can."""
    schedule: Schedule = "exp"
    """How the weights of the chunk before fall off, of guidance and bid: exp, linear, ones or
    zeros."""
    action_kind: ActionKind = "delta"
    """What an action is: delta, a change or velocity, of which 0 stands still (or the limit that is
    nearest to it); or absolute, a target, of which the last one stands still."""
    draws: int = Field(DRAWS, ge=1, le=10000)
    """Chunks that are drawn, of bid."""
    videos_per_task: int = Field(0, ge=0)
    failure_videos: int = Field(0, ge=0)

    @field_validator("latency", "method")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values or len(set(values)) != len(values):
            raise ValueError("expected one or several, each once")
        return values


class RealtimeCondition(EvalConfig):
    """The evaluation of one method at one delay."""

    delay: int
    method: Method
    schedule: Schedule
    action_kind: ActionKind
    draws: int

    @property
    def realtime(self) -> RealtimeSettings:
        """How its chunks follow each other."""
        return RealtimeSettings(
            delay=self.delay,
            method=self.method,
            schedule=self.schedule,
            action_kind=self.action_kind,
            draws=self.draws,
        )

    def rollout_settings(self, *, workers: int = 0) -> RolloutSettings:
        settings = super().rollout_settings(workers=workers)
        # what arrives at once goes on from nothing: then this is an evaluation like any other
        return replace(settings, realtime=self.realtime) if self.delay else settings


def evaluate_realtime(
    actor: Actor | Literal["expert", "random"],
    config: RealtimeConfig,
    *,
    name: str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> RealtimeTable:
    """Plays the same episodes without delay, and under every latency by `hold` and each method.

    Writes `realtime.json` and `realtime.yaml` (the config) into `config.out`, and the results of
    each condition into a folder of its own. A condition is not played again if its folder holds
    results of the same config, versions and policy.

    Raises UserError if a method is asked for that the policy cannot follow, or its chunks are too
    short for a latency; and what `evaluate` raises.
    """
    check_config(config, RealtimeConfig)
    if isinstance(actor, str):
        raise UserError(
            f"policy is {actor!r}, which acts inside the simulation and is never late: name the "
            "folder of a trained policy, such as policy=runs/tabletop/policy"
        )
    abilities = _abilities(actor, config)
    weights = policy_identity(actor, name or config.policy)
    config = naming(actor, config)
    conditions = list(_conditions(config, abilities))
    for _, condition in conditions:
        check_playable(actor, condition)
    title = name or actor_name(actor)
    command = command or _command(actor, Path(config.out) / CONFIG)
    with alone(Path(config.out), file=LOCK_FILE):
        write_text(Path(config.out) / CONFIG, dump_config(config))
        player = _Player(actor, title, weights, command, show=progress)
        played = [player.played(latency, condition) for latency, condition in conditions]
        found = RealtimeTable(
            policy=title,
            suite=config.env.suite().name,
            control_hz=config.env.spec().control_hz,
            replan_every=config.replan_every,
            conditions=conditions_of(played, Path(config.out)),
            settings={
                "chunk": abilities.chunk,
                "schedule": config.schedule,
                "action_kind": config.action_kind,
                "draws": config.draws,
            },
            versions=versions_of(config),
            command=command,
            seconds=round(sum(one.results.seconds for one in played), 3),
        )
        found.save(config.out)
    return found


def _abilities(actor: Actor, config: RealtimeConfig) -> Abilities:
    """What the policy can. Raises what `evaluate` raises if it does not fit the env."""
    plain = _condition(config, 0, "switch", "")
    check_playable(actor, plain)
    # a text that evaluation asks for too: another one would have to be encoded
    text = config.env.suite().tasks[0].instruction
    observation = replace(actor.spec.fake_observation(1), instruction=[text])
    return abilities_of(actor, observation)


def _conditions(
    config: RealtimeConfig, abilities: Abilities
) -> Iterator[tuple[float, RealtimeCondition]]:
    """Latency and evaluation of each condition, the one without delay first.

    Raises UserError if the policy cannot do what is asked for.
    """
    yield 0.0, _condition(config, 0, "switch", "no_delay")
    hz = config.env.spec().control_hz
    for latency in config.latency:
        delay = delay_steps(latency, hz)
        methods: list[Method] = ["hold"]
        for wanted in config.method:
            # before the method is chosen: no method can go on from a chunk that has ended
            if wanted != "hold":
                settings = RealtimeSettings(delay=delay)
                check_lengths(abilities.chunk, settings, config.replan_every)
            method = chosen_method(wanted, abilities, delay)
            if method not in methods:
                methods.append(method)
        for method in methods:
            yield latency, _condition(config, delay, method, f"{method}-{latency:g}")


def _condition(
    config: RealtimeConfig, delay: int, method: Method, folder: str
) -> RealtimeCondition:
    # field by field, not model_dump: `env` must stay the object that it is
    values: dict[str, Any] = {key: getattr(config, key) for key in EvalConfig.model_fields}
    for key in ("schedule", "action_kind", "draws"):
        values[key] = getattr(config, key)
    out = str(Path(config.out) / folder)
    return RealtimeCondition(**{**values, "delay": delay, "method": method, "out": out})


class _Player:
    """Plays conditions, but for those whose folder holds what would come out."""

    def __init__(self, actor: Actor, name: str, weights: str, command: str, *, show: bool) -> None:
        self.actor = actor
        self.name = name
        self.weights = weights
        self.command = command
        self.show = show

    def played(self, latency: float, config: RealtimeCondition) -> Played:
        decided = {
            "policy": self.weights,
            "versions": versions_of(config),
            **decisive(config.model_dump(mode="json"), films=True),
        }
        identity = identity_of(decided)
        found = _known(Path(config.out), identity) or self._play(config, identity)
        results, motions = found
        is_first = Path(config.out).name == "no_delay"
        method = NO_DELAY if is_first else config.method
        return Played(method, latency, config.delay, results, motions)

    def _play(self, config: RealtimeCondition, identity: str) -> tuple[Results, list[Motion]]:
        out = Path(config.out)
        # removed first and written last: an interrupted run leaves no mark beside old results
        (out / MOTION_FILE).unlink(missing_ok=True)
        save_config(config)
        stats = RolloutStats(actions={})
        started = time.monotonic()
        title = f"{self.name}, {out.name}"
        with episode_progress(title, config, show=self.show) as on_done:
            episodes = range(config.episodes_per_task)
            records = play(self.actor, config, episodes, on_done=on_done, stats=stats)
        results = save_results(
            records,
            config,
            name=self.name,
            command=self.command,
            seconds=time.monotonic() - started,
            losses=stats.lost,
            training=training_of(self.actor),
            identity=identity,
        )
        assert stats.actions is not None
        motions = []
        for record in records:
            actions_nA = stats.actions[record.task, record.episode]
            spec, every = self.actor.spec, config.replan_every
            motions.append(motion_of(actions_nA, spec, config.realtime, every))
        values = {"identity": identity, "episodes": [asdict(motion) for motion in motions]}
        write_text(out / MOTION_FILE, json.dumps(values) + "\n")
        return results, motions


def _known(out: Path, identity: str) -> tuple[Results, list[Motion]] | None:
    """What the folder of a condition holds, if it is complete and of this identity."""
    try:
        results = Results.load(out)
        values = read_json(out / MOTION_FILE)
        motions = [Motion(**motion) for motion in values["episodes"]]
        same = values["identity"] == results.identity == identity
    except (ResultsError, OSError, ValueError, TypeError, KeyError):
        return None
    return (results, motions) if same and len(motions) == len(results.episodes) else None


def _command(actor: Any, file: Path) -> str:
    if traits_of(actor).source is not None:
        return f"vla eval realtime {file}"
    config = f'vla.load_config(vla.sim_eval.RealtimeConfig, "{file}")'
    name = type(actor).__name__
    return f"vla.sim_eval.evaluate_realtime(policy, {config})  # policy: the same {name}"


__all__ = ["RealtimeConfig", "evaluate_realtime"]

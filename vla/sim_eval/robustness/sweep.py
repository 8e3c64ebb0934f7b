"""How a policy fares under perturbations: the same episodes clean and under
every kind at every severity.

Each condition is an evaluation in a folder of its own, so an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from vla.common.atomic import write_text
from vla.common.folder_lock import alone
from vla.common.foreign.json_files import read_json
from vla.config import ConfigError, UserError, check_config, dump_config
from vla.control.actor_traits import traits_of
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.env import EnvConfig, SimEnv
from vla.sim_eval.envs.perturbed import PerturbedConfig
from vla.sim_eval.evaluation import LOCK_FILE, EvalConfig, check_playable, evaluate, naming
from vla.sim_eval.identity import decisive, policy_identity, versions_of
from vla.sim_eval.perturbations import (
    SEVERITIES,
    Episode,
    all_kinds,
    kind_named,
    missing,
    unfit,
)
from vla.sim_eval.robustness.page import write_robustness_page
from vla.sim_eval.robustness.plot import robustness_svg
from vla.sim_eval.robustness.table import CLEAN, Robustness, tabulate
from vla.types import Actor

PAGE = "robustness.html"
MARKDOWN = "robustness.md"
PLOT = "robustness.svg"
CONFIG = "robustness.yaml"
CONDITION_FILE = "condition.json"
ConditionKey = tuple[str, int | None]


class PerturbConfig(EvalConfig):
    """An evaluation under perturbations.

    `vla eval perturb CONFIG`; the config is that of `vla eval`.
    """

    kinds: tuple[str, ...] | None = None
    """Perturbations and controls to play, those of plug-ins too; null: all that the env allows."""
    severities: tuple[int, ...] = SEVERITIES
    """Of the perturbations; controls have none."""
    condition_videos: int = Field(0, ge=0)
    """Episodes of each task that are filmed in every condition; takes the
    place of `videos_per_task`."""

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if kinds is None:
            return None
        if not kinds:
            raise ValueError("is empty: name at least one kind, or leave it out")
        # today's names: a former one would make a folder of its own, and be played twice
        current = tuple(kind_named(kind).kind for kind in kinds)
        if len(set(current)) != len(current):
            raise ValueError("a kind is named twice")
        return current

    @field_validator("severities")
    @classmethod
    def _known_severities(cls, severities: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [severity for severity in severities if severity not in SEVERITIES]
        if wrong:
            raise ValueError(f"has {wrong[0]}; expected some of 1, 2, 3")
        if not severities or len(set(severities)) != len(severities):
            raise ValueError("expected some of 1, 2, 3, each once")
        return tuple(sorted(severities))


def perturb(
    actor: Actor | Literal["expert", "random"],
    config: PerturbConfig,
    *,
    name: str | None = None,
    progress: bool = True,
    command: str | None = None,
) -> Robustness:
    """Plays the same episodes clean and under every perturbation, and tabulates them.

    Writes `robustness.json`, `.md`, `.svg`, `.html` and `.yaml` (the config) into `config.out`, and
    each condition's evaluation into `<out>/clean`, `<out>/<kind>-<severity>` or `<out>/<control>`.
    A condition is not played again if its folder holds results of the same config, versions and
    policy: weights are compared for policies that are torch modules, the policy's name for others.

    Args:
        actor, name, progress: as for `evaluate`.
        config: what to play.
        command: what to type to measure again.

    Raises ConfigError if a kind that was asked for does not fit the env, and what
    `evaluate` raises. Kinds that nobody asked for by name are left out then, and
    `Robustness.skipped` says why.
    """
    check_config(config, PerturbConfig)
    kinds, skipped = _fitting(config)
    check_playable(actor, config)
    # of the config as it was given: the identities in folders of earlier runs were made so
    identity = policy_identity(actor, name or config.policy)
    config = naming(actor, config)
    with alone(Path(config.out), file=LOCK_FILE):
        return _perturb(actor, config, kinds, skipped, identity, name, progress, command)


def _perturb(
    actor: Actor | Literal["expert", "random"],
    config: PerturbConfig,
    kinds: tuple[str, ...],
    skipped: dict[str, str],
    identity: str,
    name: str | None,
    progress: bool,
    command: str | None,
) -> Robustness:
    """Plays and tabulates, once it is known what fits."""
    out = Path(config.out)
    write_text(out / CONFIG, dump_config(config))
    # clean first: every other condition is paired with it
    clean = _play(actor, _condition(config, config.env, CLEAN), identity, name, progress)
    played: dict[ConditionKey, Results] = {}
    for kind, severity in _conditions(kinds, config.severities):
        if kind in skipped:
            continue
        env = PerturbedConfig(env=config.env, kind=kind, severity=severity)
        settings = _condition(config, env, kind if severity is None else f"{kind}-{severity}")
        try:
            played[kind, severity] = _play(actor, settings, identity, name, progress)
        except UserError as error:
            if config.kinds is not None:
                raise
            skipped[kind] = str(error)
            # a row of which only some severities could be played would look complete
            played = {key: results for key, results in played.items() if key[0] != kind}
    command = command or _command(actor, out / CONFIG)
    found = tabulate(clean, played, skipped=skipped, command=command, folder=out)
    _write(found, config, clean)
    return found


def _command(actor: Any, file: Path) -> str:
    if isinstance(actor, str) or traits_of(actor).source is not None:
        return f"vla eval perturb {file}"
    config = f'vla.load_config(vla.sim_eval.PerturbConfig, "{file}")'
    return f"vla.sim_eval.perturb(policy, {config})  # policy: the same {type(actor).__name__}"


def _write(found: Robustness, config: PerturbConfig, clean: Results) -> None:
    out = Path(config.out)
    found.save(out)
    write_text(out / MARKDOWN, found.markdown())
    write_text(out / PLOT, robustness_svg(found))
    write_robustness_page(out / PAGE, found, clean)


def _conditions(
    kinds: tuple[str, ...],
    severities: tuple[int, ...],
) -> Iterator[ConditionKey]:
    for kind in kinds:
        graded = bool(kind_named(kind).levels)
        for severity in severities if graded else (None,):
            yield kind, severity


def _condition(config: PerturbConfig, env: EnvConfig, folder: str) -> EvalConfig:
    """The evaluation of one condition."""
    # field by field, not model_dump: `env` must stay the object that it is
    values: dict[str, Any] = {key: getattr(config, key) for key in EvalConfig.model_fields}
    values |= {"env": env, "out": str(Path(config.out) / folder)}
    values |= {"videos_per_task": config.condition_videos, "failure_videos": 0}
    return EvalConfig(**values)


def _play(
    actor: Any, config: EvalConfig, identity: str, name: str | None, progress: bool
) -> Results:
    """Plays a condition, unless its folder holds what would come out."""
    out = Path(config.out)
    known = _known(config, identity)
    if known is not None:
        return known
    # removed first and written last: a run that is killed in between leaves no mark
    # beside half of its results
    (out / CONDITION_FILE).unlink(missing_ok=True)
    results = evaluate(actor, config, name=name, progress=progress, resume=True, restart=True)
    write_text(out / CONDITION_FILE, json.dumps({"policy": identity}) + "\n")
    return results


def _known(config: EvalConfig, identity: str) -> Results | None:
    """The results in the condition's folder, if they are those of this
    config, policy and software."""
    mark = Path(config.out) / CONDITION_FILE
    try:
        results = Results.load(config.out)
        if read_json(mark) != {"policy": identity}:
            return None
    except (ResultsError, OSError, ValueError):
        return None
    same_versions = dict(results.versions) == versions_of(config)
    same_config = decisive(results.config) == decisive(config.model_dump(mode="json"))
    return results if same_versions and same_config else None


def _fitting(config: PerturbConfig) -> tuple[tuple[str, ...], dict[str, str]]:
    """The kinds to play, and those that do not fit with the reason.

    Raises ConfigError if one was asked for.
    """
    wanted = config.kinds or all_kinds()
    tasks = config.env.suite().tasks
    if not tasks:
        raise ConfigError(["env: its suite has no tasks: an evaluation needs one"])
    # one start of the first task answers for the suite: an evaluation of minutes
    # must not end in this error
    env = config.env.make(tasks[0].name)
    try:
        env.render_images = False
        _, info = env.reset(seed=0)
        instructions = tuple(dict.fromkeys(task.instruction for task in tasks))
        episode = Episode(env, 0, str(info["instruction"]), instructions)
        found = {kind: _problem(kind, env, episode) for kind in wanted}
    finally:
        env.close()
    problems = {kind: problem for kind, problem in found.items() if problem}
    if config.kinds is not None and problems:
        raise ConfigError([f"kinds: {kind}: {problem}" for kind, problem in problems.items()])
    return tuple(kind for kind in wanted if kind not in problems), problems


def _problem(kind: str, env: SimEnv, episode: Episode) -> str:
    # in this order: `obstacle` may look at what `needs` promises
    return missing(kind, env.robot_spec) or unfit(kind, env) or kind_named(kind).obstacle(episode)

"""Evaluation from a config: loads the policy that it names and hands it to the simulation."""

from __future__ import annotations

from typing import Literal

from vla.common.cores import usable_cores
from vla.export.runtime import ExportedPolicy, is_exported, load
from vla.models import load_policy
from vla.models.policies.multi_robot import MultiRobotPolicy
from vla.models.policy import Policy
from vla.sim_eval.evaluation import EvalConfig, Results, evaluate, policy_name
from vla.sim_eval.realtime.sweep import RealtimeConfig, evaluate_realtime
from vla.sim_eval.realtime.table import RealtimeTable
from vla.sim_eval.robustness.sweep import PerturbConfig, perturb
from vla.sim_eval.robustness.table import Robustness

Baseline = Literal["expert", "random"]
BASELINES: dict[str, Baseline] = {"expert": "expert", "random": "random"}


def evaluate_from_config(
    config: EvalConfig,
    *,
    command: str | None = None,
    resume: bool = False,
    restart: bool = False,
) -> Results:
    """Evaluates `config.policy`: "expert", "random", a policy folder, an exported one, or a hub
    repository.

    `resume` and `restart` are those of `evaluate`. Raises CheckpointError if the policy cannot be
    loaded, SpecError if it does not fit the env, and what `evaluate` raises.
    """
    actor = load_actor(config.policy, threads=config.threads)
    name = policy_name(config.policy)
    return evaluate(actor, config, name=name, command=command, resume=resume, restart=restart)


def perturb_from_config(config: PerturbConfig, *, command: str | None = None) -> Robustness:
    """Evaluates `config.policy` clean and under perturbations.

    Raises what `evaluate_from_config` and `perturb` raise.
    """
    actor = load_actor(config.policy, threads=config.threads)
    name = policy_name(config.policy)
    return perturb(actor, config, name=name, command=command)


def realtime_from_config(config: RealtimeConfig, *, command: str | None = None) -> RealtimeTable:
    """Evaluates `config.policy` without delay and under latencies.

    Raises what `evaluate_from_config` and `evaluate_realtime` raise.
    """
    actor = load_actor(config.policy, threads=config.threads)
    name = policy_name(config.policy)
    return evaluate_realtime(actor, config, name=name, command=command)


def load_actor(policy: str, *, threads: int | None = None) -> Baseline | Policy | ExportedPolicy:
    """A baseline by its name, or a policy by its folder or repository.

    Args:
        threads: of an exported policy, which sets them when it is loaded; default half of the
            cores, as other policies get in rollouts.

    Raises CheckpointError, PackageError of an exported policy, or UserError if it is for several
    robots.
    """
    if policy in BASELINES:
        return BASELINES[policy]
    if is_exported(policy):
        return load(policy, threads=threads or max(1, usable_cores() // 2))
    found = load_policy(policy)
    # an env is one robot: of a policy for several, one has to be taken out first
    if isinstance(found, MultiRobotPolicy):
        raise found.one_of_several("be evaluated")
    return found

"""Simulated tasks, demonstrations, rollouts, statistics and reports."""

from vla.sim_eval.collection.recording import CollectConfig, collect
from vla.sim_eval.comparison.comparison import Comparison, ComparisonError, compare
from vla.sim_eval.comparison.methods import MethodComparison, compare_methods
from vla.sim_eval.comparison.results import Results, ResultsError
from vla.sim_eval.env import EnvConfig, SimEnv, Suite, Task
from vla.sim_eval.env_contract import EnvError, check_env
from vla.sim_eval.evaluation import EvalConfig, evaluate
from vla.sim_eval.realtime.sweep import RealtimeConfig, evaluate_realtime
from vla.sim_eval.rendering import RenderingError
from vla.sim_eval.report import write_report
from vla.sim_eval.robustness.sweep import PerturbConfig, Robustness, perturb
from vla.sim_eval.rollouts.film_strips import film_strip
from vla.sim_eval.rollouts.jobs import EpisodeRecord, Job
from vla.sim_eval.rollouts.picture import rollout_picture
from vla.sim_eval.rollouts.scheduler import ActionError, RolloutError, RolloutStats, rollout
from vla.sim_eval.rollouts.seeding import episode_seed
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.statistics import clopper_pearson, wilson_interval

__all__ = [
    "ActionError",
    "CollectConfig",
    "Comparison",
    "ComparisonError",
    "EnvConfig",
    "EnvError",
    "EpisodeRecord",
    "EvalConfig",
    "Job",
    "MethodComparison",
    "PerturbConfig",
    "RealtimeConfig",
    "RenderingError",
    "Results",
    "ResultsError",
    "Robustness",
    "RolloutError",
    "RolloutSettings",
    "RolloutStats",
    "SimEnv",
    "Suite",
    "Task",
    "check_env",
    "clopper_pearson",
    "collect",
    "compare",
    "compare_methods",
    "episode_seed",
    "evaluate",
    "evaluate_realtime",
    "film_strip",
    "perturb",
    "rollout",
    "rollout_picture",
    "wilson_interval",
    "write_report",
]

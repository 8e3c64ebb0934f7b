"""Robot policies that are transformers over tokens: pretraining, fine-tuning, measured simulation.

The names below are loaded when they are first used, so `import vla` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vla.common import moved

__version__ = "0.1.0"

moved.install()

_HOME = {
    "Batch": "vla.types",
    "Observation": "vla.types",
    "PolicyOutput": "vla.types",
    "Spec": "vla.types",
    "ConfigError": "vla.config",
    "UserError": "vla.config",
    "load_config": "vla.config",
    "register": "vla.config",
    "DatasetWriter": "vla.data",
    "Episode": "vla.data",
    "EpisodeDataset": "vla.data",
    "Windows": "vla.data",
    "Policy": "vla.models",
    "RT1Config": "vla.models",
    "load_policy": "vla.models",
    "TrainConfig": "vla.training",
    "train": "vla.training",
    "CollectConfig": "vla.sim_eval",
    "EvalConfig": "vla.sim_eval",
    "collect": "vla.sim_eval",
    "compare": "vla.sim_eval",
    "evaluate": "vla.sim_eval",
    "DemoConfig": "vla.recipes.demo",
    "demo": "vla.recipes.demo",
    "doctor": "vla.recipes.doctor.report",
}

if TYPE_CHECKING:
    from vla.config import ConfigError, UserError, load_config, register
    from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
    from vla.models import Policy, RT1Config, load_policy
    from vla.recipes.demo import DemoConfig, demo
    from vla.recipes.doctor.report import doctor
    from vla.sim_eval import CollectConfig, EvalConfig, collect, compare, evaluate
    from vla.training import TrainConfig, train
    from vla.types import Batch, Observation, PolicyOutput, Spec

__all__ = [
    "Batch",
    "CollectConfig",
    "ConfigError",
    "DatasetWriter",
    "DemoConfig",
    "Episode",
    "EpisodeDataset",
    "EvalConfig",
    "Observation",
    "Policy",
    "PolicyOutput",
    "RT1Config",
    "Spec",
    "TrainConfig",
    "UserError",
    "Windows",
    "__version__",
    "collect",
    "compare",
    "demo",
    "doctor",
    "evaluate",
    "load_config",
    "load_policy",
    "register",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'vla' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Modules that users and plug-ins import by the place where they used to be.

An old path still imports and says once what to write now. Only documented functions and the bases
of plug-ins are listed: whatever else has moved was never offered.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from vla.common.renamed import announce_renamed

MOVED = {
    "vla.data.cache": "vla.data.loading.frame_cache",
    "vla.data.checks": "vla.data.validation",
    "vla.data.checks.table": "vla.data.validation.check",
    "vla.data.formats._episodes": "vla.data.formats.common.episodic_reader",
    "vla.data.iterable": "vla.data.loading.iterable_dataset",
    "vla.data.rerun_export": "vla.data.view.rerun",
    "vla.data.sampler": "vla.data.loading.sampler",
    "vla.data.streaming": "vla.data.loading.streaming.streamed_windows",
    "vla.data.summary": "vla.data.view.summary",
    "vla.data.tools.convert": "vla.data.tools.conversion",
    "vla.data.tools.filter": "vla.data.tools.filtering",
    "vla.data.tools.merge": "vla.data.tools.merging",
    "vla.data.tools.relabel": "vla.data.tools.relabelling",
    "vla.data.tools.resample": "vla.data.tools.resampling",
    "vla.data.tools.rewrite": "vla.data.tools.derived",
    "vla.data.tools.split": "vla.data.tools.splitting",
    "vla.data.validate": "vla.data.validation.report",
    "vla.data.video": "vla.data.storage.video",
    "vla.data.windows": "vla.data.loading.windows",
    "vla.models.decision_transformer": "vla.models.policies.decision_transformer",
    "vla.models.guided": "vla.models.policies.guided",
    "vla.models.mlp": "vla.models.policies.mlp",
    "vla.models.q_transformer": "vla.models.policies.q_transformer",
    "vla.models.rt1": "vla.models.policies.rt1",
    "vla.models.vlm": "vla.models.policies.vlm",
    "vla.models.transfer.dimension_names": "vla.types.dimension_names",
    "vla.sim_eval.check": "vla.sim_eval.env_contract",
    "vla.sim_eval.gym_adapter": "vla.sim_eval.mujoco.gymnasium_env",
    "vla.training.diagnostics": "vla.training.offline_evaluation.diagnostics",
    "vla.training.extractions": "vla.training.offline_rl.extractions",
    "vla.training.extractions.base": "vla.training.offline_rl.extractions.base",
    "vla.training.fqe": "vla.training.offline_evaluation.fitted_q_evaluation",
    "vla.training.transfer": "vla.training.finetuning.transfer",
    "vla.training.values": "vla.training.offline_rl.values",
    "vla.training.values.base": "vla.training.offline_rl.values.base",
}
"""Former path of a module -> its path today."""


class MovedModules(MetaPathFinder):
    """Finds the modules of `MOVED`. It stands last in `sys.meta_path`, so it costs nothing while a
    path is right."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        # a package, so that `vla.training.values.base` can be looked up below `vla.training.values`
        return importlib.util.spec_from_loader(fullname, _MovedLoader(), is_package=True)


class _MovedLoader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        now = MOVED[module.__name__]
        announce_renamed(f"the module {module.__name__}", now)
        found = importlib.import_module(now)
        # the same objects under both paths: a class that is registered twice would be refused
        public = {name: value for name, value in vars(found).items() if not name.startswith("__")}
        vars(module).update(public)
        # names that have changed as well (`former_attributes`) are no attributes until they are
        # asked
        vars(module)["__getattr__"] = functools.partial(getattr, found)


def install() -> None:
    """Lets the paths of `MOVED` be imported. Calling it again changes nothing."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())

"""Makes `point_env` importable, here and in worker processes, which take over `sys.path`."""

import point_env  # noqa: F401  # registers "test_point"

from vla.sim_eval.evaluation import EvalConfig

EvalConfig.model_rebuild(
    force=True
)  # its schema may have been built before "test_point" was registered

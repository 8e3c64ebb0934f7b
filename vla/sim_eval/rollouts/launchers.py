"""Where the workers of an evaluation or a collection run: in this process, in processes of this machine, or on the
nodes of a Ray cluster. What they find is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from vla.sim_eval.env import EnvConfig
from vla.sim_eval.rollouts.env_pool import EnvWorkers, InlineEnvWorkers, LocalEnvWorkers
from vla.sim_eval.rollouts.job_pool import run_ordered
from vla.sim_eval.rollouts.settings import Launcher, RolloutSettings

J = TypeVar("J")
R = TypeVar("R")


@contextlib.contextmanager
def open_env_workers(
    config: EnvConfig,
    cameras: Sequence[str],
    *,
    slots: int,
    workers: int,
    settings: RolloutSettings,
) -> Iterator[EnvWorkers]:
    """A pool of `slots` for envs, spread over `workers`; ended on the way out.

    Raises UserError where Ray is asked for and is not installed, not running, or has too few CPUs.
    """
    pool: EnvWorkers
    with contextlib.ExitStack() as stack:
        if workers == 0:
            pool = InlineEnvWorkers(config, cameras, slots=slots)
        elif settings.launcher == "local":
            pool = LocalEnvWorkers(
                config, cameras, slots=slots, workers=workers, timeout=settings.timeout
            )
        else:
            from vla.sim_eval.rollouts.ray_pools import RayEnvWorkers, cluster

            stack.enter_context(cluster(settings.ray_address, workers))
            pool = RayEnvWorkers(
                config, cameras, slots=slots, workers=workers, timeout=settings.timeout
            )
        stack.callback(pool.close)
        yield pool


def cluster_workers(ray_address: str) -> int:
    """Workers for a whole Ray cluster: one for each CPU. Raises UserError where there is no cluster."""
    from vla.sim_eval.rollouts.ray_pools import cluster_cpus

    return cluster_cpus(ray_address)


def run_jobs(
    launcher: Launcher,
    make_work: Callable[[], Callable[[J], R]],
    jobs: Iterable[J],
    *,
    workers: int,
    ray_address: str = "auto",
) -> Generator[R, None, None]:
    """The results of the jobs in their order; see `run_ordered`. With Ray, one worker is one actor too."""
    if launcher == "local":
        yield from run_ordered(make_work, jobs, workers=workers)
        return
    from vla.sim_eval.rollouts.ray_pools import RayJobPool, cluster

    with cluster(ray_address, workers):
        yield from run_ordered(make_work, jobs, workers=workers, pool=RayJobPool)

"""Where the workers of an evaluation or a collection run: in processes of this machine, or on the
nodes of a Ray cluster. What they find is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from vla.sim_eval.workers.processes import ProcessLauncher
from vla.sim_eval.workers.supervisor import Supervisor, WorkerLauncher
from vla.sim_eval.workers.worker import MakeWork

Launcher = Literal["local", "ray"]


@contextlib.contextmanager
def open_supervisor(
    launcher: Launcher,
    make_work: MakeWork,
    *,
    workers: int,
    timeout: float | None = None,
    ray_address: str = "auto",
) -> Iterator[Supervisor]:
    """Workers that are ended on the way out; `timeout` as for `Supervisor`.

    Raises UserError if Ray is asked for and is not installed, not running, or has too few CPUs.
    """
    with contextlib.ExitStack() as stack:
        if launcher == "local":
            start: WorkerLauncher = ProcessLauncher(make_work)
        else:
            # Ray is an extra, and takes seconds to import
            from vla.sim_eval.workers.ray_actors import RayLauncher, cluster

            stack.enter_context(cluster(ray_address, workers))
            start = RayLauncher(make_work)
        supervisor = Supervisor(start, workers, timeout=timeout)
        # after the connection on the stack, so before it on the way out: workers are ended while
        # Ray is there
        stack.callback(supervisor.close)
        yield supervisor


def cluster_workers(ray_address: str) -> int:
    """Workers for a whole Ray cluster: one for each CPU. Raises UserError if there is no
    cluster."""
    from vla.sim_eval.workers.ray_actors import cluster_cpus

    return cluster_cpus(ray_address)

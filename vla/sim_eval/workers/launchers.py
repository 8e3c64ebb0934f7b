"""Where the workers of an evaluation or a collection run; what they find is the same.

In processes of this machine, or on the nodes of a Ray cluster.
"""

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
        # the last on the stack is the first to go: workers are ended while Ray is connected
        stack.callback(supervisor.close)
        yield supervisor


def cluster_workers(ray_address: str) -> int:
    """One for each CPU of the Ray cluster. Raises UserError if there is no cluster."""
    from vla.sim_eval.workers.ray_actors import cluster_cpus

    return cluster_cpus(ray_address)

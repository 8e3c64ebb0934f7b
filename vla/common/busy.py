"""Machines that others use, too: idle threads that sleep, and a word about the load."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How long an idle OpenMP thread spins: OpenMP's own, GNU's, and LLVM's and Intel's."""
SPIN_COUNT = 10_000


def cpu_load() -> float:
    """Programs that want to run, per core of the machine, over the last minute; 0 if unknown."""
    # of the whole machine, as the load is: in a container both are the host's
    cores = os.cpu_count() or 1
    return os.getloadavg()[0] / cores if hasattr(os, "getloadavg") else 0.0


def idle_thread_variables(environment: Mapping[str, str], load: float) -> dict[str, str]:
    """The environment variables that keep idle OpenMP threads from spinning; none if the user has
    set any of them.

    By default a thread that waits for the others of its team spins for milliseconds, since on a
    quiet machine that is the quickest. Where programs share cores it spins in the time of the very
    thread that it waits for, and a training step takes many times as long.

    Args:
        load: as `cpu_load` tells.
    """
    if any(name in environment for name in WAIT_VARIABLES):
        return {}
    if load > 1:
        return {"OMP_WAIT_POLICY": "PASSIVE"}
    # some load may come later: short spins cost little on a quiet machine
    return {"GOMP_SPINCOUNT": str(SPIN_COUNT), "KMP_BLOCKTIME": "1"}


def calm_idle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets `idle_thread_variables` for this process and those that it starts.

    OpenMP reads them once, when torch is loaded: call it before.
    """
    environment.update(idle_thread_variables(environment, cpu_load()))


def busy_remark(load: float) -> str | None:
    """What to know of a machine whose cores are shared; None if there is a core for each program.

    Args:
        load: as `cpu_load` tells.
    """
    if load <= 1:
        return None
    cores = os.cpu_count() or 1
    return (
        f"about {load * cores:.0f} programs want this machine's {cores} cores already: expect a "
        "fraction of the usual speed until they are done (`top` shows them)"
    )

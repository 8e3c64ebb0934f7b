"""How episodes are played: one value that passes from an evaluation to policy and workers."""

from __future__ import annotations

from dataclasses import dataclass

from vla.control.settings import ControlSettings
from vla.sim_eval.workers.launchers import Launcher

# A constant, not a function of cores or workers: how sums are rounded depends on it, and so do the
# last bits of every record.
BATCH_SIZE = 4
RETRIES = 3  # an env that kills its worker every time must end the rollout


@dataclass(frozen=True, kw_only=True)
class RolloutSettings(ControlSettings):
    """How episodes are played: how the policy acts in them, and who plays them.

    Attributes:
        workers: processes (or Ray actors) that hold the envs; 0 keeps the envs in this process.
        num_envs: episodes that run at the same time, in all; default one batch for each worker, at
            least two.
        batch_size: episodes of a task that advance in lockstep and share the policy's batches; at
            most `num_envs`.
        threads: of the policy's arithmetic; default half of this machine's cores, whatever the
            number of workers.
        timeout: seconds without an answer after which a worker counts as hung. A worker that hangs
            or dies is replaced, and its episodes go on where they were.
        retries: how often an episode may lose a worker that had it in hand (signals from outside do
            not count).
        launcher: "local" for processes of this machine, "ray" for actors of the cluster at
            `ray_address`.
        ray_address: host:port of a Ray cluster; "auto" finds the one of this machine.
    """

    workers: int = 0
    num_envs: int | None = None
    batch_size: int = BATCH_SIZE
    threads: int | None = None
    timeout: float = 300.0
    retries: int = RETRIES
    launcher: Launcher = "local"
    ray_address: str = "auto"

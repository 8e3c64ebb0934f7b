"""What an evaluation is, as a config."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from vla.config import Choice, PathText, RootConfig
from vla.config.numbers import BatchSize, Seed
from vla.control.shield_config import ShieldConfig
from vla.sim_eval.rollouts.settings import BATCH_SIZE, RolloutSettings
from vla.sim_eval.workers.launchers import Launcher


class EvalConfig(RootConfig):
    """An evaluation. `vla eval CONFIG`, or `vla.evaluate(policy, config)`."""

    env: Annotated[Any, Choice("envs")]
    """The tasks and how they are drawn."""
    policy: PathText = "expert"
    """"expert", "random", or the folder of a checkpoint."""
    episodes_per_task: int = Field(20, ge=0)
    """Episodes of each task; 20 give a 95 % interval of about +- 20 points, 100 one of +- 10."""
    seed: Seed = 0
    """The same seed gives every policy the same starts."""
    workers: int | None = Field(None, ge=0)
    """Processes that step and render envs; null: one for each core, or half as many where the
    policy computes on a CPU of four cores or more. 0: none, all in one process."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the Ray cluster at `ray_address`.
    Results are the same."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one that `ray start` has started on this
    machine."""
    num_envs: int | None = Field(None, ge=1)
    """Episodes that run at the same time; null: `batch_size` for each worker, and that twice at
    least."""
    batch_size: BatchSize = BATCH_SIZE
    """Episodes of a task that advance in lockstep and share the policy's batches. Results are the
    same to the bit for the same value; a large policy on a GPU wants more."""
    # its default knows the machine alone: records must not depend on the number of workers
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads of the policy's arithmetic on a CPU; null: half of the cores, whatever the number of
    workers."""
    replan_every: int = Field(1, ge=1)
    """Steps of an action chunk that are executed before the policy looks again."""
    ensemble: float | None = Field(None, ge=0)
    """Average overlapping chunks with weights exp(-ensemble * i), oldest first; null: do not."""
    temperature: float = Field(0.0, ge=0, allow_inf_nan=False)
    """0 executes a policy's most likely actions, 1 samples of its distribution."""
    target_return: float | None = Field(None, allow_inf_nan=False)
    """Return (1 or 0 for success or failure) that a return-conditioned policy is asked for; null:
    its own."""
    shield: ShieldConfig | None = None
    """Choose among several chunks of the policy by a risk network, such as `shield={path:
    runs/risk}`; null: its own choice."""
    after_success_steps: int = Field(0, ge=0)
    """Steps played after the first success, to see whether it lasts; 0: stop at the first
    success."""
    videos_per_task: int = Field(2, ge=0)
    """Episodes of each task that are filmed."""
    failure_videos: int = Field(1, ge=0)
    """Films of each kind of failure of each task, of a policy: they show what it saw. 0: none."""
    timeout: float = Field(300.0, gt=0)
    """Seconds without an answer after which a worker is replaced."""
    out: PathText = "runs/eval"
    """Folder for results.json, episodes.parquet, eval.yaml, videos and report.html; it may be that
    of the training run."""

    @model_validator(mode="after")
    def _chunks_in_one_way(self) -> EvalConfig:
        # an average over chunks needs a chunk of every step
        if self.ensemble is not None and self.replan_every > 1:
            raise ValueError(f"ensemble needs replan_every=1, got {self.replan_every}")
        return self

    @model_validator(mode="after")
    def _episodes_of_a_protocol(self) -> EvalConfig:
        starts = self.env.starts_per_task()
        if starts is None:
            return self
        if "episodes_per_task" not in self.model_fields_set:
            # not by assignment: what the protocol implies is not what the user has set
            self.__dict__["episodes_per_task"] = starts
        if self.episodes_per_task > starts:
            raise ValueError(
                f"episodes_per_task: the official protocol has {starts} starts of each task, got "
                f"{self.episodes_per_task}; set {starts}, or env.protocol=seeded"
            )
        return self

    @model_validator(mode="after")
    def _envs_have_a_place(self) -> EvalConfig:
        # "all in this process" and "on the nodes of a cluster" cannot both be meant
        if self.launcher == "ray" and self.workers == 0:
            raise ValueError(
                "launcher: ray needs workers of at least 1; 0 keeps the envs in this process"
            )
        return self

    def rollout_settings(self, *, workers: int = 0) -> RolloutSettings:
        """How its episodes are played; `workers` is given, since the config's may be null."""
        return RolloutSettings(
            workers=workers,
            num_envs=self.num_envs,
            batch_size=self.batch_size,
            threads=self.threads,
            replan_every=self.replan_every,
            ensemble=self.ensemble,
            temperature=self.temperature,
            target_return=self.target_return,
            shield=self.shield,
            timeout=self.timeout,
            launcher=self.launcher,
            ray_address=self.ray_address,
        )

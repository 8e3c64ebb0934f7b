"""What a training run is: data, policy, objective, optimiser, and when to log, validate and
save."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from vla.config import Choice, Config, PathText, RootConfig
from vla.config.numbers import MOST_COUNT, MOST_WEIGHT, BatchSize, Count, Seed, Weight
from vla.data.dataset_config import DatasetConfig
from vla.data.held_out import HELD_OUT_FRACTION
from vla.data.rewards import RewardConfig
from vla.models.layers.lora import LoraSettings
from vla.models.policies.multi_robot import RobotName


class ReplayConfig(DatasetConfig):
    """A further dataset whose windows are mixed into every batch, such as what the policy was
    pretrained on."""

    path: PathText
    """Folder of the dataset, its file or its URL. Its actions must be those of the policy's robot;
    of its state what has the same names is used, and what it lacks stands at the mean of the new
    data."""
    weight: Annotated[float, Field(gt=0, lt=1)]
    """Share of every batch, exact over the steps."""
    cameras: dict[str, str] = Field(default_factory=dict)
    """Camera of the policy -> the dataset's camera that takes its place; cameras of the same name
    need none. Images are resized to those of the policy."""


class RobotDatasetConfig(DatasetConfig):
    """One robot's dataset among several that one policy learns from."""

    cameras: dict[str, str] | None = None
    """Camera slot of the policy -> camera of the dataset. Robots share what is learned for a slot;
    other cameras are not loaded. null: every camera is a slot of its name."""
    weight: Weight | None = None
    """How often it is drawn, relative to the other datasets; give it for all of them or for
    none."""
    tokenizer: Annotated[Any, Choice("tokenizers")] | None = None
    """Its action tokenizer; null: of the policy's kind. Every robot's is fitted to its own
    actions."""


class DataConfig(DatasetConfig):
    """Which demonstrations are learned from, and how windows are drawn from them."""

    former_keys: ClassVar[dict[str, str]] = {
        "mixture": "multi_robot",
        "mixture_temperature": "multi_robot_temperature",
    }

    path: PathText = ""
    """Folder of the dataset, its file or its URL; left out where `multi_robot` names several."""
    multi_robot: dict[RobotName, RobotDatasetConfig] = Field(default_factory=dict)
    """Datasets of different robots, by name, in place of `path`: one policy learns from all of
    them, with a shared trunk and for each robot its own cameras, state, actions, tokenizer and
    statistics. All other settings hold for each of them."""
    multi_robot_temperature: Annotated[float, Field(ge=0.01)] | None = None
    """Without weights a dataset is drawn in proportion to its windows ** (1 / temperature): null or
    1 as the data are, more draws small datasets more often."""
    cache: Literal["ram", "disk", "shared", "stream"] = "ram"
    """Where decoded frames live: `ram`; `disk` (decoded once, then memory-mapped); `shared` (one
    copy in memory for all processes of the machine); or `stream`, for data larger than any: frames
    are decoded shortly before they are used, a shuffled block of episodes at a time."""
    stream_memory_gb: PositiveFloat = 4.0
    """With `cache: stream`: how much memory each process gives to decoded frames, in GiB. A third
    of it is a block: windows are shuffled within it, so more of it mixes more episodes."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = HELD_OUT_FRACTION
    """Share of the episodes of each task held out of training; 0 trains on everything. An episode
    whose instruction changes belongs to the task of its first step."""
    validation_windows: PositiveInt | None = 1024
    """At most this many held-out windows are scored, evenly spread; null scores all."""
    task_balance: Annotated[float, Field(ge=0, le=100)] | None = None
    """Temperature of the task weights (see `task_balanced_weights`); null draws each window once
    per epoch."""
    episode_balance: bool = False
    """Draw every episode equally often, however long it is: for data of mixed quality, where
    failures last longest."""
    task_weights: dict[str, Annotated[float, Field(ge=0, le=MOST_WEIGHT)]] = Field(
        default_factory=dict
    )
    """Instruction, or pattern of instructions (`pick *`), -> how many times more often its windows
    are drawn than they would be; the instruction itself counts before patterns, the longest pattern
    before others."""
    solved_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each task's windows that come from solved episodes; null leaves it to the data.
    Where most episodes fail, offline RL learns sooner from as many of both."""
    variable_history: bool = False
    """Hide a random number of the oldest steps of every training window, so that the policy learns
    from any history."""
    rewards: RewardConfig = RewardConfig()
    """What is rewarded, for objectives that learn from rewards."""
    replay: list[ReplayConfig] = Field(default_factory=list)
    """Further datasets mixed into every batch; validation stays with `path`."""

    @model_validator(mode="after")
    def _names_data(self) -> DataConfig:
        if bool(self.path) == bool(self.multi_robot):
            raise ValueError(
                "path: name one dataset with path, or several robots' datasets with multi_robot"
            )
        weighted = [name for name, entry in self.multi_robot.items() if entry.weight is not None]
        lacking = [name for name in self.multi_robot if name not in weighted]
        if weighted and lacking:
            raise ValueError(
                f"multi_robot.{lacking[0]}.weight: is missing; give every dataset a weight, or none"
            )
        if self.multi_robot_temperature is not None and (weighted or not self.multi_robot):
            # with weights the shares are given, and a temperature would count for nothing
            raise ValueError(
                "multi_robot_temperature: is for several robots without weights; leave it out"
            )
        if self.multi_robot and self.replay:
            raise ValueError("replay: is for one robot's data; name the datasets in multi_robot")
        for name in ("format", "keys"):
            if self.multi_robot and getattr(self, name) is not None:
                first = next(iter(self.multi_robot))
                raise ValueError(
                    f"{name}: is for the dataset of path; write multi_robot.{first}.{name}"
                )
        return self

    @model_validator(mode="after")
    def _leaves_room(self) -> DataConfig:
        total = sum(entry.weight for entry in self.replay)
        if total >= 1:
            raise ValueError(
                f"replay: weights add up to {total:g}, which leaves nothing for {self.path}; use "
                "less than 1"
            )
        return self


class CoTrainingConfig(Config):
    """Image-text pairs that a vision-language policy goes on answering while it learns to act."""

    path: PathText
    """Folder of pictures with metadata.jsonl (see `vla.data.loading.image_text`)."""
    weight: Weight = 1.0
    """Weight of the pairs' mean loss beside that of the robot data."""
    batch_size: BatchSize = 16
    """Pairs per optimiser step, over all processes and accumulated micro-batches."""


class CriticOptimConfig(Config):
    """Optimiser settings of what an objective learns beside the policy: critics, and a learned
    temperature. The defaults are those of published offline RL: a constant rate, no decay, no
    clipping."""

    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """Decay rates of the first and second moment."""
    warmup_steps: Annotated[int, Field(ge=0, le=MOST_COUNT)] = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "constant"
    """After the warm-up: constant, or cosine to `min_lr_fraction` at the last step."""
    min_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Last learning rate of the cosine, as a fraction of the peak."""
    clip_norm: PositiveFloat | None = None
    """Greatest gradient norm; null does not clip."""


class OptimConfig(Config):
    """AdamW with warm-up. Biases, norms and embeddings are not decayed.

    RT-1 was published with Adam at a constant 1e-4, without decay and running mean: see
    `configs/rt1_official.yaml`.
    """

    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of matrices and convolution kernels."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.99,
    )
    """Decay rates of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    warmup_steps: Annotated[int, Field(ge=0, le=MOST_COUNT)] = 100
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: cosine to `min_lr_fraction` at the last step, or constant."""
    min_lr_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Last learning rate of the cosine, as a fraction of the peak."""
    clip_norm: PositiveFloat | None = 1.0
    """Greatest gradient norm, of the policy and of the objective's own networks each; null does not
    clip."""
    critic: CriticOptimConfig | None = None
    """Other settings for the objective's own networks (critics); null takes those of the policy.
    `{}` for a constant rate without decay and clipping, as offline RL is published."""
    rates: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Pattern of parameter names -> factor on the learning rate, for example `policy.vision.*:
    0.1`; names begin with `policy.` or `objective.`, and the longest pattern that matches
    counts."""
    project_gradients: bool = False
    """Gradients of tasks that disagree are projected onto each other's normal plane (PCGrad, Yu et
    al. 2020): one backward pass per task of the batch. A task is what the dataset notes as such for
    its episodes (`task` of `info`), else the instruction."""

    @property
    def clip_norms(self) -> dict[str, float | None]:
        """Greatest gradient norm of each of `Learner.parameter_groups`."""
        critic = self if self.critic is None else self.critic
        return {"grad_norm": self.clip_norm, "critic_grad_norm": critic.clip_norm}


class TransferConfig(Config):
    """How a trained policy (`init_from`) becomes one for another robot, head, tokenizer or chunk.

    What fits by name and shape is kept. What does not is re-initialised, as are heads if the
    actions, the tokenizer or the head are others, and what reads the state if the state is another;
    positions follow their tokens.
    """

    former_keys: ClassVar[dict[str, str]] = {
        "remake": "reinitialise",
        "least_kept": "min_loaded",
    }
    cameras: dict[str, str] = Field(default_factory=dict)
    """Camera of the new policy -> camera of the old one whose learned parts it takes. Others go by
    name, then in order."""
    keep_statistics: bool = False
    """Keep tokenizer and normalisation in place of fitting them to the new data: for another task
    of the same robot."""
    same_robot: bool | None = None
    """Whether state and action dimensions of equal names are the same ones. null: yes, unless their
    names were made up to number them (`action_0`), as of data that name none; true: yes, those
    too; false: no, so that heads and what reads the state are re-initialised."""
    reinitialise: list[str] | None = None
    """Patterns of parameters that are re-initialised even if they fit; null leaves it to the rule
    above. With a list, also an empty one, everything else that fits is kept, whatever state or
    actions it was for."""
    min_loaded: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Refuse if less than this share of the old trunk's parameters fits, in the mean over its parts
    (vision, transformer ...)."""
    freeze: list[str] = Field(default_factory=list)
    """Patterns of parameters that do not learn, for example `vision.*`; batch norms among them keep
    their statistics."""
    lora: LoraSettings | None = None
    """Low-rank adapters on the linear layers that were kept. The rest of what was kept is frozen,
    but for heads and what reads states and actions; what was re-initialised learns. Checkpoints
    hold the merged weights."""
    train: list[str] = Field(default_factory=list)
    """With lora: patterns of kept parameters that learn in full all the same."""

    @model_validator(mode="after")
    def _consistent(self) -> TransferConfig:
        if self.train and self.lora is None:
            raise ValueError(
                "train: without lora everything learns that is not in freeze; leave it out"
            )
        if self.keep_statistics and self.same_robot is False:
            raise ValueError(
                "keep_statistics: is for the same robot; set it to false, or leave same_robot out"
            )
        return self


class TrainConfig(RootConfig):
    """One training run. Everything that decides the sequence of losses is in here."""

    out: PathText
    """Run directory: config, versions, metrics, checkpoints and the final policy."""
    seed: Seed = 0
    """Decides initial weights, data order, held-out episodes, dropout and augmentation."""
    data: DataConfig
    """Demonstrations."""
    policy: Annotated[Any, Choice("policies")] | None = None
    """The network. May be left out where `init_from` names one."""
    init_from: PathText | None = None
    """Folder of a trained policy to start from: its weights, tokenizer and normalisation are
    kept."""
    transfer: TransferConfig | None = None
    """Carry the policy of `init_from` over to this data's robot and to `policy`; null expects both
    to be as they were."""
    objective: Annotated[Any, Choice("objectives")] = Field(default={"type": "bc"})
    """What is minimised."""
    co_training: CoTrainingConfig | None = None
    """Image-text pairs learned beside the demonstrations (vlm policies); null for demonstrations
    alone."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and schedule."""
    steps: Count
    """Optimiser steps of the whole run."""
    max_minutes: PositiveFloat | None = None
    """Stop and save after this time of one call, even before `steps`; the schedule still follows
    `steps`."""
    batch_size: BatchSize = 64
    """Windows per optimiser step, over all processes and accumulated micro-batches."""
    grad_accumulation: BatchSize = 1
    """Micro-batches per optimiser step; the gradient is that of the whole batch."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = 0.999
    """Decay of the running mean of the weights, which becomes the final policy; null is off."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Of the forward pass; weights and optimiser are float32. `auto` is bf16 on GPUs that have it
    and, for policies that see pictures, on CPUs that multiply it (AMX, AVX512_BF16); float32
    elsewhere. A resumed run goes on in what it began with."""
    compile: bool = False
    """Compile the policy with torch.compile."""
    log_every: PositiveInt = 10
    """Steps between metrics lines; each holds means over these steps."""
    validate_every: PositiveInt | None = 500
    """Steps between scores on held-out episodes; null never."""
    save_every: PositiveInt | None = 500
    """Steps between checkpoints; null saves at the end only."""
    keep_last: PositiveInt = 2
    """Newest checkpoints that are kept, beside the one of least validation loss."""
    evaluate_every: PositiveInt | None = None
    """Steps between calls of the `evaluate` function that `train` was given; null never."""
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default_factory=list)
    """Where metrics go beside metrics.jsonl."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.policy is None and self.init_from is None:
            raise ValueError("policy: is required (or name a trained policy with init_from)")
        if self.transfer is not None and self.init_from is None:
            raise ValueError("transfer: needs the policy that it starts from; set init_from")
        if self.transfer is not None and self.data.multi_robot:
            raise ValueError(
                "transfer: carries one robot's policy over to one other; leave it out, or name one "
                "dataset in data.path"
            )
        # of objectives with critics alone
        warmup = dict(self.objective).get("warmup_steps", 0)
        if warmup >= self.steps:
            raise ValueError(
                f"objective.warmup_steps: {warmup} of steps: {self.steps} leave the policy none to "
                f"learn in; use less than {self.steps}"
            )
        if self.optim.project_gradients and self.co_training is not None:
            raise ValueError(
                "optim.project_gradients: knows the tasks of robot data alone; set co_training: "
                "null"
            )
        if self.batch_size % self.grad_accumulation:
            size = -(-self.batch_size // self.grad_accumulation)  # rounded up
            raise ValueError(
                f"batch_size: {self.batch_size} does not divide into "
                f"grad_accumulation={self.grad_accumulation} micro-batches; use "
                f"{size * self.grad_accumulation}"
            )
        return self


# May differ when a run is resumed: none of them changes the sequence of losses.
FREE_ON_RESUME = frozenset(
    (
        "out",
        "max_minutes",
        "log_every",
        "validate_every",
        "save_every",
        "keep_last",
        "evaluate_every",
        "trackers",
    )
)

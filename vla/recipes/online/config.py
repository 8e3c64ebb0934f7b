"""What an online run is, as a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from vla.config import Choice, Config, ConfigPath, PathText, RootConfig
from vla.config.numbers import MOST_COUNT, BatchSize, Count, Seed
from vla.control.exploration import Exploration
from vla.control.shield_config import ShieldConfig
from vla.data.rewards import RewardConfig
from vla.sim_eval.gates.stuck import StuckConfig
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.sim_eval.rollouts.takeover import TakeoverConfig
from vla.sim_eval.workers.launchers import Launcher
from vla.training.config import OptimConfig
from vla.training.online_rl.policy_gradient import PolicyGradientConfig
from vla.training.reward_learning.online import OnlineRewardConfig


class ExploreConfig(Config):
    """What is tried beside the policy's own samples, so that values learn of it."""

    epsilon: float = Field(default=0.0, ge=0, le=1)
    """Share of the numbers of a chunk (of tokens, where each says one) that are drawn uniformly
    from their range, in the first round."""
    epsilon_end: float | None = Field(default=None, ge=0, le=1)
    """The same after `epsilon_rounds` rounds, between which it falls evenly; null: it stays."""
    epsilon_rounds: int | None = Field(default=None, ge=2)
    """Round in which `epsilon_end` is reached."""
    persistence: float = Field(default=0.0, ge=0, lt=1)
    """Above 0 whole actions are drawn, and held for 1 / (1 - persistence) decisions on average:
    what is far off is found by going on, not by trembling."""
    noise: float = Field(default=0.0, ge=0)
    """Deviation of Gaussian noise on each number, in units of half its range (TD3: 0.1)."""
    random_rounds: int = Field(default=0, ge=0)
    """First rounds in which all numbers are drawn uniformly."""

    @model_validator(mode="after")
    def _has_effect(self) -> ExploreConfig:
        if (self.epsilon_end is None) != (self.epsilon_rounds is None):
            raise ValueError(
                "epsilon_end, epsilon_rounds: go together; set both of them or none, for example "
                "epsilon=0.2 epsilon_end=0.02 epsilon_rounds=20"
            )
        return self

    def exploration(self, round_number: int) -> Exploration | None:
        """Of round `round_number`, which counts from 1; None if nothing is tried."""
        if round_number <= self.random_rounds:
            return Exploration(1.0, self.persistence)
        epsilon = self.epsilon
        if self.epsilon_end is not None and self.epsilon_rounds is not None:
            share = min(1.0, (round_number - 1) / (self.epsilon_rounds - 1))
            epsilon += share * (self.epsilon_end - epsilon)
        if not epsilon and not self.noise:
            return None
        return Exploration(epsilon, self.persistence, self.noise)


class ActConfig(Config):
    """How the policy acts while its episodes are collected."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    """1 samples of its distribution, 0 takes the most likely actions; null: the objective's, else
    1."""
    explore: ExploreConfig | None = None
    """Noise on what the policy chose; null for none. Values of tokens: {epsilon: 0.2, epsilon_end:
    0.02, epsilon_rounds: 20}; heads without spread of their own: {noise: 0.1}."""
    shield: ShieldConfig | None = None
    """Choose among several chunks of the policy by a risk network, such as `act.shield={path:
    runs/risk}`; null: its own choice."""
    replan_every: int = Field(default=1, ge=1)
    """Actions of a chunk that are executed before the policy looks again."""
    workers: int = Field(default=0, ge=0)
    """Processes that step and render envs; 0 keeps them in this process, best for envs that are
    stepped in no time. The episodes are the same."""
    batch_size: BatchSize = 16
    """Episodes of a task that advance in lockstep and share the policy's batches."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of the policy's arithmetic on a CPU; null: half of the cores."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds without an answer after which a worker is replaced."""
    launcher: Launcher = "local"
    """Where the workers run: "local" for this machine, "ray" for the cluster at `ray_address`."""
    ray_address: str = "auto"
    """host:port of a Ray cluster; "auto" finds the one of this machine."""
    stop_if_stuck: StuckConfig | None = None
    """End an episode, as a time limit does, where nothing has moved for so long: the late states of
    a policy that is stuck teach nothing. null plays on."""

    @model_validator(mode="after")
    def _envs_have_a_place(self) -> ActConfig:
        if self.launcher == "ray" and self.workers == 0:
            raise ValueError("launcher: ray needs act.workers of at least 1")
        return self

    def settings(self, temperature: float, round_number: int) -> RolloutSettings:
        """For the rollouts of round `round_number`, which counts from 1."""
        explore = self.explore
        return RolloutSettings(
            temperature=temperature,
            exploration=None if explore is None else explore.exploration(round_number),
            shield=self.shield,
            replan_every=self.replan_every,
            workers=self.workers,
            batch_size=self.batch_size,
            threads=self.threads,
            timeout=self.timeout,
            launcher=self.launcher,
            ray_address=self.ray_address,
        )


class ExpertLabels(Config):
    """The env's expert labels, and may correct, what the policy does: DAgger and its gated forms.

    Sources: Ross, Gordon and Bagnell, 2011, "A reduction of imitation learning and structured
    prediction to no-regret online learning"; Kelly et al., 2019, "HG-DAgger".
    """

    learn: Literal["all", "corrections"] = "all"
    """all: the expert's action in every state that was visited. corrections: only where the expert
    acted itself."""
    whole_chunks: bool | None = None
    """Label the policy's whole chunk: the expert plays on in the simulator, which is then put back.
    false: later actions of a chunk are learned only where the expert's were executed. null: true
    where the env can be put back."""
    beta: float = Field(default=0.0, ge=0, le=1)
    """Share of the first round that the expert plays itself."""
    beta_decay: float = Field(default=0.0, ge=0, le=1)
    """Factor on the share with every round; 0: the first round alone."""
    beta_min: float = Field(default=0.0, ge=0, le=1)
    """Least share."""
    per: Literal["episode", "step"] = "episode"
    """What the share is of."""
    gate: Annotated[Any, Choice("gates")] | None = None
    """Hands single steps to the expert; null for none."""
    hold: int = Field(default=0, ge=0, le=10_000)
    """Steps that the expert goes on for after the gate has closed."""

    @model_validator(mode="after")
    def _there_are_corrections(self) -> ExpertLabels:
        if self.learn == "corrections" and self.gate is None and not self.beta:
            raise ValueError(
                "learn: corrections needs steps that the expert plays; set gate, for example "
                "gate={type: expert_error}"
            )
        return self

    def takeover(self, round_number: int) -> TakeoverConfig | None:
        """When the expert acts in this round, which counts from 1; None for never."""
        # 0 ** 0 is 1: the first round is played by the share itself, whatever the decay
        decayed = self.beta * self.beta_decay ** (round_number - 1)
        beta = max(self.beta_min, decayed)
        if not beta and self.gate is None:
            return None
        return TakeoverConfig(beta=beta, per=self.per, gate=self.gate, hold=self.hold)


class PriorData(Config):
    """A dataset that is learned from beside what the policy does."""

    path: ConfigPath
    """Folder or file of the dataset."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Share of every batch (RLPD: 0.5); null puts its episodes in front of those that come, to be
    drawn like them."""


class OnlineEvaluation(Config):
    """Success on unseen seeds while the run goes on, paired with that before the first round."""

    every: int = Field(default=5, ge=1)
    """Rounds between evaluations; the last round is evaluated too."""
    episodes_per_task: int = Field(default=20, ge=1)
    """Episodes of each task."""
    temperature: float = Field(default=0.0, ge=0)
    """0 for the policy's most likely actions."""


class OnlineOptimConfig(OptimConfig):
    """As of `vla train`, at a constant rate: how long a run goes on is seldom known beforehand."""

    lr: PositiveFloat = 1e-4
    """Learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of matrices and convolution kernels."""
    warmup_steps: Annotated[int, Field(ge=0, le=MOST_COUNT)] = 0
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "constant"
    """After the warm-up: constant, or cosine to `min_lr_fraction` at the last step."""


class OnlineConfig(RootConfig):
    """Rounds of acting, labelling and learning. `vla online CONFIG`."""

    out: PathText
    """Run directory: config, metrics, checkpoints, episodes, evaluations and the final policy."""
    seed: Seed = 0
    """Decides starts, samples, the order of batches, and the weights of a new policy."""
    env: Annotated[Any, Choice("envs")]
    """The tasks that are played."""
    init_from: PathText | None = None
    """Folder of a trained policy to start from."""
    critics_from: PathText | None = None
    """Run of `vla train` or `vla online` by the same objective, whose critics go on, with its
    policy in `init_from`: values that know nothing would first spoil what the policy can do."""
    policy: Annotated[Any, Choice("policies")] | None = None
    """The network of a policy that starts from nothing; null with `init_from`."""
    objective: Annotated[Any, Choice("objectives")]
    """What is learned of each round: ppo, grpo, a2c, reinforce; bc (with `label`), filtered_bc,
    sac, td3, ddpg, rlpd, mpo, dqn; iql, cal_ql and all others of `vla train`."""
    optim: OnlineOptimConfig = OnlineOptimConfig()
    """Optimiser and schedule."""
    rounds: Count
    """How often it acts and learns."""
    episodes_per_round: BatchSize = 64
    """Episodes of a round, over all tasks."""
    episodes_per_start: BatchSize = 1
    """Episodes that begin alike, for objectives that compare them (grpo: 8)."""
    act: ActConfig = ActConfig()
    """How the episodes are played."""
    label: ExpertLabels | None = None
    """Actions of the env's expert to imitate in place of the policy's own; null for none."""
    rewards: RewardConfig = RewardConfig()
    """Which rewards and terminals are learned from."""
    reward: OnlineRewardConfig | None = None
    """A reward model whose rewards, and successes if it judges them, stand in place of the env's
    own; null for those of the env. `rewards` shapes them as any others."""
    keep: Literal["round", "all"] | int = "all"
    """Episodes to learn from: those of the round, all, or the newest of so many steps."""
    prior_data: PriorData | None = None
    """A dataset that is learned from beside."""
    epochs: float | None = Field(default=None, gt=0, le=1000)
    """Passes over the windows of a round; give this, `updates` or `updates_per_step`."""
    updates: Count | None = None
    """Optimiser steps of a round."""
    updates_per_step: float | None = Field(default=None, gt=0, le=1000)
    """Optimiser steps of a round for each env step that was played in it (SAC: 1, RLPD: 20)."""
    batch_size: BatchSize = 256
    """Windows of an optimiser step."""
    # null and not "no": runs from before there was the key must resume, and they lack it
    precision: Literal["no", "bf16"] | None = None
    """Of the forward pass of updates; weights, optimiser and what acts are float32. bf16 is faster
    on GPUs that have it, and with pictures on CPUs that multiply it. null: float32."""
    episode_balance: bool = False
    """Draw each episode equally often, whatever its length: for labels of an expert, since
    failures are long."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the running mean of the weights, which acts and is kept; null is off."""
    evaluate: OnlineEvaluation | None = OnlineEvaluation()
    """Evaluations on the way; null for none."""
    save_episodes: bool = True
    """Keep what was played as a dataset in `out/episodes`; what resumes needs it, but for `keep:
    round`."""
    keep_last: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    max_minutes: PositiveFloat | None = None
    """Stop at the end of the round in which this time of one call is over."""
    max_env_steps: Count | None = None
    """Stop at the end of the round in which so many env steps were played in all."""

    @model_validator(mode="after")
    def _consistent(self) -> OnlineConfig:
        if (self.init_from is None) == (self.policy is None):
            raise ValueError("init_from, policy: give one of them, the start or a new network")
        if self.critics_from is not None and self.init_from is None:
            raise ValueError(
                "critics_from: critics go on beside the policy whose features they read; set "
                f"init_from: {self.critics_from}/policy"
            )
        paces = [self.epochs, self.updates, self.updates_per_step]
        if sum(pace is not None for pace in paces) != 1:
            raise ValueError("epochs, updates, updates_per_step: give one of them")
        if isinstance(self.keep, int) and self.keep < 1:
            raise ValueError(
                f"keep: {self.keep} keeps nothing; use round, all or a number of steps"
            )
        # a checkpoint holds weights alone: the replay is read back from the episodes
        if self.keep != "round" and not self.save_episodes:
            raise ValueError(
                "save_episodes: a resumed run needs the episodes of earlier rounds; set it to "
                "true, or keep: round"
            )
        if self.prior_data is not None and self.prior_data.share is None and self.keep == "round":
            raise ValueError(
                "prior_data.share: with keep: round the data would be gone after the first round; "
                "give a share, or keep: all"
            )
        # how many steps an epoch has is known when its round was played, and not before
        if self.optim.schedule == "cosine" and self.updates is None:
            raise ValueError(
                "optim.schedule: cosine needs to know how many steps there will be; give updates "
                "in place of epochs or updates_per_step, or use schedule: constant"
            )
        if self.episodes_per_round % self.episodes_per_start:
            raise ValueError(
                f"episodes_per_round: {self.episodes_per_round} is no multiple of "
                f"episodes_per_start: {self.episodes_per_start}"
            )
        if isinstance(self.objective, PolicyGradientConfig):
            self._check_acting(self.objective.temperature)
        return self

    def _check_acting(self, own: float) -> None:
        """Raises ValueError if another policy would act than the one whose likelihoods are
        taken."""
        if self.act.temperature not in (None, own):
            raise ValueError(
                f"act.temperature: is {self.act.temperature:g}, but the objective takes "
                f"likelihoods at {own:g}; leave it out"
            )
        if self.act.explore is not None:
            raise ValueError(
                "act.explore: policy gradients learn from the policy's own samples, which are "
                "varied already; leave it out, or raise objective.temperature"
            )
        if self.act.shield is not None:
            raise ValueError(
                "act.shield: policy gradients learn from the policy's own samples, and a shield "
                "executes others; leave it out, or use an objective such as sac"
            )

    @property
    def temperature(self) -> float:
        """With which the policy acts."""
        if self.act.temperature is not None:
            return self.act.temperature
        return float(self.objective.acting_temperature)


FREE_ON_RESUME = frozenset(
    (
        *("out", "rounds", "max_minutes", "max_env_steps", "keep_last", "evaluate", "version"),
        *("act.workers", "act.timeout", "act.launcher", "act.ray_address"),
    )
)
"""What may differ when a run is resumed: none of it changes the rounds that were."""


__all__ = [
    "FREE_ON_RESUME",
    "ActConfig",
    "ExpertLabels",
    "ExploreConfig",
    "OnlineConfig",
    "OnlineEvaluation",
    "PriorData",
]

"""What `vla expert` trains, as a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from vla.config import Choice, ConfigPath, RootConfig
from vla.config.numbers import Count, Seed

AlgorithmName = Literal[
    "dqn", "qrdqn", "ddpg", "td3", "sac", "tqc", "crossq", "a2c", "ppo", "trpo", "ars"
]
SnapshotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OptionValue = bool | int | float | str | None


class ExpertConfig(RootConfig):
    """Reinforcement learning from a simulated robot's state, by stable-baselines3 and sb3-contrib.
    `vla expert CONFIG`."""

    env: Annotated[Any, Choice("envs")]
    """The robot and what it is rewarded for; only its state is seen, nothing is rendered."""
    task: str | None = None
    """Which task of the env; null if it has one."""
    algorithm: AlgorithmName = "sac"
    """dqn, qrdqn (over a grid of actions), ddpg, td3, sac, tqc, crossq, a2c, ppo, trpo or ars."""
    steps: Count = 100_000
    """Env steps. Algorithms that learn after whole rollouts finish the last one."""
    out: ConfigPath
    """Folder of the policies, `expert.json` and `metrics.jsonl`."""
    seed: Seed = 0
    """Of the weights, of exploration and of the starts; evaluations never start alike."""
    snapshots: dict[SnapshotName, Fraction] = Field(
        default={"random": 0.0, "medium": 0.5, "expert": 1.0}
    )
    """Name -> fraction of `steps` after which the policy is saved in `out/policies/NAME`: policies
    of several qualities for `vla collect behaviours.policies`."""
    hidden: int | None = Field(default=None, ge=1, le=65536)
    """Width of the actor's hidden layers; null: 256, of a2c, ppo, trpo, ars and dqn 64."""
    critic_hidden: int | None = Field(default=None, ge=1, le=65536)
    """Width of the critics' hidden layers; null: that of the actor, of crossq 1024."""
    depth: int | None = Field(default=None, ge=0, le=100)
    """Hidden layers; null: 2, of ars 0, a linear policy (Mania et al., 2018, arXiv:1803.07055)."""
    activation: Literal["relu", "tanh"] | None = None
    """What follows each hidden layer; null: relu, of a2c, ppo and trpo tanh."""
    normalise_states: bool | None = None
    """Scale states by their running mean and deviation; null: in a2c, ppo, trpo and ars."""
    normalise_rewards: bool | None = None
    """Scale rewards by the running deviation of returns; null: in a2c, ppo and trpo."""
    action_noise: float | None = Field(default=None, ge=0.0, le=2.0)
    """Standard deviation of Gaussian exploration noise, in units of half an action's range, for
    ddpg and td3; null: 0.1. The other algorithms explore by their own."""
    bins: int = Field(default=5, ge=2, le=1000)
    """Values of each action dimension for dqn and qrdqn, evenly spaced from limit to limit; they
    choose among all combinations."""
    envs: int = Field(default=1, ge=1, le=256)
    """Copies of the env that are stepped in turn, in this process."""
    end_at_success: bool = False
    """End training episodes at the first success. Right where reward is paid at success alone;
    where every step is rewarded, the expert would learn to avoid success."""
    options: dict[str, OptionValue] = Field(default={})
    """Further arguments of the algorithm's class by their names in its documentation, such as
    `learning_rate` or `gamma`."""
    eval_episodes: int = Field(default=10, ge=1, le=100_000)
    """Episodes on unseen starts by which each snapshot is measured, without exploration."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Of torch's arithmetic: networks of this size gain nothing from more."""

    @field_validator("snapshots")
    @classmethod
    def _saves_something(cls, value: dict[str, float]) -> dict[str, float]:
        if not value:
            raise ValueError("is empty: nothing would be saved; give {expert: 1.0}")
        return value


__all__ = ["AlgorithmName", "ExpertConfig"]

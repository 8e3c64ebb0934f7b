"""Maximum-entropy inverse RL over clusters of states, solved exactly.

It is for robots whose state says all, such as a ball in a maze: there it finds the reward that
gradient methods only approach, and is what they are tested against.

B windows, T steps, N steps of the data, S state dimensions, C clusters, M edges between them, E
episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from scipy.optimize import minimize
from torch import Tensor

from vla.config import register
from vla.models.policy import Policy
from vla.models.rewards.base import RewardError, RewardModel, RewardModelConfig
from vla.models.rewards.labelled import LabelledSteps
from vla.tokenizers.clustering import kmeans, nearest
from vla.types import Batch, Spec


@register("rewards", "maxent")
class MaxEntConfig(RewardModelConfig):
    """The reward of each cluster of states under which the demonstrations are most likely.

    Formula: P(path) is proportional to exp(sum of psi over its states); psi maximises the
    likelihood of the demonstrations less l2 |psi|^2 / 2. The gradient is the mean visits of the
    demonstrations less those expected, which soft value iteration gives backward in time.

    Source: Ziebart et al., 2008, "Maximum entropy inverse reinforcement learning", algorithm 1.
    """

    learns_by_steps: ClassVar[bool] = False
    needs_demonstrations: ClassVar[bool] = True
    type: Literal["maxent"] = "maxent"
    clusters: int = Field(default=100, ge=2, le=400)
    """Clusters of states, by k-means over states in deviations of the data."""
    l2: float = Field(default=0.01, ge=0, le=1e6)
    """Keeps rewards small where demonstrations say little."""
    iterations: int = Field(default=200, ge=1, le=100_000)
    """At most so many of L-BFGS."""

    def build(self, spec: Spec, policy: Policy | None) -> RewardModel:
        """Raises RewardError if the spec has no state."""
        if not spec.state_dim:
            raise RewardError(
                "model: maxent sees the state alone, and the data have none; use a discriminator"
            )
        return MaxEntReward(self, spec)


class MaxEntReward(RewardModel):
    """See `MaxEntConfig`. Instructions mean nothing to it.

    Attributes:
        centres: (C, S), deviations from the mean of the data.
        psi: (C,), the reward of each cluster.
        values: (C,), the soft value of each cluster with the whole horizon left.
    """

    config: MaxEntConfig
    centres: Tensor
    psi: Tensor
    values: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, config: MaxEntConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("centres", torch.zeros(config.clusters, spec.state_dim))
        self.register_buffer("psi", torch.zeros(config.clusters))
        self.register_buffer("values", torch.zeros(config.clusters))
        self.register_buffer("state_mean", torch.zeros(spec.state_dim))
        self.register_buffer("state_std", torch.ones(spec.state_dim))

    def score(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The reward of the cluster in which each step's state lies."""
        B, T = batch.mask.shape
        return self.psi[self.cluster_of(batch.state.flatten(0, 1))].view(B, T)

    def cluster_of(self, states: Float[Tensor, "N S"]) -> Tensor:
        """The number of the cluster of each state, robot units."""
        return nearest((states.float() - self.state_mean) / self.state_std, self.centres)

    def fit(self, steps: LabelledSteps, demonstrations: LabelledSteps | None) -> dict[str, float]:
        """Clusters the states, counts transitions and finds psi.

        Returns `log_likelihood` of a demonstration, and the `edges` between clusters.
        """
        if demonstrations is None:
            raise RewardError(
                "demonstrations: is required: the expert's episodes, whose reward is sought; name "
                "their dataset"
            )
        states = torch.from_numpy(np.concatenate([demonstrations.states, steps.states])).float()
        self.state_mean.copy_(states.mean(0))
        # a dimension that never changes tells no clusters apart
        self.state_std.copy_(states.std(0).clamp(min=1e-6))
        scaled = (states - self.state_mean) / self.state_std
        self.centres.copy_(kmeans(scaled, self.config.clusters))
        expert = _paths(demonstrations, self)
        graph = Graph.of_paths(expert, _paths(steps, self), self.config.clusters)
        psi, likelihood = solve(graph, expert, l2=self.config.l2, most=self.config.iterations)
        self.psi.copy_(torch.from_numpy(psi))
        # what reaches no end has no finite value: far below all others
        values = graph.soft_values(psi)[0][: self.config.clusters]
        finite = values[np.isfinite(values)]
        values = np.where(np.isfinite(values), values, finite.min() - 100)
        self.values.copy_(torch.from_numpy(values))
        return {"log_likelihood": likelihood, "edges": float(len(graph.target))}


def _paths(steps: LabelledSteps, model: MaxEntReward) -> list[np.ndarray]:
    clusters = model.cluster_of(torch.from_numpy(steps.states)).numpy()
    return np.split(clusters, np.cumsum(steps.lengths)[:-1])


@dataclass(frozen=True)
class Graph:
    """Which cluster has followed which, and an end behind them, number C, which is never left.

    Attributes:
        source, target: int (M,), ascending by source; every source has an edge.
        first: int (C + 1,), the first edge of each source.
        start: float (C + 1,), how likely a demonstration begins in each.
        horizon: steps until the end has to be reached.
    """

    source: np.ndarray
    target: np.ndarray
    first: np.ndarray
    start: np.ndarray
    horizon: int

    @classmethod
    def of_paths(cls, expert: list[np.ndarray], others: list[np.ndarray], clusters: int) -> Graph:
        """The graph of all paths; only those of the expert lead to the end."""
        edges = {(clusters, clusters)}
        for path in (*expert, *others):
            edges |= set(zip(path[:-1].tolist(), path[1:].tolist(), strict=True))
        edges |= {(int(path[-1]), clusters) for path in expert}
        # a cluster that nothing left stays where it is
        left = {source for source, _ in edges}
        edges |= {(cluster, cluster) for cluster in range(clusters) if cluster not in left}
        ordered = np.array(sorted(edges), np.int64)
        source, target = ordered[:, 0], ordered[:, 1]
        start = np.bincount([int(path[0]) for path in expert], minlength=clusters + 1)
        return cls(
            source=source,
            target=target,
            first=np.searchsorted(source, np.arange(clusters + 1)),
            start=start / len(expert),
            horizon=max(len(path) for path in expert),
        )

    def soft_values(self, psi: Float[np.ndarray, " C"]) -> Float[np.ndarray, "H C"]:
        """V_t(s) = psi(s) + log sum over s' of exp V_t+1(s'), (horizon + 1, C + 1), by t.

        At the horizon all but the end are worth minus infinity.
        """
        reward = np.append(psi, 0.0)
        values = np.full((self.horizon + 1, len(reward)), -np.inf)
        values[-1, -1] = 0.0
        for t in range(self.horizon - 1, -1, -1):
            values[t] = reward + self._log_sum(values[t + 1][self.target])
        return values

    def visits(self, values: Float[np.ndarray, "H C"]) -> Float[np.ndarray, " C"]:
        """Expected visits of each cluster on the way to the end, (C,)."""
        expected = np.zeros(len(self.first))
        here = self.start
        for t in range(self.horizon):
            expected += here
            worth = values[t + 1][self.target]
            total = self._log_sum(worth)[self.source]
            with np.errstate(invalid="ignore"):
                # minus infinity less itself: from there no way leads to the end in time
                share = np.where(np.isfinite(total), np.exp(worth - total), 0.0)
            here = np.bincount(self.target, here[self.source] * share, minlength=len(here))
        return expected[:-1]

    def _log_sum(self, worth: Float[np.ndarray, " M"]) -> Float[np.ndarray, " C"]:
        """log sum exp over the edges of each source."""
        most = np.maximum.reduceat(worth, self.first)
        # where all is minus infinity, so is the sum
        shift = np.where(np.isfinite(most), most, 0.0)
        total = np.add.reduceat(np.exp(worth - shift[self.source]), self.first)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(total) + shift)


def solve(
    graph: Graph, expert: list[np.ndarray], *, l2: float, most: int
) -> tuple[np.ndarray, float]:
    """psi (C,) of the most likely demonstrations, and the mean log-likelihood of one."""
    clusters = len(graph.first) - 1
    counts = np.bincount(np.concatenate(expert), minlength=clusters)[:clusters] / len(expert)

    def loss(psi: np.ndarray) -> tuple[float, np.ndarray]:
        values = graph.soft_values(psi)
        begun = graph.start > 0
        partition = float(graph.start[begun] @ values[0][begun])
        gradient = graph.visits(values) - counts + l2 * psi
        return partition - float(counts @ psi) + l2 / 2 * float(psi @ psi), gradient

    found = minimize(
        loss, np.zeros(clusters), jac=True, method="L-BFGS-B", options={"maxiter": most}
    )
    psi = np.asarray(found.x)
    return psi, -(float(found.fun) - l2 / 2 * float(psi @ psi))


__all__ = ["Graph", "MaxEntConfig", "MaxEntReward", "solve"]

"""A shield: of several chunks that a policy may choose, one whose risk is admissible.

B robots, T steps, C candidates, K actions per chunk, A action dimensions, S state dimensions.

Sources: Alshiekh et al., 2018, "Safe reinforcement learning via shielding"; Thananjeyan et al.,
2021, "Recovery RL", for a risk of state and action learned from failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vla.control.shield_config import ShieldConfig
from vla.models.rewards.base import RewardError
from vla.models.rewards.loaded_risk import load_risk
from vla.models.rewards.risk import RiskModel
from vla.models.rewards.running_episode import RunningEpisode, batch_of
from vla.models.sampling import sample_many
from vla.types import ActionDistribution, Batch, Spec
from vla.types.tensors import to_ends


class Shield:
    """A risk network beside a policy of one robot.

    Attributes:
        model: on the CPU, in evaluation mode.
        threshold: greatest admissible risk.
        decisions: chunks that it was asked for.
        interventions: those that were not the policy's own choice.

    Args:
        replan_every: steps of a chunk that are executed.

    Raises:
        CheckpointError: there is no such risk network.
        RewardError: it is of another robot, or looks back over steps at which the policy does not
            look.
    """

    def __init__(self, config: ShieldConfig, spec: Spec, *, replan_every: int | None) -> None:
        self.config = config
        self.spec = spec
        self.model: RiskModel = load_risk(config.path, spec, "shield.path")
        self.threshold = (
            float(self.model.threshold) if config.threshold is None else config.threshold
        )
        self.decisions = 0
        self.interventions = 0
        if self.model.history > 1 and replan_every != 1:
            raise RewardError(
                f"shield.path: the risk network looks back over {self.model.history} steps and has "
                "to see every one of them; set replan_every=1, or train it on a policy with "
                "history=1"
            )

    def begin(self) -> RunningEpisode:
        """What it has to remember of a new episode."""
        return RunningEpisode(self.model)

    def choice(
        self,
        episodes: Sequence[RunningEpisode],
        images: Mapping[str, UInt8[np.ndarray, "B H W 3"]],
        states: Float[np.ndarray, "B S"],
        instructions: Sequence[str],
        *,
        temperature: float,
    ) -> ShieldedChoice:
        """How the chunks of this step are chosen, for `Policy.act`; call `remember` afterwards.

        Args:
            temperature: of the policy's own choice.
        """
        for row, episode in enumerate(episodes):
            seen = {camera: images[camera][row] for camera in self.model.cameras}
            episode.see(seen, states[row], instructions[row])
        return ShieldedChoice(self, batch_of(self.model, episodes), temperature)

    def remember(
        self, episodes: Sequence[RunningEpisode], executed: Sequence[Float[np.ndarray, " A"]]
    ) -> None:
        """What is executed at this step by each robot."""
        for episode, action in zip(episodes, executed, strict=True):
            episode.did(action)


@dataclass
class ShieldedChoice:
    """Chooses the chunks of one call of `act`.

    Attributes:
        shield: whose network is asked.
        batch: what the robots have seen.
        temperature: of the policy's own choice.
        risks: (B,), of what was chosen; None before the call.
        refused: (B,), where the policy's own choice was not taken; None before the call.
    """

    shield: Shield
    batch: Batch
    temperature: float
    risks: Float[Tensor, " B"] | None = field(default=None, init=False)
    refused: Bool[Tensor, " B"] | None = field(default=None, init=False)

    def __call__(self, actions: ActionDistribution) -> Float[Tensor, "B T K A"]:
        shield, spec = self.shield, self.shield.spec
        own_BTKA = actions.sample(temperature=self.temperature)
        drawn_CBTKA = sample_many(
            actions, shield.config.samples, temperature=shield.config.sample_temperature
        )
        candidates_CBTKA = torch.cat([own_BTKA[None], drawn_CBTKA.to(own_BTKA)])
        # judged as it would be executed: within the limits
        first_CBA = candidates_CBTKA[:, :, -1, 0].float().cpu()
        first_CBA = first_CBA.clamp(torch.tensor(spec.action_low), torch.tensor(spec.action_high))
        first_CBA = to_ends(first_CBA, spec.action_names, spec.binary_ends)
        risk_BC = shield.model.of_candidates(self.batch, first_CBA.transpose(0, 1)).cpu()
        chosen_B = chosen_candidates(risk_BC, shield.threshold)
        rows_B = torch.arange(len(chosen_B))
        self.risks = risk_BC[rows_B, chosen_B]
        self.refused = chosen_B != 0
        shield.decisions += len(chosen_B)
        shield.interventions += int(self.refused.sum())
        device = candidates_CBTKA.device
        return candidates_CBTKA[chosen_B.to(device), rows_B.to(device)]


def chosen_candidates(risk_BC: Float[Tensor, "B C"], threshold: float) -> Tensor:
    """int64 (B,): the first candidate whose risk is at most the threshold, else the least risky."""
    admissible_BC = risk_BC <= threshold
    # argmax gives the first of equal ones
    first_B = admissible_BC.int().argmax(1)
    return torch.where(admissible_BC.any(1), first_B, risk_BC.argmin(1))


__all__ = ["Shield", "ShieldedChoice", "chosen_candidates"]

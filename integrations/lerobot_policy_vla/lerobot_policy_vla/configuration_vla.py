"""How a policy of vla acts on a robot of LeRobot; `vla export lerobot` writes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig


def _identity() -> dict[str, NormalizationMode]:
    return dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)


@PreTrainedConfig.register_subclass("vla")
@dataclass
class VlaConfig(PreTrainedConfig):
    """The keys are set on the command line as `--policy.KEY=VALUE`.

    Attributes:
        checkpoint: folder of the policy, inside the exported one.
        cameras: the policy's camera -> LeRobot's key, such as observation.images.top.
        n_action_steps: actions of a chunk that are executed before the next one; None: one if the
            policy looks back or is ensembled, else all.
        temporal_ensemble_coeff: decay of temporal ensembling over chunks; None: none.
        resize: `stretch` or `pad` for images of another size than the policy's; None: an error.
        match: `name`: state and action dimensions have the policy's names, in any order;
            `place`: they are taken as they come.
        remote: address of a `vla serve`, such as ws://gpu:8000, that runs the policy.
        api_key_env: the variable that holds the server's key.
        action_feature_names: the robot's action dimensions, if LeRobot gives no dataset.
        normalization_mapping: identities, since the policy normalises inside.
    """

    checkpoint: str = "vla"
    cameras: dict[str, str] = field(default_factory=dict)
    n_action_steps: int | None = None
    temporal_ensemble_coeff: float | None = None
    resize: str | None = None
    match: str = "name"
    remote: str | None = None
    api_key_env: str = "VLA_API_KEY"
    action_feature_names: list[str] | None = None
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=_identity)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize not in (None, "stretch", "pad"):
            raise ValueError(f"resize={self.resize!r}, expected stretch or pad")
        if self.match not in ("name", "place"):
            raise ValueError(f"match={self.match!r}, expected name or place")
        if self.n_action_steps is not None and self.n_action_steps < 1:
            raise ValueError(f"n_action_steps={self.n_action_steps}, expected at least 1")

    def validate_features(self) -> None:
        """Raises ValueError if the cameras are not among the input features."""
        missing = sorted(set(self.cameras.values()) - set(self.input_features or {}))
        if missing:
            raise ValueError(f"cameras: {missing[0]} is none of input_features")

    # the policy remembers past steps itself, and is trained elsewhere

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig()

    def get_scheduler_preset(self) -> None:
        return None

"""A tiny robot and a tiny RT-1 on timm's smallest EfficientNet."""

from collections.abc import Callable

import pytest
import torch
from jaxtyping import install_import_hook

# shapes in annotations are checked in these tests
with install_import_hook(
    [
        "vla.models.layers",
        "vla.models.trajectory_transformer",
        "vla.models.trunk_cache",
        "vla.models.trunk_plan",
        "vla.models.policies.rt1",
    ],
    "beartype.beartype",
):
    from vla.models import RT1, RT1Config
from vla.types import Spec

TINY = {
    "trunk": "test_efficientnet",
    "stride": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "key_dim": 16,
    "history": 4,
    "language_dim": 24,
    "tokens_per_image": 3,
}


@pytest.fixture(autouse=True)
def _flush_denormals():
    torch.set_flush_denormal(True)


@pytest.fixture
def spec() -> Spec:
    return Spec(
        cameras={"front": (32, 48), "wrist": (32, 48)},
        state_names=("x", "y"),
        action_names=("dx", "dy", "grip"),
        action_low=(-1.0, -2.0, 0.0),
        action_high=(1.0, 2.0, 0.5),
        control_hz=10,
    )


@pytest.fixture
def make(spec: Spec) -> Callable[..., RT1]:
    """Builds a tiny policy with made-up sentence vectors, so that no text encoder is loaded."""

    def build(*, awake: bool = True, seed: int = 0, **changes) -> RT1:
        torch.manual_seed(seed)
        policy = RT1Config(**{**TINY, "cameras": ["front"], **changes}).build(spec)
        policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
        if awake:  # what is zero at initialisation could hide a mistake
            for film in (policy.vision.trunk.film, policy.vision.trunk.film_out):
                torch.nn.init.normal_(film.parameters_of.weight, std=0.2)
            torch.nn.init.normal_(policy.head.weight)
        return policy

    return build

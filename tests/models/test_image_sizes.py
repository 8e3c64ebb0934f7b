"""Images that are held at the size that a policy sees mean the same to it as whole ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import vlm_toys

from vla.models import RT1Config
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.vlm import VLMConfig
from vla.models.policy_contract import PolicyContractError, check_policy
from vla.types import Batch, ImageSize, Spec, resized

SPEC = Spec({"front": (120, 160), "wrist": (24, 24)}, ("x",), ("dx",), (-1.0,), (1.0,), 10.0)
SEEING = {
    "trunk": "test_efficientnet",
    "stride": 8,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "history": 2,
    "language_dim": 16,
    "tokens_per_image": 2,
    "dropout": 0.0,
    "image_size": (32, 32),
}
CONFIGS = {
    "rt1": RT1Config(**SEEING, key_dim=8),
    "decision_transformer": DecisionTransformerConfig(
        **SEEING, condition="none", language="minilm"
    ),
}


def build(name: str, **changes):
    torch.manual_seed(0)
    policy = CONFIGS[name].model_copy(update=changes).build(SPEC)
    policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
    return policy


def smooth_batch(spec: Spec, *, seed: int = 0) -> Batch:
    """Images with contrast at every size, as cameras give them; noise would average to gray."""
    torch.manual_seed(seed)
    batch = spec.fake_batch(2, 2, 1)
    images = {}
    for camera, size in spec.cameras.items():
        coarse = torch.randint(0, 256, (2, 2, 6, 6, 3), dtype=torch.uint8)
        images[camera] = resized(coarse, size)
    return dataclasses.replace(batch, images=images)


def held(batch: Batch, policy) -> Batch:
    """The batch as training data are held."""
    images = {}
    for camera, image in batch.images.items():
        size = policy.image_sizes[camera]
        images[camera] = resized(image, size) if size.shrinks(image.shape[2:4]) else image
    return dataclasses.replace(batch, images=images)


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_the_same_but_for_rounding(name):
    policy = build(name).eval()
    batch = smooth_batch(SPEC)
    small = held(batch, policy)
    assert small.images["front"].shape == (2, 2, 32, 32, 3)
    assert small.images["wrist"] is batch.images["wrist"]  # the policy enlarges it itself
    whole_BTF = policy.features(batch)
    other_BTF = policy.features(smooth_batch(SPEC, seed=1))
    rounding = (policy.features(small) - whole_BTF).abs().max()
    assert 0 < rounding < 0.05 * (other_BTF - whole_BTF).abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_augmented_training_is_the_same_to_the_bit(name):
    policy = build(name, random_shift=(0.1, 3.0)).train()
    batch = smooth_batch(SPEC)
    losses = []
    for given in (batch, held(batch, policy)):
        torch.manual_seed(5)
        losses.append(policy(given).actions.loss(batch.actions, batch.action_mask))
    assert torch.equal(*losses)


def test_shifts_in_pixels_are_those_of_the_camera():
    vision = build("rt1", random_shift=(0.0, 20.0), cameras=["front"]).train().vision
    column = torch.zeros(40, 1, 120, 160, 3, dtype=torch.uint8)
    column[:, :, :, 75:85] = 255  # columns 15 and 16 of 32
    shifted = vision.augment({"front": column})["front"]
    assert shifted.shape == (40, 1, 32, 32, 3)
    places = shifted[:, 0, 0, :, 0].float().argmax(-1)
    assert (int(places.min()), int(places.max())) == (11, 19)  # 20 of 160 pixels: 4 of 32


def test_a_policy_at_the_cameras_own_size_takes_them_as_they_are():
    spec = dataclasses.replace(SPEC, cameras={"front": (40, 48)})
    policy = RT1Config(**{**SEEING, "image_size": None}, key_dim=8).build(spec)
    assert policy.image_sizes == {"front": ImageSize(40, 48)}
    assert not policy.image_sizes["front"].shrinks((40, 48))


def test_the_contract_finds_a_size_that_the_policy_does_not_see():
    policy = build("rt1")
    check_policy(policy)
    for wrong in (ImageSize(8, 8), ImageSize(20, 90)):
        policy.image_sizes = {"front": wrong}
        with pytest.raises(PolicyContractError, match="image_sizes: an image of 'front'"):
            check_policy(policy)


@pytest.mark.parametrize("family", vlm_toys.FAMILIES)
def test_vision_language_models_say_what_their_processor_sees(family, tmp_path: Path):
    spec = dataclasses.replace(vlm_toys.SPEC, cameras={"front": (96, 128), "wrist": (32, 32)})
    base = vlm_toys.FAMILIES[family](tmp_path / family)
    policy = VLMConfig(base=str(base), state_tokens=0).build(spec).eval()
    if family == "composed":
        # smaller images are made larger by the processor
        assert policy.image_sizes == {"front": ImageSize(64, 64, "bicubic")}
        return
    if family != "paligemma":
        # the size follows from the image, or from its longest edge: whole images
        assert policy.image_sizes == {}
        return
    assert policy.image_sizes == {"front": ImageSize(32, 32, "bicubic")}
    batch = smooth_batch(spec)
    size = policy.image_sizes["front"]
    small = {**batch.images, "front": resized(batch.images["front"], size)}
    whole_BTF = policy.features(batch)
    found_BTF = policy.features(dataclasses.replace(batch, images=small))
    torch.testing.assert_close(found_BTF, whole_BTF, rtol=0, atol=1e-4)

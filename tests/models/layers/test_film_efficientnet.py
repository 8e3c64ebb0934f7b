"""FiLM, every kind of trunk, and what a wrong trunk says."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from vla.models.layers.film_efficientnet import (
    FiLM,
    FilmEfficientNet,
    TrunkError,
    create_trunk,
    modulate,
)

IMAGES = torch.randint(
    0, 256, (2, 40, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def trunk(**changes) -> FilmEfficientNet:
    torch.manual_seed(0)
    return FilmEfficientNet(
        **{"name": "test_efficientnet", "condition_dim": 6, "token_dim": 10, **changes}
    )


def test_film_by_hand():
    film = FiLM(1, [2, 1])
    film.parameters_of.weight.data = torch.tensor([[1.0], [2], [3], [4], [5], [6]])
    (scale, shift), (scale_2, shift_2) = film(torch.tensor([[10.0]]))
    assert scale.tolist() == [[11, 21]]
    assert shift.tolist() == [[30, 40]]
    assert (scale_2.item(), shift_2.item()) == (51, 60)
    x = torch.ones(1, 2, 1, 1)
    assert modulate(x, scale, shift, None).flatten().tolist() == [41, 61]
    assert modulate(
        x, scale.repeat(3, 1), shift * torch.tensor([[0], [1], [2]]), torch.tensor([2])
    ).flatten().tolist() == [
        71,
        101,
    ]


def test_identity_at_initialisation():
    ours = trunk().eval()
    torch.manual_seed(0)
    plain = timm.create_model("test_efficientnet", num_classes=0).eval()
    x = ours.prepare(IMAGES)
    conditions = torch.randn(2, 6)
    with torch.no_grad():
        expected = ours.project(plain.forward_features(x))
        assert torch.allclose(ours(x, ours.modulation(conditions)), expected, atol=1e-6)
        torch.nn.init.normal_(ours.film.parameters_of.weight)
        assert not torch.allclose(ours(x, ours.modulation(conditions)), expected, atol=1e-3)


def test_each_image_has_its_own_condition():
    ours = trunk().eval()
    torch.nn.init.normal_(ours.film.parameters_of.weight)
    conditions, index = torch.randn(2, 6), torch.tensor([1, 0])
    with torch.no_grad():
        x = ours.prepare(IMAGES)
        together = ours(x, ours.modulation(conditions), index)
        alone = ours(x[:1], ours.modulation(conditions[1:]))
    assert torch.allclose(together[:1], alone, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(together[:1], together[1:], atol=1)


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "tinynet_e", "efficientnet_lite0", "mixnet_s"]
)
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_map_size_and_gradients_everywhere(name, stride):
    ours = trunk(name=name, stride=stride)
    output = ours(ours.prepare(IMAGES), ours.modulation(torch.randn(2, 6)))
    assert tuple(output.shape) == (2, 10, *ours.map_size(40, 70))
    assert ours.map_size(40, 70) == (-(-40 // stride), -(-70 // stride))
    output.square().sum().backward()
    assert [n for n, p in ours.named_parameters() if p.grad is None] == []


def test_map_size_of_the_official_trunk():
    b3 = object.__new__(FilmEfficientNet)
    b3.__dict__["stride"] = 32
    assert [b3.map_size(s, s) for s in (300, 288, 224)] == [(10, 10), (9, 9), (7, 7)]


def test_prepare_normalises_and_resizes():
    ours = trunk()
    x = ours.prepare(torch.full((1, 4, 4, 3), 255, dtype=torch.uint8))
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(x[0, :, 0, 0], expected)
    assert ours.prepare(IMAGES, (32, 48)).shape == (2, 3, 32, 48)
    assert ours.prepare(IMAGES).is_contiguous(memory_format=torch.channels_last)


def test_group_norm_does_not_depend_on_the_batch():
    conditions = torch.zeros(2, 6)
    change = {}
    for norm in ("batch", "group"):
        ours = trunk(norm=norm).train()
        x = ours.prepare(IMAGES)
        together = ours(x, ours.modulation(conditions))[:1]
        alone = ours(x[:1], ours.modulation(conditions[:1]))
        change[norm] = (together - alone).abs().max()
    assert change["group"] < 1e-5 < 1e-2 < change["batch"]


def test_frozen_batch_norm_keeps_its_statistics():
    ours = trunk(norm="frozen_batch").train()
    before = {k: v.clone() for k, v in ours.state_dict().items() if "running" in k}
    ours(ours.prepare(IMAGES), ours.modulation(torch.zeros(2, 6)))
    assert before
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in before.items())


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(5)
    source = timm.create_model("test_efficientnet")
    save_file(source.state_dict(), tmp_path / "trunk.safetensors")
    ours = trunk(pretrained=str(tmp_path / "trunk.safetensors"))
    assert torch.equal(ours.stem[0].weight, source.conv_stem.weight)
    with pytest.raises(TrunkError, match="does not fit the trunk"):
        trunk(name="tinynet_e", pretrained=str(tmp_path / "trunk.safetensors"))
    with pytest.raises(TrunkError, match="no file"):
        trunk(pretrained=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "efficientnet_b33"}, "did you mean 'efficientnet_b3'"),
        ({"name": "resnet18"}, "ResNet; the trunk must be one of timm's EfficientNet family"),
        ({"stride": 64}, r"no stage of stride 64; there are: \[2, 4, 8, 16, 32\]"),
    ],
)
def test_wrong_trunks(changes, message):
    with pytest.raises(TrunkError, match=message):
        trunk(**changes)


def test_unknown_pretrained_tag():
    with pytest.raises(TrunkError, match="set pretrained: false"):
        create_trunk("test_efficientnet", norm="batch", pretrained="no_such_tag")

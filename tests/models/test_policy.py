"""Checkpoints: bit-equal round trips, and every way in which one can be bad. Fitting to data."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla.config import UserError
from vla.models import RT1, CheckpointError, Policy, RT1Config, checkpoint_files, load_policy
from vla.types import SpecError


@pytest.fixture
def saved(make, spec, tmp_path) -> tuple[RT1, Path]:
    policy = make(state_token=True, tokenizer={"type": "bins", "scheme": "quantile"})
    rng = np.random.default_rng(0)
    policy.fit(
        rng.normal(size=(200, 3)).astype(np.float32),
        rng.normal(3, 2, (200, 2)),
        ["do task 0", "do task 1"],
    )
    policy.card = {
        "data": {"episodes": 12},
        "results": {"success rate": 0.7512, "wilson95": [0.6, 0.8]},
    }
    policy.train()(spec.fake_batch(2, 4, 1))  # batch norm has statistics to keep
    policy.eval()
    policy.save_pretrained(tmp_path / "policy")
    return policy, tmp_path / "policy"


def test_round_trip_is_bit_equal(saved, spec):
    policy, folder = saved
    loaded = load_policy(folder)
    assert not loaded.training
    assert loaded.config == policy.config
    assert loaded.spec == policy.spec
    assert loaded.card == policy.card
    assert loaded.tokenizer.to_dict() == policy.tokenizer.to_dict()
    expected, found = policy.state_dict(), loaded.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    observation = spec.fake_observation(2)
    assert torch.equal(loaded.act(observation)[0], policy.act(observation)[0])
    assert RT1.from_pretrained(folder).config == policy.config
    assert isinstance(Policy.from_pretrained(str(folder)), RT1)


def test_loading_needs_no_text_encoder_and_nothing_is_pickled(saved, spec):
    _, folder = saved
    loaded = load_policy(folder)
    loaded.act(spec.fake_observation(2))
    assert loaded.language._loaded is None
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "checksums.json",
        "config.json",
        "language.json",
        "language.safetensors",
        "model.safetensors",
        "spec.json",
        "tokenizer.json",
    ]
    assert not any("encoder" in key for key in load_file(folder / "model.safetensors"))


def test_model_card(saved):
    _, folder = saved
    card = (folder / "README.md").read_text()
    for text in (
        "library_name: vla",
        "| dy | -2 | 2 |",
        "`front` 32x48",
        "| success rate | 0.7512 |",
        "- do task 1",
    ):
        assert text in card
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.pipeline_tag == "robotics"


def test_push_to_hub_uploads_the_folder(saved, monkeypatch):
    """Only the two network calls are replaced."""
    uploaded = {}

    def upload(self, *, folder_path, repo_id, **_):
        uploaded.update(
            {p.name: p.stat().st_size for p in Path(folder_path).iterdir()}, repo=repo_id
        )
        return "done"

    repo = type("Repo", (), {"repo_id": "me/rt1"})
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, **_: repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    policy, folder = saved
    assert policy.push_to_hub("me/rt1") == "done"
    assert uploaded.pop("repo") == "me/rt1"
    assert uploaded == {p.name: p.stat().st_size for p in folder.iterdir()}


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit_weights(path: Path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    edit_json(path, config={**json.loads(path.read_text())["config"], **changes})


BAD = {
    "no folder": (shutil.rmtree, "no such checkpoint folder"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "it lacks model.safetensors"),
    "no config and spec": (
        lambda d: [(d / n).unlink() for n in ("config.json", "spec.json")],
        "it lacks config.json, spec.json",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "it lacks tokenizer.json"),
    "no language": (lambda d: (d / "language.safetensors").unlink(), "language embeddings"),
    "truncated weights": (
        lambda d: truncate(d / "model.safetensors"),
        "not a readable safetensors file",
    ),
    "empty weights": (
        lambda d: (d / "model.safetensors").write_bytes(b""),
        "not a readable safetensors file",
    ),
    "a pickle": (
        lambda d: torch.save({"a": 1}, d / "model.safetensors"),
        "not a readable safetensors file",
    ),
    "foreign weights": (
        lambda d: save_file({"layer.weight": torch.zeros(2)}, d / "model.safetensors"),
        r"lacks \d+ tensors .* has unknown 1 tensors \(first 'layer.weight'\)",
    ),
    "missing key": (
        lambda d: edit_weights(d / "model.safetensors", lambda w: w.pop("head.bias")),
        r"lacks 1 tensors \(first 'head.bias'\)",
    ),
    "other shape": (
        lambda d: edit_weights(
            d / "model.safetensors", lambda w: w.update({"head.bias": torch.zeros(3)})
        ),
        r"has other shapes for 1 tensors \(first 'head.bias'\)",
    ),
    "other architecture": (
        lambda d: edit_config(d, width=48),
        "belongs to another model or configuration",
    ),
    "truncated config": (lambda d: truncate(d / "config.json"), "config.json: not valid JSON"),
    "some config": (
        lambda d: (d / "config.json").write_text('{"model_type": "gpt2"}'),
        "not a policy's config",
    ),
    "config of the future": (
        lambda d: edit_json(d / "config.json", version=99),
        "format version 99",
    ),
    "unknown policy": (lambda d: edit_json(d / "config.json", type="rt11"), "did you mean 'rt1'"),
    "unknown key": (
        lambda d: edit_config(d, wings=2),
        "another version of vla: wings: unknown key",
    ),
    "damaged spec": (
        lambda d: edit_json(d / "spec.json", control_hz=-1),
        "spec.json: control_hz must be positive",
    ),
    "spec of another robot": (
        lambda d: edit_json(d / "spec.json", action_names=["a", "b", "c"]),
        "the tokenizer was made for actions",
    ),
    "tokenizer of another policy": (
        lambda d: edit_config(d, tokenizer={"type": "bins", "num_bins": 64}),
        r"\(1, 3, 256\), the policy's config says \(1, 3, 64\)",
    ),
    "damaged tokenizer": (
        lambda d: truncate(d / "tokenizer.json"),
        "tokenizer.json: not a JSON file",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_checkpoints(saved, kind):
    _, folder = saved
    damage, message = BAD[kind]
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)


def test_another_class_and_no_such_repository(saved):
    class Other(RT1):
        pass

    _, folder = saved
    with pytest.raises(CheckpointError, match="holds a RT1, not a Other"):
        Other.from_pretrained(folder)
    with pytest.raises(
        CheckpointError,
        match=r"no such checkpoint folder, and no repository of the Hugging Face hub within reach",
    ):
        RT1.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_repository_of_the_hub(saved, spec, tmp_path, monkeypatch):
    """Only the download is replaced."""
    policy, folder = saved
    monkeypatch.chdir(tmp_path)
    asked = []

    def download(name, **options):
        asked.append((name, options))
        if name == "me/rt1":
            return str(folder)
        raise OSError("the hub is out of reach")

    monkeypatch.setattr(checkpoint_files, "snapshot_download", download)
    loaded = load_policy("me/rt1")
    assert loaded.source == "me/rt1"
    assert torch.equal(
        loaded.act(spec.fake_observation(2))[0], policy.act(spec.fake_observation(2))[0]
    )
    assert RT1.from_pretrained("me/rt1", revision="v2").source == "me/rt1"
    assert asked == [("me/rt1", {}), ("me/rt1", {"revision": "v2"})]
    message = r"runs/x: no such checkpoint folder, and no repository of the Hugging Face hub within reach: the hub is out"
    with pytest.raises(CheckpointError, match=message):
        load_policy("runs/x")
    asked.clear()
    for path in ("x", "./runs/x", "../runs/x", "/nowhere/x", "runs/x/policy", Path("runs/x")):
        with pytest.raises(CheckpointError, match=r"x.*: no such checkpoint folder(?!, and)"):
            load_policy(path)
    assert asked == []


def test_the_folder_that_was_meant_is_named(saved, tmp_path, monkeypatch):
    _, folder = saved
    shutil.copytree(folder, tmp_path / "runs" / "tabletop" / "policy")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"lacks config.json.*; did you mean runs/tabletop/policy\?"
    ):
        load_policy("runs/tabletop/")
    with pytest.raises(
        CheckpointError, match=r"no such checkpoint folder \(did you mean runs/tabletop/policy\?\)"
    ):
        load_policy("runs/tabeltop/policy")
    with pytest.raises(
        CheckpointError, match=r"no such checkpoint folder \(did you mean runs/tabletop/policy\?\)"
    ):
        load_policy("runs/tabletop/polcy")
    with pytest.raises(CheckpointError, match="is a file; name the folder"):
        load_policy("runs/tabletop/policy/config.json")


def test_where_a_policy_was_loaded_from_is_forgotten_once_it_trains(saved):
    policy, folder = saved
    assert policy.source is None
    loaded = load_policy(folder)
    assert loaded.eval().source == str(folder)
    assert loaded.train().eval().source is None


def test_a_device_that_is_not_there(saved, monkeypatch):
    _, folder = saved
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"device: this machine has no 'cuda'; it has: cpu"):
        load_policy(folder, device="cuda")
    with pytest.raises(UserError, match="device: torch knows no 'gpu'; this machine has: cpu"):
        load_policy(folder, device="gpu")


def test_a_policy_that_fetches_nothing_needs_no_such_option(saved, tmp_path):
    class PlainConfig(RT1Config):
        def build(self, spec):
            return RT1(self, spec)

    policy, folder = saved
    config = PlainConfig.model_validate(policy.config.model_dump())
    assert list(config.build_for(policy.spec, folder).state_dict()) == list(policy.state_dict())


def test_keys_that_not_every_policy_has():
    config = RT1Config(cameras=["front"])
    assert config.option("cameras") == ["front"]
    assert config.option("lora") is None
    assert config.option("build") is None


def test_fit(make, spec):
    policy = make(state_token=True)
    states = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    policy.fit(torch.rand(2, 3), states, ["do task 0"])
    assert policy.state_mean.tolist() == [2.0, 5.0]
    assert policy.state_std.tolist() == [1.0, 1.0]  # the second never varies
    assert policy.normalised_state(states).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    with pytest.raises(SpecError, match=r"states: expected \(N, 2\), got \(2, 3\)"):
        policy.fit(torch.rand(2, 3), torch.rand(2, 3), [])
    with pytest.raises(SpecError, match="NaN or infinity in y"):
        policy.fit(torch.rand(2, 3), torch.tensor([[0.0, float("nan")]]), [])


def test_real_sentences(spec, make):
    """The bundled text encoder, once."""
    policy = make().eval()
    batch = spec.fake_batch(1, 1, 1)
    batch.instruction[0] = "open the drawer"
    assert policy(batch).actions.logits.shape == (1, 1, 3, 256)
    assert policy.language.cached()["open the drawer"].norm().item() == pytest.approx(1, abs=1e-4)

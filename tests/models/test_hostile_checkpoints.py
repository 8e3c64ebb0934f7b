"""Checkpoints that lie, are damaged, or were made to harm: one sentence each, at once, and no code runs."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vla.common.foreign.checksums import CHECKSUMS_FILE, EditedFileWarning
from vla.common.foreign.pretrained import OWN_CODE
from vla.config import UserError
from vla.models import CheckpointError, Policy, load_policy
from vla.models.policies.mlp import MLPConfig
from vla.types import Spec
from vla.types.finite import ActionError

SPEC = Spec({}, ("x", "y"), ("a", "b"), (-1.0,) * 2, (1.0,) * 2, 10)


def mlp(**changes: Any) -> Policy:
    torch.manual_seed(0)
    policy = MLPConfig(**{"hidden": 8, "depth": 1, "language": "minilm", **changes}).build(SPEC)
    vectors = torch.nn.functional.normalize(torch.randn(2, 384), dim=1)
    policy.language.preload({"go left": vectors[0], "go right": vectors[1]})
    rng = np.random.default_rng(0)
    policy.fit(
        rng.uniform(-1, 1, (50, 2)).astype(np.float32), rng.normal(size=(50, 2)), ["go left"]
    )
    return policy.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    mlp().save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def without_sums(folder: Path) -> None:
    """As former versions wrote it: what follows is found by what the files hold."""
    (folder / CHECKSUMS_FILE).unlink()


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def edit_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def own_code(folder: Path) -> Path:
    """A folder whose config asks for a module that leaves a mark when it is imported."""
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(folder / 'mark')!r}, 'w')\nclass C: pass\n")
    named = {"AutoConfig": "evil.C", "AutoModel": "evil.C", "AutoTokenizer": ["evil.C", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "auto_map": named}))
    return folder


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "language.safetensors", "spec.json", "tokenizer.json", "language.json"],
)
def test_one_changed_bit_is_found(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    # a digit of a text, or the lowest bit of a number
    place = next(
        i for i in range(len(content) - 5, 0, -1) if name.endswith("s") or content[i] == 0x31
    )
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        load_policy(folder)


def test_an_edited_config_is_remarked_on_and_read(folder: Path) -> None:
    edit(folder / "config.json", lambda v: v.update(card={"note": 1}))
    with pytest.warns(EditedFileWarning, match=r"config.json: is not as it was saved"):
        assert load_policy(folder).card == {"note": 1}
    without_sums(folder)
    load_policy(folder)


def edit_one(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        edit_tensors(folder / "model.safetensors", lambda t: t.update({name: change(t[name])}))

    return damage


def edit_vectors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "language.safetensors"
        edit_tensors(file, lambda t: t.update(embeddings=change(t["embeddings"])))

    return damage


LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "NaN weights": (edit_one("trunk.0.weight", lambda w: w * torch.nan), "holds NaN or infinity"),
    "infinite state": (edit_one("state_std", lambda w: w * torch.inf), "holds NaN or infinity"),
    "int8 weights": (edit_one("trunk.0.weight", lambda w: w.to(torch.int8)), "holds torch.int8"),
    "float64 weights": (edit_one("trunk.0.weight", torch.Tensor.double), "holds torch.float64"),
    "int8 vectors": (edit_vectors(lambda v: v.to(torch.int8)), "language.safetensors: holds"),
    "huge vectors": (edit_vectors(lambda v: v * 1e30), "has length 1e"),
    "NaN vectors": (edit_vectors(lambda v: v * torch.nan), "has length nan, expected about 1"),
    "texts that are lists": (
        lambda d: edit(d / "language.json", lambda v: v.update(texts=[["go left"], ["x"]])),
        "language.json: expected texts",
    ),
    "infinite chunk": (
        lambda d: edit(d / "tokenizer.json", lambda v: v.update(chunk=float("inf"))),
        "damaged",
    ),
    "chunk of 1e12": (
        lambda d: edit(d / "tokenizer.json", lambda v: v.update(chunk=10**12)),
        "chunk must be at most",
    ),
    "a huge camera": (
        lambda d: edit(d / "spec.json", lambda v: v.update(cameras={"c": [10**6, 10**6]})),
        "larger than any camera",
    ),
    "a spec of lists": (lambda d: (d / "spec.json").write_text("[]"), "expected a mapping"),
    "a spec in latin-1": (lambda d: (d / "spec.json").write_bytes(b'{"\xff": 1}'), "not UTF-8"),
}
for _name in ("config.json", "spec.json", "tokenizer.json", "language.json"):
    LIES[f"nested {_name}"] = (
        lambda d, name=_name: (d / name).write_text("[" * 100_000 + "]" * 100_000),
        f"{_name}.*nested too deep",
    )


@pytest.mark.parametrize("kind", LIES)
def test_lies_without_checksums(folder: Path, kind: str) -> None:
    without_sums(folder)
    damage, message = LIES[kind]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


def test_halves_are_read(folder: Path) -> None:
    """Numbers of a narrower type are numbers of the wider one."""
    without_sums(folder)
    edit_one("trunk.0.weight", torch.Tensor.bfloat16)(folder)
    assert load_policy(folder).state_dict()["trunk.0.weight"].dtype == torch.float32


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 10**6}, "depth"),
        ({"hidden": 2**20}, "hidden"),
        ({"chunk": 10**9}, "chunk"),
        ({"depth": 1000, "hidden": 4096}, "far larger than its weights"),
        ({"chunk": 10_000, "tokenizer": {"type": "bins", "num_bins": 65536}}, "far larger|config"),
    ],
)
def test_large_configs_are_refused_before_they_are_built(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    edit(folder / "config.json", lambda v: v["config"].update(changes))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        load_policy(folder)
    assert time.monotonic() - start < 5


def test_policies_within_policies_end(folder: Path) -> None:
    def nest(values: Any) -> None:
        for _ in range(400):
            values["config"] = {"type": "guided", "policy": values["config"]}
        values["type"] = "guided"

    edit(folder / "config.json", nest)
    with pytest.raises(CheckpointError, match="deep"):
        load_policy(folder)


# --- code of its own, and the network -------------------------------------------------------------


@pytest.fixture(autouse=True)
def _nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def question(*_: Any) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", question)


def test_an_encoder_with_code_of_its_own(folder: Path, tmp_path: Path) -> None:
    evil = own_code(tmp_path / "evil")
    edit(folder / "config.json", lambda v: v["config"].update(language=str(evil)))
    with pytest.raises(CheckpointError, match=OWN_CODE):
        load_policy(folder)
    assert not (evil / "mark").exists()


def test_a_backbone_with_code_of_its_own(make: Any, tmp_path: Path) -> None:
    evil = own_code(tmp_path / "evil")
    make(awake=False).eval().save_pretrained(tmp_path / "policy")
    backbone = {"pretrained": str(evil)}
    edit(tmp_path / "policy" / "config.json", lambda v: v["config"].update(backbone=backbone))
    with pytest.raises(CheckpointError, match=OWN_CODE):
        load_policy(tmp_path / "policy")
    assert not (evil / "mark").exists()


def test_kernels_are_code_too(make: Any, tmp_path: Path) -> None:
    make(awake=False).eval().save_pretrained(tmp_path / "policy")
    backbone = {"architecture": "gpt2", "options": {"attn_implementation": "someone/kernel"}}
    edit(tmp_path / "policy" / "config.json", lambda v: v["config"].update(backbone=backbone))
    with pytest.raises(CheckpointError, match=OWN_CODE):
        load_policy(tmp_path / "policy")


def test_what_the_folder_holds_needs_no_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    edit(folder / "config.json", lambda v: v["config"].update(language="someone/some-encoder"))
    policy = load_policy(folder)
    observation = SPEC.fake_observation(2)
    observation.instruction[:] = ["go left", "go right"]
    assert policy.act(observation)[0].shape == (2, 1, 2)


def test_what_must_be_fetched_is_announced(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    edit(folder / "config.json", lambda v: v["config"].update(language="someone/some-encoder"))
    policy = load_policy(folder)
    with pytest.raises(UserError, match="cannot load text encoder 'someone/some-encoder'"):
        policy.language.embed(["something new"])
    assert "fetching someone/some-encoder (its config) from https://" in capsys.readouterr().err


def test_pipes_are_not_waited_for(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.suffix != ".md")
    assert {"language.safetensors", "model.safetensors", "config.json"} <= set(names)
    for name in names:
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(CheckpointError):
            load_policy(folder)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)


# --- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["regression", "categorical"])
def test_act_never_returns_what_no_robot_can_do(head: str) -> None:
    policy = mlp(head={"type": head})
    observation = SPEC.fake_observation(3)
    observation.instruction[:] = ["go left"] * 3
    assert torch.isfinite(policy.act(observation)[0]).all()
    # a state that never moved in training, so that an ordinary one is far beyond all numbers
    policy.state_std.fill_(1e-38)
    policy.state_mean.fill_(3e38)
    with pytest.raises(ActionError, match=r"act: NaN or infinity came out for robot 0 of 3 \(its"):
        policy.act(observation)

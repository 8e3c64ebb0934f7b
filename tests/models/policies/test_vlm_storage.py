"""VLM checkpoints: adapters alone, whole policies, merged ones, and adapters that meet another base."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import vlm_toys
from safetensors.torch import load_file
from vlm_toys import SPEC

from vla.common.pretrained import OWN_CODE
from vla.models import CheckpointError, load_policy
from vla.models.critics import ActionCritic, CriticConfig
from vla.models.policies.guided import BestOfN, CriticGuidedConfig, critic_guided
from vla.models.policies.vlm import VLM, VLMConfig
from vla.tokenizers.language import LanguageEncoder, load_embeddings, save_embeddings


def build(base: Path, **changes) -> VLM:
    torch.manual_seed(0)
    values = {"base": str(base), "tokenizer": {"type": "bins", "num_bins": 16}, "lora": {"rank": 4}}
    policy = VLMConfig.model_validate({**values, **changes}).build(SPEC)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    batch = SPEC.fake_batch(3, 1, 1)
    policy.fit(batch.actions.flatten(0, 2), batch.state.flatten(0, 1), list(batch.instruction))
    return policy.eval()


def same(a: VLM, b: VLM, **tolerance) -> None:
    observation = SPEC.fake_observation(3)
    with torch.no_grad():
        found, expected = b.step(observation, None)[0], a.step(observation, None)[0]
    torch.testing.assert_close(found.features, expected.features, **tolerance)
    torch.testing.assert_close(found.actions.mode(), expected.actions.mode(), **tolerance)


EXACT = {"atol": 0, "rtol": 0}


@pytest.mark.parametrize("family", vlm_toys.FAMILIES)
def test_an_adapter_is_stored_alone_and_comes_back_to_the_bit(family, tmp_path):
    base = vlm_toys.FAMILIES[family](tmp_path / "base")
    policy = build(base)
    policy.save_pretrained(tmp_path / "policy")
    stored = load_file(tmp_path / "policy" / "adapter.safetensors")
    assert not (tmp_path / "policy" / "model.safetensors").exists()
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert set(stored) == trained | {"state_mean", "state_std", "vocabulary.ids"}
    loaded = load_policy(tmp_path / "policy")
    same(policy, loaded, **EXACT)
    assert loaded.language.embed(["anything new"]).shape == (1, 0)
    assert (
        "The policy reads the instruction itself."
        in (tmp_path / "policy" / "README.md").read_text()
    )
    assert "- do task 1" in (tmp_path / "policy" / "README.md").read_text()
    assert not [
        p for p in (tmp_path / "policy").rglob("*") if p.suffix in (".bin", ".pt", ".pkl", ".pth")
    ]


@pytest.mark.parametrize("save", ["adapter", "full"])
def test_a_policy_guided_by_a_critic_is_stored_with_all_that_it_needs(save, tmp_path):
    base = vlm_toys.smolvlm(tmp_path / "base")
    policy = build(base, save=save)
    config = CriticGuidedConfig(
        policy=policy.config, critic=CriticConfig(hidden=8), selection=BestOfN(samples=2)
    )
    guided = critic_guided(
        policy, config, ActionCritic(config.critic, policy.feature_dim, SPEC, policy.chunk)
    )
    guided.save_pretrained(tmp_path / "guided")
    if save == "full":
        shutil.rmtree(base)
    loaded = load_policy(tmp_path / "guided")
    same(policy, loaded.unwrapped, **EXACT)
    batch = SPEC.fake_batch(2, 1, 1)
    with torch.no_grad():
        assert torch.equal(
            loaded(batch).actions.q(batch.actions), guided(batch).actions.q(batch.actions)
        )


@pytest.mark.parametrize("family", vlm_toys.FAMILIES)
@pytest.mark.parametrize("kind", ["full", "no lora", "merged"])
def test_whole_policies_need_no_base(family, kind, tmp_path):
    base = vlm_toys.FAMILIES[family](tmp_path / "base")
    policy = build(
        base, **{"full": {"save": "full"}, "no lora": {"lora": None}, "merged": {}}[kind]
    )
    stored = policy.merged() if kind == "merged" else policy
    stored.save_pretrained(tmp_path / "policy")
    shutil.rmtree(base)
    loaded = load_policy(tmp_path / "policy")
    same(policy, loaded, **({"atol": 1e-4, "rtol": 1e-4} if kind == "merged" else EXACT))
    if kind == "merged":
        assert not any(
            "lora" in name for name in load_file(tmp_path / "policy" / "model.safetensors")
        )
        assert loaded.config.lora is None


@torch.no_grad()
def test_a_merged_policy_takes_the_tokenizer_to_its_head(tmp_path):
    base = vlm_toys.smolvlm(tmp_path / "base")
    bins = {"type": "bins", "num_bins": 8, "scheme": "quantile"}
    policy = build(base, tokenizer=bins, decoding="parallel", head={"type": "categorical"})
    same(policy, policy.merged(), atol=1e-4, rtol=1e-4)


def test_a_tied_base_is_stored_once(tmp_path):
    policy = build(vlm_toys.smolvlm(tmp_path / "base", tied=True), save="full")
    policy.save_pretrained(tmp_path / "policy")
    stored = load_file(tmp_path / "policy" / "model.safetensors")
    assert len([name for name in stored if "embed_tokens.weight" in name or "lm_head" in name]) == 1
    loaded = load_policy(tmp_path / "policy")
    same(policy, loaded, **EXACT)
    assert loaded.trunk.output_matrix is None


def test_an_adapter_for_another_base_is_refused_by_name(tmp_path):
    base = vlm_toys.smolvlm(tmp_path / "first")
    build(base).save_pretrained(tmp_path / "policy")
    config = tmp_path / "policy" / "config.json"

    def name(other: Path) -> None:
        values = json.loads(config.read_text())
        values["config"]["base"] = str(other)
        config.write_text(json.dumps(values))

    name(shutil.copytree(base, tmp_path / "moved"))
    load_policy(tmp_path / "policy")  # the same weights elsewhere

    name(vlm_toys.smolvlm(tmp_path / "second", seed=1))
    with pytest.raises(
        CheckpointError,
        match=r"trained on .*first \(SmolVLM.*\); policy.base .*second is another model",
    ):
        load_policy(tmp_path / "policy")

    name(vlm_toys.paligemma(tmp_path / "third"))
    with pytest.raises(
        CheckpointError, match=r"trained on .*first \(SmolVLM.*another model \(PaliGemma"
    ):
        load_policy(tmp_path / "policy")

    name(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"policy.base: cannot load .*gone"):
        load_policy(tmp_path / "policy")


def test_policies_may_do_without_sentence_vectors(tmp_path):
    encoder = LanguageEncoder(None)
    assert encoder.dim == 0
    assert encoder.embed(["open it", "shut it"]).shape == (2, 0)
    save_embeddings(tmp_path, encoder.cached())
    again = LanguageEncoder(None)
    again.preload(load_embeddings(tmp_path))
    assert list(again.cached()) == ["open it", "shut it"]


def test_damaged_adapters_are_named(tmp_path):
    build(vlm_toys.smolvlm(tmp_path / "base")).save_pretrained(tmp_path / "policy")
    (tmp_path / "policy" / "base.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"base.json: cannot be read"):
        load_policy(tmp_path / "policy")
    (tmp_path / "policy" / "adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"it lacks adapter.safetensors"):
        load_policy(tmp_path / "policy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole policy on disk, of which tests take copies."""
    root = tmp_path_factory.mktemp("whole")
    build(vlm_toys.smolvlm(root / "base"), save="full").save_pretrained(root / "policy")
    return root / "policy"


@pytest.mark.parametrize(
    "file",
    ["base/config.json", "processor/tokenizer_config.json", "processor/processor_config.json"],
)
def test_code_of_its_own_is_never_run(whole, file, tmp_path, monkeypatch):
    policy = shutil.copytree(whole, tmp_path / "policy")
    config = policy / file
    (config.parent / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    values = json.loads(config.read_text())
    names = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModelForImageTextToText")
    config.write_text(json.dumps({**values, "auto_map": dict.fromkeys(names, "evil.C")}))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(CheckpointError, match=OWN_CODE):
        load_policy(policy)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "prompt", ["{instruction:>4000000000}", "{instruction!r}", "{instruction.real}", "no place"]
)
def test_prompts_are_plain_placeholders(whole, prompt, tmp_path):
    policy = shutil.copytree(whole, tmp_path / "policy")
    values = json.loads((policy / "config.json").read_text())
    values["config"]["prompt"] = prompt
    (policy / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"prompt: .*expected"):
        load_policy(policy)


def test_a_template_that_cannot_be_rendered_is_refused_at_load(whole, tmp_path):
    policy = shutil.copytree(whole, tmp_path / "policy")
    (policy / "processor" / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}")
    with pytest.raises(CheckpointError, match=r"policy.base: its chat template .*SecurityError"):
        load_policy(policy)


def test_a_base_larger_than_its_weights_is_not_built(whole, tmp_path):
    policy = shutil.copytree(whole, tmp_path / "policy")
    values = json.loads((policy / "base" / "config.json").read_text())
    values["text_config"].update(num_hidden_layers=100_000, hidden_size=4096)
    (policy / "base" / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="far larger than its weights"):
        load_policy(policy)


def test_a_changed_file_of_the_processor_is_named(whole, tmp_path):
    policy = shutil.copytree(whole, tmp_path / "policy")
    file = policy / "processor" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(CheckpointError, match=r"processor/tokenizer.json: is damaged"):
        load_policy(policy)

"""VLM policies over three real architectures: what they see, what they may say, and that all paths say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

with install_import_hook(
    [
        "vla.models.policies.vlm",
        "vla.models.policies.vlm_parts.action_decoding",
        "vla.models.layers.action_vocabulary",
        "vla.models.layers.vision_language",
    ],
    "beartype.beartype",
):
    from vla.models.layers.action_vocabulary import VocabularyError, reserve_ids
    from vla.models.layers.vision_language import VLMError
    from vla.models.policies.vlm import VLM, VLMConfig

import vlm_toys
from vlm_toys import SPEC

from vla.config import ConfigError, validate
from vla.tokenizers.base import TokenGrammar
from vla.tokenizers.bins import BinsConfig, BinsTokenizer
from vla.types import Batch, Observation, SpecError, TokenDistribution

DECODING = ("autoregressive", "parallel")


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {name: make(root / name) for name, make in vlm_toys.FAMILIES.items()}


def build(base: Path, *, seed: int = 0, **changes) -> VLM:
    torch.manual_seed(seed)
    values = {"chunk": 2, "tokenizer": {"type": "bins", "num_bins": 16}, "lora": {"rank": 4}}
    policy = VLMConfig.model_validate({"base": str(base), **values, **changes}).build(SPEC)
    with torch.no_grad():  # adapters start as no change at all, which could hide a mistake
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    batch = windows()
    policy.fit(batch.actions.flatten(0, 2), batch.state.flatten(0, 1), list(batch.instruction))
    return policy


def windows(B: int = 3, T: int = 2, K: int = 2) -> Batch:
    batch = SPEC.fake_batch(B, T, K)
    batch.instruction[0] = (
        "pick up the red block and place it in the bowl"  # longer than the others
    )
    return batch


@pytest.fixture(
    scope="session", params=[(f, d) for f in vlm_toys.FAMILIES for d in DECODING], ids="-".join
)
def policy(request, hub) -> VLM:
    family, decoding = request.param
    return build(hub[family], decoding=decoding).eval()


@torch.no_grad()
def test_control_says_what_the_forward_pass_says(policy):
    batch = windows()
    whole = policy(batch)
    for t in range(2):
        output, memory = policy.step(batch.observation(t), None)
        torch.testing.assert_close(
            output.features[:, 0], whole.features[:, t], atol=1e-4, rtol=1e-4
        )
        for name in ("loss", "log_prob", "token_accuracy"):
            alone = getattr(output.actions, name)(batch.actions[:, [t]], batch.action_mask[:, [t]])
            together = getattr(whole.actions, name)(batch.actions, batch.action_mask)[:, [t]]
            torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
        assert torch.equal(output.actions.mode()[:, 0], whole.actions.mode()[:, t])
        assert memory.batch_size == 3
        assert memory.select([0]).stack([memory, memory]).batch_size == 6


@torch.no_grad()
def test_a_robot_is_answered_alike_alone_and_among_others(policy):
    observation = windows().observation(0)
    together = policy.step(observation, None)[0]
    for row in range(3):
        alone = Observation(
            {c: i[[row]] for c, i in observation.images.items()},
            observation.state[[row]],
            [observation.instruction[row]],
        )
        output = policy.step(alone, None)[0]
        torch.testing.assert_close(output.features, together.features[[row]], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_every_input_matters_and_no_action_reaches_the_features(policy):
    import dataclasses

    batch = windows()
    features = policy(batch).features
    other = torch.randint(0, 256, batch.images["wrist"].shape, dtype=torch.uint8)
    changes = {
        "image": {"images": {**batch.images, "wrist": other}},
        "state": {"state": batch.state + 1},
        "instruction": {"instruction": [*batch.instruction[:2], "go left"]},
    }
    for name, change in changes.items():
        moved = policy(dataclasses.replace(batch, **change)).features
        assert not torch.allclose(moved[2], features[2], atol=1e-3), name
    moved = policy(dataclasses.replace(batch, actions=batch.actions.flip(1))).features
    assert torch.equal(moved, features)


@torch.no_grad()
def test_a_robot_prompt_never_yields_a_text_id(hub):
    """However much the language model would rather say a word: the whole vocabulary's favourite is one, always."""
    for family in vlm_toys.FAMILIES:
        policy = build(hub[family], vocabulary="unused", unused_ids=never_said(hub[family])).eval()
        batch, rows = windows(), len(policy.trunk.embedding)
        output = policy(batch)
        words = torch.nn.Linear(policy.trunk.width, rows)
        words.bias[:] = 1e4
        assert not torch.isin(
            policy.vocabulary.text_logits(output.features, words).argmax(-1), policy.vocabulary.ids
        ).any()
        for temperature in (0.0, 1.0, 100.0):
            ids = output.actions.sample_tokens(
                torch.Generator().manual_seed(0), temperature=temperature
            )
            assert ids.shape == (3, 2, 6)
            assert set(policy.vocabulary.ids[ids].flatten().tolist()) <= set(
                policy.config.unused_ids
            )
            assert policy.tokenizer.decode(ids).isfinite().all()


def never_said(base: Path) -> list[int]:
    """Sixteen ordinary ids that no prompt of these tests uses: bytes above ASCII."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(base)
    said = {i for text in [*vlm_toys.TEXTS, "do task 0123"] for i in words(text)["input_ids"]}
    return [i for i in range(100, 250) if i not in said | set(words.all_special_ids)][-16:]


@torch.no_grad()
def test_places_with_few_ids_get_no_others(hub):
    """A binary gripper: two ids may stand there, also where the model would rather say another."""
    for decoding in DECODING:
        policy = build(hub["smolvlm"], decoding=decoding).eval()
        policy.tokenizer = FewIds(BinsConfig(num_bins=16), SPEC, 2)
        allowed = policy.tokenizer.allowed_ids
        batch = windows()
        distribution = policy(batch).actions
        assert int(allowed[2].sum()) == 2
        for _ in range(20):
            ids = policy.tokenizer.encode(distribution.sample(temperature=50.0))
            assert allowed[2][ids[..., 2]].all()
            assert allowed[5][ids[..., 5]].all()
        assert distribution.loss(policy.tokenizer.decode(ids)).isfinite().all()


class FewIds(BinsTokenizer):
    """The gripper is open or shut."""

    @property
    def allowed_ids(self):
        allowed = torch.ones(6, 16, dtype=torch.bool)
        allowed[[2, 5], 1:-1] = False
        return allowed


class Sorted(TokenGrammar):
    """A grammar: ids never fall, and after the greatest only padding follows."""

    pad_id = 0

    def start(self, batch, device):
        return torch.zeros(batch, dtype=torch.long, device=device)

    def allowed(self, state, place):
        ids = torch.arange(16, device=state.device)
        ended = self.finished(state)[:, None]
        return torch.where(ended, ids == self.pad_id, ids >= state[:, None])

    def advance(self, state, ids, place):
        return torch.where(self.finished(state), state, ids)

    def finished(self, state):
        return state == 15


class SortedBins(BinsTokenizer):
    tokens_per_action = None

    @property
    def grammar(self):
        return Sorted()


@torch.no_grad()
def test_grammars_are_kept_and_padding_does_not_count(hub):
    policy = build(hub["smolvlm"]).eval()
    policy.tokenizer = SortedBins(BinsConfig(num_bins=16), SPEC, 2)
    grammar, distribution = policy.tokenizer.grammar, policy(windows()).actions
    for seed in range(20):
        ids = distribution.sample_tokens(
            torch.Generator().manual_seed(seed), temperature=3.0
        ).flatten(0, 1)
        state = grammar.start(6, ids.device)
        for place, column in enumerate(ids.unbind(1)):
            assert grammar.allowed(state, place).gather(1, column[:, None]).all()
            state = grammar.advance(state, column, place)
    ids_ND = torch.tensor([[1, 3, 15, 0, 0, 0]]).expand(6, -1)
    assert distribution._weights(ids_ND, None).tolist() == [[1, 1, 1, 0, 0, 0]] * 6
    values = distribution._log_probs(ids_ND)
    assert (values[:, 3:] == 0).all()
    assert (values[:, :3] < 0).all()


@torch.no_grad()
def test_what_tokens_were_worth_adds_up_to_the_chunk(policy):
    batch = windows()
    actions = policy(batch).actions
    assert isinstance(actions, TokenDistribution)
    assert actions.has_exact_tokens
    mask = batch.action_mask.clone()
    mask[0, :, 1] = False  # not executed
    ids = actions.tokens(batch.actions)
    log_probs = actions.token_logits(batch.actions).log_softmax(-1)
    worth = log_probs.gather(-1, ids[..., None])[..., 0]
    counted = actions.token_mask(batch.actions, mask)
    torch.testing.assert_close(
        worth.where(counted, 0.0).sum(-1), actions.log_prob(batch.actions, mask)
    )
    assert counted.sum() == 3 * mask.sum()


@torch.no_grad()
def test_probabilities_of_all_sequences_sum_to_one(hub):
    """One action of three dimensions with 4 bins: 4 ** 3 sequences."""
    policy = build(hub["paligemma"], chunk=1, tokenizer={"type": "bins", "num_bins": 4}).eval()
    batch = SPEC.fake_batch(1, 1, 1)
    distribution = policy(batch).actions
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    actions = policy.tokenizer.decode(every)
    total = sum(distribution.log_prob(chunk[None, None]).exp() for chunk in actions)
    assert total.item() == pytest.approx(1, abs=1e-4)
    best = max(actions, key=lambda chunk: float(distribution.log_prob(chunk[None, None])))
    drawn = [distribution.sample(torch.Generator().manual_seed(i)) for i in range(30)]
    assert len({tuple(x.flatten().tolist()) for x in drawn}) > 3
    assert (
        float(distribution.log_prob(distribution.mode()))
        <= float(distribution.log_prob(best[None, None])) + 1e-5
    )


@torch.no_grad()
def test_slots_see_each_other_and_nobody_else_sees_them(policy):
    if policy.config.decoding != "parallel":
        return
    batch = windows()
    prompt = policy._prompt(
        batch.instruction, {c: batch.images[c][:, 0] for c in policy.cameras}, batch.state[:, 0]
    )

    def hidden(slots):
        whole = prompt.append(slots.expand(3, -1, -1), filler=policy.trunk.filler, answer=True)
        return policy.trunk.hidden(whole, slots=len(slots))

    before = hidden(policy.slots)
    changed = policy.slots.clone()
    changed[-1] += 1
    after = hidden(changed)
    real = prompt.fields["attention_mask"].bool()
    L = prompt.length
    torch.testing.assert_close(after[:, :L][real], before[:, :L][real], atol=1e-5, rtol=1e-5)
    assert (
        (after[:, L:] - before[:, L:]).abs().amax(-1) > 1e-4
    ).all()  # the first slot too: it sees the last


def test_gradients_reach_what_is_trained_and_nothing_else(hub):
    for decoding in DECODING:
        policy = build(hub["qwen"], decoding=decoding, gradient_checkpointing=True).train()
        batch = windows()
        policy(batch).actions.loss(batch.actions, batch.action_mask).mean().backward()
        trained = {name for name, p in policy.named_parameters() if p.requires_grad}
        assert {name for name, p in policy.named_parameters() if p.grad is not None} == trained
        kinds = {"lora_A", "lora_B", "vocabulary", "state_projection"} | (
            {"slots"} if decoding == "parallel" else set()
        )
        assert all(any(kind in name for kind in kinds) for name in trained)
        for kind in kinds:
            assert any(kind in name for name in trained)


@pytest.mark.parametrize("decoding", DECODING)
def test_a_base_without_adapters_has_no_parameter_without_a_gradient(hub, decoding):
    policy = build(hub["smolvlm"], lora=None, decoding=decoding).train()
    assert policy.trunk.output_matrix is not None
    batch = windows()
    policy(batch).actions.loss(batch.actions, batch.action_mask).mean().backward()
    assert not [name for name, p in policy.named_parameters() if p.requires_grad and p.grad is None]


def test_gradient_checkpointing_changes_no_gradient(hub):
    found = []
    for checkpointing in (False, True):
        policy = build(hub["smolvlm"], gradient_checkpointing=checkpointing).train()
        batch = windows()
        policy(batch).actions.loss(batch.actions).mean().backward()
        found.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_a_base_in_bfloat16_with_adapters_in_float32(hub):
    policy = build(hub["paligemma"], dtype="bfloat16")
    assert policy.trunk.embedding.dtype == torch.bfloat16
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    batch = windows()
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            loss = policy(batch).actions.loss(batch.actions).mean()
            actions = policy.eval().act(batch.observation())[0]
        assert loss.isfinite()
        assert actions.shape == (3, 2, 3)


@torch.no_grad()
def test_a_head_reads_the_slots(hub):
    policy = build(hub["smolvlm"], decoding="parallel", head={"type": "categorical"}).eval()
    batch = windows()
    output = policy(batch)
    assert output.actions.mode().shape == (3, 2, 2, 3)
    assert policy.act(batch.observation())[0].shape == (3, 2, 3)
    assert not hasattr(policy, "vocabulary")


# --- reserved ids -----------------------------------------------------------------------------------


def test_which_ids_are_reserved(hub):
    words, rows = build(hub["smolvlm"]).trunk.tokenizer, 330
    special = set(words.all_special_ids)
    assert reserve_ids("extend", 3, words, rows) == [330, 331, 332]
    last = reserve_ids("last", 16, words, len(words))
    assert last == sorted(last)
    assert not special & set(last)
    assert last[-1] == len(words) - 1
    assert reserve_ids("unused", 2, words, rows, [200, 150, 170]) == [200, 150]


@pytest.mark.parametrize("vocabulary", ["last", "unused"])
def test_rows_of_reserved_ids_start_as_the_base_has_them(hub, vocabulary):
    for family in vlm_toys.FAMILIES:
        listed = list(range(100, 120)) if vocabulary == "unused" else []
        policy = VLMConfig(
            base=str(hub[family]),
            vocabulary=vocabulary,
            unused_ids=listed,
            tokenizer={"type": "bins", "num_bins": 16},
        ).build(SPEC)
        ids, trunk = policy.vocabulary.ids, policy.trunk
        assert torch.equal(policy.vocabulary.input.weight, trunk.embedding[ids])
        with torch.no_grad():
            embedded = trunk.model.get_input_embeddings()(ids)
            torch.testing.assert_close(policy.vocabulary.embed(torch.arange(16)[None])[0], embedded)
            hidden = torch.randn(2, 3, trunk.width)
            logits = trunk.model.get_output_embeddings()(hidden)
            torch.testing.assert_close(policy.vocabulary.logits(hidden), logits[..., ids])
            torch.testing.assert_close(
                policy.vocabulary.text_logits(hidden, trunk.model.get_output_embeddings()), logits
            )


def test_too_few_or_wrong_ids_are_named(hub):
    base = str(hub["smolvlm"])
    bins = {"type": "bins", "num_bins": 512}
    with pytest.raises(
        VocabularyError,
        match=r"last finds \d+ free tokens, the action tokenizer needs 512; use .* extend",
    ):
        VLMConfig(base=base, vocabulary="last", tokenizer=bins).build(SPEC)
    with pytest.raises(
        VocabularyError, match="unused finds 2 free tokens, the action tokenizer needs 512"
    ):
        VLMConfig(base=base, vocabulary="unused", unused_ids=[100, 101], tokenizer=bins).build(SPEC)
    with pytest.raises(VocabularyError, match="unused_ids: 0 is a special token"):
        VLMConfig(base=base, vocabulary="unused", unused_ids=[0], tokenizer=bins).build(SPEC)
    policy = VLMConfig(
        base=base, vocabulary="last", tokenizer={"type": "bins", "num_bins": 250}
    ).build(SPEC)
    with pytest.raises(VocabularyError, match="is reserved for actions; use vocabulary: extend"):
        policy.fit(torch.rand(4, 3), torch.rand(4, 2), ["pick up the red block"])


# --- bad configs ------------------------------------------------------------------------------------

BAD = {
    "no field": ({"prompt": "open it"}, "prompt: expected the one field {instruction}, found none"),
    "another field": ({"prompt": "{instruction} {state}"}, "found .*'instruction', 'state'"),
    "a brace": ({"prompt": "{instruction"}, "prompt: no template"),
    "head token by token": (
        {"head": {"type": "categorical"}},
        "head: reads the slots of decoding: parallel",
    ),
    "bfloat16 that is trained": (
        {"lora": None, "dtype": "bfloat16"},
        "dtype: bfloat16 is for a frozen base",
    ),
    "list not wanted": ({"unused_ids": [3]}, "unused_ids: belongs to vocabulary: unused"),
    "list missing": ({"vocabulary": "unused"}, "unused_ids: belongs to vocabulary: unused"),
    "history": ({"history": 2}, "history: input should be less than or equal to 1"),
    "sentence vectors": ({"standardise_language": True}, "standardise_language: a VLM reads"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_configs_are_named(kind):
    values, message = BAD[kind]
    with pytest.raises(ConfigError, match=message):
        validate(VLMConfig, {"base": "some/model", **values})


def test_what_cannot_be_built_is_named(hub, tmp_path):
    base = str(hub["paligemma"])
    with pytest.raises(
        VLMError,
        match=r"cannot load .*nothing.*expected a folder or a model of the Hugging Face hub",
    ):
        VLMConfig(base=str(tmp_path / "nothing" / "here" / "at_all")).build(SPEC)
    with pytest.raises(
        VLMError, match="chat: is on, but the base's processor has no chat template"
    ):
        VLMConfig(base=base, chat=True).build(SPEC)
    with pytest.raises(SpecError, match="cameras: no 'side' in the spec; it has: front, wrist"):
        VLMConfig(base=base, cameras=["side"]).build(SPEC)
    with pytest.raises(ConfigError, match=r"lora.targets: .*wings"):
        VLMConfig(base=base, lora={"targets": ["wings"]}).build(SPEC)


def test_parallel_refuses_a_tokenizer_with_a_grammar(hub):
    policy = build(hub["smolvlm"], decoding="parallel")
    policy.tokenizer = SortedBins(BinsConfig(num_bins=16), SPEC, 2)
    with pytest.raises(
        VLMError, match="parallel draws all tokens at once, but which ids of SortedBins"
    ):
        policy._check_decoding()

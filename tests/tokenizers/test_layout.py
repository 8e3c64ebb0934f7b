"""Layouts: masks worked out by hand, padding, reachability, and every contradiction."""

import pytest
import torch

from vla.tokenizers.layout import AttentionRule, Layout, LayoutError, Segment, describe

RT1 = Layout(
    (Segment("image", 2), Segment("action", 2, content=False)),
    (AttentionRule("image", "image", "causal"), AttentionRule("action", "image", "up_to")),
)
NAMES = ("return", "state", "action")
DECISION_TRANSFORMER = Layout(
    tuple(Segment(name, 1) for name in NAMES),
    tuple(AttentionRule(query, key, "causal") for query in NAMES for key in NAMES),
)


def mask(rows: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows.split()])


def test_rt1_mask_by_hand():
    expected = mask("10000000 11000000 11000000 11000000 11001000 11001100 11001100 11001100")
    assert torch.equal(RT1.compile(2).mask, expected)


def test_decision_transformer_is_a_plain_causal_sequence():
    compiled = DECISION_TRANSFORMER.compile(4)
    assert torch.equal(compiled.mask, torch.ones(12, 12).tril().bool())
    assert compiled.step_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert compiled.slot_ids.tolist() == [0, 1, 2] * 4


def test_prefix_and_readout():
    layout = Layout(
        (
            Segment("language", 2, per_step=False),
            Segment("image", 1),
            Segment("readout", 1, content=False),
        ),
        (
            AttentionRule("language", "language", "all"),
            AttentionRule("image", "language", "all"),
            AttentionRule("image", "image", "up_to"),
            AttentionRule("readout", "image", "strictly_before"),
            AttentionRule("readout", "readout", "same_step"),
        ),
    )
    expected = mask("110000 110000 111000 000100 111010 001001")
    assert torch.equal(layout.compile(2).mask, expected)
    assert layout.length(2) == 6
    assert layout.prefix_tokens == 2
    assert layout.slots("readout") == range(1, 2)
    assert layout.slots("language") == range(2)
    assert layout.independent_slots("readout")


def test_padded_steps_reach_nobody_and_leave_no_empty_row():
    valid = torch.tensor([[False, True], [True, True]])
    padded = RT1.compile(2).with_step_mask(valid)
    assert torch.equal(padded[1], RT1.compile(2).mask)
    assert not padded[0][4:, :4].any()
    assert torch.equal(padded[0][4:, 4:], RT1.compile(1).mask)
    assert padded.any(-1).all()


def test_reachable_goes_through_layers():
    layout = Layout(
        (Segment("a", 1), Segment("b", 1)),
        (
            AttentionRule("a", "a", "same_step"),
            AttentionRule("a", "b", "strictly_before"),
            AttentionRule("b", "a", "same_step"),
        ),
    )
    first_a, last_a = 0, 4
    assert not layout.compile(3).mask[last_a, first_a]
    assert layout.reachable(3)[last_a, first_a]
    assert not layout.reachable(3)[first_a, last_a]


def test_sees_own_step():
    assert not DECISION_TRANSFORMER.sees_own_step("state", "action")
    assert DECISION_TRANSFORMER.sees_own_step("action", "state")
    leaking = (*DECISION_TRANSFORMER.rules[:-1], AttentionRule("action", "action", "same_step"))
    rules = tuple(r for r in leaking if (r.query, r.key) != ("return", "action"))
    leaky = Layout(
        DECISION_TRANSFORMER.segments, (*rules, AttentionRule("return", "action", "same_step"))
    )
    assert leaky.sees_own_step("state", "action")  # through the return token


def test_independent_slots():
    assert RT1.independent_slots("action")
    assert not RT1.independent_slots("image")
    seen = Layout(RT1.segments, (*RT1.rules, AttentionRule("image", "action", "strictly_before")))
    assert not seen.independent_slots("action")


def test_describe_shows_segments_and_rules():
    text = describe(RT1)
    assert "image x2 | action x2 (empty)  (4 tokens)" in text
    assert text.splitlines()[3].split() == ["action", "<=t", "."]
    assert text.splitlines()[5:] == [
        "image 0   #...|....",
        "image 0   ##..|....",
        "action 0  ##..|....",
        "action 0  ##..|....",
        "image 1   ##..|#...",
        "image 1   ##..|##..",
        "action 1  ##..|##..",
        "action 1  ##..|##..",
    ]


A, B = Segment("a", 1), Segment("b", 1)
SELF = AttentionRule("a", "a", "up_to")


@pytest.mark.parametrize(
    ("segments", "rules", "message"),
    [
        ((A, A), (SELF,), "unique"),
        ((), (), "at least one segment"),
        ((Segment("a", 0),), (SELF,), "at least 1 token"),
        ((A, Segment("p", 1, per_step=False)), (SELF,), "prefixes come first"),
        ((A,), (SELF, AttentionRule("a", "c", "up_to")), "no segment 'c'"),
        ((A,), (AttentionRule("a", "a", "sideways"),), "no relation 'sideways'"),
        ((A,), (SELF, AttentionRule("a", "a", "none")), "two rules"),
        ((A,), (AttentionRule("a", "a", "all"),), "later steps"),
        (
            (Segment("p", 1, per_step=False), A),
            (SELF, AttentionRule("a", "p", "up_to")),
            "a prefix has no step",
        ),
        (
            (Segment("p", 1, per_step=False), A),
            (SELF, AttentionRule("p", "a", "causal")),
            "prefix 'p' may not attend",
        ),
        ((A, B), (SELF,), "segment 'b': its first token may attend to nothing"),
        (
            (A,),
            (AttentionRule("a", "a", "strictly_before"),),
            "attend to nothing in the first step",
        ),
    ],
)
def test_contradictions(segments, rules, message):
    with pytest.raises(LayoutError, match=message):
        Layout(segments, rules)


def test_unknown_names_and_no_steps():
    with pytest.raises(LayoutError, match="no segment 'language'"):
        RT1.slots("language")
    with pytest.raises(LayoutError, match="at least 1"):
        RT1.compile(0)

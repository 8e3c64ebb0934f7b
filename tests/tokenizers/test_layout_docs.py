"""docs/layouts.md shows each layout as `describe` draws it, and every policy has the mask that stands there.

`python -m tests.models.test_layout_docs` writes the drawings again.
"""

import re
from pathlib import Path

import pytest
import torch

from vla.models.policies.decision_transformer import (
    DecisionTransformerConfig,
    decision_transformer_layout,
)
from vla.models.policies.rt1 import rt1_layout
from vla.tokenizers.layout import Layout, describe

DOCS = Path(__file__).parents[2] / "docs" / "layouts.md"


def dt(*, image_tokens: int = 0, action_tokens: int = 1, readouts: int = 0, **changes) -> Layout:
    config = DecisionTransformerConfig(**changes)
    return decision_transformer_layout(
        config, image_tokens=image_tokens, action_tokens=action_tokens, readouts=readouts
    )


LAYOUTS = {
    "rt1": rt1_layout(8, 4),
    "rt1-state": rt1_layout(8, 4, state_token=True),
    "decision-transformer": dt(),
    "decision-transformer-seeing": dt(
        image_tokens=8, action_tokens=4, readouts=4, language="minilm"
    ),
    "decision-transformer-window": dt(window=2),
}


def drawn(text: str) -> dict[str, str]:
    return dict(re.findall(r"<!-- layout: (\S+) -->\n```text\n(.*?)\n```", text, flags=re.DOTALL))


@pytest.mark.parametrize("name", LAYOUTS)
def test_docs_show_the_layouts(name):
    assert drawn(DOCS.read_text())[name] == describe(
        LAYOUTS[name], 3 if name.endswith("window") else 2
    )


def test_all_drawings_are_of_layouts():
    assert set(drawn(DOCS.read_text())) == set(LAYOUTS)


def test_state_only_decision_transformer_is_plainly_causal():
    mask = LAYOUTS["decision-transformer"].compile(4).mask
    assert torch.equal(mask, torch.ones(12, 12).tril().bool())
    assert LAYOUTS["decision-transformer"].causal
    assert not any(
        layout.causal for name, layout in LAYOUTS.items() if name != "decision-transformer"
    )


def test_multi_modal_decision_transformer_by_rule():
    layout = LAYOUTS["decision-transformer-seeing"]
    compiled = layout.compile(3)
    names = [layout.segments[i].name for i in compiled.segment_ids.tolist()]
    steps = compiled.step_ids.tolist()
    for q in range(compiled.length):
        for k in range(compiled.length):
            if names[k] == "language":
                expected = True
            elif names[q] == "language":
                expected = False
            elif names[k] == "readout":
                expected = names[q] == "readout" and steps[q] == steps[k]
            else:
                expected = k <= q
            assert bool(compiled.mask[q, k]) == expected, (names[q], q, names[k], k)
    assert not layout.sees_own_step("readout", "action")


def test_window_by_rule():
    compiled = LAYOUTS["decision-transformer-window"].compile(5)
    step = compiled.step_ids
    causal = torch.ones(15, 15).tril().bool()
    assert torch.equal(compiled.mask, causal & (step[:, None] - step[None, :] < 2))


if __name__ == "__main__":
    text = DOCS.read_text()
    for name, layout in LAYOUTS.items():
        block = f"<!-- layout: {name} -->\n```text\n{describe(layout, 3 if name.endswith('window') else 2)}\n```"
        text = re.sub(
            rf"<!-- layout: {name} -->\n```text\n.*?\n```",
            lambda _, b=block: b,
            text,
            flags=re.DOTALL,
        )
    DOCS.write_text(text)

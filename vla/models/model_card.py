"""The README.md of a checkpoint: what the policy is for, what it learned from, its results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vla.types import Spec

SHOWN_INSTRUCTIONS = 50
# the hub reads what stands between the dashes: it files the repository under these tags
_HEAD = """---
library_name: vla
pipeline_tag: robotics
tags:
- robotics
- vla
- {type}
---

# {type} policy

A robot policy of the package `vla`: images and an instruction go in, {chunk} action{s} per step \
come{verb} out.

```python
import torch
from vla.models import load_policy

policy = load_policy("this folder")
actions, memory = policy.act(observation)          # start of an episode
actions, memory = policy.act(observation, memory)  # every step after
```
"""


def model_card(
    config: Mapping[str, Any],
    spec: Spec,
    card: Mapping[str, Any],
    *,
    language: str | None,
    instructions: Sequence[str],
    parameters: int,
) -> str:
    """Markdown with the spec, the configuration, and a section for each key of `card`.

    Args:
        config: the policy's config as plain JSON types.
        language: name of the frozen text encoder; None if the policy reads the instruction itself.
        instructions: texts that the policy was trained on.
        parameters: number of parameters.
    """
    plural = config["chunk"] > 1
    parts = [
        _HEAD.format(
            type=config["type"],
            chunk=config["chunk"],
            s="s" if plural else "",
            verb="" if plural else "s",
        ),
        "## Robot",
        _spec_table(spec, config["history"]),
    ]
    for title, value in card.items():
        # an empty list has nothing to say, such as no warnings
        if value != []:
            parts.append(f"## {title.capitalize()}\n\n{_section(value)}")
    if instructions:
        parts.append(f"## Instructions\n\n{_instructions(instructions, language)}")
    shown = json.dumps(config, indent=2)
    parts.append(
        f"## Configuration\n\n{parameters / 1e6:.2f} million parameters.\n\n```json\n{shown}\n```"
    )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _instructions(instructions: Sequence[str], language: str | None) -> str:
    encoder = "The policy reads the instruction itself."
    if language:
        encoder = f"Language encoder: `{language}` (frozen)."
    # a dataset may have thousands of paraphrases; the card is to be read by people
    lines = [f"- {text}" for text in instructions[:SHOWN_INSTRUCTIONS]]
    if len(instructions) > SHOWN_INSTRUCTIONS:
        lines.append(f"- ... and {len(instructions) - SHOWN_INSTRUCTIONS} more")
    return "\n".join([encoder, "", *lines])


def _spec_table(spec: Spec, history: int) -> str:
    cameras = [f"`{name}` {height}x{width}" for name, (height, width) in spec.cameras.items()]
    lines = [
        f"Cameras (height x width): {', '.join(cameras) or 'none'}. "
        f"State: {', '.join(spec.state_names) or 'none'}. "
        f"Control rate: {spec.control_hz:g} Hz. Context: {history} steps.",
        "",
        "| action | low | high |",
        "|---|---|---|",
    ]
    # a row for each dimension: who builds a robot for the policy looks up its limits here
    for name, low, high in zip(spec.action_names, spec.action_low, spec.action_high, strict=True):
        values = f"{low:g} | {high:g}"
        if name in spec.binary_actions:
            values += ", nothing between"
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def _section(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(f"- {item}" for item in value)
    if not isinstance(value, dict):
        return str(value)
    rows = [f"| {key} | {_cell(item)} |" for key, item in value.items()]
    # Markdown has no table without a header row, so it is empty
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        # nested tables do not exist either
        return json.dumps(value)
    return str(value)


__all__ = ["model_card"]

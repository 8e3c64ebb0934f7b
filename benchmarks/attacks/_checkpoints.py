"""A small checkpoint to damage, and what its policy answers."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("mlp", "decision_transformer")
ODD: tuple[Any, ...] = (
    *(0, -1, 1, 2, 7, 2**20, 2**31, 10**6, 10**9, 10**12, 10**400, 0.5, -0.5, 1e30, 1e308, 5e-324),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        True,
        False,
        None,
        "",
        "x",
        "1",
        "\x1b[2J",
        "\ud800",
    ),
    *("a" * 10_000, "../../etc/passwd", "{instruction:>4000000000}", [], [1], [[]], {}, {"a": 1}),
    *([None] * 3, ["\0"], {"type": "guided"}, [10**9] * 2, list(range(1000))),
)


@functools.cache
def clean(kind: str) -> Path:
    """A folder with a policy as it was saved."""
    import numpy as np
    import torch

    from vla.models.policies.decision_transformer import DecisionTransformerConfig
    from vla.models.policies.mlp import MLPConfig
    from vla.types import Spec

    spec = Spec({}, ("x", "y"), ("a", "b"), (-1.0,) * 2, (1.0,) * 2, 10)
    torch.manual_seed(0)
    if kind == "mlp":
        config: Any = MLPConfig(hidden=16, language="minilm")
    else:
        config = DecisionTransformerConfig(cameras=[], width=16, depth=1, language="minilm")
    policy = config.build(spec)
    vectors = torch.nn.functional.normalize(torch.randn(2, 384), dim=1)
    policy.language.preload({"go left": vectors[0], "go right": vectors[1]})
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    policy.fit(actions, rng.normal(size=(60, 2)), ["go left"], lengths=[30, 30])
    folder = Path(tempfile.mkdtemp(prefix="attack-clean-")) / kind
    policy.eval().save_pretrained(folder)
    return folder


def fresh(kind: str, folder: Path) -> Path:
    """A copy of the checkpoint in the folder."""
    return Path(shutil.copytree(clean(kind), folder / "policy"))


def answer(folder: Path) -> Any:
    """What the policy in the folder does at two observations, as plain numbers."""
    from vla.models import load_policy

    policy = load_policy(folder)
    observation = policy.spec.fake_observation(2)
    observation.instruction[:] = ["go left", "go right"]
    return policy.act(observation)[0].tolist()


def warm() -> None:
    """Reads every kind of checkpoint, and a text, so that all libraries are loaded."""
    from vla.models import load_policy

    for kind in KINDS:
        clean_answer(kind)
    load_policy(clean("mlp")).language.embed(["something new"])


@functools.cache
def clean_answer(kind: str) -> Any:
    return answer(clean(kind))


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file; values may be anything that JSON writers of others emit."""
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))

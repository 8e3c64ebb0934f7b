"""What `precision: auto` means, and that a resumed run keeps it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vla.models.layers.transformer import Attention
from vla.models.policies.mlp import MLPConfig
from vla.models.policies.rt1 import RT1Config
from vla.models.policy import Policy
from vla.training.hardware import precision
from vla.training.hardware.precision import resolve_precision
from vla.types import Spec

CPU = torch.device("cpu")


def policy_of(*, pictures: bool) -> Policy:
    """A small one of each kind, whole."""
    cameras = {"front": (32, 32)} if pictures else {}
    spec = Spec(cameras, ("x",), ("vx",), (-1.0,), (1.0,), control_hz=10)
    config = MLPConfig(hidden=8)
    if pictures:
        config = RT1Config(trunk="test_efficientnet", history=1, width=32, depth=1, heads=2)
    return config.build(spec)


@pytest.mark.parametrize(
    ("pictures", "bf16", "expected"),
    [
        (True, True, "bf16"),
        (True, False, "no"),
        (False, True, "no"),  # too small to gain
    ],
)
def test_auto_follows_the_machine_and_the_policy(pictures, bf16, expected, monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: bf16)
    policy = policy_of(pictures=pictures)
    assert resolve_precision("auto", policy, CPU) == expected
    for asked in ("no", "bf16"):
        assert resolve_precision(asked, policy, CPU) == asked


def test_auto_keeps_what_was_recorded(monkeypatch):
    policy = policy_of(pictures=True)
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    assert resolve_precision("auto", policy, CPU, recorded="no") == "no"
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: False)
    assert resolve_precision("auto", policy, CPU, recorded="bf16") == "bf16"


def test_attention_on_a_cpu_computes_in_float32_under_autocast():
    torch.manual_seed(0)
    attention = Attention(width=32, heads=4, key_dim=8, dropout=0.0)
    x = torch.randn(2, 9, 32)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    seen = []
    real = F.scaled_dot_product_attention

    def watched(q, k, v, **options):
        seen.append(q.dtype)
        return real(q, k, v, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = attention(x, mask)
    assert seen == [torch.float32]
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), attention(x, mask), rtol=0.05, atol=0.02)

"""A small SmolVLM with LoRA learns one episode by heart."""

from __future__ import annotations

import time

import pytest
import torch
import vlm_toys
from vlm_toys import SPEC

from vla.models.policies.vlm import VLM, VLMConfig
from vla.types import Batch


def overfit(policy: VLM, batch: Batch, steps: int, lr: float = 3e-3) -> float:
    """-> token accuracy after `steps` steps of AdamW on the one episode."""
    policy.train()
    optimizer = torch.optim.AdamW(
        [p for p in policy.parameters() if p.requires_grad], lr=lr, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        loss = policy(batch).actions.loss(batch.actions, batch.action_mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    policy.eval()
    with torch.no_grad():
        return float(policy(batch).actions.token_accuracy(batch.actions, batch.action_mask).mean())


@pytest.mark.parametrize("decoding", ["autoregressive", "parallel"])
def test_lora_on_a_small_smolvlm_overfits_one_episode(decoding, tmp_path):
    torch.manual_seed(0)
    values = {
        "chunk": 2,
        "decoding": decoding,
        "cameras": ["front"],
        "tokenizer": {"type": "bins", "num_bins": 32},
    }
    policy = VLMConfig.model_validate(
        {"base": str(vlm_toys.smolvlm(tmp_path / "base")), **values}
    ).build(SPEC)
    # an episode of 6 steps of noise: it can only be learned by heart
    batch = SPEC.fake_batch(1, 6, 2)
    policy.fit(batch.actions.flatten(0, 2), batch.state.flatten(0, 1), list(batch.instruction))
    frozen = {name: p.clone() for name, p in policy.named_parameters() if not p.requires_grad}
    start = time.perf_counter()
    accuracy = overfit(policy, batch, steps=60)
    print(
        f"{decoding}: token accuracy {accuracy:.4f} after 60 steps, {time.perf_counter() - start:.1f} s"
    )
    assert accuracy >= 0.99
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad or torch.equal(parameter, frozen[name])
    # what it says on its own, token by token, are the demonstrated actions within a bin
    actions = torch.cat([policy.act(batch.observation(t))[0] for t in range(6)])
    error = (actions - batch.actions[0]).abs().mean((0, 1))
    assert (error < policy.tokenizer.error_bound * 1.5).all()

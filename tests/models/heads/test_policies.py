"""A policy with each head: learns, acts, and is the same after it was stored."""

import pytest
import torch

from vla.config import registered
from vla.models.policy import load_policy
from vla.training.objectives.bc import BCConfig

TOKENIZERS = {
    "autoregressive": {"type": "fast", "vocab_size": 128, "scale": 4.0},
    "clusters": {"type": "kmeans", "centres": 6, "over": "chunk"},
}
TOKEN_HEADS = ("autoregressive", "categorical", "clusters", "ilql", "q_values")


@pytest.mark.parametrize("name", list(registered("heads")))
def test_policy_with_head(make, spec, name, tmp_path):
    policy = make(
        awake=False,
        chunk=3,
        history=2,
        head={"type": name},
        tokenizer=TOKENIZERS.get(name, {"type": "bins"}),
    )
    data = spec.fake_batch(30, 1, seed=5)
    policy.fit(data.actions[:, 0, 0], data.state[:, 0], data.instruction, lengths=[10, 20])
    batch = spec.fake_batch(2, 2, 3)

    objective = BCConfig().build(policy)
    loss, metrics = objective.loss(policy.train(), batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in policy.head.parameters()
    )
    assert ("token_accuracy" in metrics) == (name in TOKEN_HEADS)

    policy.eval()
    policy.save_pretrained(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    observation = spec.fake_observation(2)
    for temperature in (0.0, 1.0):
        actions, others = (
            p.act(observation, generator=torch.Generator().manual_seed(0), temperature=temperature)[
                0
            ]
            for p in (policy, again)
        )
        assert actions.shape == (2, 3, spec.action_dim)
        assert torch.equal(actions, others)

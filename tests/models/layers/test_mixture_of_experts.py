"""Mixture of experts: sparse equals dense, the balance loss, and policies that have one."""

import copy
import dataclasses

import pytest
import torch
from small_policies import TINY, fitted

from vla.config import ConfigError, validate
from vla.models import RT1Config
from vla.models.layers.mixture_of_experts import ExpertsConfig, MixtureOfExperts, Routing
from vla.models.layers.transformer import Block
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.q_transformer import QTransformerConfig
from vla.models.policy_contract import check_policy
from vla.training.objectives.bc import BCConfig
from vla.types import Batch

FOUR = {"num_local_experts": 4, "num_experts_per_tok": 2}
SEEING = {**TINY, "cameras": ["front"], "experts": FOUR}
DECIDING = {
    "width": 16,
    "heads": 2,
    "depth": 2,
    "history": 3,
    "dropout": 0.0,
    "return_scale": 1.0,
    "target_return": 1.0,
    "cameras": [],
    "experts": FOUR,
}


def layer(kind: str = "gelu", **changes: int) -> MixtureOfExperts:
    torch.manual_seed(0)
    return ExpertsConfig(**{**FOUR, **changes}).build(8, kind, 0.0)


@pytest.mark.parametrize("kind", ["linear", "swiglu", "relu"])
@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_sparse_equals_dense(kind: str, per_token: int):
    mixture = layer(kind, num_experts_per_tok=per_token)
    x = torch.randn(3, 5, 8, requires_grad=True)
    weights, decided = mixture._route(x.reshape(-1, 8))
    torch.testing.assert_close(weights.sum(-1), torch.ones(15))
    dense = mixture._dense(x.reshape(-1, 8), weights, decided.chosen).reshape(x.shape)
    (of_dense,) = torch.autograd.grad(dense.square().sum(), x)
    sparse = mixture(x)
    (of_sparse,) = torch.autograd.grad(sparse.square().sum(), x)
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_sparse, of_dense, rtol=1e-4, atol=1e-5)


def test_only_chosen_experts_compute():
    mixture = layer()
    seen: list[int] = []
    for expert in mixture.experts:
        expert.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    mixture(torch.randn(6, 10, 8))
    assert sum(seen) == 2 * 60


def test_equal_experts_are_one_layer():
    mixture = layer()
    for expert in mixture.experts[1:]:
        expert.load_state_dict(mixture.experts[0].state_dict())
    x = torch.randn(4, 8)
    torch.testing.assert_close(mixture(x), mixture.experts[0](x))


def test_every_expert_has_a_gradient_though_no_token_comes():
    mixture = layer()
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[:2] = 1.0
    mixture(torch.rand(3, 8)).sum().backward()
    gradients = [expert.out.weight.grad for expert in mixture.experts]
    assert all(gradient is not None for gradient in gradients)
    assert gradients[0].any()
    assert not gradients[3].any()


def test_the_balance_loss_by_hand():
    # 3 tokens, 2 experts: both choices fall on expert 0 twice; shares (2/3, 1/3)
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    routing = Routing(probabilities, torch.tensor([[0], [0], [1]]))
    expected = 2 * (2 / 3 * 0.6 + 1 / 3 * 0.4)
    assert routing.balance_loss().item() == pytest.approx(expected)
    # padding does not count
    counted = torch.tensor([True, True, False])
    assert routing.balance_loss(counted).item() == pytest.approx(2 * 0.75)
    even = Routing(torch.full((4, 2, 4), 0.25), torch.arange(4).repeat(4).reshape(4, 2, 2))
    assert even.balance_loss().item() == pytest.approx(1.0)


def test_the_balance_loss_spreads_the_tokens():
    mixture = layer(num_experts_per_tok=1)
    x = torch.rand(64, 8)
    with torch.no_grad():
        mixture.router.weight[0] += 0.5  # all to the first one

    def busiest() -> float:
        routing: list[Routing] = []
        mixture(x, routing)
        return torch.bincount(routing[0].chosen.flatten(), minlength=4).max().item() / 64

    assert busiest() == 1.0
    optimiser = torch.optim.Adam([mixture.router.weight], lr=0.05)
    for _ in range(60):
        routing: list[Routing] = []
        mixture(x, routing)
        optimiser.zero_grad()
        routing[0].balance_loss().backward()
        optimiser.step()
    assert busiest() < 0.5


def test_a_block_without_experts_is_as_it_was():
    torch.manual_seed(3)
    names = list(Block(8, 2, 4, feed_forward="gelu").state_dict())
    assert names[-4:] == [
        f"feed_forward.{layer}.{part}" for layer in ("hidden", "out") for part in ("weight", "bias")
    ]


def state_spec(spec):
    return dataclasses.replace(spec, cameras={})


@pytest.mark.parametrize(
    "name", ["rt1", "q_transformer", "decision_transformer", "decision_transformer window"]
)
def test_control_says_what_the_forward_pass_says(name: str, spec, tmp_path):
    torch.manual_seed(0)
    if name == "rt1":
        policy = RT1Config(**SEEING, state_token=True).build(spec)
    elif name == "q_transformer":
        policy = QTransformerConfig(**SEEING).build(spec)
    else:
        window = {"window": 2} if name.endswith("window") else {}
        policy = DecisionTransformerConfig(**DECIDING, **window).build(state_spec(spec))
        assert policy.keeps_keys == bool(window)
    check_policy(fitted(policy))


def batch_of(spec, T: int = 3) -> Batch:
    batch = spec.fake_batch(4, T)
    return dataclasses.replace(batch, instruction=["push the cube", "lift the cube"] * 2)


def test_the_loss_reaches_training_and_its_metrics(spec):
    torch.manual_seed(0)
    policy = fitted(RT1Config(**SEEING).build(spec)).train()
    batch = batch_of(spec)
    loss, metrics = BCConfig().build(policy).loss(policy, batch)
    # at least the coefficient: the balance loss of a layer is 1 where experts are used alike
    assert 0.009 < metrics["router_loss"].item() < 0.04
    loss.backward()
    routers = [p for name, p in policy.named_parameters() if "router" in name]
    assert routers
    assert all(router.grad.abs().sum() > 0 for router in routers)
    silent = copy.deepcopy(policy)
    silent.config = policy.config.model_copy(
        update={"experts": ExpertsConfig(**FOUR, router_aux_loss_coef=0.0)}
    )
    torch.manual_seed(0)
    without, metrics = BCConfig().build(silent).loss(silent, batch)
    assert metrics["router_loss"].item() == 0
    assert without.item() != loss.item()


def test_tokens_of_padded_steps_do_not_count(spec):
    torch.manual_seed(0)
    policy = fitted(RT1Config(**SEEING).build(spec))
    batch = batch_of(spec)
    mask = batch.mask.clone()
    mask[:, 0] = False
    padded = dataclasses.replace(batch, mask=mask)
    moved = {name: image.clone() for name, image in batch.images.items()}
    for image in moved.values():
        image[:, 0] = 255 - image[:, 0]
    other = dataclasses.replace(padded, images=moved)
    losses = [policy(one).losses["router_loss"][0, -1] for one in (padded, other, batch)]
    torch.testing.assert_close(losses[0], losses[1])
    assert abs(losses[0] - losses[2]) > 1e-7


def test_impossible_mixtures_are_refused():
    with pytest.raises(ConfigError, match="num_experts_per_tok: 5 of 4 experts"):
        validate(ExpertsConfig, {"num_local_experts": 4, "num_experts_per_tok": 5})
    with pytest.raises(ConfigError, match=r"experts: the native transformer has them"):
        validate(RT1Config, {"experts": {}, "backbone": {}})

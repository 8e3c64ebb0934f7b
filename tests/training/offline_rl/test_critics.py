"""Value networks: the batched ensemble against separate networks, broadcasting, precision, target
copies, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vla.models.critics import ActionCritic, CriticConfig, EnsembleMLP, StateCritic
from vla.training.offline_rl.target_network import TargetCopy
from vla.training.offline_rl.values.expectile import ExpectileConfig
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("a", "b"), (-1.0, 0.0), (1.0, 4.0), control_hz=10.0)


def separate(net: EnsembleMLP, member: int) -> nn.Sequential:
    """One member as a network of torch's own layers."""
    first = torch.cat([weight[member] for weight in net.first])
    layers: list[nn.Module] = []
    for i, weight in enumerate([first, *(weight[member] for weight in net.weights)]):
        linear = nn.Linear(*weight.shape)
        linear.weight.data, linear.bias.data = weight.T, net.biases[i].view(net.members, -1)[member]
        layers.append(linear)
        if i == len(net.weights):
            break
        if len(net.scales):
            norm = nn.LayerNorm(weight.shape[1])
            norm.weight.data = net.scales[i].view(net.members, -1)[member]
            norm.bias.data = net.shifts[i].view(net.members, -1)[member]
            layers.append(norm)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_ensemble_is_separate_networks_side_by_side(depth: int, layer_norm: bool) -> None:
    torch.manual_seed(0)
    net = EnsembleMLP(
        (5, 3), CriticConfig(hidden=16, depth=depth, layer_norm=layer_norm), members=3
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    states, actions = torch.randn(4, 2, 5), torch.randn(4, 2, 3)
    together = net(states, actions)
    assert together.shape == (3, 4, 2)
    both = torch.cat([states, actions], -1)
    for member in range(3):
        torch.testing.assert_close(together[member], separate(net, member)(both)[..., 0])
    # and so are their gradients
    (ours,) = torch.autograd.grad(together[1].sum(), net.first[1])
    other = separate(net, 1)
    other(both).sum().backward()
    torch.testing.assert_close(ours[1], other[0].weight.grad.T[5:])
    assert not ours[0].any()


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize(("features", "depth"), [(5, 2), (100, 1)])
def test_the_first_members_alone_are_as_among_all(
    features: int, depth: int, layer_norm: bool
) -> None:
    torch.manual_seed(0)
    config = CriticConfig(hidden=16, depth=depth, layer_norm=layer_norm, ensemble=3)
    critic = ActionCritic(config, features, SPEC, 1)
    for parameter in critic.parameters():
        nn.init.normal_(parameter, std=0.5)
    inputs = torch.randn(4, 2, features), torch.rand(4, 2, 1, 2, requires_grad=True)
    everyone = critic(*inputs)
    for members in (1, 2, 3):
        some = torch.func.functional_call(critic, critic.constants(members), inputs)
        torch.testing.assert_close(some, everyone[:members])
    some.sum().backward()
    assert inputs[1].grad is not None
    assert all(parameter.grad is None for parameter in critic.parameters())


def test_members_start_alike_in_size_and_apart_in_value() -> None:
    torch.manual_seed(0)
    net, plain = EnsembleMLP((40, 24), CriticConfig(hidden=64), members=2), nn.Linear(64, 64)
    assert not torch.equal(net.weights[0][0], net.weights[0][1])
    for weight in (net.first[0], net.first[1], net.weights[0]):
        assert weight.std().item() == pytest.approx(plain.weight.std().item(), rel=0.1)


def test_values_start_as_near_to_0_as_asked() -> None:
    sizes = []
    for scale in (0.01, 0.5, 1.0):
        torch.manual_seed(0)
        net = EnsembleMLP((8,), CriticConfig(hidden=64, output_scale=scale), members=2)
        sizes.append(net(torch.randn(50, 8)).std().item())
    assert [size / sizes[2] for size in sizes] == pytest.approx([0.01, 0.5, 1.0])


@pytest.mark.parametrize("chunk", [1, 3])
def test_many_actions_at_once_are_as_one_by_one(chunk: int) -> None:
    torch.manual_seed(0)
    critic = ActionCritic(CriticConfig(hidden=16), 5, SPEC, chunk)
    features, actions = torch.randn(4, 2, 5), torch.rand(7, 3, 4, 2, chunk, 2)
    together = critic(features, actions)
    assert together.shape == (2, 7, 3, 4, 2)
    assert critic(features, actions[0, 0]).shape == (2, 4, 2)
    for i in range(7):
        torch.testing.assert_close(together[:, i, 1], critic(features, actions[i, 1]))


def test_actions_enter_in_units_of_their_range() -> None:
    critic = ActionCritic(CriticConfig(hidden=8), 2, SPEC, 1)
    low, high = torch.tensor([[[[-1.0, 0.0]]]]), torch.tensor([[[[1.0, 4.0]]]])
    features = torch.zeros(1, 1, 2)
    for actions, unit in ((low, -1.0), (high, 1.0)):
        expected = critic.net(features, torch.full((1, 1, 2), unit))
        torch.testing.assert_close(critic(features, actions), expected)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_state_and_its_multiple_have_different_values(layer_norm: bool) -> None:
    torch.manual_seed(0)
    config = CriticConfig(hidden=16, layer_norm=layer_norm)
    states = torch.tensor([[[0.1, 0.2], [1.0, 2.0], [1.1, 2.1]]])
    values = StateCritic(config, 2)(states)[0]
    q = ActionCritic(config, 2, SPEC, 1)(states, torch.zeros(1, 3, 1, 2))[0, 0]
    for found in (values, q):
        assert (found[0] - found[1]).abs() > 1e-5  # values start near 0
        assert (found[1] - found[2]).abs() > 1e-6


def test_values_are_float32_whatever_the_policy_runs_in() -> None:
    torch.manual_seed(0)
    q, v = (
        ActionCritic(CriticConfig(hidden=16), 5, SPEC, 1),
        StateCritic(CriticConfig(hidden=16), 5),
    )
    features, actions = torch.randn(4, 2, 5), torch.rand(4, 2, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside_q, inside_v = q(features, actions), v(features)
        low = q(features.bfloat16(), actions.bfloat16())
    assert inside_q.dtype == inside_v.dtype == low.dtype == torch.float32
    assert torch.equal(inside_q, q(features, actions))
    assert torch.equal(inside_v, v(features))


def test_target_copies_follow() -> None:
    torch.manual_seed(0)
    learner = ExpectileConfig(critic=CriticConfig(hidden=8), target_rate=0.25).build(3, SPEC, 1)
    start = [p.clone() for p in learner.action_critic.parameters()]
    pairs = list(zip(start, learner.target_critic.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    with torch.no_grad():
        for p in learner.action_critic.parameters():
            p += 1.0
    learner.after_step()
    for before, now in pairs:
        torch.testing.assert_close(now, before + 0.25)
    learner.after_step()
    for before, now in pairs:
        torch.testing.assert_close(now, before + 0.25 + 0.75 * 0.25)
    assert not any(p.requires_grad for p in learner.target_critic.parameters())
    assert {name.split(".")[0] for name, p in learner.named_parameters() if p.requires_grad} == {
        "action_critic",
        "state_critic",
    }


def test_a_target_copy_gives_no_gradient_and_stays_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    copy = TargetCopy(network).train()
    x = torch.ones(64, 2, requires_grad=True)
    assert torch.equal(copy(x), network[0](x))
    assert not copy(x).requires_grad


def test_q_gives_a_gradient_to_actions_only() -> None:
    torch.manual_seed(0)
    learner = ExpectileConfig(critic=CriticConfig(hidden=8)).build(3, SPEC, 1)
    features = torch.randn(4, 1, 3, requires_grad=True)
    actions = torch.rand(4, 1, 1, 2, requires_grad=True)
    q: Tensor = learner.q(features, actions)
    torch.testing.assert_close(q, learner.action_critic(features, actions).min(0).values)
    q.sum().backward()
    assert actions.grad is not None
    assert (actions.grad.abs().sum((1, 2, 3)) > 0).all()
    assert features.grad is None
    assert all(p.grad is None for p in learner.parameters())

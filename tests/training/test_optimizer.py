import contextlib
import math

import pytest
import torch
from torch import nn

from vla.config import ConfigError
from vla.training.config import CriticOptimConfig, OptimConfig
from vla.training.optimizer import (
    EMA,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_critic_learning_rate,
    set_learning_rate,
)


def test_learning_rate_by_hand() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=10, min_lr_fraction=0.1)
    assert learning_rate(config, 1, 110) == pytest.approx(0.1)
    assert learning_rate(config, 10, 110) == pytest.approx(1.0)
    assert learning_rate(config, 60, 110) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(config, 35, 110) == pytest.approx(
        0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))
    )
    assert learning_rate(config, 110, 110) == pytest.approx(0.1)
    constant = OptimConfig(lr=2.0, warmup_steps=0, schedule="constant")
    assert [learning_rate(constant, step, 10) for step in (1, 10)] == [2.0, 2.0]


def test_only_matrices_and_kernels_decay() -> None:
    module = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "words": nn.Embedding(5, 4),
            "head": nn.Linear(4, 2),
        }
    )
    optimizer = build_optimizer(module, OptimConfig(weight_decay=0.3))
    names = {p: name for name, p in module.named_parameters()}
    decayed, free = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert decayed == {"conv.weight", "head.weight"}
    assert free == {"conv.bias", "norm.weight", "norm.bias", "words.weight", "head.bias"}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_frozen_parameters_are_left_out() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    optimizer = build_optimizer(module, OptimConfig())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [module.bias]


def _steps(module: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()


def test_optimizer_tensors_carry_on_bit_for_bit() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    one = build_optimizer(first, OptimConfig())
    _steps(first, one, range(5))
    second.load_state_dict(first.state_dict())
    two = build_optimizer(second, OptimConfig())
    load_optimizer_tensors(
        two, second, {k: v.clone() for k, v in optimizer_tensors(one, first).items()}
    )
    _steps(first, one, range(5, 10))
    _steps(second, two, range(5, 10))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_optimizer_tensors_take_the_layout_of_their_parameter() -> None:
    """Files hold tensors row by row; moments of another layout than their parameter's would train differently."""
    modules = [nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    one, two = (build_optimizer(module, OptimConfig()) for module in modules)
    modules[0](torch.randn(2, 4, 8, 8)).square().mean().backward()
    one.step()
    stored = {
        name: tensor.contiguous() for name, tensor in optimizer_tensors(one, modules[0]).items()
    }
    load_optimizer_tensors(two, modules[1], stored)
    found = two.state[modules[1].weight]["exp_avg"]
    assert found.stride() == modules[1].weight.stride() != stored["exp_avg/weight"].stride()
    assert torch.equal(found, one.state[modules[0].weight]["exp_avg"])


def test_ema_by_hand_and_swapped_in_and_out() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    ema = EMA(module, decay=0.5)
    module.weight.data.fill_(1.0)
    ema.update(module, 1)  # decay min(0.5, 2/11)
    assert ema.weights["weight"].item() == pytest.approx(9 / 11)
    ema.update(module, 100)
    assert ema.weights["weight"].item() == pytest.approx(9 / 11 * 0.5 + 0.5)
    with ema.applied_to(module):
        assert module.weight.item() == pytest.approx(10 / 11)
    assert module.weight.item() == 1.0
    with contextlib.suppress(KeyError), ema.applied_to(module):
        raise KeyError
    assert module.weight.item() == 1.0


def _two_parts() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"vision": nn.Linear(3, 2), "head": nn.Linear(2, 1)})


def test_rates_by_part_and_the_longest_pattern_counts() -> None:
    module = _two_parts()
    rates = {"*": 0.5, "vision.*": 0.1, "vision.bias": 2.0}
    optimizer = build_optimizer(module, OptimConfig(rates=rates, weight_decay=0.3))
    set_learning_rate(optimizer, 1e-3)
    names = {p: name for name, p in module.named_parameters()}
    found = {
        names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    assert found == {
        "vision.weight": (pytest.approx(1e-4), 0.3),
        "vision.bias": (pytest.approx(2e-3), 0.0),
        "head.weight": (pytest.approx(5e-4), 0.3),
        "head.bias": (pytest.approx(5e-4), 0.0),
    }


def test_a_rate_scales_what_adam_does_and_survives_storage() -> None:
    def run(module: nn.ModuleDict, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            module["head"](module["vision"](x)).square().mean().backward()
            set_learning_rate(optimizer, 1e-2)
            optimizer.step()

    plain, slow = _two_parts(), _two_parts()
    start = plain["vision"].weight.detach().clone()
    config = OptimConfig(rates={"vision.*": 0.1}, weight_decay=0.0)
    run(plain, build_optimizer(plain, OptimConfig(weight_decay=0.0)), range(1))
    one = build_optimizer(slow, config)
    run(slow, one, range(1))
    assert torch.equal(plain["head"].weight, slow["head"].weight)
    torch.testing.assert_close(
        slow["vision"].weight - start, 0.1 * (plain["vision"].weight - start), rtol=1e-3, atol=1e-7
    )

    again = _two_parts()
    again.load_state_dict(slow.state_dict())
    two = build_optimizer(again, config)
    load_optimizer_tensors(
        two, again, {k: v.clone() for k, v in optimizer_tensors(one, slow).items()}
    )
    run(slow, one, range(1, 4))
    run(again, two, range(1, 4))
    assert all(
        torch.equal(a, b) for a, b in zip(slow.parameters(), again.parameters(), strict=True)
    )


def test_a_rate_for_nothing_names_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"optim\.rates: 'visoin\.\*' matches nothing; .*'vision\.\*'"
    ):
        build_optimizer(_two_parts(), OptimConfig(rates={"visoin.*": 0.1}))


def _with_critic() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"policy": nn.Linear(3, 2), "objective": nn.Linear(2, 1)})


def test_critics_have_settings_of_their_own() -> None:
    module = _with_critic()
    critic = CriticOptimConfig(lr=2e-3, weight_decay=0.0, betas=(0.8, 0.9))
    rates = {"objective.bias": 0.5}
    optimizer = build_optimizer(module, OptimConfig(weight_decay=0.3, critic=critic, rates=rates))
    # step 75 of a cosine over 100 steps without warm-up, beside a constant rate
    schedule = OptimConfig(lr=1e-2, warmup_steps=0)
    set_learning_rate(optimizer, learning_rate(schedule, 75, 100))
    set_critic_learning_rate(optimizer, learning_rate(critic, 75, 100))
    cosine = 1e-2 * 0.5 * (1 - math.sqrt(0.5))
    names = {p: name for name, p in module.named_parameters()}
    found = {
        names[p]: (pytest.approx(g["lr"]), g["weight_decay"], g["betas"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert found == {
        "policy.weight": (cosine, 0.3, (0.9, 0.99)),
        "policy.bias": (cosine, 0.0, (0.9, 0.99)),
        "objective.weight": (2e-3, 0.0, (0.8, 0.9)),
        "objective.bias": (1e-3, 0.0, (0.8, 0.9)),
    }


def test_without_settings_of_their_own_critics_follow_the_policy() -> None:
    module = _with_critic()
    optimizer = build_optimizer(module, OptimConfig())
    set_learning_rate(optimizer, 1e-5)
    set_critic_learning_rate(optimizer, 1.0)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5}
    assert OptimConfig(clip_norm=2.0).clip_norms == {"grad_norm": 2.0, "critic_grad_norm": 2.0}
    own = OptimConfig(clip_norm=2.0, critic=CriticOptimConfig())
    assert own.clip_norms == {"grad_norm": 2.0, "critic_grad_norm": None}


def test_settings_of_critics_that_are_not_there_are_refused() -> None:
    module = nn.ModuleDict({"policy": nn.Linear(3, 2)})
    with pytest.raises(ConfigError, match=r"optim\.critic: this objective has no networks"):
        build_optimizer(module, OptimConfig(critic=CriticOptimConfig()))

"""The Gaussian head against integrals, torch's own distributions and numbers worked out by hand."""

import math

import pytest
import torch

from vla.models.heads.gaussian import EDGE, GaussianActions, GaussianConfig, SquashedGaussianActions
from vla.models.heads.regression import RegressionConfig
from vla.models.heads.squashed import SquashedConfig
from vla.tokenizers import BinsConfig
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-4.0, 0.0), (4.0, 2.0), 10)
LINE = Spec({}, (), ("x",), (-4.0,), (4.0,), 10)
SQUASHES = ("none", "mean", "full")


def head(spec: Spec = SPEC, chunk: int = 1, *, seed: int = 0, **options):
    torch.manual_seed(seed)
    return GaussianConfig(**options).build(BinsConfig().build(spec, chunk), spec, width=4)


def actions_of(kind: type, mean: list[float], log_std: list[float], spec: Spec = SPEC):
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    shape = (1, 1, 1, len(mean))
    tensors = torch.tensor(mean).view(shape), torch.tensor(log_std).view(shape)
    return kind(*tensors, (low + high) / 2, (high - low) / 2)


@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("deviation", ["global", "state"])
def test_density_integrates_to_one_in_robot_units(squash, deviation):
    built = head(LINE, squash=squash, deviation=deviation, log_std=(-3.0, 1.0), seed=1)
    distribution = built(torch.randn(1, 1, 1, 4))
    edge = 4 * EDGE if squash == "full" else 12.0
    # finer towards the edges, where the squashed density is steep
    x = edge * torch.linspace(-6, 6, 20001).double().tanh().float() / math.tanh(6)
    density = distribution.log_prob(x.view(-1, 1, 1, 1, 1)).exp().flatten()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=2e-3)


def test_log_prob_equals_the_distributions_of_torch():
    normal = torch.distributions.Normal(torch.tensor([0.3, -1.2]), torch.tensor([-1.0, 0.4]).exp())
    chunk = torch.tensor([[[[1.0, 0.25]]]])  # units: (0.25, -0.75)
    plain = actions_of(GaussianActions, [0.3, -1.2], [-1.0, 0.4])
    unit = torch.tensor([0.25, -0.75])
    assert plain.loss(chunk).item() == pytest.approx(-normal.log_prob(unit).mean().item())
    assert plain.log_prob(chunk).item() == pytest.approx(
        normal.log_prob(unit).sum().item() - math.log(4 * 1)
    )
    robot = torch.distributions.Normal(
        normal.loc * torch.tensor([4.0, 1.0]), normal.scale * torch.tensor([4.0, 1.0])
    )
    assert plain.entropy().tolist() == [[pytest.approx(robot.entropy().sum().item())]]
    squashed = actions_of(SquashedGaussianActions, [0.3, -1.2], [-1.0, 0.4])
    theirs = torch.distributions.TransformedDistribution(
        normal, torch.distributions.TanhTransform()
    )
    assert squashed.loss(chunk).item() == pytest.approx(
        -theirs.log_prob(unit).mean().item(), rel=1e-5
    )
    assert not hasattr(squashed, "entropy")


def test_masked_actions_do_not_count_in_log_prob():
    distribution = head(chunk=3, deviation="state")(torch.randn(1, 1, 1, 4))
    chunk, mask = torch.randn(1, 1, 3, 2), torch.tensor([[[True, False, True]]])
    changed = chunk.clone()
    changed[0, 0, 1] = torch.nan
    assert torch.equal(distribution.log_prob(changed, mask), distribution.log_prob(chunk, mask))
    alone = [
        distribution.log_prob(chunk, torch.eye(3, dtype=torch.bool)[k].view(1, 1, 3))
        for k in (0, 2)
    ]
    assert torch.allclose(distribution.log_prob(chunk, mask), sum(alone))


@pytest.mark.parametrize("kind", [GaussianActions, SquashedGaussianActions])
@pytest.mark.parametrize("ability", ["loss", "log_prob", "log_prob of samples", "rsample"])
def test_gradients_equal_finite_differences(kind, ability):
    mean, log_std = (0.3 * torch.randn(2, 1, 2, 2, dtype=torch.float64) - 0.3 for _ in range(2))
    chunk = torch.tensor([2.0, 1.2], dtype=torch.float64) * torch.rand(
        2, 1, 2, 2, dtype=torch.float64
    )

    def read(mean, log_std):
        middle, half = (
            torch.tensor([0.0, 1.0], dtype=torch.float64),
            torch.tensor([4.0, 1.0], dtype=torch.float64),
        )
        distribution = kind(mean, log_std, middle, half)
        torch.manual_seed(0)
        if "rsample" in ability:
            return distribution.rsample()
        if "samples" in ability:
            return distribution.log_prob(distribution.rsample())
        return getattr(distribution, ability)(chunk)

    assert torch.autograd.gradcheck(read, (mean.requires_grad_(), log_std.requires_grad_()))


@pytest.mark.parametrize("squash", SQUASHES)
def test_samples_have_the_moments_and_stay_inside(squash):
    kind = SquashedGaussianActions if squash == "full" else GaussianActions
    one = actions_of(kind, [0.2, -0.1], [-2.0, -1.6])
    drawn = one.rsample(torch.Generator().manual_seed(0), count=20000)
    assert drawn.shape == (20000, 1, 1, 1, 2)
    unit = (drawn - one.middle) / one.half
    before = unit.atanh() if squash == "full" else unit
    assert before.mean(0).flatten().tolist() == pytest.approx([0.2, -0.1], abs=5e-3)
    assert before.std(0).flatten().tolist() == pytest.approx(
        [math.exp(-2.0), math.exp(-1.6)], rel=0.03
    )
    wide = actions_of(kind, [3.0, -3.0], [2.0, 2.0])
    drawn = torch.cat(
        [wide.sample(torch.Generator().manual_seed(seed)).flatten()[None] for seed in range(50)]
    )
    assert (drawn >= torch.tensor(SPEC.action_low)).all()
    assert (drawn <= torch.tensor(SPEC.action_high)).all()


def test_temperature_multiplies_the_variance():
    one = actions_of(GaussianActions, [0.0, 0.0], [-1.0, -1.0])
    full, cool = (
        one.sample(torch.Generator().manual_seed(3), temperature=t) - one.middle
        for t in (1.0, 0.25)
    )
    assert torch.allclose(cool, full / 2, atol=1e-6)


def test_samples_are_drawn_where_their_density_is_taken():
    """Far out tanh has rounded to 1, and atanh would lead nowhere; the sample still knows where it was drawn."""
    far = actions_of(SquashedGaussianActions, [12.0, 0.0], [0.0, 0.0])
    drawn = far.rsample(torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(torch.tensor([12.0, 0.0]), torch.ones(2))
    x = normal.mean + torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    expected = (
        normal.log_prob(x) - 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))
    ).sum() - math.log(4)
    assert far.log_prob(drawn).item() == pytest.approx(expected.item(), rel=1e-5)
    assert far.log_prob(drawn.clone()).item() != pytest.approx(expected.item(), rel=0.1)


@pytest.mark.parametrize("squash", SQUASHES)
@pytest.mark.parametrize("deviation", ["global", "state"])
def test_deviations_keep_to_their_bounds_and_begin_in_the_middle(squash, deviation):
    built = head(squash=squash, deviation=deviation, log_std=(-3.0, 1.0))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
        assert (built(torch.randn(5, 1, 1, 4)).log_std == -1.0).all()
        for parameter in built.parameters():
            parameter.copy_(100 * torch.randn_like(parameter))
    log_std = built(torch.randn(50, 1, 1, 4)).log_std
    assert log_std.min() >= -3.0
    assert log_std.max() <= 1.0


def test_learns_mean_and_deviation():
    built = head(LINE, squash="mean")
    optimizer = torch.optim.Adam(built.parameters(), lr=0.02)
    torch.manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        built(torch.ones(64, 1, 1, 4)).loss(2 + 0.8 * torch.randn(64, 1, 1, 1)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        found = built(torch.ones(1, 1, 1, 4))
    assert found.mode().item() == pytest.approx(2, abs=0.15)
    assert 4 * found.log_std.exp().item() == pytest.approx(0.8, rel=0.15)


@pytest.mark.parametrize("config", [SquashedConfig(), RegressionConfig(hidden=8)])
def test_heads_of_one_point_give_it_with_its_gradient(config):
    built = config.build(BinsConfig().build(SPEC, 1), SPEC, width=4)
    distribution = built(torch.randn(3, 1, 1, 4))
    drawn = distribution.rsample()
    assert torch.equal(drawn, distribution.mode())
    drawn.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in built.parameters())


def test_bounds_must_be_ordered():
    with pytest.raises(
        ValueError, match=r"log_std: the least must be below the greatest, got \[1.0, -1.0\]"
    ):
        GaussianConfig(log_std=(1.0, -1.0))

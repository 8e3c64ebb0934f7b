"""Heads over real-valued actions against numbers and integrals that are known."""

import dataclasses
import math

import pytest
import torch

from vla.models.heads.clusters import ClustersConfig
from vla.models.heads.continuous import MLP, ActionScale, chunk_mean
from vla.models.heads.cvae import CVAEConfig
from vla.models.heads.flow import FlowConfig, time_features
from vla.models.heads.gaussian_mixture import MixtureActions, MixtureConfig
from vla.models.heads.regression import RegressedActions, RegressionConfig
from vla.tokenizers import BinsConfig, KMeansConfig
from vla.types import Spec

SPEC = Spec({}, (), ("x", "y"), (-4.0, 0.0), (4.0, 2.0), 10)
LINE = Spec({}, (), ("x",), (-4.0,), (4.0,), 10)


def scale(shift: list[float], unit: list[float], spec: Spec = SPEC) -> ActionScale:
    built = ActionScale(spec)
    built.shift.copy_(torch.tensor(shift))
    built.scale.copy_(torch.tensor(unit))
    return built


# --- units --------------------------------------------------------------------------------------------


def test_units_before_and_after_fit():
    spread = ActionScale(SPEC)
    assert spread.to_unit(torch.tensor([[4.0, 2.0], [-4.0, 1.0]])).tolist() == [[1, 1], [-1, 0]]
    actions = torch.tensor([[1.0, 0.5], [3.0, 0.5], [5.0, 0.5]])
    spread.fit(actions)
    assert spread.shift.tolist() == [3, 0.5]
    assert spread.scale.tolist() == pytest.approx(
        [math.sqrt(8 / 3), 0.001]
    )  # y never moves: a thousandth of its range
    assert torch.allclose(spread.to_robot(spread.to_unit(actions)), actions)


def test_range_by_quantiles():
    built = ActionScale(SPEC, "range", (0.01, 0.99))
    actions = torch.stack([torch.arange(101.0), torch.zeros(101)], dim=1)
    actions[50, 1] = 2.0  # opens once: both quantiles are 0
    built.fit(actions)
    assert built.to_unit(torch.tensor([[1.0, 0.0], [99.0, 2.0]])).tolist() == [[-1, -1], [1, 1]]


def test_chunk_mean_by_hand():
    values = torch.tensor([[[1.0, 3.0], [5.0, torch.nan], [torch.nan, torch.nan]]])
    mask = torch.tensor([[[True, True], [True, False], [False, False]]])
    assert chunk_mean(values, mask).tolist() == [[2, 5, 0]]


def test_mlp_gives_float32():
    net = MLP(4, 8, 3, depth=2)
    assert len([layer for layer in net if isinstance(layer, torch.nn.Linear)]) == 3
    assert net(torch.randn(2, 4).bfloat16()).dtype == torch.float32
    assert net.bfloat16()(torch.randn(2, 4)).dtype == torch.float32


# --- mixture ------------------------------------------------------------------------------------------


def mixture(weights, means, stds, units: ActionScale) -> MixtureActions:
    """One window of one action per chunk; means and stds (M, A), units of the data."""
    mean, std = (torch.tensor(values)[None, None, None, :, None] for values in (means, stds))
    return MixtureActions(torch.tensor(weights).log()[None, None, None], mean, std, units)


def test_mixture_density_integrates_to_one_in_robot_units():
    actions = mixture([0.3, 0.7], [[-1.0], [0.5]], [[0.2], [0.4]], scale([0.5], [2.0], LINE))
    x = torch.linspace(-10, 10, 20001)
    density = torch.cat([actions.log_prob(v.view(1, 1, 1, 1)) for v in x[::10]]).exp().flatten()
    assert torch.trapezoid(density, x[::10]).item() == pytest.approx(1, abs=1e-4)


def test_mixture_by_hand():
    actions = mixture(
        [0.25, 0.75],
        [[1.0, 0.0], [-1.0, 2.0]],
        [[0.5, 1.0], [2.0, 0.5]],
        scale([0.0, 1.0], [2.0, 0.5]),
    )
    chunk = torch.tensor([[[[1.0, 1.5]]]])  # units of the data: (0.5, 1)
    normal = torch.distributions.Normal
    first = normal(1.0, 0.5).log_prob(torch.tensor(0.5)) + normal(0.0, 1.0).log_prob(
        torch.tensor(1.0)
    )
    second = normal(-1.0, 2.0).log_prob(torch.tensor(0.5)) + normal(2.0, 0.5).log_prob(
        torch.tensor(1.0)
    )
    density = torch.log(0.25 * first.exp() + 0.75 * second.exp()).item()
    assert actions.loss(chunk).item() == pytest.approx(-density / 2)
    assert actions.log_prob(chunk).item() == pytest.approx(density - math.log(2.0 * 0.5))
    assert actions.mode().flatten().tolist() == [-2, 2]


def test_mixture_mask_is_the_marginal():
    torch.manual_seed(0)
    tokenizer = BinsConfig().build(SPEC, 3)
    for over in ("chunk", "action"):
        head = MixtureConfig(over=over, components=3).build(tokenizer, SPEC, width=8)
        actions = head(torch.randn(1, 1, head.num_readouts, 8))
        chunk = torch.randn(1, 1, 3, 2)
        mask = torch.tensor([[[True, False, False]]])
        first = dataclasses.replace(
            actions,
            log_weights=actions.log_weights[:, :, :1],
            mean=actions.mean[:, :, :1, :, :1],
            std=actions.std[:, :, :1, :, :1],
        )
        assert torch.allclose(
            actions.log_prob(chunk, mask), first.log_prob(chunk[:, :, :1]), atol=1e-5
        )


def test_mixture_samples_have_its_moments():
    one = mixture(
        [0.2, 0.8],
        [[-1.0, 0.0], [1.0, 0.0]],
        [[0.1, 0.5], [0.1, 0.5]],
        scale([1.0, 0.0], [2.0, 1.0]),
    )
    log_weights, mean, std = (
        t.expand(20000, *t.shape[1:]) for t in (one.log_weights, one.mean, one.std)
    )
    many = MixtureActions(log_weights, mean, std, one.scale)
    drawn = many.sample(torch.Generator().manual_seed(0))[:, 0, 0]
    low = drawn[:, 0] < 1.0
    assert low.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert drawn[low, 0].std().item() == pytest.approx(0.2, abs=0.01)
    assert drawn[~low, 0].mean().item() == pytest.approx(3, abs=0.02)
    cooler = many.sample(torch.Generator().manual_seed(0), temperature=0.25)[:, 0, 0]
    assert (cooler[:, 0] < 1.0).float().mean().item() < 0.01  # 0.2^4 : 0.8^4
    assert cooler[:, 1].std().item() == pytest.approx(0.25, abs=0.01)


# --- regression, clusters -----------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "expected"), [("l1", (1 + 3) / 2), ("l2", (1 + 9) / 2)])
def test_regression_by_hand(error, expected):
    actions = RegressedActions(
        torch.tensor([[[[1.0, -1.0]]]]), scale([0.0, 1.0], [2.0, 0.5]), error
    )
    assert actions.mode().flatten().tolist() == [2, 0.5]
    assert actions.loss(torch.tensor([[[[4.0, 2.0]]]])).item() == pytest.approx(
        expected
    )  # units of the data: (2, 2)


def test_regression_fits_the_median_or_the_mean():
    torch.manual_seed(0)
    chunk = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 1, 2)
    found = {}
    for error in ("l1", "l2"):
        head = RegressionConfig(error=error, hidden=8).build(
            BinsConfig().build(SPEC, 1), SPEC, width=4
        )
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 300)
            optimizer.zero_grad()
            head(torch.ones(3, 1, 1, 4)).loss(chunk).mean().backward()
            optimizer.step()
        found[error] = head(torch.ones(1, 1, 1, 4)).mode()[0, 0, 0].tolist()
    assert found["l1"] == pytest.approx([0, 0], abs=0.05)
    assert found["l2"] == pytest.approx([1 / 3, 1 / 3], abs=0.05)


@pytest.mark.parametrize("over", ["action", "chunk"])
def test_centre_and_true_offset_give_the_action(over):
    torch.manual_seed(0)
    actions = torch.randn(200, 2)
    tokenizer = KMeansConfig(centres=4, over=over).build(SPEC, 3).fit(actions)
    head = ClustersConfig().build(tokenizer, SPEC, width=8)
    head.fit(actions)
    distribution = head(torch.randn(1, 1, head.num_readouts, 8))
    chunk = 3 * torch.randn(1, 1, 3, 2)  # beyond the fitted range too
    ids = distribution.tokens(chunk)
    target = (tokenizer.offsets(chunk, ids) / head.scale.scale).view(
        1, 1, head.num_readouts, 1, -1, 2
    )
    perfect = dataclasses.replace(
        distribution,
        logits=50 * torch.nn.functional.one_hot(ids, 4).float(),
        offsets=target.expand_as(distribution.offsets),
    )
    assert torch.allclose(perfect.mode(), chunk, atol=1e-5)
    assert torch.allclose(perfect.sample(), chunk, atol=1e-5)
    assert perfect.loss(chunk).item() == pytest.approx(0, abs=1e-5)
    assert perfect.token_accuracy(chunk).item() == 1


# --- flow, cvae ---------------------------------------------------------------------------------------


def test_flow_learns_a_gaussian():
    """Noise flows to the data's mean and deviation, and zero noise to the mean."""
    torch.manual_seed(0)
    head = FlowConfig(hidden=32, depth=1, samples=2).build(
        BinsConfig().build(LINE, 1), LINE, width=4
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        head(torch.ones(128, 1, 1, 4)).loss(2 + 0.8 * torch.randn(128, 1, 1, 1)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        actions = head(torch.ones(3000, 1, 1, 4))
        drawn = actions.sample(torch.Generator().manual_seed(0))
        assert actions.mode()[0].item() == pytest.approx(2, abs=0.25)
    assert drawn.mean().item() == pytest.approx(2, abs=0.15)
    assert drawn.std().item() == pytest.approx(0.8, abs=0.2)


def test_flow_integrates_a_known_velocity(monkeypatch):
    """With the true velocity towards one point, Euler's steps end there from any noise."""
    head = FlowConfig(hidden=8, integration_steps=7).build(
        BinsConfig().build(SPEC, 2), SPEC, width=4
    )
    goal = torch.tensor([0.3, -0.2, 0.5, 0.1])
    monkeypatch.setattr(
        head.velocity, "forward", lambda x, time, state: (goal - x) / (1 - time[..., None])
    )
    chunk = head(torch.randn(2, 3, 1, 4)).sample(torch.Generator().manual_seed(0))
    assert torch.allclose(head.scale.to_unit(chunk), goal.view(2, 2).expand(2, 3, 2, 2), atol=1e-5)


def test_flow_times():
    torch.manual_seed(0)
    for times, mean in (
        ("uniform", 0.5),
        ("beta", 0.999 * (1 - 1.5 / 2.5)),
    ):  # Beta(1.5, 1) has mean 0.6
        head = FlowConfig(hidden=8, times=times).build(BinsConfig().build(SPEC, 2), SPEC, width=4)
        drawn = head(torch.randn(1, 1, 1, 4))._times((20000,))
        assert drawn.mean().item() == pytest.approx(mean, abs=0.01)
        assert 0 <= drawn.min() < drawn.max() <= 1
    features = time_features(torch.linspace(0, 1, 11))
    assert (
        torch.cdist(features, features).add(torch.eye(11) * 9).min() > 0.1
    )  # times can be distinguished


def test_cvae_loss_by_hand(monkeypatch):
    head = CVAEConfig(hidden=8, latent=2, beta=0.5).build(
        BinsConfig().build(SPEC, 1), SPEC, width=4
    )
    mean, log_var = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, math.log(4.0)]]])
    monkeypatch.setattr(head, "posterior", lambda state, unit, mask: (mean, log_var))
    monkeypatch.setattr(head, "decode", lambda state, latent: torch.zeros(1, 1, 1, 2))
    chunk = torch.tensor([[[[2.0, 1.5]]]])  # units of the data: (0.5, 0.5)
    divergence = 0.5 * (1 + 1 - 1 - 0) + 0.5 * (0 + 4 - 1 - math.log(4))
    assert head(torch.randn(1, 1, 1, 4)).loss(chunk).item() == pytest.approx(0.5 + 0.5 * divergence)

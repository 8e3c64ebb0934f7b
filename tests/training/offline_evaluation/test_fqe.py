"""Fitted Q evaluation on a chain whose values are known, and the numbers around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import value_chain
from typer.testing import CliRunner
from value_chain import DISCOUNT, REWARDS, SPEC, VALUES, mover, write_chain

from vla.cli import app
from vla.config import ConfigError, load_config
from vla.data import EpisodeDataset, Windows
from vla.data.errors import DataError, DataWarning
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.training.offline_evaluation.calibration import (
    bootstrap_interval,
    calibrate,
    rank_correlation,
)
from vla.training.offline_evaluation.fitted_q import transitions
from vla.training.offline_evaluation.fitted_q_evaluation import FQEConfig, fqe
from vla.training.offline_evaluation.fqe_result import rank
from vla.training.offline_evaluation.policy_actions import predict_actions
from vla.types import Spec

QUICK = {
    "critic": {"hidden": 32, "ensemble": 2},
    "discount": DISCOUNT,
    "warmup_steps": 50,
    "steps": 250,
    "batch_size": 64,
    "lr": 3e-3,
    "target_rate": 0.05,
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and three policies that plan two steps, beside it."""
    root = tmp_path_factory.mktemp("chain")
    write_chain(root / "data")
    for name in VALUES:
        mover(name, chunk=2).save_pretrained(root / name)
    return root


def config_of(chain: Path, out: Path, **changes) -> FQEConfig:
    values = {
        "data": {"path": str(chain / "data"), "rewards": REWARDS},
        "policies": [str(chain / name) for name in VALUES],
        "out": str(out),
    }
    return load_config(FQEConfig, QUICK | values | changes)


def evaluation(folder: Path, policy: Path, rate: float) -> Path:
    folder.mkdir(parents=True)
    found = {"config": {"policy": str(policy)}, "overall": {"rate": rate}}
    (folder / "results.json").write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize("replan_every", [1, 2])
def test_values_and_order_of_known_policies(chain: Path, tmp_path: Path, replan_every: int) -> None:
    for name, rate in (("left", 0.5), ("right", 0.9), ("turns", 0.2)):
        evaluation(tmp_path / "eval" / name, chain / name, rate)
    config = config_of(
        chain, tmp_path, replan_every=replan_every, evaluations=[str(tmp_path / "eval" / "*")]
    )
    result = fqe(config)
    found = {Path(e.policy).name: e for e in result.estimates}
    assert [Path(e.policy).name for e in rank(result.estimates)] == ["right", "left", "turns"]
    for name, value in VALUES.items():
        assert found[name].value == pytest.approx(value, abs=0.02), name
        assert found[name].interval[0] <= found[name].value + 1e-6 <= found[name].interval[1] + 2e-6
    # all start in the same state: nothing varies between episodes, but members differ a little
    assert np.ptp(found["right"].interval) < 1e-5
    assert found["right"].q_policy > found["right"].q_data
    assert result.rank_correlation == pytest.approx(1.0)
    assert found["right"].success == 0.9
    stored = json.loads((tmp_path / "fqe.json").read_text())
    assert stored["ranking"] == [str(chain / name) for name in ("right", "left", "turns")]
    assert stored["estimates"][1]["value"] == pytest.approx(found["right"].value)


def test_the_same_config_gives_the_same_numbers_whoever_else_is_valued(
    chain: Path, tmp_path: Path
) -> None:
    changes = {"steps": 20, "features": str(chain / "left")}
    together = fqe(config_of(chain, tmp_path, **changes))
    alone = fqe(config_of(chain, tmp_path, policies=[str(chain / "turns")], **changes))
    assert alone.estimates[0].value == together.estimates[2].value
    assert alone.estimates[0].action_error == together.estimates[2].action_error


def test_transitions_by_hand(tmp_path: Path) -> None:
    windows = Windows(
        EpisodeDataset(write_chain(tmp_path / "data", episodes=16)),
        history=1,
        chunk=1,
        discount=DISCOUNT,
    )
    data = transitions(
        windows, torch.zeros(len(windows), 1), n=2, teaching_episodes=8, device=torch.device("cpu")
    )
    ends = np.cumsum(windows.lengths)
    for first, end in zip(ends - windows.lengths, ends, strict=True):
        for i in range(first, end):
            rewards = windows.rewards[i:end][:2]
            assert float(data.returns[i]) == pytest.approx(
                sum(r * DISCOUNT**k for k, r in enumerate(rewards))
            )
            ended = bool(windows.terminals[i:end][:2].any())
            assert float(data.bootstrap[i]) == pytest.approx(0.0 if ended else DISCOUNT**2)
            assert bool(data.known[i]) == (ended or i + 2 < end)
            assert int(data.next[i]) == min(i + 2, end - 1)
            assert data.actions[i, :, 0].tolist() == [
                windows.actions[min(i + k, end - 1), 0] for k in range(2)
            ]
    assert not data.known.all()  # some episode was cut off
    assert data.teaches.tolist() == [i for i in range(ends[7]) if data.known[i]]


def test_decisions_are_those_of_the_forward_pass_over_the_history(tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy = DecisionTransformerConfig(
        width=16,
        depth=1,
        heads=2,
        history=2,
        dropout=0.0,
        condition="return",
        target_return=1.0,
        return_scale=1.0,
    ).build(SPEC)
    policy.eval()
    windows = Windows(
        EpisodeDataset(write_chain(tmp_path / "data", episodes=12)), history=2, chunk=1
    )
    decisions = predict_actions(policy, windows, rows=5)
    starts = np.repeat(np.cumsum(windows.lengths) - windows.lengths, windows.lengths)
    for i in range(len(windows)):
        batch = windows.batch(np.array([i]))
        # what is asked for counts down by the rewards that came
        asked = [
            1.0 - windows.rewards[starts[i] : max(starts[i], i - back)].sum() for back in (1, 0)
        ]
        batch.returns_to_go[:] = torch.tensor(asked)
        with torch.no_grad():
            output = policy(batch)
        torch.testing.assert_close(
            decisions.features[i], output.features[0, -1], atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            decisions.actions[i], output.actions.mode()[0, -1].clamp(-1, 1), atol=1e-5, rtol=1e-4
        )


def test_mistakes_are_named(chain: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **changes) -> None:
        with pytest.raises(error, match=message):
            fqe(config_of(chain, tmp_path, **changes))

    refused(ConfigError, "plans 2 steps", replan_every=3)
    refused(ConfigError, "device: 'tpu9' is not available here", device="tpu9")
    refused(ConfigError, "no folder fits", policies=[str(chain / "step-*")])
    refused(ConfigError, "more than once", policies=[str(chain / "left"), str(chain / "*ft")])
    refused(ConfigError, "none of the policies", success={"elsewhere": str(tmp_path)})
    refused(ConfigError, "not the results.json", success={str(chain / "left"): str(tmp_path)})
    refused(
        DataError,
        "all .* rewards are 0",
        data={"path": str(chain / "data"), "rewards": {"kind": "env", "scale": 1e-46}},
    )


def test_names_that_were_made_up_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`state_0` and `action_0` number the dimensions of any robot: they show no sameness."""
    made_up = Spec({}, ("state_0", "state_1", "state_2"), ("action_0",), (-1.0,), (1.0,), 10.0)
    monkeypatch.setattr(value_chain, "SPEC", made_up)
    write_chain(tmp_path / "data", episodes=20)
    mover("left").save_pretrained(tmp_path / "left")
    policies = [str(tmp_path / "left")]
    config = config_of(tmp_path, tmp_path / "out", policies=policies, steps=5, warmup_steps=0)
    with pytest.warns(DataWarning, match="made up to number a dimension"):
        result = fqe(config)
    assert "it is valued as if they were" in result.warnings[-1]
    kept = json.loads((tmp_path / "out/fqe.json").read_text())
    assert kept["warnings"] == list(result.warnings)


def test_command_line(chain: Path, tmp_path: Path) -> None:
    texts = [
        f"policies=[{chain}/right, {chain}/left]",
        f"data.path={chain}/data",
        f"out={tmp_path}",
        "steps=5",
    ]
    texts.append("data.rewards.trust_terminals=true")
    result = CliRunner().invoke(
        app, ["fqe", *texts, "critic.hidden=8", "warmup_steps=0", "data.episodes=20"]
    )
    assert result.exit_code == 0, result.output
    assert "20 episodes (1 held out)" in " ".join(result.output.split())
    assert (tmp_path / "fqe.json").is_file()


def test_spearman_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(
        0.8
    )  # 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(
        4.5 / np.sqrt(4.5 * 5)
    )  # ranks 1, 2.5, 2.5, 4
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2], [1, 2]) is None


def test_calibration_by_hand() -> None:
    found = calibrate([0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 3.0, 3.0], bins=2)
    assert [(b.count, b.predicted, b.outcome) for b in found.bins] == [(2, 0.5, 1.0), (2, 2.5, 3.0)]
    assert (found.bias, found.error) == (-0.5, 0.5)
    assert found.slope == pytest.approx(0.8)
    assert found.intercept == pytest.approx(0.8)
    assert found.correlation == pytest.approx(2 / np.sqrt(5))
    assert calibrate([1.0, 1.0], [0.0, 1.0]).slope == 0
    with pytest.raises(ValueError, match="at least one"):
        calibrate([], [])


def test_bootstrap_interval_is_that_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)

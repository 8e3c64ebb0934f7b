"""A trained policy on another robot: what is kept, what is re-initialised, what learns, what is saved."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toy
from torch import nn
from training_toy import toy_config

from vla.config import ConfigError
from vla.data import DatasetWriter, Episode
from vla.models.layers.lora import LoraSettings
from vla.models.layers.low_rank import AdaptedLinear, add_adapters, merge_adapters, merged_state
from vla.models.policies.guided import CriticGuidedPolicy
from vla.models.policy import Policy, load_policy
from vla.training import TrainConfig, train
from vla.training.finetuning.transfer import Transfer, choose_trained, transferred_policy
from vla.types import Spec

OLD = Spec(
    cameras={"left": (32, 32), "right": (32, 32)},
    state_names=("x", "y"),
    action_names=("dx", "dy"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_hz=10.0,
)
NEW = Spec(
    cameras={"wrist": (48, 32)},
    state_names=("a", "b", "c"),
    action_names=("p", "q", "r"),
    action_low=(-1.0,) * 3,
    action_high=(1.0,) * 3,
    control_hz=5.0,
)
RT1: dict[str, Any] = {
    "type": "rt1", "trunk": "test_efficientnet", "stride": 16, "norm": "batch", "history": 2, "width": 16, "depth": 1,
    "heads": 2, "key_dim": 8, "language_dim": 8, "tokens_per_image": 3, "state_token": True, "token_positions": True,
    "random_shift": (0, 0), "dropout": 0.0,
}  # fmt: skip


def write(root: Path, spec: Spec, *, seed: int, episodes: int = 3, length: int = 6) -> Path:
    rng = np.random.default_rng(seed)
    done = np.arange(length) == length - 1
    with DatasetWriter(root, spec) as writer:
        for _ in range(episodes):
            writer.add_episode(
                Episode(
                    images={
                        c: rng.integers(0, 255, (length, *size, 3), np.uint8)
                        for c, size in spec.cameras.items()
                    },
                    state=rng.normal(size=(length, spec.state_dim)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (length, spec.action_dim)).astype(np.float32),
                    rewards=done.astype(np.float32),
                    success=done,
                    terminated=True,
                    instruction="go left",
                )
            )
    return root


def _with_failures(root: Path, spec: Spec, *, seed: int) -> Path:
    """Two episodes, of which the second fails."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(root, spec) as writer:
        for solved in (True, False):
            done = (np.arange(5) == 4) & solved
            writer.add_episode(
                Episode(
                    images={
                        c: rng.integers(0, 255, (5, *size, 3), np.uint8)
                        for c, size in spec.cameras.items()
                    },
                    state=rng.normal(size=(5, spec.state_dim)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (5, spec.action_dim)).astype(np.float32),
                    rewards=done.astype(np.float32),
                    success=done,
                    terminated=solved,
                    instruction="go left",
                )
            )
    return root


def rt1_config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": str(out), "data": {"path": str(data), "validation_fraction": 0}, "policy": RT1, "batch_size": 4,
        "steps": 2, "optim": {"lr": 1e-2, "warmup_steps": 0}, "log_every": 1, "save_every": 2, "validate_every": None,
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def robots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a policy of two cameras, and a dataset of another robot with one."""
    root = tmp_path_factory.mktemp("robots")
    old = train(rt1_config(write(root / "old", OLD, seed=0), root / "run"))
    return old.out / "policy", write(root / "new", NEW, seed=1)


def fine_tune(robots: tuple[Path, Path], out: Path, **changes: Any) -> TrainConfig:
    return rt1_config(
        robots[1], out, **{"policy": None, "init_from": str(robots[0]), "transfer": {}} | changes
    )


def carried_over(config: TrainConfig, spec: Spec) -> tuple[Policy, Transfer]:
    """What `train` does at the first step of a run with `transfer`."""
    assert config.init_from is not None
    assert config.transfer is not None
    return transferred_policy(config.init_from, config.transfer, config.policy, spec)


def test_what_fits_is_kept_bit_for_bit_and_the_rest_is_re_initialised(
    robots: tuple[Path, Path], tmp_path: Path
) -> None:
    config = fine_tune(robots, tmp_path / "run", transfer={"cameras": {"wrist": "right"}})
    policy, transfer = carried_over(config, NEW)
    old, new, found = load_policy(robots[0]).state_dict(), policy.state_dict(), transfer.tensors
    assert all(torch.equal(new[name], old[name]) for name in found.kept)
    trunk = {
        n
        for n in new
        if n.startswith(("vision.trunk.", "vision.token_learner.", "transformer.blocks."))
    }
    assert trunk | {"transformer.embed.weight", "vision.condition.weight"} <= {*found.kept}
    assert found.reinitialised["state_embedding.weight"] == "reads another state"
    assert all(
        found.reinitialised[name] == "is for other actions"
        for name in new
        if name.startswith("head.")
    )
    assert found.reinitialised["state_mean"] == "is fitted to the new data"
    assert found.unused == ["vision.camera_embedding"]
    assert {*found.kept, *found.adapted, *found.reinitialised} == set(new)
    assert 0.9 < found.share < 1
    # the map of 3 x 2 instead of 2 x 2: corners stay where they are, the middle row is the mean of its neighbours
    there, here = old["vision.map_position"], new["vision.map_position"]
    assert (there.shape[1:], here.shape[1:]) == ((2, 2), (3, 2))
    torch.testing.assert_close(here[:, ::2], there)
    torch.testing.assert_close(here[:, 1], there.mean(1))
    # per step there were 3 left, 3 right, state and 2 actions; now there are 3 wrist (as right), state and 3 actions
    rows = [*range(3, 9), *range(12, 18)]
    kept = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert torch.equal(new["transformer.position"][kept], old["transformer.position"][rows])
    assert found.adapted["transformer.position"] == "12 of 14 rows by their tokens' places"
    assert "control_hz is 5, was 10" in transfer.robots


def test_the_run_tells_what_it_kept_and_ends_in_a_policy_of_the_new_robot(
    robots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(fine_tune(robots, tmp_path / "run"))
    printed = capsys.readouterr().out
    assert (
        "transfer: re-initialised state_embedding.weight, state_embedding.bias: reads another state"
        in printed
    )
    stored = json.loads((result.out / "transfer.json").read_text())
    assert stored["cameras"] == {"wrist": "left"}  # of the two, the first
    assert "vision.trunk.project.weight" in stored["tensors"]["kept"]
    policy = load_policy(result.out / "policy")
    assert policy.spec == NEW
    assert policy.card["transfer"]["from"] == "policy"
    assert policy.state_std.shape == (3,)
    assert not torch.equal(policy.state_std, torch.ones(3))
    assert policy.act(NEW.fake_observation(2))[0].shape == (2, 1, 3)


def test_other_chunks_heads_and_histories_keep_the_trunk(
    robots: tuple[Path, Path], tmp_path: Path
) -> None:
    head = {"type": "gaussian_mixture"}
    config = fine_tune(
        robots, tmp_path / "run", policy=RT1 | {"chunk": 2, "history": 3, "head": head}
    )
    policy, transfer = carried_over(config, OLD)
    assert transfer.tensors.share > 0.9
    assert "vision.camera_embedding" in transfer.tensors.kept
    old, new = load_policy(robots[0]).state_dict(), policy.state_dict()
    per_step = len(new["transformer.position"]) // 3
    # all three steps know the image tokens' positions; the first, which the old policy did not have, from its oldest
    for step, there in enumerate((0, 0, 1)):
        image = new["transformer.position"][step * per_step :][:7]
        assert torch.equal(image, old["transformer.position"][there * 9 :][:7])


def test_frozen_parts_do_not_move(robots: tuple[Path, Path], tmp_path: Path) -> None:
    result = train(
        fine_tune(robots, tmp_path / "run", transfer={"freeze": ["vision.trunk.*"]}, ema_decay=None)
    )
    old, new = load_policy(robots[0]).state_dict(), load_policy(result.out / "policy").state_dict()
    trunk = [name for name in new if name.startswith("vision.trunk.")]
    assert any("running_mean" in name for name in trunk)
    assert [name for name in trunk if not torch.equal(new[name], old[name])] == []
    assert not torch.equal(
        new["vision.token_learner.hidden.weight"], old["vision.token_learner.hidden.weight"]
    )
    # without it both weights and statistics move
    loose = train(fine_tune(robots, tmp_path / "loose", ema_decay=None)).policy.state_dict()
    assert not torch.equal(
        loose["vision.trunk.stem.1.running_mean"], old["vision.trunk.stem.1.running_mean"]
    )


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_adapters_train_few_parameters_resume_exactly_and_are_saved_merged(
    robots: tuple[Path, Path], tmp_path: Path, ema_decay: float | None
) -> None:
    def config(name: str, **changes: Any) -> TrainConfig:
        lora = {"lora": {"rank": 2, "alpha": 4}, "freeze": ["head.*"]}
        return fine_tune(
            robots,
            tmp_path / name,
            transfer=lora,
            ema_decay=ema_decay,
            steps=4,
            save_every=1,
            **changes,
        )

    whole = train(config("whole"))
    train(config("parts", max_minutes=1e-9))
    again = train(config("parts"), resume=True)
    lines = [
        [json.loads(x)["loss"] for x in (r.out / "metrics.jsonl").read_text().splitlines()]
        for r in (whole, again)
    ]
    assert lines[0] == lines[1]
    file = "policy/model.safetensors"
    assert (whole.out / file).read_bytes() == (again.out / file).read_bytes()

    old, saved = load_policy(robots[0]).state_dict(), load_policy(whole.out / "policy")
    assert {type(module) for module in saved.modules()}.isdisjoint({AdaptedLinear})
    changed = {
        name
        for name, values in saved.state_dict().items()
        if name in old and not torch.equal(values, old[name])
    }
    trunk = {name for name in changed if name.startswith("transformer.blocks.")}
    assert trunk  # the adapters have learned, and are in the weights
    assert all(name.endswith(("query.weight", "key_value.weight", "out.weight")) for name in trunk)
    shift = saved.state_dict()["transformer.blocks.0.attention.query.weight"]
    shift = shift - old["transformer.blocks.0.attention.query.weight"]
    assert int(torch.linalg.matrix_rank(shift, atol=1e-5)) <= 2
    assert not [name for name in changed if name.startswith("vision.trunk.blocks")]


def test_what_learns_with_adapters(robots: tuple[Path, Path], tmp_path: Path) -> None:
    config = fine_tune(
        robots,
        tmp_path,
        transfer={"lora": {"rank": 1, "targets": ["query"]}, "train": ["vision.token_learner.*"]},
    )
    assert config.transfer is not None
    policy, transfer = carried_over(config, NEW)
    choose_trained(policy, config.transfer, transfer.tensors)
    learns = {name for name, p in policy.named_parameters() if p.requires_grad}
    attention = "transformer.blocks.0.attention.query"
    expected = {
        f"{attention}.lora_A",
        f"{attention}.lora_B",
        "transformer.position",
        "vision.map_position",
    }
    expected |= {
        n
        for n, _ in policy.named_parameters()
        if n.startswith(("state_embedding.", "head.", "vision.token_le"))
    }
    assert learns == expected
    policy.train()
    assert not any(m.training for n, m in policy.named_modules() if isinstance(m, nn.BatchNorm2d))


def test_the_merged_layer_computes_what_the_adapted_one_does() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(7, 5).double()
    before = net(x)
    names = [name for name, _ in net.named_parameters()]
    add_adapters(net, ["0"], LoraSettings(rank=2, alpha=6))
    adapted = net[0]
    assert isinstance(adapted, AdaptedLinear)
    adapted.double()
    torch.testing.assert_close(net(x), before)  # no change at first
    nn.init.normal_(adapted.lora_B)
    found = net(x)
    assert not torch.allclose(found, before)
    by_hand = adapted.weight + 3.0 * adapted.lora_B @ adapted.lora_A
    torch.testing.assert_close(adapted.merged(), by_hand, rtol=1e-6, atol=1e-6)
    assert list(merged_state(net)) == names
    stored = {name: values.clone() for name, values in merged_state(net).items()}
    merge_adapters(net)
    torch.testing.assert_close(net(x), found, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(values, stored[name]) for name, values in net.state_dict().items())


# --- from a policy that decides by a critic -----------------------------------------------------------


@pytest.mark.parametrize("rule", ["best_of_n", "argmax_q"])
def test_of_a_guided_policy_the_one_inside_is_carried_over(
    rule: str, robots: tuple[Path, Path], tmp_path: Path
) -> None:
    small = {"type": "iql", "critic": {"hidden": 8}}
    choosing = {**small, "extraction": {"type": rule}}
    failing = _with_failures(tmp_path / "data", OLD, seed=0)
    first = train(rt1_config(failing, tmp_path / "first", objective=choosing, ema_decay=None))
    guided = load_policy(first.out / "policy")
    assert isinstance(guided, CriticGuidedPolicy)
    start = {"policy": None, "init_from": str(first.out / "policy"), "ema_decay": None}
    # onto the same robot, with the same objective: the policy goes on, the critic begins afresh
    again = train(
        rt1_config(failing, tmp_path / "again", objective=choosing, optim={"lr": 1e-30}, **start)
    )
    inside = guided.unwrapped.state_dict()
    learned = {name for name, p in guided.unwrapped.named_parameters()}
    assert all(
        torch.allclose(again.policy.unwrapped.state_dict()[name], inside[name]) for name in learned
    )
    assert not torch.equal(again.policy.critic.net.first[0], guided.critic.net.first[0])
    # onto another robot, by imitation, all of it and by adapters
    for name, transfer in (("all", {}), ("lora", {"lora": {"rank": 1}})):
        config = rt1_config(robots[1], tmp_path / name, transfer=transfer, **start)
        policy, found = carried_over(config, NEW)
        assert found.tensors.share > 0.9
        assert torch.equal(
            policy.state_dict()["vision.condition.weight"], inside["vision.condition.weight"]
        )
        moved = load_policy(train(config).out / "policy")
        assert not isinstance(moved, CriticGuidedPolicy)
        assert moved.spec == NEW


# --- on the toy ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(toy_config(data, tmp_path_factory.mktemp("toy") / "run", steps=4)).out / "policy"


def test_without_transfer_another_robot_or_policy_is_refused(
    data: Path, toy: Path, tmp_path: Path
) -> None:
    def config(**changes: Any) -> TrainConfig:
        return toy_config(data, tmp_path / "run", **{"init_from": str(toy), "steps": 1} | changes)

    other = {"history": 2, "chunk": 3, "dropout": 0.1}
    with pytest.raises(
        ConfigError, match=r"policy\.chunk: is 3, the policy in .* has 2\n.*set transfer: {}"
    ):
        train(config(policy=other))
    found = train(config(policy=other, transfer={})).out
    assert json.loads((found / "transfer.json").read_text())["tensors"]["reinitialised"][
        "out.weight"
    ].startswith("has shape")
    assert load_policy(found / "policy").chunk == 3


def test_statistics_are_fitted_again_or_kept(data: Path, toy: Path, tmp_path: Path) -> None:
    elsewhere = training_toy.write_dataset(tmp_path / "data", seed=9)
    old = load_policy(toy)
    means = {}
    for keep in (False, True):
        config = toy_config(
            elsewhere, tmp_path / f"keep-{keep}", policy=None, init_from=str(toy), steps=1,
            transfer={"keep_statistics": keep},
        )  # fmt: skip
        means[keep] = train(config).policy.state_mean
    assert torch.equal(means[True], old.state_mean)
    assert not torch.equal(means[False], old.state_mean)
    spec = dataclasses.replace(training_toy.SPEC, state_names=("u", "v"))
    config = toy_config(
        data, tmp_path, policy=None, init_from=str(toy), transfer={"keep_statistics": True}
    )
    with pytest.raises(
        ConfigError, match=r"keep_statistics: state_names are \['u', 'v'\].*\['x', 'y'\]"
    ):
        carried_over(config, spec)


def _problem(act: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        act()
    return str(caught.value)


def test_mistakes_name_their_key(
    data: Path, toy: Path, robots: tuple[Path, Path], tmp_path: Path
) -> None:
    def started(**transfer: Any) -> str:
        return _problem(
            lambda: train(
                toy_config(data, tmp_path, policy=None, init_from=str(toy), transfer=transfer)
            )
        )

    assert "transfer.freeze: 'tsks.*' matches nothing; there are for example 'tasks.*'" in started(
        freeze=["tsks.*"]
    )
    assert "transfer.reinitialise: 'oout.*' matches nothing" in started(reinitialise=["oout.*"])
    assert "transfer.freeze: leaves nothing to learn" in started(freeze=["*"])
    assert (
        "transfer.lora.targets: no kept linear layer ends in 'query'; there are: embed, out, tasks"
        in started(lora={"targets": ["query"]})
    )
    assert "no camera 'top' in the new policy; it has: front" in started(cameras={"top": "front"})
    assert "no camera 'side' in the old policy; it has: front" in started(cameras={"front": "side"})
    narrow = fine_tune(robots, tmp_path, policy=RT1 | {"width": 24})
    text = _problem(lambda: carried_over(narrow, NEW))
    assert "fits vision 96.2%, transformer 2.4%, 49.3% in the mean" in text
    assert "transfer.min_loaded is 50%" in text
    assert (
        "First: vision.map_position has shape (16, 2, 2) in the checkpoint, (24, 3, 2) here" in text
    )
    assert "transfer: needs the policy that it starts from" in _validation_error(
        data, tmp_path, transfer={}
    )
    assert "train: without lora everything learns" in _validation_error(
        data, tmp_path, transfer={"train": ["x"]}
    )


def _validation_error(data: Path, out: Path, **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        toy_config(data, out, **changes)
    return str(caught.value)


def test_reinitialise_by_name(toy: Path, data: Path, tmp_path: Path) -> None:
    config = toy_config(
        data,
        tmp_path,
        policy=None,
        init_from=str(toy),
        transfer={"reinitialise": ["embed.*"], "min_loaded": 0},
    )
    policy, transfer = carried_over(config, training_toy.SPEC)
    assert {n for n in transfer.tensors.reinitialised if n.startswith("embed")} == {
        "embed.weight",
        "embed.bias",
    }
    old: Policy = load_policy(toy)
    assert torch.equal(policy.state_dict()["out.weight"], old.state_dict()["out.weight"])
    assert not torch.equal(policy.state_dict()["embed.weight"], old.state_dict()["embed.weight"])

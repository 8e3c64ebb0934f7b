"""One trunk for three robots: what is shared, what is a robot's own, and that each can be taken out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vla.config import ConfigError, UserError, validate
from vla.data.loading.multi_robot import joint_spec
from vla.models import load_policy
from vla.models.policies.multi_robot import MultiRobotConfig, MultiRobotPolicy
from vla.models.policies.rt1 import RT1
from vla.tokenizers.bins import BinsTokenizer
from vla.training.objective import Learner
from vla.training.objectives.bc import BC
from vla.types import Batch, Spec, SpecError


def robot(cameras: dict[str, tuple[int, int]], state: int, actions: int) -> Spec:
    return Spec(
        cameras=cameras,
        state_names=tuple(f"s{i}" for i in range(state)),
        action_names=tuple(f"a{i}" for i in range(actions)),
        action_low=(-1.0,) * actions,
        action_high=(1.0,) * actions,
        control_hz=10.0,
    )


SPECS = {
    "arm": robot({"front": (32, 40), "wrist": (32, 32)}, state=8, actions=7),
    "gripper": robot({"corner": (32, 32)}, state=3, actions=4),
    "humanoid": robot({"ego": (48, 48)}, state=0, actions=44),
}
SLOTS = {"arm": None, "gripper": {"front": "corner"}, "humanoid": {"front": "ego"}}
POLICY: dict[str, Any] = {
    "type": "rt1",
    "trunk": "test_efficientnet",
    "stride": 16,
    "norm": "group",
    "image_size": [32, 32],
    "width": 16,
    "depth": 1,
    "heads": 2,
    "key_dim": 8,
    "language_dim": 16,
    "tokens_per_image": 2,
    "history": 2,
    "chunk": 2,
    "state_token": True,
    "tokenizer": {"type": "bins", "num_bins": 8},
}
T, K = 2, 2


def config(**changes: Any) -> MultiRobotConfig:
    policy = POLICY | changes
    robots = {
        name: {"spec": spec.to_dict(), "cameras": SLOTS[name]} for name, spec in SPECS.items()
    }
    values = {
        "policy": policy,
        "robots": robots,
        "history": policy["history"],
        "chunk": policy["chunk"],
    }
    return validate(MultiRobotConfig, values)


def build(**changes: Any) -> MultiRobotPolicy:
    torch.manual_seed(0)
    wanted = config(**changes)
    policy = wanted.build(joint_spec(wanted.specs))
    policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(4)})
    for name in policy.robots:  # what is zero or alike at initialisation could hide a mistake
        torch.nn.init.normal_(policy.part(name).head.weight, std=0.5)
        policy.part(name).state_mean.normal_()
    return policy


def windows(name: str, B: int = 2) -> Batch:
    return SPECS[name].fake_batch(B, T, K, seed=len(name))


@pytest.fixture(scope="module")
def policy() -> MultiRobotPolicy:
    return build().eval()


def test_the_trunk_is_one_and_the_rest_is_each_robots_own(policy: MultiRobotPolicy) -> None:
    names = [name for name, _ in policy.named_parameters()]
    own = {name.split(".", 2)[2] for name in names if name.startswith("robots.")}
    assert own == {
        "vision.camera_embedding",  # one robot alone has two cameras
        "state_embedding.weight",
        "state_embedding.bias",
        "head.weight",
        "head.bias",
    }
    arm, gripper, humanoid = (policy.part(name) for name in SPECS)
    for one in (gripper, humanoid):
        assert one.vision.trunk.project.weight is arm.vision.trunk.project.weight
        assert (
            one.transformer.blocks[0].attention.out.weight
            is arm.transformer.blocks[0].attention.out.weight
        )
    assert "state_embedding.weight" not in dict(humanoid.named_parameters())  # it has no state
    assert [one.tokenizer.num_tokens for one in (arm, gripper, humanoid)] == [14, 8, 88]
    assert not {id(p) for p in policy.own_parameters("arm")} & {
        id(p) for p in policy.own_parameters("gripper")
    }
    # positions: [front x 2, wrist x 2, state] are shared by place, those of actions are not: 2 steps
    assert policy.get_parameter("trunk.transformer.position").shape == (
        2 * (4 + 1 + 14 + 8 + 88),
        16,
    )
    places = [one.transformer.position for one in (arm, gripper, humanoid)]
    assert [len(place) for place in places] == [2 * 19, 2 * 11, 2 * 90]
    assert torch.equal(places[0][:2], places[1][:2])
    assert torch.equal(places[0][:2], places[2][:2])
    assert torch.equal(places[0][4], places[1][2])  # the state's
    assert not torch.equal(places[0][5], places[1][3])


def test_each_robots_windows_are_as_if_it_were_alone(policy: MultiRobotPolicy) -> None:
    for name, spec in SPECS.items():
        batch, single, inside = windows(name), policy.robot(name), policy.part(name)
        assert isinstance(single, RT1)
        assert (inside.robot_name, single.robot_name) == (name, "")
        with torch.no_grad():
            expected, found = single(batch), inside(batch)
        assert torch.equal(found.features, expected.features)
        actions = batch.actions, batch.action_mask
        assert torch.equal(found.actions.loss(*actions), expected.actions.loss(*actions))
        assert torch.equal(found.actions.log_prob(*actions), expected.actions.log_prob(*actions))
        assert torch.equal(found.actions.mode(), expected.actions.mode())
        assert found.actions.mode().shape == (2, T, K, spec.action_dim)


def test_every_parameter_has_a_gradient_whoever_is_in_the_batch() -> None:
    """Distributed training waits for all of them; robots that are absent get zeros, and no part of the trunk is theirs."""
    policy = build().train()
    loss, _, metrics = Learner(policy, BC())(windows("gripper"), robot="gripper")
    loss.backward()
    assert torch.equal(metrics["loss/gripper"], loss)
    gradients = {name: p.grad for name, p in policy.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    moved = {
        name
        for name, gradient in gradients.items()
        if gradient is not None and bool(gradient.any())
    }
    assert {name.split(".")[1] for name in moved if name.startswith("robots.")} == {"gripper"}
    assert "trunk.vision.trunk.project.weight" in moved
    # the front camera's and the state's places, and the gripper's own actions; not the wrist, not others' actions
    rows = gradients["trunk.transformer.position"].abs().sum(1) > 0
    arm, gripper = (
        policy.part(name).transformer.parametrizations.position[0].index
        for name in ("arm", "gripper")
    )
    assert set(rows.nonzero().flatten().tolist()) <= set(gripper.tolist())
    assert rows[gripper[:2]].all()
    assert not rows[arm[2:4]].any()


def test_a_checkpoint_holds_the_trunk_once(policy: MultiRobotPolicy, tmp_path: Path) -> None:
    policy.save_pretrained(tmp_path / "all")
    stored = load_file(tmp_path / "all" / "model.safetensors")
    assert set(stored) == set(policy.weights())
    assert sum(name.endswith("vision.trunk.project.weight") for name in stored) == 1
    assert sum(v.numel() for v in stored.values()) < 1.1 * sum(
        p.numel() for p in policy.parameters()
    )
    loaded = load_policy(tmp_path / "all")
    assert isinstance(loaded, MultiRobotPolicy)
    assert loaded.config == policy.config
    with torch.no_grad():
        for name in SPECS:
            batch = windows(name)
            expected = policy.part(name)(batch).features
            assert torch.equal(loaded.part(name)(batch).features, expected)
    shared = [p.data_ptr() for p in loaded.trunk.parameters()]
    assert len(set(shared)) == len(shared)
    assert (
        loaded.part("arm").vision.trunk.project.weight
        is loaded.part("humanoid").vision.trunk.project.weight
    )


def test_one_robot_taken_out_is_an_ordinary_policy(
    policy: MultiRobotPolicy, tmp_path: Path
) -> None:
    policy.robot("gripper").save_pretrained(tmp_path / "gripper")
    alone = load_policy(tmp_path / "gripper")
    assert type(alone) is RT1
    assert alone.spec == SPECS["gripper"]
    assert alone.card["mixture"] == {"robot": "gripper", "learned beside": "arm, humanoid"}
    observation = SPECS["gripper"].fake_observation(2)
    actions, memory = alone.act(observation)
    assert actions.shape == (2, K, 4)
    again, _ = alone.act(observation, memory)
    expected, memory = policy.robot("gripper").act(observation)
    assert torch.equal(actions, expected)
    assert torch.equal(again, policy.robot("gripper").act(observation, memory)[0])
    # its weights are copies: learning on does not change the others
    before = policy.part("arm").vision.trunk.project.weight.clone()
    with torch.no_grad():
        policy.robot("gripper").vision.trunk.project.weight.zero_()
    assert torch.equal(policy.part("arm").vision.trunk.project.weight, before)


def test_maps_of_different_sizes_share_their_positions() -> None:
    policy = build(image_size=None, token_positions=True, cameras=["front"]).eval()
    maps = [tuple(policy.part(name).vision.map_position.shape) for name in SPECS]
    assert maps == [(16, 2, 3), (16, 2, 2), (16, 3, 3)]
    assert policy.get_parameter("trunk.vision.map_position").shape == (16, 2, 3)
    batch = windows("humanoid")
    with torch.no_grad():
        alone = policy.robot("humanoid")(batch).features
        assert torch.equal(alone, policy.part("humanoid")(batch).features)


def test_batch_norm_keeps_statistics_of_each_robot() -> None:
    """One robot's pictures must not shift how another's are normalised, neither in training nor afterwards."""
    policy = build(norm="batch", random_shift=[0, 0], dropout=0.0).train()
    arm, humanoid = windows("arm"), windows("humanoid")
    dark = dataclasses.replace(arm, images={name: x // 8 for name, x in arm.images.items()})
    features = []
    for beside in (arm, dark):
        policy.part("arm")(beside)
        features.append(policy.part("humanoid")(humanoid).features)
    assert torch.equal(*features)
    means = [policy.part(name).vision.trunk.stem[1].running_mean for name in SPECS]
    assert bool((means[0] != means[2]).any())
    assert not means[1].any()  # the gripper has not been seen


def test_tokenizers_and_statistics_are_each_robots_own(tmp_path: Path) -> None:
    values = config(standardise_language=True).model_dump()
    values["robots"]["gripper"]["tokenizer"] = {"type": "bins", "scheme": "quantile", "num_bins": 4}
    wanted = validate(MultiRobotConfig, values)
    policy = wanted.build(joint_spec(wanted.specs))
    rng = np.random.default_rng(0)

    @dataclasses.dataclass
    class Data:
        actions: np.ndarray
        states: np.ndarray
        lengths: np.ndarray
        instructions: list[str]

    data = {
        name: Data(
            rng.uniform(-0.1 * (i + 1), 0.1, (30, spec.action_dim)).astype(np.float32),
            rng.normal(i, 1, (30, spec.state_dim)).astype(np.float32),
            np.array([30]),
            [f"do task {i}"],
        )
        for i, (name, spec) in enumerate(SPECS.items())
    }
    policy.language.preload(
        {
            f"do task {i}": torch.randn(384, generator=torch.Generator().manual_seed(i))
            for i in range(3)
        }
    )
    policy.fit_robots(data)
    tokenizers = [policy.part(name).tokenizer for name in SPECS]
    assert [t.vocab_size for t in tokenizers] == [8, 4, 8]
    assert isinstance(tokenizers[1], BinsTokenizer)
    torch.testing.assert_close(
        tokenizers[1].fitted_range[0], torch.full((4,), -0.2), atol=0.03, rtol=0
    )
    torch.testing.assert_close(
        policy.part("arm").state_mean, torch.as_tensor(data["arm"].states).mean(0)
    )
    torch.testing.assert_close(
        policy.part("gripper").state_mean, torch.as_tensor(data["gripper"].states).mean(0)
    )
    # how instructions are scaled belongs to the trunk: by the texts of all
    assert torch.equal(policy.part("arm").language_mean, policy.part("humanoid").language_mean)
    torch.testing.assert_close(
        policy.part("arm").language_mean,
        policy.language.embed([f"do task {i}" for i in range(3)]).mean(0),
    )
    policy.save_pretrained(tmp_path)
    loaded = load_policy(tmp_path).robot("gripper")
    assert torch.equal(loaded.tokenizer.edges, tokenizers[1].edges)
    assert torch.equal(loaded.state_std, policy.part("gripper").state_std)


def test_a_robot_has_to_be_chosen(policy: MultiRobotPolicy) -> None:
    observation = SPECS["arm"].fake_observation(1)
    for call in (
        lambda: policy.act(observation),
        lambda: policy.step(observation, None),
        lambda: policy.fit([], [], []),
    ):
        with pytest.raises(
            UserError, match=r"for the robots arm, gripper, humanoid .* policy\.robot\('arm'\)"
        ):
            call()
    with pytest.raises(
        UserError, match="no robot 'hand' in this policy; there are: arm, gripper, humanoid"
    ):
        policy.robot("hand")
    with pytest.raises(UserError, match=r"cannot read windows for all; use part"):
        policy(windows("arm"))


def test_configs_that_contradict_themselves() -> None:
    values = config().model_dump()

    def problem(**robots: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            validate(MultiRobotConfig, values | {"robots": robots})
        return str(caught.value)

    spec = SPECS["arm"].to_dict()
    assert "cameras.front: the robot has no camera 'top'; it has: front, wrist" in problem(
        arm={"spec": spec, "cameras": {"front": "top"}}
    )
    assert "'items' cannot name a robot" in problem(items={"spec": spec})
    assert "robots" in problem(**{"a.b": {"spec": spec}})
    assert "spec lacks" in problem(arm={"spec": {"cameras": {}}})
    wanted = config(cameras=["side"])
    with pytest.raises(SpecError, match=r"'gripper' has the camera slots front, none of side"):
        wanted.cameras_of("gripper")
    with pytest.raises(SpecError, match=r"data\.multi_robot"):
        config().build(SPECS["arm"])

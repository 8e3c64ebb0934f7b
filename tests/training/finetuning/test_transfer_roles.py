"""Transfer by roles: a plug-in's own parameters, cameras that are paired as asked, and names that are no names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import gru_policy
import numpy as np
import pytest
import torch
import training_toy
from gru_policy import GRUConfig, GRUPolicy
from training_toy import Toy, ToyConfig

from vla.common import renamed
from vla.config import register, validate
from vla.data import DatasetWriter, Episode
from vla.models import Policy, PolicyConfig, RT1Config, load_policy
from vla.models.policies.mlp import MLPConfig
from vla.models.roles import (
    ACTION_OUTPUT,
    CAMERA_ROWS,
    LANGUAGE,
    STATE_INPUT,
    TOKEN_POSITIONS,
    TRUNK,
    Role,
    RoleError,
    RoleKind,
    camera_input,
    roles_of,
)
from vla.models.transfer.meaning import depends_on_state, require_roles
from vla.training import TrainConfig, train
from vla.training.config import TransferConfig
from vla.training.finetuning.transfer import Transfer, choose_trained, transferred_policy
from vla.types import Spec
from vla.types.dimension_names import made_up_names

OLD = gru_policy.SPEC
ARM = Spec(
    cameras={"top": (32, 32), "wrist": (32, 32)},
    state_names=("joint1", "joint2"),
    action_names=("torque1", "torque2"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_hz=10.0,
)


@register("policies", "gru_without_roles")
class SilentConfig(GRUConfig):
    type: Literal["gru_without_roles"] = "gru_without_roles"  # type: ignore[assignment]

    def build(self, spec: Spec) -> SilentGRU:
        return SilentGRU(self, spec)


class SilentGRU(GRUPolicy):
    """A policy that tells nothing of its own modules."""

    def parameter_roles(self) -> dict[str, Role]:
        return Policy.parameter_roles(self)


@register("policies", "gru_with_wrong_roles")
class WrongConfig(GRUConfig):
    type: Literal["gru_with_wrong_roles"] = "gru_with_wrong_roles"  # type: ignore[assignment]

    def build(self, spec: Spec) -> WrongGRU:
        return WrongGRU(self, spec)


class WrongGRU(GRUPolicy):
    """A policy that takes what reads its state for a part of the trunk."""

    def parameter_roles(self) -> dict[str, Role]:
        roles = super().parameter_roles()
        return {name: TRUNK if role == STATE_INPUT else role for name, role in roles.items()}


def saved(folder: Path, config: PolicyConfig, spec: Spec = OLD) -> Path:
    """The checkpoint of a policy whose parameters are all its own."""
    torch.manual_seed(1)
    policy = config.build(spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_()
    policy.save_pretrained(folder)
    return folder


def carried_over(
    checkpoint: Path, spec: Spec, **transfer: Any
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Transfer, Policy]:
    """Tensors of the checkpoint, tensors of the new policy, what became of them, and the new policy."""
    values = {
        "out": "unused",
        "data": {"path": "unused"},
        "policy": None,
        "init_from": str(checkpoint),
        "transfer": transfer,
        "steps": 1,
    }
    config = TrainConfig.model_validate(values)
    assert config.init_from is not None
    assert config.transfer is not None
    policy, record = transferred_policy(config.init_from, config.transfer, config.policy, spec)
    return load_policy(checkpoint).state_dict(), policy.state_dict(), record, policy


# --- a plug-in ------------------------------------------------------------------------------------------


def test_a_plug_in_is_carried_over_by_its_roles(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "gru", GRUConfig(history=2))
    old, new, record, _ = carried_over(checkpoint, ARM, cameras={"wrist": "left"})
    tensors = record.tensors
    assert record.cameras == {"wrist": "left", "top": "right"}
    # the same shapes, but another state: it begins afresh
    assert old["state_input.weight"].shape == new["state_input.weight"].shape
    assert not torch.equal(old["state_input.weight"], new["state_input.weight"])
    assert tensors.reinitialised["state_input.weight"] == "reads another state"
    # each camera has the encoder of the one in whose place it stands
    for camera, source in record.cameras.items():
        for leaf in ("weight", "bias"):
            name, there = f"encoders.{camera}.{leaf}", f"encoders.{source}.{leaf}"
            assert torch.equal(new[name], old[there])
            assert name in tensors.kept
    assert {name for name in new if name.startswith("gru.")} <= {*tensors.kept}
    heads = {name for name in new if name.startswith("head.net")}
    assert heads
    assert all(tensors.reinitialised[name] == "is for other actions" for name in heads)
    assert tensors.unused == []
    assert tensors.share == 1
    assert any("camera wrist takes the place of left" in line for line in record.lines())


def test_swapped_cameras_of_the_same_robot(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "gru", GRUConfig())
    swapped = {"left": "right", "right": "left"}
    old, new, record, _ = carried_over(checkpoint, OLD, cameras=swapped)
    assert torch.equal(new["encoders.left.weight"], old["encoders.right.weight"])
    assert torch.equal(new["encoders.right.weight"], old["encoders.left.weight"])
    assert "state_input.weight" in record.tensors.kept


def test_a_camera_without_a_partner_begins_afresh(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "gru", GRUConfig())
    three = Spec(**{**ARM.to_dict(), "cameras": {**ARM.cameras, "side": (32, 32)}})
    _, _, record, _ = carried_over(checkpoint, three)
    assert record.tensors.reinitialised["encoders.side.weight"] == (
        "its camera takes no other's place"
    )
    one = Spec(**{**ARM.to_dict(), "cameras": {"left": (32, 32)}})
    old, new, record, _ = carried_over(checkpoint, one, cameras={"left": "right"})
    assert torch.equal(new["encoders.left.weight"], old["encoders.right.weight"])
    assert record.tensors.unused == ["encoders.left.weight", "encoders.left.bias"]


def test_what_a_plug_in_learns_beside_adapters(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "gru", GRUConfig())
    *_, record, policy = carried_over(checkpoint, ARM)
    choose_trained(policy, TransferConfig(lora={"rank": 1}), record.tensors)
    learns = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert {"state_input.weight", "head.net.0.weight"} <= learns
    assert not any(name.startswith("gru.") for name in learns)


def test_without_roles_only_the_same_robot_is_accepted(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "silent", SilentConfig())
    with pytest.raises(
        RoleError,
        match=r"reads another state, is for other actions; but the role of \d+ tensors of SilentGRU "
        r"is unknown \(first 'state_input\.weight'\).*Define SilentGRU\.parameter_roles",
    ):
        carried_over(checkpoint, ARM)
    with pytest.raises(RoleError, match="takes its cameras in another order"):
        carried_over(checkpoint, OLD, cameras={"left": "right", "right": "left"})
    old, new, *_ = carried_over(checkpoint, OLD)
    assert torch.equal(old["state_input.weight"], new["state_input.weight"])
    # whoever names what begins afresh takes the decision upon himself
    named = {"reinitialise": ["state_input.*", "head.*"], "min_loaded": 0}
    _, _, record, _ = carried_over(checkpoint, ARM, **named)
    assert "state_input.weight" in record.tensors.reinitialised
    assert "gru.weight_ih_l0" in record.tensors.kept


def test_another_head_needs_no_roles_of_other_tensors(tmp_path: Path) -> None:
    policy = load_policy(saved(tmp_path / "silent", SilentConfig()))
    roles = policy.parameter_roles()
    cameras = {camera: camera for camera in OLD.cameras}
    other_head = {RoleKind.ACTION_OUTPUT: "is another head"}
    require_roles(policy, policy, (roles, roles), other_head, cameras)
    other_tokenizer = {RoleKind.ACTION_INPUT: "is for another tokenizer"}
    with pytest.raises(RoleError, match="the new policy is for another tokenizer; but the role"):
        require_roles(policy, policy, (roles, roles), other_tokenizer, cameras)


def test_a_plug_in_is_fine_tuned_on_another_robot(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    done = np.arange(5) == 4
    with DatasetWriter(tmp_path / "data", ARM) as writer:
        for _ in range(2):
            images = {
                camera: rng.integers(0, 255, (5, *size, 3), np.uint8)
                for camera, size in ARM.cameras.items()
            }
            episode = Episode(
                images=images,
                state=rng.normal(size=(5, 2)).astype(np.float32),
                actions=rng.uniform(-1, 1, (5, 2)).astype(np.float32),
                rewards=done.astype(np.float32),
                success=done,
                terminated=True,
                instruction="go left",
            )
            writer.add_episode(episode)
    values = {
        "out": str(tmp_path / "run"),
        "data": {"path": str(tmp_path / "data"), "validation_fraction": 0},
        "policy": None,
        "init_from": str(saved(tmp_path / "gru", GRUConfig(history=2))),
        "transfer": {"cameras": {"wrist": "left"}},
        "steps": 2,
        "batch_size": 4,
        "save_every": 2,
        "validate_every": None,
    }
    result = train(TrainConfig.model_validate(values))
    assert Transfer.load(result.out).cameras == {"wrist": "left", "top": "right"}
    policy = load_policy(result.out / "policy")
    assert isinstance(policy, GRUPolicy)
    assert policy.spec == ARM
    assert policy.state_std.tolist() != [1.0, 1.0]
    assert "state_input.weight" in policy.card["transfer"]["re-initialised"]


def test_roles_that_hide_the_state_are_refused(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "wrong", WrongConfig())
    with pytest.raises(
        RoleError,
        match=r"no tensor of WrongGRU has the role STATE_INPUT, though its actions depend",
    ):
        carried_over(checkpoint, ARM)
    carried_over(checkpoint, OLD)


WRONG: dict[str, tuple[dict[str, Role] | Any, str]] = {
    "unknown name": ({"grru.bias": TRUNK}, r"no parameter or buffer 'grru\.bias'"),
    "no role": ({"gru.bias_hh_l0": "trunk"}, r"has 'trunk', expected a vla\.models\.roles\.Role"),
    "unknown camera": (
        {"gru.bias_hh_l0": camera_input("front")},
        r"reads camera 'front', the policy looks through: left, right",
    ),
    "rows of cameras": ({"gru.bias_hh_l0": CAMERA_ROWS}, "has 48 rows for the 2 cameras"),
    "positions": ({"gru.bias_hh_l0": TOKEN_POSITIONS}, "TrajectoryTransformer alone; use TRUNK"),
    "head": ({"head.net.0.weight": TRUNK}, "is of an action head, expected ACTION_OUTPUT"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_roles_that_cannot_be_are_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, message = WRONG[kind]
    checkpoint = saved(tmp_path / "gru", GRUConfig())
    right = GRUPolicy.parameter_roles
    monkeypatch.setattr(GRUPolicy, "parameter_roles", lambda self: right(self) | wrong)
    with pytest.raises(RoleError, match=message):
        carried_over(checkpoint, OLD)


def test_a_policy_that_gives_no_actions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"embed": TRUNK | STATE_INPUT, "norm": TRUNK, "tasks": LANGUAGE, "out": TRUNK}
    monkeypatch.setattr(
        Toy, "parameter_roles", lambda self: Policy.parameter_roles(self) | roles_of(self, named)
    )
    checkpoint = saved(tmp_path / "toy", ToyConfig(), training_toy.SPEC)
    other = Spec(**{**training_toy.SPEC.to_dict(), "action_names": ("p", "q")})
    with pytest.raises(
        RoleError, match=r"is for other actions; but no tensor of Toy has the role ACTION_OUTPUT"
    ):
        carried_over(checkpoint, other)


def test_names_in_roles_of_must_hold_something() -> None:
    policy = GRUPolicy(GRUConfig(), OLD)
    with pytest.raises(
        RoleError, match=r"nothing is called 'encoder' \(did you mean 'encoders'\?\)"
    ):
        roles_of(policy, {"encoder": TRUNK})
    found = roles_of(policy, {"encoders": TRUNK, "encoders.left.bias": ACTION_OUTPUT})
    assert found["encoders.left.weight"] == TRUNK
    assert found["encoders.left.bias"] == ACTION_OUTPUT
    assert "gru.weight_ih_l0" not in found


# --- built-in policies ----------------------------------------------------------------------------------


def test_the_first_layer_of_an_mlp_belongs_to_its_state(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "mlp", MLPConfig(hidden=8, depth=3))
    _, _, record, _ = carried_over(checkpoint, ARM)
    assert record.tensors.reinitialised["trunk.0.weight"] == "reads another state"
    assert {"trunk.2.weight", "trunk.4.weight"} <= {*record.tensors.kept}
    _, _, record, _ = carried_over(checkpoint, OLD)
    assert {"trunk.0.weight", "head.out.weight"} <= {*record.tensors.kept}


def test_whether_actions_depend_on_the_state() -> None:
    small = {"trunk": "test_efficientnet", "stride": 16, "width": 16, "depth": 1, "heads": 2}
    for state_token in (False, True):
        torch.manual_seed(0)
        config = RT1Config(**small, key_dim=8, language_dim=16, state_token=state_token)
        policy = config.build(OLD).eval()
        policy.language.preload({"go left": torch.ones(policy.language.dim)})
        torch.nn.init.normal_(policy.head.weight)
        before = torch.random.get_rng_state()
        assert depends_on_state(policy) is state_token
        assert torch.equal(torch.random.get_rng_state(), before)


# --- names that are no names ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "made_up"),
    [
        (["action_0", "action_1", "gripper"], ["action_0", "action_1"]),
        (["robot0_eef_pos_0", "robot0_eef_pos_1"], ["robot0_eef_pos_0", "robot0_eef_pos_1"]),
        (["x.0", "y.1", "x.2"], ["x.0", "y.1", "x.2"]),
        (["action"], ["action"]),
        (["dx", "dy", "grip"], []),
        (["joint_1", "joint_2"], []),
        (["joint1", "joint2"], []),
        (["hip_1", "ankle_1", "hip_2", "ankle_2"], []),
        ([], []),
    ],
)
def test_which_names_only_number_dimensions(names: list[str], made_up: list[str]) -> None:
    assert made_up_names(names) == made_up


def test_numbered_dimensions_of_two_robots_are_never_the_same(tmp_path: Path) -> None:
    numbered = Spec(
        {}, ("state_0", "state_1"), ("action_0", "action_1"), (-1.0,) * 2, (1.0,) * 2, 10.0
    )
    checkpoint = saved(tmp_path / "mlp", MLPConfig(hidden=8, depth=3), numbered)
    _, _, record, _ = carried_over(checkpoint, numbered)
    reasons = record.tensors.reinitialised
    assert "'state_0' was made up" in reasons["trunk.0.weight"]
    assert "'action_0' was made up" in reasons["head.out.weight"]
    # the user knows better: the same robot, or everything that fits
    for said in ({"keep_statistics": True}, {"reinitialise": []}):
        _, _, record, _ = carried_over(checkpoint, numbered, **said)
        assert {"trunk.0.weight", "head.out.weight"} <= {*record.tensors.kept}


# --- former names ---------------------------------------------------------------------------------------


@pytest.fixture
def _announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been announced yet: every former name is announced once in a process."""
    monkeypatch.setattr(renamed, "_announced", set())


@pytest.mark.usefixtures("_announced")
def test_former_keys_of_transfer_still_work() -> None:
    with pytest.warns(renamed.RenamedWarning, match="remake is now called reinitialise"):
        config = validate(TransferConfig, {"remake": ["head.*"], "least_kept": 0.25})
    assert config.reinitialise == ["head.*"]
    assert config.min_loaded == 0.25


def test_the_record_of_an_older_version_is_read(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "gru", GRUConfig())
    _, _, record, _ = carried_over(checkpoint, ARM)
    record.save(tmp_path)
    path = tmp_path / "transfer.json"
    values = json.loads(path.read_text())
    former = {"reinitialised": "anew", "unused": "left"}
    values["tensors"] = {former.get(key, key): x for key, x in values["tensors"].items()}
    assert "anew" in values["tensors"]
    path.write_text(json.dumps(values))
    assert Transfer.load(tmp_path) == record


@pytest.mark.usefixtures("_announced")
def test_former_members_of_a_policy_still_work() -> None:
    policy = GRUPolicy(GRUConfig(), OLD)
    with pytest.warns(renamed.RenamedWarning, match="trained is now called Policy.unwrapped"):
        assert policy.trained is policy
    with pytest.warns(renamed.RenamedWarning, match="still is now called Policy.frozen_modules"):
        policy.still = frozenset(["gru"])
    assert policy.still == policy.frozen_modules == frozenset(["gru"])
    assert not policy.train().gru.training


@pytest.mark.usefixtures("_announced")
def test_a_plug_in_may_define_former_members(tmp_path: Path) -> None:
    inside = GRUPolicy(GRUConfig(), OLD)
    with pytest.warns(renamed.RenamedWarning):

        class Wrapper(GRUPolicy):
            still = frozenset(["gru"])

            @property
            def trained(self) -> Policy:
                return inside

            def save_besides(self, folder: Path) -> None:
                super().save_besides(folder)
                (folder / "extra.txt").write_text("of a plug-in")

    wrapper = Wrapper(GRUConfig(), OLD)
    wrapper.save_pretrained(tmp_path)
    assert (tmp_path / "extra.txt").read_text() == "of a plug-in"
    assert wrapper.unwrapped is inside
    assert wrapper.frozen_modules == frozenset(["gru"])

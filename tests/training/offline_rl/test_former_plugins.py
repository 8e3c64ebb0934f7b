"""Plug-ins and configs that were written for former names go on working, and say once what to write
now."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tabular import CRITIC, DISCOUNT, Step, batch_of, robot, two_ways
from torch import Tensor

from vla.common import renamed
from vla.common.renamed import RenamedWarning
from vla.config import load_config
from vla.models.policies.decision_transformer import DecisionTransformerConfig
from vla.models.policies.guided import (
    BestOfN,
    CoordinateAscent,
    CriticGuidedConfig,
    CriticGuidedPolicy,
)
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policy import load_policy
from vla.training.losses import masked_mean
from vla.training.objective import Objective
from vla.training.objectives.actor_critic import (
    ActorCritic,
    ActorCriticConfig,
    build_actor_critic,
)
from vla.training.offline_rl.extractions.base import Extraction, ExtractionConfig, imitation
from vla.training.offline_rl.extractions.guided import ArgmaxQConfig, BestOfNConfig
from vla.training.offline_rl.extractions.weighted_bc import WeightedBCConfig
from vla.training.offline_rl.values.base import Critics, ValueConfig
from vla.training.offline_rl.values.expectile import Expectile, ExpectileConfig

BATCH = batch_of(
    [Step(0, -0.5, later=(1, 0.5)), Step(0, 0.5), Step(1, 0.5, reward=1.0), Step(1, -0.5)], 2
)


@pytest.fixture(autouse=True)
def _nothing_was_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())


# --- plug-ins -------------------------------------------------------------------------------------


class FormerSarsaConfig(ValueConfig):
    def build(self, feature_dim: int, spec: Any, chunk: int) -> FormerSarsa:
        return FormerSarsa(self, feature_dim, spec, chunk, state_value=False)


class FormerSarsa(Critics):
    """As value parts were written: a pair comes back, and the contract's words are the former
    ones."""

    looks_ahead = True

    @property
    def held_up_by(self) -> list[str]:
        return [*super().held_up_by, "an option of its own"]

    def loss(self, now: Any, later: Any) -> tuple[Tensor, dict[str, Tensor]]:
        value_BT = self.target_q(later.moment.features, later.moment.batch.actions)
        target_BT = self.target(now, later, value_BT)
        q_EBT = self.action_critic(now.features, now.batch.actions)
        loss = masked_mean((q_EBT - target_BT).square().sum(0), later.known)
        return loss, {"q_data": loss.detach()}

    def advantage(self, now: Any) -> Tensor:
        assert now.later is not None
        with torch.no_grad():
            return self.action_critic(now.features, now.batch.actions).amin(0)


class FormerIQLConfig(ExpectileConfig):
    def build(self, feature_dim: int, spec: Any, chunk: int) -> FormerIQL:
        return FormerIQL(self, feature_dim, spec, chunk)


class FormerIQL(Expectile):
    """Derived from a value part of the package, whose loss it unpacks as the pair that it was."""

    def loss(self, now: Any, later: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(now, later)
        return loss, metrics | {"own": loss.detach()}


class FormerBCConfig(ExtractionConfig):
    def build(self, policy: Any, value: Any) -> FormerBC:
        return FormerBC()


class FormerBC(Extraction):
    """Learns at every second step."""

    done = 0

    @property
    def rests(self) -> bool:
        return self.done % 2 == 1

    def loss(self, now: Any, value: Any) -> tuple[Tensor, dict[str, Tensor]]:
        weights_BT = value.advantage(now).exp()
        return masked_mean(weights_BT * imitation(now), now.batch.mask), {}

    def after_step(self) -> None:
        self.done += 1


def learned(value: ValueConfig, extraction: ExtractionConfig) -> tuple[MLPPolicy, ActorCritic]:
    """Policy and objective after three steps; unregistered parts are joined as presets are."""
    policy = two_ways(2)
    objective = build_actor_critic(policy, value, extraction, discount=DISCOUNT).train()
    parameters = [p for p in (*policy.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective.loss(policy, BATCH)[0].backward()
        optimizer.step()
        objective.after_step(policy)
    return policy, objective


def test_value_part_and_extraction_of_former_names() -> None:
    before = [p.detach().clone() for p in two_ways(2).parameters()]
    policy, objective = learned(FormerSarsaConfig(critic=CRITIC), FormerBCConfig())
    assert not all(torch.equal(*pair) for pair in zip(before, policy.parameters(), strict=True))
    assert objective.value.return_bounds == ["an option of its own"]
    assert objective.skips_policy_update
    assert objective.policy_rests
    objective.after_step(two_ways(2))
    assert not objective.skips_policy_update


def test_a_derived_value_part_learns_what_its_base_does() -> None:
    torch.manual_seed(0)
    base, _ = learned(ExpectileConfig(critic=CRITIC), WeightedBCConfig())
    derived, _ = learned(FormerIQLConfig(critic=CRITIC), WeightedBCConfig())
    # the pair has no estimates: the advantage is computed a second time, and is the same
    pairs = zip(base.parameters(), derived.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_an_objective_of_the_former_name() -> None:
    with pytest.warns(RenamedWarning, match=r"Former\.policy_rests is now called skips_policy"):

        class Former(Objective):
            @property
            def policy_rests(self) -> bool:
                return True

            def loss(self, policy: Any, batch: Any) -> Any:
                raise NotImplementedError

            def validate(self, policy: Any, batch: Any) -> Any:
                raise NotImplementedError

    assert Former().skips_policy_update


@pytest.mark.parametrize(
    ("module", "former", "name"),
    [
        ("vla.training.values.base", "Moment", "Transition"),
        ("vla.training.offline_rl.values.base", "Moment", "Transition"),
        ("vla.models.policies.guided", "GuidedPolicy", "CriticGuidedPolicy"),
        ("vla.models.policies.guided", "GuidedConfig", "CriticGuidedConfig"),
        ("vla.models.policies.guided", "GuidedActions", "CriticGuidedActions"),
        ("vla.models.policies.guided", "Climb", "CoordinateAscent"),
        ("vla.models.policies.guided", "guide", "critic_guided"),
        ("vla.models.policies.guided", "check_rule", "check_selection"),
    ],
)
def test_former_names_can_be_imported(module: str, former: str, name: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # some modules have moved as well
        found = importlib.import_module(module)
    with pytest.warns(RenamedWarning, match=rf"{former} is now called {name}"):
        assert getattr(found, former) is getattr(found, name)


# --- configs --------------------------------------------------------------------------------------


def test_former_keys_of_extractions() -> None:
    rule = {"type": "best_of_n", "samples": 3, "sharpness": 2.0}
    with pytest.warns(RenamedWarning) as said:
        found = load_config(BestOfNConfig, {"type": "best_of_n", "rule": rule})
    assert found.selection == BestOfN(samples=3, inverse_temperature=2.0)
    lines = [str(warning.message) for warning in said]
    assert [line.partition(";")[0] for line in lines] == [
        "rule is now called selection",
        "sharpness is now called inverse_temperature",
    ]
    climb = {"type": "climb", "sweeps": 3}
    with pytest.warns(RenamedWarning, match="type: climb is now called type: coordinate_ascent"):
        found = load_config(ArgmaxQConfig, {"type": "argmax_q", "rule": climb})
    assert found.selection == CoordinateAscent(sweeps=3)
    # what is written today has today's words, and is read back without a word
    assert load_config(ArgmaxQConfig, found.model_dump()) == found


def test_a_guided_checkpoint_with_former_keys_is_read(tmp_path: Path) -> None:
    tokenizer = {"type": "bins", "num_bins": 4}
    torch.manual_seed(0)
    inside = MLPConfig(hidden=8, depth=1, head={"type": "categorical"}, tokenizer=tokenizer)
    config = CriticGuidedConfig(
        policy=inside, critic={"hidden": 8}, selection={"type": "coordinate_ascent", "sweeps": 1}
    )
    policy = config.build(robot(2)).eval()
    policy.save_pretrained(tmp_path)
    header = json.loads((tmp_path / "config.json").read_text())
    selection = header["config"].pop("selection")
    header["config"]["rule"] = selection | {"type": "climb"}
    (tmp_path / "config.json").write_text(json.dumps(header))
    with pytest.warns(RenamedWarning):
        loaded = load_policy(tmp_path)
    assert isinstance(loaded, CriticGuidedPolicy)
    assert loaded.config == config
    observation = robot(2).fake_observation(3)
    assert torch.equal(loaded.act(observation)[0], policy.act(observation)[0])


def test_an_objective_with_former_keys_trains_as_before() -> None:
    actions = []
    for selection in ({"rule": {"samples": 4}}, {"selection": {"samples": 4}}):
        policy = two_ways(1)
        value = {"type": "td", "next_actions": "data", "critic": CRITIC}
        extraction = {"type": "best_of_n", **selection}
        config = {"value": value, "extraction": extraction, "discount": DISCOUNT}
        objective = ActorCriticConfig.model_validate(config).build(policy)
        torch.manual_seed(0)
        actions.append(objective.deploy(policy.eval()).act(robot(1).fake_observation(2))[0])
    assert torch.equal(*actions)


# --- what a policy says of itself -----------------------------------------------------------------


@pytest.mark.parametrize("condition", ["return", "success", "none"])
def test_a_guided_policy_says_what_the_policy_inside_says(condition: str) -> None:
    inside = DecisionTransformerConfig(
        width=8, depth=1, heads=1, history=2, max_timestep=8, condition=condition
    )
    guided = CriticGuidedConfig(policy=inside, critic={"hidden": 8}).build(robot(2))
    for policy in (guided, guided.policy):
        assert policy.return_conditioned is (condition != "none")
        assert policy.success_conditioned is (condition == "success")
        assert policy.counts_steps
    plain = two_ways(2)
    assert not any((plain.return_conditioned, plain.success_conditioned, plain.counts_steps))

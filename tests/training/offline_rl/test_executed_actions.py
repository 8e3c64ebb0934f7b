"""Critics value what control executes of a chunk, and look ahead as far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vla.config import UserError, lookup
from vla.control.batched_inference import BatchedPolicy
from vla.models.critics import ActionCritic, CriticConfig
from vla.models.policies.guided import CriticGuidedPolicy
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policy import load_policy
from vla.sim_eval.rollouts.settings import RolloutSettings
from vla.training.objective import ObjectiveError
from vla.training.objectives.actor_critic import ActorCritic, ActorCriticConfig
from vla.training.offline_evaluation.fitted_q import FittedQConfig
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0, -1.0), (1.0, 2.0), control_hz=10.0)
CRITIC = {"hidden": 8, "depth": 1, "executed": 2}
PRESETS = ("iql", "awac", "td3_bc", "kl", "cql", "cal_ql")
K = 4


def policy_of(head: str = "gaussian") -> MLPPolicy:
    torch.manual_seed(0)
    options = {"squash": "full"} if head == "gaussian" else {}
    config = MLPConfig(
        hidden=8,
        depth=1,
        chunk=K,
        head={"type": head, **options},
        tokenizer={"type": "bins", "num_bins": 4},
    )
    return config.build(SPEC)


def test_q_is_blind_to_what_is_not_executed() -> None:
    critic = ActionCritic(CriticConfig(**CRITIC), 3, SPEC, K)
    features, actions = torch.randn(2, 5, 3), torch.rand(6, 2, 5, K, 2)
    later, first = actions.clone(), actions.clone()
    later[..., 2:, :] += 1
    first[..., 1, :] += 1
    q = critic(features, actions)
    assert torch.equal(critic(features, later), q)
    assert not torch.isclose(critic(features, first), q).any()


@pytest.mark.parametrize("name", PRESETS)
def test_targets_look_ahead_as_far_and_imitation_sees_the_whole_chunk(name: str) -> None:
    policy = policy_of()
    config = {"type": name, "critic": CRITIC, "discount": 0.5}
    objective = lookup("objectives", name).model_validate(config).build(policy)
    assert isinstance(objective, ActorCritic)
    assert objective.next_step == 2
    batch = SPEC.fake_batch(3, 1 + 2, K)
    lookahead = objective.lookahead(policy, batch)
    assert lookahead is not None
    expected = batch.rewards[:, :1] + 0.5 * batch.rewards[:, 1:2]
    torch.testing.assert_close(lookahead.returns, expected)
    assert torch.equal(lookahead.transition.batch.state, batch.state[:, 2:])
    loss, metrics = objective.loss(policy, batch)
    assert torch.isfinite(loss)
    if "bc_loss" in metrics:
        own = policy(batch.steps(0, 1)).actions
        imitated = own.loss(batch.actions[:, :1], batch.action_mask[:, :1]).mean()
        torch.testing.assert_close(metrics["bc_loss"], imitated.detach())


def guided(selection: dict[str, Any]) -> tuple[MLPPolicy, CriticGuidedPolicy]:
    policy = policy_of("categorical").eval()
    config = {"value": {"type": "expectile", "critic": CRITIC}, "extraction": selection}
    deployed = ActorCriticConfig.model_validate(config).build(policy).deploy(policy)
    assert isinstance(deployed, CriticGuidedPolicy)
    return policy, deployed


def test_coordinate_ascent_changes_only_what_is_executed() -> None:
    policy, deployed = guided({"type": "argmax_q", "selection": {"min_prob": 0.0}})
    batch = SPEC.fake_batch(16, 1, K)
    plain, chosen = policy(batch).actions.mode(), deployed(batch).actions.mode()
    assert torch.equal(chosen[..., 2:, :], plain[..., 2:, :])
    assert not torch.equal(chosen[..., :2, :], plain[..., :2, :])


def test_control_is_held_to_what_was_valued(tmp_path: Path) -> None:
    """By the checkpoint alone: the run's config is not asked."""
    guided({"type": "best_of_n"})[1].save_pretrained(tmp_path)
    loaded = load_policy(tmp_path)
    assert isinstance(loaded, CriticGuidedPolicy)
    BatchedPolicy(loaded, RolloutSettings(replan_every=2))
    message = r"replan_every is 4, .*first 2 actions: set replan_every=2, .*critic\.executed=4"
    with pytest.raises(UserError, match=message):
        BatchedPolicy(loaded, RolloutSettings(replan_every=4))
    # a policy that no critic guides may be asked again whenever one likes
    BatchedPolicy(policy_of().eval(), RolloutSettings(replan_every=4))


def test_what_cannot_be_executed_or_valued_is_refused() -> None:
    policy = policy_of()
    long = {"type": "expectile", "critic": CRITIC | {"executed": 5}}
    with pytest.raises(UserError, match=r"critic\.executed: is 5, but a chunk has 4 .*use 4"):
        ActorCriticConfig.model_validate({"value": long}).build(policy)
    awr = lookup("objectives", "awr").model_validate({"type": "awr", "critic": {"executed": 2}})
    with pytest.raises(ObjectiveError, match=r"critic\.executed: 2 would do nothing.*drop it"):
        awr.build(policy)
    with pytest.raises(ValidationError, match=r"critic\.executed: 2 would do nothing"):
        FittedQConfig.model_validate({"critic": {"executed": 2}})

"""Values of action tokens on problems whose solution is known: Q-Transformer and ILQL, their
targets and their limits.

The chain: an action is two tokens of three bins each, the discount 0.9.

    start: (2, 1) leads to the goal state; (0, any) ends the task with 0.5; all else stays.
    goal:  (0, 2) ends the task with 1; (1, any) ends it with nothing; all else leads back to the
        start.

Hence V(goal) = 1 and V(start) = 0.9, and staying at the start is worth 0.81.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_toy
from safetensors.torch import load_file, save_file
from token_chain import (
    ELSEWHERE,
    END,
    GOAL,
    ONE_TOKEN,
    SPEC,
    START,
    Step,
    chain,
    learn,
    one_step_batch,
    toy,
    values_of,
)
from torch import Tensor

from vla.config import ConfigError
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.models.policies.mlp import MLPConfig, MLPPolicy
from vla.models.policies.q_transformer import QTransformer, QTransformerConfig
from vla.models.policy import load_policy
from vla.training import TrainConfig, train
from vla.training.objective import Learner, ObjectiveError
from vla.training.objectives.ilql import ILQLConfig
from vla.training.objectives.q_transformer import QTransformerObjectiveConfig
from vla.training.optimizer import build_optimizer
from vla.types import Batch, Observation


def acted(policy: MLPPolicy, state: tuple[float, float]) -> list[float]:
    actions, _ = policy.eval().act(Observation({}, torch.tensor([state]), ["act"]))
    return [round(value, 4) for value in actions[0].flatten().tolist()]


CHOSEN = {START: [0.6667, 0.0], GOAL: [-0.6667, 0.6667]}
"""The middles of the bins of the best actions."""
KNOWN = {  # of the first token, and of the second after each first one
    START: ([0.5, 0.81, 0.9], [[0.5, 0.5, 0.5], [0.81, 0.81, 0.81], [0.81, 0.9, 0.81]]),
    GOAL: ([1.0, 0.0, 0.81], [[0.81, 0.81, 1.0], [0.0, 0.0, 0.0], [0.81, 0.81, 0.81]]),
}


# --- Q-Transformer --------------------------------------------------------------------------------


def test_chain_has_its_known_values():
    """Rewards count, true ends do not bootstrap, cut episodes say nothing, and what is decoded is
    what was learned."""
    policy = toy(SPEC, "q_values", 3)
    config = QTransformerObjectiveConfig(discount=0.9, conservative_weight=0.0, target_rate=0.1)
    numbers = learn(policy, config.build(policy), chain(), 300)
    for state, (first, second) in KNOWN.items():
        with torch.no_grad():
            values = values_of(policy, state, [[0, 0], [1, 0], [2, 0]])[:, 0]
        assert torch.allclose(values[0, 0], torch.tensor(first), atol=0.05), (state, values[0, 0])
        assert torch.allclose(values[:, 1], torch.tensor(second), atol=0.05), (state, values[:, 1])
        assert acted(policy, state) == CHOSEN[state]
    assert numbers["terminals"] == pytest.approx(7 / 24)  # three at the start, four at the goal
    assert numbers["outcome_known"] == pytest.approx(18 / 24)
    assert numbers["monte_carlo_floor"] == 0


def bandit() -> Batch:
    """Of four ids, 1 is tried three times in four and brings 0.8, 2 brings 0.4; the others are
    never tried."""
    steps: list[Step] = [(START, (1,), 0.8, END)] * 3 + [(START, (2,), 0.4, END)]
    return one_step_batch(ONE_TOKEN, 4, steps)


def test_conservative_values_are_the_minimum_of_the_loss():
    """p y / (p + (1 - p) / (V - 1)) for what was tried, 0 for what was not: never one half."""
    policy = toy(ONE_TOKEN, "q_values", 4)
    learn(policy, QTransformerObjectiveConfig(discount=0.9).build(policy), bandit(), 200)
    with torch.no_grad():
        values = values_of(policy, START, [[0]])[0, 0, 0]
    assert torch.allclose(values, torch.tensor([0.0, 0.72, 0.2, 0.0]), atol=0.03), values


def test_conservative_cross_entropy_ranks_the_data_first():
    policy = toy(ONE_TOKEN, "q_values", 4)
    config = QTransformerObjectiveConfig(conservative="cross_entropy", conservative_weight=0.1)
    learn(policy, config.build(policy), bandit(), 150)
    with torch.no_grad():
        values = values_of(policy, START, [[0]])[0, 0, 0]
    assert values.argmax() == 1
    assert values[1].item() == pytest.approx(0.8, abs=0.1)
    assert values[[0, 3]].max() < 0.25


def test_loss_does_not_grow_with_the_batch():
    policy, batch = toy(SPEC, "q_values", 3), chain()
    objective = QTransformerObjectiveConfig(discount=0.9).build(policy)
    loss, metrics = objective.loss(policy, batch)
    names = (
        "state",
        "actions",
        "action_mask",
        "rewards",
        "terminals",
        "returns_to_go",
        "mask",
        "keyframe",
        "success",
    )
    twice = replace(
        batch,
        instruction=batch.instruction * 2,
        **{
            name: torch.cat([getattr(batch, name)] * 2)
            for name in (*names, "timesteps", "task_index")
        },
    )
    loss_twice, metrics_twice = objective.loss(policy, twice)
    assert loss_twice.item() == pytest.approx(loss.item(), rel=1e-5)
    assert metrics_twice["conservative"].item() == pytest.approx(
        metrics["conservative"].item(), rel=1e-5
    )
    assert objective.weight(twice) == 2 * objective.weight(batch) == 48


def test_floor_is_the_return_of_the_very_trajectory():
    """Where the targets never move, only the floor can lift a value: for each trajectory to its own
    return."""
    steps: list[Step] = [
        (START, (0,), 0.0, START),
        (START, (1,), 0.0, START),
        (START, (2,), 0.0, START),
    ]
    batch = one_step_batch(ONE_TOKEN, 3, steps)
    batch = replace(batch, returns_to_go=torch.tensor([0.9, 0.3, 0.0])[:, None].expand(3, 2))
    for floor, expected in ((True, [0.9, 0.3, 0.045]), (False, [0.045] * 3)):
        policy = toy(ONE_TOKEN, "q_values", 3, initial_value=0.05)
        torch.nn.init.zeros_(
            policy.head.out.weight
        )  # the target says 0.05 of everything, and 0.9 of that is what follows
        config = QTransformerObjectiveConfig(
            discount=0.9, conservative_weight=0.0, target_rate=1e-9, monte_carlo_floor=floor
        )
        numbers = learn(policy, config.build(policy), batch, 120)
        with torch.no_grad():
            values = values_of(policy, START, [[0]])[0, 0, 0]
        assert torch.allclose(values, torch.tensor(expected), atol=0.03), values
        assert numbers["monte_carlo_floor"] == pytest.approx(2 / 3 if floor else 0.0)


def chunks_batch(cut: bool = False) -> Batch:
    """Chunks of two actions over three steps: at the start one that goes on to the goal, elsewhere
    one that ends after its first action; at the goal one that ends too."""
    batch = ONE_TOKEN.fake_batch(3, 3, 2)
    yes, no = True, False
    return replace(
        batch,
        state=torch.tensor([[START, START, GOAL], [ELSEWHERE] * 3, [GOAL] * 3]),
        actions=torch.tensor([[-0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])[:, None, :, None]
        .expand(3, 3, 2, 1)
        .contiguous(),
        action_mask=torch.tensor([[yes, yes], [yes, no], [yes, no]])[:, None]
        .expand(3, 3, 2)
        .contiguous(),
        rewards=torch.tensor([[0.1, 0.2, 0.0], [0.4, 0.9, 0.0], [0.5, 0.0, 0.0]]),
        terminals=torch.tensor([[no, no, no], [yes, no, no], [yes, no, no]]),
        returns_to_go=torch.zeros(3, 3),
        mask=torch.tensor([[yes, yes, not cut], [yes, no, no], [yes, no, no]]),
    )


def test_a_chunk_is_one_decision_over_its_steps():
    """0.1 + 0.9 * 0.2 + 0.9^2 * V(goal), with V(goal) = 0.5; an end within the chunk stops rewards
    and bootstrap, and its last token is the last one that was executed. Nothing but one chunk is
    tried anywhere, so the pull to 0 moves no value."""
    policy = toy(ONE_TOKEN, "q_values", 2, chunk=2)
    objective = QTransformerObjectiveConfig(discount=0.9, target_rate=0.2).build(policy)
    assert objective.next_step == 2
    learn(policy, objective, chunks_batch(), 250)
    with torch.no_grad():
        start, elsewhere, goal = (
            values_of(policy, state, [ids])[0, 0]
            for state, ids in ((START, [0, 1]), (ELSEWHERE, [1, 1]), (GOAL, [1, 1]))
        )
    assert torch.allclose(start, torch.tensor([[0.685, 0.0], [0.0, 0.685]]), atol=0.03), start
    assert torch.allclose(elsewhere[0], torch.tensor([0.0, 0.4]), atol=0.03), elsewhere
    assert torch.allclose(goal[0], torch.tensor([0.0, 0.5]), atol=0.03), goal


def test_a_cut_chunk_has_no_outcome():
    policy = toy(ONE_TOKEN, "q_values", 2, chunk=2)
    objective = QTransformerObjectiveConfig(discount=0.9, conservative_weight=0.0).build(policy)
    _, whole = objective.loss(policy, chunks_batch())
    _, cut = objective.loss(policy, chunks_batch(cut=True))
    assert whole["outcome_known"] == 1
    assert cut["outcome_known"].item() == pytest.approx(2 / 3)
    assert cut["terminals"] == whole["terminals"]


# --- ILQL -----------------------------------------------------------------------------------------


def test_ilql_values_are_expectiles_token_by_token():
    """Two fair coins, 1 where both show 1: the 0.7-expectile of a fair coin for q is 0.7 q."""
    steps: list[Step] = [(START, (a, b), float(a and b), END) for a in range(2) for b in range(2)]
    policy = toy(SPEC, "ilql", 2)
    objective = ILQLConfig(discount=0.9, conservative_weight=0.0, target_rate=0.1).build(policy)
    numbers = learn(policy, objective, one_step_batch(SPEC, 2, steps), 200)
    with torch.no_grad():
        outputs = values_of(policy, START, [[0, 0], [1, 0]])
    v, q = outputs.v[:, 0], outputs.q[:, :, 0]
    assert torch.allclose(v, torch.tensor([[0.49, 0.0], [0.49, 0.7]]), atol=0.03), v
    for member in q:
        assert torch.allclose(member[0, 0], torch.tensor([0.0, 0.7]), atol=0.04), member
        assert torch.allclose(member[:, 1], torch.tensor([[0.0, 0.0], [0.0, 1.0]]), atol=0.04), (
            member
        )
    assert torch.allclose(
        outputs.logits.softmax(-1), torch.tensor(0.5), atol=0.03
    )  # imitation knows nothing of rewards
    assert numbers["imitation"] == pytest.approx(np.log(2), abs=0.01)
    assert acted(policy, START) == [0.5, 0.5]


def test_ilql_on_the_chain():
    """The fixed point of the 0.95-expectiles, solved by bisection: below the best values, since
    every action is tried equally often; what they prefer is the best."""
    policy = toy(SPEC, "ilql", 3, beta=40.0)
    config = ILQLConfig(discount=0.9, expectile=0.95, conservative_weight=0.0, target_rate=0.1)
    learn(policy, config.build(policy), chain(), 250)
    with torch.no_grad():
        at_start, at_goal = (
            values_of(policy, state, [[0, 0], [2, 0]]).v[:, 0] for state in (START, GOAL)
        )
    assert torch.allclose(at_start, torch.tensor([[0.783, 0.5], [0.783, 0.810]]), atol=0.04), (
        at_start
    )
    assert torch.allclose(at_goal, torch.tensor([[0.913, 0.972], [0.913, 0.705]]), atol=0.04), (
        at_goal
    )
    assert {state: acted(policy, state) for state in CHOSEN} == CHOSEN


def test_ilql_acts_by_the_target_q_which_its_checkpoint_holds(tmp_path):
    policy = toy(SPEC, "ilql", 3, beta=40.0)
    objective = ILQLConfig(discount=0.9, conservative_weight=0.0, target_rate=0.1).build(policy)
    learn(policy, objective, chain(), 60)
    slow, target = policy.head.slow, objective.target.network
    for name, tensor in target.named_parameters():
        assert torch.equal(dict(slow.named_buffers())[name], tensor), name
    with torch.no_grad():
        for q in policy.head.out.q:  # what learns has gone astray since: nobody acts by it yet
            q.out.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))
    chosen = {state: acted(policy, state) for state in CHOSEN}
    assert chosen[GOAL] != [0.6667, 0.6667]
    objective.deploy(policy).save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert {state: acted(loaded, state) for state in CHOSEN} == chosen
    batch = SPEC.fake_batch(2, 1)
    assert torch.equal(
        loaded(batch).actions.log_prob(batch.actions), policy(batch).actions.log_prob(batch.actions)
    )


def test_ilql_checkpoints_without_a_slow_copy_act_by_their_own_q(tmp_path):
    policy = toy(SPEC, "ilql", 3, beta=40.0).eval()
    with torch.no_grad():
        for q in policy.head.out.q:
            q.out.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    policy.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if ".slow." not in name}
    save_file(kept, file, metadata={"format": "pt"})
    (tmp_path / "old" / "checksums.json").unlink()  # old checkpoints have none
    loaded = load_policy(tmp_path / "old")
    assert acted(loaded, START) == [0.6667, 0.6667]  # the last bins, by the Q that was stored
    assert acted(policy, START) != [0.6667, 0.6667]


def test_ilql_stops_where_its_values_leave_what_rewards_allow(tmp_path):
    windows = Windows(
        EpisodeDataset(write(tmp_path / "data")), history=1, chunk=1, next_step=1, discount=0.9
    )
    policy, batch = toy(SPEC, "ilql", 3), windows.batch(np.arange(8))
    objective = ILQLConfig(discount=0.9).build(policy).train()
    objective.fit(windows)
    old = {
        name: value
        for name, value in objective.state_dict().items()
        if name not in ("steps", "q_size")
    }
    objective.loss(policy, batch)
    objective.after_step(policy)
    with torch.no_grad():
        for q in policy.head.out.q:
            q.out.bias.fill_(1e4)
    objective.loss(policy, batch)
    with pytest.raises(
        ObjectiveError,
        match=r"Q diverges: its mean size is .* at step 2, .* allow 6; lower optim\.lr",
    ):
        objective.after_step(policy)
    again = ILQLConfig(discount=0.9).build(policy)
    again.load_state_dict(objective.state_dict())
    assert (again.q_size, again.steps) == (objective.q_size, 2)
    ILQLConfig(discount=0.9).build(policy).load_state_dict(old)  # saved before values were watched


# --- target copies --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["head", "policy"])
@pytest.mark.parametrize(
    ("head", "config_class"), [("q_values", QTransformerObjectiveConfig), ("ilql", ILQLConfig)]
)
def test_targets_follow_and_are_never_trained(head, config_class, target):
    policy, batch = toy(SPEC, head, 3), chain()
    objective = config_class(target=target, target_rate=0.25).build(policy)
    with (
        torch.no_grad()
    ):  # what the policy becomes after the objective was built: fitted, or loaded
        policy.state_mean.fill_(0.5)
        policy.head.position.add_(1.0)
    followed = policy.head if target == "head" else policy
    before = {
        name: value.clone()
        for name, value in followed.state_dict().items()
        if "slow." not in name  # the copy that the head of ILQL decodes by
    }
    learner = Learner(policy, objective)
    optimizer = build_optimizer(
        learner, training_toy.ToyTrainConfig(out="", data={"path": "unread"}, steps=1).optim
    )
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in policy.parameters()}
    learner.train()
    assert not objective.target.network.training
    objective.loss(policy, batch)[0].backward()
    copied = objective.target.network.state_dict()
    assert all(torch.equal(copied[name], value) for name, value in before.items())
    assert all(p.grad is None for p in objective.parameters())
    with torch.no_grad():
        policy.head.position.add_(1.0)
    objective.after_step(policy)
    name = "position" if target == "head" else "head.position"
    assert torch.allclose(
        objective.target.network.state_dict()[name], before[name] + 0.25, atol=1e-6
    )

    again = config_class(target=target).build(policy)
    again.load_state_dict(objective.state_dict())
    again.loss(policy, batch)  # a restored copy does not start again
    assert torch.equal(
        again.target.network.state_dict()[name], objective.target.network.state_dict()[name]
    )


# --- bad input, and the real loop -----------------------------------------------------------------


def write(root: Path, *, lengths: tuple[int, ...] = (3, 5, 4, 6), reward: float = 1.0) -> Path:
    rng = np.random.default_rng(0)
    with DatasetWriter(root, SPEC) as writer:
        for number, length in enumerate(lengths):
            last = np.arange(length) == length - 1
            writer.add_episode(
                Episode(
                    images={},
                    state=rng.normal(size=(length, 2)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                    rewards=(reward * last).astype(np.float32),
                    success=last & (number % 2 == 0),
                    terminated=True,
                    instruction="go",
                )
            )
    return root


def run(data: Path, out: Path, objective: dict[str, Any], head: str, **changes: Any) -> TrainConfig:
    small = {"type": head, "hidden": 16, "depth": 1, "heads": 2}
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"path": str(data), "validation_fraction": 0.25},
        "policy": {"type": "mlp", "hidden": 16, "depth": 1, "chunk": 2, "head": small},
        "objective": objective,
        "steps": 6,
        "batch_size": 8,
        "log_every": 1,
        "validate_every": 3,
        "save_every": 3,
    }
    return TrainConfig.model_validate(values | changes)


@pytest.mark.parametrize("name", ["q_transformer", "ilql"])
def test_real_loop_and_resume(tmp_path, name):
    data, head = write(tmp_path / "data"), {"q_transformer": "q_values", "ilql": "ilql"}[name]
    whole = train(run(data, tmp_path / "whole", {"type": name}, head))
    assert np.isfinite(whole.metrics["validation/loss"])
    assert {
        "q_data",
        "q_minus_return",
        "td_error",
        "terminals",
        "validation/td_error",
    } <= whole.metrics.keys()
    train(run(data, tmp_path / "parts", {"type": name}, head, max_minutes=1e-9, save_every=1))
    resumed = train(run(data, tmp_path / "parts", {"type": name}, head), resume=True)
    assert resumed.metrics["loss"] == whole.metrics["loss"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True)
    )
    observation = SPEC.fake_observation(2)
    assert torch.equal(
        load_policy(whole.out / "policy").act(observation)[0], whole.policy.act(observation)[0]
    )


def test_rewards_out_of_range_are_refused_with_the_remedy(tmp_path):
    data = write(tmp_path / "data", reward=7.0)
    with pytest.raises(
        ObjectiveError, match=r"objective q_transformer: .*\[0, 7\].*data.rewards.kind: success"
    ):
        train(run(data, tmp_path / "run", {"type": "q_transformer"}, "q_values"))
    config = run(
        data, tmp_path / "fixed", {"type": "q_transformer"}, "q_values", steps=1
    ).model_dump()
    config["data"]["rewards"]["kind"] = "success"
    result = train(TrainConfig.model_validate(config))
    assert result.step == 1


def test_data_that_cannot_teach_are_refused(tmp_path):
    data = write(tmp_path / "data", reward=0.0)
    for name, head in (("q_transformer", "q_values"), ("ilql", "ilql")):
        with pytest.raises(ObjectiveError, match=f"objective {name}: .*all .* rewards are 0"):
            train(run(data, tmp_path / name, {"type": name}, head))


@pytest.mark.parametrize(
    ("config", "head"),
    [(QTransformerObjectiveConfig(), "q_values"), (ILQLConfig(), "ilql")],
    ids=["q", "ilql"],
)
def test_a_head_without_values_is_refused(config, head):
    policy = MLPConfig(head={"type": "categorical"}).build(SPEC)
    with pytest.raises(
        ObjectiveError,
        match=f"policy.head 'categorical' gives none; set policy.head: {{type: {head}}}",
    ):
        config.build(policy)


def test_discount_must_be_in_its_range(tmp_path):
    for discount in (0.0, 1.5):
        with pytest.raises((ConfigError, ValueError), match="discount"):
            QTransformerObjectiveConfig(discount=discount)


# --- the policy -----------------------------------------------------------------------------------


def test_policy_q_transformer(tmp_path):
    spec = training_toy.SPEC
    config = QTransformerConfig(
        trunk="test_efficientnet", stride=16, width=16, depth=1, heads=2, key_dim=8, history=2,
        chunk=2, language_dim=8, tokens_per_image=2, dropout=0.0,
    )  # fmt: skip
    policy = config.build(spec)
    assert (config.type, config.head.type, policy.head.tokenizer.vocab_size) == (
        "q_transformer",
        "q_values",
        64,
    )
    policy.language.preload({f"do task {i}": torch.randn(384) / 20 for i in range(3)})
    objective = QTransformerObjectiveConfig().build(policy)
    batch = spec.fake_batch(4, 4, 2)
    loss, metrics = objective.loss(policy.train(), batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all()
        for p in policy.parameters()
        if p.requires_grad
    )
    assert metrics["terminals"] == 0
    policy.eval().save_pretrained(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    assert isinstance(again, QTransformer)
    observation = spec.fake_observation(2)
    assert torch.equal(again.act(observation)[0], policy.act(observation)[0])


def test_policy_imitates_under_bc():
    policy = toy(SPEC, "q_values", 3)
    good = one_step_batch(SPEC, 3, [(START, (2, 1), 0.0, GOAL), (GOAL, (0, 2), 1.0, END)])
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    first: Tensor | None = None
    for _ in range(60):
        now = good.steps(0, 1)
        loss = policy(now).actions.loss(now.actions, now.action_mask).mean()
        first = loss.detach() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None
    assert loss < 0.1 * first
    assert {state: acted(policy, state) for state in CHOSEN} == CHOSEN

"""What holds for every registered objective, trained by the real loop on a few short episodes.

And what is said of bad input.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from vla.config import ConfigError, UserError, load_config, lookup, registered
from vla.data import DatasetWriter, Episode, EpisodeDataset, Windows
from vla.data.errors import DataError
from vla.data.rewards import RewardConfig
from vla.models.policies.conditioned import ConditionedPolicy
from vla.models.policies.mlp import MLPConfig
from vla.models.policy import load_policy
from vla.training import TrainConfig, train
from vla.training.objective import ObjectiveError
from vla.training.online_rl.policy_gradient import PolicyGradientConfig
from vla.types import Spec

SPEC = Spec({}, ("x", "y"), ("dx", "dy"), (-1.0, -1.0), (1.0, 2.0), control_hz=10.0)
ONLINE = sorted(
    name
    for name in registered("objectives")
    if issubclass(lookup("objectives", name), PolicyGradientConfig)
)
OBJECTIVES = sorted(set(registered("objectives")) - set(ONLINE))
MLP: dict[str, Any] = {"type": "mlp", "hidden": 8, "depth": 1, "chunk": 2}
BINS = {"type": "bins", "num_bins": 4}
TRANSFORMER = {
    "type": "decision_transformer",
    "history": 3,
    "width": 8,
    "depth": 1,
    "max_timestep": 16,
    "chunk": 2,
}
OTHER_POLICIES: dict[str, dict[str, Any]] = {
    "adaptation": {
        "type": "adaptive",
        "privileged": {"friction": [0, 1]},
        "history": 3,
        "hidden": 8,
        "chunk": 2,
        "policy": MLP,
    },
    "fql": {**MLP, "head": {"type": "flow", "hidden": 8, "depth": 1, "integration_steps": 2}},
    "recap": {**MLP, "language": "blank", "indicator": True},
    "return_conditioned": TRANSFORMER,
    "q_transformer": {
        **MLP,
        "head": {"type": "q_values", "hidden": 8, "depth": 1, "heads": 1},
        "tokenizer": BINS,
    },
    "dqn": {
        **MLP,
        "head": {
            "type": "q_values",
            "hidden": 8,
            "depth": 1,
            "heads": 1,
            "dueling": True,
            "bins": 7,
        },
        "tokenizer": BINS,
    },
    "ilql": {
        **MLP,
        "head": {"type": "ilql", "hidden": 8, "depth": 1, "heads": 1},
        "tokenizer": BINS,
    },
}
"""Of those that need other policies than a plain one."""
Change = Callable[[int, dict[str, Any]], dict[str, Any]]


def write(
    root: Path, change: Change = lambda episode, values: values, *, episodes: int = 8
) -> Path:
    """Every second episode is solved at its end; the others are cut off unsolved."""
    rng = np.random.default_rng(0)
    with DatasetWriter(root, SPEC) as writer:
        for episode in range(episodes):
            length, solved = 5 + episode % 3, episode % 2 == 0
            success = (np.arange(length) == length - 1) & solved
            values: dict[str, Any] = {
                "rewards": success.astype(np.float32),
                "success": success,
                "terminated": solved,
            }
            values = change(episode, values | {"length": length})
            length = values.pop("length")
            privileged = np.full(length, episode / episodes, np.float32)
            values["extras"] = {**values.get("extras", {}), "privileged": privileged}
            writer.add_episode(
                Episode(
                    images={},
                    state=rng.normal(size=(length, 2)).astype(np.float32),
                    actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                    instruction="go",
                    **values,
                )
            )
    return root


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("mixed") / "data")


def config(dataset: Path, out: Path, objective: dict[str, Any], **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "data": {"path": str(dataset), "validation_fraction": 0.25},
        "policy": OTHER_POLICIES.get(objective["type"], MLP),
        "objective": objective,
        "optim": {"lr": 1e-2, "warmup_steps": 2},
        "steps": 6,
        "batch_size": 8,
        "log_every": 1,
        "validate_every": 3,
        "save_every": 3,
        "keep_last": 2,
    }
    return TrainConfig.model_validate(values | changes)


def lines(out: Path) -> list[dict[str, float]]:
    """What was logged at each step, without what the clock says."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "frames", "eta")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in records]


@pytest.mark.parametrize("name", ONLINE)
def test_what_learns_from_its_own_acting_names_the_command_for_it(
    name: str, mixed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ObjectiveError, match=r"has no column 'decision'.*use `vla online`"):
        train(config(mixed, tmp_path / "run", {"type": name}))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_it_trains_resumes_to_the_bit_and_leaves_a_policy(
    name: str, mixed: Path, tmp_path: Path
) -> None:
    settings = config(mixed, tmp_path / "whole", {"type": name})
    result = train(settings)
    whole = lines(tmp_path / "whole")
    assert [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(value) for line in whole for value in line.values())
    assert {"loss", "validation/loss"} <= result.metrics.keys()
    # the config in the run directory begins the same run again
    assert load_config(TrainConfig, tmp_path / "whole" / "config.yaml") == settings

    # as after a kill: the run stands at step 3
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "policy")
    checkpoints = sorted((tmp_path / "again" / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    train(config(mixed, tmp_path / "again", {"type": name}), resume=True)
    assert lines(tmp_path / "again") == whole
    weights = "policy/model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (
        tmp_path / "whole" / weights
    ).read_bytes()

    loaded = load_policy(tmp_path / "whole" / "policy")
    observation = SPEC.fake_observation(3)
    torch.manual_seed(0)
    expected = result.policy.act(observation)[0]
    torch.manual_seed(0)
    assert torch.equal(loaded.act(observation)[0], expected)
    assert expected.shape == (3, 2, 2)


@pytest.mark.parametrize("name", ["awr", "iql", "td3_bc", "q_transformer"])
def test_held_out_data_teach_nothing(name: str, mixed: Path, tmp_path: Path) -> None:
    """Running means of advantages, too, are of the training data alone, however often the run looks
    at the others."""
    options: dict[str, Any] = {"type": name} | ({"mean_weight": True} if name == "iql" else {})
    logs = []
    for every in (None, 1):
        train(config(mixed, tmp_path / str(every), options, steps=4, validate_every=every))
        logs.append(
            [
                {k: v for k, v in line.items() if "/" not in k}
                for line in lines(tmp_path / str(every))
            ]
        )
    assert logs[0] == logs[1]


def test_every_score_of_a_policy_that_learns_at_some_steps_is_of_the_policy(
    mixed: Path, tmp_path: Path
) -> None:
    train(config(mixed, tmp_path / "run", {"type": "td3_bc", "policy_every": 3}, validate_every=1))
    assert all(
        {"validation/bc_loss", "validation/q_policy"} <= line.keys()
        for line in lines(tmp_path / "run")
    )


@pytest.mark.parametrize(
    "name", [n for n in OBJECTIVES if n not in ("bc", "filtered_bc", "return_conditioned")]
)
def test_two_micro_batches_give_the_gradient_of_one_batch(
    name: str, mixed: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"type": name}
    draws = ("awac", "td3_bc", "cql", "cal_ql", "kl", "fql", "recap")
    if name in (*draws, "sac", "rlpd", "td3", "ddpg", "mpo"):
        pytest.skip("draws actions: random numbers see the division")
    logs = []
    for parts in (1, 2):
        settings = config(
            mixed, tmp_path / str(parts), options, steps=1, grad_accumulation=parts, ema_decay=None
        )
        train(settings)
        logs.append(lines(tmp_path / str(parts))[0])
    names = [key for key in ("grad_norm", "critic_grad_norm") if key in logs[0]]
    assert names
    if name in ("awr", "ra_bc"):  # weights in units of a running mean, which sees the division
        names.remove("grad_norm")
    for key in names:
        assert logs[1][key] == pytest.approx(logs[0][key], rel=1e-4), key


# --- bad input ------------------------------------------------------------------------------------

NEEDS_REWARDS = [
    name
    for name in OBJECTIVES
    if name not in ("adaptation", "bc", "filtered_bc", "return_conditioned")
]


@pytest.fixture(scope="module")
def unrewarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def without(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"rewards": np.zeros(values["length"], np.float32)}

    return write(tmp_path_factory.mktemp("unrewarded") / "data", without)


@pytest.mark.parametrize("name", NEEDS_REWARDS)
def test_data_without_rewards(name: str, unrewarded: Path, tmp_path: Path) -> None:
    with pytest.raises(
        (DataError, ObjectiveError), match=r"rewards are 0.*data\.rewards\.kind: success"
    ):
        train(config(unrewarded, tmp_path / "run", {"type": name}))
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="module")
def alike_episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def alike(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        rewards = np.array([0.0, 0.5, 0.0, 0.0, 0.5], np.float32)
        return values | {
            "length": 5,
            "rewards": rewards,
            "success": rewards > 2,
            "terminated": episode % 2 == 0,
        }

    return write(tmp_path_factory.mktemp("alike") / "data", alike)


@pytest.mark.parametrize("name", [*NEEDS_REWARDS, "return_conditioned"])
def test_all_returns_equal(name: str, alike_episodes: Path, tmp_path: Path) -> None:
    with pytest.raises(
        (DataError, ObjectiveError),
        match=r"none is better than another; add episodes.*imitate them",
    ):
        train(config(alike_episodes, tmp_path / "run", {"type": name}))


def test_nothing_to_filter(tmp_path: Path) -> None:
    def unsolved(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"success": np.zeros(values["length"], bool), "terminated": False}

    data = write(tmp_path / "data", unsolved)
    with pytest.raises(
        ObjectiveError, match=r"keep: success imitates solved episodes, but none .*use keep: return"
    ):
        train(config(data, tmp_path / "run", {"type": "filtered_bc"}))
    by_success = {**TRANSFORMER, "condition": "success"}
    with pytest.raises(
        ObjectiveError, match=r"none of 6 episodes are solved.*objective: \{type: bc\}"
    ):
        train(config(data, tmp_path / "run", {"type": "return_conditioned"}, policy=by_success))


@pytest.mark.parametrize("name", ["iql", "awr", "cql", "q_transformer"])
def test_truncations_marked_as_terminals(name: str, tmp_path: Path) -> None:
    def at_the_limit(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        if values["terminated"]:
            return values
        nothing = np.zeros(9)
        return {
            "length": 9,
            "rewards": nothing.astype(np.float32),
            "success": nothing > 0,
            "terminated": True,
        }

    data = write(tmp_path / "data", at_the_limit, episodes=16)
    message = (
        r"not solved are marked as terminated at exactly 9 steps.*"
        r"terminated=False.*trust_terminals: true"
    )
    with pytest.raises((DataError, ObjectiveError), match=message):
        train(config(data, tmp_path / "run", {"type": name}))
    trusted = {"path": str(data), "validation_fraction": 0, "rewards": {"trust_terminals": True}}
    train(config(data, tmp_path / "run", {"type": name}, data=trusted, steps=1))


@pytest.mark.parametrize("name", NEEDS_REWARDS)
@pytest.mark.parametrize("discount", [0.0, 1.01, -0.5, float("nan")])
def test_a_discount_outside_its_range(
    name: str, discount: float, mixed: Path, tmp_path: Path
) -> None:
    with pytest.raises((ValidationError, ConfigError), match=r"discount"):
        config(mixed, tmp_path, {"type": name, "discount": discount})


@pytest.mark.parametrize("name", ["bc", "iql", "q_transformer"])
def test_solved_episodes_that_are_to_teach_but_do_not_exist(name: str, tmp_path: Path) -> None:
    """Rewards differ, so that all but this option could be learned."""

    def unsolved(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"success": np.zeros(values["length"], bool)}

    data = write(tmp_path / "data", unsolved)
    message = r"auxiliary: solved .*none of 6 in .* is marked as solved; set auxiliary: all"
    with pytest.raises(ObjectiveError, match=message):
        train(config(data, tmp_path / "run", {"type": name, "auxiliary": "solved"}))


COSTS = {"rewards": {"kind": "step_cost"}}


@pytest.mark.parametrize(
    ("objective", "option"),
    [
        ({"type": "iql", "monte_carlo_floor": True}, "monte_carlo_floor"),
        ({"type": "cal_ql"}, "calibrated"),
    ],
)
def test_returns_that_are_no_lower_bound(
    objective: dict[str, Any], option: str, mixed: Path, tmp_path: Path
) -> None:
    """What a failure brought until it was cut is better than what it would have gone on to cost."""
    message = (
        rf"{option}: 4 of 6 episodes of .* are cut off and rewards go down to -1, "
        r".*rewards of 0 or more"
    )
    with pytest.raises(ObjectiveError, match=message):
        train(
            config(
                mixed,
                tmp_path / "run",
                objective,
                data={"path": str(mixed), "validation_fraction": 0.25, **COSTS},
            )
        )
    policy = MLPConfig.model_validate(MLP).build(SPEC)

    def fit(data: Path, kind: str) -> None:
        built = config(data, tmp_path, objective).objective.build(policy)
        rewards = RewardConfig.model_validate({"kind": kind})
        built.fit(
            Windows(
                EpisodeDataset(data), history=1, chunk=2, next_step=2, discount=0.9, rewards=rewards
            )
        )

    fit(mixed, "success")
    fit(
        write(tmp_path / "ended", lambda episode, values: values | {"terminated": True}),
        "step_cost",
    )


@pytest.mark.parametrize("name", ["iql", "td3_bc", "q_transformer", "ilql"])
def test_data_in_which_no_step_has_a_target(name: str, tmp_path: Path) -> None:
    def cut(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        rewards = np.full(values["length"], episode % 2 / 10, np.float32)
        return values | {"rewards": rewards, "terminated": False}

    data = write(tmp_path / "data", cut)
    policy = OTHER_POLICIES.get(name, MLP) | {"chunk": 7}
    message = (
        r"no step of .*data has a target: values look 7 steps ahead .* all 6 episodes .* at most 7; "
        r"use a policy\.chunk below 7"
    )
    with pytest.raises(ObjectiveError, match=message):
        train(config(data, tmp_path / "run", {"type": name}, policy=policy))
    train(config(data, tmp_path / "run", {"type": name}, policy=policy | {"chunk": 6}, steps=1))


@pytest.mark.parametrize("name", ["iql", "cql", "q_transformer", "ilql"])
def test_what_is_replayed_must_teach_too(name: str, mixed: Path, tmp_path: Path) -> None:
    def run(replayed: Path, out: str, **rewards: Any) -> None:
        data = {
            "path": str(mixed),
            "rewards": rewards,
            "replay": [{"path": str(replayed), "weight": 0.5}],
        }
        train(config(mixed, tmp_path / out, {"type": name}, data=data, steps=1))

    def unsolved(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        nothing = np.zeros(values["length"])
        return values | {
            "rewards": nothing.astype(np.float32),
            "success": nothing > 0,
            "terminated": False,
        }

    failures = write(tmp_path / "failures", unsolved)
    with pytest.raises(ObjectiveError, match=r"data\.replay\.0: .*failures: with .* rewards are 0"):
        run(failures, "unrecorded")
    run(failures, "labelled", kind="success")  # labels tell that nothing is solved there
    large = write(
        tmp_path / "large", lambda episode, values: values | {"rewards": 100 * values["rewards"]}
    )
    if name == "q_transformer":
        with pytest.raises(
            ObjectiveError, match=r"data\.replay\.0: .*large: rewards lie in \[0, 100\]"
        ):
            run(large, "large")
        return
    objective = config(mixed, tmp_path, {"type": name, "discount": 0.5}).objective.build(
        config(mixed, tmp_path, {"type": name}).policy.build(SPEC)
    )
    read = [
        Windows(EpisodeDataset(data), history=1, chunk=2, next_step=2, discount=0.5)
        for data in (mixed, large)
    ]
    objective.fit(read[0])
    assert objective._q_bound == pytest.approx(10 * 2)
    objective.check_replayed(read[1])
    objective.check_replayed(read[0])
    assert objective._q_bound == pytest.approx(10 * 200)


def test_critics_keep_a_constant_rate_beside_the_actors_cosine(mixed: Path, tmp_path: Path) -> None:
    published = {"lr": 1e-2, "warmup_steps": 0, "clip_norm": None, "critic": {"lr": 3e-4}}
    settings = config(mixed, tmp_path / "run", {"type": "iql"}, optim=published, steps=4)
    train(settings)
    found = lines(tmp_path / "run")
    assert [line["critic_lr"] for line in found] == pytest.approx([3e-4] * 4)
    cosine = [0.5e-2 * (1 + math.cos(math.pi * step / 4)) for step in range(1, 5)]
    assert [line["lr"] for line in found] == pytest.approx(cosine)
    with pytest.raises(ConfigError, match=r"optim\.critic: this objective has no networks"):
        train(config(mixed, tmp_path / "bc", {"type": "bc"}, optim=published))


def test_importance_weights_of_a_mixture(mixed: Path, tmp_path: Path) -> None:
    policy = {**MLP, "head": {"type": "gaussian_mixture", "hidden": 8, "components": 2}}
    train(
        config(
            mixed,
            tmp_path / "run",
            {"type": "cql", "extraction": {"type": "weighted_bc"}},
            policy=policy,
            steps=2,
        )
    )
    assert all(np.isfinite(line["conservative_gap"]) for line in lines(tmp_path / "run"))


BEST_OF_N = {"type": "best_of_n"}
OF_PARTS: dict[str, Any] = {"type": "actor_critic", "extraction": {"type": "bc"}}
IDLE = {
    "beta": {"type": "iql", "extraction": BEST_OF_N, "beta": 10.0},
    "max_weight": {"type": "iql", "extraction": BEST_OF_N, "max_weight": 2.0},
    "standardise": {"type": "iql", "extraction": BEST_OF_N, "standardise": True},
    "mean_weight": {"type": "iql", "extraction": BEST_OF_N, "mean_weight": True},
    "bc": {"type": "cql", "extraction": BEST_OF_N, "bc": 1.0},
    "temperature": {"type": "cal_ql", "extraction": BEST_OF_N, "temperature": 0.1},
    "monte_carlo_floor": {"type": "awr", "monte_carlo_floor": True},
    "target_rate": {"type": "awr", "target_rate": 0.02},
    r"critic\.ensemble": {"type": "awr", "critic": {"ensemble": 4}},
    "target_rate: 0.5": OF_PARTS | {"value": {"type": "monte_carlo", "target_rate": 0.5}},
    "noise": OF_PARTS | {"value": {"type": "td", "next_actions": "data", "noise": 0.2}},
    "noise_clip": OF_PARTS | {"value": {"type": "td", "next_actions": "data", "noise_clip": 0.2}},
    "monte_carlo_floor: True": OF_PARTS | {"value": {"type": "none", "monte_carlo_floor": True}},
    "weights": {
        "type": "iql",
        "extraction": {"type": "best_of_n", "imitate": False, "weights": {"beta": 2.0}},
    },
    "weights: WeightedBCConfig": {
        "type": "iql",
        "extraction": {"type": "argmax_q", "imitate": False, "weights": {}},
    },
}


@pytest.mark.parametrize("name", IDLE)
def test_options_that_would_do_nothing_are_refused(name: str, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=rf"{name}.* would do nothing: .*(drop|set) it"):
        config(mixed, tmp_path, IDLE[name])


def test_a_warm_up_that_never_ends_and_a_temperature_below_zero(
    mixed: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValidationError, match=r"objective\.warmup_steps: 6 of steps: 6 .*less than 6"
    ):
        config(mixed, tmp_path, {"type": "iql", "warmup_steps": 6})
    config(mixed, tmp_path, {"type": "iql", "warmup_steps": 5})
    for objective in (
        {"type": "cql", "temperature": -1.0},
        {"type": "iql", "extraction": {"type": "ddpg_bc", "temperature": -0.1}},
    ):
        with pytest.raises(ValidationError, match="temperature"):
            config(mixed, tmp_path, objective)


def test_rewards_outside_of_the_unit_interval(mixed: Path, tmp_path: Path) -> None:
    data = {"path": str(mixed), "rewards": {"scale": 3.0}}
    with pytest.raises(
        UserError, match=r"rewards lie in \[0, 3\].*set data\.rewards\.kind: success, or scale"
    ):
        train(config(mixed, tmp_path / "run", {"type": "q_transformer"}, data=data))


@pytest.mark.parametrize(
    ("objective", "head", "message"),
    [
        (
            {"type": "kl"},
            {"type": "regression"},
            r"kl needs a head with log_prob.*policy\.head: \{type: categorical\}",
        ),
        (
            {"type": "cql"},
            {"type": "regression"},
            r"importance.*importance: false, or policy\.head: \{type: gaussian, squash: full\}",
        ),
        (
            {"type": "cql"},
            {"type": "categorical"},
            r"importance.*importance: false, or policy\.head: \{type: gaussian, squash: full\}",
        ),
        (
            {"type": "cql", "importance": False},
            {"type": "regression"},
            r"temperature needs a head with log_prob.*temperature: 0",
        ),
        (
            {"type": "td3_bc"},
            {"type": "autoregressive"},
            r"ddpg_bc needs a head with rsample.*policy\.head",
        ),
        ({"type": "ilql"}, {"type": "gaussian"}, r"policy\.head"),
        ({"type": "q_transformer"}, {"type": "gaussian"}, r"policy\.head"),
    ],
)
def test_a_head_that_cannot_do_what_is_asked(
    objective: dict[str, Any], head: dict[str, Any], message: str, mixed: Path, tmp_path: Path
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        train(
            config(
                mixed, tmp_path / "run", objective, policy={**MLP, "head": head, "tokenizer": BINS}
            )
        )


@pytest.mark.parametrize(
    ("value", "extraction", "message"),
    [
        (
            "none",
            "weighted_bc",
            r"objective\.extraction: weighted_bc without values.*extraction: \{type: bc\}",
        ),
        (
            "monte_carlo",
            "best_of_n",
            r"objective\.extraction: best_of_n asks for Q.*value: \{type: expectile\}",
        ),
        (
            "monte_carlo",
            "argmax_q",
            r"objective\.extraction: argmax_q asks for Q.*value: \{type: expectile\}",
        ),
        (
            "none",
            "ddpg_bc",
            r"objective\.extraction: ddpg_bc asks for Q.*value: \{type: expectile\}",
        ),
        ("monte_carlo", "kl", r"objective\.extraction: kl asks for Q.*value: \{type: expectile\}"),
    ],
)
def test_parts_that_do_not_go_together(
    value: str, extraction: str, message: str, mixed: Path, tmp_path: Path
) -> None:
    parts = {"type": "actor_critic", "value": {"type": value}, "extraction": {"type": extraction}}
    with pytest.raises(ObjectiveError, match=message):
        train(config(mixed, tmp_path / "run", parts))


def test_tokens_that_argmax_q_cannot_change_are_refused_before_the_first_step(
    mixed: Path, tmp_path: Path
) -> None:
    policy = {
        **MLP,
        "head": {"type": "categorical"},
        "tokenizer": {"type": "rvq", "codes": 4, "codebooks": 2},
    }
    objective = {"type": "iql", "extraction": {"type": "argmax_q"}}
    with pytest.raises(
        UserError, match=r"argmax_q changes one token for one action dimension.*best_of_n"
    ):
        train(config(mixed, tmp_path / "run", objective, policy=policy))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_how_large_values_may_be(mixed: Path, tmp_path: Path) -> None:
    """Where episodes are cut, the task goes on unseen: values may be of 1 / (1 - discount)
    steps."""

    def bound(data: Path, discount: float) -> float:
        settings = config(data, tmp_path, {"type": "iql", "discount": discount})
        policy = settings.policy.build(SPEC)
        objective = settings.objective.build(policy)
        objective.fit(
            Windows(EpisodeDataset(data), history=1, chunk=2, next_step=2, discount=discount)
        )
        return objective._q_bound

    assert bound(mixed, 0.999) == pytest.approx(10 * 1000)
    assert bound(mixed, 1.0) == pytest.approx(10 * 7)

    def ends(episode: int, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"terminated": True}

    ended = write(tmp_path / "ended", ends)
    assert bound(ended, 0.999) == pytest.approx(10 * 7)
    assert bound(ended, 0.5) == pytest.approx(10 * 2)


@pytest.mark.parametrize("value", sorted(registered("values")))
@pytest.mark.parametrize("extraction", sorted(registered("extractions")))
def test_all_other_parts_do(value: str, extraction: str, mixed: Path, tmp_path: Path) -> None:
    by_advantage = ("bc", "weighted_bc", "advantage_conditioned")
    if extraction == "progress_weighted" and value != "progress":
        pytest.skip("weighs by progress alone")
    if extraction != "bc" and value == "none":
        pytest.skip("see above")
    if value == "monte_carlo" and extraction not in by_advantage:
        pytest.skip("see above")
    if value == "progress" and extraction not in (*by_advantage, "progress_weighted"):
        pytest.skip("asks for Q, as above")
    settings: dict[str, Any] = {"type": value} | (
        {"importance": False} if value == "conservative" else {}
    )
    parts = {
        "type": "actor_critic",
        "value": settings,
        "extraction": {"type": extraction},
        "warmup_steps": 1,
    }
    policy = {**MLP, "head": {"type": "categorical"}, "tokenizer": BINS}
    preset = {"advantage_conditioned": "recap", "one_step": "fql"}.get(extraction)
    policy = policy if preset is None else OTHER_POLICIES[preset]
    train(config(mixed, tmp_path / "run", parts, policy=policy, steps=2))
    assert load_policy(tmp_path / "run" / "policy").act(SPEC.fake_observation(1))[0].shape == (
        1,
        2,
        2,
    )


def test_diverging_values_stop_with_the_numbers(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ObjectiveError,
        match=r"Q diverges: its mean size is .* at step \d+, .* allow .*; lower optim\.lr",
    ):
        train(
            config(
                mixed,
                tmp_path / "run",
                {
                    "type": "td3_bc",
                    "critic": {"layer_norm": False},
                    "target_rate": 1.0,
                    "discount": 0.5,
                },
                optim={"lr": 30.0, "warmup_steps": 0, "clip_norm": None},
                steps=60,
            )
        )


def test_a_clone_is_taught_to_read_indicators_and_the_next_round_goes_on(
    mixed: Path, tmp_path: Path
) -> None:
    clone = {**MLP, "language": "blank", "head": {"type": "categorical"}, "tokenizer": BINS}
    train(config(mixed, tmp_path / "clone", {"type": "bc"}, policy=clone, steps=1))
    source = str(tmp_path / "clone" / "policy")
    settings = config(
        mixed,
        tmp_path / "first",
        {"type": "recap", "guidance": 2.0},
        policy={**clone, "indicator": True},
        init_from=source,
        transfer={},
        steps=2,
    )
    first = train(settings).policy
    assert isinstance(first, ConditionedPolicy)
    assert first.policy.indicator.weight.abs().max() > 0
    again = config(
        mixed,
        tmp_path / "second",
        {"type": "recap"},
        policy=None,
        init_from=str(tmp_path / "first" / "policy"),
        steps=1,
    )
    assert isinstance(train(again).policy, ConditionedPolicy)

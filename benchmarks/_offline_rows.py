"""The ways of fine-tuning that `offline_rl_images.py` compares, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vla.common.registry import names
from vla.config import read_yaml
from vla.models.critics import CriticConfig

CONFIGS = Path(__file__).parents[1] / "configs"
CONTROL = "none"
"""The row that learns no values from the same windows: what values add is judged against it."""

Kind = Literal["clone", "control", "filter", "oracle", "values", "other"]


@dataclass(frozen=True)
class Row:
    """One way to continue from the clone.

    Attributes:
        what: its title.
        kind: "clone" (continued), "control" (no values), "filter" (imitation of a part of the
            data), "oracle" (imitation of what is known to be right), "values" (weights or gradients by learned values), "other" (another network).
        objective: of the training.
        training: overrides of the training beside those that all rows share.
        playing: overrides of the evaluation.
        sampler: whether windows are drawn by the share of solved episodes that all rows share.
        differs: in what it differs from the other rows beside its objective; empty if in nothing.
    """

    what: str
    kind: Kind
    objective: dict[str, Any]
    training: tuple[str, ...] = ()
    playing: tuple[str, ...] = ()
    sampler: bool = True
    differs: str = ""


# One set of constants for all values and one for all weights, so that no row was searched more
# than another. In runs of a thousand steps target copies have to follow fast, and success has to
# reach the start of an episode at once.
DISCOUNT = 0.98
CRITIC = {"critic": {"joint": True}}
TARGETS = {"target_rate": 0.02, "monte_carlo_floor": True}
WEIGHTS = {"beta": 3.0, "max_weight": 20.0, "standardise": True, "mean_weight": True}
PRESSED = {"alpha": 1.0, "importance": False, "sampled": 4}  # tokens have no density over numbers
BEST = {"samples": 8, "temperature": 0.5}
SEARCH = (
    "one setting of each objective; that of the weights (beta 3, at most 20) and the 8 steps of "
    "awr_8 were chosen after a few trainings of IQL and AWR by seed 0 on the two states sets, the "
    "filters' by nothing; settings of filters that are rows of their own are compared by the best "
    "of them, which favours the filters"
)


def weighted(
    value: dict[str, Any],
    extraction: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Imitation by the weights that all rows share, over these values."""
    return {
        "type": "actor_critic",
        "discount": DISCOUNT,
        "value": value,
        "extraction": extraction or {"type": "weighted_bc", **WEIGHTS},
    }


def fastest(share: float) -> Row:
    """Imitation of the solved episodes that took the fewest steps."""
    objective = {"type": "filtered_bc", "keep": "fastest", "fraction": share}
    return Row(f"BC on the fastest {share:.0%} of the solved episodes", "filter", objective)


def last(steps: int) -> Row:
    """Imitation of the last steps before success."""
    objective = {"type": "filtered_bc", "keep": "last", "last": steps}
    return Row(f"BC on the last {steps} steps before success", "filter", objective)


def recap(guidance: float) -> Row:
    """Imitation with an advantage indicator, asked for `positive`."""
    value = {"type": "monte_carlo", "advantage_steps": 8, **CRITIC}
    objective = {"type": "recap", "discount": DISCOUNT, "value": value, "guidance": guidance}
    return Row(
        f"RECAP, guidance {guidance:g}",
        "values",
        objective,
        ("policy.indicator=true", "transfer={}"),
        differs="reads an advantage indicator beside the instruction",
    )


# not `bc`: so that the losses that a policy adds follow the rule of the rows with values
IMITATION = {"type": "actor_critic", "value": {"type": "none"}, "extraction": {"type": "bc"}}
EXPECTILE = {"type": "expectile", **CRITIC, **TARGETS}
OUTCOME = EXPECTILE | {"advantage": "outcome"}
CONSERVATIVE = {"type": "conservative", **CRITIC, **TARGETS, **PRESSED}
BEST_OF_N = {"type": "best_of_n", "selection": {"type": "best_of_n", **BEST}}
PRESET = {"discount": DISCOUNT, **CRITIC, **TARGETS}
OTHER_HEAD = "another head, learned from scratch in the fine-tuning alone"

ROWS: dict[str, Row] = {
    "bc": Row(
        "BC, continued",
        "clone",
        IMITATION,
        sampler=False,
        differs="draws windows as the data have them",
    ),
    CONTROL: Row("no values, the same windows", "control", IMITATION),
    "values_unused": Row(
        "IQL's values learned, not used",
        "control",
        weighted(EXPECTILE, {"type": "bc"}),
    ),
    "filtered_bc": Row("BC on solved episodes", "filter", {"type": "filtered_bc"}),
    "fastest_10": fastest(0.1),
    "fastest_25": fastest(0.25),
    "fastest_50": fastest(0.5),
    "last_8": last(8),
    "last_15": last(15),
    "last_25": last(25),
    "last_40": last(40),
    "last_60": last(60),
    "oracle": Row(
        "BC on what is no detour",
        "oracle",
        {"type": "filtered_bc", "keep": "not_detours"},
        differs="knows which steps were detours",
    ),
    "awr": Row("AWR, Monte Carlo", "values", weighted({"type": "monte_carlo", **CRITIC})),
    "awr_8": Row(
        "AWR, advantages of 8 steps",
        "values",
        weighted({"type": "monte_carlo", "advantage_steps": 8, **CRITIC}),
    ),
    "awac": Row("AWAC", "values", weighted({"type": "td", **CRITIC, **TARGETS})),
    "iql": Row("IQL", "values", weighted(EXPECTILE)),
    "iql_outcome": Row("IQL, advantages of outcomes", "values", weighted(OUTCOME)),
    "cql": Row("CQL, weighted BC", "values", weighted(CONSERVATIVE)),
    "cal_ql": Row("Cal-QL, weighted BC", "values", weighted(CONSERVATIVE | {"calibrated": True})),
    "td3_bc": Row("TD3+BC", "values", {"type": "td3_bc", **PRESET}),
    "kl": Row("KL to the data", "values", {"type": "kl", **PRESET}),
    "iql_best_of_n": Row(
        "IQL, best of 9",
        "values",
        weighted(OUTCOME, BEST_OF_N | {"weights": WEIGHTS}),
        differs="acts by the critic: the best of 9 proposals",
    ),
    "ra_bc": Row(
        "RA-BC, weighted by progress",
        "values",
        {"type": "ra_bc", "discount": DISCOUNT, **CRITIC},
    ),
    "recap": recap(1.0),
    "recap_guided": recap(2.0),
    "ilql": Row(
        "ILQL",
        "other",
        {"type": "ilql", "discount": DISCOUNT, "target_rate": 0.02},
        ('policy.head={"type": "ilql"}', "transfer={}"),
        differs=OTHER_HEAD,
    ),
    "q_transformer": Row(
        "Q-Transformer",
        "other",
        {
            "type": "q_transformer",
            "discount": DISCOUNT,
            "target_rate": 0.02,
            "conservative_weight": 0.5,
            "smoothing": 6.0,
        },
        ("policy.type=q_transformer", 'policy.head={"type": "q_values"}', "transfer={}"),
        differs=OTHER_HEAD,
    ),
}
"""All rows; those whose objective is not registered are left out by `available`."""


def available() -> dict[str, Row]:
    """The rows whose objective this package (or a plug-in) has."""
    known = set(names("objectives"))
    return {name: row for name, row in ROWS.items() if row.objective["type"] in known}


def valued_as_executed(objective: dict[str, Any], executed: int) -> dict[str, Any]:
    """The objective with critics of the actions that are executed before the policy looks again.

    Critics of a version that has no such option value whole chunks.
    """
    if "executed" not in CriticConfig.model_fields:
        return objective
    found = {}
    for key, part in objective.items():
        found[key] = valued_as_executed(part, executed) if isinstance(part, dict) else part
    # only where Q is learned: V alone values no chunk
    if "critic" in found and "target_rate" in found:
        found["critic"] = found["critic"] | {"executed": executed}
    return found


def shared_settings(config: Path) -> dict[str, Any]:
    """What the config gives to every row alike, for the result file."""
    train = read_yaml(config)["train"]
    keys = ("batch_size", "ema_decay", "precision", "optim")
    found = {key: train[key] for key in keys if key in train}
    for key in ("chunk", "head", "keyframe_loss"):
        if key in train["policy"]:
            found[f"policy.{key}"] = train["policy"][key]
    found["data.episode_balance"] = train["data"].get("episode_balance", False)
    return found

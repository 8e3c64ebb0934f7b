"""What each objective reached, beside the simplest control: the last section of its page."""

from __future__ import annotations

from typing import Any

from scripts.results.formatting import mean, of, read, table

TABLETOP = {
    "bc": ["bc"],
    "filtered_bc": ["filtered_bc"],
    "awr": ["awr"],
    "awac": ["awac"],
    "iql": ["iql", "iql_outcome", "iql_outcome_best_of_n", "iql_best_of_n"],
    "kl": ["kl"],
    "td3_bc": ["td3_bc"],
    "cql": ["cql"],
    "cal_ql": ["cal_ql"],
    "return_conditioned": ["return_conditioned"],
    "q_transformer": ["q_transformer"],
    "ilql": ["ilql"],
}
"""Objective -> its variants in the files of offline RL from pictures."""
MAZE = {
    "bc": "bc",
    "filtered_bc": "filtered_bc",
    "awr": "awr",
    "iql": "iql",
    "cql": "cql",
    "return_conditioned": "decision_transformer",
    "q_transformer": "q_transformer",
}
"""Objective -> its variant in stitching.json."""
SIMPLEST = "filtered_bc"
"""The control: imitation of the solved episodes alone."""


def solved(variant: dict[str, Any]) -> str:
    return of(variant["successes"], variant["episodes"])


def simulation_rows(objective: str) -> list[tuple[str, ...]]:
    rows = []
    for file, data in (
        ("offline_rl_tabletop", "pictures, tabletop"),
        ("offline_rl_metaworld", "pictures, Meta-World"),
    ):
        variants = read(file)["variants"]
        for name in TABLETOP[objective]:
            if name in variants:
                row = variants[name]
                rows.append((data, row["what"], solved(row), solved(variants[SIMPLEST])))
    if objective in MAZE:
        variants = read("stitching")["variants"]
        row = variants[MAZE[objective]]
        rows.append(("states, the stitching maze", "", solved(row), solved(variants[SIMPLEST])))
    return rows


def locomotion(objective: str) -> str:
    """One sentence on the nine locomotion sets, empty if the objective did not learn from them."""
    for name in ("offline_rl_peer", "offline_rl_peer_cql"):
        file = read(name)
        if objective not in file["speeds"]:
            continue
        cases = [case for case in file["cases"] if case["algorithm"] == objective]
        ours, theirs = (
            mean([mean(case["share_of_expert"][side]) for case in cases])
            for side in ("ours", "d3rlpy")
        )
        ratio = file["speeds"][objective]["ratio"]
        return (
            f"From states on {len(cases)} locomotion sets, 1,000 updates, 3 seeds: {ours:.2f} of "
            f"the expert's return, d3rlpy 2.8.1 "
            f"{theirs:.2f}; {ratio:.2f}x its updates per second ([all "
            f"sets](../results.md#offline-rl-from-states-against-d3rlpy))."
        )
    return ""


def block(objective: str) -> str:
    rows = simulation_rows(objective)
    parts = []
    if objective == SIMPLEST:
        shown = table(["data", "variant", "solved (95 %)"], [row[:3] for row in rows])
    else:
        shown = table(["data", "variant", "solved (95 %)", "filtered BC"], rows)
    parts.append(shown)
    parts.append(locomotion(objective))
    parts.append(
        "One training for each row of pictures, three for the maze. All objectives side by side, "
        "with tests and commands: "
        "[results](../results.md#offline-rl)."
    )
    return "\n\n".join(part for part in parts if part)


def all_blocks() -> dict[str, Any]:
    return {f"objective {name}": (lambda name=name: block(name)) for name in TABLETOP}


BLOCKS = all_blocks()

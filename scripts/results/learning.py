"""Results of offline RL, fine-tuning, action tokens and offline evaluation."""

from __future__ import annotations

from typing import Any

from scripts.results.formatting import (
    interval,
    mean,
    of_recorded,
    p_value,
    read,
    source,
    table,
)
from vla.sim_eval.statistics import mcnemar_exact

MAZE = {
    "bc": "BC",
    "filtered_bc": "filtered BC (solved episodes)",
    "awr": "AWR, Monte Carlo",
    "decision_transformer": "Decision Transformer, asked for the goal",
    "iql": "IQL",
    "cql": "CQL, greatest Q token by token",
    "q_transformer": "Q-Transformer",
}
"""What the variants of stitching.json are called."""


def per_task(variant: dict[str, Any]) -> list[int]:
    return [sum(starts) for starts in variant["solved"].values()]


def by_success(variants: dict[str, Any]) -> list[dict[str, Any]]:
    # stable: of equals the one that was listed first stays first
    return sorted(variants.values(), key=lambda variant: -variant["successes"])


def offline_rl_pictures(name: str) -> str:
    """Fine-tuning of one clone by different objectives, best first."""
    file = read(name)
    tasks = ", ".join(next(iter(file["variants"].values()))["solved"])
    rows = []
    for variant in by_success(file["variants"]):
        compared = variant["p_against_first"] is not None
        rows.append(
            (
                variant["what"],
                variant["successes"],
                interval(variant["successes"], variant["episodes"]),
                f"{variant['wins']} : {variant['losses']}" if compared else "",
                p_value(variant["p_against_first"]),
                ", ".join(str(n) for n in per_task(variant)),
            )
        )
    episodes = next(iter(file["variants"].values()))["episodes"]
    columns = [
        "fine-tuned by",
        f"solved of {episodes}",
        "95 % interval",
        "wins : losses against BC",
        "p",
        tasks,
    ]
    return "\n\n".join([table(columns, rows), source(file, name)])


def offline_rl_tabletop() -> str:
    return offline_rl_pictures("offline_rl_tabletop")


def offline_rl_metaworld() -> str:
    return offline_rl_pictures("offline_rl_metaworld")


def expert_hopper() -> str:
    """Snapshots of an expert, and the datasets that they made."""
    file = read("expert_hopper")
    rows = []
    for snapshot in file["snapshots"]:
        made = file["datasets"].get(snapshot["name"])
        of_dataset = "" if made is None else f"{made['return']:.0f} in {made['episodes']} episodes"
        rows.append(
            (
                f"{snapshot['step']:,}",
                f"{snapshot['return']:.0f} ± {snapshot['return_deviation']:.0f}",
                of_dataset,
                f"{snapshot['difference']:.0e}",
            )
        )
    columns = [
        "env steps",
        f"return of its most likely actions, {file['snapshots'][0]['episodes']} unseen starts",
        "return of sampled actions, its dataset",
        "greatest difference from the trained actor, of half the range",
    ]
    what = (
        "Hopper by SAC of stable-baselines3, one training, one thread of an "
        f"{file['machine']['cpu']} beside other work; mean and standard deviation between episodes."
    )
    return "\n\n".join([what, table(columns, rows), source(file, "expert_hopper")])


def stitching() -> str:
    file = read("stitching")
    rows = []
    for name, title in MAZE.items():
        variant = file["variants"][name]
        by_seed = ", ".join(str(n) for n in per_task(variant))
        solved, episodes = variant["successes"], variant["episodes"]
        rows.append((title, by_seed, solved, interval(solved, episodes)))
    columns = ["policy", "50 unseen starts after each of 3 trainings", "of 150", "95 % interval"]
    return "\n\n".join([table(columns, rows), source(file, "stitching")])


ONLINE = {
    "clone": "the clone",
    "ppo": "PPO",
    "grpo": "GRPO, 8 episodes of each start, discount 0.97",
    "grpo_success": "GRPO, discount 1: success alone counts",
    "a2c": "A2C",
    "trpo": "TRPO",
    "reinforce": "REINFORCE",
    "filtered_bc": "filtered BC of all rounds (the control)",
}
"""What the variants of online_stitch.json are called."""


def online_stitch() -> str:
    """The maze by acting: what each way reaches, and how much of it it plays."""
    file = read("online_stitch")
    rows = []
    for name, variant in file["variants"].items():
        solved = ", ".join(str(n) for n in per_task(variant))
        total = f"{variant['successes']} ({interval(variant['successes'], variant['episodes'])})"
        if "curves" not in variant:
            rows.append((ONLINE[name], solved, total, "", "", ""))
            continue
        reached = ", ".join(
            "never" if steps is None else f"{steps:,}" for steps in variant["solved_all"].values()
        )
        played = max(int(curve[-1][0]) for curve in variant["curves"].values())
        seconds = max(variant["cpu_seconds"].values())
        rows.append((ONLINE[name], solved, total, reached, f"{played:,}", f"{seconds:.0f} s"))
    text = (
        "Three clones of the maze's recordings, each continued by acting for "
        f"{file['rounds']} rounds of 64 episodes; most likely actions on 50 unseen starts after "
        "every round. Rewards are those of success, nothing else."
    )
    columns = [
        "",
        "solved after the last round",
        "of 150 (95 %)",
        "env steps until all 50 were solved first",
        "env steps in all, at most",
        "processor time of a run, at most",
    ]
    note = f"One thread of an {file['machine']['cpu']}, evaluations included."
    return "\n\n".join([text, table(columns, rows), source(file, "online_stitch", note=note)])


def corrections_tabletop() -> str:
    """What labels in a policy's own states are worth beside as many of the expert's."""
    file = read("corrections_tabletop")
    variants = file["variants"]
    control = variants["demonstrations"]
    reference = [start for starts in control["solved"].values() for start in starts]
    rows = []
    for name, variant in variants.items():
        starts = [start for of_seed in variant["solved"].values() for start in of_seed]
        pairs = list(zip(starts, reference, strict=True))
        wins = sum(a and not b for a, b in pairs)
        losses = sum(b and not a for a, b in pairs)
        p = mcnemar_exact(wins, losses, len(pairs) - wins - losses)
        same = name == "demonstrations"
        rows.append(
            (
                file["titles"][name],
                f"{variant['mean_labels']:,.0f}" if "mean_labels" in variant else "",
                ", ".join(str(n) for n in per_task(variant)),
                interval(variant["successes"], variant["episodes"]),
                "" if same else f"{wins} : {losses}",
                "" if same else p_value(p),
            )
        )
    starts_of_seed = len(next(iter(control["solved"].values())))
    trainings = "one training" if file["seeds"] == 1 else f"{file['seeds']} trainings"
    text = (
        f"{trainings.capitalize()} each: a clone of {file['clone_labels']:,} steps of "
        "demonstrations goes on for three rounds of 400 updates. Only who acts, and what is "
        "labelled of it, differs."
    )
    columns = [
        "",
        "labelled steps more",
        f"solved of {starts_of_seed}",
        "95 %",
        "wins : losses against the expert's",
        "p",
    ]
    return "\n\n".join([text, table(columns, rows), source(file, "corrections_tabletop")])


def locomotion_sets(*names: str) -> list[dict[str, Any]]:
    return [case for name in names for case in read(name)["cases"]]


def offline_rl_peer() -> str:
    """All algorithms against d3rlpy: speeds, shares of the expert's return over the nine sets."""
    rows = []
    for name in ("offline_rl_peer", "offline_rl_peer_cql"):
        for algorithm, speed in read(name)["speeds"].items():
            cases = [case for case in read(name)["cases"] if case["algorithm"] == algorithm]
            ours, theirs = (
                mean([mean(case["share_of_expert"][side]) for case in cases])
                for side in ("ours", "d3rlpy")
            )
            rows.append(
                (
                    algorithm,
                    f"{speed['ratio']:.2f}x",
                    f"{ours:.2f}",
                    f"{theirs:.2f}",
                    len(cases),
                    p_value(min(case["p_worse"] for case in cases)),
                    p_value(min(case["p_worse_holm"] for case in cases)),
                )
            )
    columns = [
        "algorithm",
        "updates per second against d3rlpy",
        "share of the expert's return, mean over the sets",
        "d3rlpy 2.8.1",
        "sets",
        "least p that ours is worse",
        "the same, Holm",
    ]
    file = read("offline_rl_peer")
    text = (
        "hopper, walker2d and halfcheetah, medium, medium-replay and medium-expert, from states; 3 "
        "seeds, 1,000 updates, the last "
        "checkpoints play the same episodes. No comparison is significantly worse (one-sided "
        "Welch, Holm within each run of the "
        "command)."
    )
    return "\n\n".join(
        [text, table(columns, rows), source(file, "offline_rl_peer", "offline_rl_peer_cql")]
    )


def cql_scale() -> str:
    """CQL by how near to 0 critics start, in per cent of the expert's return."""
    small = {(c["env"], c["set"]): c for c in read("offline_rl_peer_cql")["cases"]}
    rows = []
    for case in read("offline_rl_peer_cql_scale")["cases"]:
        near_zero = small[case["env"], case["set"]]["share_of_expert"]
        ours, theirs = case["share_of_expert"]["ours"], case["share_of_expert"]["d3rlpy"]
        rows.append(
            (
                f"{case['env']} {case['set'].replace('_', '-')}",
                *(f"{100 * mean(values):.1f}" for values in (near_zero["ours"], ours, theirs)),
                p_value(case["p_worse"]),
                p_value(case["p_worse_holm"]),
            )
        )
    columns = ["", "0.01", "1", "d3rlpy", "p that 1 is worse than d3rlpy", "the same, Holm"]
    file = read("offline_rl_peer_cql_scale")
    return "\n\n".join(
        [table(columns, rows), source(file, "offline_rl_peer_cql", "offline_rl_peer_cql_scale")]
    )


def dt_peer() -> str:
    file = read("dt_peer")
    rows = []
    for case in file["cases"]:
        shares = (case["share_of_expert"][side] for side in ("ours", "d3rlpy"))
        rows.append((case["env"], *(f"{mean(s):.2f} ({min(s):.2f}-{max(s):.2f})" for s in shares)))
    text = (
        "State-only Decision Transformer on medium-replay data, 600 updates, 3 seeds: share of the "
        "expert's return, mean and range "
        f"over seeds; **{file['ratio']:.1f}x** d3rlpy's updates per second."
    )
    return "\n\n".join([text, table(["", "ours", "d3rlpy 2.8.1"], rows), source(file, "dt_peer")])


def transfer() -> str:
    file = read("transfer")
    rows = []
    for variant in file["variants"].values():
        compared = variant["p_against_first"] is not None
        rows.append(
            (
                variant["what"],
                variant["successes"],
                interval(variant["successes"], variant["episodes"]),
                f"{variant['wins']} : {variant['losses']}" if compared else "",
                p_value(variant["p_against_first"]),
            )
        )
    columns = ["", "solved of 100", "95 % interval", "wins : losses against from scratch", "p"]
    return "\n\n".join([table(columns, rows), source(file, "transfer")])


def bridge() -> str:
    file = read("bridge")
    rows = [
        (
            side["what"],
            f"{side['error']:.2f} "
            f"({min(side['error_by_seed']):.2f}-{max(side['error_by_seed']):.2f})",
            f"{mean(side['least_error_by_seed']):.2f}",
            f"{side['loss']:.2f}",
        )
        for side in file["variants"].values()
    ]
    text = (
        "The tabletop's policy onto 17 episodes (170 steps) of the real Bridge robot, 200 updates, "
        "the same 8 episodes held out "
        "for both, 3 seeds. Nothing is gained: both learn these few pictures by heart."
    )
    columns = [
        "",
        "held-out action error, share of a constant's (range over seeds)",
        "least during training",
        "loss per token",
    ]
    return "\n\n".join([text, table(columns, rows), source(file, "bridge")])


def fqe_ranking() -> str:
    file = read("fqe_ranking")
    policies = sorted(file["policies"], key=lambda policy: -policy["value"])
    rows = [
        (
            p["policy"],
            f"{p['value']:.2f} ({p['interval'][0]:.2f}-{p['interval'][1]:.2f})",
            f"{p['success']:.2f}",
            f"{p['action_error']:.3f}",
        )
        for p in policies
    ]
    text = (
        f"{len(policies)} policies that were fine-tuned from one clone, valued on "
        f"{file['episodes']} episodes "
        f"({file['frames']:,} frames). Spearman's rank correlation with success: "
        f"**{file['ours']:.2f}** by value, "
        f"{file['theirs']:.2f} by held-out action error."
    )
    # the command of the file names twelve policies and as many evaluations
    command = (
        "python benchmarks/fqe_ranking.py configs/tabletop_offline.yaml POLICIES "
        "--data data/tabletop_offline --evaluations RUNS"
    )
    columns = ["policy", "value (95 %, over episodes)", "success", "action error"]
    return "\n\n".join(
        [text, table(columns, rows, right=[1, 2, 3]), source(file, "fqe_ranking", command=command)]
    )


def action_tokens() -> str:
    file = read("action_tokens")
    # the page lists the families in the order of the config, the file by the alphabet
    tasks = ["reach", "push", "pick", "place", "open-drawer"]
    rows = [
        (
            v["what"],
            f"{v['successes']}/{v['episodes']}",
            interval(v["successes"], v["episodes"]),
            *(sum(v["solved"][task]) for task in tasks),
            p_value(v["p_against_first"]),
            f"{v['control_ms']:.0f} ms",
            # files of before it was measured have none
            *([f"{v['picture_share']:.3g}"] if "picture_share" in v else []),
        )
        for v in by_success(file["variants"])
    ]
    columns = ["tokenizer and head", "solved", "95 %", *tasks, "p", "control"]
    if "seeds" in file:
        columns.append("picture's share")
    return "\n\n".join(
        [table(columns, rows, right=range(3, len(columns))), source(file, "action_tokens")]
    )


BLOCKS = {
    "expert_hopper": expert_hopper,
    "reward_gail": lambda: of_recorded("reward_gail"),
    "reward_preferences": lambda: of_recorded("reward_preferences"),
    "reward_classifier": lambda: of_recorded("reward_classifier"),
    "stitching": stitching,
    "online_stitch": online_stitch,
    "corrections_tabletop": corrections_tabletop,
    "stitching_gaussian_cql": lambda: of_recorded("stitching_gaussian_cql"),
    "offline_rl_tabletop": offline_rl_tabletop,
    "offline_rl_metaworld": offline_rl_metaworld,
    "offline_rl_peer": offline_rl_peer,
    "cql_scale": cql_scale,
    "dt_peer": dt_peer,
    "transfer": transfer,
    "transfer_drawer_open": lambda: of_recorded("transfer_drawer_open"),
    "mixture": lambda: of_recorded("mixture"),
    "bridge": bridge,
    "fqe_ranking": fqe_ranking,
    "fqe_action_tokens": lambda: of_recorded("fqe_action_tokens"),
    "action_tokens": action_tokens,
    "action_tokens_rvq8": lambda: of_recorded("action_tokens_rvq8"),
    "tokenizer_report": lambda: of_recorded("tokenizer_report"),
    "tokenizer_errors": lambda: of_recorded("tokenizer_errors"),
    "fast_compression": lambda: of_recorded("fast_compression"),
}

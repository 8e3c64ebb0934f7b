"""The results of the README and of the site's front page."""

from __future__ import annotations

from typing import Any

from scripts.results.formatting import of, ratio_range, read, table
from scripts.results.simulation import DEMO, counts
from scripts.results.trainings import points


def front() -> str:
    demo = {name: counts(f"demo/{name}") for name in DEMO}
    seconds = sum(read("demo/timings").values())
    pictures = read("offline_rl_tabletop")["variants"]
    detours = read("offline_rl_tabletop_detours_state")["rows"]
    maze = read("stitching")["variants"]
    moved = read("transfer")["variants"]
    peer = min(read("rt1_peer")["cases"], key=lambda case: case["ratio"])

    def rate(variant: dict[str, object]) -> str:
        return of(int(str(variant["successes"])), int(str(variant["episodes"])))

    def share(row: dict[str, Any]) -> str:
        return f"{100 * row['rate']:.0f} % ({points(row['interval']).replace(' %', '')})"

    best_imitation = max(
        (maze["bc"], maze["filtered_bc"], maze["awr"]), key=lambda v: v["successes"]
    )
    rows = [
        (
            f"The whole story in {seconds / 60:.0f} minutes: solved episodes with detours, RT-1 cloned "
            "from them, continued by IQL and by controls",
            f"cloned {of(*demo['rt1-bc'])}, no values {demo['no-values'][0]}, IQL "
            f"{of(*demo['results'])}, last 25 steps **{of(*demo['last-25-steps'])}**",
            "`make demo`",
        ),
        (
            "RT-1 on five families of instructions, one camera, 700 demonstrations each; only the "
            "words tell what to do",
            f"**{of(*counts('tabletop_700/results'))}**; random actions "
            f"{counts('tabletop_700/random')[0]}",
            "`vla train configs/tabletop.yaml steps=2400`",
        ),
        (
            f"{len(pictures) - 1} ways to fine-tune one clone from pictures and mixed data, one "
            "training each: imitating the solved episodes is as good as any of them (BC drew its "
            "windows as the data have them, the others mostly from solved episodes)",
            f"BC {rate(pictures['bc'])}, filtered BC **{rate(pictures['filtered_bc'])}**, AWR "
            f"{rate(pictures['awr'])}, "
            f"IQL by outcomes {rate(pictures['iql_outcome'])}",
            "`python benchmarks/offline_rl_images.py`",
        ),
        (
            f"Solved demonstrations with three detours each, the scene as numbers, "
            f"{len(detours['awr_8']['seeds'])} trainings: the last steps before success are the "
            "control to beat",
            f"no values {share(detours['none'])}, fastest quarter {share(detours['fastest_25'])}, "
            f"last 15 steps {share(detours['last_15'])}, AWR by 8-step advantages "
            f"**{share(detours['awr_8'])}**",
            "`python benchmarks/offline_rl_images.py --config configs/tabletop_detours_state.yaml`",
        ),
        (
            "A maze in which no recording shows the whole way: here values are needed",
            f"IQL **{rate(maze['iql'])}**, Q-Transformer {rate(maze['q_transformer'])}; "
            f"the best of BC, filtered BC and AWR {rate(best_imitation)}",
            "`python benchmarks/stitching.py`",
        ),
        (
            "A policy of the tabletop onto another robot, camera and rate by ten demonstrations",
            f"from scratch {rate(moved['scratch'])}, fine-tuned **{rate(moved['transfer'])}**",
            "`python benchmarks/transfer.py`",
        ),
        (
            "The official RT-1 against `robotic-transformer-pytorch`, which has another vision "
            "trunk: "
            "training step and forward pass",
            f"at least **{peer['ratio']:.1f}x** faster "
            f"({ratio_range(peer['ours'], peer['theirs'])} between quartiles)",
            "`make bench-rt1_peer`",
        ),
    ]
    return table(["what", "solved, or faster (95 % interval)", "command"], rows)


def honest_demo() -> str:
    """The sentence that belongs to the demo's numbers wherever they stand."""
    demo = {name: counts(f"demo/{name}") for name in DEMO}
    (tail, episodes), (iql, _) = demo["last-25-steps"], demo["results"]
    return (
        "The demo's episodes are all solved and full of detours: imitating them learns nothing "
        f"({demo['no-values'][0]} of {episodes}), and values find moments worth imitating ({iql}). "
        "Its strongest control learns no values and imitates the last 25 steps before success "
        f"({tail}), which are right in these data; one training of each."
    )


BLOCKS = {"front": front, "honest demo": honest_demo}

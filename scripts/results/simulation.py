"""Results of policies in simulation."""

from __future__ import annotations

from scripts.results.formatting import (
    interval,
    of,
    of_recorded,
    read,
    recorded,
    recorded_source,
    source,
    table,
)


def counts(file: str) -> tuple[int, int]:
    """Solved episodes and all episodes of an evaluation's file."""
    overall = read(file)["overall"]
    return overall["successes"], overall["episodes"]


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


DEMO = {
    "rt1-bc": "RT-1 cloned from all episodes",
    "no-values": "continued on the same windows without values",
    "last-25-steps": "continued on the last 25 steps of each episode",
    "results": "continued by IQL",
    "expert": "scripted expert",
    "random": "random actions",
}
"""Files of the demo's evaluations -> titles."""


def demo() -> str:
    times = read("demo/timings")
    rows = [(title, of(*counts(f"demo/{name}"))) for name, title in DEMO.items()]
    parts = [
        "1,200 solved tabletop episodes with three detours each, RT-1 cloned from all of them and "
        "continued in three ways; 25 unseen seeds of four families; one training of each.",
        table(["policy", "solved (95 % interval)"], rows),
        " ".join(_demo_pair(name) for name in ("no-values", "last-25-steps")),
        ", ".join(f"{name} {minutes(seconds)}" for name, seconds in times.items())
        + f"; {minutes(sum(times.values()))} minutes in all on two cores.",
        source(
            {}, *(f"demo/{name}" for name in (*DEMO, "compare", "timings")), command="make demo"
        ),
    ]
    return "\n\n".join(parts)


def _demo_pair(control: str) -> str:
    """IQL against a control, on the same starts."""
    for pair in read("demo/compare")["pairs"]:
        if {pair["a"], pair["b"]} == {"rt1-iql", control}:
            ours, theirs = pair["wins"], pair["losses"]
            if pair["b"] == "rt1-iql":
                ours, theirs = theirs, ours
            return (
                f"Against {control}: {ours} starts solved by IQL alone, {theirs} by the control "
                f"alone (exact McNemar p = {pair['p_value']:.1g})."
            )
    raise KeyError(f"demo/compare.json has no pair of rt1-iql and {control}")


def tabletop_700() -> str:
    file = read("tabletop_700/results")
    times = read("tabletop_700/timings")
    solved = {name: task["successes"] for name, task in file["tasks"].items()}
    families = ", ".join(f"{name} {n}" for name, n in solved.items())
    rows = [
        ("RT-1", of(*counts("tabletop_700/results"))),
        ("scripted expert", of(*counts("tabletop_700/expert"))),
        ("random actions", of(*counts("tabletop_700/random"))),
    ]
    parts = [
        "RT-1 on five families of tabletop instructions, one 96 px camera, 700 demonstrations per "
        "family, 2,400 steps, "
        "25 unseen seeds each.",
        table(["policy", "solved (95 % interval)"], rows),
        f"Of 25 each: {families}. Minutes: demonstrations {minutes(times['collect'])}, training "
        f"{minutes(times['train'])}, "
        f"evaluation of all three {minutes(times['evaluate'])}.",
        source(
            {},
            "tabletop_700/results",
            "tabletop_700/expert",
            "tabletop_700/random",
            "tabletop_700/timings",
            command=[
                "vla collect configs/tabletop.yaml episodes_per_task=700",
                "vla train configs/tabletop.yaml steps=2400",
                "vla eval configs/tabletop.yaml episodes_per_task=25",
            ],
        ),
    ]
    return "\n\n".join(parts)


def metaworld_mt10() -> str:
    file = read("metaworld_mt10")
    cost = recorded("metaworld_mt10_training")["rows"][0]
    tasks = ", ".join(f"{name} {task['successes']}" for name, task in file["tasks"].items())
    groups = [
        (name, of(group["successes"], group["episodes"])) for name, group in file["groups"].items()
    ]
    parts = [
        f"RT-1 on Meta-World's MT10, one 128 px camera, language, {cost[0]} demonstrations per "
        f"task, 20 unseen seeds each, "
        f"500 steps per episode: the checkpoint at step 8,000 of the config's 11,000, after "
        f"{cost[1]} minutes of processor time.",
        table(
            ["tasks", "solved (95 % interval)"],
            [("all ten", of(*counts("metaworld_mt10"))), *groups],
        ),
        f"Mean of the three groups {100 * file['macro_rate']:.0f} %. Of 20 each: {tasks}.",
        source(
            {},
            "metaworld_mt10",
            "recorded",
            command=[
                "vla collect configs/metaworld_mt10.yaml",
                "vla train configs/metaworld_mt10.yaml",
                file["command"],
            ],
        ),
    ]
    return "\n\n".join(parts)


def instruction_controls() -> str:
    """The two controls of the instruction, of both suites."""
    rows = []
    for name, title in (
        ("perturbations_tabletop", "tabletop: any instruction fits the scene"),
        ("perturbations_metaworld", "Meta-World: every task has a scene of its own"),
    ):
        entry = recorded(name)
        n = entry["episodes"]
        wrong, none = (
            entry["conditions"][kind]["levels"][0]["solved"]
            for kind in ("wrong_instruction", "empty_instruction")
        )
        rows.append((title, of(entry["clean"], n), of(wrong, n), of(none, n)))
    parts = [
        "The instruction exchanged for that of another task, or taken away. Where the scene alone "
        "tells the task, success "
        "says little about language.",
        table(["suite", "right instruction", "wrong one", "none"], rows),
        "All conditions, and the commands: [perturbations](perturbations.md). Numbers: "
        "`benchmarks/results/recorded.json`.",
    ]
    return "\n\n".join(parts)


def perturbations(name: str) -> str:
    entry = recorded(name)
    n = entry["episodes"]

    def rate(solved: int) -> str:
        return f"{100 * solved / n:.0f} % ({interval(solved, n).removesuffix(' %')})"

    def cell(level: dict[str, object]) -> str:
        p = str(level["p"])
        # bold: differs from clean by the adjusted exact test
        significant = p.startswith("<") or float(p) < 0.05
        text = rate(int(str(level["solved"])))
        return (f"**{text}**" if significant else text) + f", p {p}"

    rows = []
    for kind, condition in entry["conditions"].items():
        cells = [cell(level) for level in condition["levels"]]
        cells += [""] * (3 - len(cells))
        rows.append((kind, rate(entry["clean"]), *cells, condition["what"]))
    columns = ["perturbation", "clean", "severity 1", "severity 2", "severity 3", "what it is"]
    note = (
        f"{n} episodes for each condition, the same starts for all; in brackets 95 % intervals "
        f"(Wilson); "
        f"p: McNemar's exact test against clean, adjusted for 40 conditions (Holm)."
    )
    return "\n\n".join([table(columns, rows), note, recorded_source(name)])


BLOCKS = {
    "demo": demo,
    "tabletop_700": tabletop_700,
    "tabletop_1200": lambda: of_recorded("tabletop_1200"),
    "instruction_controls": instruction_controls,
    "perturbations_tabletop": lambda: perturbations("perturbations_tabletop"),
    "perturbations_metaworld": lambda: perturbations("perturbations_metaworld"),
    "metaworld_mt5": lambda: of_recorded("metaworld_mt5"),
    "metaworld_mt10": metaworld_mt10,
    "decision_transformer_mixed": lambda: of_recorded("decision_transformer_mixed"),
    "tabletop_experts": lambda: of_recorded("tabletop_experts"),
}

"""The pages that hold results: which blocks there are, and how a page is filled with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.results import (
    front,
    learning,
    libero,
    objectives,
    quadruped,
    simulation,
    systems,
    trainings,
)
from scripts.results.formatting import ROOT

BLOCKS: Mapping[str, Callable[[], str]] = {
    **front.BLOCKS,
    **simulation.BLOCKS,
    **quadruped.BLOCKS,
    **learning.BLOCKS,
    **objectives.BLOCKS,
    **trainings.BLOCKS,
    **systems.BLOCKS,
    **libero.BLOCKS,
}
"""Name of a block -> what writes it."""

SECTIONS = {
    "Policies in simulation": {
        "The demo": "demo",
        "Five families of instructions": "tabletop_700",
        "More demonstrations, and what training never showed": "tabletop_1200",
        "Does the policy follow its instruction?": "instruction_controls",
        "Five Meta-World tasks": "metaworld_mt5",
        "Meta-World MT10": "metaworld_mt10",
        "Decision Transformer asked for success and for failure": "decision_transformer_mixed",
        "Scripted experts of the tabletop": "tabletop_experts",
        "The quadruped's scripted expert": "quadruped_expert",
        "The quadruped's walking controller": "quadruped_commands",
    },
    "Experts": {
        "SAC on hopper": "expert_hopper",
        "Scripted experts of LIBERO": "libero_experts",
    },
    "Learned rewards": {
        "The maze by a discriminator (GAIL)": "reward_gail",
        "Hopper by comparisons": "reward_preferences",
        "Success from pictures and words": "reward_classifier",
    },
    "Offline RL": {
        **trainings.TITLES,
        "A maze without a whole path": "stitching",
        "The maze by a Gaussian CQL": "stitching_gaussian_cql",
        "Offline RL from pictures, tabletop": "offline_rl_tabletop",
        "Offline RL from pictures, Meta-World": "offline_rl_metaworld",
        "Offline RL from states against d3rlpy": "offline_rl_peer",
        "CQL by where critics start": "cql_scale",
        "Decision Transformer against d3rlpy": "dt_peer",
    },
    "Learning from acting": {
        "From a clone that never arrives": "online_stitch",
        "What corrections are worth": "corrections_tabletop",
    },
    "Offline evaluation": {
        "Twelve policies ranked without a simulator": "fqe_ranking",
        "Policies of different action tokens ranked": "fqe_action_tokens",
    },
    "Other robots": {
        "Onto another robot by ten demonstrations": "transfer",
        "An easier task from scratch": "transfer_drawer_open",
        "One policy for three robots": "mixture",
        "Onto the real Bridge robot": "bridge",
    },
    "Actions as tokens": {
        "What a policy makes of each tokenizer and head": "action_tokens",
        "Residual VQ with eight readouts": "action_tokens_rvq8",
        "What each tokenizer costs and loses": "tokenizer_report",
        "Errors by action dimension": "tokenizer_errors",
        "Compression by FAST": "fast_compression",
    },
    "Robustness": {
        "The tabletop's policy under perturbations": "perturbations_tabletop",
        "The Meta-World policy under perturbations": "perturbations_metaworld",
    },
    "Speed and memory": {
        "A control step": "control_step",
        "A control step without torch": "export",
        "RT-1 against robotic-transformer-pytorch": "rt1_peer",
        "Evaluation against lerobot": "eval_peer",
        "Loading against lerobot": "loader_peer",
        "Training on streamed frames": "streaming",
        "Frames at the size that the policy sees": "picture_size",
        "A training step in bfloat16": "train_cpu",
        "Busy machines": "busy_machine",
        "Chunks of a vision-language model": "vlm_decoding",
        "Rendering": "render",
        "A control step of LIBERO": "libero_render",
    },
    "Things that must not happen": {
        "Damaged datasets that pass unseen": "data_fuzz",
        "Files and settings of others": "attack",
        "Work lost to kills": "kill_soak",
        "An evaluation that is killed": "killed_evaluation",
        "Two commands on one folder": "collisions",
        "Growth over long runs": "long_run",
        "Actions that a server changes": "openpi_interop",
        "False alarms, and intervals that do not cover": "coverage",
        "The same over trainings": "coverage_trainings",
        "Training that depends on the number of processes": "two_processes",
        "Planted faults that `vla doctor` finds": "doctor",
    },
}
"""docs/results.md: section -> title -> block."""

HEAD = """\
# Results

<!-- written by `make results` from benchmarks/results/; edit scripts/results/ -->

Every number of this project that was measured, with the command that measures it again. All on two
cores without a GPU, most of them of an Intel Xeon; each file names its processor. Intervals of success rates are Wilson's, 95 %. They cover the
choice of starts, not the randomness of training, and most rows are of one training. Paired tests are
exact McNemar tests on the same starts. Tables that list trainings are over both: trainings and starts.

Each block is written from the file of `benchmarks/results/` that it names; `recorded.json` there
holds the results of runs whose files were not kept, as the command printed them. A test fails if page
and files differ.
"""

_BLOCK = re.compile(
    r"(?P<begin><!-- result: (?P<name>[^>]+?) -->\n)(?P<text>.*?)(?P<end><!-- end of result -->)",
    re.DOTALL,
)


def results_page() -> str:
    """docs/results.md."""
    parts = [HEAD]
    for section, blocks in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        for title, name in blocks.items():
            parts.append(f"\n### {title}\n\n{BLOCKS[name]()}\n")
    return "".join(parts)


def filled(text: str) -> str:
    """A page with all of its blocks written. Raises KeyError if it names an unknown block."""

    def write(match: re.Match[str]) -> str:
        # blank lines: else a table that follows a comment is read as part of it
        return f"{match['begin']}\n{BLOCKS[match['name']]()}\n\n{match['end']}"

    return _BLOCK.sub(write, text)


def names_in(text: str) -> list[str]:
    """The blocks that a page names."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def pages() -> list[Path]:
    """Pages that may name blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def written() -> dict[Path, str]:
    """Every page as it should be."""
    found = {ROOT / "docs" / "results.md": results_page()}
    for path in pages():
        if path not in found:
            found[path] = filled(path.read_text(encoding="utf-8"))
    return found


def stale() -> dict[Path, str]:
    """The pages that are not as they should be, as they should be."""
    return {
        path: text
        for path, text in written().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }

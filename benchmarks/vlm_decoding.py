"""VLM policy, one robot: a chunk of 8 actions from empty slots in one pass, against the same chunk token by token.

Both sides are the same small SmolVLM with random weights and call `act`: image processing, tokenization, all passes and
decoding are included. Token by token keeps the language model's keys and values.

    python benchmarks/vlm_decoding.py [--rounds 15] [--threads N] [--clock wall|cpu]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from _common import (
    add_cpu_arguments,
    alternate,
    check_cpu_arguments,
    clocked,
    prepare_cpu,
    publish,
    summary,
)
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import vlm_toys

from vla.models.policies.vlm import VLM, VLMConfig
from vla.types import Spec

NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SPEC = Spec({"front": (96, 96)}, ("x", "y", "z"), NAMES, (-1.0,) * 7, (1.0,) * 7, 10)


def build(base: Path, decoding: str, chunk: int) -> VLM:
    torch.manual_seed(0)
    policy = VLMConfig.model_validate(
        {"base": str(base), "chunk": chunk, "decoding": decoding}
    ).build(SPEC)
    batch = SPEC.fake_batch(4, 1, chunk)
    policy.fit(batch.actions.flatten(0, 2), batch.state.flatten(0, 1), batch.instruction)
    return policy.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="measured rounds; both sides work once in each"
    )
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--width", type=int, default=256, help="of the language model")
    parser.add_argument("--layers", type=int, default=12)
    add_cpu_arguments(parser)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    prepare_cpu(arguments.threads)

    sizes = {"hidden_size": arguments.width, "intermediate_size": 3 * arguments.width}
    with tempfile.TemporaryDirectory() as folder:
        base = vlm_toys.smolvlm(Path(folder) / "base", num_hidden_layers=arguments.layers, **sizes)
        policies = {
            "ours": build(base, "parallel", arguments.chunk),
            "theirs": build(base, "autoregressive", arguments.chunk),
        }
    observation = SPEC.fake_observation(1)
    calls = {
        name: clocked(lambda p=policy: p.act(observation), arguments.clock)
        for name, policy in policies.items()
    }
    with Console(stderr=True).status("measuring") as status:
        times = alternate(
            calls, rounds=arguments.rounds, warmup=arguments.warmup, tell=status.update
        )
    ours, theirs = summary(times["ours"]), summary(times["theirs"])
    ratio = theirs["median"] / ours["median"]

    tokens = policies["ours"].tokenizer.num_tokens
    table = Table(
        title=f"SmolVLM, width {arguments.width}, {arguments.layers} layers: a chunk of {arguments.chunk}"
    )
    for column in ("", "median ms", "quartiles ms", "chunks/s"):
        table.add_column(column, justify="left" if not column else "right")
    for name, s in (
        (f"{tokens} empty slots, one pass", ours),
        (f"{tokens} tokens one by one", theirs),
    ):
        quartiles = f"{s['q25'] * 1e3:.1f} - {s['q75'] * 1e3:.1f}"
        table.add_row(name, f"{s['median'] * 1e3:.1f}", quartiles, f"{1 / s['median']:.1f}")
    table.add_row("ratio", f"{ratio:.2f}", "", "")
    publish(
        "vlm_decoding",
        ours=ours["median"],
        theirs=theirs["median"],
        ratio=ratio,
        unit="s per chunk",
        table=table,
        ours_seconds=ours,
        theirs_seconds=theirs,
        chunk=arguments.chunk,
        tokens=tokens,
        parameters=sum(p.numel() for p in policies["ours"].parameters()),
        threads=arguments.threads,
        clock=arguments.clock,
        method="one process, sides alternate within each round and swap order, medians; random weights",
    )


if __name__ == "__main__":
    main()

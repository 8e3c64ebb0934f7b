"""RT-1, one robot: `act`, which encodes one new frame and remembers the rest, against encoding the window again.

The released code, and its ports, run all 6 frames through the trunk at every control step. Here both sides give the
same action from the same window; only what is computed for it differs.

    python benchmarks/control_step.py [--rounds 20] [--threads N] [--clock wall|cpu]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _common import (
    add_cpu_arguments,
    alternate,
    check_cpu_arguments,
    clocked,
    prepare_cpu,
    publish,
    rt1_spec,
    summary,
)
from rich.console import Console
from rich.table import Table

from vla.models import RT1, RT1Config
from vla.types import Batch, Observation

INSTRUCTION = "pick up the green can"


def full_memory(policy: RT1, window: Batch) -> object:
    """The memory of a robot that has seen all of the window but its last step."""
    memory = None
    for t in range(policy.history - 1):
        _, memory = policy.act(window.observation(t), memory)
    return memory


def sides(policy: RT1, window: Batch, clock: str) -> tuple[dict[str, Callable[[], float]], float]:
    """The two ways to the window's last action, and the greatest difference between their logits."""
    observation, memory = window.observation(-1), full_memory(policy, window)

    @torch.no_grad()
    def cached() -> torch.Tensor:
        return policy.act(observation, memory)[0]

    @torch.no_grad()
    def window_again() -> torch.Tensor:
        return policy(window).actions.mode()[:, -1]

    with torch.no_grad():
        step, _ = policy.step(
            Observation(observation.images, observation.state, observation.instruction), memory
        )
        difference = (
            (step.actions.logits[:, -1] - policy(window).actions.logits[:, -1]).abs().max().item()
        )
    return {"ours": clocked(cached, clock), "theirs": clocked(window_again, clock)}, difference


def settle_batch_norm(policy: RT1, window: Batch) -> None:
    """Running statistics of an untrained trunk, so that signals reach its end and the comparison of logits counts."""
    for module in policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        policy.train()(window)
    policy.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=20, help="measured rounds; both sides work once in each"
    )
    parser.add_argument("--warmup", type=int, default=3)
    add_cpu_arguments(parser)
    parser.add_argument("--image-size", type=int, default=300)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    prepare_cpu(arguments.threads)
    torch.manual_seed(0)

    config = RT1Config(dropout=0.0, random_shift=(0, 0))
    policy = config.build(rt1_spec(arguments.image_size))
    window = policy.spec.fake_batch(1, policy.history)
    window.instruction[:] = [INSTRUCTION]
    policy.language.embed([INSTRUCTION])
    settle_batch_norm(policy, window)

    calls, difference = sides(policy, window, arguments.clock)
    with Console(stderr=True).status("measuring") as status:
        times = alternate(
            calls, rounds=arguments.rounds, warmup=arguments.warmup, tell=status.update
        )
    ours, theirs = summary(times["ours"]), summary(times["theirs"])
    ratio = theirs["median"] / ours["median"]

    table = Table(title=f"RT-1 at {arguments.image_size} px, 6 frames, one robot: one control step")
    for column in ("", "median ms", "quartiles ms", "Hz"):
        table.add_column(column, justify="left" if not column else "right")
    for name, s in (
        ("act, past frames remembered", ours),
        ("the whole window encoded again", theirs),
    ):
        quartiles = f"{s['q25'] * 1e3:.1f} - {s['q75'] * 1e3:.1f}"
        table.add_row(name, f"{s['median'] * 1e3:.1f}", quartiles, f"{1 / s['median']:.1f}")
    table.add_row("ratio", f"{ratio:.2f}", "", "")
    publish(
        "control_step",
        ours=ours["median"],
        theirs=theirs["median"],
        ratio=ratio,
        unit="s per control step",
        table=table,
        ours_seconds=ours,
        theirs_seconds=theirs,
        greatest_logit_difference=float(f"{difference:.2g}"),
        parameters=sum(p.numel() for p in policy.parameters()),
        threads=arguments.threads,
        clock=arguments.clock,
        method="one process, sides alternate within each round and swap order, medians; denormals flushed",
    )


if __name__ == "__main__":
    main()

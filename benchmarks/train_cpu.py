"""A training step of RT-1 on this machine's CPU cores, and the share of their peak that it reaches.

Behavioural cloning and IQL as `configs/tabletop_offline.yaml` and the demo train them, on one synthetic batch: in
float32, in bfloat16 autocast with attention in float32 (what `precision: bf16` does on a CPU), and in bfloat16
throughout; with --compile each of the first two also compiled. All sides run in turns; medians of whole steps (forward,
loss, backward, AdamW).

The peak is that of a large float32 matrix product in the same process, FLOPs are counted by torch on the step itself
(forward and backward). The JSON also holds which operations the float32 step spends its time in.

    python benchmarks/train_cpu.py [--threads 2] [--rounds 5] [--compile]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _common import (
    add_cpu_arguments,
    alternate,
    check_cpu_arguments,
    clocked,
    prepare_cpu,
    publish,
)
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vla.config import load_config
from vla.models.layers import transformer
from vla.models.policy import Policy
from vla.recipes.demo import DemoConfig
from vla.sim_eval.envs.tabletop import TabletopConfig
from vla.training.hardware.precision import multiplies_bf16
from vla.training.objective import Learner
from vla.types import Batch

WINDOWS = 64


def learner_of(objective: Any, policy_config: Any) -> Learner:
    """A new policy of the demo with its objective, in training mode."""
    torch.manual_seed(0)
    policy: Policy = policy_config.build(TabletopConfig(cameras=("front",)).spec())
    return Learner(policy, objective.build(policy)).train()


def step_of(
    learner: Learner, batch: Batch, *, bf16: bool, attention_in_bf16: bool = False
) -> Callable[[], None]:
    """One whole training step."""
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _, _ = learner(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    if not attention_in_bf16:
        return step

    def with_attention_in_bf16() -> None:
        ours = transformer._dot_product_attention
        transformer._dot_product_attention = _plain_attention
        try:
            step()
        finally:
            transformer._dot_product_attention = ours

    return with_attention_in_bf16


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attention in whatever type it is given."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


def flops_of(step: Callable[[], None]) -> int:
    """FLOPs of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def peak_flops(rounds: int) -> float:
    """FLOP/s of a float32 product of two 2048 x 2048 matrices, the best round."""
    size = 2048
    a, b = torch.rand(size, size), torch.rand(size, size)
    best = 0.0
    for _ in range(rounds + 1):
        start = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def operations_of(step: Callable[[], None], count: int = 10) -> dict[str, float]:
    """The operations that take longest -> their share of a step's time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()
    events = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    events = sorted(events, key=lambda event: -event.self_cpu_time_total)
    shares = {event.key: event.self_cpu_time_total / total for event in events[:count]}
    return {name: round(share, 3) for name, share in shares.items()}


def sides_of(objective: Any, policy_config: Any, batch: Batch, compiled: bool) -> dict[str, Any]:
    """Name of a side -> its step."""
    kinds: dict[str, dict[str, bool]] = {
        "float32": {"bf16": False},
        "bf16": {"bf16": True},
        "bf16, attention too": {"bf16": True, "attention_in_bf16": True},
    }
    sides = {}
    for name, options in kinds.items():
        sides[name] = step_of(learner_of(objective, policy_config), batch, **options)
    if compiled:
        for name in ("float32", "bf16"):
            learner = learner_of(objective, policy_config)
            learner.policy.compile()
            sides[f"{name}, compiled"] = step_of(learner, batch, **kinds[name])
    return sides


def arguments_of(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each side")
    parser.add_argument("--compile", action="store_true", help="also compiled: minutes more")
    add_cpu_arguments(parser)
    arguments = parser.parse_args()
    check_cpu_arguments(parser, arguments)
    return arguments


def main() -> None:
    arguments = arguments_of(__doc__)
    prepare_cpu(arguments.threads)
    demo = load_config(DemoConfig, {}, [])
    policy_config = demo.train.policy
    spec = TabletopConfig(cameras=("front",)).spec()
    peak = peak_flops(arguments.rounds)
    table = Table(title=f"RT-1 of the demo, {WINDOWS} windows, {arguments.threads} threads")
    for column in ("objective", "side", "ms", "times float32", "share of float32 peak"):
        table.add_column(column, justify="right")
    cases = []
    for name, config in (("bc", demo.train.objective), ("iql", demo.finetune.objective)):
        objective = config
        ahead = objective.build(policy_config.build(spec)).next_step
        batch = spec.fake_batch(WINDOWS, 1 + ahead, policy_config.chunk)
        sides = sides_of(objective, policy_config, batch, arguments.compile)
        flops = flops_of(sides["float32"])
        seconds = alternate(
            {side: clocked(step, arguments.clock) for side, step in sides.items()},
            rounds=arguments.rounds,
            warmup=2,
        )
        medians = {side: statistics.median(times) for side, times in seconds.items()}
        for side, median in medians.items():
            case = {
                "objective": name,
                "side": side,
                "ms": round(1000 * median, 1),
                "ratio": round(medians["float32"] / median, 2),
                "peak_share": round(flops / median / peak, 3),
            }
            cases.append(case)
            table.add_row(*(str(value) for value in case.values()))
        cases[-len(medians)]["operations"] = operations_of(sides["float32"])
    by_side = {case["side"]: case["ms"] for case in cases if case["objective"] == "bc"}
    publish(
        "train_cpu",
        ours=by_side["bf16"],
        theirs=by_side["float32"],
        ratio=by_side["float32"] / by_side["bf16"],
        unit="ms of a training step of behavioural cloning in bf16; theirs: in float32",
        table=table,
        multiplies_bf16=multiplies_bf16(),
        peak_float32_gflops=round(peak / 1e9, 1),
        threads=arguments.threads,
        cases=cases,
        method="sides in turns, reversed in every second round; medians of whole steps after 2 of warm-up",
    )


if __name__ == "__main__":
    main()

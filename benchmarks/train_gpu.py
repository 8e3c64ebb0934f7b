"""RT-1's official configuration on a GPU: training in bf16 against float32, and control.

Frames per second and MFU of whole training steps (forward, loss, backward, Adam) on synthetic uint8 batches that
lie on the device, for growing batches until the memory is full; then the control rate of one robot.

MFU = 3 x the FLOPs of a forward pass (counted by torch; a backward pass counts twice a forward) per second, over the
greatest dense bf16 rate that the maker states for the device.

    python benchmarks/train_gpu.py [--batches 8 16 32 64 128]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from _common import publish, rt1_spec
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from vla.models import RT1, RT1Config
from vla.types import Batch

# dense bf16 TFLOP/s, by a part of the device's name; the first that fits counts
PEAK_TFLOPS = (
    ("B200", 2250),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100", 989),
    ("A100", 312),
    ("L40S", 362),
    ("L4", 121),
    ("A10G", 70),
    ("A10", 125),
    ("RTX 4090", 165),
    ("RTX 3090", 71),
    ("V100", 125),
)


def peak_tflops(device_name: str) -> float | None:
    return next((float(peak) for part, peak in PEAK_TFLOPS if part in device_name), None)


def autocast(device: torch.device, bf16: bool) -> Any:
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def forward_flops(policy: RT1, batch: Batch) -> int:
    """FLOPs of one training-mode forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        policy.train()(batch)
    return counter.get_total_flops()


def training_rate(policy: RT1, batch: Batch, *, bf16: bool, steps: int) -> float:
    """Frames per second of whole training steps, the median over `steps`."""
    device = policy.device
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4, fused=device.type == "cuda")
    policy.train()
    seconds = []
    for step in range(3 + steps):
        synchronize(device)
        start = time.perf_counter()
        with autocast(device, bf16):
            loss = policy(batch).actions.loss(batch.actions).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(device)
        if step >= 3:
            seconds.append(time.perf_counter() - start)
    return batch.batch_size * policy.history / statistics.median(seconds)


def control_rate(policy: RT1, *, bf16: bool, steps: int) -> float:
    """Control steps per second of one robot with a full memory, images coming from the host."""
    policy.eval()
    observation = policy.spec.fake_observation(1)
    memory, seconds = None, []
    with autocast(policy.device, bf16):
        for step in range(policy.history + 3 + steps):
            start = time.perf_counter()
            _, memory = policy.act(
                observation, memory
            )  # gives actions on the host, so the device is done
            if step >= policy.history + 3:
                seconds.append(time.perf_counter() - start)
    return 1 / statistics.median(seconds)


def measure(
    policy: RT1, batches: Sequence[int], steps: int, peak: float | None
) -> list[dict[str, Any]]:
    """One row per batch size and precision, until the memory is full."""
    flops_per_window = forward_flops(
        policy, policy.spec.fake_batch(1, policy.history).to(policy.device)
    )
    rows = []
    for size in batches:
        batch = policy.spec.fake_batch(size, policy.history).to(policy.device)
        for precision in ("bf16", "float32"):
            try:
                rate = training_rate(policy, batch, bf16=precision == "bf16", steps=steps)
            except torch.OutOfMemoryError:
                print(
                    f"train_gpu: batch {size} in {precision} does not fit into memory",
                    file=sys.stderr,
                )
                torch.cuda.empty_cache()
                continue
            tflops = 3 * flops_per_window * rate / policy.history / 1e12
            mfu = round(tflops / peak, 4) if peak and precision == "bf16" else None
            rows.append(
                {
                    "batch": size,
                    "precision": precision,
                    "frames_per_s": round(rate, 1),
                    "tflops": round(tflops, 2),
                    "mfu": mfu,
                }
            )
    return rows


def arguments_of(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="windows of 6 frames"
    )
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--image-size", type=int, default=300)
    parser.add_argument(
        "--device", default="cuda", help="another device only checks that the benchmark runs"
    )
    return parser.parse_args()


def main() -> None:
    arguments = arguments_of(__doc__)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "train_gpu: no GPU here; run it on a machine where torch.cuda.is_available()",
            file=sys.stderr,
        )
        raise SystemExit(2)
    torch.manual_seed(0)
    policy = (
        RT1Config(random_shift=(20, 50)).build(rt1_spec(arguments.image_size)).to(arguments.device)
    )
    name = torch.cuda.get_device_name() if policy.device.type == "cuda" else "cpu"
    peak = peak_tflops(name)

    with Console(stderr=True).status("measuring"):
        rows = measure(policy, arguments.batches, arguments.steps, peak)
        hertz = {
            precision: round(
                control_rate(policy, bf16=precision == "bf16", steps=5 * arguments.steps), 1
            )
            for precision in ("bf16", "float32")
        }
    best = {
        p: max(
            (r for r in rows if r["precision"] == p), key=lambda r: r["frames_per_s"], default=None
        )
        for p in ("bf16", "float32")
    }
    if best["bf16"] is None:
        print("train_gpu: not even the smallest batch fits; try --batches 1", file=sys.stderr)
        raise SystemExit(1)
    table = Table(title=f"RT-1 at {arguments.image_size} px, 6 frames, on {name}: training")
    for column in ("batch", "precision", "frames/s", "TFLOP/s", "MFU"):
        table.add_column(column, justify="right")
    for row in rows:
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        table.add_row(
            str(row["batch"]),
            row["precision"],
            f"{row['frames_per_s']:.0f}",
            f"{row['tflops']:.1f}",
            mfu,
        )
    table.caption = (
        f"control, one robot: {hertz['bf16']} Hz in bf16, {hertz['float32']} Hz in float32"
    )
    ours, theirs = (
        best["bf16"]["frames_per_s"],
        best["float32"]["frames_per_s"] if best["float32"] else None,
    )
    publish(
        "train_gpu",
        ours=ours,
        theirs=theirs,
        ratio=ours / theirs if theirs else None,
        unit="training frames per s, best batch; theirs: the same in float32",
        table=table,
        mfu=best["bf16"]["mfu"],
        peak_bf16_tflops=peak,
        control_hz=hertz,
        cases=rows,
        method="median of whole steps after 3 of warm-up, device synchronised; batches lie on the device as uint8",
    )


if __name__ == "__main__":
    main()

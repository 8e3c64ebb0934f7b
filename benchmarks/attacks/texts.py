"""Datasets with odd instructions, names, rates and pictures."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

from attacks._case import Case
from attacks._datasets import fresh, reading, warm_all
from attacks.links import read_pairs

COUNT = 120
ODD_TEXTS = (
    "\ud800",
    "a" * 20_000_000,
    "\x1b[2J\x1b]0;x\x07",
    "[/red]",
    "<script>alert(1)</script>",
    "",
    "\u202e",
    "a\0b",
)
RATES = (1e-320, 1e308, 5e-324, 0, -1, 1e-9, 1e12, "30", None, float("nan"), True, [30])


def warm() -> None:
    warm_all("LeRobot v2.1", "LeRobot v3, images", "folder", "NumPy archive")


def case(rng: random.Random, folder: Path) -> Case:
    kind = rng.choice(
        ["instruction", "instruction", "rate", "shape", "picture", "pair", "npz", "nested"]
    )
    way = rng.choice(["read", "validate", "info", "stats", "view", "convert"])
    if kind == "pair":
        return _pair(rng, folder)
    if kind == "picture":
        root = fresh("folder", folder)
        name, data = _picture(rng)
        rng.choice(sorted(root.rglob("*.png"))).write_bytes(data)
        return Case(f"a frame {name}, {way}", reading(way, root, folder))
    if kind == "npz":
        root = fresh("NumPy archive", folder)
        data = bytearray(root.read_bytes())
        flag = rng.choice([1, 64, 8192])
        # the flags of the first member, and in the directory
        data[6:8] = flag.to_bytes(2, "little")
        at = data.index(b"PK\x01\x02")
        data[at + 8 : at + 10] = flag.to_bytes(2, "little")
        root.write_bytes(data)
        return Case(f"an archive with the flag {flag}, {way}", reading(way, root, folder))
    root = fresh("LeRobot v2.1", folder)
    what = _metadata(rng, root, kind)
    return Case(f"{what}, {way}", reading(way, root, folder))


def _metadata(rng: random.Random, root: Path, kind: str) -> str:
    info = root / "meta/info.json"
    values = json.loads(info.read_text())
    if kind == "instruction":
        text = rng.choice(ODD_TEXTS)
        rows = [{"task_index": i, "task": text + str(i)} for i in range(2)]
        (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
        lines = (root / "meta/episodes.jsonl").read_text().splitlines()
        episodes = [json.loads(line) | {"tasks": [text + "0"]} for line in lines]
        (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, episodes)))
        return f"instruction {text[:20]!r} of {len(text)}"
    if kind == "rate":
        values["fps"] = rng.choice(RATES)
    elif kind == "shape":
        name = rng.choice(["action", "observation.state"])
        values["features"][name]["shape"] = rng.choice(
            [[2, 10**12], [10**12], [], [-1], [0], [2.5], ["2"], [10**30], [1] * 70]
        )
    else:
        deep: Any = "[" * 100_000
        info.write_text(json.dumps(values)[:-1] + f', "x": {deep}')
        return "info.json nested 100,000 deep"
    info.write_text(json.dumps(values))
    return f"{kind} {values['fps']!s}"


def _picture(rng: random.Random) -> tuple[str, bytes]:
    import io

    import numpy as np
    from PIL import Image, PngImagePlugin

    from attacks.bombs import black_png

    name = rng.choice(["of 16 bits", "with long text", "cut off", "of 20000 x 20000", "of no size"])
    buffer = io.BytesIO()
    if name == "of 16 bits":
        Image.fromarray(np.full((8, 12), 999, np.uint16)).save(buffer, "PNG")
        return name, buffer.getvalue()
    if name == "of 20000 x 20000":
        return name, black_png(20_000)
    text = PngImagePlugin.PngInfo()
    if name == "with long text":
        text.add_text("x", "a" * 80_000_000, zip=True)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(buffer, "PNG", pnginfo=text)
    data = buffer.getvalue()
    if name == "cut off":
        return name, data[: len(data) // 2]
    if name == "of no size":
        header = bytearray(data[12:29])
        header[4:12] = b"\0" * 8
        return name, data[:12] + bytes(header) + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    return name, data


def _pair(rng: random.Random, folder: Path) -> Case:
    pairs = folder / "pairs"
    pairs.mkdir()
    name, data = _picture(rng)
    (pairs / "0.png").write_bytes(data)
    line = json.dumps({"file_name": "0.png", "prompt": "a", "answer": "b"})
    if rng.random() < 0.4:
        line = rng.choice(["[" * 100_000, "{", "null", '{"file_name": 1}', "\ud800".join("ab")])
        name = f"line {line[:10]!r}"
    (pairs / "metadata.jsonl").write_bytes(line.encode("utf-8", "surrogatepass"))
    return Case(f"a pair: {name}", lambda: read_pairs(pairs))

"""`python -m scripts.results [--check]`: writes results into pages, or says which pages differ."""

from __future__ import annotations

import sys

from scripts.results.formatting import ROOT
from scripts.results.pages import stale


def main(arguments: list[str]) -> int:
    differing = stale()
    if "--check" in arguments:
        for path in differing:
            print(f"{path.relative_to(ROOT)} differs from benchmarks/results; run: make results")
        return 1 if differing else 0
    for path, text in differing.items():
        path.write_text(text, encoding="utf-8")
        print("wrote", path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

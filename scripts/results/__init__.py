"""Writes what was measured into the pages: `python -m scripts.results`; `--check` only compares.

Every number comes from a file of `benchmarks/results/`. A page names a block by a comment,

    <!-- result: stitching -->
    ... generated ...
    <!-- end of result -->

and `docs/results.md` holds all blocks.
"""

"""Pages show what the files of benchmarks/results hold, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.results import pages
from scripts.results.formatting import RESULTS, interval, p_value, ratio_range, read

ROOT = Path(__file__).parents[2]


def test_pages_and_files_agree() -> None:
    stale = [str(path.relative_to(ROOT)) for path in pages.stale()]
    assert stale == [], "run: make results"


def test_every_block_stands_on_the_results_page() -> None:
    shown = [name for section in pages.SECTIONS.values() for name in section.values()]
    own_pages = {name for name in pages.BLOCKS if name.startswith("objective ")}
    # the front pages repeat what stands on the results page
    assert set(pages.BLOCKS) - own_pages - {"front", "honest demo"} == set(shown)
    assert len(shown) == len(set(shown))


def test_every_result_file_is_shown() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    files = [str(path.relative_to(ROOT)) for path in RESULTS.rglob("*.json")]
    assert [name for name in files if f"`{name}`" not in text] == []


def test_every_recorded_result_is_shown_and_says_how_it_was_measured() -> None:
    entries = read("recorded")["results"]
    for entry in entries.values():
        assert {"what", "command", "measured", "date"} <= entry.keys()
    source = "".join(path.read_text() for path in (ROOT / "scripts" / "results").glob("*.py"))
    assert [name for name in entries if f'"{name}"' not in source] == []


def test_a_page_with_an_unknown_block_is_refused() -> None:
    with pytest.raises(KeyError):
        pages.filled("<!-- result: nobody measured this -->\n<!-- end of result -->")


def test_a_changed_number_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    page = "<!-- result: stitching -->\n<!-- end of result -->"
    before = pages.filled(page)
    file = json.loads((RESULTS / "stitching.json").read_text())
    file["variants"]["iql"]["successes"] -= 1
    monkeypatch.setattr("scripts.results.learning.read", lambda name: file)
    assert pages.filled(page) != before
    assert pages.filled(before) == pages.filled(page)


def test_numbers_are_formatted_as_by_hand() -> None:
    assert interval(61, 125) == "40-57 %"
    assert p_value(None) == ""
    assert p_value(1e-9) == "< 0.0001"
    assert p_value(0.0289) == "0.029"
    assert ratio_range({"q25": 1.0, "q75": 2.0}, {"q25": 4.0, "q75": 6.0}) == "2.0-6.0x"


def test_the_readme_is_short_and_names_the_simplest_control() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 900
    assert "filtered BC" in text

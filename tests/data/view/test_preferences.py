"""The page that asks which of two films is better: what it shows, and the file that it saves."""

from __future__ import annotations

import json
from pathlib import Path

import chromium as browser
import pytest
import reward_toys as toys
import training_toy
from typer.testing import CliRunner

from vla.cli.app import app
from vla.data import DataError, EpisodeDataset
from vla.data.tools.preference_labels import read_preferences
from vla.data.view.preferences import write_preference_page


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_toy.write_dataset(tmp_path_factory.mktemp("toy") / "data")


@pytest.mark.parametrize("video", [True, False])
def test_the_page_shows_both_films_of_every_pair(data: Path, tmp_path: Path, video: bool) -> None:
    dataset = EpisodeDataset(data)
    made = write_preference_page(tmp_path / "p.html", dataset, pairs=3, steps=4, video=video)
    text = made.path.read_text()
    assert made.bytes == made.path.stat().st_size
    assert text.count('class="pair"') == made.pairs == 3
    assert text.count("<video" if video else 'class="sheet"') == 6
    assert "default-src" in text
    # nothing is asked of anybody else
    assert "http" not in text.replace("http-equiv", "")


def test_the_same_seed_makes_the_same_page(data: Path, tmp_path: Path) -> None:
    dataset = EpisodeDataset(data)
    pages = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made = write_preference_page(
            tmp_path / f"{name}.html", dataset, pairs=2, steps=4, seed=seed, video=False
        )
        pages.append(made.path.read_bytes())
    assert pages[0] == pages[1] != pages[2]


def test_the_command_says_what_it_wrote(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.html"
    result = CliRunner().invoke(app, ["data", "prefer", str(data), str(out), "--pairs", "2"])
    assert result.exit_code == 0, result.output
    assert "2 pairs" in result.output


def test_data_without_films_or_pairs_are_refused(tmp_path: Path) -> None:
    blind = EpisodeDataset(toys.write(tmp_path / "blind", 6))
    with pytest.raises(DataError, match="has no cameras, so there is nothing to watch"):
        write_preference_page(tmp_path / "p.html", blind)
    single = training_toy.write_dataset(tmp_path / "single", episodes=2)
    with pytest.raises(DataError, match="no instruction has two episodes to compare"):
        write_preference_page(tmp_path / "p.html", EpisodeDataset(single))
    assert not (tmp_path / "p.html").exists()


_ANSWER = """
(async () => {
  const saved = [];
  URL.createObjectURL = (blob) => { saved.push(blob); return "data:,"; };
  const pairs = [...document.querySelectorAll(".pair")];
  const press = (pair, what) => pair.querySelector(`[data-prefers=${what}]`).click();
  press(pairs[0], "a");
  press(pairs[0], "b");
  press(pairs[1], "equal");
  press(pairs[2], "a");
  press(pairs[2], "a");
  const better = pairs[0].querySelector(".better").dataset.side;
  document.querySelector(".save button").click();
  return { text: await saved[0].text(), better, count: document.querySelector(".count").textContent };
})()
"""


@pytest.mark.skipif(browser.find_chromium() is None, reason="needs Chromium")
def test_answers_are_saved_as_a_file_of_labels(data: Path, tmp_path: Path) -> None:
    dataset = EpisodeDataset(data)
    made = write_preference_page(tmp_path / "p.html", dataset, pairs=4, steps=4)
    program = browser.find_chromium()
    assert program is not None
    with browser.chromium(program, tmp_path / "profile") as page:
        page.open(made.path, width=1000)
        found = page.run(_ANSWER)
        assert page.problems == []
    assert found["better"] == "b"
    # a second press takes an answer back
    assert found["count"] == "2 of 4 answered"
    assert [json.loads(line)["prefers"] for line in found["text"].splitlines()] == ["b", "equal"]
    path = tmp_path / "labels.jsonl"
    path.write_text(found["text"])
    assert len(read_preferences(path, dataset)) == 2

"""The report: numbers against the tokenizers' own, files, what cannot be fitted, and the command."""

import io
import json
import re
import xml.etree.ElementTree

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from vla.cli import app
from vla.data import DatasetWriter, Episode
from vla.tokenizers import BinsConfig, FastConfig, KMeansConfig, RVQConfig
from vla.tokenizers.report import default_tokenizers, tokenizer_report
from vla.tokenizers.report_plot import scatter_svg
from vla.types import Spec

SPEC = Spec({}, ("s",), ("x", "grip"), (-1.0, 0.0), (1.0, 1.0), 20)
TOKENIZERS = {
    "bins": BinsConfig(num_bins=16),
    "bins binary": BinsConfig(num_bins=16, binary=("grip",)),
    "fast": FastConfig(quantiles=(0, 1)),
    "rvq": RVQConfig(codebooks=2, codes=8),
    "kmeans": KMeansConfig(centres=8),
    "too small": FastConfig(vocab_size=16),
}


def episodes(count: int = 6, steps: int = 30) -> np.ndarray:
    time = np.arange(count * steps)
    return np.stack([np.sin(time / 9), (time // 15 % 2).astype(float)], 1).astype(np.float32)


@pytest.fixture(scope="module")
def report():
    return tokenizer_report(episodes(), SPEC, chunk=4, lengths=[30] * 6, tokenizers=TOKENIZERS)


def test_numbers(report):
    rows = {row.name: row for row in report.rows}
    assert (report.episodes_fitted, report.episodes_measured, report.chunks_measured) == (5, 1, 30)
    assert (rows["bins"].tokens, rows["bins"].bits) == (8, 32)
    assert (rows["bins binary"].tokens, rows["bins binary"].bits) == (8, 4 * 4 + 4 * 1)
    assert (rows["rvq"].tokens, rows["rvq"].bits) == (2, 6)
    assert (rows["kmeans"].tokens, rows["kmeans"].bits) == (4, 12)
    assert 1 <= rows["fast"].tokens < 8
    assert rows["fast"].bits == pytest.approx(10 * rows["fast"].tokens)
    assert rows["bins binary"].max_error[1] == 0
    for row in rows.values():
        if row.problem is None:
            assert row.mean == pytest.approx(sum(row.mean_error) / 2)
            assert row.greatest == max(row.max_error) <= max(row.error_bound) + 0.05
            assert (
                min(
                    row.encode_us,
                    row.decode_us,
                    row.encode_one_us,
                    row.decode_one_us,
                    row.fit_seconds,
                )
                > 0
            )
    assert "vocab_size 16" in rows["too small"].problem


def test_errors_are_those_of_held_out_episodes(report):
    rows = torch.from_numpy(episodes())
    tokenizer = TOKENIZERS["kmeans"].build(SPEC, 4)
    tokenizer.fit(torch.cat([rows[:120], rows[150:]]), lengths=[30] * 5)
    held_out = (
        torch.cat([rows[120:150], rows[149:150].expand(3, 2)]).unfold(0, 4, 1).transpose(1, 2)
    )
    error = (tokenizer.decode(tokenizer.encode(held_out)) - held_out).abs()
    found = next(row for row in report.rows if row.name == "kmeans")
    np.testing.assert_allclose(found.mean_error, error.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.max_error, error.amax((0, 1)), rtol=1e-5)


def test_files(report, tmp_path):
    data, plot = report.save(tmp_path / "new")
    values = json.loads(data.read_text())
    assert [row["name"] for row in values["rows"]] == list(TOKENIZERS)
    assert values["rows"][-1]["tokens"] is None
    picture = xml.etree.ElementTree.parse(plot).getroot()
    dots = [e for e in picture.iter() if e.tag.endswith("use")]
    assert len(dots) == len(TOKENIZERS) - 1
    assert all(0 < float(d.get("x")) < 640 and 0 < float(d.get("y")) < 400 for d in dots)


def test_table_tells_everything(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    text = " ".join(console.export_text().split())
    assert "fitted to 5 episodes, measured on 30 chunks of 1" in text
    assert re.search(r"too small: vocab_size 16 of the tokenizer fast is too small", text)
    assert all(name in text for name in TOKENIZERS)


def test_defaults_hold_every_registered_tokenizer():
    kinds = {config.type for config in default_tokenizers().values()}
    assert {"bins", "fast", "rvq", "kmeans"} <= kinds
    assert len(default_tokenizers()) == len(kinds) + 3  # bins have three schemes, k-means two units


def test_one_short_episode_is_fitted_and_measured():
    report = tokenizer_report(episodes(1, 3), SPEC, chunk=4, tokenizers={"bins": BinsConfig()})
    assert (report.episodes_fitted, report.episodes_measured, report.chunks_measured) == (1, 1, 3)


def test_plot_of_little():
    for points in (
        [],
        [("a & b", 4.0, 0.0)],
        [("a", 4.0, 0.1), ("b", 4.0, 0.1), ("c", 4.0, 0.099)],
    ):
        text = scatter_svg(points, "title", x="x", y="y")
        assert "nan" not in text.lower()
        assert text == scatter_svg(points, "title", x="x", y="y"), "the same bytes"
        names = {name for name, _, _ in points}
        written = [e for e in xml.etree.ElementTree.fromstring(text).iter() if e.text in names]
        places = [(float(e.get("x")), float(e.get("y"))) for e in written if e.tag.endswith("text")]
        assert len(places) == len(points)
        # names of one letter: beside each other, or above each other
        assert all(
            abs(a[0] - b[0]) > 8 or abs(a[1] - b[1]) > 11
            for i, a in enumerate(places)
            for b in places[:i]
        )


def test_command(tmp_path):
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        for actions in np.split(episodes(), 6):
            writer.add_episode(
                Episode(
                    images={},
                    state=np.zeros((30, 1), np.float32),
                    actions=actions,
                    rewards=np.zeros(30, np.float32),
                    success=np.zeros(30, bool),
                    terminated=False,
                    instruction="wave",
                )
            )
    out = tmp_path / "report"
    result = CliRunner().invoke(
        app, ["tokenizer", "report", str(tmp_path / "data"), "--chunk", "2", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert (out / "report.json").is_file()
    assert (out / "error_tokens.svg").is_file()
    missing = CliRunner().invoke(app, ["tokenizer", "report", str(tmp_path / "none")])
    assert missing.exit_code == 2


def test_errors_above_the_bound_are_explained():
    rng = np.random.default_rng(0)
    # heavy tails: much lies beyond the quantiles
    actions = rng.standard_t(2, size=(1000, 2)).astype(np.float32)
    spec = Spec({}, ("s",), ("x", "y"), (-500.0, -500.0), (500.0, 500.0), 20)
    found = tokenizer_report(
        actions,
        spec,
        chunk=4,
        lengths=[100] * 10,
        tokenizers={"quantile": BinsConfig(scheme="quantile"), "uniform": BinsConfig()},
    )
    quantile, uniform = found.rows
    held_out = np.concatenate([actions[400:500], actions[900:]])
    tokenizer = BinsConfig(scheme="quantile").build(spec, 4)
    tokenizer.fit(torch.from_numpy(np.concatenate([actions[:400], actions[500:900]])))
    low, high = (limit.numpy() for limit in tokenizer.fitted_range)
    # chunks at an episode's end repeat its last step, so the shares agree but nearly
    expected = ((held_out < low) | (held_out > high)).mean(0)
    np.testing.assert_allclose(quantile.outside, expected, atol=0.01)
    assert quantile.greatest > max(quantile.error_bound)
    assert max(uniform.outside) == 0
    assert uniform.greatest <= max(uniform.error_bound)
    text = rendered(found)
    assert "outside" in text
    assert "bound: of an error inside the fitted range" in " ".join(text.split())


def rendered(report):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    return console.export_text()

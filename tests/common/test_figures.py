"""Pictures: the same bytes for the same numbers, no foreign addresses, names that cover nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from vla.common.figures import (
    COLOURS,
    DARK,
    INK,
    axes_at,
    drawing,
    name_points,
    new_figure,
    style_sheet,
    svg_text,
)

SVG = "{http://www.w3.org/2000/svg}"


def picture(title: str = "Dots & <lines>", *, standalone: bool = True) -> str:
    with drawing():
        figure = new_figure(300, 200)
        axes = axes_at(figure, 40, 10, 250, 150)
        axes.plot([0, 1, 2], [-1, 1, 0], marker="o", color=COLOURS[0], gid="dots")
        axes.set_xlabel("a < b")
        return svg_text(
            figure, title=title, tooltips={"dots": "<three> dots"}, standalone=standalone
        )


def test_a_picture_is_the_same_bytes() -> None:
    before = dict(matplotlib.rcParams)
    assert picture() == picture()
    assert dict(matplotlib.rcParams) == before
    folder = Path(__file__).parent
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import test_figures as t; print(t.picture(), end='')"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert other.stdout.decode() == picture(), "in another process, too"


def test_a_picture_may_stand_in_a_page() -> None:
    text = picture(standalone=False)
    root = ElementTree.fromstring(text)
    assert text.startswith("<svg ")
    assert "<style" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == (
        "300",
        "200",
        "0 0 300 200",
    )
    ids = {e.get("id") for e in root.iter() if e.get("id")}
    others = {
        e.get("id") for e in ElementTree.fromstring(picture("Others", standalone=False)).iter()
    }
    assert ids.isdisjoint(others), "pictures of one page do not share names"
    used = re.findall(r'(?:href="#|url\(#)(\w+)', text)
    assert set(used) == ids


def test_texts_are_escaped_and_marks_have_tooltips() -> None:
    root = ElementTree.fromstring(picture())
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert titles == ["Dots & <lines>", "<three> dots"]
    assert "a < b" in [element.text for element in root.iter(f"{SVG}text")]


def test_every_colour_has_one_for_dark_pages() -> None:
    text = picture()
    used = set(re.findall(r"#[0-9a-f]{6}", re.sub(r"<style>.*?</style>", "", text)))
    assert used <= set(DARK)
    for colour in used:
        assert f'"stroke: {colour}"]{{stroke:{DARK[colour]}!important}}' in text
    assert INK in style_sheet()


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_no_point_and_no_other_name(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(x, y, f"a long name {i}") for i, (x, y) in enumerate(rng.random((14, 2)).tolist())]
    with drawing():
        figure = new_figure(600, 400)
        axes = axes_at(figure, 50, 20, 500, 340)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        name_points(axes, points)
        canvas = FigureCanvasAgg(figure)
        renderer = canvas.get_renderer()
        boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == len(points)
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= 601
        # letters without descenders are smaller than their box
        shrunk = box.padded(-2)
        assert not any(shrunk.overlaps(other.padded(-2)) for other in boxes[:i])
        pixels = [axes.transData.transform((x, y)) for x, y, _ in points]
        assert not any(shrunk.contains(*pixel) for pixel in pixels)


def test_names_are_no_formulas_and_may_be_in_any_script(recwarn: pytest.WarningsRecorder) -> None:
    names = ["$\\frac{$", "a$b$c", "机器人", "a_b^c"]
    with drawing():
        figure = new_figure(300, 200)
        axes = axes_at(figure, 10, 10, 200, 150)
        name_points(axes, [(i / 5, i / 5, name) for i, name in enumerate(names)])
        text = svg_text(figure, title="names")
    found = [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert set(names) <= set(found)
    assert not recwarn.list


def test_points_without_names_have_none() -> None:
    with drawing():
        figure = new_figure(100, 100)
        axes = axes_at(figure, 10, 10, 80, 80)
        name_points(axes, [(0.5, 0.5, ""), (0.2, 0.2, "a")])
        assert [text.get_text() for text in axes.texts] == ["a"]


def test_matplotlib_waits_until_something_is_drawn() -> None:
    code = (
        "import sys, vla, vla.common.figures, vla.cli, vla.tokenizers.report_plot; "
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

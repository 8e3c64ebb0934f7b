"""Pictures by matplotlib as SVG: one look, readable in light and in dark, the same bytes for the same numbers.

    with drawing():
        figure = new_figure(680, 420)
        axes = axes_at(figure, 66, 56, 590, 314)
        ...
        text = svg_text(figure, title="...")

Lengths are pixels of the page. matplotlib is imported when something is drawn, not with this file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, LINE, PAPER = "#18212c", "#5a6675", "#e0e3e6", "#ffffff"
"""Of names; of all other text; of grids; of the ground."""
COLOURS = ("#2260c4", "#c2571a", "#2b8a5a", "#8a4bb0")
"""Of groups of data, in this order."""
GOOD, BAD = "#1f7a4d", "#b4443c"
DARK = {
    INK: "#e7ebf0",
    QUIET: "#9aa6b5",
    LINE: "#2c343e",
    PAPER: "#1a1f26",
    "#2260c4": "#74a9ff",
    "#c2571a": "#f2a24a",
    "#2b8a5a": "#63cf92",
    "#8a4bb0": "#c892ec",
    GOOD: "#63cf92",
    BAD: "#f08a70",
}
"""What each colour becomes for readers who prefer dark pages."""
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
POINTS_PER_INCH = 72  # at 72 dots per inch a point of matplotlib is a pixel of the SVG
_SETTINGS: dict[str, Any] = {
    "figure.dpi": POINTS_PER_INCH,
    "savefig.dpi": POINTS_PER_INCH,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": QUIET,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": QUIET,
    "axes.labelsize": 12,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13.5,
    "axes.titleweight": "bold",
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "legend.frameon": False,
    "xtick.color": LINE,
    "xtick.labelcolor": QUIET,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": LINE,
    "ytick.labelcolor": QUIET,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    # letters stay letters: small files, found by a search, and in the reader's own font. Places are
    # measured in DejaVu Sans, which is wider than the usual fonts, so what is free here stays free
    "svg.fonttype": "none",
}


def drawing() -> AbstractContextManager[None]:
    """Within it all that is drawn has this look. Nothing of matplotlib's global state changes for others."""
    import matplotlib

    return matplotlib.rc_context(_SETTINGS)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in pixels."""
    # not pyplot: it would keep every figure alive, and look for a display
    from matplotlib.figure import Figure

    return Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose inner box lies at this place of the figure, in pixels from its upper left corner."""
    full_width, full_height = figure.get_size_inches() * POINTS_PER_INCH
    bottom = full_height - top - height
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def svg_text(
    figure: Figure,
    *,
    title: str,
    tooltips: Mapping[str, str] | None = None,
    standalone: bool = True,
) -> str:
    """The figure as an `<svg>` element, equal to the byte for equal figures and titles.

    Args:
        figure: drawn within `drawing`.
        title: what it shows, for those who do not see it. Pictures of one page have different ones.
        tooltips: `gid` of an artist -> text that is shown when the pointer is over it.
        standalone: with a ground and `style_sheet()` inside; a page that holds several gives them the style sheet once.
    """
    import matplotlib

    file = io.StringIO()
    # matplotlib makes names out of hashes, salted by chance unless told otherwise. The title as salt
    # keeps the names of pictures in one page apart
    with matplotlib.rc_context({"svg.hashsalt": title}):
        ground = PAPER if standalone else "none"
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the date would differ
        figure.savefig(file, format="svg", facecolor=ground, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]  # without the document type, which is wrong inside of HTML
    text = text.replace("xlink:href", "href").replace(
        ' xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    # its only style sheet holds for all elements of a page in which the picture stands
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' (width|height)="([\d.]+)pt"', r' \1="\2"', text)
    # shapes of marks take the stroke of their uses: no rule of the style sheet reaches into them
    text = re.sub(r'(<path id="m\w+"[^>]* style=")stroke: #\w+; ', r"\1", text)
    text = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", text)
    text = re.sub(r'(?<= d=")[^"]*', _shorter, text)
    head = f"<title>{escape(title)}</title>"
    if standalone:
        used = [colour for colour in DARK if colour in text]
        head += f"<style>{style_sheet(used)}</style>"
    text = text.replace(">", f' class="figure" role="img" stroke-linejoin="round">{head}', 1)
    return _with_tooltips(text, tooltips or {})


def _shorter(path: re.Match[str]) -> str:
    """Coordinates with two decimals: a hundredth of a pixel is not seen, and files are half as large."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path[0].split()))


def _with_tooltips(text: str, tooltips: Mapping[str, str]) -> str:
    """Titles in the groups that have these ids; ids of groups are dropped, since pages hold several pictures."""

    text = re.sub(r'\s*<g id="[^"]*"/>', "", text)

    def group(found: re.Match[str]) -> str:
        tooltip = tooltips.get(found[1])
        return "<g>" if tooltip is None else f"<g><title>{escape(tooltip)}</title>"

    return re.sub(r'<g id="([^"]*)">', group, text)


def style_sheet(colours: Iterable[str] = tuple(DARK)) -> str:
    """CSS of pictures with these colours: the reader's font, a halo around text, and other colours on dark pages.

    matplotlib writes colours into `style` attributes. They stay there, so that programs without media queries show the light
    picture; a rule for each colour and use overrides them.
    """
    rules = "".join(
        f'.figure [style*="{use}: {light}"]{{{use}:{DARK[light]}!important}}'
        for light in colours
        for use in ("fill", "stroke")
    )
    halo = "paint-order:stroke;stroke-width:3px;stroke-linejoin:round"
    return (
        f".figure text{{font-family:{FONT}!important;{halo};stroke:{PAPER}}}"
        "@media (prefers-color-scheme:dark){"
        f".figure text{{stroke:{DARK[PAPER]}}}{rules}}}"
    )


Box = tuple[float, float, float, float]
"""Left, bottom, right, top in pixels."""
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_NAME_SIZE = 11
_NEAR, _RING, _RINGS = 8, 13, 12  # pixels from a point to its name, between two tries, tries


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes names beside points (x, y, name): at the nearest place where they cover no point and no other name.

    Limits and scales of the axes are to be set before. A name that does not stand right beside its point gets a thin line.
    """
    pixels = [tuple(axes.transData.transform((x, y)).tolist()) for x, y, _ in points]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    window = axes.figure.bbox
    edges = (window.x0, window.y0, window.x1, window.y1)
    for (x, y, name), (across, up) in zip(points, pixels, strict=True):
        if not name:
            continue
        width = _text_width(name)
        for dx, dy in _offsets(width):
            left, bottom = across + dx, up + dy
            box = (left, bottom, left + width, bottom + _NAME_SIZE)
            if _inside(box, edges) and not any(_overlap(box, other) for other in taken):
                break
        # the last try stands even where all is full: a name that covers another is better than none
        taken.append(box)
        is_near = abs(dx + width / 2) <= width / 2 + 2 * _NEAR and abs(dy) <= 3 * _NEAR
        line = None if is_near else {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6}
        axes.annotate(
            name,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset pixels",
            color=INK,
            size=_NAME_SIZE,
            arrowprops=line,
        )


def _offsets(width: float) -> Iterable[tuple[float, float]]:
    """From a point to the lower left corner of its name, the best places first: beside it, then farther away."""
    for ring in range(_RINGS):
        distance = _NEAR + _RING * ring
        for across, up in _SIDES:
            # diagonals come nearer, so that a name still belongs to its point
            reach = distance if 0 in (across, up) else 0.7 * distance
            dx = {1: reach, 0: -width / 2, -1: -reach - width}[across]
            dy = {1: reach, 0: -_NAME_SIZE / 2 + 1, -1: -reach - _NAME_SIZE}[up]
            yield dx, dy


def _text_width(text: str) -> float:
    from matplotlib.textpath import TextPath

    extent: float = TextPath((0, 0), text, size=_NAME_SIZE).get_extents().width
    return extent


def _inside(box: Box, edges: Box) -> bool:
    return (
        box[0] >= edges[0] and box[1] >= edges[1] and box[2] <= edges[2] and box[3] <= edges[3]
    )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

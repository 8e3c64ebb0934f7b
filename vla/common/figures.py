"""Pictures by matplotlib as SVG: one look, in light and in dark, equal bytes for equal numbers.

    with drawing():
        figure = new_figure(680, 420)
        axes = axes_at(figure, 66, 56, 590, 314)
        ...
        text = svg_text(figure, title="...")

Lengths are pixels of the page. matplotlib is imported when something is drawn, not with this file.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import BboxBase

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
    # letters stay letters: files are small, and a search finds their words. Places are measured in
    # DejaVu Sans, which is wider than the fonts of readers, so what is free here stays free there
    "svg.fonttype": "none",
    # names may hold dollar signs, which begin formulas otherwise
    "text.parse_math": False,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it all that is drawn has this look; afterwards matplotlib's settings are as before."""
    import matplotlib

    settings: Any = _SETTINGS
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # letters that DejaVu Sans lacks are drawn all the same: by the reader's font
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in pixels."""
    # not pyplot: it would keep every figure alive, and look for a display
    from matplotlib.figure import Figure

    return Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose inner box lies at this place, in pixels from the figure's upper left corner."""
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
        standalone: with a ground, and with `style_sheet()` inside; a page of several pictures has
            the style sheet once for all.
    """
    import matplotlib

    file = io.StringIO()
    # names of shapes are hashes, salted by chance unless a salt is set; the title as salt keeps
    # those of pictures in one page apart
    with matplotlib.rc_context({"svg.hashsalt": title}):
        ground = PAPER if standalone else "none"
        # the date would make every file another one, the version of matplotlib every update
        without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", facecolor=ground, metadata=without)
    return _with_tooltips(_tidied(file.getvalue(), title, standalone), tooltips or {})


def _tidied(text: str, title: str, standalone: bool) -> str:
    """matplotlib's file as an element that may stand in a page beside others of its kind."""
    text = text[text.index("<svg") :]  # without the document type, which is wrong inside of HTML
    text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace("xlink:href", "href")
    # matplotlib's style sheet is for `*`: it would hold for all elements of the page
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
    return text.replace(">", f' class="figure" role="img" stroke-linejoin="round">{head}', 1)


def _shorter(path: re.Match[str]) -> str:
    """Coordinates with two decimals: a hundredth of a pixel is not seen, and files are smaller."""
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(path[0].split()))


def _with_tooltips(text: str, tooltips: Mapping[str, str]) -> str:
    """Titles in the groups that have these ids. Ids of groups are dropped: pages hold several."""
    text = re.sub(r'\s*<g id="[^"]*"/>', "", text)

    def group(found: re.Match[str]) -> str:
        tooltip = tooltips.get(found[1])
        return "<g>" if tooltip is None else f"<g><title>{escape(tooltip)}</title>"

    return re.sub(r'<g id="([^"]*)">', group, text)


def style_sheet(colours: Iterable[str] = tuple(DARK)) -> str:
    """CSS of pictures with these colours: font, halo around text, other colours on dark pages.

    matplotlib writes colours into `style` attributes. They stay there, so that programs without
    media queries show the light picture; a rule for each colour and use overrides them.
    """
    rules = ""
    for light in colours:
        for use in ("fill", "stroke"):
            selector = f'.figure [style*="{use}: {light}"]'
            rules += f"{selector}{{{use}:{DARK[light]}!important}}"
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
_NAME_LINE = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6}
_NEAR = 8  # pixels from a point to its name
_RING, _RINGS = 13, 12  # pixels between two tries on one side, tries


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Writes names beside points (x, y, name), where they cover no point and no other name.

    Limits and scales of the axes are to be set before. A name that found no place right beside its
    point is joined to it by a thin line.
    """
    pixels = [tuple(axes.transData.transform((x, y)).tolist()) for x, y, _ in points]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    for (x, y, name), (across, up) in zip(points, pixels, strict=True):
        if not name.strip():  # nothing to see has no extent
            continue
        width = _text_width(name)
        for dx, dy in _offsets(width):
            left, bottom = across + dx, up + dy
            box = (left, bottom, left + width, bottom + _NAME_SIZE)
            if _is_free(box, taken, axes.figure.bbox):
                break
        # the last try stands if all is full: a name that covers another one is better than none
        taken.append(box)
        is_beside = abs(dx + width / 2) <= width / 2 + 2 * _NEAR and abs(dy) <= 3 * _NEAR
        axes.annotate(
            name,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset pixels",
            color=INK,
            size=_NAME_SIZE,
            arrowprops=None if is_beside else _NAME_LINE,
        )


def _offsets(width: float) -> Iterable[tuple[float, float]]:
    """From a point to the lower left corner of its name: the best places first, near to far."""
    for ring in range(_RINGS):
        distance = _NEAR + _RING * ring
        for across, up in _SIDES:
            # on diagonals less to each side, so that all places of a ring are as far away
            reach = distance if 0 in (across, up) else 0.7 * distance
            dx = {1: reach, 0: -width / 2, -1: -reach - width}
            dy = {1: reach, 0: -_NAME_SIZE / 2 + 1, -1: -reach - _NAME_SIZE}
            yield dx[across], dy[up]


def _text_width(text: str) -> float:
    from matplotlib.textpath import TextPath

    extent: float = TextPath((0, 0), text, size=_NAME_SIZE).get_extents().width
    return extent


def _is_free(box: Box, taken: Iterable[Box], window: BboxBase) -> bool:
    """Whether a name fits there: within the figure, and over nothing that is taken."""
    left, bottom, right, top = box
    if left < window.x0 or bottom < window.y0 or right > window.x1 or top > window.y1:
        return False
    for other in taken:
        is_beside = right <= other[0] or other[2] <= left
        is_above_or_below = top <= other[1] or other[3] <= bottom
        if not is_beside and not is_above_or_below:
            return False
    return True

"""House style of figures, and plots shared by several blocks."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from avatar_bench.i18n import _

Floats = NDArray[np.float64]

# Okabe and Ito's colours, distinct for common types of colour blindness; https://jfly.uni-koeln.de/color
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D")  # one for each cycle through the palette
GREY = "#7F7F7F"
# The first font with a character draws it; missing fonts are skipped, since matplotlib warns about them.
FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Arial Unicode MS")
STYLE: dict[str, Any] = {
    "figure.dpi": 300,
    "figure.constrained_layout.w_pad": 0.08,  # inches; at matplotlib's default, half of it, labels touch the edge
    "figure.constrained_layout.h_pad": 0.08,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "image.cmap": "Blues",
    "svg.fonttype": "none",  # keep text as text: smaller, searchable and accessible
    "svg.hashsalt": "avatar_bench",  # makes files reproducible
    "text.parse_math": False,  # class and file names may contain dollar signs
}
MAX_BARS = 40
_override: ContextVar[Any] = ContextVar("override", default={})  # noqa: B039  # never changed
_SPLIT_LINES: dict[str, Literal["--", "-"]] = {"train": "--", "val": "-"}  # line styles of their curves
_MARKED: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.2}  # the line of what was chosen
_THUMBNAIL_PIXELS = 360  # of the longer side, enough for a grid cell at 300 dpi
# offsets in points from a marker to its number, nearest first, starting at the upper right
_RINGS = np.arange(10.0, 90.0, 4.0)
_ANGLES = np.radians(40 + np.arange(0, 360, 20))
_OFFSETS = (_RINGS[:, None, None] * np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])).reshape(-1, 2)
_MARKER_RADIUS = 4.0  # in points
_NUMBER_STYLE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
_LEADER_STYLE = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 0}


@contextmanager
def use_style() -> Iterator[None]:
    """Apply the house style, and over it that of `override_style`, in a `with` block or a decorated function."""
    installed = set(fontManager.get_font_names())
    family = [font for font in FONTS if font in installed]
    settings: Any = STYLE | {"font.family": family or ["sans-serif"]}  # Any: the newest matplotlib types the keys
    with mpl.rc_context(settings), mpl.style.context(_override.get()):
        yield


@contextmanager
def override_style(style: str | Mapping[str, Any]) -> Iterator[None]:
    """Apply one of matplotlib's styles, by its name or its settings, over the house style."""
    token = _override.set(style)
    try:
        yield
    finally:
        _override.reset(token)


def get_colour(index: int) -> str:
    """Return the palette colour of a class or model by its position; colours repeat after eight."""
    return PALETTE[index % len(PALETTE)]


def get_marker(index: int) -> str:
    """Return the marker of a model by its position, which distinguishes models of the same colour."""
    return MARKERS[index // len(PALETTE) % len(MARKERS)]


def create_figure(width: float, height: float) -> Figure:
    """Create an empty figure of this size in inches, outside pyplot's state, so that it can be freed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode_png(figure: Figure, dpi: float | None = None) -> bytes:
    """Return a figure as PNG, and fix its layout.

    It is drawn once: savefig would draw it twice, first for the layout.
    """
    figure.set_dpi(dpi or figure.dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")
    # the image is opaque: without alpha and with run-length encoding, it is encoded in a third of the time
    page = Image.fromarray(np.asarray(canvas.buffer_rgba()))  # type: ignore[no-untyped-call]
    stream, dots = BytesIO(), (figure.dpi, figure.dpi)
    page.convert("RGB").save(stream, "PNG", dpi=dots, compress_type=zlib.Z_RLE)
    return stream.getvalue()


def create_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Create a figure of this size in inches with one panel."""
    figure = create_figure(width, height)
    return figure, figure.subplots()


def draw_cells(axes: Axes, values: ArrayLike, texts: ArrayLike, fontsize: float = 7.5, **style: Any) -> AxesImage:
    """Draw values, (R, C), as coloured cells with a text in each, white on dark colours; a NaN has no colour.

    `style` is that of imshow: its colour map, the limits and the opacity of its colours, and the aspect of a cell.
    """
    shown = np.ma.masked_invalid(values)
    image = axes.imshow(shown, **{"aspect": "auto", **style})
    axes.spines[:].set_visible(False)
    red, green, blue, opacity = np.moveaxis(image.to_rgba(shown), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # of ITU-R BT.601
    dark = (opacity > 0) & (1 - style.get("alpha", 1.0) * (1 - luma) < 0.55)  # on white
    for (row, column), text in np.ndenumerate(texts):
        ink = "white" if dark[row, column] else "black"
        axes.text(column, row, str(text), ha="center", va="center", color=ink, fontsize=fontsize)
    return image


def format_cells(pattern: str, values: NDArray[np.floating], missing: str = "-") -> NDArray[np.str_]:
    """Return the text of each cell by a printf pattern such as "%.2f"; a NaN has the text for a missing value."""
    return np.where(np.isnan(values), missing, np.char.mod(pattern, values))


def frame_true_classes(axes: Axes, targets: Sequence[int]) -> None:
    """Frame the cell of the true class in each row of a heatmap, in its colour, like the name of the row."""
    for row, (target, tick) in enumerate(zip(targets, axes.get_yticklabels(), strict=True)):
        colour = get_colour(target)
        axes.add_patch(Rectangle((target - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=colour, linewidth=1.4))
        tick.set_color(colour)


@use_style()
def draw_gallery(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], columns: int = 4) -> Figure:
    """Draw a grid of images (H, W, 3), at least one, of any sizes, each with a title of up to four lines."""
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    lines = 1 + max(title.count("\n") for title in titles)
    figure = create_figure(1.75 * columns, (1.6 + 0.14 * lines) * rows)
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, title in zip(grid, images, titles, strict=False):
        axes.imshow(make_thumbnail(image))
        axes.set_title("\n".join(shorten_name(line, 27) for line in title.split("\n")), fontsize=6.5)
    return figure


@use_style()
def draw_training_curves(table: pd.DataFrame, best: int | None = None) -> Figure:
    """Draw a run's metrics.csv over the epochs: losses on the left, metrics on the right.

    The start of each stage and the epoch `best`, whose weights were kept, are marked. Missing columns and values are
    skipped. That of a probe has a row for each value of C instead.
    """
    if "C" in table:
        return _draw_choice_of_strength(table)
    figure = create_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    _draw_metrics(left, table, {"loss": GREY})
    left.set(ylabel=_("cross-entropy loss (nats)"), title=_("Loss"))
    if np.isfinite(left.dataLim.ymax):
        left.set_ylim(0, 1.08 * left.dataLim.ymax)
    _draw_metrics(right, table, {"accuracy": get_colour(0), "macro_f1": get_colour(1)})
    right.set(ylabel=_("accuracy, macro-F1 (%)"), title=_("Accuracy and macro-F1"), ylim=(0, 1.02))
    format_percent_axis(right.yaxis)
    stages = table["stage"].to_numpy() if "stage" in table else np.array([])
    for axes in (left, right):
        for row in np.flatnonzero(stages[1:] != stages[:-1]):
            axes.axvline(row + 1.5, color=GREY, linewidth=1)
            text, transform = _("stage {k}", k=stages[row + 1]), axes.get_xaxis_transform()
            axes.text(row + 1.55, 0.02, text, transform=transform, fontsize=8, color=GREY)
        for row in np.flatnonzero(table["epoch"] == best):
            axes.axvline(row + 1, **_MARKED)
    handles: list[Artist] = [
        Line2D([], [], color="black", linestyle=style, label=split) for split, style in _SPLIT_LINES.items()
    ]
    handles += [Patch(color=get_colour(0), label=_("accuracy")), Patch(color=get_colour(1), label=_("macro-F1"))]
    handles += [Line2D([], [], **_MARKED, label=_("best epoch ({k})", k=best))] * (best is not None)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def format_percent_axis(*axes: Axis) -> None:
    """Set round tick positions and format them in percent with all significant digits."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda share, __: f"{round(100 * share, 6) + 0.0:g}%"))


def draw_legend(figure: Figure, columns: int, *others: Artist) -> None:
    """Draw one legend below a figure, higher for fewer `columns`, of what panels label, each once, and of others."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles |= {str(other.get_label()): other for other in others}
    width, height = figure.get_size_inches()
    able = min(columns, fit_legend(width, list(handles)))
    figure.set_figheight(height + 0.2 * (math.ceil(len(handles) / able) - math.ceil(len(handles) / columns)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=able)


def fit_legend(width: float, labels: Sequence[str]) -> int:
    """Return how many columns a legend of these labels may have in a figure of that width in inches, at least 1."""
    return max(1, min(len(labels), int(12 * width // (max(map(len, labels), default=0) + 6))))


def shorten_name(name: str, width: int = 24) -> str:
    """Return a name that fits a label of `width` characters, shortened in the middle if needed."""
    return name if len(name) <= width else _cut(name, width, width - 1 - (width - 1) // 3)


def shorten_names(names: Iterable[str], width: int = 24) -> list[str]:
    """Return names that fit labels of `width` characters, cut at the same position so that they stay distinct.

    If no cut keeps them distinct, their common prefix is dropped, and as a last resort they are numbered.
    """
    full = list(names)
    distinct = list(dict.fromkeys(full))
    labels = dict(zip(distinct, _cut_distinctly(distinct, width), strict=True))
    return [labels[name] for name in full]


def _cut_distinctly(names: Sequence[str], width: int) -> list[str]:
    alike = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    beginning = min([*alike, False].index(False), max(len(alike) - 1, 0))
    word = max(names[0].rfind(mark, 0, beginning) + 1 for mark in " _-/.,(") if names else 0
    heads = sorted(range(2, width), key=lambda head: abs(head - (width - 1 - (width - 1) // 3)))
    for dropped in (0, word, beginning):
        tails = [name if len(name) <= width else f"{'…' if dropped else ''}{name[dropped:]}" for name in names]
        for head in heads:
            labels = [tail if len(tail) <= width else _cut(tail, width, head) for tail in tails]
            if len(set(labels)) == len(labels):
                return labels
    return [f"{shorten_name(name, width - 5)} ({number})" for number, name in enumerate(names, 1)]


def _cut(name: str, width: int, head: int) -> str:
    tail = width - 1 - head
    return f"{name[:head]}…{name[len(name) - tail :]}"


def make_thumbnails(images: Iterable[NDArray[np.uint8]]) -> dict[str, NDArray[np.uint8]]:
    """Return the thumbnails of images by names for arrays of a result, from which `list_thumbnails` reads them."""
    return {f"image_{index:03}": make_thumbnail(image) for index, image in enumerate(images)}


def list_thumbnails(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.uint8]]:
    """Return the images that `make_thumbnails` named, in their order."""
    return [arrays[name] for name in sorted(arrays) if name.startswith("image_")]


def make_thumbnail(image: NDArray[np.uint8], side: int = _THUMBNAIL_PIXELS) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) no larger than `side` pixels a side."""
    small = Image.fromarray(image)
    small.thumbnail((side, side))
    return np.asarray(small)


def _draw_choice_of_strength(table: pd.DataFrame) -> Figure:
    """Draw the cross-validated loss and balanced accuracy over C; mark the chosen C, which alone has metrics of val."""
    figure = create_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    left.errorbar(table["C"], table["cv/loss"], table["cv/loss_se"], color=GREY, marker="o", markersize=3, capsize=2)
    left.set(ylabel=_("cross-entropy loss (nats)"), title=_("Loss"))
    right.plot(table["C"], table["cv/balanced_accuracy"], "o-", color=get_colour(0), markersize=3)
    right.set(ylabel=_("balanced accuracy, %"), title=_("Held-out sources or groups"), ylim=(0, 1.02))
    format_percent_axis(right.yaxis)
    chosen = table.loc[table["val/loss"].notna(), "C"].iloc[0]
    for axes in (left, right):
        edges = table["C"].min() / 2, table["C"].max() * 2
        axes.set(xscale="log", xlabel=_("C (inverse strength of regularisation)"), xlim=edges)
        axes.axvline(chosen, **_MARKED)
        axes.grid(True)
    validated = _("cross-validation; bars: standard error of the difference from the lowest loss")
    handles = [Line2D([], [], color=GREY, marker="o", markersize=3, label=validated)]
    handles.append(Line2D([], [], **_MARKED, label=_("chosen C ({value})", value=f"{chosen:g}")))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _draw_metrics(axes: Axes, table: pd.DataFrame, metrics: dict[str, str]) -> None:
    """Draw the metrics of val, and those of train as dashed lines, one colour per metric."""
    epochs = np.arange(1, len(table) + 1)
    for metric, colour in metrics.items():
        for split, style in _SPLIT_LINES.items():
            if (column := f"{split}/{metric}") in table:
                known = table[column].notna().to_numpy()
                axes.plot(epochs[known], table[column][known], f"o{style}", color=colour, markersize=3, label=column)
    axes.set_xlabel(_("epoch"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(0.5, max(len(table), 1) + 0.5)
    axes.grid(True)


def number_points(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """Write the `number` of each row beside its point, x and y, without overlapping points or other numbers.

    Numbers also avoid the intervals, low to high, if possible; a leader line connects distant ones. Call it last, since
    the layout of the axes determines the distances between points.
    """
    figure.draw_without_rendering()
    middles, lows, highs = (
        axes.transData.transform(rows[["x", name]]) * 72 / figure.dpi for name in ("y", "low", "high")
    )
    # (n, 2, 2): lower left and upper right corner of each box
    taken = np.stack([middles - _MARKER_RADIUS, middles + _MARKER_RADIUS], axis=1)
    bars = np.stack([lows - 1, highs + 1], axis=1)
    frame = axes.bbox.get_points() * 72 / figure.dpi
    for number, x, y, middle in zip(rows["number"], rows["x"], rows["y"], middles, strict=True):
        half = np.array([2.5 * len(f"{number}") + 1.5, 4.5])  # size of digits of 8 points, and a gap
        boxes = middle + _OFFSETS[:, None] + np.stack([-half, half])
        outside = ((boxes < frame[0]) | (boxes > frame[1])).any(axis=(1, 2))
        # the nearest of the best
        best = np.lexsort((_count_overlaps(boxes, bars), outside + _count_overlaps(boxes, taken)))[0]
        taken = np.concatenate([taken, boxes[best : best + 1]])
        axes.annotate(f"{number}", (x, y), _OFFSETS[best], **_NUMBER_STYLE)
        away = np.hypot(*_OFFSETS[best])
        is_other_nearer = (np.hypot(*(middles - middle - _OFFSETS[best]).T) < away - _MARKER_RADIUS).any()
        if away > _RINGS[1] or is_other_nearer:
            axes.annotate("", (x, y), _OFFSETS[best], arrowprops=_LEADER_STYLE, zorder=1.5, **_NUMBER_STYLE)


def _count_overlaps(boxes: Floats, others: Floats) -> NDArray[np.intp]:
    """Count the boxes (M, 2, 2) that each of (N, 2, 2) overlaps, (N,)."""
    apart = (boxes[:, None, 0] >= others[:, 1]) | (boxes[:, None, 1] <= others[:, 0])
    return np.asarray((~apart.any(axis=2)).sum(axis=1))

"""Visible marks that give a class away: what they look like, where they are, and which files bear them."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import scipy  # loads its parts when they are used
from numpy.typing import NDArray

from avatar_bench.audit import mark_tests
from avatar_bench.audit.assessment import list_strongest
from avatar_bench.audit.mark_tests import (
    ANYWHERE,
    BORDERS,
    CORNERS,
    DEPTH,
    GRID,
    GRIDS,
    LINE,
    WINDOW,
    ImageLook,
    Look,
    MarkUnits,
)
from avatar_bench.audit.probes import ProbeSettings
from avatar_bench.audit.repeated_patches import SIMILAR, Patches, compute_directions
from avatar_bench.console.progress import track
from avatar_bench.data.dataset import Dataset
from avatar_bench.metrics import classification, stats
from avatar_bench.metrics.units import SOURCE, Units
from avatar_bench.results.reasons import Reason

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

MARK_LEVEL = 0.01  # of all positions and classes of a set together
MARK_COLUMNS = (
    *("position", "grid", "class", "auroc", "low", "high", "p", "p_search"),
    *("unit", "units", "mark", "images", "sources"),
)
PATCH_COLUMNS = ("path", "mark", "left", "top", "width", "height")
_RARE = 0.99  # quantile of the scores of other classes that a bearer exceeds
_SHOWN = 40  # images of a mark that are decoded again for its outline and its crop
_REACH = 48  # pixels around a patch in which the outline of its mark is sought
_ROUNDING = 1e-9  # from 0 and 1
_JOINED = 7  # pixels between parts of one mark


@dataclass(frozen=True)
class MarkFindings:
    """Marks of a set: a table of all positions and classes, one of boxes, crops of marks, and corners by class.

    `table` has MARK_COLUMNS, with "" as `mark` where none is found; `patches` has PATCH_COLUMNS, in pixels of the
    image. `corners` (C, 2, 4, W, W) has mean and standard deviation of luma, 0 to 255, at native resolution.
    `fraction` of the shorter side covers the marks in corners; 0 if there are none.
    """

    table: pd.DataFrame
    patches: pd.DataFrame
    crops: dict[str, Pixels] = field(default_factory=dict)
    corners: Floats = field(default_factory=lambda: np.zeros((0, 2, 4, WINDOW, WINDOW)))
    fraction: float = 0.0

    @property
    def found(self) -> pd.DataFrame:
        """Return the rows of marks, the strongest of each first."""
        return list_strongest(self.table)

    @property
    def reasons(self) -> list[Reason]:
        """Return what the marks say of the set, with the option that covers them."""
        if self.found.empty:
            return []
        named = [
            Reason("marks_of_class", name=name, marks=rows["mark"].tolist(), value=rows["auroc"].max())
            for name, rows in self.found.groupby("class")
        ]
        in_corner = self.found["position"].isin(CORNERS)
        options = [f"data.mask.corners={self.fraction:.2f}"] * bool(in_corner.any())
        options += ["data.mask.patches=patches.csv"] * (not in_corner.all())
        reasons = [Reason("marks", named=named, options=options)]
        if self.table["unit"].iat[0] == "group":
            reasons.append(Reason("mark_or_style"))
        return reasons


class _Box(NamedTuple):
    left: float
    top: float
    width: float
    height: float


def find_marks(dataset: Dataset, frame: pd.DataFrame, settings: ProbeSettings) -> MarkFindings:
    """Find marks that images of one class share across its sources, and those of other classes lack.

    `frame` has path, label, source, group and `row`, the position in `dataset`, of each image. Corners, borders, lines
    of text and patches at any position are tested for each class: do the edges of its sources agree with each other
    more than with those of other classes? The classes of whole sources are permuted, and p is that of the highest
    statistic of all positions and classes, step by step (Westfall and Young, Resampling-Based Multiple Testing, 1993):
    one in a hundred sets without marks has a `p_search` up to MARK_LEVEL. Where classes have too few sources for that,
    random parts of each class are permuted, and a mark may be the style of a source. AUROCs are those of an image's
    agreement with the other sources of a class; of a patch, with the patch. Interval and p of an AUROC are of one test
    of .5, by the same units; what is found and has an interval above .5 is a mark.
    """
    labels = frame["label"].astype("category")
    classes, targets = list(labels.cat.categories), np.asarray(labels.cat.codes, dtype=np.intp)
    units = mark_tests.form_units(frame, targets, settings.seed)
    if len(classes) < 2 or np.bincount(units.labels).min() < 2:
        return MarkFindings(pd.DataFrame(columns=list(MARK_COLUMNS)), pd.DataFrame(columns=list(PATCH_COLUMNS)))
    rows = frame["row"].to_numpy()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda row: mark_tests.look_at(dataset.image(int(row))), rows)
        looks = list(track(jobs, "look for marks", len(rows)))
    patches = mark_tests.gather_patches(looks)
    seen = mark_tests.run_tests(looks, units, patches, settings.seed, MARK_LEVEL)
    table = pd.DataFrame(
        [(*look[:2], classes[look.code], *_measure(look.scores, look.code, units, settings), look.p) for look in seen],
        columns=list(MARK_COLUMNS[:8]),
    )
    table = table.assign(unit=units.kind, units=len(units.counts), mark="", images=0, sources=0)
    findings = MarkFindings(table, pd.DataFrame(columns=list(PATCH_COLUMNS)), {}, _average_corners(looks, targets))
    return _describe_marks(findings, dataset, frame, looks, patches, seen, targets, units)


def _measure(scores: Floats, code: int, units: MarkUnits, settings: ProbeSettings) -> tuple[float, float, float, float]:
    """Return the AUROC of a class by a score, its interval by unit, and its p of .5, which inverts the interval."""
    labels = units.labels[units.codes]
    drawn = Units(units.codes, units.codes, labels) if units.kind == SOURCE else Units(units.codes)
    statistic = stats.JoinedStatistic([classification.build_auroc_statistic(scores, labels == code)])
    if units.kind == SOURCE:
        ends = stats.jackknife_interval(statistic, drawn, settings.level, (0, 1))
    else:
        about = drawn, settings.resamples, settings.level, settings.seed
        ends = stats.bootstrap_interval(statistic, *about, bounds=(0, 1))
    value, low, high = (float(part[0]) for part in (statistic(drawn.weights[None])[0], *ends))
    odds = scipy.special.logit(np.clip([value, low, high], _ROUNDING, 1 - _ROUNDING))
    end, freedom = 1 if odds[0] > 0 else 2, drawn.degrees_of_freedom  # the one towards .5
    spread = max(abs(odds[end] - odds[0]), _ROUNDING) / scipy.stats.t.isf((1 - settings.level) / 2, freedom)
    return value, low, high, float(2 * scipy.stats.t.sf(abs(odds[0]) / spread, freedom))


def _average_corners(looks: list[ImageLook], targets: Rows) -> Floats:
    luma = np.stack([look.luma for look in looks])
    parts = [luma[targets == code] for code in np.unique(targets)]
    return np.stack([[part.mean(axis=0), part.std(axis=0)] for part in parts])


def _describe_marks(
    findings: MarkFindings,
    dataset: Dataset,
    frame: pd.DataFrame,
    looks: list[ImageLook],
    patches: Patches,
    seen: list[Look],
    targets: Rows,
    units: MarkUnits,
) -> MarkFindings:
    """Return the findings with an id, bearers, boxes and a crop of each mark.

    A position on two grids, and a patch that lies in a corner or along a border where a mark is, are one mark.
    """
    table = findings.table.copy()
    boxes: dict[str, dict[int, _Box]] = {}
    crops: dict[str, Pixels] = {}
    fraction = 0.0
    # fixed positions before patches, the strongest first
    order = table[(table["p_search"] <= MARK_LEVEL) & (table["low"] > 0.5)]
    order = order.assign(is_patch=order["position"] == ANYWHERE)
    for index in order.sort_values(["is_patch", "p_search", "auroc"], ascending=[True, True, False]).index:
        look = seen[index]
        scores, is_class = look.scores, targets == look.code
        lowest = max(float(np.quantile(scores[~is_class], _RARE)), SIMILAR if look.position == ANYWHERE else 0.0)
        bearers = np.flatnonzero(is_class & (scores > lowest))
        if len(np.unique(units.codes[bearers])) < 2:  # what no two units show is no mark
            continue
        strongest = bearers[np.argsort(-scores[bearers], kind="stable")[:_SHOWN]]
        placed = _Placed(dataset, frame["row"].to_numpy(), looks, patches, look)
        outline, crop = placed.outline(strongest)
        current = {int(row): placed.box(int(row), outline) for row in bearers}
        name = next((mark for mark, others in boxes.items() if _is_same(table, mark, index, others, current)), "")
        is_new = not name
        if is_new:
            name = f"m{len(boxes) + 1}"
            boxes[name], crops[name] = current, crop
        elif look.position == ANYWHERE:
            boxes[name] = current | boxes[name]
        if look.is_first or is_new:
            table.loc[index, "mark"] = name
        if is_new and look.position in CORNERS:
            fraction = max(fraction, *(_reach_corner(box, looks[row].size) for row, box in current.items()))
    for name, places in boxes.items():
        sizes = len(places), frame["source"].iloc[list(places)].nunique()
        table.loc[table["mark"] == name, ["images", "sources"]] = sizes
    paths = frame["path"].to_numpy()
    listed = [(paths[row], mark, *box) for mark, places in boxes.items() for row, box in sorted(places.items())]
    is_shown = [look.is_first or mark != "" for look, mark in zip(seen, table["mark"], strict=True)]
    return MarkFindings(
        table[is_shown].reset_index(drop=True),
        pd.DataFrame(listed, columns=list(PATCH_COLUMNS)),
        crops,
        findings.corners,
        min(math.ceil(100 * fraction) / 100, 0.5),
    )


def _is_same(table: pd.DataFrame, mark: str, index: int, others: dict[int, _Box], current: dict[int, _Box]) -> bool:
    """Return whether a row of the table shows a mark that has an id: of its class, and at the same boxes.

    A border with few bearers beside a corner with many shows the end of the mark in the corner.
    """
    first, row = table.loc[table["mark"] == mark].iloc[0], table.loc[index]
    is_near = row["position"] in (ANYWHERE, first["position"]) or 2 * len(current) < len(others)
    if first["class"] != row["class"] or not is_near:
        return False
    common = set(others) & set(current)
    return 2 * sum(_overlap(others[row], current[row]) for row in common) >= min(len(others), len(current))


def _overlap(a: _Box, b: _Box) -> bool:
    across = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    return bool(across > 0 and min(a.top + a.height, b.top + b.height) > max(a.top, b.top))


def _reach_corner(box: _Box, size: tuple[int, int]) -> float:
    """Return the side of a square in the nearest corner that covers a box, as a fraction of the shorter side."""
    (width, height), (left, top, wide, high) = size, box
    return max(min(left + wide, width - left), min(top + high, height - top)) / min(size)


@dataclass(frozen=True)
class _Placed:
    """A mark at its position in each image."""

    dataset: Dataset
    rows: Rows
    looks: list[ImageLook]
    patches: Patches
    look: Look

    def outline(self, bearers: Rows) -> tuple[_Box, Pixels]:
        """Return the box of a mark in its window, by the edges that bearers share, and its crop: their median."""
        windows = [self._cut(int(row)) for row in bearers]
        directions = [compute_directions(np.asarray(cv2.cvtColor(w, cv2.COLOR_RGB2GRAY), np.uint8)) for w in windows]
        shared = cv2.blur(np.linalg.norm(np.mean(directions, axis=0), axis=-1), (3, 3))
        if self.look.position in BORDERS:
            depths = np.flatnonzero(shared.mean(axis=1) > 0.5 * shared.mean(axis=1)[:DEPTH].max())
            box = _Box(0, 0, shared.shape[1], 1 + int(depths[depths < DEPTH].max()))
        elif self.look.position in (*CORNERS, ANYWHERE):
            box = _bound(shared)
        else:
            return _Box(0, 0, shared.shape[1], shared.shape[0]), windows[0]
        left, top, width, height = (int(value) for value in box)
        return box, np.median(windows, axis=0).astype(np.uint8)[top : top + height, left : left + width]

    def box(self, row: int, outline: _Box) -> _Box:
        """Return the box of the mark in an image, in its pixels."""
        width, height = self.looks[row].size
        scale = 1.0 if self.look.grid == GRIDS[0] else GRID / min(width, height)
        name, (left, top, wide, high) = self.look.position, outline
        if name in BORDERS:
            deep = high / scale
            vertical = name in BORDERS[2:]
            wide, high = (deep, height) if vertical else (width, deep)
            left, top = (width - deep if name == BORDERS[3] else 0.0), (height - deep if name == BORDERS[1] else 0.0)
        else:
            before, above = self._start(row)
            left, top, wide, high = ((before + left) / scale, (above + top) / scale, wide / scale, high / scale)
        first, upper = max(math.floor(left), 0), max(math.floor(top), 0)
        return _Box(
            first, upper, min(math.ceil(left + wide), width) - first, min(math.ceil(top + high), height) - upper
        )

    def _start(self, row: int) -> tuple[int, int]:
        """Return left and top of the window of an image in its grid."""
        width, height = self._size(row)
        if self.look.position in CORNERS:
            top, left = mark_tests.place_corner((height, width), self.look.position)
            return left, top
        if self.look.position == ANYWHERE:
            template = self.patches.vectors[self.look.patch]
            members = np.flatnonzero(self.patches.rows == row)
            left, top = self.patches.centres[members[np.argmax(self.patches.vectors[members] @ template)]]
            return int(left) - _REACH, int(top) - _REACH
        if self.look.position in BORDERS:
            return 0, 0
        return 0, int(self.looks[row].text[mark_tests.TEXT_BANDS.index(self.look.position), 1])

    def _size(self, row: int) -> tuple[int, int]:
        """Return width and height of an image in its grid."""
        width, height = self.looks[row].size
        scale = 1.0 if self.look.grid == GRIDS[0] else GRID / min(width, height)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def _cut(self, row: int) -> Pixels:
        """Return the window of an image in which the mark lies, RGB."""
        pixels = self.dataset.image(int(self.rows[row]))
        if self.look.grid == GRIDS[1]:
            pixels = mark_tests.resize_shorter_side(pixels, GRID)
        name, size, start = self.look.position, (WINDOW, WINDOW), self._start(row)
        if name in BORDERS:  # the middle of the border, turned up
            pixels = np.swapaxes(pixels, 0, 1) if name in BORDERS[2:] else pixels
            pixels = pixels if name in (BORDERS[0], BORDERS[2]) else pixels[::-1]
            size, start = (WINDOW, 2 * WINDOW), (max(pixels.shape[1] // 2 - WINDOW, 0), 0)
        elif name not in CORNERS:
            size = (2 * _REACH, 2 * _REACH) if name == ANYWHERE else (LINE, GRID)
        return np.asarray(mark_tests.cut_window(pixels, start[1], start[0], size), dtype=np.uint8)


def _bound(shared: NDArray[np.float32]) -> _Box:
    """Return the box of the most of what is shared, (H, W): of all parts that are near each other."""
    strong = (shared >= 0.5 * shared.max()).astype(np.uint8)
    _, parts = cv2.connectedComponents(cv2.dilate(strong, np.ones((_JOINED, _JOINED), np.uint8)))
    weights = np.bincount(parts.ravel(), (shared * strong).ravel())
    return _Box(*cv2.boundingRect(((parts == 1 + weights[1:].argmax()) & (strong > 0)).astype(np.uint8)))

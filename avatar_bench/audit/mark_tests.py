"""Tests of corners, borders, lines of text and patches: is the class of an image shown by what its sources share?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.repeated_patches import SIMILAR, Patches, compare, compute_directions, extract_patches

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Directions = NDArray[np.float32]  # (..., 2), unit vectors or their means

WINDOW, DEPTH = 48, 24  # pixels: side of a corner, depth of a border
GRID = 160  # pixels of the shorter side of the scaled image
LINE = 12  # rows of the scaled image: height of a line of text
CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
BORDERS = ("top_border", "bottom_border", "left_border", "right_border")
TEXT_BANDS = ("text_top", "text_bottom")
ANYWHERE = "anywhere"
GRIDS = ("native", "scaled")
_PERMUTATIONS = 999
_FEWEST_RELABELLINGS = 500  # of sources: with fewer, no p-value is far enough below the level of a mark
_BUCKETS = 30  # units of a class where its sources are too few
_SMOOTH = 7  # pixels: what is alike over more than these is composition, such as shoulders, and no mark
_SAMPLE, _MOST_PATCHES = 150, 2000  # images whose patches are candidates, and candidates
_MOST_LISTED = 12  # patches of a class beyond the level


class ImageLook(NamedTuple):
    """What is kept of one image: directions of edges in corners and along borders, lines of text, and patches."""

    corners: NDArray[np.int8]  # (2 grids, 4, W, W, 2), 127 times a unit vector
    borders: NDArray[np.float32]  # (2 grids, 4, D, 2), means along the border
    text: Floats  # (2, 2): for top and bottom the density of strokes above that elsewhere, and the row of its maximum
    luma: Pixels  # (4, W, W), native
    size: tuple[int, int]  # width, height
    vectors: NDArray[np.float16]  # (K, D) patches
    centres: Rows  # (K, 2)


class MarkUnits(NamedTuple):
    """Units whose classes are permuted: codes (N,), and of each unit its class, its source and its images."""

    kind: str
    codes: Rows
    labels: Rows
    sources: Rows
    counts: Floats


class Look(NamedTuple):
    """One look for a mark: at a position or for a patch, for a class; its p-value and the scores of the images (N,).

    `patch` is the patch in the table of patches, -1 where the position is fixed. `is_first` is False of patches beyond
    the level that are weaker than another one of the class.
    """

    position: str
    grid: str
    code: int
    p: float
    scores: Floats
    patch: int = -1
    is_first: bool = True


class _Tested(NamedTuple):
    """Tested position: its statistic (P + 1, C), the observed one first, and the scores of the images (N, C)."""

    name: str
    grid: str
    statistic: Floats
    scores: Floats


def run_tests(looks: list[ImageLook], units: MarkUnits, patches: Patches, seed: int, level: float) -> list[Look]:
    """Test all positions for each class, and return what was seen; of patches the best one and others up to a level."""
    rng = np.random.default_rng(seed)
    orders = [units.labels, *(rng.permutation(units.labels) for _ in range(_PERMUTATIONS))]
    members = np.stack([np.equal(orders, code) for code in np.unique(units.labels)]).astype(np.float32)  # (C, P + 1, U)
    fixed = _test_fixed(looks, units, members)
    drawn_of_patches, of_candidates, candidates = _test_patches(patches, units, members, rng)
    drawn = np.stack([*(tested.statistic for tested in fixed), drawn_of_patches])  # (positions, P + 1, C)
    means, spreads = drawn.mean(axis=1), np.maximum(drawn.std(axis=1), 1e-9)  # (positions, C)
    heights = (drawn - means[:, None]) / spreads[:, None]
    chances, highest = _step_down(heights, level)
    seen = [
        Look(tested.name, tested.grid, code, float(chances[row, code]), tested.scores[:, code])
        for row, tested in enumerate(fixed)
        for code in range(len(members))
    ]
    for code in range(len(members)):
        listed: list[int] = []
        of_patches = np.maximum(highest, heights[-1, :, code])
        for k in np.argsort(-of_candidates[:, code], kind="stable"):
            height = (of_candidates[k, code] - means[-1, code]) / spreads[-1, code]
            p = float((of_patches >= height - 1e-9).mean()) if listed else float(chances[-1, code])
            if len(listed) == _MOST_LISTED or (listed and p > level):
                break
            vector = patches.vectors[candidates[k]]
            if not any(vector @ patches.vectors[candidates[other]] >= SIMILAR for other in listed):
                scores = compare(vector[None], patches, len(looks))[0].astype(np.float64)
                seen.append(Look(ANYWHERE, GRIDS[1], code, p, scores, int(candidates[k]), not listed))
                listed.append(int(k))
        if not listed:
            seen.append(Look(ANYWHERE, GRIDS[1], code, 1.0, np.zeros(len(looks))))
    return seen


def _step_down(heights: Floats, level: float) -> tuple[Floats, Floats]:
    """Return the p-value of each position and class, (positions, C), and the highest (P + 1,) of those above the level.

    What is below the level is left out, and the rest compared with its own maximum: a strong mark hides no other one.
    """
    rest = np.ones((len(heights), heights.shape[2]), bool)
    chances, lowest = np.ones(rest.shape), 0.0
    while True:
        highest = np.where(rest[:, None], heights, -np.inf).max(axis=(0, 2))
        current = (highest >= heights[:, 0, :, None] - 1e-9).mean(axis=-1)
        chances = np.where(rest, np.maximum(current, lowest), chances)
        below = rest & (chances <= level)
        if not below.any():
            return chances, highest
        rest, lowest = rest & ~below, float(chances[below].max())


def look_at(pixels: Pixels) -> ImageLook:
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    scaled = resize_shorter_side(luma, GRID)
    directions = compute_directions(scaled)
    corners, borders = [], []
    for field in (compute_directions(luma), directions):
        corners.append([cut_window(field, *place_corner(field.shape, name)) for name in CORNERS])
        borders.append([_profile(np.swapaxes(field, 0, 1) if name in BORDERS[2:] else field, name) for name in BORDERS])
    return ImageLook(
        np.rint(127 * np.array(corners)).astype(np.int8),
        np.array(borders, np.float32),
        np.array(_find_lines(directions)),
        np.array([cut_window(luma, *place_corner(luma.shape, name)) for name in CORNERS]),
        (pixels.shape[1], pixels.shape[0]),
        *extract_patches(scaled, directions),
    )


def resize_shorter_side(pixels: Pixels, side: int) -> Pixels:
    """Resize an image so that its shorter side has `side` pixels."""
    scale = side / min(pixels.shape[:2])
    size = max(round(pixels.shape[1] * scale), side), max(round(pixels.shape[0] * scale), side)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=method), dtype=np.uint8)


def place_corner(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return top and left of the window in a corner: negative where the image is smaller."""
    return (0 if "top" in name else shape[0] - WINDOW), (0 if "left" in name else shape[1] - WINDOW)


def cut_window(image: Any, top: int, left: int, size: tuple[int, int] = (WINDOW, WINDOW)) -> Any:
    """Return a window of an image, (H, W) or (H, W, K), zero outside of it; `size` is height and width."""
    window = np.zeros((*size, *image.shape[2:]), image.dtype)
    part = image[max(top, 0) : max(top + size[0], 0), max(left, 0) : max(left + size[1], 0)]
    y, x = max(-top, 0), max(-left, 0)
    window[y : y + part.shape[0], x : x + part.shape[1]] = part
    return window


def _profile(directions: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return the mean direction of edges in each of DEPTH rows from a border, (D, 2), without the corners."""
    end = int(0.3 * directions.shape[1])  # what lies in a corner is no border
    rows = directions if name in (BORDERS[0], BORDERS[2]) else directions[::-1]
    strip = rows[:DEPTH, end : directions.shape[1] - end]
    return np.pad(strip.mean(axis=1), ((0, DEPTH - len(strip)), (0, 0)))


def _find_lines(directions: NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return for the top and the bottom quarter how much denser strokes are there than between, and in which row.

    Strokes of letters turn the direction of horizontal edges back and forth along a line.
    """
    turns = (np.diff(np.rint(directions[..., 0]), axis=1) != 0).mean(axis=1)
    density = np.convolve(turns, np.full(LINE, 1 / LINE), "valid")
    quarter = len(directions) // 4
    between = float(density[quarter : 3 * quarter - LINE].max())
    ends = [(0, density[: quarter - LINE + 1]), (3 * quarter, density[3 * quarter :])]
    return [(float(part.max()) - between, float(start + part.argmax())) for start, part in ends]


def form_units(frame: pd.DataFrame, targets: Rows, seed: int) -> MarkUnits:
    """Return sources as units; where a class has too few of them, or some are not known, random parts of classes."""
    sources, names = pd.factorize(frame["source"])
    kinds = pd.DataFrame({"source": sources, "label": targets})
    pairs = kinds.drop_duplicates().to_numpy()
    counts = np.bincount(pairs[:, 1])
    relabellings = math.factorial(len(pairs)) / math.prod(math.factorial(int(count)) for count in counts)
    if "" in names or counts.min() < 2 or relabellings < _FEWEST_RELABELLINGS:
        groups, listed = pd.factorize(frame["group"])
        kinds["source"] = np.random.default_rng(seed).permutation(len(listed))[groups] % _BUCKETS
        kinds["source"] += _BUCKETS * targets
    kind = "source" if not (kinds["source"] - sources).any() else "group"
    members, codes = np.unique(kinds.to_numpy(np.intp), axis=0, return_inverse=True)
    return MarkUnits(kind, codes, members[:, 1], members[:, 0], np.bincount(codes).astype(float))


def gather_patches(looks: list[ImageLook]) -> Patches:
    rows = np.repeat(np.arange(len(looks)), [len(look.vectors) for look in looks])
    vectors = np.concatenate([look.vectors for look in looks]).astype(np.float32)
    return Patches(vectors, rows, np.concatenate([look.centres for look in looks]))


def _test_fixed(looks: list[ImageLook], units: MarkUnits, members: NDArray[np.float32]) -> list[_Tested]:
    """Test corners, borders and lines of text."""
    positions = []
    for k, grid in enumerate(GRIDS):
        for j, name in enumerate(CORNERS):
            directions = np.stack([look.corners[k, j] for look in looks])
            positions.append(_Tested(name, grid, *_test_agreement(directions, units, members)))
        for j, name in enumerate(BORDERS):
            directions = np.stack([look.borders[k, j] for look in looks])[:, :, None]
            positions.append(_Tested(name, grid, *_test_agreement(directions, units, members)))
    weights = np.sqrt(units.counts)
    for j, name in enumerate(TEXT_BANDS):
        densities = np.array([look.text[j, 0] for look in looks])
        means = np.bincount(units.codes, densities) / units.counts
        inside, outside = (
            (chosen @ (weights * means)) / np.maximum(chosen @ weights, 1e-9) for chosen in (members, 1 - members)
        )
        scores = np.repeat(densities[:, None], len(members), axis=1)
        positions.append(_Tested(name, GRIDS[1], (inside - outside).T, scores))
    return positions


def _test_agreement(directions: NDArray[Any], units: MarkUnits, members: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Return the statistic (P + 1, C) and the scores (N, C) of the directions of edges (N, H, W, 2) at a position.

    The statistic is the mean cosine between the mean directions of sources of a class, less that with other classes.
    """
    n, shape, count = len(directions), directions.shape[1:], len(units.counts)
    sums = np.stack([directions[units.codes == unit].sum(axis=0, dtype=np.float32) for unit in range(count)])
    smooth = (_SMOOTH, 1) if shape[1] == 1 else (_SMOOTH, _SMOOTH)
    sharp = np.stack([part - cv2.blur(part, smooth[::-1]).reshape(shape) for part in sums]).reshape(count, -1)
    products = sharp @ sharp.T
    lengths = np.sqrt(np.maximum(np.diag(products), 1e-9))
    weights = np.sqrt(units.counts)
    pairs = np.outer(weights, weights) * (units.sources[:, None] != units.sources)
    cosines = pairs * products / np.outer(lengths, lengths)
    inside, among = (((members @ part) * members).sum(axis=-1) for part in (cosines, pairs))
    outside, between = (((members @ part) * (1 - members)).sum(axis=-1) for part in (cosines, pairs))
    statistic = inside / np.maximum(among, 1e-9) - outside / np.maximum(between, 1e-9)
    flat = directions.reshape(n, -1).astype(np.float32)
    agreement = flat @ (sharp / lengths[:, None] * weights[:, None]).T / np.sqrt((flat**2).sum(axis=1) + 1)[:, None]
    # the own source is left out, as in any probe by group
    other = units.sources[units.codes][:, None] != units.sources
    scores = []
    for code in range(len(members)):
        ours, theirs = (other * chosen for chosen in (units.labels == code, units.labels != code))
        means = [
            (agreement * part).sum(axis=1) / np.maximum((weights * part).sum(axis=1), 1e-9) for part in (ours, theirs)
        ]
        scores.append(means[0] - means[1])
    return statistic.T.astype(np.float64), np.column_stack(scores)


def _test_patches(
    patches: Patches, units: MarkUnits, members: NDArray[np.float32], rng: np.random.Generator
) -> tuple[Floats, Floats, Rows]:
    """Test whether a patch recurs in images of one class: the difference of its frequencies, standardised.

    Return the highest statistic (P + 1, C), the observed one of each candidate (K, C), and the candidates (K,): patches
    of a sample that recur in another source, of whichever class, as they must not depend on the permuted classes.
    """
    n = len(units.codes)
    by_unit = np.equal(units.codes[:, None], np.arange(len(units.counts))).astype(np.float32)  # (N, U)
    drawn = rng.choice(n, min(_SAMPLE, n), replace=False)
    sample = np.flatnonzero(np.isin(patches.rows, drawn))
    few = Patches(patches.vectors[sample], patches.rows[sample], patches.centres[sample])
    hits, images = _count_alike(few, few, by_unit, by_unit[drawn].sum(axis=0), units)
    share = (hits.sum(axis=1, keepdims=True) + 1) / (images.sum(axis=1, keepdims=True) + 2)
    # those first that some units have more than others: a plain edge is in all of them
    uneven = ((hits - share * images) ** 2 / (np.maximum(images, 1) * share * (1 - share))).sum(axis=1)
    recurring = np.flatnonzero(hits.sum(axis=1) >= 2)
    candidates = sample[recurring[np.argsort(-uneven[recurring], kind="stable")[:_MOST_PATCHES]]]
    few = Patches(patches.vectors[candidates], patches.rows[candidates], patches.centres[candidates])
    hits, images = _count_alike(few, patches, by_unit, units.counts, units)
    highest, observed = [], []
    for chosen in members:
        bearers, sizes = hits @ chosen.T, images @ chosen.T  # (K, P + 1)
        rest, others = hits.sum(axis=1)[:, None] - bearers, images.sum(axis=1)[:, None] - sizes
        share = (bearers + rest + 1) / (sizes + others + 2)
        error = np.sqrt(share * (1 - share) * (1 / np.maximum(sizes, 1) + 1 / np.maximum(others, 1)))
        heights = (bearers / np.maximum(sizes, 1) - rest / np.maximum(others, 1)) / error
        highest.append(heights.max(axis=0, initial=0.0))
        observed.append(heights[:, 0])
    return np.stack(highest, axis=1), np.stack(observed, axis=1), candidates


def _count_alike(
    few: Patches, patches: Patches, by_unit: NDArray[np.float32], counts: NDArray[Any], units: MarkUnits
) -> tuple[Floats, Floats]:
    """Return how many images of each unit of other sources have a patch like each of a few, and of how many, (K, U)."""
    is_alike = (compare(few.vectors, patches, len(by_unit)) >= SIMILAR).astype(np.float32)
    is_other = units.sources[units.codes][few.rows][:, None] != units.sources
    return is_alike @ by_unit * is_other, is_other * counts.astype(np.float64)

"""Confirmation of copies by alignment: crops, small turns, borders, bands of text, round crops and grey versions.

`duplicates` compares whole images and finds none of these. Here two images are aligned by their local features, and
are copies if they then agree in every part that both show. The thresholds were set on avatars of some fifty sources:
the largest residual of their copies is .24, the smallest of different images .62.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.data.duplicates import Decoder, Match

MAX_NEIGHBOURS = 3  # images aligned with each one: the original is among them in .99 of the copies
MIN_COSINE = 0.6  # of neighbours: at least .66 in .99 of the copies
MAX_RESIDUAL = 0.4  # of the contrast, in the part of an image that agrees least

_SIDE = 128  # pixels of the longest side, to which images are resized
_MAX_KEYPOINTS, _KEYPOINT_CONTRAST, _EDGE_RATIO = 150, 0.01, 20  # drawings have few corners and long edges
_MIN_SIMILARITY = 0.8  # cosine of matching descriptors
_MIN_INLIERS, _REPROJECTION = 8, 3.0  # keypoints that agree on the alignment, to so many pixels
_SCALES = (0.6, 1.6)  # a border of a tenth enlarges, a crop to two thirds reduces
_MIN_OVERLAP = 0.5  # of the image, that the other one shows too
_BLUR = 1.5  # pixels: hides the resampling, not a mouth
_GAINS, _MIN_CONTRAST = (0.5, 2.0), 8.0  # brightness levels
_MAX_GREY_CHROMA = 6.0  # levels by which the channels of a grey JPEG differ
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
_PARTS, _MIN_PARTS = 8, 20  # parts a side, and how many must be comparable
_ROWS_PER_CHUNK = 256  # of a matrix of cosines
_CACHED_SKETCHES = 1024  # of originals, 100 KiB each

Chosen = NDArray[np.bool_]
PixelValues = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sketch:
    """Image reduced for alignment: its pixels, (H, W, 3), with the places, (K, 2), and descriptors of its keypoints."""

    pixels: NDArray[np.uint8]
    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]

    @classmethod
    def of(cls, image: NDArray[np.uint8]) -> Sketch:
        """Return the sketch of an image, (H, W, 3) RGB, with RootSIFT descriptors (Arandjelovic et al., 2012)."""
        height, width = image.shape[:2]
        scale = _SIDE / max(height, width)
        size = max(_PARTS, round(width * scale)), max(_PARTS, round(height * scale))
        pixels = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        detector = cv2.SIFT.create(_MAX_KEYPOINTS, contrastThreshold=_KEYPOINT_CONTRAST, edgeThreshold=_EDGE_RATIO)
        keypoints, values = detector.detectAndCompute(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), None)  # type: ignore[call-overload]
        descriptors = np.zeros((0, 128), np.float32) if values is None else values
        descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1))
        points = np.array([keypoint.pt for keypoint in keypoints], np.float32).reshape(-1, 2)
        return cls(pixels.astype(np.uint8, copy=False), points, descriptors)


def find_neighbours(left: NDArray[np.float32], right: NDArray[np.float32]) -> list[list[int]]:
    """Return the nearest left rows of each right one, given unit features (N, V, D): the nearer of V views counts."""
    neighbours: list[list[int]] = []
    for start in range(0, len(right), _ROWS_PER_CHUNK):
        some = right[start : start + _ROWS_PER_CHUNK]
        cosines = np.max([some[:, view] @ left[:, view].T for view in range(left.shape[1])], axis=0)
        for row in cosines:
            nearest = np.argsort(-row, kind="stable")[:MAX_NEIGHBOURS]
            neighbours.append(nearest[row[nearest] >= MIN_COSINE].tolist())
    return neighbours


def find_aligned_copies(left: Decoder, right: Decoder, neighbours: Sequence[Sequence[int]]) -> list[Match]:
    """Return the copies among the right images of one of their neighbours, left rows from the nearest on."""
    sketch_left = lru_cache(_CACHED_SKETCHES)(lambda row: Sketch.of(left(row)))

    def match(row: int) -> Match | None:
        sketch = Sketch.of(right(row)) if neighbours[row] else None
        originals = (other for other in neighbours[row] if sketch and is_copy(sketch_left(other), sketch))
        return next((Match(other, row, "aligned") for other in originals), None)

    with ThreadPoolExecutor() as pool:
        matches = track(pool.map(match, range(len(neighbours))), "align neighbours", len(neighbours))
        return [copy for copy in matches if copy is not None]


def is_copy(original: Sketch, image: Sketch) -> bool:
    """Return whether an image shows nothing but the original, cropped, turned, framed, captioned, round or grey."""
    alignment = _align(original, image)
    return alignment is not None and compute_residual(original, image, alignment) <= MAX_RESIDUAL


def _align(original: Sketch, image: Sketch) -> NDArray[np.float64] | None:
    """Return the similarity, (2, 3), that maps the image's pixels to the original's; None if there is none."""
    if min(len(original.points), len(image.points)) < _MIN_INLIERS:
        return None
    cosines = image.descriptors @ original.descriptors.T
    nearest = cosines.argmax(axis=1)
    is_mutual = cosines.argmax(axis=0)[nearest] == np.arange(len(nearest))
    paired = np.flatnonzero(is_mutual & (cosines.max(axis=1) >= _MIN_SIMILARITY))
    if len(paired) < _MIN_INLIERS:
        return None
    points = image.points[paired], original.points[nearest[paired]]
    alignment, inliers = cv2.estimateAffinePartial2D(*points, ransacReprojThreshold=_REPROJECTION, maxIters=500)
    if alignment is None or inliers.sum() < _MIN_INLIERS:
        return None
    scale = np.hypot(*alignment[:, 0])
    return np.asarray(alignment) if _SCALES[0] <= scale <= _SCALES[1] else None


def compute_residual(original: Sketch, image: Sketch, alignment: NDArray[np.float64]) -> float:
    """Return the root mean square difference in the part that agrees least, relative to the contrast; inf if too few.

    Border, corners and a band at the top or bottom do not count if leaving them out makes the rest agree.
    """
    height, width = image.pixels.shape[:2]
    seen = _warp(np.ones(original.pixels.shape[:2], np.float32), alignment, width, height) > 0.99
    seen = cv2.erode(seen.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    if seen.mean() < _MIN_OVERLAP:
        return np.inf
    first, second = _smooth(_warp(original.pixels, alignment, width, height)), _smooth(image.pixels)
    chroma = min(float(np.ptp(sketch.pixels, axis=2).mean()) for sketch in (original, image))
    if chroma < _MAX_GREY_CHROMA:
        first, second = ((pixels @ _GREY_WEIGHTS)[..., None] for pixels in (first, second))
    squares = _fit_brightness(first, second, seen)
    area = _average_parts(seen.astype(np.float32))
    errors = np.sqrt(_average_parts(squares * seen) / np.maximum(area, 1e-6))
    contrast = max(float(second.mean(axis=2)[seen].std()), _MIN_CONTRAST)
    comparable = [region & (area > 0.5) for region in _REGIONS]
    worst = (errors[region].max() for region in comparable if region.sum() >= _MIN_PARTS)
    return float(min(worst, default=np.inf)) / contrast


def _fit_brightness(first: NDArray[np.float32], second: NDArray[np.float32], seen: Chosen) -> NDArray[np.float32]:
    """Return the squared differences, (H, W), after a trimmed regression of the second image on the first."""
    used = seen
    for _ in range(3):
        ours, theirs = first[used], second[used]
        covariance = ((ours - ours.mean()) * (theirs - theirs.mean())).mean()
        gain = np.clip(covariance / max(ours.var(), 4), *_GAINS)
        squares = ((second - theirs.mean() - gain * (first - ours.mean())) ** 2).mean(axis=2)
        used = seen & (squares <= max(np.quantile(squares[seen], 0.7), 16))
    return np.asarray(squares, np.float32)


def _warp(pixels: PixelValues, alignment: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(pixels, alignment, (width, height), flags=flags), np.float32)


def _smooth(pixels: PixelValues) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), _BLUR))


def _average_parts(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, (_PARTS, _PARTS), interpolation=cv2.INTER_AREA), np.float32)


def _list_regions() -> list[Chosen]:
    """Return the regions that must agree: all, without a border, or round; each also without a quarter for a text."""
    rows, columns = np.mgrid[:_PARTS, :_PARTS] - (_PARTS - 1) / 2
    centre = np.maximum(abs(rows), abs(columns)) < _PARTS / 2 - 1
    shapes = np.ones_like(centre), centre, np.hypot(rows, columns) < 0.4 * _PARTS
    return [shape & band for shape in shapes for band in (rows > -_PARTS, rows < _PARTS / 4, rows > -_PARTS / 4)]


_REGIONS = _list_regions()

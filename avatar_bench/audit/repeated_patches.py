"""Patches that recur in images at any position, by the directions of the edges at their corner points."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
Rows = NDArray[np.intp]

PATCH = 24  # pixels: side of a patch
SIMILAR = 0.5  # cosine of two patches that are called alike
WEAKEST_EDGE = 4.0  # levels of 255 per pixel: above the noise of JPEG, below the outline of a stamp of opacity .2
_POINTS, _SPACING = 50, 4  # corner points of an image, and pixels between them
_WEAKEST_POINT = 1e-4  # of the strongest: points of low contrast count in images with and without a stamp
_MIN_EDGES = 50  # pixels of a patch on edges; of fewer, many are alike by chance
_CHUNK = 500  # patches that are compared at a time


class Patches(NamedTuple):
    """Patches of images: unit vectors (K, D) float32, the row (K,) of each in its table, ascending, and its centre."""

    vectors: Field
    rows: Rows
    centres: NDArray[np.intp]  # (K, 2): left and top in the image


def compute_directions(luma: Pixels) -> Field:
    """Compute the unit vector of the gradient at each pixel, (H, W, 2) float32; zero where there is no edge."""
    across, down = (cv2.Sobel(luma, cv2.CV_32F, *order, scale=1 / 8) for order in ((1, 0), (0, 1)))
    lengths = cv2.magnitude(across, down)
    lengths[lengths < WEAKEST_EDGE] = np.inf
    return np.asarray(cv2.merge([cv2.divide(across, lengths), cv2.divide(down, lengths)]), dtype=np.float32)


def extract_patches(luma: Pixels, directions: Field) -> tuple[NDArray[np.float16], NDArray[np.intp]]:
    """Return the patches of an image at its corner points, unit vectors (K, D), and their centres (K, 2)."""
    points = cv2.goodFeaturesToTrack(luma, _POINTS, _WEAKEST_POINT, _SPACING)
    half = PATCH // 2
    field = cv2.copyMakeBorder(directions, half, half, half, half, cv2.BORDER_CONSTANT)
    centres = np.zeros((0, 2), np.intp) if points is None else points[:, 0].astype(np.intp)
    cut = np.array([field[top : top + PATCH, left : left + PATCH] for left, top in centres]).reshape(
        -1, PATCH, PATCH, 2
    )
    is_rich = np.einsum("kyxd,kyxd->k", cut, cut) >= _MIN_EDGES
    # means of 2 x 2 pixels, up to the scale: copies lie at fractions of a pixel
    quarters = [cut[is_rich, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    vectors = sum(quarters[1:], quarters[0]).reshape(-1, 2 * half * half)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors.astype(np.float16), centres[is_rich]


def compare(vectors: Field, patches: Patches, n: int) -> Field:
    """Return the highest cosine of each vector (K, D) with the patches of each of `n` images, (K, n)."""
    highest = np.zeros((len(vectors), n), np.float32)
    if len(patches.rows):
        starts = np.flatnonzero(np.diff(patches.rows, prepend=-1))
        for first in range(0, len(vectors), _CHUNK):
            cosines = vectors[first : first + _CHUNK] @ patches.vectors.T
            highest[first : first + _CHUNK, patches.rows[starts]] = np.maximum.reduceat(cosines, starts, axis=1)
    return highest

"""Search for cropped, turned, framed, captioned, round and grey copies: neighbours by features, aligned to confirm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from avatar_bench import __version__
from avatar_bench.console.progress import track
from avatar_bench.data.aligned_copies import find_aligned_copies, find_neighbours
from avatar_bench.data.cache import ArrayCache
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.duplicates import Match
from avatar_bench.data.equalise import ImageArray, resize_to_square
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_file, sha256_of_text
from avatar_bench.files.paths import cache_root
from avatar_bench.models.package_features import compute_package_features, has_weights, read_package_recipe
from avatar_bench.results.reasons import Reason

MODEL = "efficientnet_lite0"  # the default of train: who has trained offline has its weights
MAX_IMAGES = 20_000  # of both sets together: some five minutes of one core, once, and 200 MB of memory
COPIES_FOLDER = "copies"  # in the cache

_SIDE = 96  # pixels; at 128 no more originals are found, in twice the time
_CENTRE = 0.7  # of the shorter side: the centre alone finds round crops, frames and bands of text
_FEATURES = 1280  # of MODEL
_BATCH = 16  # images, of two views each
_CACHE_BYTES = 2**30


def search_aligned_copies(known: Dataset, dataset: Dataset) -> list[Match] | Reason:
    """Return the copies in a dataset (right) of known images (left), or the reason why they are not searched for.

    Identical files are left to others. Features and matches are cached by the SHA-256 of the files. Nothing is
    downloaded.
    """
    count, recipe = len(known) + len(dataset), read_package_recipe(MODEL)
    if count > MAX_IMAGES:
        return Reason("too_many_to_align", n=count, most=MAX_IMAGES)
    if not has_weights(recipe):
        return Reason("no_weights_to_align", model=MODEL)
    sets = [list(images.frame["sha256"]) for images in (known, dataset)]
    file = cache_root() / COPIES_FOLDER / "matches" / sha256_of_text(repr([*_list_versions(recipe), *sets]))[:32]
    with suppress(OSError, ValueError, TypeError):  # missing or damaged: searched again
        return [Match(*values) for values in json.loads(file.read_text(encoding="ascii"))]
    matches = _search(known, dataset, recipe)
    with suppress(OSError):  # a full disk only costs time
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, alone=False) as part:
            part.write_text(json.dumps(matches), encoding="ascii")
    return matches


def _search(known: Dataset, dataset: Dataset, recipe: dict[str, Any]) -> list[Match]:
    is_identical = dataset.frame["sha256"].isin(set(known.frame["sha256"])).to_numpy()
    rows = np.flatnonzero(~is_identical)
    if not len(known) or not len(rows):
        return []
    others = dataset.take(rows)
    neighbours = find_neighbours(_compute_features(known, recipe), _compute_features(others, recipe))
    matches = find_aligned_copies(known.image, others.image, neighbours)
    return [match._replace(right=int(rows[match.right])) for match in matches]


def _compute_features(images: Dataset, recipe: dict[str, Any]) -> NDArray[np.float32]:
    """Return the unit features (N, 2, D) of images and of their centres, from the cache where they are there."""
    digests = list(images.frame["sha256"])
    folder = cache_root() / COPIES_FOLDER / sha256_of_text(repr(_list_versions(recipe)))[:16]
    cache = ArrayCache(folder, (2, _FEATURES), np.float16)
    has_room = cache.reserve(digests, _CACHE_BYTES) is None
    features = np.zeros((len(images), 2, _FEATURES), np.float16)
    missing = []
    for row, digest in enumerate(digests):
        if (cached := cache.load(digest)) is None:
            missing.append(row)
        else:
            features[row] = cached
    if missing:
        computed = compute_package_features(recipe, _SIDE, _iterate_views(images, missing)).reshape(-1, 2, _FEATURES)
        features[missing] = computed / np.maximum(np.linalg.norm(computed, axis=2, keepdims=True), 1e-6)
    for row in missing:
        if has_room and sha256_of_file(images.file(row)) == digests[row]:  # it may have changed since it was hashed
            cache.store(digests[row], features[row])
    return features.astype(np.float32)


def _iterate_views(images: Dataset, rows: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Yield batches of images, each followed by its centre."""
    for start in track(range(0, len(rows), _BATCH), "features", unit="batch"):
        decoded = (images.image(row) for row in rows[start : start + _BATCH])
        yield np.stack([resize_to_square(view, _SIDE, "squash") for image in decoded for view in (image, _crop(image))])


def _crop(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * _CENTRE))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _list_versions(recipe: dict[str, Any]) -> list[Any]:
    """Return everything, besides the images, that features and matches depend on."""
    return [sorted(recipe["package"].items()), __version__, cv2.__version__]

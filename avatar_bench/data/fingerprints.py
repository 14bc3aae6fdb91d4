"""Fingerprints of decoded images, which identify copies regardless of file format and orientation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.data.equalise import hash_pixels
from avatar_bench.data.shard_files import measure_size
from avatar_bench.errors import DataError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_bytes

# The eight ways to mirror and rotate an image, in the order of the hashes; the last four are the first four after
# transposition. Rotations are counter-clockwise, as in numpy and Pillow.
ORIENTATIONS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "rotated 180": lambda image: image[::-1, ::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
    "rotated 270": lambda image: image.swapaxes(0, 1)[:, ::-1],
    "rotated 90": lambda image: image.swapaxes(0, 1)[::-1],
    "transversed": lambda image: image.swapaxes(0, 1)[::-1, ::-1],
}
_HASH_INPUT_SIDE, _HASH_SIDE = 32, 8  # the lowest 8 x 8 frequencies of a 32 x 32 thumbnail
_ODD_SIGNS = np.where(np.arange(_HASH_SIDE) % 2, -1.0, 1.0)
_SIGNS = np.stack([np.outer(*axes) for axes in product((np.ones(_HASH_SIDE), _ODD_SIGNS), repeat=2)])
_SMALL_FILE_BYTES = 4096  # at 1.6 KiB two threads take 1.2 times as long as one, at 10 KiB 0.7
_FILES_PER_TASK = 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 (hex) of the size and samples of an image, and perceptual hashes, 16 hex digits each, by ORIENTATIONS."""

    pixels: str
    phashes: tuple[str, ...]


def fingerprint_image(image: NDArray[np.uint8]) -> Fingerprint:
    """Compute the fingerprint of one upright image, (H, W, 3) RGB.

    The hash is imagehash's `phash`: which of the lowest frequencies lie above their median. One cosine transform yields
    all eight hashes: mirroring negates the odd frequencies of an axis, transposition transposes the frequencies.
    """
    return Fingerprint(hash_pixels(image), _hash_all([_shrink_to_grey(image)])[0])


def fingerprint_files(files: Sequence[Path], threads: int | None = None) -> list[Fingerprint | DataError]:
    """Compute the fingerprint of each file, in order, or the error that explains why it has none."""
    some = [measure_size(file) or 0 for file in files[:: max(1, len(files) // 20)] if file.is_file()]
    if threads is None:  # of small files, threads lose more time to the interpreter lock than they gain
        threads = 1 if some and sum(some) / len(some) < _SMALL_FILE_BYTES else os.cpu_count()
    tasks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    with ThreadPoolExecutor(threads) as pool:
        return list(chain.from_iterable(pool.map(_fingerprint_batch, tasks)))


def write_fingerprints(prints: Sequence[Fingerprint], file: Path) -> None:
    """Write fingerprints with a checksum, for `read_fingerprints`."""
    text = json.dumps([[fingerprint.pixels, fingerprint.phashes] for fingerprint in prints])
    with atomic_write(file, alone=False) as part:
        part.write_text(f"{sha256_of_bytes(text.encode())}\n{text}", encoding="ascii")


def read_fingerprints(file: Path) -> list[Fingerprint] | None:
    """Read the fingerprints of a file; None if it is missing or damaged."""
    try:
        digest, _, text = file.read_text(encoding="ascii").partition("\n")
    except (OSError, ValueError):
        return None
    if digest != sha256_of_bytes(text.encode()):
        return None
    return [Fingerprint(pixels, tuple(hashes)) for pixels, hashes in json.loads(text)]


def _fingerprint_batch(files: Sequence[Path]) -> list[Fingerprint | DataError]:
    """Hash the images of a task together: for small images, the overhead per call exceeds the arithmetic."""
    digests: list[str | DataError] = []
    greys = []
    for file in files:
        try:
            image = decode(file)
        except DataError as error:
            digests.append(error)
        else:
            digests.append(hash_pixels(image))
            greys.append(_shrink_to_grey(image))
    hashes = iter(_hash_all(greys))
    return [digest if isinstance(digest, DataError) else Fingerprint(digest, next(hashes)) for digest in digests]


def _shrink_to_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a grey thumbnail, (32, 32)."""
    grey = Image.fromarray(image).convert("L")
    return np.asarray(grey.resize((_HASH_INPUT_SIDE, _HASH_INPUT_SIDE), Image.Resampling.LANCZOS))


def _hash_all(greys: Sequence[NDArray[np.uint8]]) -> list[tuple[str, ...]]:
    if not greys:
        return []
    from scipy.fft import dct  # imported here for a faster start of commands that compare no images

    waves = dct(dct(np.stack(greys).astype(float), axis=1), axis=2)[:, None, :_HASH_SIDE, :_HASH_SIDE]
    both = np.concatenate([waves * _SIGNS, waves.swapaxes(2, 3) * _SIGNS], axis=1)
    turned = both.reshape(len(greys), len(ORIENTATIONS), -1)
    ordered, half = np.sort(turned, axis=2), turned.shape[2] // 2
    median = (ordered[..., half - 1, None] + ordered[..., half, None]) / 2
    bits = np.packbits(turned > median, axis=2)
    return [tuple(hash_bits.tobytes().hex() for hash_bits in eight) for eight in bits]

"""Tests of the fingerprints of images."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data.fingerprints import ORIENTATIONS, Fingerprint, fingerprint_files, fingerprint_image
from avatar_bench.errors import DataError


def draw(seed: int, height: int = 61, width: int = 48) -> NDArray[np.uint8]:
    """Return a soft random image, (height, width, 3)."""
    soft = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC))


def phash(image: NDArray[np.uint8]) -> str:
    return str(imagehash.phash(Image.fromarray(np.ascontiguousarray(image))))


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("size", [(61, 48), (7, 90), (1, 1)])
def test_the_first_hash_is_that_of_imagehash(size: tuple[int, int]) -> None:
    for seed in range(20):
        image = draw(seed, *size)
        assert fingerprint_image(image).phashes[0] == phash(image)


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_the_other_hashes_are_those_of_the_image_really_turned(turn: str) -> None:
    for seed in range(20):
        image = draw(seed)
        ours = fingerprint_image(image).phashes[list(ORIENTATIONS).index(turn)]
        assert (
            bits_apart(ours, phash(ORIENTATIONS[turn](image))) <= 4
        )  # shrinking rounds differently along the two axes


def test_another_encoding_of_the_same_pixels_has_the_same_fingerprint(tmp_path: Path) -> None:
    Image.fromarray(draw(0)).save(tmp_path / "a.png", compress_level=0)
    Image.fromarray(draw(0)).save(tmp_path / "b.webp", lossless=True, exact=True)
    one, other = fingerprint_files([tmp_path / "a.png", tmp_path / "b.webp"])
    assert one == other == fingerprint_image(draw(0))


@pytest.mark.parametrize("threads", [None, 3])
def test_files_keep_their_order_and_give_their_errors(tmp_path: Path, threads: int | None) -> None:
    files = [tmp_path / f"{number}.png" for number in range(40)]
    for number, file in enumerate(files):
        Image.fromarray(draw(number, 8, 9)).save(file)
    files[20].write_bytes(b"no image")
    files[39].unlink()
    found = fingerprint_files(files, threads)
    errors = {number: one for number, one in enumerate(found) if isinstance(one, DataError)}
    assert list(errors) == [20, 39]
    assert str(errors[20]).startswith(f"{files[20]}: not a known image format")
    assert all(one == fingerprint_image(draw(n, 8, 9)) for n, one in enumerate(found) if isinstance(one, Fingerprint))

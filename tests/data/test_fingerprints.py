"""Tests of the fingerprints of images."""

from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.data.fingerprints import ORIENTATIONS, Fingerprint, fingerprint_files, fingerprint_image
from avatar_bench.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def draw(seed: int, height: int = 61, width: int = 48) -> NDArray[np.uint8]:
    """Return a soft random image, (height, width, 3)."""
    soft = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC))


def phash(image: NDArray[np.uint8]) -> str:
    return str(imagehash.phash(Image.fromarray(np.ascontiguousarray(image))))


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("size", [(64, 64), (61, 48), (32, 32), (7, 90), (1, 1)])
def test_the_first_hash_is_that_of_imagehash(size: tuple[int, int]) -> None:
    for seed in range(20):
        image = draw(seed, *size)
        assert fingerprint_image(image).phashes[0] == phash(image)


@pytest.mark.parametrize("value", [0, 127, 255])
def test_a_blank_image_has_the_hash_of_imagehash(value: int) -> None:
    image = np.full((40, 40, 3), value, dtype=np.uint8)
    assert set(fingerprint_image(image).phashes) == {phash(image)}


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_the_other_hashes_are_those_of_the_image_really_turned(turn: str) -> None:
    for seed in range(20):
        image = draw(seed)
        ours = fingerprint_image(image).phashes[list(ORIENTATIONS).index(turn)]
        assert (
            bits_apart(ours, phash(ORIENTATIONS[turn](image))) <= 4
        )  # shrinking rounds differently along the two axes


def test_the_turns_are_those_of_numpy() -> None:
    image = draw(0)
    expected = {
        "": image,
        "mirrored": np.fliplr(image),
        "upside down": np.flipud(image),
        "rotated 90": np.rot90(image),
        "rotated 180": np.rot90(image, 2),
        "rotated 270": np.rot90(image, 3),
        "transposed": image.swapaxes(0, 1),
        "transversed": np.rot90(image, 2).swapaxes(0, 1),
    }
    assert ORIENTATIONS.keys() == expected.keys()
    for turn, turned in ORIENTATIONS.items():
        np.testing.assert_array_equal(turned(image), expected[turn])


def test_another_encoding_of_the_same_pixels_has_the_same_fingerprint(tmp_path: Path) -> None:
    Image.fromarray(draw(0)).save(tmp_path / "a.png", compress_level=0)
    Image.fromarray(draw(0)).save(tmp_path / "b.webp", lossless=True, exact=True)
    one, other = fingerprint_files([tmp_path / "a.png", tmp_path / "b.webp"])
    assert one == other == fingerprint_image(draw(0))


def test_pixels_differ_by_one_sample_and_by_shape() -> None:
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    changed = image.copy()
    changed[3, 5, 2] = 1
    assert len({fingerprint_image(one).pixels for one in (image, changed, image.reshape(6, 4, 3))}) == 3


def test_an_image_that_is_a_view_of_another_is_hashed_as_its_copy() -> None:
    assert fingerprint_image(draw(0)[:, ::-1]) == fingerprint_image(draw(0)[:, ::-1].copy())


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_files_keep_their_order_and_give_their_errors(tmp_path: Path, threads: int | None) -> None:
    files = [tmp_path / f"{number}.png" for number in range(150)]
    for number, file in enumerate(files):
        Image.fromarray(draw(number, 8, 9)).save(file)
    files[70].write_bytes(b"no image")
    files[149].unlink()
    found = fingerprint_files(files, threads)
    errors = {number: one for number, one in enumerate(found) if isinstance(one, DataError)}
    assert list(errors) == [70, 149]
    assert str(errors[70]).startswith(f"{files[70]}: not a known image format")
    assert all(one == fingerprint_image(draw(n, 8, 9)) for n, one in enumerate(found) if isinstance(one, Fingerprint))


def test_no_file_has_no_fingerprint() -> None:
    assert fingerprint_files([]) == []


@pytest.mark.shared
def test_real_images_have_the_hash_of_imagehash() -> None:
    files = sorted((SHARED / "avatars").rglob("*.jpg"))[::40]
    if not files:
        pytest.skip(f"no images in {SHARED}")
    for file, one in zip(files, fingerprint_files(files), strict=True):
        assert isinstance(one, Fingerprint)
        assert one.phashes[0] == phash(decode(file))

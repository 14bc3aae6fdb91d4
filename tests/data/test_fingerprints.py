"""Tests of the fingerprints of images."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from avatar_bench.data.fingerprints import ORIENTATIONS, fingerprint_files, fingerprint_image
from avatar_bench.errors import DataError
from tests.builders.pixels import make_smooth


def phash(image):
    return str(imagehash.phash(Image.fromarray(np.ascontiguousarray(image))))


def test_the_hashes_are_those_of_imagehash_of_the_image_and_of_it_really_turned():
    for size in [(64, 64), (61, 48), (32, 32), (7, 90), (1, 1)]:
        for seed in range(20):
            image = make_smooth(seed, *size)
            assert fingerprint_image(image).phashes[0] == phash(image)
    for value in [0, 127, 255]:
        image = np.full((40, 40, 3), value, dtype=np.uint8)
        assert set(fingerprint_image(image).phashes) == {phash(image)}
    for turn in ORIENTATIONS:
        for seed in range(20):
            image = make_smooth(seed, 61, 48)
            ours = fingerprint_image(image).phashes[list(ORIENTATIONS).index(turn)]
            # shrinking rounds differently along the two axes
            assert (int(ours, 16) ^ int(phash(ORIENTATIONS[turn](image)), 16)).bit_count() <= 4
    image = make_smooth(0, 61, 48)
    expected = {"": image, "mirrored": np.fliplr(image), "upside down": np.flipud(image)}
    expected |= {f"rotated {90 * turns}": np.rot90(image, turns) for turns in (1, 2, 3)}
    expected |= {"transposed": image.swapaxes(0, 1), "transversed": np.rot90(image, 2).swapaxes(0, 1)}
    assert ORIENTATIONS.keys() == expected.keys()
    for turn, turned in ORIENTATIONS.items():
        np.testing.assert_array_equal(turned(image), expected[turn])


def test_a_fingerprint_is_of_the_pixels_and_their_shape_whatever_their_encoding_and_memory(tmp_path):
    image = make_smooth(0, 61, 48)
    Image.fromarray(image).save(tmp_path / "a.png", compress_level=0)
    Image.fromarray(image).save(tmp_path / "b.webp", lossless=True, exact=True)
    assert fingerprint_files([tmp_path / "a.png", tmp_path / "b.webp"]) == [fingerprint_image(image)] * 2
    assert fingerprint_image(image[:, ::-1]) == fingerprint_image(image[:, ::-1].copy())
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    changed = image.copy()
    changed[3, 5, 2] = 1
    assert len({fingerprint_image(pixels).pixels for pixels in (image, changed, image.reshape(6, 4, 3))}) == 3


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_files_keep_their_order_and_give_their_errors(tmp_path, threads):
    assert fingerprint_files([], threads) == []
    files = [tmp_path / f"{number}.png" for number in range(150)]
    for number, file in enumerate(files):
        Image.fromarray(make_smooth(number, 8, 9)).save(file)
    files[70].write_bytes(b"no image")
    files[149].unlink()
    fingerprints = fingerprint_files(files, threads)
    errors = {number: error for number, error in enumerate(fingerprints) if isinstance(error, DataError)}
    assert list(errors) == [70, 149]
    assert str(errors[70]).startswith(f"{files[70]}: not a known image format")
    for number in set(range(150)) - errors.keys():
        assert fingerprints[number] == fingerprint_image(make_smooth(number, 8, 9))

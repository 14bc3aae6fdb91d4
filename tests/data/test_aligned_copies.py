"""Alignment: copies as avatars undergo them are confirmed, variants of one template are not."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from avatar_bench.data import aligned_copies
from avatar_bench.data.aligned_copies import MAX_NEIGHBOURS, MIN_COSINE, Sketch, compute_residual, is_copy

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from aligned_copies import KINDS


def draw(seed, eyes=0, hair=0):
    """Draw a face on a patterned ground, with one of several eyes and hair styles."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(60, 200, (6, 6, 3), dtype=np.uint8))
    image = coarse.resize((160, 160), Image.Resampling.BICUBIC)
    brush = ImageDraw.Draw(image)
    for left, top, side, *colour in rng.integers(0, 256, (40, 6)).tolist():
        x, y, size = left * 160 // 256, top * 160 // 256, 4 + side // 20
        brush.rectangle((x, y, x + size, y + size), fill=tuple(colour))
    brush.ellipse((45, 40, 115, 130), fill=(230, 190, 160), outline=(40, 30, 30), width=2)
    for x in (65, 95):
        box = (x - 7, 72 - 5 * eyes, x + 7, 80 + 5 * eyes)
        brush.ellipse(box, fill=(20, 20, 60) if eyes else (250, 250, 250), outline=(0, 0, 0))
    brush.arc((65, 95, 95, 115), 0, 180, fill=(150, 20, 20), width=3)
    brush.chord((40, 25, 120, 85 + 20 * hair), 180, 360, fill=((60, 30, 10), (220, 180, 40))[hair])
    return image


def sketch(image):
    return Sketch.of(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_copy_is_confirmed(kind):
    for seed in range(4):
        copy = KINDS[kind](draw(seed), np.random.default_rng(seed))
        assert is_copy(sketch(draw(seed)), sketch(copy)), seed


@pytest.mark.parametrize("kind", ["cropped to 90 %", "turned by 3 degrees", "grey"])
def test_other_images_and_variants_of_the_same_template_are_no_copies(kind):
    for variant in [{"eyes": 1}, {"hair": 1}, {"eyes": 1, "hair": 1}]:
        for seed in range(4):
            other = KINDS[kind](draw(seed, **variant), np.random.default_rng(seed))
            assert not is_copy(sketch(draw(seed)), sketch(other)), seed
    empty = Image.new("RGB", (160, 160), (200, 100, 50))
    assert not any(is_copy(sketch(draw(seed)), sketch(draw(seed + 10))) for seed in range(8))
    assert not is_copy(sketch(empty), sketch(empty))
    assert not is_copy(sketch(draw(0)), sketch(Image.new("RGB", (1, 400))))


def test_the_residual_is_the_difference_of_the_worst_part_in_contrasts():
    """A patch of one part of sixteen pixels a side, in the centre, that no region leaves out."""
    image = cv2.GaussianBlur(np.asarray(draw(0).resize((128, 128))), (0, 0), 3)
    same, changed = Sketch.of(image), image.copy()
    changed[48:64, 48:64] = np.clip(changed[48:64, 48:64].astype(int) + 60, 0, 255)
    alignment = np.eye(2, 3)
    assert compute_residual(same, same, alignment) == pytest.approx(0, abs=1e-3)
    smooth = [cv2.GaussianBlur(blurred, (0, 0), 1.5).astype(float) for blurred in (image, changed)]
    part = (smooth[1] - smooth[0])[48:64, 48:64]
    expected = np.sqrt((part**2).mean()) / smooth[1].mean(axis=2).std()
    assert compute_residual(same, Sketch.of(changed), alignment) == pytest.approx(expected, rel=0.05)
    half = np.array([[1.0, 0, 70], [0, 1, 0]])
    assert compute_residual(same, same, half) == np.inf


def test_of_the_nearest_by_their_nearest_view_the_first_that_is_confirmed_is_the_original():
    rng = np.random.default_rng(0)
    left, right = (rng.normal(0.3, 1, (count, 2, 6)).astype(np.float32) for count in (40, 300))
    left, right = (sketch / np.linalg.norm(sketch, axis=2, keepdims=True) for sketch in (left, right))
    neighbours = aligned_copies.find_neighbours(left, right)
    for number in range(300):
        cosines = [max(float(ours[view] @ right[number, view]) for view in range(2)) for ours in left]
        expected = [row for row in np.argsort(-np.array(cosines), kind="stable") if cosines[row] >= MIN_COSINE]
        assert neighbours[number] == expected[:MAX_NEIGHBOURS]
    left = [np.asarray(draw(seed)) for seed in range(3)]
    right = [np.asarray(draw(seed).crop((8, 8, 152, 152))) for seed in (9, 1, 2)]
    matches = aligned_copies.find_aligned_copies(lambda row: left[row], lambda row: right[row], [[0, 1], [0, 1], []])
    assert [(match.left, match.right, match.kind) for match in matches] == [(1, 1, "aligned")]

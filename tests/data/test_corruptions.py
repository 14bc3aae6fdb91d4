"""Tests of avatar_bench.data.corruptions: pixels of severity 3 against independent code, and how severities grow."""

import colorsys
import io
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from avatar_bench.config.entries import use_folders
from avatar_bench.data import corruptions
from avatar_bench.data.corruptions import DELIVERY_TIERS, SEVERITIES, Corruption, Delivery, list_corruptions
from avatar_bench.errors import ConfigError
from tests.builders.pixels import encode, make_noise, make_smooth

KINDS = list_corruptions()


IMAGES = {"smooth": make_smooth(0, 96, 80, 30, 220), "flat": np.full((96, 96, 3), 255, np.uint8)}
IMAGES["flat"][20:70, 30:60] = (30, 90, 120)  # a drawing: plain patches on white
IMAGES["flat"][50:90, 50:80] = (110, 60, 40)
GRAIN = np.random.default_rng(1).normal(0, 25, (96, 80, 3))
IMAGES["grainy"] = np.clip(make_smooth(2, 96, 80, 30, 220) + GRAIN, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_each_severity_is_farther_from_the_clean_image_whose_size_it_keeps_and_which_stays_as_it_is(kind):
    for name in ["smooth", "grainy"]:
        corrupted = [Corruption(kind, severity)(IMAGES[name], seed=7).astype(float) for severity in SEVERITIES]
        distances = [np.abs(image - IMAGES[name]).mean() for image in corrupted]
        assert (np.diff([0, *distances]) > 0).all(), distances
    for sample in (make_noise(0, *shape) for shape in ((1, 1), (1, 300), (17, 41))):
        before = sample.copy()
        corrupted = Corruption(kind, 5)(sample, 0)
        assert (corrupted.shape, corrupted.dtype) == (sample.shape, np.uint8)
        assert np.array_equal(sample, before)


def test_noise_of_severity_3_is_gaussian_and_rotation_of_15_degrees_about_the_centre():
    residual = Corruption("noise", 3)(np.full((200, 200, 3), 128, np.uint8), seed=3).astype(float) - 128
    assert (residual.mean(), residual.std()) == pytest.approx((0, 15), abs=0.15)
    spread = residual + np.random.default_rng(0).uniform(-0.5, 0.5, residual.shape)  # undoes the rounding
    assert stats.kstest(spread.ravel() / 15, "norm").pvalue > 0.01
    assert np.abs(np.corrcoef(residual.reshape(-1, 3).T) - np.eye(3)).max() < 0.02
    sample = IMAGES["smooth"].astype(float)
    height, width, _ = sample.shape
    rows, columns = np.indices((height, width))
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    cosine, sine = np.cos(np.radians(15)), np.sin(np.radians(15))
    # rows grow downward: what stands at (x, y) came from the place that lies 15 degrees clockwise of it
    positions = [sine * x + cosine * y + (height - 1) / 2, cosine * x - sine * y + (width - 1) / 2]
    channels = [ndimage.map_coordinates(sample[..., k], positions, order=1, mode="mirror") for k in range(3)]
    expected = np.stack(channels, axis=-1)
    rotated = Corruption("rotation", 3)(IMAGES["smooth"], 0)
    assert np.abs(rotated - expected).mean() < 0.5
    assert np.abs(rotated - expected).max() <= 4  # OpenCV interpolates at steps of 1/32 pixel


@pytest.mark.parametrize("name", IMAGES)
def test_blur_brightness_and_jpeg_of_severity_3_are_those_of_independent_code(name):
    line = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    kernel = np.outer(line, line) / line.sum() ** 2
    expected = ndimage.convolve(IMAGES[name].astype(float), kernel[..., None], mode="mirror")
    assert np.abs(Corruption("blur", 3)(IMAGES[name], 0) - expected).max() <= 1.0
    sample = IMAGES[name][::5, ::5]
    expected = np.zeros(sample.shape)
    for position in np.ndindex(sample.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(sample[position] / 255))
        expected[position] = np.multiply(colorsys.hsv_to_rgb(hue, saturation, min(1.0, 1.5 * value)), 255)
    assert np.abs(Corruption("brightness", 3)(sample, 0) - expected).max() <= 0.5 + 1e-3
    options = [cv2.IMWRITE_JPEG_QUALITY, 30, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    _, data = cv2.imencode(".jpg", IMAGES[name][..., ::-1], options)
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    assert np.abs(Corruption("jpeg", 3)(IMAGES[name], 0) - expected).max() <= 2


def test_the_keys_of_cached_predictions_are_those_of_before(monkeypatch):
    keys = [Corruption(kind, 3).key.removesuffix(" at input") for kind in corruptions.STANDARD_CORRUPTIONS]
    assert keys == ["noise 15", "blur (5, 1.1)", "brightness 1.5", "rotation 15", "jpeg 30"]
    monkeypatch.setattr("avatar_bench.data.corruption_kinds.NoiseCorruption.PARAMETERS", (5, 10, 16, 25, 40))
    assert Corruption("noise", 3).key == "noise 16 at input"


BLOCKS = """
\"""Blocks of one colour, by their side in pixels.\"""
PARAMETERS = (2, 3, 4, 6, 8)

def corrupt(image, side, seed):
    return image[::side, ::side].repeat(side, 0).repeat(side, 1)[: image.shape[0], : image.shape[1]]
"""


@pytest.fixture
def user_module(tmp_path):
    """Folder with a corruption of a user, which is in use."""
    (tmp_path / "corruption").mkdir()
    (tmp_path / "corruption" / "blocks.py").write_text(BLOCKS)
    with use_folders([tmp_path]):
        yield tmp_path / "corruption" / "blocks.py"


def test_a_corruption_of_a_user_is_one_of_all_keyed_by_its_code_and_a_broken_one_is_one_clear_error(user_module):
    assert list_corruptions() == [*KINDS, "blocks"]
    sample, first = IMAGES["smooth"], Corruption("blocks", 3)
    assert np.array_equal(first(sample, 0)[::4, ::4], sample[::4, ::4])
    assert pickle.loads(pickle.dumps(first)) == first
    user_module.write_text(BLOCKS.replace("(2, 3, 4, 6, 8)", "(2, 3, 5, 6, 8)"))
    second = Corruption("blocks", 3)
    assert [key.rpartition(" ")[0] for key in (first.key, second.key)] == ["blocks 4 at input", "blocks 5 at input"]
    user_module.write_text(BLOCKS.replace("::side", "1::side"))
    assert Corruption("blocks", 3).key not in (first.key, second.key)
    assert not np.array_equal(Corruption("blocks", 3)(sample, 0), first(sample, 0))
    for text, reason in [
        ("PARAMETERS = (1, 2)", "Expected PARAMETERS, one for each of five severities"),
        (BLOCKS.replace("return image", "return 1 / 0 * image"), "failed: ZeroDivisionError"),
        (BLOCKS.replace(".repeat(side, 1)", ""), "for uint8"),
    ]:
        user_module.write_text(text)
        with pytest.raises(ConfigError, match="blocks") as error:
            Corruption("blocks", 3)(IMAGES["smooth"], 0)
        assert reason in "\n".join(error.value.lines)
        assert len(error.value.lines) <= 3


def test_a_tier_is_what_pillow_encodes_after_making_it_no_larger():
    small, large = make_smooth(0, 60, 45), np.zeros((20_000, 200, 3), np.uint8)
    for tier, longest, kind, options in (
        ("web", 768, "JPEG", {"quality": 60, "subsampling": 2}),
        ("hard", 512, "JPEG", {"quality": 40, "subsampling": 2}),
        ("thumbnail_64", 64, "JPEG", {"quality": 85, "subsampling": 2}),
        ("thumbnail_128", 128, "JPEG", {"quality": 85, "subsampling": 2}),
        ("webp", 16_383, "WEBP", {"quality": 75}),  # the longest that the format holds
        ("avif", 768, "AVIF", {"quality": 50, "speed": 9}),
    ):
        reference = Image.open(io.BytesIO(encode(small, kind, **options)))
        assert np.array_equal(Delivery(tier)(small, 0), np.asarray(reference.convert("RGB")))
        assert Delivery(tier)(large, 0).shape == (longest, round(longest / 100), 3)


def test_every_tier_takes_any_shape_and_avif_is_shown_as_png_by_a_pillow_that_writes_it(monkeypatch):
    for shape in [(1, 1), (1, 300)]:
        for tier in DELIVERY_TIERS:
            delivered = Delivery(tier)(np.full((*shape, 3), 90, np.uint8), 0)
            assert (delivered.dtype, delivered.ndim) == (np.uint8, 3)
            assert min(delivered.shape) >= 1
            assert np.abs(delivered.astype(float) - 90).max() <= 2
    content, kind = Delivery("avif").encode(IMAGES["smooth"], 0)
    assert kind == "PNG"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), Delivery("avif")(IMAGES["smooth"], 0))
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(ConfigError, match="delivery=avif: this installation of Pillow cannot write AVIF"):
        Delivery("avif")

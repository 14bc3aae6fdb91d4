"""Properties of image files: against Pillow, scipy and numpy, and at their edges."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage, stats

from avatar_bench.audit import properties
from avatar_bench.audit.evidence_rules import EVIDENCE_SAYS
from avatar_bench.audit.file_metadata import HINTS
from avatar_bench.audit.properties import APPEARANCE, COLOUR, METADATA, RESIDUAL, find_outliers, measure
from avatar_bench.errors import DataError
from tests.builders.pixels import encode, make_noise
from tests.data.image_writers import png

PROPERTY_COLUMNS = (*METADATA, *APPEARANCE, *COLOUR, *RESIDUAL, *HINTS, EVIDENCE_SAYS)
AVATARS = Path(__file__).parents[3] / "shared" / "data"


def test_jpeg_quality_is_exact_for_libjpeg_and_that_of_the_nearest_for_others():
    for mode in ["RGB", "L"]:
        image = Image.fromarray(make_noise(0, 8, 8)).convert(mode)
        measured = [measure(encode(image, "JPEG", quality=quality))["jpeg_quality"] for quality in range(1, 101)]
        assert measured == list(range(1, 101))
    with Image.open(io.BytesIO(encode(make_noise(), "JPEG", quality=70))) as image:
        tables = {number: [value + value // 16 for value in table] for number, table in image.quantization.items()}
    assert measure(encode(make_noise(), "JPEG", qtables=tables))["jpeg_quality"] in (68, 69)


def as_mode(mode):
    return Image.fromarray(make_noise()).convert(mode)


def test_what_the_file_says_is_read_off_it():
    turned, pair = Image.Exif(), {"save_all": True, "append_images": [as_mode("RGB").rotate(9)]}
    turned[274] = 6
    kinds, ways = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"), ("4:4:4", "4:2:2", "4:2:0")
    plain, foreign = {"exif": False, "icc": False}, {"jpeg_quality": -1, "subsampling": ""}
    for data, expected in (
        *((encode(as_mode("RGB"), kind), {"format": kind, **foreign}) for kind in kinds),
        *((encode(as_mode("RGB"), "JPEG", subsampling=way), {"subsampling": way}) for way in ways),
        (encode(as_mode("RGB"), "JPEG"), {"mode": "RGB", "progressive": False}),
        (encode(as_mode("L"), "JPEG"), {"mode": "L", "subsampling": "grey"}),
        (encode(as_mode("CMYK"), "JPEG"), {"mode": "CMYK"}),
        *((encode(as_mode(mode)), {"mode": mode, **plain}) for mode in ("P", "RGBA", "LA")),
        (encode(make_noise(), icc_profile=b"a profile", exif=Image.Exif()), {"icc": True}),
        # the upright image
        (encode(make_noise(0, 20, 40), "JPEG", exif=turned), {"width": 20, "height": 40, "aspect": 0.5, "exif": True}),
        (encode(as_mode("RGB"), "MPO", **pair), {"format": "JPEG"}),
        (encode(as_mode("RGB"), "JPEG", progressive=True), {"progressive": True}),
        (png(make_noise(0, 8, 8), 8, 2, interlaced=True), {"progressive": True}),
    ):
        measured = measure(data)
        assert {name: measured[name] for name in expected} == expected


def test_appearance_and_colour_equal_plain_definitions():
    pixels = make_noise(0, 96, 96)
    data = encode(pixels)
    measured = measure(data)
    image = Image.fromarray(pixels)
    luma = np.asarray(image.convert("L"), dtype=float)
    laplacian = ndimage.laplace(luma, mode="mirror")
    assert measured["bytes_per_pixel"] == len(data) / 96**2
    assert measured["grey"] == (np.ptp(pixels, axis=2) <= 8).mean()
    assert measured["brightness"] == pytest.approx(luma.mean() / 255, abs=2e-3)
    assert measured["contrast"] == pytest.approx(luma.std() / 255, abs=2e-3)
    assert measured["saturation"] == pytest.approx(np.asarray(image.convert("HSV"))[..., 1].mean() / 255, abs=5e-3)
    assert measured["sharpness"] == pytest.approx(np.log10(1 + laplacian.var()), abs=5e-3)
    pixels = make_noise(0, 40, 30)
    measured = measure(encode(pixels))
    expected = [np.histogram(pixels[..., channel], 16, (0, 256))[0] / 1200 for channel in range(3)]
    np.testing.assert_allclose([measured[name] for name in COLOUR], np.concatenate(expected), rtol=1e-6)
    assert len(COLOUR) == 48


def test_sharpness_and_blockiness_tell_blur_and_blocks_from_size_and_noise():
    smooth = ndimage.gaussian_filter(make_noise(0, 384, 384).astype(float), (6, 6, 0))
    large = Image.fromarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))
    small = large.resize((128, 128), Image.Resampling.BOX)
    soft = Image.fromarray(ndimage.gaussian_filter(np.asarray(large), (8, 8, 0)))
    sharpness = [float(measure(encode(image))["sharpness"]) for image in (large, small, soft)]
    assert abs(sharpness[0] - sharpness[1]) < 0.15
    assert sharpness[0] - sharpness[2] > 0.7
    tiles = make_noise(0, 70, 101).repeat(8, axis=0).repeat(8, axis=1)  # large enough to be cropped
    images = tiles, tiles[3:, 5:], make_noise(0, 80, 80)
    blockiness = [float(properties.measure_residual(image)["blockiness"]) for image in images]
    assert blockiness[0] > 1
    assert blockiness[1] < 0
    assert abs(blockiness[2]) < 0.05
    for u, v in [(0, 1), (3, 2), (7, 7)]:
        steps = (2 * np.arange(8) + 1) * np.pi / 16
        block = 128 + 100 * np.outer(np.cos(u * steps), np.cos(v * steps))
        image = np.tile(block.round().astype(np.uint8), (5, 6))[..., None].repeat(3, axis=2)
        residual = properties.measure_residual(image)
        energies = [residual[f"dct_{diagonal:02}"] for diagonal in range(1, 15)]
        assert int(np.argmax(energies)) + 1 == u + v


def test_residual_statistics_and_spectrum_equal_those_of_scipy_and_numpy():
    soft = ndimage.gaussian_filter(make_noise(0, 80, 64).astype(float), (1, 1, 0))
    pixels = np.clip(soft * 2 - 128, 0, 255).astype(np.uint8)
    measured = measure(encode(pixels))
    left = pixels - ndimage.median_filter(pixels, (3, 3, 1), mode="nearest").astype(float)
    flat = left.reshape(-1, 3)
    correlation = np.corrcoef(flat, rowvar=False)
    expected = [*np.log10(flat.var(axis=0)), *stats.kurtosis(flat), *correlation[np.triu_indices(3, 1)]]
    np.testing.assert_allclose([measured[name] for name in RESIDUAL[30:39]], expected, atol=2e-3)
    grey = make_noise(0, 64, 96)[..., 0]
    left = grey - ndimage.median_filter(grey, 3, mode="nearest").astype(float)
    window = np.outer(np.hanning(64), np.hanning(96))
    power = np.abs(np.fft.fft2(left * window)) ** 2 / (window**2).sum()
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(96), indexing="ij"))
    rings = [power[(radius >= band / 32) & (radius < (band + 1) / 32)].mean() for band in range(16)]
    residual = properties.measure_residual(grey[..., None].repeat(3, axis=2))
    # half of the plane is read, in which the pairs of its edge weigh double
    np.testing.assert_allclose([residual[name] for name in RESIDUAL[2:16]], np.log10(rings[2:]), atol=0.05)
    residual = properties.measure_residual(np.full((40, 40, 3), 90, np.uint8))
    kinds = ("kurtosis", "correlation", "neighbour", "block")
    assert {residual[name] for name in RESIDUAL if name.startswith(kinds)} == {0}
    assert [residual[name] for name in RESIDUAL[:16]] == pytest.approx([-3] * 16)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (31, 33), (700, 20)])
@pytest.mark.parametrize("flat", [True, False])
def test_every_value_is_finite_whatever_the_size(size, flat):
    measured = measure(encode(np.full((*size, 3), 7, np.uint8) if flat else make_noise(0, *size)))
    assert tuple(measured) == PROPERTY_COLUMNS
    assert all(np.isfinite(measured[name]) for name in (*APPEARANCE, *COLOUR, *RESIDUAL))
    assert {type(value) for value in measured.values()} <= {int, float, str, bool}
    assert len(RESIDUAL) == 43
    assert set(METADATA) < set(measured)


def test_outliers_and_files_that_are_no_images_are_named_and_ordinary_images_are_not():
    face = np.full((100, 100, 3), 255, np.uint8)
    face[30:70, 30:70] = 200  # a flat and pale drawing
    soft = ndimage.gaussian_filter(make_noise(0, 100, 100).astype(float), (6, 6, 0))
    soft = np.interp(soft, (soft.min(), soft.max()), (0, 255)).astype(np.uint8)
    tiny, wide, tall = (make_noise(0, *sides) for sides in ((40, 90), (60, 200), (200, 60)))
    images = [face, make_noise(), tiny, np.full((90, 90, 3), 250, np.uint8), wide, tall, soft]
    frame = pd.DataFrame([measure(encode(image)) for image in images], index=list("abcdefg"))
    expected = ["", "", "tiny", "blank", "extreme aspect", "extreme aspect", "blurred"]
    assert find_outliers(frame).to_dict() == dict(zip("abcdefg", expected, strict=True))
    assert find_outliers(pd.DataFrame(columns=list(PROPERTY_COLUMNS))).empty
    with pytest.raises(DataError, match=r"^a\.png: "):
        measure(b"not an image", "a.png")


@pytest.mark.shared
@pytest.mark.skipif(not AVATARS.exists(), reason=f"{AVATARS} is missing")
def test_no_real_avatar_is_called_an_outlier():
    table = pd.read_csv(AVATARS / "avatars.csv")
    frame = pd.DataFrame([measure((AVATARS / path).read_bytes()) for path in table["path"][::20]])
    assert set(find_outliers(frame)) == {""}
    assert frame.groupby(table["label"][::20].to_numpy())["jpeg_quality"].nunique().eq(1).all()

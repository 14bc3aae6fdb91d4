"""Properties of image files: against Pillow, scipy and numpy, and at their edges."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from avatar_bench.audit import properties
from avatar_bench.audit.evidence_rules import EVIDENCE_SAYS
from avatar_bench.audit.file_metadata import HINTS
from avatar_bench.audit.properties import APPEARANCE, COLOUR, METADATA, RESIDUAL, find_outliers, measure
from avatar_bench.errors import DataError

PROPERTY_COLUMNS = (*METADATA, *APPEARANCE, *COLOUR, *RESIDUAL, *HINTS, EVIDENCE_SAYS)
AVATARS = Path(__file__).parents[3] / "shared" / "data"


def noise(height: int = 64, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(pixels: NDArray[np.uint8] | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_quality_is_exact_for_every_quality_of_libjpeg(mode: str) -> None:
    image = Image.fromarray(noise(8, 8)).convert(mode)
    found = [measure(saved(image, "JPEG", quality=quality))["jpeg_quality"] for quality in range(1, 101)]
    assert found == list(range(1, 101))


def test_jpeg_quality_of_foreign_tables_is_that_of_the_nearest() -> None:
    with Image.open(io.BytesIO(saved(noise(), "JPEG", quality=70))) as image:
        tables = {number: [value + value // 16 for value in table] for number, table in image.quantization.items()}
    assert measure(saved(noise(), "JPEG", qtables=tables))["jpeg_quality"] in (68, 69)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_what_is_no_jpeg_has_neither_quality_nor_subsampling(kind: str) -> None:
    found = measure(saved(noise(), kind))
    assert (found["format"], found["jpeg_quality"], found["subsampling"]) == (kind, -1, "")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_subsampling_is_that_of_the_encoder(subsampling: str) -> None:
    assert measure(saved(noise(), "JPEG", subsampling=subsampling))["subsampling"] == subsampling


def test_a_jpeg_of_one_channel_is_grey() -> None:
    assert measure(saved(Image.fromarray(noise()).convert("L"), "JPEG"))["subsampling"] == "grey"


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")]
)
def test_mode_is_that_of_the_stored_samples(mode: str, kind: str) -> None:
    assert measure(saved(Image.fromarray(noise()).convert(mode), kind))["mode"] == mode


def test_size_and_aspect_are_those_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[274] = 6
    found = measure(saved(noise(20, 40), "JPEG", exif=exif))
    assert (found["width"], found["height"], found["aspect"], found["exif"]) == (20, 40, 0.5, True)


def test_a_jpeg_of_several_images_is_a_jpeg() -> None:
    data = saved(Image.fromarray(noise()), "MPO", save_all=True, append_images=[Image.fromarray(noise(seed=1))])
    assert measure(data)["format"] == "JPEG"


def test_colour_profiles_and_exif_are_found_only_where_present() -> None:
    plain, full = measure(saved(noise())), measure(saved(noise(), icc_profile=b"a profile", exif=Image.Exif()))
    assert (plain["exif"], plain["icc"], full["icc"]) == (False, False, True)


def test_progressive_and_interlaced_files_are_found() -> None:
    png = bytearray(saved(noise(1, 1)))
    png[28] = 1  # of one pixel, the interlaced data are the same
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    found = [measure(data)["progressive"] for data in (saved(noise(), "JPEG", progressive=True), bytes(png))]
    assert found == [True, True]
    assert not measure(saved(noise(), "JPEG"))["progressive"]


def test_appearance_equals_plain_definitions() -> None:
    pixels = noise(96, 96)
    data = saved(pixels)
    found = measure(data)
    image = Image.fromarray(pixels)
    luma = np.asarray(image.convert("L"), dtype=float)
    laplacian = ndimage.laplace(luma, mode="mirror")
    assert found["bytes_per_pixel"] == len(data) / 96**2
    assert found["grey"] == (np.ptp(pixels, axis=2) <= 8).mean()
    assert found["brightness"] == pytest.approx(luma.mean() / 255, abs=2e-3)
    assert found["contrast"] == pytest.approx(luma.std() / 255, abs=2e-3)
    assert found["saturation"] == pytest.approx(np.asarray(image.convert("HSV"))[..., 1].mean() / 255, abs=5e-3)
    assert found["sharpness"] == pytest.approx(np.log10(1 + laplacian.var()), abs=5e-3)


def test_appearance_of_plain_images_is_what_anyone_would_say() -> None:
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    both = pd.DataFrame([measure(saved(halves)), measure(saved(red))])
    assert both["grey"].tolist() == [1, 0]
    assert both["saturation"].tolist() == [0, 1]
    assert both[["brightness", "contrast"]].iloc[0].tolist() == pytest.approx([0.5, 0.5])
    assert both[["contrast", "sharpness"]].iloc[1].tolist() == [0, 0]


def test_sharpness_falls_with_blur_and_hardly_with_size() -> None:
    smooth = ndimage.gaussian_filter(noise(384, 384).astype(float), (6, 6, 0))
    large = Image.fromarray(np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8))
    small = large.resize((128, 128), Image.Resampling.BOX)
    soft = Image.fromarray(ndimage.gaussian_filter(np.asarray(large), (8, 8, 0)))
    sharpness = [float(measure(saved(image))["sharpness"]) for image in (large, small, soft)]
    assert abs(sharpness[0] - sharpness[1]) < 0.15
    assert sharpness[0] - sharpness[2] > 0.7


def test_colour_is_the_histogram_of_each_channel() -> None:
    pixels = noise(40, 30)
    found = measure(saved(pixels))
    expected = [np.histogram(pixels[..., channel], 16, (0, 256))[0] / 1200 for channel in range(3)]
    np.testing.assert_allclose([found[name] for name in COLOUR], np.concatenate(expected), rtol=1e-6)
    assert len(COLOUR) == 48


def test_residual_statistics_equal_those_of_scipy() -> None:
    pixels = np.clip(ndimage.gaussian_filter(noise(80, 64).astype(float), (1, 1, 0)) * 2 - 128, 0, 255).astype(np.uint8)
    found = measure(saved(pixels))
    left = pixels - ndimage.median_filter(pixels, (3, 3, 1), mode="nearest").astype(float)
    flat = left.reshape(-1, 3)
    correlation = np.corrcoef(flat, rowvar=False)
    expected = [*np.log10(flat.var(axis=0)), *stats.kurtosis(flat), *correlation[np.triu_indices(3, 1)]]
    np.testing.assert_allclose([found[name] for name in RESIDUAL[30:39]], expected, atol=2e-3)


def test_the_spectrum_falls_for_smooth_noise_alone() -> None:
    white = np.random.default_rng(0).normal(128, 20, (128, 128, 1)).repeat(3, axis=2)
    smooth = (ndimage.gaussian_filter(white, (1, 1, 0)) - 128) * 3 + 128
    falls = []
    for image in (white, smooth):
        residual = properties.measure_residual(image.astype(np.uint8))
        falls.append(float(residual["spectrum_08"]) - float(residual["spectrum_15"]))
    assert falls[0] < 0 < 0.5 < falls[1]


def test_the_spectrum_is_the_mean_power_of_rings() -> None:
    grey = noise(64, 96)[..., 0]
    left = grey - ndimage.median_filter(grey, 3, mode="nearest").astype(float)
    window = np.outer(np.hanning(64), np.hanning(96))
    power = np.abs(np.fft.fft2(left * window)) ** 2 / (window**2).sum()
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(96), indexing="ij"))
    rings = [power[(radius >= band / 32) & (radius < (band + 1) / 32)].mean() for band in range(16)]
    residual = properties.measure_residual(grey[..., None].repeat(3, axis=2))
    # half of the plane is read, in which the pairs of its edge weigh double
    np.testing.assert_allclose([residual[name] for name in RESIDUAL[2:16]], np.log10(rings[2:]), atol=0.05)


@pytest.mark.parametrize(("u", "v"), [(0, 1), (3, 2), (7, 7)])
def test_the_energy_of_one_dct_coefficient_lies_on_its_diagonal(u: int, v: int) -> None:
    steps = (2 * np.arange(8) + 1) * np.pi / 16
    block = 128 + 100 * np.outer(np.cos(u * steps), np.cos(v * steps))
    image = np.tile(block.round().astype(np.uint8), (5, 6))[..., None].repeat(3, axis=2)
    residual = properties.measure_residual(image)
    energies = [residual[f"dct_{diagonal:02}"] for diagonal in range(1, 15)]
    assert int(np.argmax(energies)) + 1 == u + v


def test_blockiness_tells_blocks_of_eight_from_noise() -> None:
    tiles = noise(10, 10).repeat(8, axis=0).repeat(8, axis=1)
    assert float(properties.measure_residual(tiles)["blockiness"]) > 1
    assert abs(float(properties.measure_residual(noise(80, 80))["blockiness"])) < 0.05


def test_blocks_are_found_in_the_crop_of_a_large_image() -> None:
    tiles = noise(70, 101).repeat(8, axis=0).repeat(8, axis=1)
    assert (
        float(properties.measure_residual(tiles[3:, 5:])["blockiness"])
        < 0
        < float(properties.measure_residual(tiles)["blockiness"])
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (31, 33), (700, 20)])
@pytest.mark.parametrize("flat", [True, False])
def test_every_value_is_finite_whatever_the_size(size: tuple[int, int], flat: bool) -> None:
    found = measure(saved(np.full((*size, 3), 7, np.uint8) if flat else noise(*size)))
    assert tuple(found) == PROPERTY_COLUMNS
    assert all(np.isfinite(found[name]) for name in (*APPEARANCE, *COLOUR, *RESIDUAL))
    assert {type(value) for value in found.values()} <= {int, float, str, bool}
    assert len(RESIDUAL) == 43
    assert set(METADATA) < set(found)


def test_a_flat_image_has_no_noise() -> None:
    residual = properties.measure_residual(np.full((40, 40, 3), 90, np.uint8))
    assert {
        residual[name] for name in RESIDUAL if name.startswith(("kurtosis", "correlation", "neighbour", "block"))
    } == {0}
    assert [residual[name] for name in RESIDUAL[:16]] == pytest.approx([-3] * 16)


def test_a_file_that_is_no_image_is_named() -> None:
    with pytest.raises(DataError, match=r"^a\.png: "):
        measure(b"not an image", "a.png")


def test_every_property_has_its_column() -> None:
    assert tuple(measure(saved(noise()))) == PROPERTY_COLUMNS


def test_no_files_have_no_outliers() -> None:
    assert find_outliers(pd.DataFrame(columns=list(PROPERTY_COLUMNS))).empty


def test_outliers_are_named_and_ordinary_images_are_not() -> None:
    face = np.full((100, 100, 3), 255, np.uint8)
    face[30:70, 30:70] = 200  # a flat and pale drawing
    soft = ndimage.gaussian_filter(noise(100, 100).astype(float), (6, 6, 0))
    soft = np.interp(soft, (soft.min(), soft.max()), (0, 255)).astype(np.uint8)
    images = [face, noise(), noise(40, 90), np.full((90, 90, 3), 250, np.uint8), noise(60, 200), noise(200, 60), soft]
    frame = pd.DataFrame([measure(saved(image)) for image in images], index=list("abcdefg"))
    expected = ["", "", "tiny", "blank", "extreme aspect", "extreme aspect", "blurred"]
    assert find_outliers(frame).to_dict() == dict(zip("abcdefg", expected, strict=True))


@pytest.mark.shared
@pytest.mark.skipif(not AVATARS.exists(), reason=f"{AVATARS} is missing")
def test_no_real_avatar_is_called_an_outlier() -> None:
    table = pd.read_csv(AVATARS / "avatars.csv")
    frame = pd.DataFrame([measure((AVATARS / path).read_bytes()) for path in table["path"][::20]])
    assert set(find_outliers(frame)) == {""}
    assert frame.groupby(table["label"][::20].to_numpy())["jpeg_quality"].nunique().eq(1).all()

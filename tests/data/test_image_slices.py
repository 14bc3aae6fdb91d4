"""Tests of the slices that a data set is cut into."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data import image_slices
from avatar_bench.data.dataset import read_dataset, read_split, write_split
from avatar_bench.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    """Images of known size, format and quality, and a manifest that says no more than their class."""
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), np.uint8)
    kinds = {"small.jpg": (100, 90, 40), "middle.jpg": (200, 128, 75), "large.jpg": (512, 600, 94)}
    kinds |= {"finest.jpeg": (1024, 1030, 100), "plain.png": (300, 256, 75), "web.webp": (255, 400, 75)}
    for name, (width, height, quality) in kinds.items():
        Image.fromarray(pixels[:height, :width]).save(tmp_path / name, quality=quality)
    rows = pd.DataFrame({"path": list(kinds), "label": "real", "source": "camera", "generator": ""})
    rows.to_csv(tmp_path / "images.csv", index=False)
    return tmp_path


def test_what_the_manifest_says_is_believed_and_the_rest_read_from_the_files(folder):
    slices = image_slices.assign_slices(read_dataset(folder / "images.csv"))
    assert list(slices.columns) == list(image_slices.SLICE_COLUMNS)
    sizes = ["< 128 px", "128-255 px", "512-1023 px", "≥ 1024 px", "256-511 px", "128-255 px"]
    assert (slices["size"].tolist(), slices["format"].tolist()) == (sizes, ["JPEG"] * 4 + ["PNG", "WEBP"])
    assert slices["jpeg_quality"].tolist() == ["< 50", "75-84", "90-94", "≥ 95", "", ""]
    assert slices["source"].eq("camera").all()
    assert slices["generator"].eq("").all()
    stored = {"width": "64", "height": "2000", "format": "JPEG", "jpeg_quality": "88", "generator": "gan"}
    dataset = read_dataset(folder / "images.csv")
    stated = type(dataset)("told", folder / "nowhere", dataset.frame.assign(**stored))
    slices = image_slices.assign_slices(stated)
    assert slices.iloc[0].tolist() == ["camera", "gan", "< 128 px", "JPEG", "85-89"]
    assert len(slices.drop_duplicates()) == 1
    names = image_slices.name_ranges([0, 9, 10, 19, 20, 999], (10, 20))
    assert names.tolist() == ["< 10", "< 10", "10-19", "10-19", "≥ 20", "≥ 20"]


@pytest.fixture
def people(tmp_path):
    """Forty images with columns of their own: words, many numbers, few numbers, and a name that the package uses."""
    rows = []
    for i in range(40):
        Image.new("RGB", (8, 8), (6 * i, 0, 0)).save(tmp_path / f"{i}.png")
        age = "" if i == 7 else str(18 + i)
        rows.append((f"{i}.png", "ab"[i % 2], ("dark", " light ", "")[i % 3], age, i % 4, f"p{i}", "x"))
    columns = ["path", "label", "skin_tone", "age", "many", "place", "place"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def test_columns_of_the_manifest_are_slices_in_a_run_too_and_a_missing_one_is_named(people, tmp_path):
    dataset = read_dataset(people)
    write_split(dataset, tmp_path / "split.csv")
    for images in (dataset, read_split(tmp_path / "split.csv", tmp_path)):
        slices = image_slices.assign_columns(images, ["skin_tone", "age", "many", "format"], "slices")
        assert slices["skin_tone"].tolist()[:4] == ["dark", "light", "", "dark"]
        assert (slices["many"].tolist()[:5], set(slices["format"])) == (["0", "1", "2", "3", "0"], {"PNG"})
        ages = np.delete(np.arange(18, 58), 7)
        quarters = pd.Series(pd.qcut(ages, 4, labels=False))
        expected = [f"{low}-{high}" for low, high in pd.Series(ages).groupby(quarters).agg(["min", "max"]).to_numpy()]
        assert slices.loc[7, "age"] == ""
        assert slices["age"].drop(7).tolist() == [expected[quarter] for quarter in quarters]
    with pytest.raises(ConfigError) as error:
        image_slices.assign_columns(read_dataset(people), ["age", "gender"], "block.error_bias.slices")
    assert error.value.lines == (
        "block.error_bias.slices: people has no column gender.",
        "Expected some of source, generator, size, format, jpeg_quality, date, released, skin_tone, age, many, place.",
    )

"""Tests of the files of a data set."""

import pandas as pd
import pytest

from avatar_bench.sources import dataset_files
from avatar_bench.sources.curation import DUPLICATE_COLUMNS, CurationResult
from avatar_bench.sources.dataset_files import MANIFEST_COLUMNS, has_all_images, read_recipe, read_sides, write_tables

SOURCES = {"a": {"licence": "CC0", "author": "me", "generator": "", "homepage": "about:blank"}}


@pytest.fixture
def curated():
    row = dict.fromkeys(MANIFEST_COLUMNS[:-1], "") | {"label": "real", "source": "s", "recipe_source": "a"}
    rows = [
        row | {"path": f"{n}.png", "origin": f"{n}, «n».png", "blind": n > 1, "origin_sha256": f"{n}", "phash": "0f"}
        for n in range(4)
    ]
    rows[0] |= {"split": "test", "fold": "0"}
    rows[1] |= {"split": "train", "label": "drawing"}
    rows[3] |= {"label": "thing", "source": "t", "ood": "things"}
    rows = [{"ood": ""} | row | {"stated_group": f"{row['source']}:{row['origin']}"} for row in rows]
    rows[1] |= {"stated_group": "s:anna"}
    pairs = pd.DataFrame([["x"] * len(DUPLICATE_COLUMNS)] * 3, columns=list(DUPLICATE_COLUMNS))
    pairs = pairs.assign(kind=["bytes", "pixels", "near"], conflict=[False, True, False])
    return CurationResult(pd.DataFrame(rows), [("a: broken.png", "empty file.")], pairs)


def test_tables_are_read_back_counted_in_a_summary_and_describe_sources_by_class_and_side(curated, tmp_path):
    (tmp_path / "ood_gone.csv").write_text("path\n")  # of an earlier recipe
    write_tables(tmp_path, SOURCES, curated, {"gone": ("val", 1)})
    assert tuple(pd.read_csv(tmp_path / "manifest.csv").columns) == MANIFEST_COLUMNS
    assert list(pd.read_csv(tmp_path / "manifest.csv", dtype=str)["phash"]) == ["0f", "0f"]
    sides = {"0": ("test", 0), "1": ("train", -1), "2": ("blind", -1), "3": ("blind", -1), "gone": ("val", 1)}
    sides["group s:anna"] = ("train", -1)
    assert read_sides(tmp_path) == sides
    assert not list(tmp_path.rglob("*.part"))
    assert list(dataset_files.list_ood_files(tmp_path)) == ["things"]
    assert list(pd.read_csv(tmp_path / "ood_things.csv")["path"]) == ["3.png"]
    for number in range(4):
        assert not has_all_images(tmp_path)
        (tmp_path / f"{number}.png").touch()
    assert has_all_images(tmp_path)
    summary = "1 drawing, 1 real; blind set: 1 real; out of domain: 1 things; 1 in quarantine; exact copies left out: 1"
    assert str(dataset_files.summarise_dataset(tmp_path, built=True)) == f"wrote {tmp_path}: {summary}"
    assert str(dataset_files.summarise_dataset(tmp_path, built=False)).startswith("already complete")
    table = pd.read_csv(tmp_path / "sources.csv", keep_default_na=False)
    assert table[["source", "label", "count", "licence", "blind", "ood"]].values.tolist() == [
        ["s", "drawing", 1, "CC0", False, ""],
        ["s", "real", 1, "CC0", False, ""],
        ["s", "real", 1, "CC0", True, ""],
        ["t", "thing", 1, "CC0", False, "things"],
    ]


def test_a_folder_without_a_manifest_has_no_sides_and_a_recipe_that_cannot_be_read_is_none(tmp_path):
    assert read_sides(tmp_path) == {}
    assert read_recipe(tmp_path) is None
    for text in ("", "{", "[]", "nonsense"):
        (tmp_path / "recipe.json").write_text(text)
        assert not read_recipe(tmp_path)
        (tmp_path / "recipe.json").write_text('{"version": 1}')
        assert read_recipe(tmp_path) == {"version": 1}

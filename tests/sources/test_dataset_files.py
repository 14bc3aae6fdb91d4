"""Tests of the files of a data set."""

import pandas as pd
import pytest

from avatar_bench.sources.curation import DUPLICATE_COLUMNS, CurationResult
from avatar_bench.sources.dataset_files import (
    MANIFEST_COLUMNS,
    has_all_images,
    list_ood_files,
    read_recipe,
    read_sides,
    summarise_dataset,
    write_tables,
)

SOURCES = {"a": {"licence": "CC0", "author": "me", "generator": "", "homepage": "about:blank"}}


@pytest.fixture
def curated():
    row = dict.fromkeys(MANIFEST_COLUMNS[:-1], "") | {
        "label": "real",
        "source": "s",
        "recipe_source": "a",
        "phash": "0f",
    }
    rows = [
        row | {"path": f"{n}.png", "origin": f"{n}, «n».png", "blind": n > 1, "origin_sha256": f"{n}"} for n in range(4)
    ]
    rows[3] |= {"label": "thing", "source": "t"}
    rows = [row | {"ood": "things" if row["label"] == "thing" else ""} for row in rows]
    rows[0] |= {"split": "test", "fold": "0"}
    rows[1] |= {"split": "train", "label": "drawing"}
    rows = [row | {"stated_group": f"{row['source']}:{row['origin']}"} for row in rows]
    rows[1] |= {"stated_group": "s:anna"}
    pairs = pd.DataFrame([["x"] * len(DUPLICATE_COLUMNS)] * 3, columns=list(DUPLICATE_COLUMNS))
    pairs = pairs.assign(kind=["bytes", "pixels", "near"], conflict=[False, True, False])
    return CurationResult(pd.DataFrame(rows), [("a: broken.png", "empty file.")], pairs)


def test_what_is_written_is_read_back(curated, tmp_path):
    write_tables(tmp_path, SOURCES, curated, {"gone": ("val", 1)})
    assert tuple(pd.read_csv(tmp_path / "manifest.csv").columns) == MANIFEST_COLUMNS
    assert list(pd.read_csv(tmp_path / "manifest.csv", dtype=str)["phash"]) == ["0f", "0f"]
    sides = {"0": ("test", 0), "1": ("train", -1), "2": ("blind", -1), "3": ("blind", -1), "gone": ("val", 1)}
    sides["group s:anna"] = ("train", -1)
    assert read_sides(tmp_path) == sides
    assert not list(tmp_path.rglob("*.part"))
    assert not has_all_images(tmp_path)
    assert list(pd.read_csv(tmp_path / "ood_things.csv")["path"]) == ["3.png"]
    for number in range(4):
        assert not has_all_images(tmp_path)
        (tmp_path / f"{number}.png").touch()
    assert has_all_images(tmp_path)


def test_a_summary_counts_the_files(curated, tmp_path):
    write_tables(tmp_path, SOURCES, curated, {"gone": ("val", 1)})
    summary = "1 drawing, 1 real; blind set: 1 real; out of domain: 1 things; 1 in quarantine; exact copies left out: 1"
    assert str(summarise_dataset(tmp_path, built=True)) == f"wrote {tmp_path}: {summary}"
    assert str(summarise_dataset(tmp_path, built=False)).startswith("already complete")


def test_sources_are_described_by_class_and_side(curated, tmp_path):
    write_tables(tmp_path, SOURCES, curated, {"gone": ("val", 1)})
    table = pd.read_csv(tmp_path / "sources.csv", keep_default_na=False)
    assert table[["source", "label", "count", "licence", "blind", "ood"]].values.tolist() == [
        ["s", "drawing", 1, "CC0", False, ""],
        ["s", "real", 1, "CC0", False, ""],
        ["s", "real", 1, "CC0", True, ""],
        ["t", "thing", 1, "CC0", False, "things"],
    ]


def test_the_sets_of_an_earlier_recipe_go(curated, tmp_path):
    (tmp_path / "ood_gone.csv").write_text("path\n")
    write_tables(tmp_path, SOURCES, curated, {})
    assert list(list_ood_files(tmp_path)) == ["things"]


@pytest.mark.parametrize("text", ["", "{", "[]", "nonsense"])
def test_a_recipe_that_cannot_be_read_is_none(text, tmp_path):
    assert read_recipe(tmp_path) is None
    (tmp_path / "recipe.json").write_text(text)
    assert not read_recipe(tmp_path)
    (tmp_path / "recipe.json").write_text('{"version": 1}')
    assert read_recipe(tmp_path) == {"version": 1}


def test_a_folder_without_a_manifest_has_no_sides(tmp_path):
    assert read_sides(tmp_path) == {}

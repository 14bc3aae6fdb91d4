"""Tests of tables as CSV or Parquet."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from avatar_bench.files import table_io
from avatar_bench.files.table_io import find_table, read_table, use_table_format, write_table


@pytest.fixture
def images():
    """Return a table of images with names that are no numbers, formulas, missing values and a mixed column."""
    return pd.DataFrame(
        {
            "path": ["a/1.png", "=b/2.png", "c 3.png"],
            "label": ["1", "NA", ""],
            "score": [0.1 + 0.2, np.nan, 1e-17],
            "right": [True, False, True],
            "mixed": [1, "x", None],
        }
    )


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read_as_it_was_written(images, tmp_path, kind):
    with use_table_format(kind):
        place = write_table(images, tmp_path / "images.csv", float_format="%.17g")
    assert place == find_table(tmp_path / "images.csv") == tmp_path / f"images.{kind}"
    found = read_table(tmp_path / "images.csv", texts=["path", "label", "mixed"])
    assert found["path"].tolist() == images["path"].tolist()
    assert found["label"].fillna("missing").tolist() == ["1", "NA", "missing"]
    assert found["mixed"].fillna("missing").tolist() == ["1", "x", "missing"]
    np.testing.assert_array_equal(found["score"], images["score"])
    assert found["right"].tolist() == [True, False, True]
    assert read_table(place, ["path"], rows=2)["path"].tolist() == ["a/1.png", "=b/2.png"]
    assert read_table(place, texts=None)[["label", "mixed"]].to_numpy().tolist() == [["1", "1"], ["NA", "x"], ["", ""]]


def test_a_table_replaces_that_of_the_other_format(images, tmp_path):
    for kind, other in (("parquet", "csv"), ("csv", "parquet"), ("parquet", "csv")):
        with use_table_format(kind):
            write_table(images, tmp_path / "images.csv")
        assert (tmp_path / f"images.{kind}").is_file()
        assert not (tmp_path / f"images.{other}").exists()


def test_many_images_are_written_as_parquet_and_other_tables_never_are(images, tmp_path, monkeypatch):
    monkeypatch.setattr(table_io, "MAX_CSV_ROWS", 2)
    counts = pd.DataFrame({"n": range(5)})
    assert write_table(images, tmp_path / "images.csv").suffix == ".parquet"
    assert write_table(images[:2], tmp_path / "images.csv").suffix == ".csv"
    with use_table_format("parquet"):
        assert write_table(counts, tmp_path / "counts.csv").suffix == ".csv"
    with use_table_format("csv"):
        assert write_table(images, tmp_path / "images.csv").suffix == ".csv"


def test_a_damaged_parquet_file_is_a_value_error(tmp_path):
    (tmp_path / "images.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="Parquet"):
        read_table(tmp_path / "images.csv")

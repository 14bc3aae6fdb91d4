"""Tables in CSV and Parquet, whose cells no spreadsheet runs, and each of which is read back as it was."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.files import table_io
from avatar_bench.files.table_io import escape_formulas, read_csv, read_table, use_table_format, write_table
from tests.conftest import draw


@pytest.fixture
def table():
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
def test_a_table_is_read_as_it_was_written(table, tmp_path, kind):
    with use_table_format(kind):
        file = write_table(table, tmp_path / "images.csv")
    assert file == table_io.find_table(tmp_path / "images.csv") == tmp_path / f"images.{kind}"
    printed = read_table(tmp_path / "images.csv", texts=["path", "label", "mixed"])
    assert printed["path"].tolist() == table["path"].tolist()
    assert printed["label"].fillna("missing").tolist() == ["1", "NA", "missing"]
    assert printed["mixed"].fillna("missing").tolist() == ["1", "x", "missing"]
    np.testing.assert_array_equal(printed["score"], table["score"])
    assert printed["right"].tolist() == [True, False, True]
    assert read_table(file, ["path"], rows=2)["path"].tolist() == ["a/1.png", "=b/2.png"]
    assert read_table(file, texts=None)[["label", "mixed"]].to_numpy().tolist() == [["1", "1"], ["NA", "x"], ["", ""]]


def test_tables_replace_those_of_the_other_format_and_damage_is_a_value_error(table, tmp_path, monkeypatch):
    for kind, other in (("parquet", "csv"), ("csv", "parquet"), ("parquet", "csv")):
        with use_table_format(kind):
            write_table(table, tmp_path / "images.csv")
        assert (tmp_path / f"images.{kind}").is_file()
        assert not (tmp_path / f"images.{other}").exists()
    monkeypatch.setattr(table_io, "MAX_CSV_ROWS", 2)
    counts = pd.DataFrame({"n": range(5)})
    assert write_table(table, tmp_path / "images.csv").suffix == ".parquet"
    assert write_table(table[:2], tmp_path / "images.csv").suffix == ".csv"
    with use_table_format("parquet"):
        assert write_table(counts, tmp_path / "counts.csv").suffix == ".csv"
    with use_table_format("csv"):
        assert write_table(table, tmp_path / "images.csv").suffix == ".csv"
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="Parquet"):
        read_table(tmp_path / "damaged.csv")


HOSTILE = (
    *("=1+1", '=HYPERLINK("http://x")', "+cmd|' /C calc'!A0", "-2+3+cmd"),
    *("@SUM(A1)", "\t=1", "\r=1", "\tx", "-folder/a.png"),
)
HARMLESS = ("", "a/b.png", "it's", "'quoted'", "-1", "-1.5e-3", "+7", "-", "a-b", "a;=b", "x=1", "кот")


def test_texts_that_a_spreadsheet_would_run_and_headers_get_an_apostrophe_and_are_read_back(tmp_path):
    texts = pd.Series([*HOSTILE, *HARMLESS, "=\udcff"], dtype=object)  # also a name that is not Unicode
    expected = [*(f"'{text}" for text in HOSTILE), *HARMLESS, "'=\udcff"]
    assert escape_formulas(texts.to_frame("a"))["a"].tolist() == expected
    frame = pd.DataFrame({"=n": [-1, 2], "prob_=x": [-0.5, np.nan], "mixed": [-3, "=1"]})
    escaped = escape_formulas(frame)
    assert (list(escaped), escaped["'=n"].tolist()) == (["'=n", "prob_=x", "mixed"], [-1, 2])
    assert escaped["prob_=x"].dtype == float
    assert escaped["mixed"].tolist() == [-3, "'=1"]
    assert (list(frame), frame["mixed"].tolist()) == (["=n", "prob_=x", "mixed"], [-3, "=1"])  # it is left alone
    twice = pd.DataFrame([["=1", "=2"]], columns=["a", "a"])
    assert escape_formulas(twice).to_numpy().tolist() == [["'=1", "'=2"]]
    frame = pd.DataFrame({"path": list(HOSTILE), "=n": range(len(HOSTILE))})
    table_io.write_csv(frame, tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv")["path"].str.startswith("./").all()  # the same files, to other programs too
    assert read_csv(io.StringIO("path\n'@old.jpg\n"))["path"].tolist() == ["@old.jpg"]  # of an earlier version
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv"), frame)


@given(st.lists(st.one_of(st.text("'\"=+-@./;\t\r\n 1ae.＝", max_size=8), st.text(max_size=12)), max_size=5))
def test_what_was_neutralised_is_read_back(texts):
    frame = pd.DataFrame({"a": pd.Series(texts, dtype=object), "path": pd.Series(texts, dtype=object)})
    for column in table_io.unescape_formulas(escape_formulas(frame)).to_dict("list").values():
        assert column == texts


HOSTILE_CLASSES = ("=cmd", "@photo", "+drawn")


def test_every_csv_of_a_run_is_neutral_and_read_back(tmp_path, train):
    rng = np.random.default_rng(0)
    for label in HOSTILE_CLASSES:
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(12):
            shown = draw(("drawing", "generated", "real")[HOSTILE_CLASSES.index(label)], rng)
            Image.fromarray(shown).save(tmp_path / "set" / label / f"-{number};=1+1.png")
    words = ("data=folder", f"data.root={tmp_path / 'set'}", "data.manifest=null", "data.blind=null")
    run = train(tmp_path / "run", *words)
    words = ["block=blind_test", "block.blind_test.resamples=100", "data.workers=0", "accelerator=cpu"]
    assert main(["evaluate", f"ckpt={run}", *words]) == 0
    for file in run.rglob("*.csv"):
        for row in csv.reader(file.open(encoding="utf-8", newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@")), (file, cell)
                assert not re.match(r"-(?![\d.]+(e-?\d+)?$).", cell), (file, cell)
    printed = read_csv(run / "split.csv")
    assert set(printed["label"]) == set(HOSTILE_CLASSES)
    assert all((tmp_path / "set" / path).is_file() for path in printed["path"])

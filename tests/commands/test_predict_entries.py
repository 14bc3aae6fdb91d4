"""Tests of columns, outputs and engines of predict that a user's folder adds."""

from pathlib import Path

import pandas as pd
import pytest

from avatar_bench.cli.app import main

COLUMN = '''"""Stem of the file."""

from dataclasses import dataclass

from avatar_bench.config.options import option
from avatar_bench.inference.prediction_columns import PredictionColumns


@dataclass
class StemColumns(PredictionColumns):
    enabled: bool = option(False, help="add stem")
    prefix: str = option("", help="before each stem")
    names = ("stem",)

    def add_to(self, table, run):
        stems = table["path"].map(lambda path: self.prefix + path.rpartition("/")[2].partition(".")[0])
        return table.assign(stem=stems.where(table["status"] == "ok", None).astype(object))
'''
OUTPUT = '''"""Paths of the files."""

from avatar_bench.inference.prediction_writer import TextWriter


class PathsWriter(TextWriter):
    marks = ()

    def format_rows(self, rows):
        return "".join(f"{path}\\n" for path in rows["path"])
'''
ENGINE = '''"""Rows of nothing."""

from dataclasses import dataclass
from typing import ClassVar

from avatar_bench.config.options import option
from avatar_bench.runs.engines import RowCounts


@dataclass
class Nothing:
    count: int = option(1, help="of nothing", range=(0, 9))
    writes_folder: ClassVar[bool] = False
    reported: ClassVar[tuple[str, ...]] = ()

    def check(self, settings):
        pass

    def write_rows(self, job):
        return RowCounts(self.count, 0, 0, 0)
'''


@pytest.fixture
def words(tiny_run, images, tmp_path):
    """Return the words of predict with a folder of entries."""
    for place, text in (
        ("prediction_column/stem.py", COLUMN),
        ("prediction_output/paths.py", OUTPUT),
        ("engine/nothing.py", ENGINE),
        ("engine/nothing.yaml", "name: nothing\n"),
    ):
        file = tmp_path / "my" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    small = ["threads=1", "workers=0", "precision=32", "runtime=torch"]
    return ["predict", "-cd", str(tmp_path / "my"), f"ckpt={tiny_run}", f"input={images / 'blind' / 'real'}", *small]


def test_a_column_is_added_and_compared_when_an_output_is_continued(words, tmp_path, capsys):
    output = tmp_path / "rows.csv"
    added = [*words, f"output={output}", "stem=true", "stem.prefix=a"]
    assert main(added) == 0
    table = pd.read_csv(output)
    assert list(table)[-1] == "stem"
    assert list(table["stem"]) == [f"a{Path(path).stem}" for path in table["path"]]
    assert main([*added, "update=true"]) == 0
    capsys.readouterr()
    assert main([*words, f"output={output}", "stem=true", "update=true"]) == 2
    assert "the stem in the existing rows is another: a file, stem.prefix or view has" in capsys.readouterr().err
    assert main([*words, f"output={output}", "stem.prefix=a"]) == 2
    assert capsys.readouterr().err.startswith("stem.prefix requires stem=true")


def test_the_page_for_review_shows_a_column(words, tmp_path):
    page = tmp_path / "page.html"
    assert main([*words, f"output={page}", "stem=true", "stem.prefix='<b>'"]) == 0
    assert "<dt>stem</dt><dd>&lt;b&gt;" in page.read_text(encoding="utf-8")


def test_an_output_is_found_by_its_suffix(words, tmp_path, capsys):
    output = tmp_path / "files.paths"
    assert main([*words, f"output={output}"]) == 0
    assert all(Path(line).is_file() for line in output.read_text().splitlines())
    assert main([*words, f"output={output}", "update=true"]) == 2
    assert main([*words, "output=files.txt"]) == 2
    assert "a file that ends in .csv, .html, .jsonl, .parquet or .paths, or -" in capsys.readouterr().err


def test_an_engine_has_options_of_its_own(words, capsys):
    assert main([*words, "engine=nothing", "engine.count=7"]) == 0
    assert "-: 7 predictions, 0 files" in capsys.readouterr().err
    assert main([*words, "engine.count=7"]) == 2
    assert "engine.count=7 requires engine=nothing, but engine.name is local" in capsys.readouterr().err
    assert main([*words, "engine=nothing", "engine.count=70"]) == 2

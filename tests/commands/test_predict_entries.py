"""Tests of columns and engines of predict that a user's folder adds."""

from pathlib import Path

import pandas as pd
import pytest

from tests.builders.run_files import write_file

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
    entries = {"prediction_column/stem.py": COLUMN, "engine/nothing.py": ENGINE, "engine/nothing.yaml": "name: nothing"}
    for path, text in entries.items():
        write_file(tmp_path / "my" / path, text)
    small = ["threads=1", "workers=0", "precision=32", "runtime=torch"]
    return ["predict", "-cd", str(tmp_path / "my"), f"ckpt={tiny_run}", f"input={images / 'blind' / 'real'}", *small]


def test_a_column_is_added_compared_when_an_output_is_continued_and_shown_for_review(words, tmp_path, command):
    output, page = [f"output={tmp_path / name}" for name in ("rows.csv", "page.html")]
    added = [*words, output, "stem=true", "stem.prefix=a"]
    command(*added)
    table = pd.read_csv(tmp_path / "rows.csv")
    assert list(table)[-1] == "stem"
    assert list(table["stem"]) == [f"a{Path(path).stem}" for path in table["path"]]
    command(*added, "update=true")
    err = command(*words, output, "stem=true", "update=true", code=2).err
    assert "the stem in the existing rows is another: a file, stem.prefix or view has" in err
    assert command(*words, output, "stem.prefix=a", code=2).err.startswith("stem.prefix requires stem=true")
    command(*words, page, "stem=true", "stem.prefix='<b>'")
    assert "<dt>stem</dt><dd>&lt;b&gt;" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_engine_has_options_of_its_own(words, command):
    assert "-: 7 predictions, 0 files" in command(*words, "engine=nothing", "engine.count=7").err
    message = "engine.count=7 requires engine=nothing, but engine.name is local"
    assert message in command(*words, "engine.count=7", code=2).err
    command(*words, "engine=nothing", "engine.count=70", code=2)

"""Records of Runs, complete and damaged."""

from __future__ import annotations

import json
from pathlib import Path

from avatar_bench.records import read_records, table


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text, encoding="utf-8")


def test_runs_are_found_at_a_folder_and_up_to_two_levels_below(tmp_path: Path) -> None:
    for folder in ("a", "b/c", "d/e/f"):
        write(tmp_path / folder, "{}")
    assert [record.folder.name for record in read_records(tmp_path)] == ["a", "c"]
    assert len(read_records(tmp_path / "a")) == 1


def test_a_record_gives_its_figures_or_a_dash(tmp_path: Path) -> None:
    write(tmp_path / "a", json.dumps({"status": "finished", "metrics": {"val/macro_f1": 0.91239}, "seconds": 61.7}))
    write(tmp_path / "b", json.dumps({"status": "running", "metrics": None}))
    write(tmp_path / "c", '{"status": "run')
    told = [(one.status, one.macro_f1, one.seconds) for one in read_records(tmp_path)]
    assert told == [("finished", "0.9124", "62"), ("running", "-", "-"), ("unreadable", "-", "-")]


def test_a_name_comes_from_the_record_else_from_the_config(tmp_path: Path) -> None:
    write(tmp_path / "a", json.dumps({"model": "resnet18"}))
    (tmp_path / "a" / "config.yaml").write_text("model: {backbone: other}\nmode: {name: full}\n", encoding="utf-8")
    (record,) = read_records(tmp_path)
    assert (record.choice("model", "backbone"), record.choice("mode", "name")) == ("resnet18", "full")
    assert record.choice("logger", "name") == "-"


def test_a_table_is_laid_out_in_columns() -> None:
    assert table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"

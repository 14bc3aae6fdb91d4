"""Tests of the output of list and the arguments that it refuses."""

import json
import os
import time

import pytest

from avatar_bench.commands.list import execute as list_
from avatar_bench.config.catalogue import LISTED_GROUPS, describe_choices
from avatar_bench.errors import ConfigError, DataError


def test_list_alone_tells_what_can_be_listed(capsys):
    list_([])
    out = capsys.readouterr().out
    assert all(kind in out for kind in [*LISTED_GROUPS, "runs"])


def test_every_kind_is_listed_by_both_of_its_names(capsys):
    for kind, group in LISTED_GROUPS.items():
        list_([kind])
        plural = capsys.readouterr().out
        list_([group])
        assert capsys.readouterr().out == plural
        assert plural.strip(), kind


def test_augmentations_are_listed_with_their_steps_by_option(capsys):
    list_(["augmentations"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"study", "delivery", "strong", "none", "data.augment.flip", "data.augment.delivery"} <= set(names)
    assert describe_choices("augmentation").keys() == {"study", "delivery", "strong", "none"}


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean .*models"):
        list_(["modles"])


def test_words_too_many_are_refused():
    with pytest.raises(ConfigError, match="-cd DIR"):
        list_(["models", "please"])


def test_runs_are_listed_with_status_model_score_and_age(tmp_path, capsys):
    folder = tmp_path / "resnet18-full" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    record = {"status": "finished", "model": "resnet18", "mode": "full", "metrics": {"val/macro_f1": 0.5}}
    record["split"] = {"counts": {"val": 9}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    hours_ago = time.time() - 2 * 3600
    os.utime(folder / "run.json", (hours_ago, hours_ago))
    list_(["runs", str(tmp_path)])
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "status", "model", "mode", "val", "macro-F1", "n", "age"]
    assert line.split() == [str(folder), "finished", "resnet18", "full", "0.5000", "9", "2", "h"]


def test_a_place_without_runs_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list_(["runs"])
    assert capsys.readouterr().out == "no runs in runs/\n"
    with pytest.raises(DataError, match="no such folder"):
        list_(["runs", "nowhere"])

"""Output of list and the arguments that it refuses."""

import json
import os
import time

import pytest

from avatar_bench.commands.list import execute as list_
from avatar_bench.config.catalogue import LISTED_GROUPS, describe_choices
from avatar_bench.errors import ConfigError, DataError


def test_every_kind_is_listed_by_both_of_its_names(capsys):
    def printed(*words):
        list_(list(words))
        return capsys.readouterr().out

    kinds = printed()
    assert all(kind in kinds for kind in [*LISTED_GROUPS, "runs"])
    for kind, group in LISTED_GROUPS.items():
        assert printed(group) == printed(kind) != "", kind
    names = {line.split()[0] for line in printed("augmentations").splitlines()}
    assert {"data.augment.flip", "data.augment.delivery", *describe_choices("augmentation")} <= names
    assert describe_choices("augmentation").keys() == {"study", "delivery", "strong", "none"}


def test_unknown_kinds_words_too_many_and_missing_folders_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list_(["runs"])
    assert capsys.readouterr().out == "no runs in runs/\n"
    with pytest.raises(DataError, match="no such folder"):
        list_(["runs", "nowhere"])
    with pytest.raises(ConfigError, match=r"did you mean .*models"):
        list_(["modles"])
    with pytest.raises(ConfigError, match="-cd DIR"):
        list_(["models", "please"])


def test_runs_are_listed_with_status_model_score_and_age(tmp_path, capsys):
    folder = tmp_path / "resnet18-full" / "2026-01-01_00-00-00"
    folder.mkdir(parents=True)
    record = {"status": "finished", "model": "resnet18", "mode": "full", "metrics": {"val/macro_f1": 0.5}}
    record["split"] = {"counts": {"val": 9}}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    os.utime(folder / "run.json", (time.time() - 2 * 3600,) * 2)
    list_(["runs", str(tmp_path)])
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["run", "status", "model", "mode", "val", "macro-F1", "n", "age"]
    assert line.split() == [str(folder), "finished", "resnet18", "full", "0.5000", "9", "2", "h"]

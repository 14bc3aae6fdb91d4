"""How the end of a sweep is told."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from avatar_bench.__main__ import main
from avatar_bench.commands._job import Job, JobError


def write(folder: Path, **record: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return folder / "run.json"


def test_a_sweep_whose_jobs_all_finished_ends_with_a_table_and_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job("train")
    write(tmp_path / "seed1", status="finished", metrics={"val/macro_f1": 0.75}, seconds=12.4)
    assert job.finish_sweep(tmp_path) == 0
    assert capsys.readouterr().err.splitlines()[1].split() == ["seed1", "finished", "0.7500", "12"]


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted", "running"])
def test_a_job_that_did_not_finish_makes_it_3(tmp_path: Path, status: str) -> None:
    job = Job("train")
    write(tmp_path / "seed1", status="finished")
    write(tmp_path / "seed2", status=status)
    assert job.finish_sweep(tmp_path) == 3


def test_a_failure_of_an_earlier_sweep_is_shown_and_not_counted(tmp_path: Path) -> None:
    os.utime(write(tmp_path / "seed1", status="failed"), (1, 1))
    assert Job("train").finish_sweep(tmp_path) == 0


def test_a_worker_process_carries_its_error_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = pickle.loads(pickle.dumps(Job("train")))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(JobError) as caught:
        job(OmegaConf.create({"stage": "???"}))
    assert caught.value.exit_code == 3
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args


def test_a_mistake_in_one_job_lets_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "-m", "data=folder", "data.root=nowhere", "mode=full", "stage=2,3"]
    assert main(words) == 3
    err = capsys.readouterr().err
    assert "stage=2: stage=2: mode 'full' has 1 stage" in err
    assert "stage=3: stage=3: mode 'full' has 1 stage" in err

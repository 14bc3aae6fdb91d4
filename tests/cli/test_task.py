"""Tests of the errors of sweep jobs."""

import pickle
from types import SimpleNamespace

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from avatar_bench.cli.app import main
from avatar_bench.cli.task import CommandTask, JobError


def test_a_job_of_a_sweep_carries_its_error_home(monkeypatch, capsys):
    job = pickle.loads(pickle.dumps(CommandTask("train")))
    here = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        job=SimpleNamespace(override_dirname="seed=1"),
        runtime=SimpleNamespace(config_sources=[]),
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: here)
    error = job(OmegaConf.create({"stage": "???"}))
    assert isinstance(error, JobError)
    assert error.exit_code == 3
    assert (
        pickle.loads(pickle.dumps(error)).lines
        == error.lines
        == ("train needs a value for stage", "for example: avatar-bench train stage=VALUE")
    )
    assert capsys.readouterr().err.startswith("seed=1: train needs a value for stage")


def test_a_mistake_in_one_job_lets_the_others_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "-m", "data=folder", "data.root=nowhere", "mode=full", "stage=2,3"]
    assert main(words) == 3
    err = capsys.readouterr().err
    assert "stage=2: stage=2: mode 'full' has 1 stage" in err
    assert "stage=3: stage=3: mode 'full' has 1 stage" in err

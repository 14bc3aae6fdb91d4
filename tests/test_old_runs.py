"""What an earlier version wrote goes on working: it opens, predicts equally, resumes, is evaluated and reported."""

import json
import shlex
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from tests.commands.conftest import blank_figures

__all__ = ["blank_figures"]

ARCHIVE = Path(__file__).with_name("old_runs") / "6c4e4d8.tar.xz"
WRITTEN_IN = "/data/trial"
RUNS = ("run", "sweep/ensembles/soft_vote", "imported", "pushed")  # the second opens two runs of the sweep
GONE = {"accuracy_by_source"}  # metrics that are intervals of others now


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".yaml") and WRITTEN_IN in (text := file.read_text(encoding="utf-8")):
            file.write_text(text.replace(WRITTEN_IN, str(folder)), encoding="utf-8")
    return folder


@pytest.fixture
def old(unpacked, monkeypatch):
    """Return the folder of the earlier version, entered; the tests only add to it."""
    monkeypatch.chdir(unpacked)
    return unpacked


@pytest.mark.parametrize("run", RUNS)
def test_a_run_predicts_the_same(run, old, tmp_path):
    words = ("input=images/blind", f"output={tmp_path / 'now.csv'}", "runtime=torch", "precision=32")
    assert main(["predict", f"ckpt=runs/{run}", *words]) == 0
    name = "run" if run == "pushed" else run.replace("/", "_")
    before, now = (pd.read_csv(file) for file in (old / "expected" / f"{name}.csv", tmp_path / "now.csv"))
    pd.testing.assert_frame_equal(now[before.columns], before, rtol=0, atol=1e-5)  # processors differ in the last


@pytest.mark.parametrize("run", RUNS[:-1])
def test_a_run_is_evaluated_to_the_same_values(run, old, tmp_path):
    words = ["split=blind"] if run != "imported" else ["data=manifest", "data.manifest=images/blind.csv"]
    words += ["block=blind_test", "block.blind_test.resamples=100", f"out={tmp_path / 'now'}"]
    assert main(["evaluate", f"ckpt=runs/{run}", *words]) == 0
    values = read_values(old / "runs" / run / "evaluation/blind/blind_test/metrics.json")
    now = read_values(next((tmp_path / "now").rglob("metrics.json")))
    assert {name: now[name] for name in values} == pytest.approx(values, abs=1e-5, nan_ok=True)


def read_values(file):
    metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
    return {name: metric["value"] for name, metric in metrics.items() if "value" in metric and name not in GONE}


def test_an_interrupted_run_resumes_to_the_same_training(old, tmp_path, capsys):
    run = Path(shutil.copytree(old / "runs" / "interrupted", tmp_path / "run"))
    # a run of an earlier version bears no signature of its user, who types what leads out of its folder again
    assert main(["train", f"resume={run}"]) == 2
    words = shlex.split(capsys.readouterr().err.partition("beside resume=: ")[2])
    assert main(["train", f"resume={run}", *words]) == 0
    before, now = (pd.read_csv(file) for file in (old / "expected/interrupted_metrics.csv", run / "metrics.csv"))
    np.testing.assert_allclose(now[before.columns], before, atol=1e-4)


@pytest.mark.slow
def test_saved_results_are_reported_and_a_sweep_is_compared(old, capsys):
    assert main(["report", "runs=runs"]) == 0
    assert ": 0." in capsys.readouterr().out  # MB, of a page with figures
    page = (old / "runs" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("lr0.004", "lr0.005", "imported"))
    assert main(["list", "runs", "runs"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("runs/run", "lr0.004", "lr0.005", "imported", "interrupted"))
    words = ["ckpt=runs/sweep", "split=blind", "block=[significance,ensemble]", "data.workers=0"]
    words += [f"block.{block}.resamples=100" for block in ("significance", "ensemble")]
    assert main(["evaluate", *words, "again=true"]) == 0


@pytest.mark.slow
def test_a_data_set_is_recognised_and_updated(old, capsys):
    words = ["source=folder", "source.folder.root=images/blind", "out=dataset", "allow=[shortcut]"]
    words += [
        f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "equalised=false", "label_errors=false")
    ]
    before = (old / "dataset/manifest.csv").read_bytes()
    assert main(["prepare", *words]) == 0
    assert (old / "dataset/manifest.csv").read_bytes() == before
    assert main(["prepare", *words, "update=true"]) == 0
    table = pd.read_csv(old / "dataset/manifest.csv")
    assert {"path", "label", "source", "group", "split"} <= set(table)
    assert len(table) == 36

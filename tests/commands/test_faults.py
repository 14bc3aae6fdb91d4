"""Faults during training: each ends with its exit code, a message and a folder that can be resumed."""

import contextlib
import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.multiprocessing.reductions import rebuild_storage_fd

from avatar_bench.cli.app import main
from avatar_bench.config.error_messages import format_error
from avatar_bench.console import signals
from avatar_bench.models.checkpoint import read_checkpoint, verify_checkpoint
from avatar_bench.training import classifier_job
from avatar_bench.training.module import Learner
from tests.builders.commands import data_of, merge_words, read_record

# above that of the tests of Ray, so that these come first: beside its threads, forks of Python 3.13 lose workers
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]
FEW = ("data.limit=96", "epochs=4", "callbacks.save_minutes=0")
LONG = (*FEW, "epochs=40")


@pytest.fixture
def train_words(small, tmp_path):
    """Return a function that returns the words of a small training into tmp_path/run."""
    return lambda *words: ["train", *merge_words(small, f"out={tmp_path / 'run'}", *words)]


@pytest.fixture
def begin(fork, train_words):
    """Return a function that begins a small training in a process of its own."""
    return lambda *words, **options: fork(*train_words(*words), **options)


def steps(run):
    """Return how many steps the last checkpoint of a run holds, 0 before the first."""
    try:
        return int(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])
    except (OSError, RuntimeError, KeyError):
        return 0


def check_files(run):
    """Check that every file with a final name in a run folder can be read."""
    for file in run.rglob("*"):
        if file.suffix == ".ckpt":
            verify_checkpoint(file)
            read_checkpoint(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".csv":
            pd.read_csv(file)


def check_end(child, run, code, message, status):
    """Check how a training has ended, and that what it has left can be read."""
    assert child.end() == code, child.said
    assert message in child.said
    assert "Traceback" not in child.said
    assert read_record(run)["status"] == status
    check_files(run)


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *merge_words(small, *FEW), f"out={run}"]) == 0
    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_a_kill_at_a_random_step_costs_nothing(workers, undisturbed, begin, fork, slow, tmp_path):
    run, child = tmp_path / "run", begin(*FEW, f"data.workers={workers}", before=slow(Learner, "training_step"))
    step = int(np.random.default_rng(workers).integers(1, steps(undisturbed) // 2))
    child.until(lambda: steps(run) >= step)
    child.kill()
    check_files(run)
    assert read_record(run)["status"] == "running"
    check_end(fork("train", f"resume={run}"), run, 0, "taking over its lock", "finished")
    assert read_record(run)["weights_sha256"] == read_record(undisturbed)["weights_sha256"]
    assert (run / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0)])
def test_a_signal_saves_the_step_and_ends_the_run(number, code, workers, begin, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "GRACE_SECONDS", 600)  # longer than the test waits
    run, child = tmp_path / "run", begin(*LONG, "callbacks.save_minutes=30", f"data.workers={workers}")
    child.until((run / "checkpoints" / "best.ckpt").exists)
    child.send(number)
    check_end(child, run, code, "stopping once this step is saved", "interrupted")
    assert not (run / "run.lock").exists()


def test_a_step_that_does_not_end_is_not_waited_for(begin, tmp_path, monkeypatch):
    run, step = tmp_path / "run", Learner.training_step

    def hang(learner, *batch):
        if learner.global_step == 3:
            (tmp_path / "hangs").touch()
            time.sleep(600)
        return step(learner, *batch)

    monkeypatch.setattr(Learner, "training_step", hang)
    for number, grace in ((2, 600), (1, 2)):
        monkeypatch.setattr(signals, "GRACE_SECONDS", grace)
        shutil.rmtree(run, ignore_errors=True)
        (tmp_path / "hangs").unlink(missing_ok=True)
        child = begin(*LONG)
        child.until((tmp_path / "hangs").exists)
        for _ in range(number):
            child.send(signal.SIGINT)
            time.sleep(1)
        assert child.end() == 130
        assert read_record(run)["status"] == "interrupted"
        assert steps(run) == 3


def test_a_worker_that_is_killed_ends_the_run_with_its_reason(begin, tmp_path):
    run, child = tmp_path / "run", begin(*LONG, "data.workers=2")
    child.until(lambda: steps(run) >= 2)
    os.kill(child.workers()[0], signal.SIGKILL)
    check_end(child, run, 5, "was killed", "failed")

    class Gone:
        def detach(self):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError) as caught:  # while it hands over a batch
        rebuild_storage_fd(torch.UntypedStorage, Gone(), 8)
    lines, code = format_error(caught.value)
    assert ("was killed" in lines[0], code) == (True, 5)


def test_a_run_whose_images_went_away_continues_when_they_are_back(images, begin, fork, tmp_path):
    run, data = tmp_path / "run", Path(shutil.copytree(images, tmp_path / "data"))
    child = begin(*LONG, f"data.manifest={data / 'all.csv'}", "data.cache_gb=0")
    child.until(lambda: steps(run) >= 2)
    data.rename(tmp_path / "away")
    check_end(child, run, 3, "No such file or directory", "failed")
    (tmp_path / "away").rename(data)
    child, before = fork("train", f"resume={run}"), steps(run)
    child.until(lambda: steps(run) > before)


def test_an_image_that_changed_since_prepare_is_refused_by_train_and_evaluate(images, small, tmp_path, command):
    data, run = Path(shutil.copytree(images, tmp_path / "data")), tmp_path / "run"
    quick = [f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "label_errors=false")]
    words = ["prepare", "source=folder", f"source.folder.root={data / 'all'}", f"out={tmp_path / 'set'}", *quick]
    assert main(words) in (0, 3)
    kept = [word for word in small if not word.startswith(("data.split", "data.blind"))]
    words = ["train", *kept, f"data.manifest={tmp_path / 'set' / 'manifest.csv'}", "allow=[shortcut]"]
    command(*words, f"out={run}")
    name = pd.read_csv(run / "split.csv").query("split == 'test'")["path"].iat[0]
    (tmp_path / "set" / name).unlink()  # it is a link to what it was made of
    Image.new("RGB", (40, 40), (7, 7, 7)).save(tmp_path / "set" / name)
    again = {"has changed: its SHA-256": [*words, f"out={tmp_path / 'other'}"]}
    for message, line in (again | {"other bytes": ["evaluate", f"ckpt={run}", "block=blind_test"]}).items():
        err = command(*line, code=3).err
        assert name in err, err
        assert message in err, err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["train", "pretrain", "evaluate"])
def test_broken_images_are_named_together_before_anything_begins(name, images, small, tiny_run, tmp_path, command):
    shutil.copytree(images, tmp_path / "set")
    table = tmp_path / "set" / ("blind.csv" if name == "evaluate" else "all.csv")
    paths = list(pd.read_csv(table)["path"].iloc[[1, 20, 33]])
    for path, content in zip(paths, (b"", b"broken", (images / paths[2]).read_bytes()[:-9]), strict=True):
        (table.parent / path).write_bytes(content)
    words = {
        "train": small,
        "pretrain": ["model=timm", "model.backbone=test_resnet", "trainer=cpu", "logger=none"],
        "evaluate": [f"ckpt={tiny_run}"],
    }[name]
    err = command(name, *words, *data_of(table), f"out={tmp_path / 'out'}", code=3).err
    first, others, _ = err.splitlines()
    assert first.endswith(f"cannot be used, first {table.parent / paths[0]}: empty file.")
    assert others == f"The others: {paths[1]}, {paths[2]}."
    assert not (tmp_path / "out").exists()


def test_two_processes_on_one_run_are_one_too_many(begin, fork, tmp_path):
    run, first = tmp_path / "run", begin(*LONG)
    first.until(lambda: steps(run) >= 1)
    for second in (begin(*LONG), fork("train", f"resume={run}")):
        assert second.end() == 5
        assert f"process {first.pid} on" in second.said
        assert len(second.said.splitlines()) <= 3
    first.send(signal.SIGTERM)
    assert first.end() == 143


def test_a_disk_too_small_is_found_before_the_work(train_words, small_disk, command):
    (small_disk / "filling").write_bytes(bytes(12 * 2**20))
    err = command(*train_words(*LONG, f"out={small_disk / 'run'}"), code=5).err.splitlines()
    assert "MiB are free; the checkpoints of this run need" in err[-2]
    assert list(small_disk.rglob("*.ckpt*")) == []


def test_a_disk_that_fills_leaves_what_was_saved_and_a_run_that_continues(begin, small_disk, fork, monkeypatch):
    monkeypatch.setattr(classifier_job, "check_disk_space", lambda *_: None)  # in the way on so small a disk
    run, filling = small_disk / "run", small_disk / "filling"
    with filling.open("wb", buffering=0) as stream:  # before the run itself can fill the disk
        child = begin(*FEW, "epochs=200", f"out={run}")
        child.until(lambda: steps(run) >= 3)
        with contextlib.suppress(OSError):
            while True:
                stream.write(bytes(2**16))
    assert child.end() == 5, child.said
    assert "No space left on device" in child.said
    assert "Traceback" not in child.said
    check_files(run)
    assert list(run.rglob("*.part")) == []
    filling.unlink()
    before = steps(run)
    assert before >= 3
    fork("train", f"resume={run}").until(lambda: steps(run) > before)

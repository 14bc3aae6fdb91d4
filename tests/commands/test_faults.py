"""Tests of faults during training: each ends with its exit code, a message and a folder that can be resumed."""

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
from avatar_bench.models.checkpoint import read_checkpoint, verify_checkpoint
from avatar_bench.training import classifier_job
from avatar_bench.training.module import Learner

pytestmark = pytest.mark.slow
LONG = ["epochs=40", "callbacks.save_minutes=0", "data.limit=96"]


def record(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def words(small, out, *more):
    parts = {word.partition("=")[0] for word in more}
    return ["train", *(word for word in small if word.partition("=")[0] not in parts), f"out={out}", *more]


def steps(run):
    """Return how many steps the last checkpoint of a run holds, 0 before the first."""
    last = run / "checkpoints" / "last.ckpt"
    try:
        return int(torch.load(last, weights_only=True)["global_step"])
    except (OSError, RuntimeError, KeyError):
        return 0


def whole(run):
    """Check that every file with a final name in a run folder can be read."""
    for file in run.rglob("*"):
        if file.suffix == ".ckpt":
            verify_checkpoint(file)
            read_checkpoint(file)
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".csv":
            pd.read_csv(file)


@pytest.fixture(scope="module")
def undisturbed(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(words(small, run, "epochs=4", "data.limit=96")) == 0
    return run


def kill_at(fork, line, run, step):
    child = fork(*line)
    child.until(lambda: steps(run) >= step)
    child.kill()


@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_steps_cost_nothing(workers, undisturbed, small, fork, tmp_path):
    rng = np.random.default_rng(workers)
    total = steps(undisturbed)
    for number in range(2):
        run = tmp_path / f"run{number}"
        line = words(small, run, "epochs=4", "data.limit=96", f"data.workers={workers}", "callbacks.save_minutes=0")
        kill_at(fork, line, run, int(rng.integers(1, total - 1)))
        assert record(run)["status"] == "running"
        child = fork("train", f"resume={run}")
        assert child.end() == 0, child.said
        assert "taking over its lock" in child.said
        assert record(run)["weights_sha256"] == record(undisturbed)["weights_sha256"]
        assert (run / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()


def test_kills_while_every_step_is_saved_leave_no_half_written_file(small, fork, tmp_path, monkeypatch):
    elsewhere = Path("/dev/shm")
    if elsewhere.is_dir() and elsewhere.stat().st_dev != tmp_path.stat().st_dev:
        monkeypatch.setenv("TMPDIR", str(elsewhere))
    rng, run = np.random.default_rng(0), tmp_path / "run"
    line = words(small, run, "epochs=400", "data.limit=96", "callbacks.save_minutes=0")
    for _ in range(3):
        child = fork(*line)
        before = steps(run)
        child.until(lambda before=before: steps(run) > before)
        time.sleep(rng.uniform(0, 0.2))
        child.kill()
        whole(run)
        line = ["train", f"resume={run}"]


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0)])
def test_a_signal_saves_the_step_and_ends_the_run(number, code, workers, small, fork, tmp_path):
    run = tmp_path / "run"
    child = fork(*words(small, run, "epochs=40", "data.limit=96", f"data.workers={workers}"))
    child.until((run / "checkpoints" / "best.ckpt").exists)
    begun = time.monotonic()
    child.send(number)
    assert child.end() == code
    assert time.monotonic() - begun < 30
    assert "Traceback" not in child.said
    assert "stopping once this step is saved" in child.said
    assert record(run)["status"] == "interrupted"
    assert not (run / "run.lock").exists()
    whole(run)


def test_a_step_that_does_not_end_is_not_waited_for(small, fork, tmp_path, monkeypatch):
    run, step = tmp_path / "run", Learner.training_step

    def hang(learner, *batch):
        if learner.global_step == 3:
            (tmp_path / "hangs").touch()
            time.sleep(600)
        return step(learner, *batch)

    monkeypatch.setattr(Learner, "training_step", hang)
    for signals in (2, 1):
        shutil.rmtree(run, ignore_errors=True)
        (tmp_path / "hangs").unlink(missing_ok=True)
        child = fork(*words(small, run, *LONG))
        child.until((tmp_path / "hangs").exists)
        begun = time.monotonic()
        for _ in range(signals):
            child.send(signal.SIGINT)
            time.sleep(1)
        assert child.end() == 130
        assert time.monotonic() - begun < (15 if signals == 2 else 30)
        assert record(run)["status"] == "interrupted"
        assert steps(run) == 3


def test_a_worker_that_is_killed_ends_the_run_with_a_word(small, fork, tmp_path):
    run = tmp_path / "run"
    child = fork(*words(small, run, *LONG, "data.workers=2"))
    child.until(lambda: steps(run) >= 2)
    os.kill(child.workers()[0], signal.SIGKILL)
    assert child.end() == 5
    assert "Traceback" not in child.said
    assert "was killed" in child.said
    assert record(run)["status"] == "failed"
    whole(run)


def test_a_worker_that_is_killed_while_it_hands_over_a_batch_is_told_alike():
    class Gone:
        def detach(self):
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError) as caught:
        rebuild_storage_fd(torch.UntypedStorage, Gone(), 8)
    lines, code = format_error(caught.value)
    assert ("was killed" in lines[0], code) == (True, 5)


def test_images_that_go_away_end_the_run_which_goes_on_when_they_are_back(images, small, fork, tmp_path):
    run, data = tmp_path / "run", Path(shutil.copytree(images, tmp_path / "data"))
    child = fork(*words(small, run, *LONG, f"data.manifest={data / 'all.csv'}", "data.cache_gb=0"))
    child.until(lambda: steps(run) >= 2)
    data.rename(tmp_path / "away")
    assert child.end() == 3
    assert "No such file or directory" in child.said
    assert "Traceback" not in child.said
    assert record(run)["status"] == "failed"
    whole(run)
    (tmp_path / "away").rename(data)
    child = fork("train", f"resume={run}")
    at = steps(run)
    child.until(lambda: steps(run) > at)


def test_an_image_that_changed_since_prepare_is_refused_by_train_and_evaluate(images, small, tmp_path, capsys):
    data = Path(shutil.copytree(images, tmp_path / "data"))
    quick = [f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "label_errors=false")]
    source = ["source=folder", f"source.folder.root={data / 'all'}"]
    assert main(["prepare", *source, f"out={tmp_path / 'set'}", *quick]) in (0, 3)
    made = tmp_path / "set" / "manifest.csv"
    run = tmp_path / "run"
    small = [word for word in small if not word.startswith(("data.split", "data.blind"))]
    line = words(small, run, f"data.manifest={made}", "allow=[shortcut]")
    assert main(line) == 0
    table = pd.read_csv(run / "split.csv")
    name = table["path"][table["split"] == "test"].iat[0]
    Image.fromarray(np.full((40, 40, 3), 7, np.uint8)).save(tmp_path / "new.png")
    (tmp_path / "set" / name).unlink()  # it is a link to what it was made of
    shutil.copyfile(tmp_path / "new.png", tmp_path / "set" / name)
    capsys.readouterr()
    for again in (
        words(small, tmp_path / "other", f"data.manifest={made}", "allow=[shortcut]"),
        ["evaluate", f"ckpt={run}", "block=blind_test"],
    ):
        assert main(again) == 3
        err = capsys.readouterr().err.splitlines()
        assert any(str(Path(name)) in text and "has changed: its SHA-256" in text for text in err), err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", ["train", "pretrain", "evaluate"])
def test_broken_images_are_named_together_before_anything_begins(command, images, small, tiny_run, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "set")
    table = tmp_path / "set" / "blind.csv" if command == "evaluate" else tmp_path / "set" / "all.csv"
    paths = list(pd.read_csv(table)["path"].iloc[[1, 20, 33]])
    for path, content in zip(paths, (b"", b"broken", (images / paths[2]).read_bytes()[:-9]), strict=True):
        (table.parent / path).write_bytes(content)
    given, out = ["data=manifest", f"data.manifest={table}"], tmp_path / "out"
    line = {
        "train": ["train", *small, *given],
        "pretrain": ["pretrain", "model=timm", "model.backbone=test_resnet", "trainer=cpu", "logger=none", *given],
        "evaluate": ["evaluate", f"ckpt={tiny_run}", *given],
    }[command]
    assert main([*line, f"out={out}"]) == 3
    first, others, _ = capsys.readouterr().err.splitlines()
    assert first.endswith(f"cannot be used, first {table.parent / paths[0]}: empty file.")
    assert others == f"The others: {paths[1]}, {paths[2]}."
    assert not out.exists()


def test_an_empty_class_is_refused(images, small, tmp_path, capsys):
    data = Path(shutil.copytree(images / "all", tmp_path / "data"))
    (data / "painting").mkdir()
    base = [word for word in small if not word.startswith("data.manifest") and word != "data=manifest"]
    line = ["train", *base, "data=folder", f"data.root={data}", f"out={tmp_path / 'run'}"]
    assert main(line) == 3
    err = capsys.readouterr().err
    assert "painting" in err
    assert "no image" in err
    assert not (tmp_path / "run").exists()


def test_two_processes_on_one_run_are_one_too_many(small, fork, tmp_path):
    run = tmp_path / "run"
    first = fork(*words(small, run, *LONG))
    first.until(lambda: steps(run) >= 1)
    for line in (words(small, run, *LONG), ["train", f"resume={run}"]):
        second = fork(*line)
        assert second.end() == 5
        assert f"process {first.pid} on" in second.said
        assert len(second.said.splitlines()) <= 3
    first.send(signal.SIGTERM)
    assert first.end() == 143


def test_a_disk_too_small_is_found_before_the_work(small, small_disk, capsys):
    filled = small_disk / "filling"
    filled.write_bytes(bytes(12 * 2**20))
    assert main(words(small, small_disk / "run", *LONG)) == 5
    err = capsys.readouterr().err.splitlines()[-2:]
    assert "MiB are free; the checkpoints of this run need" in err[0]
    assert list(small_disk.rglob("*.ckpt*")) == []


def test_a_disk_that_fills_leaves_what_was_saved_and_a_run_that_goes_on(small, small_disk, fork, monkeypatch):
    monkeypatch.setattr(classifier_job, "check_disk_space", lambda *given: None)  # in the way on so small a disk
    run, filling = small_disk / "run", small_disk / "filling"
    shutil.rmtree(run, ignore_errors=True)
    with filling.open("wb", buffering=0) as stream:  # before the run itself can fill the disk
        child = fork(*words(small, run, "epochs=200", "data.limit=96", "callbacks.save_minutes=0"))
        child.until(lambda: steps(run) >= 3)
        with contextlib.suppress(OSError):
            while True:
                stream.write(bytes(2**16))
    assert child.end() == 5
    assert "No space left on device" in child.said
    assert "Traceback" not in child.said
    whole(run)
    assert list(run.rglob("*.part")) == []
    filling.unlink()
    at = steps(run)
    assert at >= 3
    again = fork("train", f"resume={run}")
    again.until(lambda: steps(run) > at)


def test_a_folder_of_another_user_cannot_be_written(small, fork, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs to become another user")
    place = tmp_path / "theirs"
    place.mkdir()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    place.chmod(0o555)

    def become():
        os.setgid(65534)
        os.setuid(65534)
        os.chdir("/")

    child = fork(*words(small, place / "run", *LONG), before=become)
    assert child.end() == 5
    assert "Permission denied" in child.said
    assert len(child.said.splitlines()) <= 3
    assert list(place.iterdir()) == []

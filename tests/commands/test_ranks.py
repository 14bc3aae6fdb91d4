"""Distributed training: two processes learn as one, and a killed or interrupted run continues."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main
from tests.builders.commands import merge_words, read_record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1000)]  # before those of Ray, see test_faults
# a network without batch norm or dropout, and a number of images that leaves an uneven last batch
PLAIN = (
    *("model.backbone=test_vit.r160_in1k", "mode.balance=none", "data.augment.flip=0"),
    *("data.limit=181", "epochs=6", "lr=1e-3"),
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=8")


def count_steps(run):
    last = run / "checkpoints" / "last.ckpt"
    return int(torch.load(last, weights_only=True)["global_step"]) if last.is_file() else 0


def compare_histories(run, expected, **tolerances):
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "metrics.csv") for folder in (run, expected)), **tolerances)


@pytest.fixture(scope="module")
def two(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("ddp") / "two", *PLAIN, *TWO)


def test_two_processes_learn_as_one_with_batches_of_twice_the_size(two, train, tmp_path):
    single = train(tmp_path / "single", *PLAIN, "data.batch_size=16")
    compare_histories(two, single, rtol=0, atol=1e-4)
    assert pd.read_csv(single / "metrics.csv")["train/loss"].nunique() == 6
    assert read_record(two)["status"] == "finished"


def test_a_killed_process_ends_the_run_which_continues_as_if_uninterrupted(two, small, fork, tmp_path):
    run = tmp_path / "run"
    child = fork("train", *merge_words(small, *PLAIN, *TWO, f"out={run}", "callbacks.save_minutes=0"))
    child.until(lambda: count_steps(run) >= 3)
    ranks = [pid for pid in child.workers() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ranks[1], signal.SIGKILL)
    assert child.end() == 5
    *_, first, _, third = child.said.splitlines()
    assert first == "Training process 1 of 2 was killed from outside (SIGKILL), which ended the others."
    assert third.endswith(f"train resume={run}")
    assert "Traceback" not in child.said
    assert len(ranks) == 2
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert read_record(run)["status"] == "failed"

    killed_at = count_steps(run)
    child = fork("train", f"resume={run}")
    child.until(lambda: count_steps(run) > killed_at)
    child.send(signal.SIGTERM)
    assert child.end() == 143, child.said
    assert read_record(run)["status"] == "interrupted"
    assert "Traceback" not in child.said

    assert main(["train", f"resume={run}"]) == 0
    assert read_record(run)["weights_sha256"] == read_record(two)["weights_sha256"]
    compare_histories(run, two, rtol=1e-6)

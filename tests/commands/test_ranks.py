"""Distributed training: two processes learn as one, and a killed or interrupted run goes on."""

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
# a network without batch norm or dropout, and a number of images that leaves an uneven last batch
PLAIN = (
    *("model.backbone=test_vit.r160_in1k", "mode.balance=none", "data.augment.flip=0"),
    *("data.limit=181", "epochs=3", "lr=1e-3"),
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=8")


def record(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def count_steps(run):
    last = run / "checkpoints" / "last.ckpt"
    return int(torch.load(last, weights_only=True)["global_step"]) if last.is_file() else 0


def find_ranks(child):
    return [pid for pid in child.workers() if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def two(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("ddp") / "two", *PLAIN, *TWO)


def test_two_processes_learn_as_one_with_batches_of_twice_the_size(two, train, tmp_path):
    one = train(tmp_path / "one", *PLAIN, "data.batch_size=16")
    found, expected = (pd.read_csv(run / "metrics.csv") for run in (two, one))
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-4)
    assert expected["train/loss"].nunique() == 3
    assert record(two)["status"] == "finished"


def test_a_killed_process_ends_the_run_which_goes_on_as_if_uninterrupted(two, small, fork, tmp_path):
    run, parts = tmp_path / "run", {word.partition("=")[0] for word in (*PLAIN, *TWO)}
    kept = [word for word in small if word.partition("=")[0] not in parts]
    child = fork("train", *kept, *PLAIN, *TWO, f"out={run}", "callbacks.save_minutes=0")
    child.until(lambda: count_steps(run) >= 3)
    ranks = find_ranks(child)
    os.kill(ranks[1], signal.SIGKILL)
    assert child.end() == 5
    *_, first, _, third = child.said.splitlines()
    assert first == "Training process 1 of 2 was killed from outside (SIGKILL), which ended the others."
    assert third.endswith(f"train resume={run}")
    assert "Traceback" not in child.said
    assert len(ranks) == 2
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert record(run)["status"] == "failed"

    killed_at = count_steps(run)
    child = fork("train", f"resume={run}")
    child.until(lambda: count_steps(run) > killed_at)
    child.send(signal.SIGTERM)
    assert child.end() == 143, child.said
    assert record(run)["status"] == "interrupted"
    assert "Traceback" not in child.said

    assert main(["train", f"resume={run}"]) == 0
    assert record(run)["weights_sha256"] == record(two)["weights_sha256"]
    found, expected = (pd.read_csv(folder / "metrics.csv") for folder in (run, two))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)

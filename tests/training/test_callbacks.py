"""Resuming: a training interrupted at any point ends with the same weights, best.ckpt and history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.training.module import Learner

Train = Callable[..., Path]
STAGES = "mode.stages=[{unfreeze: classifier, epochs: 2, lr: 3e-3}, {unfreeze: all, epochs: 2, lr: 1e-3}]"
KINDS = {
    "plain": [],
    "workers": ["data.workers=2"],
    "cosine": ["schedule=cosine", "schedule.warmup_epochs=1"],
    "plateau": ["schedule=plateau", "schedule.patience=0", "lr=.3", "optimizer=sgd"],
    "averaged": ["callbacks=ema"],
    "late average": ["callbacks=swa", "callbacks.swa.start=1"],
    "mixup, CutMix and dropout": ["data.augment.mixup=.4", "data.augment.cutmix=1", "model.options={drop_rate: .3}"],
    "accumulated": ["trainer.accumulate=2"],
    "sharpness-aware": ["optimizer=sam", "data.augment.mixup=.4", "trainer.gradient_clip=1"],
    "sharpness-aware, accumulated": ["optimizer=sam", "optimizer.name=sgd", "trainer.accumulate=2", "callbacks=ema"],
    "drawn by class": ["mode.balance=sampler"],
    "stopped early": ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer=sgd", "lr=1e-9"],
    "two stages": [STAGES, "epochs=null", "lr=null"],
    "features": ["mode=frozen", "data.augment.flip=.5", "data.augment.delivery=.8", "data.augmented_copies=2"],
}
QUICK = ("plain", "plateau", "sharpness-aware", "two stages")


class Plug:
    """Abort training at a step, counted over all stages."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps, self.cut = 0, -1
        step = Learner.training_step

        def count(learner: Learner, *batch: Any) -> torch.Tensor:
            self.steps += 1
            if self.steps == self.cut:
                raise RuntimeError("the plug was pulled")
            return step(learner, *batch)

        patch.setattr(Learner, "training_step", count)

    def run(self, words: list[str], cut: int = -1) -> int:
        self.steps, self.cut = 0, cut
        return main(words)


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_run_cut_at_a_step_goes_on_to_the_same_weights_and_history(
    kind: str, small: list[str], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["epochs=3", "data.limit=90", "callbacks.save_minutes=0", *KINDS[kind]]
    plug = Plug(monkeypatch)
    whole = train(tmp_path / "whole", *words)
    steps = plug.steps
    assert steps > 4
    for cut in {steps // 2 + 1, steps}:
        plug.steps, plug.cut = 0, cut
        run = train(tmp_path / f"cut{cut}", *words, code=1)
        assert plug.run(["train", f"resume={run}"]) == 0
        assert plug.steps <= steps - cut + 4  # the step (at most four batches), not the epoch
        assert record(run)["weights_sha256"] == record(whole)["weights_sha256"]
        assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
        assert record(run)["temperature"] == record(whole)["temperature"]


def test_a_run_cut_twice_and_moved_goes_on_to_the_same_weights(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["epochs=3", "data.limit=90", "callbacks.save_minutes=0"]
    plug = Plug(monkeypatch)
    whole = train(tmp_path / "whole", *words)
    plug.steps, plug.cut = 0, 5
    run = train(tmp_path / "cut", *words, code=1)
    assert plug.run(["train", f"resume={run}"], cut=2) == 1
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    assert plug.run(["train", f"resume={moved}"]) == 0
    assert record(moved)["weights_sha256"] == record(whole)["weights_sha256"]
    assert not run.exists()


def test_a_damaged_last_checkpoint_is_told_and_the_one_before_is_taken(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["epochs=3", "data.limit=90", "callbacks.save_minutes=0"]
    plug = Plug(monkeypatch)
    whole = train(tmp_path / "whole", *words)
    plug.steps, plug.cut = 0, 6
    run = train(tmp_path / "cut", *words, code=1)
    last, before = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "before.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    spoilt = Path(shutil.copytree(run, tmp_path / "spoilt"))
    capsys.readouterr()
    assert plug.run(["train", f"resume={run}"]) == 0
    told = capsys.readouterr().err
    assert "last.ckpt is damaged" in told
    assert "Resuming from before.ckpt" in told
    assert record(run)["weights_sha256"] == record(whole)["weights_sha256"]
    (spoilt / "checkpoints" / before.name).write_bytes(b"")
    assert plug.run(["train", f"resume={spoilt}"]) == 4
    told = capsys.readouterr().err.splitlines()
    assert "last.ckpt is damaged" in told[-2]
    assert "before.ckpt is damaged or missing too: train again" in told[-1]


def test_a_damaged_best_checkpoint_is_told_before_the_training_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plug = Plug(monkeypatch)
    plug.cut = 6
    run = train(tmp_path / "cut", "epochs=3", "data.limit=90", code=1)
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-100])
    assert plug.run(["train", f"resume={run}"]) == 4
    assert "best.ckpt is damaged" in capsys.readouterr().err

"""Resuming: a training interrupted at any point ends with the same weights, best.ckpt and history."""

import shutil
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.training.module import Learner
from tests.builders.commands import read_record

STAGES = "mode.stages=[{unfreeze: classifier, epochs: 2, lr: 3e-3}, {unfreeze: all, epochs: 2, lr: 1e-3}]"
KINDS = {
    "plateau": ["schedule=plateau", "schedule.patience=0", "lr=.3", "optimizer=sgd", "callbacks=ema"],
    "cosine, mixed, with workers": [
        *("schedule=cosine", "schedule.warmup_epochs=1", "data.workers=2", "trainer.accumulate=2", "callbacks=swa"),
        *("callbacks.swa.start=1", "data.augment.mixup=.4", "data.augment.cutmix=1", "model.options={drop_rate: .3}"),
    ],
    "sharpness-aware": [
        *("optimizer=sam", "optimizer.name=sgd", "data.augment.mixup=.4", "trainer.gradient_clip=1"),
        *("trainer.accumulate=2", "callbacks=ema"),
    ],
    "stopped early, drawn by class": [
        *("mode.balance=sampler", "callbacks=early_stopping", "callbacks.early_stopping.patience=1"),
        *("optimizer=sgd", "lr=1e-9"),
    ],
    "two stages": [STAGES, "epochs=null", "lr=null"],
    "features": ["mode=frozen", "data.augment.flip=.5", "data.augment.delivery=.8", "data.augmented_copies=2"],
}


class Plug:
    """Abort training at a step, counted over all stages."""

    def __init__(self, patch):
        self.steps, self.cut = 0, -1
        step = Learner.training_step

        def count(learner, *batch):
            self.steps += 1
            if self.steps == self.cut:
                raise RuntimeError("the plug was pulled")
            return step(learner, *batch)

        patch.setattr(Learner, "training_step", count)

    def run(self, words, cut=-1):
        self.steps, self.cut = 0, cut
        return main(words)


@pytest.mark.parametrize(
    "kind", ["plateau", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS if kind != "plateau")]
)
def test_a_run_cut_at_a_step_goes_on_to_the_same_weights_and_history(kind, small, train, tmp_path, monkeypatch):
    words = ["epochs=3", "data.limit=90", "callbacks.save_minutes=0", *KINDS[kind]]
    plug = Plug(monkeypatch)
    whole = train(tmp_path / "whole", *words)
    steps = plug.steps
    assert steps > 4
    cut = steps // 2 + 1
    plug.steps, plug.cut = 0, cut
    run = train(tmp_path / "cut", *words, code=1)
    assert plug.run(["train", f"resume={run}"]) == 0
    assert plug.steps <= steps - cut + 4  # the step (at most four batches), not the epoch
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    for key in ("weights_sha256", "temperature"):
        assert read_record(run)[key] == read_record(whole)[key]


@pytest.mark.slow
def test_a_run_cut_twice_moved_and_damaged_goes_on_from_the_checkpoint_before(train, tmp_path, monkeypatch, capsys):
    words = ["epochs=3", "data.limit=90", "callbacks.save_minutes=0"]
    plug = Plug(monkeypatch)
    whole = train(tmp_path / "whole", *words)
    plug.steps, plug.cut = 0, 5
    first = train(tmp_path / "cut", *words, code=1)
    assert plug.run(["train", f"resume={first}"], cut=3) == 1
    run = Path(shutil.move(first, tmp_path / "elsewhere"))
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-100])
    spoilt, without_best = (Path(shutil.copytree(run, tmp_path / name)) for name in ("spoilt", "without_best"))
    capsys.readouterr()
    assert plug.run(["train", f"resume={run}"]) == 0
    err = capsys.readouterr().err
    assert "last.ckpt is damaged" in err
    assert "Resuming from before.ckpt" in err
    assert read_record(run)["weights_sha256"] == read_record(whole)["weights_sha256"]
    assert not first.exists()
    (spoilt / "checkpoints" / "before.ckpt").write_bytes(b"")
    assert plug.run(["train", f"resume={spoilt}"]) == 4
    err = capsys.readouterr().err.splitlines()
    assert "last.ckpt is damaged" in err[-2]
    assert "before.ckpt is damaged or missing too: train again" in err[-1]
    best = without_best / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-100])
    assert plug.run(["train", f"resume={without_best}"]) == 4
    assert "best.ckpt is damaged" in capsys.readouterr().err

"""Effects of the options of trainer, callbacks and loggers on a training."""

import copy
import importlib.util
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.optim.swa_utils import update_bn

from avatar_bench.cli.app import main
from avatar_bench.commands.train import TrainerConfig
from avatar_bench.errors import ConfigError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.checkpoint import hash_weights, verify_checkpoint
from avatar_bench.models.stages import set_frozen_to_eval
from avatar_bench.results.result import Result
from avatar_bench.training import environment
from avatar_bench.training.checkpoints import finish_checkpoint
from avatar_bench.training.classifier_job import ClassifierJob
from avatar_bench.training.environment import resolve_precision
from avatar_bench.training.module import Learner
from avatar_bench.training.weight_averaging import estimate_statistics
from tests.builders.commands import read_record

ONE_STEP = ("trainer.limit_batches=1", "optimizer._target_=torch.optim.SGD", "optimizer.weight_decay=0", "lr=1")


def checkpoint(run, name="last"):
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def parameters(run, name="last"):
    state = checkpoint(run, name)["state_dict"]
    return {key: value for key, value in state.items() if "running" not in key and "num_batches" not in key}


def distance(run, start):
    return sum(float((value - start[key]).square().sum()) for key, value in parameters(run).items()) ** 0.5


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(tiny_run, train, tmp_path):
    words = [f"init_from={tiny_run}", *ONE_STEP, "trainer.precision=bf16-mixed"]
    clipped = train(tmp_path / "clipped", *words, "trainer.gradient_clip=1e-3")
    free = train(tmp_path / "free", *words)
    start = parameters(tiny_run, "best")
    assert distance(clipped, start) == pytest.approx(1e-3, rel=0.02)
    assert distance(free, start) > 2e-3


def test_early_stopping_ends_a_stage_that_gains_nothing(train, tmp_path):
    run = train(tmp_path / "run", "mode=frozen", "lr=1e-30", "epochs=10", "callbacks=early_stopping")
    assert len(pd.read_csv(run / "metrics.csv")) == 1 + 3


@pytest.mark.slow
def test_swa_is_the_mean_of_the_epochs_weights_and_ema_begins_with_the_first_step(train, tmp_path):
    few = ("data.limit=60", "trainer.limit_batches=1")
    runs = {n: train(tmp_path / f"plain{n}", *few, f"epochs={n}") for n in (1, 2)}
    averaged = parameters(train(tmp_path / "swa", *few, "epochs=2", "callbacks=swa", "callbacks.swa.start=0"))
    first, second = parameters(runs[1]), parameters(runs[2])
    for key, value in averaged.items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2, rtol=1e-4, atol=1e-6)
    means = [checkpoint(run)["state_dict"]["net.bn1.running_mean"] for run in (tmp_path / "swa", *runs.values())]
    assert not torch.allclose(means[0], (means[1] + means[2]) / 2, rtol=0.01)  # those of the average are its own
    few = ("data.limit=60", "trainer.limit_batches=2")
    two_steps = parameters(train(tmp_path / "steps", *few))
    averaged = parameters(train(tmp_path / "ema", *few, "callbacks=ema", "callbacks.ema.decay=0.75"))
    for key, value in averaged.items():
        decay = 2 / 11  # below 0.75, after one step
        torch.testing.assert_close(value, decay * first[key] + (1 - decay) * two_steps[key], rtol=1e-4, atol=1e-6)


def test_swa_estimates_batch_norm_statistics_as_torch_does_and_leaves_frozen_ones():
    frozen, learned = (nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
    frozen.requires_grad_(False)
    net = nn.Sequential(frozen, learned)
    net.train = lambda mode=True: (nn.Module.train(net, mode), set_frozen_to_eval(net) if mode else None)[0]
    batches = [{"image": torch.randn(4, 3, 5, 5)} for _ in range(3)]
    epochs = []
    data = SimpleNamespace(embeddings=None, position=(7, 1))
    data.train_dataloader = lambda: (epochs.append(data.position), batches)[1]
    strategy = SimpleNamespace(batch_to_device=lambda batch: batch, reduce=lambda value, reduce_op: value)
    trainer = SimpleNamespace(datamodule=data, current_epoch=2, num_training_batches=2, strategy=strategy)
    trainer.precision_plugin = SimpleNamespace(forward_context=nullcontext)
    expected = copy.deepcopy(learned)
    with torch.no_grad():
        update_bn([frozen.eval()(batch["image"]) for batch in batches[:2]], expected)
    estimate_statistics(trainer, net)
    assert (epochs, data.position) == ([(2, 0)], (7, 1))
    torch.testing.assert_close(learned[1].state_dict(), expected[1].state_dict())
    assert not frozen[1].running_mean.any()
    assert not any(module.training for module in net.modules())
    assert learned[1].momentum == expected[1].momentum


@pytest.mark.parametrize(
    "words", [[], pytest.param(["callbacks=swa", "callbacks.swa.start=0"], marks=pytest.mark.slow)]
)
def test_the_best_checkpoint_holds_the_weights_evaluated_on_val(words, tiny_run, train, tmp_path):
    run = train(tmp_path / "run", "epochs=2", "lr=1e-3", *words) if words else tiny_run
    assert main(["evaluate", f"ckpt={run}", "split=val", "allow=[permutation]", "block.blind_test.resamples=100"]) == 0
    metrics = Result.load(run / "evaluation" / "val" / "blind_test").metrics
    for name in ("accuracy", "macro_f1"):
        assert metrics[name].value == pytest.approx(read_record(run)["metrics"][f"val/{name}"], abs=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        [
            "mode.stages=[{unfreeze: classifier, epochs: 1, lr: 3e-3}, {unfreeze: all, epochs: 2, lr: 3e-3}]",
            "epochs=null",
            "lr=null",
        ],
        ["optimizer=sam", "data.augment.mixup=.4", "epochs=3"],
    ],
    ids=["staged", "two passes"],
)
def test_train_metrics_are_those_of_the_batches_that_were_trained_on(words, train, tmp_path, monkeypatch):
    seen, learn_from = [], Learner._learn_from

    def keep(learner, batch):
        logits, targets = learn_from(learner, batch)
        if not learner.second_pass:
            hard = targets if targets.ndim == 1 else targets.argmax(dim=1)
            seen.append((hard.numpy(), logits.detach().argmax(dim=1).numpy()))
        return logits, targets

    monkeypatch.setattr(Learner, "_learn_from", keep)
    run = train(tmp_path / "run", "data.limit=90", *words)
    table = pd.read_csv(run / "metrics.csv")
    assert len(table) == 3
    for row, batches in zip(table.to_dict("records"), np.array_split(np.arange(len(seen)), 3), strict=True):
        targets, predicted = (np.concatenate([seen[index][part] for index in batches]) for part in (0, 1))
        assert row["train/accuracy"] == pytest.approx(accuracy_score(targets, predicted))
        assert row["train/macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))


def test_what_was_really_used_is_recorded_and_loggers_write_into_the_run(train, tmp_path):
    pytest.importorskip("tensorboard")
    run = train(tmp_path / "run", "trainer=debug", "data.batch_size={cpu: 8, cuda: 48}", "logger=[csv,tensorboard]")
    assert pd.read_csv(run / "logs" / "metrics.csv")["train/loss_step"].notna().sum() == 2
    assert list(run.glob("logs/events.*"))
    record = read_record(run)
    accelerator = record["device"]["accelerator"]
    assert accelerator in ("cpu", "cuda", "mps")
    assert record["batch_size"] == (48 if accelerator == "cuda" else 8)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_without_its_package_says_how_to_install_it(train, tmp_path, capsys):
    train(tmp_path / "run", "logger=wandb", "trainer=debug", code=2)
    assert 'pip install "avatar-bench[wandb]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_network_trains_and_keeps_the_names_of_its_weights(train, tmp_path):
    words = ("trainer=debug", "model.backbone=test_vit", "model.options={depth: 1, img_size: 32}")
    compiled = train(tmp_path / "compiled", *words, "trainer.compile=true")
    net = timm.create_model("test_vit", num_classes=3, depth=1, img_size=32)
    state = checkpoint(compiled)["state_dict"]
    assert {key for key in state if key.startswith("net.")} == {f"net.{key}" for key in net.state_dict()}


def test_finishing_writes_the_temperature_and_leaves_the_weights(run_copy):
    file = run_copy / "checkpoints" / "best.ckpt"
    before = checkpoint(run_copy, "best")
    digest, weights = finish_checkpoint(file, 1.75)
    after = checkpoint(run_copy, "best")
    assert after["avatar_bench"] == {**before["avatar_bench"], "temperature": 1.75}
    assert weights == hash_weights(before["state_dict"]) == hash_weights(after["state_dict"])
    assert digest == sha256_of_file(file)
    verify_checkpoint(file)


def test_precisions_have_lightnings_names():
    assert resolve_precision(TrainerConfig(precision="32")) == "32-true"
    assert resolve_precision(TrainerConfig(accelerator="cpu", precision="amp")) == "32-true"
    assert resolve_precision(TrainerConfig(accelerator="gpu", precision="16-mixed")) == "16-mixed"
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        resolve_precision(TrainerConfig(accelerator="cpu", precision="16-mixed"))


@pytest.mark.slow
def test_the_precision_auto_is_that_of_the_trial_when_resumed_too(train, tmp_path, monkeypatch):
    run, device = tmp_path / "run", {"precision": "bf16-mixed", "threads": 1}
    with monkeypatch.context() as patch:
        patch.setattr(environment, "tune_training", lambda *network: "bf16")
        patch.setattr(ClassifierJob, "finish", None)  # fails before the end
        train(run, "trainer.precision=auto", "trainer=debug", code=1)
    assert device.items() <= read_record(run)["device"].items()
    monkeypatch.setattr(environment, "tune_training", lambda *network: "32")
    assert main(["train", f"resume={run}"]) == 0
    assert device.items() <= read_record(run)["device"].items()

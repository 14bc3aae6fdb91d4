"""Optimizers, schedules, loggers and callbacks of users, those of docs/extending.md, as a user trains with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.files.yaml_io import read_yaml
from tests.test_readme import examples

Train = Callable[..., Path]
KINDS = ("optimizer", "schedule", "logger", "callback")


@pytest.fixture
def my(tmp_path: Path) -> Path:
    """Folder with the entries of these kinds that docs/extending.md shows."""
    for file, body in examples("docs/extending.md", ("py", "yaml")):
        if set(KINDS) & set(file.split("/")):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(body, encoding="utf-8")
    return tmp_path / "my"


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    sys.modules.pop(f"avatar_bench_user.{file.parent.name}.{file.stem}", None)


def test_a_run_is_trained_with_an_optimizer_schedule_logger_and_callback_of_users(
    my: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(
        tmp_path / "run",
        *("-cd", str(my), "epochs=2", "lr=1e-3", "trainer.limit_batches=2"),
        *("optimizer=lion", "optimizer.options.beta=0.8"),
        *("optimizer.schedule.name=stairs", "optimizer.schedule.options={factor: 0.1}"),
        *("logger=lines", "logger.options.file=log.jsonl", "callbacks.others={rate: {every: 2}}"),
    )
    options = read_yaml(run / "config.yaml")["optimizer"]
    assert (options["name"], options["options"]) == ("lion", {"beta": 0.8})
    (group,) = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["betas"] == (0.8, 0.99)
    assert pd.read_csv(run / "metrics.csv")["lr"].tolist() == pytest.approx([1e-4, 1e-5])
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert sum("train/loss_step" in line for line in lines) == 4
    assert capsys.readouterr().err.count("\nlr ") == 1


SINK = '''"""A rate that falls after each epoch but the first."""

from dataclasses import dataclass

from torch.optim.lr_scheduler import ReduceLROnPlateau


@dataclass
class Sink:
    """ReduceLROnPlateau for which no loss is an improvement."""

    def build(self, optimizer, steps, epochs):
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=1e9, threshold_mode="abs")
'''


def test_pretrain_steps_a_plateau_of_a_user_and_calls_a_callback_of_a_user(
    my: Path, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (my / "schedule" / "sink.py").write_text(SINK, encoding="utf-8")
    kept = [word for word in small if not word.startswith(("epochs", "lr", "data.blind", "data.augment"))]
    words = ["optimizer.schedule.name=sink", "callbacks.others={rate: {every: 2}}", "epochs=3", "lr=1e-3"]
    assert main(["pretrain", "-cd", str(my), *kept, *words, f"out={tmp_path / 'run'}"]) == 0
    assert pd.read_csv(tmp_path / "run" / "metrics.csv")["lr"].tolist()[-3:] == [1e-3, 1e-3, 5e-4]
    assert capsys.readouterr().err.count("\nlr ") == 2
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == 3  # a resumed pretraining does not miss a step
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 2.5e-4


def test_sam_takes_the_optimizer_of_a_user_as_its_base(my: Path, train: Train, tmp_path: Path) -> None:
    words = ["optimizer=sam", "optimizer.base=lion", "optimizer.options={beta: 0.7}", "trainer.limit_batches=2"]
    run = train(tmp_path / "run", "-cd", str(my), *words)
    (group,) = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert group["betas"] == (0.7, 0.99)
    assert json.loads((run / "run.json").read_text())["passes_per_step"] == 2


def test_resuming_asks_for_the_folder_of_the_entry(
    my: Path, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(my / "callback" / "rate.py", "print(", "None(")
    run = train(tmp_path / "run", "-cd", str(my), "optimizer=lion", "epochs=2", "callbacks.others.rate=null", code=2)
    error = json.loads((run / "run.json").read_text())["error"]
    assert error.startswith(f"{my / 'callback' / 'rate.py'}, line ")
    assert "TypeError" in error
    capsys.readouterr()
    assert main(["train", f"resume={run}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "optimizer.name=lion: there is no optimizer named 'lion'" in lines[0]
    assert "-cd DIR" in lines[2]
    assert len(lines) == 3
    rewrite(my / "callback" / "rate.py", "None(", "print(")
    assert main(["train", "-cd", str(my), f"resume={run}"]) == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("optimizer/lion.py", "import Lion", "import Lyon", "lion.py cannot be imported: ImportError"),
        (
            "optimizer/lion.py",
            "return Lion",
            "return (lambda *given, **named: {})",
            "lion.py: build() must return Optimizer, not dict",
        ),
        ("optimizer/lion.py", "beta,", "gamma,", "lion.py failed: AttributeError"),
        ("optimizer/lion.py", "def build", "def make", "lion.py: SignMomentum has no method build()"),
        ("optimizer/lion.py", ", fused: bool", "", "lion.py failed: TypeError"),
        ("optimizer/lion.py", "class SignMomentum", "class _SignMomentum", "must define one public dataclass, not 0"),
        ("schedule/stairs.py", "return StepLR", "return list", "stairs.py failed: TypeError"),
        ("logger/lines.py", "return LinesLogger", "return (lambda *given: 1)", "Logger | None, not int"),
    ],
)
def test_a_broken_entry_is_one_error_that_names_its_file(
    file: str, old: str, new: str, expected: str, my: Path, train: Train, tmp_path: Path, capsys: Any
) -> None:
    rewrite(my / file, old, new)
    words = ["optimizer=lion", "optimizer.schedule.name=stairs", "logger=lines"]
    train(tmp_path / "run", "-cd", str(my), *words, code=2)
    message = capsys.readouterr().err
    assert expected in message
    assert str(my / file) in message
    assert "internal error" not in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optimizer=lio"], "did you mean lion?"),
        (["optimizer.name=lio"], "optimizer.name=lio: there is no optimizer named 'lio'; did you mean lion?"),
        (["optimizer=lion", "optimizer.options.beta=2"], "optimizer.options.beta=2: expected 0 to 1"),
        (["optimizer=sam", "optimizer.base=lion", "optimizer.options.beta=2"], "optimizer.options.beta=2: expected"),
        (
            ["optimizer.schedule.name=stairs", "optimizer.schedule.options.factor=2"],
            "optimizer.schedule.options.factor=2:",
        ),
        (["logger=lines", "logger.options.fle=x"], "logger.options.fle: there is no such option; did you mean file?"),
        (
            ["optimizer=lion", "optimizer.options.bta=2"],
            "optimizer.options.bta: there is no such option; did you mean beta?",
        ),
        (["optimizer.schedule.name=stair"], "did you mean stairs?"),
        (["logger=line"], "did you mean lines?"),
        (["callbacks.others.rat=null"], "did you mean rate?"),
        (["callbacks.others.rate.every=0"], "callbacks.others.rate.every=0: expected 1 or more"),
    ],
)
def test_an_unknown_entry_or_option_is_refused_with_the_nearest(
    words: list[str], expected: str, my: Path, train: Train, tmp_path: Path, capsys: Any
) -> None:
    run = train(tmp_path / "run", "-cd", str(my), *words, code=2)
    assert expected in capsys.readouterr().err
    assert not run.exists()


def test_entries_of_users_are_listed_beside_the_built_in_ones(my: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for kind in KINDS:
        assert main(["list", f"{kind}s", "-cd", str(my)]) == 0
        found[kind] = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert found["optimizer"]["lion"] == "steps along the sign of the momentum"
    assert found["schedule"]["stairs"] == "A rate that falls by a factor after each epoch"
    assert {"cosine", "none", "plateau"} <= found["schedule"].keys()
    assert {"csv", "lines"} <= found["logger"].keys()
    assert {"ema", "rate"} <= found["callback"].keys()

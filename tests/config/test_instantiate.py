"""Nodes with `_target_`, as in any Hydra project: those of docs/extending.md, as a user trains with them."""

import json
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.config.instantiate import build, check_node
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml
from tests.builders.commands import read_record
from tests.builders.run_files import write_file
from tests.test_readme import examples

FILES = ("my/rates.py", "my/schedule/stairs.yaml", "my/logger/lines.yaml", "my/callbacks/rate.yaml")


@pytest.fixture
def my(tmp_path):
    """Folder with the module and the yaml that docs/extending.md shows."""
    bodies = dict(examples("docs/extending.md", ("py", "yaml")))
    for file in FILES:
        write_file(tmp_path / file, bodies[file])
    sys.modules.pop("rates", None)
    yield tmp_path / "my"
    sys.modules.pop("rates", None)


def read_group(run, name="last.ckpt"):
    """Return the only parameter group of the optimizer in a checkpoint."""
    (group,) = torch.load(run / "checkpoints" / name, weights_only=True)["optimizer_states"][0]["param_groups"]
    return group


def test_a_run_is_trained_with_a_schedule_logger_and_callback_of_a_users_folder(my, train, tmp_path, capsys):
    run = train(
        tmp_path / "run",
        *("-cd", str(my), "epochs=2", "lr=1e-3", "trainer.limit_batches=2"),
        *("optimizer.name=lion", "optimizer.betas=[0.8,0.99]", "schedule=stairs", "schedule.factor=0.1"),
        *("logger=[csv,lines]", "callbacks=rate", "callbacks.rate.every=2"),
    )
    options = read_yaml(run / "config.yaml")
    assert (options["optimizer"]["name"], options["optimizer"]["options"]) == ("lion", {"betas": [0.8, 0.99]})
    assert options["callbacks"]["others"]["rate"] == {"_target_": "rates.RatePrinter", "every": 2}
    assert read_group(run)["betas"] == [0.8, 0.99]
    assert pd.read_csv(run / "metrics.csv")["lr"].tolist() == pytest.approx([1e-4, 1e-5])
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert sum("train/loss_step" in line for line in lines) == 4
    assert (run / "logs" / "metrics.csv").is_file()
    assert capsys.readouterr().err.count("\nlr ") == 1


def test_words_alone_choose_any_optimizer_as_the_base_of_sam_a_schedule_and_a_callback(train, tmp_path):
    run = train(
        tmp_path / "run",
        *("trainer.limit_batches=2", "lr=1e-3", "optimizer=sam", "optimizer._target_=torch.optim.NAdam"),
        *("optimizer.momentum_decay=0.01", "optimizer.weight_decay=0.2", "callbacks=ema", "callbacks.ema.decay=0.9"),
        *("schedule._target_=torch.optim.lr_scheduler.CosineAnnealingLR", "schedule.T_max='{steps}'"),
        "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer",
    )
    group = read_group(run)
    assert (group["momentum_decay"], group["weight_decay"], group["initial_lr"]) == (0.01, 0.2, 1e-3)
    assert group["lr"] == pytest.approx(0, abs=1e-9)
    callbacks = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert any("Timer" in name for name in callbacks)
    assert read_record(run)["passes_per_step"] == 2


@pytest.mark.slow
def test_a_sweep_under_joblib_builds_what_its_options_name(my, small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["-m", "-cd", str(my), "hydra/launcher=joblib", "optimizer.name=adamw,lion", "schedule=stairs"]
    kept = [word for word in small if word != "logger=none"]
    command = [sys.executable, "-m", "avatar_bench", "train", *kept, *words, "logger=lines", "trainer.limit_batches=1"]
    command += [f"out={tmp_path / 'sweep'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "sweep").glob("*/steps.jsonl"))) == 2
    names = {read_yaml(file)["optimizer"]["name"] for file in (tmp_path / "sweep").glob("*/config.yaml")}
    assert names == {"adamw", "lion"}
    assert f"next: avatar-bench evaluate -cd {my} ckpt={tmp_path / 'sweep'} block=all" in done.stdout


@pytest.mark.slow
def test_pretrain_steps_a_plateau_by_the_training_loss_and_calls_a_callback_of_a_user(my, small, tmp_path, capsys):
    kept = [word for word in small if not word.startswith(("epochs", "lr", "data.blind", "data.augment"))]
    sink = ["schedule=plateau", "schedule.patience=0", "schedule.threshold=1e9", "schedule.threshold_mode=abs"]
    rate = ["callbacks.rate._target_=rates.RatePrinter", "callbacks.rate.every=2"]
    words = [*kept, *sink, *rate, "epochs=3", "lr=1e-3", f"out={tmp_path / 'run'}"]
    assert main(["pretrain", "-cd", str(my), *words]) == 0
    assert pd.read_csv(tmp_path / "run" / "metrics.csv")["lr"].tolist()[-3:] == [1e-3, 1e-3, 5e-4]
    assert capsys.readouterr().err.count("\nlr ") == 2
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == 3  # a resumed pretraining does not miss a step
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == 2.5e-4


@pytest.mark.slow
def test_an_error_of_a_users_class_names_its_line_and_resuming_asks_for_its_folder(my, train, tmp_path, capsys):
    text = (my / "rates.py").read_text(encoding="utf-8")
    (my / "rates.py").write_text(text.replace("print(f", "None(f"), encoding="utf-8")
    run = train(tmp_path / "run", "-cd", str(my), "epochs=2", "callbacks=rate", code=2)
    error = read_record(run)["error"]
    assert error.startswith(f"{my / 'rates.py'}, line ")
    assert "TypeError" in error
    capsys.readouterr()
    sys.modules.pop("rates", None)
    assert main(["train", f"resume={run}"]) == 2
    *_, first, second = capsys.readouterr().err.splitlines()
    assert "rate._target_=rates.RatePrinter: ModuleNotFoundError: No module named 'rates'" in first
    assert "-cd DIR" in second
    (my / "rates.py").write_text(text, encoding="utf-8")
    sys.modules.pop("rates", None)
    assert main(["train", "-cd", str(my), f"resume={run}"]) == 0
    program, *words = shlex.split(capsys.readouterr().out.partition("next: ")[2])
    assert (program, words) == ("avatar-bench", ["evaluate", "-cd", str(my), f"ckpt={run}"])
    quick = ["block=blind_test", "block.blind_test.resamples=100", "data.workers=0"]
    assert main([*words, *quick, "allow=[permutation]"]) == 0
    assert main(["report", "-cd", str(my), f"runs={run}"]) == 0
    assert main(["report", f"runs={run}"]) == 0  # which builds nothing of it


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("from torch.optim import Optimizer", "from torch.optim import Optimiser", "rates.Stairs: ImportError"),
        ("max(1, steps // epochs)", "steps // 0", "schedule._target_=rates.Stairs: ZeroDivisionError"),
        ("class Stairs(StepLR)", "class Stairs(dict)", "schedule._target_=rates.Stairs: "),
        ("class Lines(Logger)", "class Lines(pl.Callback)", "expected a class of Loggers, but it makes Lines"),
    ],
)
def test_a_broken_class_is_one_error_that_names_its_option(old, new, expected, my, train, tmp_path, capsys):
    text = (my / "rates.py").read_text(encoding="utf-8")
    assert old in text
    (my / "rates.py").write_text(text.replace(old, new), encoding="utf-8")
    train(tmp_path / "run", "-cd", str(my), "schedule=stairs", "logger=lines", code=2)
    message = capsys.readouterr().err
    assert expected in message
    assert "internal error" not in message


def test_choices_of_users_are_listed_beside_the_built_in_ones_and_hydra_shows_what_is_composed(my, capfd):
    collected = {}
    for kind in ("schedules", "loggers", "callbacks"):
        assert main(["list", kind, "-cd", str(my)]) == 0
        collected[kind] = dict(line.split(maxsplit=1) for line in capfd.readouterr().out.splitlines())
    assert collected["schedules"]["stairs"] == "a rate that falls by a factor after each epoch"
    assert {"cosine", "none", "plateau"} <= collected["schedules"].keys()
    assert {"csv", "lines"} <= collected["loggers"].keys()
    assert {"ema", "rate"} <= collected["callbacks"].keys()
    words = ["optimizer._target_=torch.optim.NAdam", "schedule=stairs", "logger=[csv,lines]", "callbacks=[ema,rate]"]
    shown = ["torch.optim.NAdam", "rates.Stairs", "rates.Lines", "CSVLogger", "EmaWeightAveraging", "RatePrinter"]
    chosen = ["schedule/stairs", "logger/csv", "logger/lines", "callbacks/ema", "callbacks/rate"]
    for flag, expected in ((["--cfg", "job"], shown), (["--info", "defaults"], chosen)):
        assert main(["train", "-cd", str(my), *words, *flag]) == 0
        printed = capfd.readouterr().out
        assert [name for name in expected if name not in printed] == []


def test_a_node_is_checked_and_its_arguments_stand_for_values_of_the_run_and_no_variable():
    node = {"_target_": "builtins.dict", "a": "{steps}", "b": "x/{steps}", "c": ["{steps}", "{e}"]}
    assert build("a", node, dict, steps=3) == {"a": 3, "b": "x/3", "c": [3, "{e}"]}
    with pytest.raises(ConfigError, match="cannot contain"):
        build("a", {"_target_": "builtins.dict", "a": [{"b": "${oc.env:HOME}"}]}, dict)
    for node, expected in (
        (3, "a=3: expected {_target_: CLASS, ...}"),
        ({"b": 1}, "expected {_target_: CLASS"),
        ({"_target_": "torch.optim.Adamm"}, "a._target_=torch.optim.Adamm: torch.optim has no Adamm; did you mean"),
        ({"_target_": "torch.optim.Adam", "bets": 1}, "a.bets: there is no such option; did you mean betas?"),
    ):
        with pytest.raises(ConfigError) as error:
            check_node("a", node)
        assert expected in error.value.lines[0]

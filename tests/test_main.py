"""The command line as a user types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from avatar_bench import __version__
from avatar_bench.cli.app import main
from avatar_bench.errors import CheckpointError, DivergedError, GuardError
from tests.builders.sweeps import list_values, run_first_job

DATA = ["data=folder", "data.root=images"]
STUB = """
import sys, time
from avatar_bench.commands import train
def execute(options):
    print("begun", flush=True)
    time.sleep(60)
train.execute = execute
from avatar_bench.__main__ import main
sys.exit(main(["train", "data=folder", "data.root=images"]))
"""
DETECTOR = '''"""Sharpness."""
from dataclasses import dataclass

@dataclass(kw_only=True)
class Sharp:
    scale: float = 100.0
    unit: str
'''
BLOCK = """
from dataclasses import dataclass
from avatar_bench.config.options import Options, option

@dataclass(kw_only=True)
class Mine(Options):
    number: int = option(2, help="any")
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVATAR_BENCH_CONF", raising=False)
    monkeypatch.delenv("AVATAR_BENCH_DEBUG", raising=False)


@pytest.fixture
def stub(monkeypatch):
    """Return a function that replaces a command by one that records the options of each call, and may raise."""

    def replace(command, error=None):
        calls: list[dict[str, Any]] = []

        def execute(config):
            hydra = HydraConfig.get()
            options: Any = OmegaConf.to_container(OmegaConf.structured(config))
            calls.append(options | {"job": hydra.job.override_dirname, "sweep": hydra.sweep.dir})
            if error is not None:
                raise error
            return 0.5

        monkeypatch.setattr(f"avatar_bench.commands.{command}.execute", execute)
        return calls

    return replace


def run(*words, **options):
    command, pipes = [sys.executable, *words], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, text=True, timeout=60, check=False, env=environment(), **pipes)


def environment():
    root = str(Path(sys.modules["avatar_bench"].__file__ or "").parents[1])
    return os.environ | {"PYTHONPATH": root, "PYTHONWARNINGS": "default"}


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["-m", "avatar_bench", "--help"], "avatar_bench.config.catalogue"),
        (["-m", "avatar_bench", "list", "models"], "avatar_bench.config.catalogue"),
        (["-c", "from avatar_bench import train"], "avatar_bench"),
    ],
)
def test_help_lists_and_the_import_load_no_heavy_library(words, module):
    done = run("-X", "importtime", *words)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert module in loaded
    assert loaded.isdisjoint({"torch", "pandas", "numpy", "hydra", "omegaconf", "matplotlib"})


def test_help_lists_the_commands_and_options_and_version_is_the_packages_own(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "evaluate", "predict", "list"))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"avatar-bench {__version__}\n"
    assert main(["predict", "--help"]) == 0
    out = capsys.readouterr().out
    assert "\n  input=...  " in out
    assert re.search(r"\n  batch_size=64 +images per batch; at least 1\n", out)
    assert re.search(r"\n  accelerator=auto +auto \| cpu \| gpu; device\n", out)


def test_the_help_of_evaluate_lists_the_options_of_the_blocks_that_are_chosen(capsys, tmp_path):
    assert main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert "block.blind_test.gallery=12" in out
    assert "\n  data=run " in out
    assert "split=test " in out
    assert "data.fold" not in out  # evaluate has no such option
    assert "block.robustness.at" not in out
    assert "evaluate --help block=NAME lists the options of another block" in out
    assert not re.search(r"^  where\.\S*$", out, re.MULTILINE)
    assert main(["evaluate", "--help", "block=[robustness,prior_shift]", "block.robustness.at=native"]) == 0
    out = capsys.readouterr().out
    assert "block robustness: accuracy on corrupted images" in out
    assert re.search(r"block.robustness.at=native +input \| native; resolution at which they are applied", out)
    assert "{50-25-25: {drawing: 0.5" in out
    assert main(["evaluate", "block=robustnes", "--help"]) == 2
    assert "did you mean robustness?" in capsys.readouterr().err
    block = tmp_path / "my folder" / "block" / "mine"
    block.mkdir(parents=True)
    (block / "about.yaml").write_text("summary: a number\n")
    (block / "__init__.py").write_text(BLOCK)
    assert main(["evaluate", "-cd", str(block.parents[1]), "--help", "block=mine"]) == 0
    assert re.search(r"block mine: a number\n  block.mine.number=2 +any", capsys.readouterr().out)
    detector = tmp_path / "detector" / "sharp.py"
    detector.parent.mkdir()
    detector.write_text(DETECTOR)
    assert main(["import", "-cd", str(tmp_path), "--help", "kind=sharp"]) == 0
    assert "detector sharp: Sharpness\n  options.scale=100.0\n  options.unit=...\n" in re.sub(
        " +\n", "\n", capsys.readouterr().out
    )


HERE = Path(__file__).parent
MISTAKES = [
    (["trian"], "did you mean train or pretrain?"),
    (["evaluate", "splti=val"], "did you mean split?"),
    (["evaluate", "significance.power=2", "block=significance"], "did you mean block.significance.power?"),
    (["predict", "inptu=x", "output=-"], "did you mean input?"),  # while other options are missing
    (["train", *DATA, "-m", "model=resnet18,resnet99"], "no such model"),
    (["train", *DATA, "lr=fast"], "lr: expected a number, got fast"),
    (["train", *DATA, "model=resnet18,resnet50"], "add -m"),
    (["evaluate", "split=test,blind"], "write a list: 'split=[test,blind]'"),
    (["train", f"data={HERE}/"], f"for images of your own: data=folder data.root={HERE}"),
    (["predict", "input=a", "block=calibration"], "block: no such option\nthis command has none of that name"),
    (["train", *DATA, "epochs=[1"], "cannot parse epochs=[1"),
    (["train", "--epochs", "3"], "option=value"),
    (["train", *DATA, "-cd", "nowhere"], "-cd nowhere: there is no such folder"),
    (["train", *DATA, "seed=1,2", "-m", "--cfg", "job"], "--multirun"),
    (["completion", "tcsh"], "bash, zsh or fish"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_costs_three_lines_at_most_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.splitlines()) <= 3
    assert "Traceback" not in err
    assert out == ""


def test_a_mistake_shows_before_torch_is_loaded():
    done = run("-X", "importtime", "-m", "avatar_bench", "train", *DATA, "mode=full", "stage=3")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert lines == ["stage=3: mode 'full' has 1 stage"]
    assert "| torch\n" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (GuardError("a", "b", "c"), 3, "a\nb\nc\n"),
        (CheckpointError("no run"), 4, "no run\n"),
        (DivergedError("not finite"), 6, "not finite\n"),
        (PermissionError(13, "Permission denied", "/x"), 5, "/x: Permission denied\n"),
        (OSError(28, "No space left on device", "/x"), 5, "/x: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_an_error_becomes_its_lines_and_exit_code(error, code, message, stub, capsys):
    stub("train", error)
    with open(os.devnull, "w") as stdout, redirect_stdout(stdout):  # a real one, which the command may close
        assert main(["train", *DATA]) == code
    assert capsys.readouterr().err == message


def test_a_bug_is_one_line_and_with_the_debug_variable_a_traceback(stub, capsys, monkeypatch):
    stub("train", ValueError("first\nsecond"))
    assert main(["train", *DATA]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("internal error: ValueError: first second (please report")
    monkeypatch.setenv("AVATAR_BENCH_DEBUG", "1")
    stub("train", GuardError("void"))
    assert main(["train", *DATA]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("\nvoid\n")


def test_sigterm_ends_with_143():
    process = subprocess.Popen([sys.executable, "-c", STUB], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()


def test_a_reader_who_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = run("-m", "avatar_bench", "list", "models", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_leaves_nothing_of_hydras_behind(stub, tmp_path, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv), signal.getsignal(signal.SIGTERM)
    stub("train")
    assert main(["train", *DATA]) == 0
    assert (sys.argv, signal.getsignal(signal.SIGTERM)) == before
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_nine_models_needs_no_flag_and_takes_other_options_along(stub, monkeypatch):
    calls, jobs = stub("train"), run_first_job(monkeypatch)
    assert main(["train", *DATA, "sweep=nine_models", "seed=7", "out=my sweep, nine"]) == 0
    assert len(set(list_values(jobs, "experiment"))) == len(jobs) == 9
    assert list_values(jobs, "seed") == [7] * 9
    (call,) = calls
    assert call["job"].startswith("experiment=")
    assert (call["seed"], call["sweep"], call["data"]["root"]) == (7, "my sweep, nine", "images")


def test_several_evaluations_leave_no_sweep_folder(stub, tmp_path):
    calls = stub("evaluate")
    assert main(["evaluate", "-m", "ckpt=runs/a,runs/b"]) == 0
    assert [call["ckpt"] for call in calls] == ["runs/a", "runs/b"]
    assert list(tmp_path.iterdir()) == []

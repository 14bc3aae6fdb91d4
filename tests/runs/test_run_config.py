"""Tests of what a run folder may state: it names no code, and options have the names of now."""

import json
import shlex
import sys
from itertools import cycle
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.commands.train import TrainConfig
from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.entries import use_folders
from avatar_bench.config.instantiate import check_node
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml
from avatar_bench.runs.run_config import refuse_foreign_choices, rename_options
from tests.builders.commands import change_record
from tests.builders.run_files import write_file

MARK = "it-ran"


# what would leave a file in the working folder, or worse, if it were built; by target
GADGETS = {
    "os.system": [f"touch {MARK}"],
    "subprocess.Popen": [["touch", MARK]],
    "builtins.exec": [f"open('{MARK}', 'w')"],
    "pathlib.Path.touch": [{"_target_": "pathlib.Path", "_args_": [MARK]}],
    "shutil.rmtree": ["kept"],
    "pickle.load": [{"_target_": "builtins.open", "_args_": ["evil.pickle", "rb"]}],
    "torch.load": ["evil.pickle"],
    "hydra.utils.instantiate": [{"_target_": "os.system", "_args_": [f"touch {MARK}"]}],
    "functools.partial": [{"_target_": "hydra.utils.get_method", "path": "os.system"}, f"touch {MARK}"],
    "evil.Class": [],
    # by way of the libraries whose classes a run folder may name
    "torch.optim.optimizer.os.system": [f"touch {MARK}"],
    "torch.optim.swa_utils.AveragedModel": [],
    "timm.optim.create_optimizer_v2": [],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder, on sys.path, in which gadgets find what they would run."""
    code = f"import pathlib\npathlib.Path('{MARK}').touch()\nclass Class: ...\n"
    (tmp_path / "evil.py").write_text(code)
    (tmp_path / "evil.pickle").write_bytes(f"cposix\nsystem\n(S'touch {MARK}'\ntR.".encode())
    (tmp_path / "kept").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


KEYS = {
    "optimizer": lambda gadget: gadget,
    "optimizer.options.a": lambda gadget: gadget,
    "schedule": lambda gadget: gadget,
    "schedule.nested": lambda gadget: {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": gadget},
    "logger.csv": lambda gadget: gadget,
    "callbacks.others.a": lambda gadget: {"_target_": "pytorch_lightning.callbacks.LambdaCallback", "setup": [gadget]},
    "trainer.plugins.a": lambda gadget: gadget,
    "model.backbone": lambda gadget: gadget,
    "model.options.a": lambda gadget: [{"b": gadget}],
}


def write_run(key, target):
    """Write the folder of an interrupted run of somebody else, with a gadget in its configuration; return that file."""
    write_file(Path("run/checkpoints/best.ckpt"), "")
    write_file(Path("run/run.json"), '{"status": "interrupted"}')
    value = KEYS[key]({"_target_": target, "_args_": GADGETS[target]})
    for name in reversed(key.split(".")):
        value = {name: value}
    return write_file(Path("run/config.yaml"), json.dumps(value))


def nothing_ran(here):
    return not (here / MARK).exists() and (here / "kept").is_dir() and "evil" not in sys.modules


def refused(words, here, capfd):
    """Check that a command ends with 2, in three lines, and ran nothing; return what it said."""
    assert main(words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert 1 <= len(printed.err.splitlines()) <= 3, printed.err
    assert "Traceback" not in printed.err
    assert nothing_ran(here)
    return printed.err


def refuse(stored, typed=(), folder=Path("run")):
    refuse_foreign_choices(stored, dict(typed), TrainConfig, folder)


@pytest.mark.parametrize(("target", "key"), list(zip(GADGETS, cycle(KEYS), strict=False)))
def test_a_run_folder_that_names_code_is_refused_by_its_name(target, key, here):
    file = write_run(key, target)
    with pytest.raises(ConfigError, match="a run folder cannot choose it") as error:
        refuse(json.loads(file.read_text()))
    names = (target, "pathlib.Path", "torch.optim.lr_scheduler.LambdaLR", "pytorch_lightning.callbacks.LambdaCallback")
    assert any(f"_target_={name}:" in error.value.lines[0] for name in names)
    assert nothing_ran(here)


def test_no_command_takes_code_of_a_run(here, capfd):
    write_run("schedule.nested", "os.system")
    assert "cannot choose it" in refused(["train", "resume=run"], here, capfd)
    for command in ("evaluate ckpt=run", "predict ckpt=run input=evil.py", "report runs=run", "export ckpt=run"):
        assert main(command.split()) in (3, 4)  # they build nothing of it, and the run has no checkpoint
        assert nothing_ran(here)


def test_a_run_may_name_what_the_yaml_of_the_project_or_of_a_folder_of_the_user_names(here):
    groups = {group: find_choices(group) for group in ("logger", "callbacks", "schedule", "model")}
    shipped = {group: {name: read_yaml(file) for name, file in files.items()} for group, files in groups.items()}
    refuse({group: shipped[group] for group in ("logger", "callbacks", "schedule")})
    refuse({"model": shipped["model"]["efficientnet_lite0"]["model"]})
    patient = shipped["callbacks"]["early_stopping"]["early_stopping"] | {"patience": 9}
    refuse({"callbacks": {"others": {"mine": patient}}})  # numbers are free
    config = {"schedule": {"_target_": "evil.Class"}}
    with pytest.raises(ConfigError, match="cannot choose it"):
        refuse(config)
    write_file(here / "my" / "schedule" / "mine.yaml", "# mine\n_target_: evil.Class\n")
    with use_folders([here / "my"]):
        refuse(config)
    write_file(here / "schedules" / "config.yaml", "a: {_target_: evil.Class}\n")  # no group: may be a run folder
    with use_folders([here]), pytest.raises(ConfigError, match="cannot choose it"):
        refuse({"schedule": {"_target_": "other.Class"}})
    assert "evil" not in sys.modules


CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "{folder}", "name": "", "version": "{logs}"}
SPIKES = {"_target_": "pytorch_lightning.callbacks.SpikeDetection", "exclude_batches_path": "kept"}
WANDB = {"_target_": "pytorch_lightning.loggers.WandbLogger", "name": "{name}", "project": "avatar_bench"}
OUTWARD = {  # what may write elsewhere, or ask the network with the keys of the user
    "logger.csv": (
        *(CSV | {"save_dir": path} for path in ("/tmp", "mywork", "{folder}_sibling")),
        CSV | {"save_dir": "mywork", "version": ""},
        CSV | {"name": "s3://bucket"},
    ),
    "trainer.devices": (64,),
    "logger.b": (WANDB | {"save_dir": "{folder}/logs", "offline": False},),
    "callbacks.others.a": (SPIKES, {"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "_args_": ["kept"]}),
    "data.shards": ("s3://bucket/set", "kept"),
    "data.manifest": ("https://example.org/a.csv", "all.csv", "~/all.csv", "run/../all.csv"),
    "data.ood": ({"other": "/elsewhere"},),
    "model.weights": ("hub", "kept/weights.pth"),
    "model.package": ({"distribution": "other-package", "file": "*.pth"},),
    "model.backbone": ("hf-hub:owner/name", "local-dir:kept"),
    "teacher": ("hf:OWNER/NAME", "kept"),
    "init_from": ("kept",),
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in OUTWARD.items() for value in values])
def test_a_run_of_somebody_else_chooses_nothing_outside_of_its_folder(option, value, here):
    stored = value
    for name in reversed(option.split(".")):
        stored = {name: stored}
    with pytest.raises(ConfigError, match="cannot choose it") as error:
        refuse(stored, {"logger": {"csv": CSV}})  # what is composed where the user types nothing
    assert error.value.lines[0].startswith(option)
    assert "repeat beside resume=" in error.value.lines[1]
    refuse(stored, stored)  # the user has typed it
    refuse({"data": {"manifest": "run/split.csv"}, "model": {"weights": "none"}, "out": "anywhere"})


@pytest.mark.slow
def test_options_that_a_run_folder_cannot_choose_are_repeated_to_resume_it(here, capfd):
    write_run("logger.csv", "os.system")
    Path("run/config.yaml").write_text(json.dumps({"logger": {"csv": CSV | {"save_dir": "/tmp"}}}))
    printed = refused(["train", "resume=run"], here, capfd)
    assert "logger.csv.save_dir=/tmp: a run folder cannot choose it" in printed
    printed = refused(["train", "resume=run", "logger.csv.save_dir=/tmp"], here, capfd)
    assert "cannot choose it" not in printed  # but it lacks other options
    assert "needs a value" in printed
    printed = refused(["train", "resume=run", "logger.csv.save_dir=/"], here, capfd)
    assert "logger.csv.save_dir=/ cannot change it" in printed


@pytest.mark.parametrize("change", ["another user", "another configuration", "none"])
def test_a_run_that_this_user_trained_resumes_with_what_it_chose(change, run_copy, capfd, monkeypatch, tmp_path):
    change_record(run_copy, status="interrupted")
    if change == "another user":
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # with a key of its own
    elif change == "another configuration":
        file = run_copy / "config.yaml"
        file.write_text(f"{file.read_text()}# a word more\n")
    assert main(["train", f"resume={run_copy}"]) == (0 if change == "none" else 2)
    *_, first, last = capfd.readouterr().err.splitlines()
    assert ("cannot choose it" in first) is (change != "none")
    if change == "another user":  # who types it again
        words = shlex.split(last.partition("resume=: ")[2])
        assert main(["train", f"resume={run_copy}", *words]) == 0


def test_the_options_of_an_earlier_version_are_those_of_now_or_refused():
    schedule = {"name": "cosine", "options": {}, "warmup_epochs": 1.0, "factor": 0.5, "patience": 1}
    optimizer = {"name": "sam", "base": "sgd", "momentum": 0.8, "rho": 0.1, "adaptive": None, "weight_decay": 0.2}
    callbacks = {"early_stopping": 2, "ema": 0.9, "swa": None, "others": {}, "progress": False}
    logger = {"name": "wandb", "options": {}, "project": "mine", "offline": False}
    old = {"seed": 1, "optimizer": optimizer | {"schedule": schedule}, "callbacks": callbacks, "logger": logger}
    new = rename_options(old)
    assert new["seed"] == 1
    options = {"momentum": 0.8, "nesterov": True}
    expected = {"name": "sgd", "rho": 0.1, "adaptive": False, "weight_decay": 0.2, "options": options}
    assert new["optimizer"] == expected
    assert new["schedule"]["warmup_epochs"] == 1.0
    assert new["schedule"].keys() == {"_target_", "steps", "epochs", "warmup_epochs"}
    assert new["callbacks"].keys() == {"others", "progress"}
    others = new["callbacks"]["others"]
    assert (others["early_stopping"]["patience"], others["ema"]["decay"]) == (2, 0.9)
    assert "swa" not in others
    wandb = new["logger"]["wandb"]
    assert (wandb["project"], wandb["offline"], wandb["name"]) == ("mine", False, "{name}")
    assert rename_options(new) == new
    optimizer = {"name": "adamw", "schedule": {"name": "stairs"}}  # of a former kind
    new = rename_options({"optimizer": optimizer, "callbacks": {}, "logger": {"name": "lines"}})
    for option, node in (("schedule", new["schedule"]), ("logger.lines", new["logger"]["lines"])):
        with pytest.raises(ConfigError, match=r"expected \{_target_: CLASS"):
            check_node(option, node)
    assert rename_options({"optimizer": 3, "callbacks": "x"}) == {"optimizer": 3, "callbacks": "x"}

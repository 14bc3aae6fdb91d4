"""Tests of what a run folder may state: it names no code, and options have the names of now."""

import json
import sys
from contextlib import nullcontext
from itertools import cycle
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.entries import use_folders
from avatar_bench.config.instantiate import check_node
from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import read_yaml
from avatar_bench.runs.run_config import check_run_config, refuse_outward_nodes, rename_options
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


@pytest.mark.parametrize(("target", "key"), list(zip(GADGETS, cycle(KEYS), strict=False)))
def test_a_run_folder_that_names_code_is_refused_by_its_name(target, key, here):
    file = write_run(key, target)
    with pytest.raises(ConfigError, match="a run folder cannot name code") as error:
        check_run_config(json.loads(file.read_text()), file)
    assert any(f"_target_={name}:" in error.value.lines[0] for name in (target, "pathlib.Path"))
    assert nothing_ran(here)


def test_no_command_takes_code_of_a_run(here, capfd):
    write_run("schedule.nested", "os.system")
    commands = ("train resume=run", "train data=folder data.root=none init_from=run", "evaluate ckpt=run")
    for command in (*commands, "predict ckpt=run input=evil.py"):
        assert "_target_=os.system: a run folder cannot name code" in refused(command.split(), here, capfd)


def test_a_run_may_name_what_the_yaml_of_the_project_or_of_a_folder_of_the_user_names(here):
    file = here / "config.yaml"
    known = ["torch.optim.NAdam", "timm.optim.Lion", "torch.optim.lr_scheduler.StepLR"]
    known += ["pytorch_lightning.callbacks.Timer", "pytorch_lightning.loggers.CSVLogger"]
    known += ["avatar_bench.training.optimization.WarmupCosine"]
    check_run_config({"a": [{"_target_": target} for target in known]}, file)
    config = {"schedule": {"_target_": "evil.Class"}}
    with pytest.raises(ConfigError, match="cannot name code"):
        check_run_config(config, file)
    write_file(here / "my" / "schedule" / "mine.yaml", "# mine\n_target_: evil.Class\n")
    with use_folders([here / "my"]):
        check_run_config(config, file)
    write_file(here / "schedules" / "config.yaml", "a: {_target_: evil.Class}\n")  # no group: may be a run folder
    with use_folders([here]), pytest.raises(ConfigError, match="cannot name code"):
        check_run_config({"schedule": {"_target_": "other.Class"}}, file)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("target", "is_own"), [("evil.Class", True), ("evil.pathlib", False), ("evil.Class.mro", False), ("evil", False)]
)
def test_a_run_may_name_a_class_that_a_module_in_a_folder_of_the_user_defines(target, is_own, here):
    with use_folders([here]), nullcontext() if is_own else pytest.raises(ConfigError, match="cannot name code"):
        check_run_config({"callbacks": {"others": {"mine": {"_target_": target}}}}, here / "config.yaml")
    assert "evil" not in sys.modules  # it is read, not run
    (here / "evil.py").write_text("class Class(:\n")  # a broken module defines no class
    with use_folders([here]), pytest.raises(ConfigError, match="cannot name code"):
        check_run_config({"schedule": {"_target_": "evil.Class"}}, here / "config.yaml")


CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "{folder}", "name": "", "version": "{logs}"}


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"_target_": "pytorch_lightning.loggers.CometLogger"}, "_target_"),
        ({"_target_": "pytorch_lightning.loggers.wandb.WandbLogger"}, "_target_"),
        (CSV | {"save_dir": "/tmp"}, "save_dir"),
        (CSV | {"save_dir": "{folder}/../elsewhere"}, "save_dir"),
        (CSV | {"version": "~/elsewhere"}, "version"),
        (CSV | {"name": "s3://bucket"}, "name"),
        ({"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "dirpath": "elsewhere"}, "dirpath"),
        ({"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "filename": "../elsewhere"}, "filename"),
        ({"_target_": "pytorch_lightning.callbacks.ModelCheckpoint", "_args_": ["elsewhere"]}, "_args_"),
    ],
)
def test_a_run_that_is_resumed_writes_into_its_folder_alone_and_uses_no_network(node, key):
    with pytest.raises(ConfigError) as error:
        refuse_outward_nodes({"logger": {"a": node}}, {})
    assert f"logger.a.{key}=" in error.value.lines[0]
    assert "repeat the options of logger beside resume=" in error.value.lines[1]
    refuse_outward_nodes({"logger": {"a": node}}, {"logger": {"a": node}})  # the user has typed it
    others = {"stop": {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss"}}
    others |= {"timer": {"_target_": "pytorch_lightning.callbacks.Timer", "duration": "00:08:00:00"}}
    names = ("csv", "mlflow", "tensorboard", "wandb")
    loggers = {name: read_yaml(find_choices("logger")[name])[name] for name in names} | {"mine": CSV | {"name": "mine"}}
    refuse_outward_nodes({"callbacks": {"others": others}, "logger": loggers}, {})  # usual nodes need not be typed


@pytest.mark.slow
def test_options_that_a_run_folder_cannot_choose_are_repeated_to_resume_it(here, capfd):
    write_run("logger.csv", "os.system")
    Path("run/config.yaml").write_text(json.dumps({"logger": {"csv": CSV | {"save_dir": "/tmp"}}}))
    assert "logger.csv.save_dir=/tmp: a run folder cannot choose it" in refused(["train", "resume=run"], here, capfd)
    printed = refused(["train", "resume=run", "logger.csv.save_dir=/tmp"], here, capfd)
    assert "cannot choose it" not in printed  # but it lacks other options
    assert "needs a value" in printed
    printed = refused(["train", "resume=run", "logger.csv.save_dir=/"], here, capfd)
    assert "logger.csv.save_dir=/ cannot change it" in printed


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

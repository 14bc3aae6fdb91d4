"""The rules of each command's options, on configurations that Hydra composed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from avatar_bench.config.catalogue import PLAIN_COMMANDS, find_choices, find_commands, find_conf_folder
from avatar_bench.config.composition import register
from avatar_bench.config.options import find_option
from avatar_bench.config.rules import check_config
from avatar_bench.config.schema import find_schema
from avatar_bench.errors import ConfigError
from avatar_bench.training import environment

GROUPS = [
    *("mode", "augmentation", "optimizer", "trainer", "callbacks", "logger"),
    *(pytest.param(group, marks=pytest.mark.slow) for group in ("model", "experiment")),
]
BASE = {
    "prepare": [],
    "train": ["data=folder", "data.root=images"],
    "evaluate": [],
    "predict": ["input=photos", "output=predictions.csv"],
}


@pytest.fixture(scope="module", autouse=True)
def _hydra():
    register("train")  # before Hydra is initialized, as the program does
    with initialize_config_dir(str(find_conf_folder()), version_base="1.3"):
        yield


def composed(command, words=()):
    register(command, words)  # and the blocks in its defaults, or named
    return compose(command, [*BASE[command], *words])


def test_the_defaults_and_values_at_the_edge_keep_every_rule_and_a_missing_one_is_named():
    for command in BASE:
        check_config(command, composed(command))
    for command, words in (
        ("train", ["data.fraction=1", "data.limit=1", "data.fold=9", "lr=1e-9", "epochs=1"]),
        ("train", ["mode=progressive", "stage=2"]),
        ("train", ["data.batch_size={cpu: 1, cuda: 8}"]),
        ("evaluate", ["allow=[permutation,overlap]"]),
        ("predict", ["output=-"]),
        ("predict", ["output=A.CSV"]),
        ("predict", ["output=a.parquet"]),
        ("train", [f"model.weights='{__file__}'"]),  # any file
    ):
        check_config(command, composed(command, words))
    register("predict")
    with pytest.raises(ConfigError) as caught:
        check_config("predict", compose("predict"))
    assert caught.value.lines == ("predict needs a value for input", "for example: avatar-bench predict input=photos/")


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_train_keeps_every_rule(group, monkeypatch):
    monkeypatch.setattr(environment, "refuse_missing_devices", lambda *devices: None)  # which may lack a GPU
    for name in find_choices(group):
        words = ["model.backbone=resnet34"] if name == "timm" else []
        check_config("train", composed("train", [f"{group}={name}", *words]))


STUDY = {"flip": 0.5, "jitter": [0.2, 0.2, 0.2, 0.05], "rotation": 10, "noise": 0.02}


def test_the_augmentation_is_that_of_the_command_line_then_the_recipe_then_the_mode():
    for words, expected in (
        ([], STUDY),
        (["augmentation=none", "data.augment.flip=.1"], {"flip": 0.1}),
        (["augmentation=delivery"], {"flip": 0.5, "delivery": 0.9}),
        (["augmentation=strong"], {**STUDY, "randaugment": 9, "cutmix": 1}),
        (["mode=frozen"], {}),
        (["mode=frozen", "augmentation=study"], STUDY),
        (["model=dinov2_small"], {}),  # its yaml chooses mode=frozen
        (["experiment=efficientnet_b0_frozen", "augmentation=delivery"], {"flip": 0.5, "delivery": 0.9}),
        (["sweep=leave_one_source_out"], {}),
    ):
        augmentation = OmegaConf.to_container(composed("train", words).data.augment)
        active = {name: value for name, value in augmentation.items() if np.any(value)}
        assert active == expected


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", ["mode=full", "stage=2"], "stage=2: mode 'full' has 1 stage"),
        ("train", ["stage=0"], "stage=0: expected at least 1"),
        ("train", ["lr=0"], "lr=0"),
        ("train", ["label_smoothing=1"], "label_smoothing=1"),
        ("train", ["mode.stages=[{unfreeze: head, epochs: 1, lr: 1}]"], "mode.stages[0].unfreeze=head"),
        ("train", ["mode.stages=[{unfreeze: all, lr: 1}]"], "mode.stages[0].epochs"),
        ("train", ["data.resize=stretch"], "squash, crop or pad"),
        ("train", ["data.split.folds=2"], "at least 3"),
        ("train", ["data.fold=10"], "less than data.split.folds=10"),
        ("train", ["data.split.held_out=[ink]"], "data.split.by=source or generator"),
        ("train", ["++data.split.units={a: [ink], b: [ink]}"], "expected every source in one unit only"),
        ("train", ["allow=[everything]"], "expected near_duplicates, label_conflict, shortcut or pretraining"),
        ("train", ["data.fraction=0"], "more than 0 and at most 1"),
        ("train", ["data.batch_size=big"], "data.batch_size=big"),
        ("train", ["data.batch_size={cpu: 0, cuda: 8}"], "data.batch_size"),
        ("train", ["data.augment.jitter=[1,2]"], "four numbers"),
        ("train", ["data.augment.flip=2"], "from 0 to 1"),
        ("train", ["data.augment.cutmix=-1"], "data.augment.cutmix=-1.0: expected 0 or more"),
        ("train", ["data.root=null"], "data=folder requires data.root=PATH"),
        ("train", ["data.manifest=x.csv"], "data=manifest"),
        ("train", ["data=run", "data.root=null"], "for evaluate"),
        ("train", ["optimizer.name=lio"], "there is no such optimizer; did you mean lion"),
        ("train", ["optimizer.weigth_decay=0"], "there is no such option; did you mean weight_decay?"),
        ("train", ["optimizer._target_=torch.optim.NAdam", "optimizer.momentum=1"], "did you mean momentum_decay?"),
        ("train", ["++logger.csv.tag=x"], "logger.csv.tag: there is no such option"),
        ("train", ["schedule=cosine", "schedule.warmup_epochs=x"], "schedule.warmup_epochs=x: expected 0 or more"),
        ("train", ["callbacks.ema=.9"], "it is now callbacks=ema callbacks.ema.decay=VALUE"),
        ("train", ["callbacks.progres=false"], "callbacks.progres: no such option; did you mean progress?"),
        ("train", ["optimizer.adaptive=true"], "optimizer.adaptive=true requires optimizer.rho=VALUE"),
        ("train", ["++schedule.warmup_epochs=1"], "schedule={'warmup_epochs': 1}: expected {_target_: CLASS, ...}"),
        ("train", ["schedule=cosine", "schedule.warmup_epochs=3", "epochs=3"], "expected fewer than the 3 epochs"),
        ("train", ["trainer.precision=16"], "trainer.precision=16"),
        ("train", ["model.weights=nowhere.pth"], "no such file"),
        ("train", ["callbacks=[ema,swa]"], "exclude each other"),
        ("train", ["callbacks=swa", "epochs=2"], "the longest stage has 2 epochs"),
        ("train", ["init_from=a", "resume=b"], "exclude each other"),
        ("train", ["model=timm"], "model.backbone=resnet34"),
        ("evaluate", ["split=train"], "expected test, val, calibration, blind"),
        ("evaluate", ["block=[]"], "for example"),
        ("evaluate", ["data=folder", "data.root=a", "data.name=val"], "names of the run's own sets"),
        ("prepare", ["source=folder"], "out=DIR"),
        ("prepare", ["data=folder", "out=x"], "source=folder source.folder.root=DIR"),
        ("prepare", ["equalise=png"], "equalise=png: expected jpeg"),
        ("prepare", ["split.held_out=[a]"], "split.by=source 'split.held_out=[tabler]'"),
        ("prepare", ["block=[blind_test]"], "prepare always runs data_audit"),
        ("predict", ["precision=64"], "32, bf16, 16 or int8"),
    ],
)
def test_a_broken_rule_names_the_option_and_what_was_expected(command, words, message):
    with pytest.raises(ConfigError) as caught:
        check_config(command, composed(command, words))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_the_guards_that_may_be_passed_are_those_there_are():
    package = Path(sys.modules[check_config.__module__].__file__ or "").parents[1]
    sources = [file.read_text(encoding="utf-8") for file in package.rglob("*.py")]
    guards = {name for text in sources for name in re.findall(r'"(\w+)" (?:not )?in (?:\w+\.)?allow\b', text)}
    commands = [name for name in find_commands() if name not in PLAIN_COMMANDS]
    stated = [find_option(find_schema(command), "allow") for command in commands]
    assert {guard for option in stated if option is not None for guard in option[1].list_choices()} == guards

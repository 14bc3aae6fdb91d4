"""Tests of quoting with Hydra's own parser and OmegaConf."""

import random
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from avatar_bench.config.options import find_option
from avatar_bench.config.overrides import (
    choose_sweep_folder,
    is_multirun,
    make_sweep_overrides,
    name_job,
    quote,
    split_flags,
)
from avatar_bench.config.path_quoting import quote_paths
from avatar_bench.config.schema import find_schema
from avatar_bench.errors import ConfigError

AWKWARD = ["a,b", "[draft]", "[a,b](c){d: e}", "it's", "'both' \"kinds\"", "прогон/лучший", "${HOME}", "\\${x}"]
AWKWARD += ["a\\b\\", "@list.txt", "{a: b}", "a:b#c%d!e?f&g;h|i", " at both ends ", "007", "true", "line\nbreak"]
COMMANDS = ["evaluate", "predict", "train", "report"]
PATH_OPTIONS = ["out", "ckpt", "input", "output", "runs", "resume", "init_from", "data.root", "data.manifest"]
PATH_OPTIONS += ["data.blind", "model.weights", "source.folder.root"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(word, multirun=False):
    """Return the value that a command would see."""
    option = word.lstrip("+").partition("=")[0]
    owner = next((command for command in COMMANDS if find_option(find_schema(command), option)), "prepare")
    (quoted,) = quote_paths(owner, [word], multirun)
    override = OverridesParser.create().parse_override(quoted)
    return OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)["x"]


@pytest.mark.parametrize("value", AWKWARD)
@pytest.mark.parametrize("option", ["ckpt", "data.root"])
def test_a_path_arrives_as_it_was_typed(option, value):
    listed = option == "ckpt" and value == "[draft]"
    assert read(f"{option}={value}") == (["draft"] if listed else value)


@pytest.mark.parametrize("option", PATH_OPTIONS)
def test_every_path_option_is_quoted(option):
    assert read(f"{option}=a (b), c=d") == "a (b), c=d"
    assert read(f"+{option}=a (b), c=d") == "a (b), c=d"


def test_any_string_survives_quoting():
    draw = random.Random(0)
    parts = ["\\", "'", '"', "$", "{", "}", "[", "]", "(", ")", "=", ",", " ", "a", "Ж", "~", ":", "${a}", "${", "/"]
    for _ in range(100):
        value = "".join(draw.choices(parts, k=draw.randint(1, 9)))
        override = OverridesParser.create().parse_override(f"x={quote(value)}")
        assert OmegaConf.create({"x": override.value()}).x == value


def test_other_options_and_no_value_are_left_to_hydra():
    assert quote_paths("train", ["model=a,b", "seed=1", "~logger"]) == ["model=a,b", "seed=1", "~logger"]
    assert read("out=null") is None
    assert read("out=") == ""
    assert read("out=???") == "./???"  # a path, and no missing value


def test_a_tilde_is_the_home_folder_unless_a_file_has_that_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read("out=~/runs") == "/home/me/runs"
    assert read("out=~") == "/home/me"
    assert read("out=~a") == "~a"
    Path("~").mkdir()
    assert read("out=~") == "~"


def test_brackets_make_a_list_of_runs_whose_elements_are_quoted_one_by_one():
    assert read("ckpt=[runs/a b, runs/(c)]") == ["runs/a b", "runs/(c)"]
    assert read("""ckpt=["a,b",'c=d',e]""") == ["a,b", "c=d", "e"]
    assert read("ckpt=[runs/a]") == ["runs/a"]
    assert read("out=[a,b]") == "[a,b]"  # which is never a list
    Path("a, b").mkdir()
    assert read("ckpt=[a, b,c]") == ["a, b", "c"]
    Path("[a,b]").mkdir()
    assert read("ckpt=[a,b]") == "[a,b]"


@pytest.mark.parametrize("option", ["data.ood", "source.folder.roots"])
def test_the_values_of_a_mapping_are_quoted_one_by_one(option):
    mapping = "{a: /x y, z/(1), b: 'q, w', c:${d}}"
    assert read(f"{option}={mapping}") == {"a": "/x y, z/(1)", "b": "q, w", "c": "${d}"}
    assert quote_paths("train", ["data.ood={a: b}"]) == ["++data.ood={a: 'b'}"]
    assert read("data.ood={}") == {}


def test_a_sweep_over_paths_stays_a_sweep_except_for_a_path_that_exists_and_for_out():
    (word,) = quote_paths("train", ["model.weights=none,/a b/c.pth"], multirun=True)
    assert OverridesParser.create().parse_override(word).is_sweep_override()
    assert quote_paths("predict", ["ckpt=glob(*)"], multirun=True) == ["ckpt=glob(*)"]
    Path("a,b").mkdir()
    assert read("ckpt=a,b", multirun=True) == "a,b"
    assert read("out=c,d", multirun=True) == "c,d"


def test_flags_may_stand_anywhere():
    words = ["model=a,b", "-m", "seed=1", "-cd", "my yaml", "--cfg=job"]
    assert split_flags(words) == (["-m", "-cd", "my yaml", "--cfg=job"], ["model=a,b", "seed=1"])


def test_a_flag_that_is_unknown_or_lacks_its_value_is_refused_and_a_file_may_be_named_like_one():
    for words in (["--model", "a"], ["-cd"], ["--cfg", "foo"]):
        with pytest.raises(ConfigError) as error:
            split_flags(words)
        assert 1 <= len(error.value.lines) <= 3
    Path("-my.jpg").touch()
    with pytest.raises(ConfigError, match=r"write the file of that name as \./-my\.jpg"):
        split_flags(["-my.jpg"])
    assert split_flags(["./-my.jpg"]) == ([], ["./-my.jpg"])


def test_a_multirun_is_asked_for_by_flag_sweep_or_mode():
    assert is_multirun(["-m"], [])
    assert is_multirun(["--multirun"], [])
    assert is_multirun([], ["sweep=nine_models"])
    assert is_multirun([], ["hydra.mode=MULTIRUN"])
    assert not is_multirun([], ["sweep=null", "model=a"])


def test_a_sweep_lies_under_its_name_or_the_swept_options():
    assert choose_sweep_folder(["sweep=nine_models", "seed=3"]) == Path("runs/nine_models")
    assert choose_sweep_folder(["model=a,b", "data.fold=range(3)", "seed=1"]) == Path("runs/model-data.fold")
    assert choose_sweep_folder(["model=a,b", "out=my sweep"]) == Path("my sweep")
    assert choose_sweep_folder(["hydra/sweeper=optuna", "seed=1"]) == Path("runs/sweep")
    with pytest.raises(ConfigError, match="no option has more than one value"):
        choose_sweep_folder(["seed=1"])


def test_the_jobs_of_a_sweep_are_named_by_what_is_swept():
    words = ["model=a,b", "seed=1", "data.root='a,b'", "hydra.verbose=false", "mode=choice(full,frozen)"]
    folder, names = make_sweep_overrides(words, Path("runs/x y"))
    assert folder == "hydra.sweep.dir='runs/x y'"
    assert names == "hydra.job.config.override_dirname.exclude_keys=[seed,data.root]"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model=resnet18", "mode.shots=5", "seed=1"], "resnet18-shots5-seed1"),
        (["data.fraction=0.25", "+data.limit=null", "trainer.compile=true"], "fraction0.25-limitnull-compiletrue"),
        (["lr=0.0031622776601683794", "seed=12345678"], "lr0.0031623-seed12345678"),
        (["data.split.held_out=[tabler]"], "tabler"),
        (["data.split.held_out=['naev']", "hydra.launcher.n_jobs=2", "hydra/launcher=joblib"], "naev"),
        (["epochs=5", "model=resnet18"], "resnet18"),
        (["~epochs", "++epochs=5"], "unnamed"),
        (["data.split.held_out=['a b']"], "a_b-c868"),
        (["data.split.held_out=[a_b]"], "a_b"),
        (["data.split.held_out=[a,b]"], "a_b-1eb7"),
    ],
)
def test_a_job_is_named_by_what_it_does_not_share(words, name):
    assert name_job(words, ("epochs",)) == name


def test_a_long_list_of_sources_is_cut_and_stays_distinct_as_a_folder_name():
    listed = [",".join(f"'source-{number}-of-{end}'" for number in range(30)) for end in "ab"]
    names = {name_job([f"data.split.held_out=[{sources}]", "seed=1"]) for sources in listed}
    assert len(names) == 2
    assert all(len(name) < 80 and name.endswith("-seed1") for name in names)

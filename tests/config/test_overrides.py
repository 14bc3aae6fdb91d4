"""Tests of quoting with Hydra's own parser and OmegaConf."""

import random
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from avatar_bench.config import overrides
from avatar_bench.config.options import find_option
from avatar_bench.config.overrides import choose_sweep_folder, is_multirun, name_job, quote, split_flags
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


def test_a_path_arrives_as_it_was_typed_and_any_string_survives_quoting():
    for value in AWKWARD:
        for option in ("ckpt", "data.root"):
            listed = option == "ckpt" and value == "[draft]"
            assert read(f"{option}={value}") == (["draft"] if listed else value)
    draw = random.Random(0)
    parts = ["\\", "'", '"', "$", "{", "}", "[", "]", "(", ")", "=", ",", " ", "a", "Ж", "~", ":", "${a}", "${", "/"]
    for _ in range(100):
        value = "".join(draw.choices(parts, k=draw.randint(1, 9)))
        override = OverridesParser.create().parse_override(f"x={quote(value)}")
        assert OmegaConf.create({"x": override.value()}).x == value


def test_every_path_option_is_quoted_and_others_and_no_value_are_left_to_hydra():
    for option in PATH_OPTIONS:
        assert read(f"{option}=a (b), c=d") == "a (b), c=d"
        assert read(f"+{option}=a (b), c=d") == "a (b), c=d"
    assert quote_paths("train", ["model=a,b", "seed=1", "~logger"]) == ["model=a,b", "seed=1", "~logger"]
    assert read("out=null") is None
    assert read("out=") == ""
    assert read("out=???") == "./???"  # a path, and no missing value


def test_sweeps_over_paths_stay_unless_a_path_exists_and_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read("out=~/runs") == "/home/me/runs"
    assert read("out=~") == "/home/me"
    assert read("out=~a") == "~a"
    Path("~").mkdir()
    assert read("out=~") == "~"
    (word,) = quote_paths("train", ["model.weights=none,/a b/c.pth"], multirun=True)
    assert OverridesParser.create().parse_override(word).is_sweep_override()
    assert quote_paths("predict", ["ckpt=glob(*)"], multirun=True) == ["ckpt=glob(*)"]
    Path("a,b").mkdir()
    assert read("ckpt=a,b", multirun=True) == "a,b"
    assert read("out=c,d", multirun=True) == "c,d"


def test_brackets_make_a_list_and_braces_a_mapping_whose_values_are_quoted_one_by_one():
    assert read("ckpt=[runs/a b, runs/(c)]") == ["runs/a b", "runs/(c)"]
    assert read("""ckpt=["a,b",'c=d',e]""") == ["a,b", "c=d", "e"]
    assert read("ckpt=[runs/a]") == ["runs/a"]
    assert read("out=[a,b]") == "[a,b]"  # which is never a list
    Path("a, b").mkdir()
    assert read("ckpt=[a, b,c]") == ["a, b", "c"]
    Path("[a,b]").mkdir()
    assert read("ckpt=[a,b]") == "[a,b]"
    for option in ("data.ood", "source.folder.roots"):
        mapping = "{a: /x y, z/(1), b: 'q, w', c:${d}}"
        assert read(f"{option}={mapping}") == {"a": "/x y, z/(1)", "b": "q, w", "c": "${d}"}
        assert quote_paths("train", ["data.ood={a: b}"]) == ["++data.ood={a: 'b'}"]
        assert read("data.ood={}") == {}


def test_flags_may_stand_anywhere_but_unknown_ones_or_ones_without_their_value_are_refused():
    words = ["model=a,b", "-m", "seed=1", "-cd", "my yaml", "--cfg=job"]
    assert split_flags(words) == (["-m", "-cd", "my yaml", "--cfg=job"], ["model=a,b", "seed=1"])
    for words in (["--model", "a"], ["-cd"], ["--cfg", "foo"]):
        with pytest.raises(ConfigError) as error:
            split_flags(words)
        assert 1 <= len(error.value.lines) <= 3
    Path("-my.jpg").touch()
    with pytest.raises(ConfigError, match=r"write the file of that name as \./-my\.jpg"):
        split_flags(["-my.jpg"])
    assert split_flags(["./-my.jpg"]) == ([], ["./-my.jpg"])


def test_a_sweep_is_asked_for_by_flag_sweep_or_mode_and_named_by_what_is_swept():
    assert is_multirun(["-m"], [])
    assert is_multirun(["--multirun"], [])
    assert is_multirun([], ["sweep=nine_models"])
    assert is_multirun([], ["hydra.mode=MULTIRUN"])
    assert not is_multirun([], ["sweep=null", "model=a"])
    assert choose_sweep_folder(["sweep=nine_models", "seed=3"]) == Path("runs/nine_models")
    assert choose_sweep_folder(["model=a,b", "data.fold=range(3)", "seed=1"]) == Path("runs/model-data.fold")
    assert choose_sweep_folder(["model=a,b", "out=my sweep"]) == Path("my sweep")
    assert choose_sweep_folder(["hydra/sweeper=optuna", "seed=1"]) == Path("runs/sweep")
    with pytest.raises(ConfigError, match="no option has more than one value"):
        choose_sweep_folder(["seed=1"])
    words = ["model=a,b", "seed=1", "data.root='a,b'", "hydra.verbose=false", "mode=choice(full,frozen)"]
    folder, names = overrides.make_sweep_overrides(words, Path("runs/x y"))
    assert folder == "hydra.sweep.dir='runs/x y'"
    assert names == "hydra.job.config.override_dirname.exclude_keys=[seed,data.root]"


def test_a_job_is_named_by_what_it_does_not_share_and_long_lists_are_cut_and_stay_distinct():
    for words, name in (
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
    ):
        assert name_job(words, ("epochs",)) == name
    listed = [",".join(f"'source-{number}-of-{end}'" for number in range(30)) for end in "ab"]
    names = {name_job([f"data.split.held_out=[{sources}]", "seed=1"]) for sources in listed}
    assert len(names) == 2
    assert all(len(name) < 80 and name.endswith("-seed1") for name in names)

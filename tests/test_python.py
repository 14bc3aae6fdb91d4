"""The functions of avatar_bench, compared with their commands."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra._internal.hydra
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from PIL import Image

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.cli.python_calls import keep_process_state
from avatar_bench.config.composition import keep_hydra_state
from avatar_bench.errors import AvatarBenchError, BlockError, ConfigError, DataError
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run

QUICK = {f"block__data_audit__{name}": value for name, value in (("resamples", 100), ("folds", 2))}
QUICK |= {f"block__data_audit__{name}": False for name in ("equalised", "label_errors", "marks")}

RESAMPLES = ["block.blind_test.resamples=100"]


def type_command(*words):
    """Run a command line, which may change the process, unlike a function."""
    with keep_process_state():
        return main(words)


def list_process_state():
    loggers = [entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    return {
        "hydra": GlobalHydra.instance().hydra,
        "configurations": str(ConfigStore.instance().repo),
        "plugins": dict(Plugins.instance().class_name_to_class),
        "has its loader": hydra._internal.hydra.ConfigLoaderImpl,
        "resolver": OmegaConf.has_resolver("units"),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "warnings": list(warnings.filters),
        "loggers": {logger.name: logger.level for logger in loggers},
        "root": (logging.root.level, list(logging.root.handlers)),
        "words": list(sys.argv),
        "variables": {key: value for key, value in os.environ.items() if key.startswith(("AVATAR", "HYDRA"))},
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _unchanged(tmp_path, monkeypatch):
    """Check that a test leaves the process as it was, with a Hydra app of the user that runs all the time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "own.yaml").write_text("where: {_target_: pathlib.Path}\n")
    with keep_hydra_state():
        hydra._internal.hydra.ConfigLoaderImpl = ConfigLoaderImpl  # type: ignore[misc, attr-defined, unused-ignore]
        initialize_config_dir(str(tmp_path / "app"), version_base="1.3")
        before = list_process_state()
        yield
        after = list_process_state()
        new = after["loggers"].keys() - before["loggers"].keys()  # of libraries that are imported meanwhile
        after["loggers"] = {name: level for name, level in after["loggers"].items() if name not in new}
        assert after == before
        assert compose("own").where["_target_"] == "pathlib.Path"


@pytest.fixture
def options(small):
    """Options of a training of about a second, as Python's keyword arguments."""
    return {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in small)}


def read_metrics(folder):
    """Read a metrics.json without the times in it."""
    saved: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    saved["provenance"] = {key: value for key, value in saved["provenance"].items() if "seconds" not in key}
    return saved


def test_no_module_has_the_name_of_a_function():
    root = Path(avatar_bench.__file__).parent
    names = {file.stem for file in root.iterdir()}
    assert names.isdisjoint(avatar_bench.__all__)
    assert dir(avatar_bench) == sorted(avatar_bench.__all__)  # what completion offers
    assert all(callable(getattr(avatar_bench, name)) for name in avatar_bench.__all__ if name != "__version__")


@pytest.mark.slow
def test_prepare_gives_what_the_command_gives(images):
    shutil.copytree(images / "blind" / "real", "photos/real")
    source = {"source": "folder", "source__folder__root": "photos"}
    dataset = avatar_bench.prepare(**source, out="my two, or = three", **QUICK)
    words = [f"{name.replace('__', '.')}={str(value).lower()}" for name, value in (source | QUICK).items()]
    assert type_command("prepare", "out=typed", *words) == 0
    assert (dataset.root / "manifest.csv").read_bytes() == Path("typed", "manifest.csv").read_bytes()
    assert dataset.name == "my two, or = three"
    assert dataset.classes == ("real",)


def test_train_gives_what_the_command_gives(options, small):
    run = avatar_bench.train(**options, data__limit=60, out=Path("one"))
    assert type_command("train", *small, "data.limit=60", "out=typed") == 0
    assert isinstance(run, Run)
    assert run.record.weights_sha256 == avatar_bench.load("typed").record.weights_sha256
    assert (Path(run) / "split.csv").read_bytes() == Path("typed", "split.csv").read_bytes()
    assert "<td>drawing, generated, real</td>" in run._repr_html_()


@pytest.mark.slow
def test_train_returns_the_runs_of_a_sweep_in_a_folder_of_the_user(options):
    Path("my/sweep").mkdir(parents=True)
    Path("my/sweep/two.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"
    )
    options |= {"data__limit": 60, "hydra__searchpath": ["my"]}
    runs = avatar_bench.train(sweep="two", **options, out="sweep")
    assert [run.seed for run in runs] == [1, 2]
    with pytest.raises(DataError, match=r"see the table above, or jobs\.csv"):
        avatar_bench.train(sweep="two", **options, stage=9, out="other")


@pytest.mark.slow
def test_evaluate_gives_what_the_command_gives(run_copy):
    options: dict[str, Any] = {"split": "blind", "data__workers": 0, "block__blind_test__resamples": 100}
    run = avatar_bench.load(run_copy)
    first = run.evaluate("blind_test", **options)
    (second,) = avatar_bench.evaluate(run, out=Path("two"), **options)
    assert type_command("evaluate", str(run_copy), "split=blind", "data.workers=0", *RESAMPLES, "out=typed") == 0
    typed = Path("typed", "evaluation", "blind", "blind_test")
    assert first.folder == run_copy / "evaluation" / "blind" / "blind_test"
    for result in (first, second):
        assert isinstance(result.folder, Path)
        assert read_metrics(result.folder) == read_metrics(typed)
        assert sorted(file.name for file in result.folder.iterdir()) == sorted(file.name for file in typed.iterdir())
    assert first.metrics == second.metrics == Result.load(typed).metrics
    assert "<td>results on blind</td>" in run._repr_html_()
    with pytest.raises(BlockError, match="significance"):
        run.evaluate("significance", split="blind", data__workers=0)


def test_a_result_is_drawn_in_both_languages_and_written_as_latex(tiny_run, tmp_path):
    run = avatar_bench.load(tiny_run)
    result = run.evaluate("blind_test", split="blind", data__workers=0)
    assert result.plot("confusion").axes[0].get_ylabel() == "true class"
    assert result.plot("confusion", lang="ru").axes[0].get_ylabel() == "истинный класс"
    with pytest.raises(ConfigError, match="blind_test has no figure 'confussion'; did you mean confusion"):
        result.plot("confussion")

    figure = result.plot("per_source", size=3.3, style="grayscale")
    figure.savefig(tmp_path / "figure.pdf")
    assert figure.get_figwidth() == pytest.approx(3.3)
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ConfigError, match="style=grey: there is no such style"):
        result.plot("per_source", style="grey")

    accuracy = result.metrics["accuracy"]
    text = f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
    table = result.to_latex("accuracy", "macro_f1")
    assert f"accuracy & {text} & {accuracy.n} \\\\" in table
    assert table.count("&") == 6
    with pytest.raises(ConfigError, match="did you mean accuracy"):
        result.to_latex("acuracy")

    run_lines, lines = str(run).splitlines(), str(result).splitlines()
    assert (len(run_lines), len(lines)) == (5, 5)
    assert run_lines[0] == f"run {tiny_run}: finished"
    assert "blind_test" in run_lines[4]
    assert lines[0].startswith("blind_test: Accuracy")
    assert lines[2].startswith(f"accuracy {accuracy.value:.3f} [")


def test_predict_gives_what_the_command_gives(tiny_run, images):
    photos = Path(shutil.copytree(images / "blind" / "real", "my, photos"))
    (photos / "broken.png").write_text("no image")
    options: dict[str, Any] = {"ckpt": tiny_run, "workers": 0, "precision": 32}
    with pytest.warns(UserWarning, match="1 of 15 files could not be read: see status and reason"):
        rows = avatar_bench.predict("my, photos", **options)
    texts = ["path", "status", "reason", "prediction"]
    for update in (False, True):
        with pytest.warns(UserWarning, match="1 of 15"):
            table = avatar_bench.predict(photos, output=Path("rows.csv"), update=update, **options)
        assert table[texts].fillna("").to_numpy().tolist() == rows[texts].fillna("").to_numpy().tolist()
        np.testing.assert_array_equal(table.iloc[:, 4:].astype(float), rows.iloc[:, 4:].astype(float))
    words = [f"ckpt={tiny_run}", "workers=0", "precision=32", "output=typed.csv"]
    assert type_command("predict", "my, photos", *words) == 3
    assert Path("rows.csv").read_bytes() == Path("typed.csv").read_bytes()
    listed = avatar_bench.predict(sorted(map(str, photos.rglob("0*")))[:2], **options)
    assert listed["status"].tolist() == ["ok", "ok"]
    page = avatar_bench.predict(photos / "new-real", output="page.html", neighbours=True, **options)
    assert (list(page), len(page)) == (list(rows), 14)


def test_report_gives_what_the_command_gives(tiny_run):
    avatar_bench.evaluate(tiny_run, split="blind", data__workers=0)
    pages = [avatar_bench.report(tiny_run, out=Path("one.html")), Path("typed.html")]
    assert type_command("report", str(tiny_run), "out=typed.html") == 0
    page, typed = (re.sub(r"\d\d:\d\d(:\d\d)?", "", page.read_text(encoding="utf-8")) for page in pages)
    assert page == typed


def test_an_imported_detector_is_a_run(tiny_run, images):
    avatar_bench.predict(images / "blind", output="scores.csv", ckpt=tiny_run, workers=0)
    run = avatar_bench.import_detector(kind="predictions", file="scores.csv", root="/", out="one")
    data = {"data": "manifest", "data__manifest": images / "blind.csv", "block__blind_test__resamples": 100}
    (plain,) = avatar_bench.evaluate(tiny_run, out="plain", **data)
    assert run.evaluate("blind_test", **data).metrics["accuracy"] == plain.metrics["accuracy"]


MISTAKES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[str]]] = [
    (avatar_bench.evaluate, (), {"ckpt": "nowhere"}, ["evaluate", "ckpt=nowhere"]),
    (avatar_bench.train, (), {"lr": "fast"}, ["train", "lr=fast"]),
    (avatar_bench.report, ("nowhere",), {}, ["report", "runs=nowhere"]),
]


@pytest.mark.parametrize(("function", "paths", "options", "words"), MISTAKES)
def test_a_mistake_is_an_exception_with_the_words_of_the_command_line(function, paths, options, words, capsys):
    with pytest.raises(AvatarBenchError) as caught:
        function(*paths, **options)
    assert capsys.readouterr().err == ""
    assert type_command(*words) == caught.value.exit_code
    assert capsys.readouterr().err == f"{caught.value}\n"


def test_a_main_option_given_twice_and_an_image_in_memory_are_refused():
    with pytest.raises(ConfigError, match="ckpt is given twice"):
        avatar_bench.evaluate("a", ckpt="b")
    for image in (np.zeros((2, 2, 3)), Image.new("RGB", (2, 2))):
        with pytest.raises(ConfigError, match=f"expected the path of a file or folder, got {type(image).__name__}"):
            avatar_bench.predict(image)


def test_a_run_has_a_short_repr_and_refuses_arrays(tiny_run):
    run = avatar_bench.load(tiny_run)
    assert repr(run) == f"Run({str(tiny_run)!r})"
    with pytest.raises(ConfigError, match="takes paths of image files, not ndarray"):
        run.predict([np.zeros((8, 8, 3), np.uint8)])


def test_ctrl_c_and_bugs_reach_the_caller(monkeypatch):
    for kind in (KeyboardInterrupt, ZeroDivisionError):

        def fail(cfg, kind=kind):
            raise kind

        monkeypatch.setattr("avatar_bench.commands.report.execute", fail)
        with pytest.raises(kind):
            avatar_bench.report()


def test_notebooks_show_names_escaped_and_classes_in_the_order_of_the_checkpoint(tiny_run, images):
    evil = "<script>alert(1)</script>\u202e.png"
    Path(evil).parent.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(evil)
    run = avatar_bench.load(tiny_run)
    for shown in (run.predict([evil]), run.predictions(run.dataset("test"))):
        text = shown._repr_html_()
        assert "<script" not in text
        assert "\u202e" not in text
        assert re.findall("<th>prob_(.*?)</th>", text) == ["drawing", "generated", "real"]
        assert "does not prove its origin" in text
        assert "far less accurate" in text
    result = Result("robustness", evil, 3, ("b<", "a"))
    assert "b&lt;, a" in result._repr_html_()
    assert "<ul>" not in result._repr_html_()
    result.warnings.append(Reason("class_absent", name=evil))
    assert "<ul><li>The set has no image of class &lt;script" in result._repr_html_()
    assert "<script" not in result._repr_html_()
    run.record.mode = evil
    assert "<script" not in run._repr_html_()

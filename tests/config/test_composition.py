"""Composing: overrides that refer to themselves are refused, and a single run is composed once."""

from __future__ import annotations

from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from avatar_bench.cli.app import main


@pytest.mark.parametrize(
    "words",
    [
        ["+model.options.x=${model.options.y}", "+model.options.y=${model.options.x}"],
        ["+model.options.x={y: ${model.options.x}}"],
    ],
    ids=["circle", "own"],
)
def test_what_has_no_end_is_refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data=folder", "data.root=none", *words]) == 2
    err = capfd.readouterr().err
    assert 1 <= len(err.splitlines()) <= 3
    assert len(err) < 1000


def test_an_option_may_refer_to_another(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "data=folder", "data.root=none", "data.split.seed=${seed}", "--cfg", "job", "--resolve"]) == 0
    assert "seed: 42" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "data=folder", "data.root=none"], "none is not a folder"),
        (["train", "data=folder", "data.root=none", "seed=1,2"], "seed=1,2"),
    ],
)
def test_the_configuration_of_a_single_run_is_composed_once(
    words: list[str], told: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, compose = [], ConfigLoaderImpl._load_configuration_impl

    def count(loader: Any, **options: Any) -> Any:
        composed.append(options["overrides"])
        return compose(loader, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", count)
    assert main(words) in (2, 3)
    assert told in capfd.readouterr().err
    assert len(composed) == 1


def test_an_experiment_wins_over_the_defaults_of_a_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "sweep=sources", "data=folder", "data.root=none", "--cfg", "job"]
    assert main([*words, "experiment=resnet50_full"]) == 0
    assert "mode:\n  name: full\n" in capfd.readouterr().out
    assert main(words) == 0
    assert "mode:\n  name: probe\n" in capfd.readouterr().out

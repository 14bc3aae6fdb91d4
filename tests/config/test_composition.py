"""Composing: overrides that refer to themselves are refused, and a single run is composed once."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from avatar_bench.cli.app import main

WORDS = ["train", "data=folder", "data.root=none"]


def test_references_without_an_end_are_refused_and_an_experiment_wins_over_the_defaults_of_a_sweep(capfd):
    for words in (
        ["+model.options.x=${model.options.y}", "+model.options.y=${model.options.x}"],
        ["+model.options.x={y: ${model.options.x}}"],
    ):
        assert main([*WORDS, *words]) == 2
        err = capfd.readouterr().err
        assert 1 <= len(err.splitlines()) <= 3
        assert len(err) < 1000
    assert main([*WORDS, "data.split.seed=${seed}", "--cfg", "job", "--resolve"]) == 0
    assert "seed: 42" in capfd.readouterr().out
    words = [*WORDS, "sweep=sources", "--cfg", "job"]
    assert main([*words, "experiment=resnet50_full"]) == 0
    assert "mode:\n  name: full\n" in capfd.readouterr().out
    assert main(words) == 0
    assert "mode:\n  name: probe\n" in capfd.readouterr().out


@pytest.mark.parametrize(("words", "message"), [([], "none is not a folder"), (["seed=1,2"], "seed=1,2")])
def test_the_configuration_of_a_single_run_is_composed_once(words, message, capfd, monkeypatch):
    composed, compose = [], ConfigLoaderImpl._load_configuration_impl

    def count(loader, **options):
        composed.append(options["overrides"])
        return compose(loader, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", count)
    assert main([*WORDS, *words]) in (2, 3)
    assert message in capfd.readouterr().err
    assert len(composed) == 1

"""Labelled runs: unique labels, and one recipe name for runs that differ only in the seed."""

import pytest
import yaml

from avatar_bench.runs.labels import label_runs
from avatar_bench.runs.record import RunRecord
from tests.builders.run_files import write_file


@pytest.fixture
def make(tmp_path):
    """Return a function that writes the record and the configuration of a run, by default of a network named m."""

    def build(name, config=None, **record):
        folder = tmp_path / name
        options = {"seed": record.get("seed", 0), "out": name, "lr": 1e-3} | (config or {})
        write_file(folder / "config.yaml", yaml.safe_dump(options))
        RunRecord(**{"status": "finished", "mode": "frozen", "name": "m", **record}).write(folder)
        return folder

    return build


def list_names(folders):
    """Return the recipes and the labels of runs."""
    runs = label_runs(folders)
    return [run.recipe for run in runs], [run.label for run in runs]


def test_runs_that_differ_in_the_seed_or_in_what_has_no_part_in_what_is_learned_are_of_one_recipe(make):
    recipes, labels = list_names([make(f"job{seed}", seed=seed) for seed in (1, 2)])
    assert recipes == ["m frozen"] * 2
    assert labels == ["m frozen · seed 1", "m frozen · seed 2"]
    pairs = [(rate, seed) for rate in (0.1, 0.2) for seed in (1, 2)]  # which differ in an option too
    _, labels = list_names([make(f"{rate}-{seed}", {"lr": rate}, seed=seed) for rate, seed in pairs])
    assert labels == [f"m frozen lr={rate} · seed {seed}" for rate, seed in pairs]
    plain = {"data": {"workers": 2, "fraction": 1.0}, "trainer": {"threads": 2, "precision": "32"}}
    changes = [{}, {"lang": "ru"}, {"logger": {"name": "none"}}, {"data": {"workers": 4, "fraction": 1.0}}]
    changes.append({"trainer": {"threads": 1, "precision": "32"}})
    assert len(set(list_names([make(f"{k}", plain | change) for k, change in enumerate(changes)])[0])) == 1


def test_runs_of_one_name_are_named_by_their_options_else_by_the_folder(make):
    for first, second, endings in (
        ({"lr": 1e-4}, {"lr": 1e-2}, ("lr=0.0001", "lr=0.01")),
        ({"data": {"resize": "a"}}, {"data": {}}, ("data.resize=a", "data.resize=null")),
        ({}, {"lr": 1, "epochs": 2, "mode": {"balance": "none"}}, ("(a)", "(b)")),
    ):
        recipes = [f"m frozen {ending}" for ending in endings]
        assert list_names([make("a", first), make("b", second)]) == (recipes, recipes)


def test_a_run_is_called_by_its_experiment_its_shots_its_start_and_what_was_held_out_else_by_its_place(make, tmp_path):
    sam = {"optimizer": {"name": "adamw", "rho": 0.5, "adaptive": True}}
    folders = [
        make("a", experiment="resnet50_full"),
        make("b", {"mode": {"shots": 5}}, mode="few_shot"),
        make("s", sam, init={"method": "simclr"}),
        make("c", {"data": {"split": {"held_out": ["tabler"]}}}),
    ]
    sam = "m frozen sam 0.5 adaptive from simclr"
    assert list_names(folders)[1] == ["resnet50_full", "m few_shot 5 shots", sam, "m frozen without tabler"]
    _, labels = list_names([make(f"{folder}/job", seed=1) for folder in ("a", "b", "c")])
    assert len(set(labels)) == 3
    (tmp_path / "best.ckpt").touch()
    assert list_names([tmp_path / "best.ckpt"])[1] == ["best.ckpt"]

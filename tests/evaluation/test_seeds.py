"""Tests of recipes of several seeds: which runs are of one, and what is said of their seeds."""

from pathlib import Path

import numpy as np
import pytest

from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.evaluation.seeds import Recipes, group_across_options, warn_about_seeds, weigh_doublings
from avatar_bench.metrics.units import Units
from avatar_bench.results.reasons import Reason


def test_families_differ_in_the_option_and_the_seed_and_are_named_by_options_or_folders(fake_run, oracle):
    def run(seed=1, shots=5, backbone="net", name="net", **fields):
        config = {"seed": seed, "model": {"backbone": backbone}, "mode": {"name": "few_shot", "shots": shots}}
        return fake_run(oracle("noisy"), seed=seed, config=config, record={"name": name, "mode": "few_shot"}, **fields)

    runs = [run(), run(shots=9), run(backbone="other", name="other"), run(seed=2)]
    assert group_across_options(runs, "mode.shots") == {"net few_shot": [0, 1, 3], "other few_shot": [2]}
    assert runs[0].config["mode"]["shots"] == 5
    names = [f"net few_shot model.backbone={backbone}" for backbone in ("net", "other")]
    assert list(group_across_options([run(), run(backbone="other")], "mode.shots")) == names
    folders = [Path(name) for name in ("ink-study-seed1", "gan-study-seed2", "ink-strong-seed1")]
    for places, names in ((folders, ("study", "ink-strong-seed1")), ([None] * 3, ("(1)", "(2)"))):
        runs = [run(folder=folder) for folder in places]
        runs[2].config["data"] = {"augment": {"flip": 0, "noise": 1, "rotation": 2}}
        assert list(group_across_options(runs, "mode.shots")) == [f"net few_shot {name}" for name in names]


def test_slopes_are_those_of_least_squares_and_few_or_repeated_seeds_are_said():
    numbers, values = [5, 10, 40], np.array([0.5, 0.62, 0.7])
    assert values @ weigh_doublings(numbers) == pytest.approx(np.polyfit(np.log2(numbers), values, 1)[0])
    assert warn_about_seeds({"a": [1, 2], "b": [1, 3, 4]}) == []
    assert warn_about_seeds({"a": [1], "b": [2]}) == [Reason("each_has_one_seed")]
    assert warn_about_seeds({"a": [1], "b": [1, 2]}) == [Reason("one_seed", names=["a"])]
    assert warn_about_seeds({"a": [1, 1], "b": [1, 2]}) == [Reason("repeated_seeds", names=["a"])]
    right = np.ones((2, 40), dtype=bool)
    recipes = Recipes({"a": [0, 1]}, right, Units(np.arange(40)), (1, 2))
    block = IntervalOptions(resamples=100)
    metric = recipes.accuracies(block, recipes.draw(block))["a"]
    assert (metric.value, metric.interval) == (1, "wilson by group")
    assert 0.8 < metric.low < metric.high == pytest.approx(1)

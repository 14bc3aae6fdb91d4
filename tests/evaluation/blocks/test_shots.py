"""Tests of learning curves: what is compared, intervals over seeds and groups, and what is saved."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.blocks.shots import Shots
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result


@pytest.fixture
def compare(fake_run, dataset_of):
    """Compare {(recipe, shots, seed): Predictions}; shots of None are a run on all images."""

    def run(found, **options):
        runs = [
            fake_run(
                each,
                label=f"{recipe} {shots} {seed}",
                recipe=f"{recipe} {shots} shots",
                seed=seed,
                config={"seed": seed, "model": {"backbone": recipe}, "mode": {"name": "few_shot", "shots": shots}},
                record={"name": recipe, "mode": "few_shot"},
            )
            for (recipe, shots, seed), each in found.items()
        ]
        return Shots(**{"resamples": 200, **options}).compare(runs, [dataset_of(each) for each in found.values()])

    return run


@pytest.fixture
def curve(make_predictions):
    """Return predictions of recipes whose accuracy grows with the shots and differs by seed."""

    def build(recipes=("a",), shots=(5, 20, 80), seeds=(1, 2, 3), n=180, size=1):
        rng = np.random.default_rng(0)
        targets = np.arange(n) % 3
        groups = [f"g{i // size}" for i in range(n)]
        collected = {}
        for index, recipe in enumerate(recipes):
            for number in shots:
                for seed in seeds:
                    signal = 0.5 + 0.8 * index + 0.5 * np.log2(number / 5) + 0.2 * rng.normal()
                    logits = rng.normal(size=(n, 3)) + signal * np.eye(3)[targets]
                    collected[recipe, number, seed] = make_predictions(targets, logits, groups=groups)
        return collected

    return build


def test_a_point_is_the_mean_over_its_seeds_with_an_interval_over_seeds_and_groups(compare, curve):
    given = curve(size=2)
    result = compare(given)
    table = result.tables["curve"]
    assert list(table["shots"]) == [5, 20, 80]
    assert (set(table["seeds"]), set(table["n"]), set(table["units"])) == ({3}, {180}, {90})
    for row in table.itertuples():
        own = [each for (_, shots, _), each in given.items() if shots == row.shots]
        accuracies = [accuracy_score(each.targets, each.predicted) for each in own]
        assert row.accuracy == pytest.approx(np.mean(accuracies))
        assert row.spread_over_seeds == pytest.approx(np.std(accuracies, ddof=1))
        f1s = [f1_score(each.targets, each.predicted, average="macro") for each in own]
        assert row.macro_f1 == pytest.approx(np.mean(f1s))
        assert row.low < row.accuracy < row.high
        assert row.macro_f1_low < row.macro_f1 < row.macro_f1_high
        metric = result.metrics[f"accuracy/{row.shots}"]
        assert (metric.value, metric.low, metric.interval) == (row.accuracy, row.low, "bootstrap by seed and group")
    assert result.warnings == []


def test_seeds_that_differ_widen_the_interval(compare, make_predictions):
    targets = np.arange(150) % 3
    right = np.arange(150) < 75

    def answers(which):
        return make_predictions(
            targets, np.eye(3)[np.where(which, targets, (targets + 1 + np.arange(150) // 3 % 2) % 3)]
        )

    given = {("a", 10, s): answers(right) for s in range(4)}
    given |= {("a", 20, s): answers(np.arange(150) < (51, 60, 90, 99)[s]) for s in range(4)}
    same, spread = compare(given).tables["curve"].itertuples()
    assert same.accuracy == spread.accuracy == 0.5
    assert spread.high - spread.low > 1.3 * (same.high - same.low)
    assert (same.spread_over_seeds, spread.spread_over_seeds) == pytest.approx(
        (0, np.std((0.34, 0.4, 0.6, 0.66), ddof=1))
    )


def test_gain_per_doubling_is_the_slope_over_the_logarithm(compare, curve):
    result = compare(curve())
    table, metric = result.tables["curve"], result.metrics["gain_per_doubling"]
    slope = np.polyfit(np.log2(table["shots"]), table["accuracy"], 1)[0]
    assert metric.value == pytest.approx(slope)
    assert 0 < metric.low < slope < metric.high


def test_several_recipes_have_a_curve_each(compare, curve):
    result = compare(curve(("a", "b"), shots=(5, 20)))
    table = result.tables["curve"]
    assert list(zip(table["recipe"], table["shots"], strict=True)) == [
        ("a few_shot", 5),
        ("a few_shot", 20),
        ("b few_shot", 5),
        ("b few_shot", 20),
    ]
    assert {"accuracy/a few_shot/5", "gain_per_doubling/b few_shot"} <= set(result.metrics)


def test_the_level_of_guessing_is_stated_and_drawn(compare, make_predictions, draw_saved):
    targets = np.repeat([0, 1, 2], [120, 60, 20])
    predictions = {("a", shots, 1): make_predictions(targets, np.eye(3)[targets]) for shots in (5, 10)}
    result = compare(predictions)
    guesses = np.tile(np.arange(3), len(targets))  # each image guessed once of each class: exactly what is expected
    expected = f1_score(np.repeat(targets, 3), guesses, average="macro")
    assert result.metrics["accuracy/5"].floor == pytest.approx(1 / 3)
    assert result.metrics["macro_f1/5"].floor == pytest.approx(expected)
    figure = draw_saved(result)["curve"]
    for axes, level in zip(figure.axes, (1 / 3, expected), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [pytest.approx(level)]
    assert "chance" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_perfect_oracle_is_right_at_every_number_and_a_uniform_one_at_none(compare, oracle):
    table = compare({("a", 5, 1): oracle("uniform"), ("a", 10, 1): oracle("perfect")}).tables["curve"]
    guess, good = table.itertuples()
    assert guess.low < 1 / 3 < guess.high
    assert (good.accuracy, good.macro_f1) == (1, 1)


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_a_wrong_class_order_is_refused(compare, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        compare({("a", 5, 1): oracle("noisy"), ("a", 10, 1): oracle(("permuted", order))})


def test_runs_on_all_images_are_left_out_and_said(compare, oracle):
    given = {("a", 5, 1): oracle("noisy"), ("a", 10, 1): oracle("noisy", seed=1), ("b", None, 1): oracle("noisy")}
    result = compare(given)
    assert len(result.tables["runs"]) == 2
    assert result.warnings == [Reason("each_has_one_seed"), Reason("no_shots", n=1, all=3)]
    assert result.metrics["spread_over_seeds/5"].reason == Reason("trained_with_one_seed")


@pytest.mark.parametrize("shots", [(None, None), (5, None), (5, 5)])
def test_fewer_than_two_numbers_of_shots_are_no_curve(compare, oracle, shots):
    with pytest.raises(BlockError, match="sweep=shots"):
        compare({("a", number, seed): oracle("noisy", seed=seed) for seed, number in enumerate(shots)})


def test_every_figure_can_be_recomputed_from_what_is_saved(compare, curve, tmp_path):
    folder = compare(curve(("a", "b"), shots=(5, 20))).save(tmp_path / "shots")
    loaded = Result.load(folder)
    runs = loaded.tables["runs"]
    with np.load(folder / "answers.npz") as stored:
        target, predicted = stored["target"], stored["predicted"]
    for (recipe, shots), own in runs.groupby(["recipe", "shots"]):
        accuracies = [accuracy_score(target, predicted[row]) for row in own.index]
        f1s = [f1_score(target, predicted[row], average="macro") for row in own.index]
        said = {name: loaded.metrics[f"{name}/{recipe}/{shots}"].value for name in ("accuracy", "macro_f1")}
        assert said == pytest.approx({"accuracy": np.mean(accuracies), "macro_f1": np.mean(f1s)}, abs=1e-6)
        spread = loaded.metrics[f"spread_over_seeds/{recipe}/{shots}"].value
        assert spread == pytest.approx(np.std(accuracies, ddof=1), abs=1e-6)


def test_an_option_out_of_range_is_named():
    with pytest.raises(ConfigError, match=r"block.shots.level=2"):
        Shots(level=2)


@pytest.mark.slow
def test_trained_runs_make_a_curve(train, tmp_path):
    from avatar_bench.cli.app import main

    for shots in (4, 8):
        train(tmp_path / "runs" / f"{shots}", "mode=few_shot", f"mode.shots={shots}", "mode.val_shots=4", "seed=3")
    assert main(["evaluate", f"ckpt={tmp_path / 'runs'}", "block=shots"]) == 0
    table = Result.load(tmp_path / "runs" / "evaluation" / "test" / "shots").tables["curve"]
    assert list(table["shots"]) == [4, 8]
    assert table["recipe"].nunique() == 1

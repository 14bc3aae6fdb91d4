"""Tests of learning curves: what is compared, intervals over seeds and groups, and what is saved."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.shots import Shots
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from tests.builders.commands import run_undrawn


@pytest.fixture
def compare(fake_run, dataset_of):
    """Compare {(recipe, shots, seed): Predictions}; shots of None are a run on all images."""

    def run(predictions):
        runs = []
        for (recipe, shots, seed), of_run in predictions.items():
            config = {"seed": seed, "model": {"backbone": recipe}, "mode": {"name": "few_shot", "shots": shots}}
            names = {"label": f"{recipe} {shots} {seed}", "recipe": f"{recipe} {shots} shots", "seed": seed}
            runs.append(fake_run(of_run, config=config, record={"name": recipe, "mode": "few_shot"}, **names))
        return Shots(resamples=200).compare(runs, [dataset_of(of_run) for of_run in predictions.values()])

    return run


@pytest.fixture
def curve(make_predictions):
    """Return predictions of recipes whose accuracy grows with the shots and differs by seed, groups of two images."""

    def build(recipes=("a",), shots=(5, 20, 80)):
        rng, targets, predictions = np.random.default_rng(0), np.arange(180) % 3, {}
        for index, recipe in enumerate(recipes):
            for number in shots:
                for seed in (1, 2, 3):
                    signal = 0.5 + 0.8 * index + 0.5 * np.log2(number / 5) + 0.2 * rng.normal()
                    logits = rng.normal(size=(180, 3)) + signal * np.eye(3)[targets]
                    groups = [f"g{i // 2}" for i in range(180)]
                    predictions[recipe, number, seed] = make_predictions(targets, logits, groups=groups)
        return predictions

    return build


def test_curves_of_one_or_several_recipes_can_be_recomputed_from_what_is_saved(compare, curve, tmp_path):
    result = compare(curve())
    table = result.tables["curve"]
    assert list(table["shots"]) == [5, 20, 80]
    assert (set(table["seeds"]), set(table["n"]), set(table["units"])) == ({3}, {180}, {90})
    for row in table.itertuples():
        assert row.low < row.accuracy < row.high
        assert row.macro_f1_low < row.macro_f1 < row.macro_f1_high
        metric = result.metrics[f"accuracy/{row.shots}"]
        assert (metric.value, metric.low, metric.interval) == (row.accuracy, row.low, "bootstrap by seed and group")
    assert result.warnings == []
    slope, gain = np.polyfit(np.log2(table["shots"]), table["accuracy"], 1)[0], result.metrics["gain_per_doubling"]
    assert gain.value == pytest.approx(slope)
    assert 0 < gain.low < slope < gain.high
    loaded = Result.load(compare(curve(("a", "b"), shots=(5, 20))).save(tmp_path / "shots"), arrays=True)
    points = [[f"{recipe} few_shot", shots] for recipe in "ab" for shots in (5, 20)]
    assert loaded.tables["curve"][["recipe", "shots"]].to_numpy().tolist() == points
    assert "gain_per_doubling/b few_shot" in loaded.metrics
    target, predicted = (loaded.arrays["answers"][name] for name in ("target", "predicted"))
    for (recipe, shots), rows in loaded.tables["runs"].groupby(["recipe", "shots"]):
        accuracies = [accuracy_score(target, predicted[row]) for row in rows.index]
        f1s = [f1_score(target, predicted[row], average="macro") for row in rows.index]
        expected = {"accuracy": np.mean(accuracies), "macro_f1": np.mean(f1s)}
        expected |= {"spread_over_seeds": np.std(accuracies, ddof=1)}
        values = {name: loaded.metrics[f"{name}/{recipe}/{shots}"].value for name in expected}
        assert values == pytest.approx(expected, abs=1e-6)


def test_seeds_that_differ_widen_the_interval_and_the_level_of_guessing_is_drawn(compare, make_predictions, draw_saved):
    images, targets = np.arange(150), np.arange(150) % 3

    def answer(n_correct):
        return make_predictions(
            targets, np.eye(3)[np.where(images < n_correct, targets, (targets + 1 + images // 3 % 2) % 3)]
        )

    counts = {10: (75,) * 4, 20: (51, 60, 90, 99)}
    predictions = {("a", shots, s): answer(n) for shots, of_seeds in counts.items() for s, n in enumerate(of_seeds)}
    same, spread = compare(predictions).tables["curve"].itertuples()
    assert same.accuracy == spread.accuracy == 0.5
    assert spread.high - spread.low > 1.3 * (same.high - same.low)
    deviations = 0, np.std((0.34, 0.4, 0.6, 0.66), ddof=1)
    assert (same.spread_over_seeds, spread.spread_over_seeds) == pytest.approx(deviations)
    targets = np.repeat([0, 1, 2], [120, 60, 20])
    result = compare({("a", shots, 1): make_predictions(targets, np.eye(3)[targets]) for shots in (5, 10)})
    guesses = np.tile(np.arange(3), len(targets))  # each image guessed once of each class: exactly what is expected
    expected = f1_score(np.repeat(targets, 3), guesses, average="macro")
    assert result.metrics["accuracy/5"].floor == pytest.approx(1 / 3)
    assert result.metrics["macro_f1/5"].floor == pytest.approx(expected)
    figure = draw_saved(result)["curve"]
    for axes, level in zip(figure.axes, (1 / 3, expected), strict=True):
        assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [pytest.approx(level)]
    assert "chance" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_oracles_are_at_chance_and_right_and_runs_on_all_images_are_left_out_and_counted(compare, oracle):
    result = compare({("a", 5, 1): oracle("uniform"), ("a", 10, 1): oracle("perfect"), ("b", None, 1): oracle("noisy")})
    guess, good = result.tables["curve"].itertuples()
    assert guess.low < 1 / 3 < guess.high
    assert (good.accuracy, good.macro_f1) == (1, 1)
    assert len(result.tables["runs"]) == 2
    assert result.warnings == [Reason("each_has_one_seed"), Reason("no_shots", n=1, all=3)]
    assert result.metrics["spread_over_seeds/5"].reason == Reason("trained_with_one_seed")


@pytest.mark.parametrize("shots", [(None, None), (5, None), (5, 5)])
def test_fewer_than_two_numbers_of_shots_are_no_curve(compare, oracle, shots):
    with pytest.raises(BlockError, match="sweep=shots"):
        compare({("a", number, seed): oracle("noisy", seed=seed) for seed, number in enumerate(shots)})


@pytest.mark.slow
def test_trained_runs_make_a_curve(train, tmp_path):
    for shots in (4, 8):
        train(tmp_path / "runs" / f"{shots}", "mode=few_shot", f"mode.shots={shots}", "mode.val_shots=4", "seed=3")
    assert run_undrawn(["evaluate", f"ckpt={tmp_path / 'runs'}", "block=shots", "data.workers=0"]) == 0
    table = Result.load(tmp_path / "runs" / "evaluation" / "test" / "shots").tables["curve"]
    assert list(table["shots"]) == [4, 8]
    assert table["recipe"].nunique() == 1

"""Tests of the block calibration: its saved files, the oracles, shift, and what it may be fitted on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional import classification as tm

from avatar_bench.cli.app import main
from avatar_bench.data.corruptions import list_corruptions
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.calibration import Calibration, calibration_tables
from avatar_bench.i18n import use_language
from avatar_bench.metrics.calibration import ECE_KINDS, TemperatureFit, calibration_errors, fit_temperature
from avatar_bench.metrics.selective import draw_of_groups
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import draw_figures
from avatar_bench.runs.saved_calibration import DecisionImages, SavedCalibration

KINDS = list_corruptions()
ERRORS = ("nll", "brier", "ece_10", "ece_15", "ece_adaptive", "ece_classwise", "ece_floor", "ece_floor_p95")
SETS = ("coverage/lac", "coverage/aps", "set_size/lac", "set_size/aps")
FAST = {"resamples": 200}
SAVED: list[Path] = []  # made once, from fixtures that live for one test each


def honest(n, scale=1.0, seed=0):
    """Targets drawn from the softmax of logits, and those logits times `scale`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 3))
    targets = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return np.minimum(targets, 2), scale * logits


@pytest.fixture
def evaluate(fake_run, dataset_of):
    """Run the block on Predictions, with the stand-ins of a Run and a Dataset."""

    def call(predictions, calibration=None, options=None, **fields):
        run = fake_run(predictions, calibration=calibration, **fields)
        return Calibration(**FAST | (options or {})).evaluate(run, dataset_of(predictions))

    return call


@pytest.fixture
def overconfident(make_predictions):
    """Return test and calibration Predictions of a network three times overconfident, with its fitted temperature."""
    held_out = make_predictions(*honest(2000, 3, seed=1))
    temperature = fit_temperature(held_out.logits, held_out.targets)
    groups = [f"g{i // 2}" for i in range(2000)]
    evaluated = make_predictions(*honest(2000, 3), groups=groups, temperature=temperature)
    return evaluated, replace(held_out, temperature=temperature)


def shifted(predictions, noise=4.0):
    """Return predictions on less informative images: the variation's name seeds the noise."""

    def vary(variation):
        generator = np.random.default_rng(len(variation.key))
        logits = predictions.logits + generator.normal(0, noise, predictions.logits.shape)
        return replace(predictions, logits=logits.astype(np.float32))

    return vary


@pytest.fixture
def saved(evaluate, overconfident, make_predictions, dataset_of, tmp_path_factory):
    """A saved Result with every part that the block has, read back as files."""
    if not SAVED:
        evaluated, held_out = overconfident
        evaluated = evaluated.take(np.arange(800))
        evaluated = replace(evaluated, targets=np.where(np.arange(800) % 100 == 7, -1, evaluated.targets))
        blind = make_predictions(*honest(300, 9, seed=2), temperature=evaluated.temperature)
        others = {"variations": shifted(evaluated), "blind": (dataset_of(blind, "blind"), blind)}
        result = evaluate(evaluated, held_out, {"severity": 3}, **others)
        SAVED.append(result.save(tmp_path_factory.mktemp("saved") / "calibration", draw_figures))
    return SAVED[0], json.loads((SAVED[0] / "metrics.json").read_text())


def by_libraries(probabilities, targets):
    """The errors of ERRORS but the floors, by scikit-learn, torchmetrics and pandas."""
    given = torch.from_numpy(probabilities), torch.from_numpy(targets)
    confidence = probabilities.max(axis=1)
    gap = pd.Series((probabilities.argmax(axis=1) == targets) - confidence)
    classwise = [
        tm.binary_calibration_error(torch.from_numpy(column.copy()), torch.from_numpy(targets == index), n_bins=15)
        for index, column in enumerate(probabilities.T)
    ]
    return {
        "nll": sk.log_loss(targets, probabilities),
        "brier": sk.brier_score_loss(targets, probabilities, scale_by_half=False),
        "ece_10": float(tm.multiclass_calibration_error(*given, num_classes=3, n_bins=10)),
        "ece_15": float(tm.multiclass_calibration_error(*given, num_classes=3, n_bins=15)),
        "ece_adaptive": gap.groupby(pd.qcut(confidence, 15), observed=True).sum().abs().sum() / len(gap),
        "ece_classwise": float(np.mean(classwise)),
    }


def test_every_error_can_be_recomputed_from_the_saved_logits(saved):
    folder, said = saved
    arrays = np.load(folder / "predictions.npz")
    temperature = said["metrics"]["temperature"]["value"]
    assert said["n"] == len(arrays["targets"]) == 792
    for prefix, divisor in (("", 1), ("scaled/", temperature)):
        expected = by_libraries(softmax(arrays["logits"].astype(float) / divisor, axis=1), arrays["targets"])
        values = {name: said["metrics"][prefix + name]["value"] for name in expected}
        assert values == pytest.approx(expected, abs=1e-6)


def test_the_floors_are_those_of_outcomes_drawn_by_numpy(saved):
    folder, said = saved
    logits, temperature = np.load(folder / "predictions.npz")["logits"], said["metrics"]["temperature"]["value"]
    table = pd.read_csv(folder / "floors.csv").set_index("metric")
    generator = np.random.default_rng(9)
    for prefix, divisor in (("", 1), ("scaled/", temperature)):
        probabilities = softmax(logits.astype(float) / divisor, axis=1)
        drawn = [by_libraries(probabilities, generator.multinomial(1, probabilities).argmax(1)) for _ in range(100)]
        for kind in ("ece_10", "ece_15", "ece_adaptive", "ece_classwise"):
            assert table.loc[prefix + kind, "floor"] == pytest.approx(np.mean([d[kind] for d in drawn]), abs=2e-3)
            assert said["metrics"][prefix + kind]["floor"] == pytest.approx(table.loc[prefix + kind, "floor"])
        for name, column in (("ece_floor", "floor"), ("ece_floor_p95", "floor_p95")):
            assert said["metrics"][prefix + name]["value"] == pytest.approx(table.loc[f"{prefix}ece_15", column])


def test_the_saved_temperature_is_the_best_of_a_grid_on_the_saved_calibration_logits(saved):
    folder, said = saved
    arrays, temperature = np.load(folder / "calibration.npz"), said["metrics"]["temperature"]
    grid = np.linspace(2.8, 3.1, 301)
    losses = [sk.log_loss(arrays["targets"], softmax(arrays["logits"].astype(float) / t, axis=1)) for t in grid]
    assert temperature["value"] == pytest.approx(grid[np.argmin(losses)], abs=1e-3)
    assert temperature["low"] < temperature["value"] < temperature["high"]
    assert temperature["n"] == 2000
    assert said["metrics"]["scaled/temperature"]["value"] == pytest.approx(1, abs=1e-5)


def test_reliability_tables_hold_the_saved_predictions(saved):
    folder, said = saved
    arrays = np.load(folder / "predictions.npz")
    for name, divisor in (("reliability", 1), ("reliability_scaled", said["metrics"]["temperature"]["value"])):
        table = pd.read_csv(folder / f"{name}.csv")
        assert list(table)[:6] == ["bin", "low", "high", "count", "confidence", "accuracy"]
        probabilities = softmax(arrays["logits"].astype(float) / divisor, axis=1)
        frame = pd.DataFrame({"confidence": probabilities.max(1), "hit": probabilities.argmax(1) == arrays["targets"]})
        cut = frame.groupby(pd.cut(frame["confidence"], np.linspace(0, 1, 16)), observed=False)
        np.testing.assert_array_equal(table["count"], cut.size())
        np.testing.assert_allclose(table["accuracy"], cut["hit"].mean(), atol=1e-12)
        np.testing.assert_allclose(table["confidence"], cut["confidence"].mean(), atol=1e-12)
        full = table[table["count"] > 0]
        assert ((full["accuracy_low"] <= full["accuracy"]) & (full["accuracy"] <= full["accuracy_high"])).all()


def test_aurc_is_counted_from_the_saved_predictions(saved):
    folder, said = saved
    arrays = np.load(folder / "predictions.npz")
    probabilities = softmax(arrays["logits"].astype(float) / said["metrics"]["temperature"]["value"], axis=1)
    order = np.argsort(-probabilities.max(axis=1))
    errors = (probabilities.argmax(axis=1) != arrays["targets"])[order]
    running = errors.cumsum() / np.arange(1, len(errors) + 1)
    assert said["metrics"]["aurc"]["value"] == pytest.approx(running.mean(), abs=1e-6)
    assert said["metrics"]["aurc"]["floor"] == pytest.approx(running[-1])


def mapie_sets(fitted, evaluated, temperature, method, alpha=0.1):
    """The sets that MAPIE makes of saved arrays."""
    mapie = pytest.importorskip("mapie.classification")
    theirs = mapie.SplitConformalClassifier(
        Known(), 1 - alpha, method, random_state=Given(1 - fitted["uniforms"], 1 - evaluated["uniforms"])
    )
    theirs.conformalize(softmax(fitted["logits"].astype(float) / temperature, axis=1), fitted["targets"])
    given = softmax(evaluated["logits"].astype(float) / temperature, axis=1)
    params = {"include_last_label": "randomized"} if method == "aps" else None
    return theirs.predict_set(given, conformity_score_params=params)[1][:, :, 0]


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_conformal_sets_are_those_of_mapie_overall_by_class_and_under_shift(saved, method):
    folder, said = saved
    fitted, evaluated = np.load(folder / "calibration.npz"), np.load(folder / "predictions.npz")
    temperature = said["metrics"]["temperature"]["value"]
    member, targets = mapie_sets(fitted, evaluated, temperature, method), evaluated["targets"]
    held = member[np.arange(len(targets)), targets]
    assert said["metrics"][f"coverage/{method}"]["value"] == pytest.approx(held.mean(), abs=1e-6)
    assert said["metrics"][f"set_size/{method}"]["value"] == pytest.approx(member.sum(axis=1).mean(), abs=1e-6)
    table = pd.read_csv(folder / "coverage.csv", keep_default_na=False).query("method == @method").set_index("class")
    for index, name in enumerate(said["classes"]):
        assert table.loc[name, "coverage"] == pytest.approx(held[targets == index].mean(), abs=1e-6)
    assert table.loc["", "empty"] == pytest.approx((member.sum(axis=1) == 0).mean())
    assert table.loc["", "single"] == pytest.approx((member.sum(axis=1) == 1).mean())
    rows, arrays = pd.read_csv(folder / "shift.csv").set_index("set"), np.load(folder / "shift.npz")
    noisy = {"logits": arrays["logits_noise"], "uniforms": evaluated["uniforms"]}
    held = mapie_sets(fitted, noisy, temperature, method)[np.arange(len(targets)), targets]
    assert rows.loc["noise", f"coverage_{method}"] == pytest.approx(held.mean(), abs=1e-6)


def test_the_table_of_shift_is_recomputed_from_the_saved_logits(saved):
    folder, said = saved
    rows, arrays = pd.read_csv(folder / "shift.csv").set_index("set"), np.load(folder / "shift.npz")
    assert list(rows.index) == ["test", *KINDS, "blind"]
    for name in (*KINDS, "blind"):
        logits, targets = arrays[f"logits_{name}"].astype(float), arrays[f"targets_{name}"]
        probabilities = softmax(logits / said["metrics"]["temperature"]["value"], axis=1)
        expected = by_libraries(probabilities, targets)
        for column in ("nll", "ece_15"):
            assert rows.loc[name, column] == pytest.approx(expected[column], abs=1e-6)
        assert rows.loc[name, "accuracy"] == pytest.approx(sk.accuracy_score(targets, logits.argmax(axis=1)))
        assert rows.loc[name, "n"] == len(targets)


def test_the_row_of_the_set_itself_says_what_its_metrics_say(saved):
    folder, said = saved
    row = pd.read_csv(folder / "shift.csv").iloc[0]
    for column, name in (("nll", "scaled/nll"), ("ece_15", "scaled/ece_15"), ("ece_floor", "scaled/ece_floor")):
        assert row[column] == pytest.approx(said["metrics"][name]["value"], abs=1e-12)
    for method in ("lac", "aps"):
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            assert row[f"coverage_{method}{end}"] == said["metrics"][f"coverage/{method}"][key]


def test_coverage_lost_under_shift_is_said(saved):
    folder, said = saved
    rows = pd.read_csv(folder / "shift.csv").set_index("set")
    assert rows.loc["test", "coverage_lac"] == pytest.approx(0.9, abs=0.03)
    assert rows.loc["blind", "coverage_lac"] < 0.8
    lines = [format_reason(Reason.parse(warning), "calibration") for warning in said["warnings"]]
    assert any(line.startswith("blind: only ") and "nominal coverage is 90%" in line for line in lines)
    assert not any(line.startswith("test: only ") for line in lines)


def test_metrics_tables_and_figures_bear_their_names(saved):
    folder, said = saved
    names = {prefix + name for prefix in ("", "scaled/") for name in (*ERRORS, "temperature")}
    assert set(said["metrics"]) == names | {"aurc", *SETS}
    figures = {"reliability", "confidence", "coverage", "shift"}
    assert {file.stem for file in folder.glob("*.png")} == figures
    better = {name: metric["higher_is_better"] for name, metric in said["metrics"].items()}
    assert True not in better.values()
    assert all(better[prefix + name] is False for prefix in ("", "scaled/") for name in ERRORS[:6])
    assert better["aurc"] is False
    assert better["set_size/lac"] is False
    for name in ("ece_15", "scaled/ece_15"):
        metric = said["metrics"][name]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"]


def test_an_overconfident_network_is_mended_and_its_sets_keep_their_promise(evaluate, overconfident):
    result = evaluate(*overconfident)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["temperature"] == pytest.approx(3, abs=0.1)
    assert value["ece_15"] > 2 * value["ece_floor_p95"]
    assert value["scaled/ece_15"] < value["scaled/ece_floor_p95"]
    assert result.metrics["scaled/ece_15"].low == 0
    assert result.metrics["ece_15"].low > 0.05
    assert value["coverage/lac"] == pytest.approx(0.9, abs=0.02)
    assert value["coverage/aps"] == pytest.approx(0.9, abs=0.02)
    assert result.warnings == []


def test_a_perfect_oracle_has_no_error(evaluate, oracle):
    result = evaluate(oracle("perfect"), oracle("perfect", n=60))
    value = {name: metric.value for name, metric in result.metrics.items()}
    for name in (*ERRORS, *(f"scaled/{name}" for name in ERRORS), "aurc"):
        assert value[name] == pytest.approx(0, abs=1e-12)
    assert value["coverage/lac"] == 1
    assert value["set_size/lac"] == 1


def test_a_uniform_oracle_has_the_errors_of_guessing(evaluate, oracle):
    result = evaluate(oracle("uniform", n=600), oracle("uniform", n=300, seed=1))
    for name in ("nll", "brier"):
        assert result.metrics[name].value == pytest.approx(result.metrics[name].floor, abs=1e-3)
    assert result.metrics["nll"].floor == pytest.approx(np.log(3))
    assert result.metrics["ece_15"].value < result.metrics["ece_floor_p95"].value
    assert result.metrics["aurc"].value == pytest.approx(2 / 3, abs=0.06)
    for method in ("lac", "aps"):
        assert result.metrics[f"coverage/{method}"].value == pytest.approx(0.9, abs=0.04)
        assert result.metrics[f"coverage/{method}"].floor == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused(evaluate, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate(oracle(("permuted", order)), oracle("noisy"))
    assert evaluate(oracle(("permuted", order)), oracle("noisy"), allow={"permutation"}).metrics["ece_15"].value > 0.3


def test_nothing_is_fitted_on_the_evaluated_images(evaluate, overconfident, make_predictions, fake_run, dataset_of):
    """Temperature and thresholds do not depend on the evaluated images; evaluating the fitted images is refused."""
    evaluated, held_out = overconfident
    other = make_predictions(*honest(500, 20, seed=5), temperature=evaluated.temperature)
    first, second = evaluate(evaluated, held_out), evaluate(other, held_out)
    assert first.metrics["temperature"] == second.metrics["temperature"]
    assert first.metrics["scaled/temperature"] == second.metrics["scaled/temperature"]
    limits = [set(result.tables["coverage"]["threshold"]) for result in (first, second)]
    assert limits[0] == limits[1]

    run = fake_run(evaluated)

    def refuse(dataset):
        raise GuardError(f"images of {dataset.name} are also in the set that this block is fitted on.")

    run.calibration = refuse
    with pytest.raises(GuardError, match="test are also in"):
        Calibration(**FAST).evaluate(run, dataset_of(evaluated))


def test_without_calibration_images_there_are_errors_and_no_sets(evaluate, oracle, draw_saved):
    result = evaluate(oracle("noisy"))
    assert all(result.metrics[name].value is None for name in (*SETS, "scaled/temperature"))
    assert result.metrics["coverage/lac"].reason == Reason("calibration_unknown")
    assert result.metrics["ece_15"].value > 0
    assert "coverage" not in draw_saved(result)
    assert Reason("no_conformal_sets") in result.warnings
    assert "coverage_lac" not in result.tables["shift"]


def test_after_calibrate_sets_are_fitted_on_the_images_that_decisions_use(
    evaluate, overconfident, make_predictions, dataset_of
):
    evaluated, held_out = overconfident
    predictions = make_predictions(
        *honest(300, 9, seed=6), groups=[f"new{i // 2}" for i in range(300)], temperature=3.0
    )
    is_reference = np.arange(300) < 100
    frame = dataset_of(predictions).frame.assign(sha256=[f"{10**6 + i:064x}" for i in range(300)])
    decisions = DecisionImages(predictions.classes, predictions.probabilities, is_reference)
    saved = SavedCalibration("", "all", 3.0, None, {}, Dataset("mine", Path(), frame), "", decisions=decisions)
    result = evaluate(evaluated, held_out, decision_calibration=saved)
    fit = draw_of_groups(predictions.groups) & ~is_reference
    scores = 1 - predictions.probabilities[np.arange(300), predictions.targets][fit]
    expected = np.sort(scores)[int(np.ceil(101 * 0.9)) - 1]  # one of each of 100 groups
    table = result.tables["coverage"].set_index("method")
    np.testing.assert_allclose(table.loc["lac", "threshold"], expected)
    covered = 1 - evaluated.probabilities[np.arange(2000), evaluated.targets] <= expected
    assert result.metrics["coverage/lac"].value == pytest.approx(covered.mean())
    assert len(result.arrays["conformal"]["logits"]) == 100
    assert evaluate(evaluated, None, decision_calibration=saved).metrics["coverage/lac"].value is not None
    by_train = evaluate(evaluated, held_out, decision_calibration=replace(saved, by="train"))
    assert by_train.metrics["coverage/lac"] == evaluate(evaluated, held_out).metrics["coverage/lac"]
    seen = frame.assign(sha256=dataset_of(evaluated).frame["sha256"][:300])
    shared = replace(saved, images=Dataset("mine", Path(), seen))
    with pytest.raises(GuardError, match="fitted on"):
        evaluate(evaluated, held_out, decision_calibration=shared)


def test_few_calibration_images_put_every_class_into_every_set(evaluate, oracle):
    result = evaluate(oracle("noisy"), oracle("noisy", n=8))
    assert result.metrics["set_size/lac"].value == 3
    assert Reason("few_calibration_images", n=8) in result.warnings


def test_a_temperature_that_is_not_applied_is_said_with_its_interval(evaluate, oracle):
    fit = TemperatureFit(0.674, 0.05, 1.064, 38)
    result = evaluate(oracle("noisy"), oracle("noisy", seed=1), temperature_fit=fit)
    warning = Reason("temperature_near_1", fitted=fit.fitted, low=fit.low, high=fit.high, n=fit.n)
    assert result.warnings == [warning]
    assert f"fitted on {fit.n} images, is not applied, because" in format_reason(warning, "calibration")
    assert next(iter(result.metrics)) == "scaled/ece_15"


def test_a_temperature_that_could_not_be_fitted_is_said(evaluate, oracle):
    result = evaluate(oracle("noisy"), oracle("noisy", seed=1))
    assert Reason("no_temperature") in result.warnings
    assert result.metrics["scaled/nll"].value == result.metrics["nll"].value


def test_reliability_is_drawn_once_where_no_temperature_was_fitted_and_its_legend_names_each_mark(
    evaluate, oracle, draw_saved
):
    evaluated = oracle("noisy")
    for fitted, panels in ((evaluated, 1), (replace(evaluated, temperature=2.0), 2)):
        figures = draw_saved(evaluate(fitted))
        assert len(figures["reliability"].axes) == 2 * panels
        assert len(figures["confidence"].axes) == panels
        titles = [axes.get_title().splitlines()[0] for axes in figures["reliability"].axes[:panels]]
        assert titles == (["no temperature is applied"] if panels == 1 else ["before scaling", "after scaling"])
        (legend,) = figures["reliability"].legends
        assert {text.get_text() for text in legend.get_texts()} == {
            "accuracy of these predictions",
            "the same at their mean confidence, with 95% interval",
            "perfect calibration",
        }


def test_a_temperature_that_a_refit_contradicts_is_said(evaluate, overconfident):
    evaluated, held_out = (replace(part, temperature=2.0) for part in overconfident)
    result = evaluate(evaluated, held_out)
    assert result.metrics["temperature"].value == 2
    assert result.metrics["scaled/temperature"].value == pytest.approx(1.5, abs=0.05)
    lines = [format_reason(warning, "calibration") for warning in result.warnings]
    assert any("gives a temperature of 2.9" in line and "the run's is 2.000" in line for line in lines)

    # fitted by calibrate on few other images: the refit lies within what those allow
    result = evaluate(evaluated, held_out, temperature_fit=TemperatureFit(2.0, 1.4, 3.2, 90))
    assert "other_temperature" not in [warning.code for warning in result.warnings]


def test_a_blind_set_that_is_evaluated_or_bears_no_labels_is_no_row_of_shift(evaluate, oracle, dataset_of, draw_saved):
    predictions = oracle("noisy")
    unlabelled = replace(predictions, targets=np.full(240, -1))
    for blind in ((dataset_of(predictions, "test"), predictions), (dataset_of(unlabelled, "blind"), unlabelled)):
        result = evaluate(predictions, predictions, blind=blind)
        assert result.tables["shift"]["set"].tolist() == ["test"]
        assert "shift" not in draw_saved(result)


@pytest.mark.parametrize("n", [1, 2])
def test_one_image_or_one_class_is_enough(evaluate, make_predictions, oracle, draw_saved, n):
    result = evaluate(make_predictions([2] * n, [[5.0, 0, 0]] * n), oracle("noisy", seed=1))
    assert result.metrics["ece_15"].value == pytest.approx(softmax([5.0, 0, 0])[0])
    assert result.metrics["aurc"].value == 1
    assert result.tables["coverage"]["class"].unique().tolist() == ["", "real"]
    assert "coverage" in draw_saved(result)


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.0])
def test_the_intervals_of_calibration_errors_hold_those_of_the_population(scale, images, make_predictions):
    """A percentile interval of a calibrated network would never hold it: even its low end lies above."""
    targets, logits = (np.repeat(part, images, axis=0) for part in honest(200_000, scale, seed=3))
    truth = calibration_errors(softmax(logits, axis=1), targets)
    block, held, n = Calibration(resamples=200), [], 216
    groups = [f"g{i // images}" for i in range(n)]
    for rows in np.arange(60 * n).reshape(60, n):
        evaluated = make_predictions(targets[rows], logits[rows], groups=groups)
        found = calibration_tables.compute_errors(
            block, evaluated, "", calibration_tables.tabulate_floors(block, evaluated)
        )
        low, value, high = np.array([(found[kind].low, found[kind].value, found[kind].high) for kind in ECE_KINDS]).T
        held.append((low - 1e-3 <= truth) & (truth <= high + 1e-3))
        assert ((low >= 0) & (low <= value) & (value <= high) & (high <= 1)).all()
    assert (np.mean(held, axis=0) > 0.9).all()  # .95 or more in long simulations, of which these are 60 draws


def test_the_interval_of_a_network_without_an_error_allows_for_errors_to_come(evaluate, oracle):
    """Of 240 images that are all right, 1.6 % of the population may still be wrong, by Wilson."""
    metrics = evaluate(oracle("perfect"), oracle("perfect", n=60)).metrics
    for prefix, share in (("ece_15", 1), ("scaled/ece_adaptive", 1), ("ece_classwise", 2 / 3)):
        metric = metrics[prefix]
        assert (metric.low, metric.n) == (0, 240)
        assert metric.high == pytest.approx(share * (1 - proportion_confint(240, 240, method="wilson")[0]), abs=1e-6)


def test_floors_are_higher_where_the_images_of_a_group_agree(make_predictions):
    targets, logits = (np.repeat(part, 4, axis=0) for part in honest(75))
    block, apart = Calibration(resamples=500), make_predictions(targets, logits)
    together = replace(apart, groups=np.repeat(apart.groups[:75], 4))
    alone = make_predictions(targets[::4], logits[::4])
    floors = [calibration_tables.tabulate_floors(block, part)["floor"] for part in (apart, together, alone)]
    assert (floors[1] > 1.5 * floors[0]).all()
    np.testing.assert_allclose(floors[1][[0, 1, 3]], floors[2][[0, 1, 3]], rtol=0.08)  # the copies tell nothing new


def test_shift_names_the_corruptions_in_the_language_asked_for(evaluate, overconfident, draw_saved):
    evaluated, held_out = (part.take(np.arange(200)) for part in overconfident)
    result = evaluate(evaluated, held_out, {"severity": 3}, variations=shifted(evaluated, 9.0))
    with use_language("ru"):
        figure = draw_saved(result)["shift"]
        lines = [format_reason(warning, "calibration") for warning in result.warnings]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    titles = ["test", "шум", "размытие", "яркость", "поворот", "JPEG"]
    titles += ["цветной фильтр", "круглая обрезка", "наклейка", "надпись"]
    assert [label.split(" (")[0] for label in labels] == titles
    assert any(line.startswith("шум: ") for line in lines)
    assert result.tables["shift"]["set"].tolist() == ["test", *KINDS]


def test_only_the_corruptions_asked_for_are_evaluated_and_null_names_all(evaluate, oracle):
    result = evaluate(oracle("noisy"), options={"severity": 3, "corruptions": ["noise"]})
    assert result.tables["shift"]["set"].tolist() == ["test", "noise"]
    assert Calibration().corruptions == KINDS


def test_ticks_are_at_whole_percentages(evaluate, overconfident, draw_saved):
    evaluated, held_out = (part.take(np.arange(200)) for part in overconfident)
    result = evaluate(evaluated, held_out, {"severity": 3}, variations=shifted(evaluated))
    for figure in draw_saved(result).values():
        figure.canvas.draw()
        ticks = [tick.get_text() for axes in figure.axes for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        shares = [text for text in ticks if text.endswith("%")]
        assert "." not in "".join(shares)
    assert {"80%", "100%"} <= set(shares)


def test_the_command_evaluates_a_run_and_refuses_the_images_that_the_sets_are_fitted_on(tiny_run, tmp_path, capsys):
    words = ["evaluate", f"ckpt={tiny_run}", "block=calibration", "block.calibration.resamples=100"]
    assert main([*words, f"out={tmp_path / 'test'}"]) == 0
    assert re.search(r"scaled/ece_15 \d\.\d{3}.* \(raw \d\.\d{3}\) on test", capsys.readouterr().out)
    [file] = (tmp_path / "test").rglob("shift.csv")
    assert pd.read_csv(file)["set"].tolist() == ["test", "blind"]  # corruptions are asked for, since they take long
    corrupted = ["block.calibration.corruptions=[noise]", f"out={tmp_path / 'test'}"]
    assert main([*words, *corrupted]) == 2
    assert "block.calibration.corruptions needs a severity" in capsys.readouterr().err
    assert main([*words, *corrupted, "block.calibration.severity=3"]) == 0
    assert pd.read_csv(file)["set"].tolist() == ["test", "noise", "blind"]
    assert main([*words, "split=calibration", f"out={tmp_path / 'calibration'}"]) == 3
    assert "fitted" in capsys.readouterr().err


def test_a_set_without_known_classes_is_refused(evaluate, make_predictions):
    with pytest.raises(BlockError, match="known class"):
        evaluate(make_predictions([-1, -1], np.zeros((2, 3))))


def test_two_evaluations_agree(evaluate, oracle):
    first, second = (evaluate(oracle("noisy"), oracle("noisy", seed=1)) for _ in range(2))
    assert first.metrics == second.metrics


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("alpha", 0, "above 0 and below 1"),
        ("alpha", 10, "below 1"),
        ("severity", 6, "0 to 5"),
        ("level", 95, "below 1"),
        ("corruptions", ["fog"], "some of noise"),
    ],
)
def test_a_wrong_option_is_told(option, value, expected):
    with pytest.raises(ConfigError, match=rf"block.calibration.{option}={re.escape(str(value))}.*{expected}"):
        build_block("calibration", {option: value})


class Given(np.random.RandomState):
    """Random state that returns the numbers of the two parts, distinguished by their length."""

    def __init__(self, *parts):
        super().__init__(0)
        self.parts = {len(part): part for part in parts}

    def uniform(self, size):
        return self.parts[size if isinstance(size, int) else size[0]].reshape(size)


class Known:
    """A classifier whose images are their own probabilities, as MAPIE wants one."""

    classes_ = np.arange(3)

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)

    def __sklearn_is_fitted__(self):
        return True

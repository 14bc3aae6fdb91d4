"""Tests of calibration: its numbers by libraries, oracles, shift, and the images that it may be fitted on."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional import classification as tm

from avatar_bench.data.corruptions import list_corruptions
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import GuardError
from avatar_bench.evaluation.blocks.calibration import Calibration, calibration_tables
from avatar_bench.i18n import use_language
from avatar_bench.metrics import conformal
from avatar_bench.metrics.calibration import ECE_KINDS, TemperatureFit, calibration_errors, fit_temperature
from avatar_bench.metrics.selective import draw_of_groups
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from avatar_bench.runs.saved_calibration import DecisionImages, SavedCalibration
from tests.builders.commands import run_undrawn

KINDS = list_corruptions()
PREFIXES = ("", "scaled/")
ERRORS = ("nll", "brier", "ece_10", "ece_15", "ece_adaptive", "ece_classwise", "ece_floor", "ece_floor_p95")
METHODS = ("lac", "aps")


def honest(n, scale=1.0, seed=0):
    """Draw targets from the softmax of logits; return them and those logits times `scale`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (n, 3))
    targets = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return np.minimum(targets, 2), scale * logits


def scale_logits(arrays, temperature=1.0):
    return softmax(arrays["logits"].astype(float) / temperature, axis=1)


@pytest.fixture(scope="module")
def evaluate(fake_run, dataset_of):
    """Run the block on Predictions, with the stand-ins of a Run and a Dataset."""

    def call(predictions, calibration=None, options=None, **fields):
        run = fake_run(predictions, calibration=calibration, **fields)
        return Calibration(**{"resamples": 200} | (options or {})).evaluate(run, dataset_of(predictions))

    return call


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def saved(evaluate, overconfident, make_predictions, dataset_of, tmp_path_factory):
    """A Result with every part that the block has, read back from its files."""
    evaluated, held_out = overconfident
    evaluated = evaluated.take(np.arange(800))
    evaluated = replace(evaluated, targets=np.where(np.arange(800) % 100 == 7, -1, evaluated.targets))
    blind = make_predictions(*honest(300, 9, seed=2), temperature=evaluated.temperature)
    others = {"variations": shifted(evaluated), "blind": (dataset_of(blind, "blind"), blind)}
    result = evaluate(evaluated, held_out, {"severity": 3}, **others)
    return Result.load(result.save(tmp_path_factory.mktemp("saved") / "calibration"), arrays=True)


def by_libraries(probabilities, targets):
    """Compute the errors of ERRORS but the floors by scikit-learn, torchmetrics and pandas."""
    tensors = torch.from_numpy(probabilities), torch.from_numpy(targets)
    confidence = probabilities.max(axis=1)
    gap = pd.Series((probabilities.argmax(axis=1) == targets) - confidence)
    classwise = [tm.binary_calibration_error(tensors[0][:, k].clone(), tensors[1] == k, n_bins=15) for k in range(3)]
    return {
        "nll": sk.log_loss(targets, probabilities),
        "brier": sk.brier_score_loss(targets, probabilities, scale_by_half=False),
        "ece_10": float(tm.multiclass_calibration_error(*tensors, num_classes=3, n_bins=10)),
        "ece_15": float(tm.multiclass_calibration_error(*tensors, num_classes=3, n_bins=15)),
        "ece_adaptive": gap.groupby(pd.qcut(confidence, 15), observed=True).sum().abs().sum() / len(gap),
        "ece_classwise": float(np.mean(classwise)),
    }


def test_errors_and_floors_can_be_recomputed_from_the_saved_logits(saved):
    arrays, metrics = saved.arrays["predictions"], saved.metrics
    assert saved.n == len(arrays["targets"]) == 792
    for prefix, divisor in (("", 1), ("scaled/", metrics["temperature"].value)):
        expected = by_libraries(scale_logits(arrays, divisor), arrays["targets"])
        assert {name: metrics[prefix + name].value for name in expected} == pytest.approx(expected, abs=1e-6)
    probabilities = scale_logits(arrays, metrics["temperature"].value)
    errors = (probabilities.argmax(axis=1) != arrays["targets"])[np.argsort(-probabilities.max(axis=1))]
    running = errors.cumsum() / np.arange(1, len(errors) + 1)
    assert (metrics["aurc"].value, metrics["aurc"].floor) == pytest.approx((running.mean(), running[-1]), abs=1e-6)
    lower = {*(prefix + name for prefix in PREFIXES for name in ERRORS[:6]), "aurc", "set_size/lac"}
    assert lower <= {name for name, metric in metrics.items() if metric.higher_is_better is False}
    assert True not in {metric.higher_is_better for metric in metrics.values()}
    table = saved.tables["floors"].set_index("metric")
    for prefix, divisor in (("", 1), ("scaled/", metrics["temperature"].value)):
        probabilities = scale_logits(arrays, divisor)
        outcomes = np.random.default_rng(9).multinomial(1, probabilities, (100, saved.n)).argmax(axis=2)
        drawn = np.mean([calibration_errors(probabilities, targets) for targets in outcomes], axis=0)
        for kind, expected in zip(ECE_KINDS, drawn, strict=True):
            floor = table.loc[prefix + kind, "floor"]
            assert metrics[prefix + kind].floor == pytest.approx(floor) == pytest.approx(expected, abs=2e-3)
        for name, column in (("ece_floor", "floor"), ("ece_floor_p95", "floor_p95")):
            assert metrics[prefix + name].value == pytest.approx(table.loc[f"{prefix}ece_15", column])
        reliability = saved.tables["reliability_scaled" if prefix else "reliability"]
        assert list(reliability)[:6] == ["bin", "low", "high", "count", "confidence", "accuracy"]
        frame = pd.DataFrame({"confidence": probabilities.max(1), "hit": probabilities.argmax(1) == arrays["targets"]})
        cut = frame.groupby(pd.cut(frame["confidence"], np.linspace(0, 1, 16)), observed=False)
        np.testing.assert_array_equal(reliability["count"], cut.size())
        np.testing.assert_allclose(reliability["accuracy"], cut["hit"].mean(), atol=1e-12)
        np.testing.assert_allclose(reliability["confidence"], cut["confidence"].mean(), atol=1e-12)
        full = reliability[reliability["count"] > 0]
        assert ((full["accuracy_low"] <= full["accuracy"]) & (full["accuracy"] <= full["accuracy_high"])).all()


def test_temperature_and_thresholds_are_those_of_held_out_images(saved, evaluate, overconfident, make_predictions):
    evaluated, held_out = overconfident
    temperature = saved.metrics["temperature"]
    assert temperature.low < temperature.value < temperature.high
    assert (temperature.value, temperature.n) == (pytest.approx(held_out.temperature), 2000)
    assert saved.metrics["scaled/temperature"].value == pytest.approx(1, abs=1e-5)
    other = make_predictions(*honest(500, 20, seed=5), temperature=evaluated.temperature)
    first, second = evaluate(evaluated, held_out), evaluate(other, held_out)
    for name in ("temperature", "scaled/temperature"):
        assert first.metrics[name] == second.metrics[name]
    assert set(first.tables["coverage"]["threshold"]) == set(second.tables["coverage"]["threshold"])


def form_sets(fitted, evaluated, temperature, method):
    """Return the conformal sets (N, C) of saved arrays, by functions that test_conformal.py compares with MAPIE."""
    score = conformal.CONFORMAL_SCORES[method]
    scores = [score(scale_logits(arrays, temperature), arrays["uniforms"]) for arrays in (fitted, evaluated)]
    return scores[1] <= conformal.threshold(conformal.select_targets(scores[0], fitted["targets"]), 0.1)


@pytest.mark.parametrize("method", METHODS)
def test_conformal_sets_are_formed_from_what_is_saved_overall_by_class_and_under_shift(saved, method):
    fitted, evaluated = saved.arrays["calibration"], saved.arrays["predictions"]
    metrics, targets = saved.metrics, evaluated["targets"]
    temperature, rows = metrics["temperature"].value, np.arange(len(targets))
    member = form_sets(fitted, evaluated, temperature, method)
    held, sizes = member[rows, targets], member.sum(axis=1)
    assert metrics[f"coverage/{method}"].value == pytest.approx(held.mean(), abs=1e-6)
    assert metrics[f"coverage/{method}"].floor == pytest.approx(sizes.mean() / 3, abs=1e-6)  # of sets drawn blindly
    assert metrics[f"set_size/{method}"].value == pytest.approx(sizes.mean(), abs=1e-6)
    table = saved.tables["coverage"].fillna({"class": ""}).query("method == @method").set_index("class")
    for index, name in enumerate(saved.classes):
        assert table.loc[name, "coverage"] == pytest.approx(held[targets == index].mean(), abs=1e-6)
    assert table.loc["", ["empty", "single"]].tolist() == pytest.approx([(sizes == 0).mean(), (sizes == 1).mean()])
    noisy = {"logits": saved.arrays["shift"]["logits_noise"], "uniforms": evaluated["uniforms"]}
    held = form_sets(fitted, noisy, temperature, method)[rows, targets]
    shift = saved.tables["shift"].set_index("set")
    assert shift.loc["noise", f"coverage_{method}"] == pytest.approx(held.mean(), abs=1e-6)


def test_the_table_of_shift_is_recomputed_from_the_saved_logits_and_lost_coverage_warned_of(saved):
    rows, arrays, metrics = saved.tables["shift"].set_index("set"), saved.arrays["shift"], saved.metrics
    assert list(rows.index) == ["test", *KINDS, "blind"]
    for name in (*KINDS, "blind"):
        logits, targets = arrays[f"logits_{name}"].astype(float), arrays[f"targets_{name}"]
        expected = by_libraries(softmax(logits / metrics["temperature"].value, axis=1), targets)
        expected = {column: expected[column] for column in ("nll", "ece_15")}
        expected |= {"accuracy": sk.accuracy_score(targets, logits.argmax(axis=1)), "n": len(targets)}
        assert rows.loc[name, list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)
    for name in ("nll", "ece_15", "ece_floor"):
        assert rows.loc["test", name] == pytest.approx(metrics[f"scaled/{name}"].value, abs=1e-12)
    for method in METHODS:
        metric = metrics[f"coverage/{method}"]
        ends = rows.loc["test", [f"coverage_{method}{end}" for end in ("", "_low", "_high")]]
        assert ends.tolist() == [metric.value, metric.low, metric.high]
    assert rows.loc["test", "coverage_lac"] == pytest.approx(0.9, abs=0.03)
    assert rows.loc["blind", "coverage_lac"] < 0.8
    lines = [format_reason(warning, "calibration") for warning in saved.warnings]
    assert any(line.startswith("blind: only ") and "nominal coverage is 90%" in line for line in lines)
    assert not any(line.startswith("test: only ") for line in lines)


def test_oracles_have_no_error_or_that_of_guessing_and_overconfidence_is_mended(evaluate, oracle, overconfident):
    """Of 240 images that are all right, 1.6 % of the population may still be wrong, by Wilson."""
    metrics = evaluate(oracle("perfect"), oracle("perfect", n=60)).metrics
    for name in (*(prefix + name for prefix in PREFIXES for name in ERRORS), "aurc"):
        assert metrics[name].value == pytest.approx(0, abs=1e-12)
    assert metrics["coverage/lac"].value == metrics["set_size/lac"].value == 1
    high = 1 - proportion_confint(240, 240, method="wilson")[0]
    for name, factor in (("ece_15", 1), ("scaled/ece_adaptive", 1), ("ece_classwise", 2 / 3)):
        assert (metrics[name].low, metrics[name].n) == (0, 240)
        assert metrics[name].high == pytest.approx(factor * high, abs=1e-6)
    metrics = evaluate(oracle("uniform", n=600), oracle("uniform", n=300, seed=1)).metrics
    for name in ("nll", "brier"):
        assert metrics[name].value == pytest.approx(metrics[name].floor, abs=1e-3)
    assert metrics["nll"].floor == pytest.approx(np.log(3))
    assert metrics["ece_15"].value < metrics["ece_floor_p95"].value
    assert metrics["aurc"].value == pytest.approx(2 / 3, abs=0.06)
    result = evaluate(*overconfident)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["temperature"] == pytest.approx(3, abs=0.1)
    assert value["ece_15"] > 2 * value["ece_floor_p95"]
    assert value["scaled/ece_15"] < value["scaled/ece_floor_p95"]
    assert result.metrics["scaled/ece_15"].low == 0
    assert result.metrics["ece_15"].low > 0.05
    assert [value[f"coverage/{method}"] for method in METHODS] == pytest.approx([0.9, 0.9], abs=0.02)
    assert result.warnings == []


def test_without_calibration_images_there_are_no_sets_and_of_few_all_classes_are_in(evaluate, oracle, draw_saved):
    result = evaluate(oracle("noisy"))
    missing = ("coverage/lac", "coverage/aps", "set_size/lac", "set_size/aps", "scaled/temperature")
    assert all(result.metrics[name].value is None for name in missing)
    assert result.metrics["coverage/lac"].reason == Reason("calibration_unknown")
    assert result.metrics["ece_15"].value > 0
    assert result.metrics["scaled/nll"].value == result.metrics["nll"].value
    assert "coverage" not in draw_saved(result)
    assert {Reason("no_conformal_sets"), Reason("no_temperature")} <= set(result.warnings)
    assert "coverage_lac" not in result.tables["shift"]
    few = evaluate(oracle("noisy"), oracle("noisy", n=8))
    assert few.metrics["set_size/lac"].value == 3
    assert Reason("few_calibration_images", n=8) in few.warnings


def test_after_calibrate_sets_are_fitted_on_images_of_decisions(evaluate, overconfident, make_predictions, dataset_of):
    evaluated, held_out = (part.take(np.arange(600)) for part in overconfident)
    fields = {"groups": [f"new{i // 2}" for i in range(300)], "temperature": 3.0}
    predictions = make_predictions(*honest(300, 9, seed=6), **fields)
    is_reference = np.arange(300) < 100
    frame = dataset_of(predictions).frame.assign(sha256=[f"{10**6 + i:064x}" for i in range(300)])
    decisions = DecisionImages(predictions.classes, predictions.probabilities, is_reference)
    calibration = SavedCalibration("", "all", 3.0, None, {}, Dataset("mine", Path(), frame), "", decisions=decisions)
    result = evaluate(evaluated, held_out, decision_calibration=calibration)
    fit = draw_of_groups(predictions.groups) & ~is_reference
    scores = 1 - predictions.probabilities[np.arange(300), predictions.targets][fit]
    threshold = np.sort(scores)[int(np.ceil(101 * 0.9)) - 1]  # one of each of 100 groups
    np.testing.assert_allclose(result.tables["coverage"].set_index("method").loc["lac", "threshold"], threshold)
    covered = 1 - evaluated.probabilities[np.arange(600), evaluated.targets] <= threshold
    assert result.metrics["coverage/lac"].value == pytest.approx(covered.mean())
    assert len(result.arrays["conformal"]["logits"]) == 100
    assert evaluate(evaluated, None, decision_calibration=calibration).metrics["coverage/lac"].value is not None
    by_train = evaluate(evaluated, held_out, decision_calibration=replace(calibration, by="train"))
    assert by_train.metrics["coverage/lac"] == evaluate(evaluated, held_out).metrics["coverage/lac"]
    shared = frame.assign(sha256=dataset_of(evaluated).frame["sha256"][:300])
    with pytest.raises(GuardError, match="fitted on"):
        evaluate(evaluated, held_out, decision_calibration=replace(calibration, images=Dataset("mine", Path(), shared)))


def test_a_temperature_that_is_not_applied_or_that_a_refit_contradicts_is_reported(evaluate, oracle, overconfident):
    fit = TemperatureFit(0.674, 0.05, 1.064, 38)
    result = evaluate(oracle("noisy"), oracle("noisy", seed=1), temperature_fit=fit)
    warning = Reason("temperature_near_1", fitted=fit.fitted, low=fit.low, high=fit.high, n=fit.n)
    assert result.warnings == [warning]
    assert f"fitted on {fit.n} images, is not applied, because" in format_reason(warning, "calibration")
    assert next(iter(result.metrics)) == "scaled/ece_15"
    both = [replace(part, temperature=2.0) for part in overconfident]
    result = evaluate(*both)
    assert result.metrics["temperature"].value == 2
    assert result.metrics["scaled/temperature"].value == pytest.approx(1.5, abs=0.05)
    lines = [format_reason(warning, "calibration") for warning in result.warnings]
    assert any("gives a temperature of 2.9" in line and "the run's is 2.000" in line for line in lines)
    allowed = evaluate(*both, temperature_fit=TemperatureFit(2.0, 1.4, 3.2, 90))
    assert "other_temperature" not in [warning.code for warning in allowed.warnings]


@pytest.mark.parametrize(
    ("temperature", "titles"), [(1.0, ["no temperature is applied"]), (2.0, ["before scaling", "after scaling"])]
)
def test_reliability_is_drawn_before_and_after_scaling_with_a_legend(temperature, titles, evaluate, oracle, draw_saved):
    figures = draw_saved(evaluate(replace(oracle("noisy"), temperature=temperature)))
    panels = len(titles)
    assert len(figures["reliability"].axes) == 2 * panels
    assert len(figures["confidence"].axes) == panels
    assert [axes.get_title().splitlines()[0] for axes in figures["reliability"].axes[:panels]] == titles
    (legend,) = figures["reliability"].legends
    marks = {"accuracy of these predictions", "perfect calibration"}
    marks.add("the same at their mean confidence, with 95% interval")
    assert {text.get_text() for text in legend.get_texts()} == marks


def test_one_image_is_enough_and_unlabelled_sets_are_no_row(evaluate, make_predictions, oracle, draw_saved, dataset_of):
    result = evaluate(make_predictions([2], [[5.0, 0, 0]]), oracle("noisy", seed=1))
    assert result.metrics["ece_15"].value == pytest.approx(softmax([5.0, 0, 0])[0])
    assert result.metrics["aurc"].value == 1
    assert result.tables["coverage"]["class"].unique().tolist() == ["", "real"]
    assert "coverage" in draw_saved(result)
    predictions = oracle("noisy")
    unlabelled = replace(predictions, targets=np.full(240, -1))
    for blind in ((dataset_of(predictions, "test"), predictions), (dataset_of(unlabelled, "blind"), unlabelled)):
        result = evaluate(predictions, predictions, blind=blind)
        assert result.tables["shift"]["set"].tolist() == ["test"]
        assert "shift" not in draw_saved(result)


@pytest.mark.parametrize(("scale", "images"), [(1.0, 4), (1.5, 1), (3.0, 4)])
def test_the_intervals_of_calibration_errors_hold_those_of_the_population(scale, images, make_predictions):
    """A percentile interval of a calibrated network would never hold it: even its low end lies above."""
    targets, logits = (np.repeat(part, images, axis=0) for part in honest(200_000, scale, seed=3))
    truth = calibration_errors(softmax(logits, axis=1), targets)
    block, held, n = Calibration(resamples=200), [], 216
    groups = [f"g{i // images}" for i in range(n)]
    for rows in np.arange(60 * n).reshape(60, n):
        evaluated = make_predictions(targets[rows], logits[rows], groups=groups)
        floors = calibration_tables.tabulate_floors(block, evaluated)
        errors = calibration_tables.compute_errors(block, evaluated, "", floors)
        ends = [(errors[kind].low, errors[kind].value, errors[kind].high) for kind in ECE_KINDS]
        low, value, high = np.array(ends).T
        held.append((low - 1e-3 <= truth) & (truth <= high + 1e-3))
        assert ((low >= 0) & (low <= value) & (value <= high) & (high <= 1)).all()
    assert (np.mean(held, axis=0) > 0.9).all()  # .95 or more in long simulations, of which these are 60 draws


def test_an_error_that_a_calibrated_network_may_show_says_so_and_is_that_of_its_population(evaluate, make_predictions):
    targets, logits = honest(66)
    sources = np.arange(66) % 11
    unseen = replace(make_predictions(targets, logits), sources=np.char.add("s", sources.astype(str)), origins=sources)
    result = evaluate(unseen)
    error, excess, floor = (result.metrics[f"scaled/{name}"] for name in ("ece_15", "ece_excess", "ece_floor"))
    assert (error.reason, excess.reason) == (Reason("calibrated"), Reason("calibrated"))
    assert excess.value == pytest.approx(error.value - floor.value)
    assert (excess.low, excess.high) == pytest.approx((error.low - floor.value, error.high - floor.value))
    assert (error.population, error.units) == ("new sources", 32)
    weights = unseen.units.weights
    assert error.value == pytest.approx(calibration_errors(unseen.probabilities, targets, weights)[1])
    assert error.these_sources["value"] == pytest.approx(calibration_errors(unseen.probabilities, targets)[1])
    assert "not distinguishable from calibrated" in format_reason(result.notes[0], "calibration")
    wrong = evaluate(make_predictions(targets, 5 * logits)).metrics["scaled/ece_15"]
    assert wrong.reason is None


def test_figures_and_warnings_name_corruptions_in_russian(evaluate, overconfident, draw_saved):
    evaluated, held_out = (part.take(np.arange(200)) for part in overconfident)
    result = evaluate(evaluated, held_out, {"severity": 3}, variations=shifted(evaluated, 9.0))
    with use_language("ru"):
        figures = draw_saved(result)
        lines = [format_reason(warning, "calibration") for warning in result.warnings]
    labels = [label.get_text().split(" (")[0] for label in figures["shift"].axes[0].get_yticklabels()]
    kinds = "шум|размытие|яркость|поворот|JPEG|цветной фильтр|круглая обрезка|наклейка|надпись"
    assert labels == ["test", *kinds.split("|")]
    assert any(line.startswith("шум: ") for line in lines)
    assert set(figures) == {"reliability", "confidence", "coverage", "shift"}


def test_the_command_evaluates_a_run_and_refuses_the_images_that_the_sets_are_fitted_on(tiny_run, tmp_path, capsys):
    words = ["evaluate", f"ckpt={tiny_run}", "block=calibration", "block.calibration.resamples=100", "data.workers=0"]
    assert run_undrawn([*words, f"out={tmp_path / 'test'}"]) == 0
    assert re.search(r"scaled/ece_15 \d\.\d{3}.* \(raw \d\.\d{3}\) on test", capsys.readouterr().out)
    [file] = (tmp_path / "test").rglob("shift.csv")
    assert pd.read_csv(file)["set"].tolist() == ["test", "blind"]  # corruptions are asked for, since they take long
    corrupted = ["block.calibration.corruptions=[noise]", f"out={tmp_path / 'test'}"]
    assert run_undrawn([*words, *corrupted]) == 2
    assert "block.calibration.corruptions needs a severity" in capsys.readouterr().err
    assert run_undrawn([*words, *corrupted, "block.calibration.severity=3"]) == 0
    assert pd.read_csv(file)["set"].tolist() == ["test", "noise", "blind"]
    assert run_undrawn([*words, "split=calibration", f"out={tmp_path / 'calibration'}"]) == 3
    assert "fitted" in capsys.readouterr().err

"""Tests of error_bias: every metric recomputed from the saved tables, and edge cases."""

from dataclasses import replace

import numpy as np
import pytest

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation.blocks.error_bias import ErrorBias
from avatar_bench.metrics import stats
from avatar_bench.metrics.units import encode
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result

STORED = {"width": "200", "height": "300", "format": "PNG"}


@pytest.fixture(scope="module")
def evaluate_block(dataset_of, fake_run):
    """Run the block on predictions and on out-of-domain sets, whose classes are not known."""

    def evaluate(predictions, ood=None, options=None, **columns):
        unlabelled = {name: replace(of, targets=np.full(len(of), -1)) for name, of in (ood or {}).items()}
        sets = {name: (dataset_of(of, name), of) for name, of in unlabelled.items()}
        block = ErrorBias(**{"resamples": 200} | (options or {}))
        return block.evaluate(fake_run(predictions, ood=sets), dataset_of(predictions, **STORED | columns))

    return evaluate


@pytest.fixture(scope="module")
def slanted(oracle):
    """Predictions in which one source of "real", s23, is mostly taken for "generated"; groups of two."""
    predictions = oracle("noisy", n=480)
    logits = predictions.logits.copy()
    logits[np.flatnonzero((predictions.sources == "s23") & (np.arange(480) % 7 > 1)), :] += (0, 9, 0)
    pairs = np.array([f"g{i // 24 * 12 + i % 12}" for i in range(480)])  # images of one class and source
    targets = np.where(np.arange(480) < 12, -1, predictions.targets)
    return replace(predictions, logits=logits, groups=pairs, targets=targets)


@pytest.fixture(scope="module")
def saved(slanted, oracle, evaluate_block, tmp_path_factory):
    """A Result with two sets out of the domain, read back from its files."""
    ood = {"things": oracle("uniform", n=60), "faces": oracle("noisy", n=50, seed=4)}
    size = ["100" if i % 5 else "700" for i in range(480)]
    result = evaluate_block(slanted, ood, width=size)
    return Result.load(result.save(tmp_path_factory.mktemp("saved") / "error_bias"))


def test_confidence_unbias_slices_and_confusion_can_be_recomputed_from_what_is_saved(saved):
    images = saved.tables["images"]
    correct, confidence = images["correct"], images["confidence"]
    assert (correct == (images["target"] == images["prediction"])).all()
    expected = {
        "mean_confidence": confidence.mean(),
        "std_confidence": confidence.std(ddof=0),
        "mean_confidence_correct": confidence[correct].mean(),
        "mean_confidence_incorrect": confidence[~correct].mean(),
    }
    metrics = {name: saved.metrics[name] for name in expected}
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(expected, abs=1e-9)
    assert all(metric.low < metric.value < metric.high for metric in metrics.values())
    assert metrics["mean_confidence_incorrect"].floor == pytest.approx(expected["mean_confidence"])
    table, unbias = saved.tables["ood_predictions"], saved.metrics["unbias"]
    assert table["set"].value_counts().to_dict() == {"things": 60, "faces": 50}
    expected = 1 - table["prediction"].value_counts(normalize=True).max()
    assert (unbias.value, unbias.floor) == pytest.approx((expected, 2 / 3), abs=1e-9)
    assert Reason("unbias_alone", value=unbias.value, chance=unbias.floor) in saved.warnings
    table, correct = saved.tables["slices"], images["correct"]
    assert set(table["by"]) == {"source", "size", "format"}
    assert table["accuracy"].is_monotonic_increasing
    for row in table.fillna({"target": "", "most_common_error": "", "reason": ""}).itertuples():
        inside = images[row.by].astype(str) == str(row.slice)
        rows = inside & ((images["target"] == row.target) | (row.target == ""))
        assert (row.n, row.units) == (rows.sum(), images.loc[rows, "group"].nunique())
        assert (row.permuted, row.permuted_units) == (
            "source",
            images.loc[rows, ["source", "target"]].drop_duplicates().shape[0],
        )
        assert (row.reason == "few_units") == (row.permuted_units < 2 or row.target != "")  # four sources a class
        means = correct[rows].mean(), images.loc[rows, "confidence"].mean()
        assert (row.accuracy, row.mean_confidence) == pytest.approx(means, abs=1e-9)
        interval = stats.proportion_interval(correct[rows], images.loc[rows, "group"], 200)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        wrong = images.loc[rows & ~correct, "prediction"].value_counts()
        assert row.most_common_error == "" if wrong.empty else wrong[row.most_common_error] == wrong.max()
        mix = images.loc[rows, "target"].value_counts(normalize=True)
        others = correct[~inside].groupby(images["target"]).mean()
        expected = sum(proportion * others.get(target, np.nan) for target, proportion in mix.items())
        assert row.rest == pytest.approx(expected, nan_ok=True)
    assert saved.metrics["worst_slice"].value == table.loc[table["slice"] == "s23", "accuracy"].item()
    assert table.loc[table["reason"].notna(), "p"].isna().all()  # a whole source differs as sources do
    assert not table["significant"].any()
    table = saved.tables["confusion_by_slice"]
    for row in table.to_dict("records"):
        in_slice = row["by"] == "class" or images[row["by"]].astype(str) == str(row["slice"])
        predicted = images.loc[(images["target"] == row["target"]) & in_slice, "prediction"]
        counts = {f"predicted_{name}": (predicted == name).sum() for name in saved.classes}
        assert {key: row[key] for key in ("n", *counts)} == {"n": len(predicted)} | counts
    assert table.loc[table["by"] == "class", "n"].sum() == len(images) == 468
    assert Reason("unlabelled", n=12, all=480) in saved.warnings


def test_a_perfect_oracle_misclassifies_nothing_and_a_uniform_one_has_no_bias(oracle, evaluate_block):
    result = evaluate_block(oracle("perfect"), {"things": oracle("perfect")})
    expected = {"worst_slice": 1, "mean_confidence": 1, "std_confidence": 0, "unbias": 2 / 3}
    assert {name: result.metrics[name].value for name in expected} == pytest.approx(expected)
    assert result.metrics["worst_slice"].floor == 1
    assert result.metrics["mean_confidence_incorrect"].value is None
    assert result.tables["slices"]["p_adjusted"].isna().all()  # of single sources
    sizes = evaluate_block(oracle("perfect"), width=["100", "700"] * 120).tables["slices"].query("by == 'size'")
    assert sizes["p_adjusted"].min() == 1
    assert set(result.tables["slices"]["most_common_error"]) == {""}
    metrics = evaluate_block(oracle("uniform", n=600), {"things": oracle("uniform", n=600, seed=1)}).metrics
    assert metrics["mean_confidence"].value == pytest.approx(1 / 3, abs=1e-3)
    assert metrics["unbias"].low <= 2 / 3
    assert metrics["unbias"].value == pytest.approx(metrics["unbias"].floor, abs=0.06)
    worst = metrics["worst_slice"]
    assert worst.value == pytest.approx(worst.floor, abs=0.1)
    assert worst.low < 1 / 3 < worst.high


def test_a_set_that_cannot_be_read_costs_unbias_alone(oracle, dataset_of, fake_run, tmp_path):
    known = oracle("noisy")

    def predict(dataset):
        if dataset.name == "things":
            raise DataError("things/3.png: empty file.")
        return known

    run = fake_run(known, ood={"things": (dataset_of(known, "things"), known)})
    run.predictions = predict
    result = ErrorBias(resamples=100).evaluate(run, dataset_of(known, **STORED))
    why = "The out-of-domain set things cannot be used: things/3.png: empty file."
    assert result.metrics["unbias"].reason == Reason("ood_set_unreadable", why=why)
    assert result.metrics["worst_slice"].value is not None
    result.save(tmp_path / "error_bias")


def test_a_slice_that_differs_in_several_sources_is_found_and_one_that_is_a_source_is_not(evaluate_block, oracle):
    predictions, number = oracle("noisy", n=960), np.arange(960) // 3 % 10
    sources = np.array([f"{target}_{of_class}" for target, of_class in zip(predictions.targets, number, strict=True)])
    logits, weak = predictions.logits.copy(), number < 4  # of ten sources a class
    wrong = weak & (np.arange(960) % 9 > 2)
    logits[wrong] = 9 * np.eye(3)[(predictions.targets[wrong] + 1) % 3]
    weakened = replace(predictions, logits=logits, sources=sources)
    table = evaluate_block(weakened, format=np.where(weak, "GIF", "PNG")).tables
    starred = table["slices"].query("significant")
    assert set(starred["by"]) == {"format"}
    assert {"GIF"} <= set(starred["slice"])
    assert set(starred["permuted_units"]) <= {4, 6, 12, 18}
    gaps = table["gaps"].set_index(["by", "target"])
    assert gaps.loc[("format", ""), "significant"]
    assert gaps.loc[("format", ""), "gap"] > gaps.loc[("format", ""), "floor"] + 0.2
    assert not gaps.loc["source", "significant"].any()
    new = evaluate_block(replace(weakened, origins=encode(sources)), format=np.where(weak, "GIF", "PNG")).tables["gaps"]
    row = new.set_index(["by", "target"]).loc[("format", "real")]
    assert (row["unit"], row["units"], row["population"], row["reason"]) == ("source", 10, "new sources", "")
    assert 0 < row["low"] <= row["gap"] <= row["high"] <= 1
    assert set(new.loc[new["by"] == "source", "reason"]) == {"one_source"}
    few = replace(weakened, sources=np.array([f"{target}{i % 2}" for i, target in enumerate(predictions.targets)]))
    few = evaluate_block(few, format=np.where(np.arange(960) % 2, "GIF", "PNG")).tables
    assert few["slices"].query("target != ''")["p"].isna().all()  # of two sources a class
    assert few["gaps"].query("target != ''")["p"].isna().all()


def test_small_slices_are_listed_but_never_the_weakest(oracle, evaluate_block, draw_saved):
    predictions = oracle("noisy")
    sources = predictions.sources.copy()
    sources[np.flatnonzero(~predictions.correct)[:2]] = "odd"
    result = evaluate_block(replace(predictions, sources=sources))
    odd = result.tables["slices"].query("slice == 'odd'")
    assert (odd["accuracy"] == 0).all()
    assert odd["p"].isna().all()
    assert result.metrics["worst_slice"].value > 0
    none = evaluate_block(predictions, options={"minimum": 200})
    worst = none.metrics["worst_slice"]
    assert (worst.value, worst.reason) == (None, Reason("no_comparable_slice", n=200))
    assert set(draw_saved(none)) == {"bias_map", "confidence"}


def test_gaps_are_those_of_the_saved_images(slanted, evaluate_block):
    tone = np.array(["dark", "light", "medium"])[np.arange(480) // 3 % 3]  # each has all classes
    columns = {"other:skin_tone": tone, "other:rare": ["x"] + [""] * 479}
    result = evaluate_block(slanted, options={"slices": ["skin_tone", "rare"]}, **columns)
    images, gaps = result.tables["images"], result.tables["gaps"].set_index(["by", "target"])
    for target in ("", "drawing", "generated", "real"):
        of_class = images[(images["target"] == target) | (target == "")]
        means, row = of_class.groupby("skin_tone")["correct"].mean(), gaps.loc[("skin_tone", target)]
        assert (row["highest"], row["lowest"]) == (means.idxmax(), means.idxmin())
        assert row["gap"] == pytest.approx(means.max() - means.min())
        metric = result.metrics["gap/skin_tone" + (f"/{target}" if target else "")]
        assert (metric.value, metric.low, metric.high) == (row["gap"], row["low"], row["high"])
        assert 0 <= metric.low <= metric.value <= metric.high
    assert gaps.loc[("source", "real"), "lowest"] == "s23"
    assert gaps.loc[("source", "real"), "low"] > 0
    assert result.metrics["gap/rare"].reason == Reason("no_gap", n=20)
    with pytest.raises(ConfigError):
        evaluate_block(slanted, options={"slices": ["age"]})

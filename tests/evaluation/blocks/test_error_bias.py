"""Tests of error_bias: every metric recomputed from the saved tables, and edge cases."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.evaluation.blocks.error_bias import ErrorBias
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason

STORED = {"width": "200", "height": "300", "format": "PNG"}


@pytest.fixture(scope="module")
def evaluate_block(dataset_of, fake_run):
    """Run the block on predictions and out-of-domain sets."""

    def evaluate(predictions, ood=None, allow=(), options=None, **columns):
        sets = {name: (dataset_of(given, name), given) for name, given in (ood or {}).items()}
        run = fake_run(predictions, ood=sets, allow=frozenset(allow))
        block = ErrorBias(**{"resamples": 200, **(options or {})})
        return block.evaluate(run, dataset_of(predictions, **STORED | columns))

    return evaluate


@pytest.fixture(scope="module")
def slanted(oracle):
    """Predictions in which one source of "real", sreal-like, is mostly taken for "generated"; groups of two."""
    predictions = oracle("noisy", n=480)
    logits = predictions.logits.copy()
    logits[np.flatnonzero((predictions.sources == "s23") & (np.arange(480) % 7 > 1)), :] += (0, 9, 0)
    pairs = [f"g{i // 24 * 12 + i % 12}" for i in range(480)]  # images of one class and source
    return replace(
        predictions,
        logits=logits,
        groups=np.array(pairs),
        targets=np.where(np.arange(480) < 12, -1, predictions.targets),
    )


@pytest.fixture(scope="module")
def saved(slanted, oracle, evaluate_block, tmp_path_factory):
    """A saved Result with two sets out of the domain, read back as files."""
    ood = {"things": oracle("uniform", n=60), "faces": oracle("noisy", n=50, seed=4)}
    ood = {name: replace(given, targets=np.full(len(given), -1)) for name, given in ood.items()}
    size = ["100" if i % 5 else "700" for i in range(480)]
    folder = evaluate_block(slanted, ood, width=size).save(tmp_path_factory.mktemp("saved") / "error_bias")
    return folder, json.loads((folder / "metrics.json").read_text())


def read(folder, name):
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values={"p": "", "rest": "", "low_joint": ""})


def test_confidence_can_be_recomputed_from_the_saved_images(saved):
    folder, said = saved
    table = read(folder, "images")
    right = table["correct"].astype(str) == "True"
    assert (right == (table["target"] == table["prediction"])).all()
    expected = {
        "mean_confidence": table["confidence"].mean(),
        "std_confidence": table["confidence"].std(ddof=0),
        "mean_confidence_correct": table.loc[right, "confidence"].mean(),
        "mean_confidence_incorrect": table.loc[~right, "confidence"].mean(),
    }
    assert {name: said["metrics"][name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert said["metrics"]["mean_confidence_incorrect"]["floor"] == pytest.approx(expected["mean_confidence"])
    assert all(said["metrics"][name]["low"] < value < said["metrics"][name]["high"] for name, value in expected.items())


def test_unbias_can_be_recomputed_from_the_saved_predictions_of_the_sets(saved):
    folder, said = saved
    table = read(folder, "ood_predictions")
    assert table["set"].value_counts().to_dict() == {"things": 60, "faces": 50}
    expected = 1 - table["prediction"].value_counts(normalize=True).max()
    assert said["metrics"]["unbias"]["value"] == pytest.approx(expected, abs=1e-9)
    assert said["metrics"]["unbias"]["floor"] == pytest.approx(2 / 3)
    assert {"code": "unbias_alone", "value": pytest.approx(expected), "chance": pytest.approx(2 / 3)} in said[
        "warnings"
    ]


def test_every_slice_can_be_recomputed_from_the_saved_images(saved):
    folder, _ = saved
    table, images = read(folder, "slices"), read(folder, "images")
    correct = images["correct"].astype(str) == "True"
    assert set(table["by"]) == {"source", "size", "format"}
    assert table["accuracy"].is_monotonic_increasing
    for row in table.itertuples():
        inside = images[row.by] == row.slice
        own = inside & ((images["target"] == row.target) | (row.target == ""))
        assert (row.n, row.groups) == (own.sum(), images.loc[own, "group"].nunique())
        assert row.accuracy == pytest.approx(correct[own].mean(), abs=1e-9)
        assert row.mean_confidence == pytest.approx(images.loc[own, "confidence"].mean())
        interval = stats.proportion_interval(correct[own], images.loc[own, "group"], 200)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
        wrong = images.loc[own & ~correct, "prediction"].value_counts()
        assert row.most_common_error == "" if wrong.empty else wrong[row.most_common_error] == wrong.max()
        mix = images.loc[own, "target"].value_counts(normalize=True)
        others = correct[~inside].groupby(images["target"]).mean()
        expected = sum(share * others.get(target, np.nan) for target, share in mix.items())
        assert row.rest == pytest.approx(expected, nan_ok=True)


def test_confusion_by_slice_adds_up_to_the_saved_images(saved):
    folder, said = saved
    table, images = read(folder, "confusion_by_slice"), read(folder, "images")
    for row in table.to_dict("records"):
        own = (images["target"] == row["target"]) & (row["by"] == "class" or images.get(row["by"]) == row["slice"])
        assert row["n"] == own.sum()
        for name in said["classes"]:
            assert row[f"predicted_{name}"] == (own & (images["prediction"] == name)).sum()
    assert table.loc[table["by"] == "class", "n"].sum() == len(images) == 468
    assert {"code": "unlabelled", "n": 12, "all": 480} in said["warnings"]


def test_a_slanted_source_is_told_from_chance_and_the_others_are_not(saved):
    folder, said = saved
    table = read(folder, "slices")
    found = table[table["p"].notna() & (table["p_adjusted"].replace("", "2").astype(float) < 0.05)]
    assert "s23" in set(found["slice"])
    assert (table["significant"] == table.index.isin(found.index)).all()
    assert {"code": "differing", "found": len(found), "n": int(table["p"].notna().sum())} in said["warnings"]


def test_the_p_value_of_a_source_of_single_images_is_close_to_fishers(oracle, evaluate_block):
    predictions = oracle("noisy", n=300)
    logits = predictions.logits.copy()
    logits[np.flatnonzero(predictions.sources == "s00")[:6], :] = (0, 9, 0)
    table = evaluate_block(replace(predictions, logits=logits), options={"resamples": 20_000}).tables["slices"]
    row = table[(table["slice"] == "s00") & (table["by"] == "source")].iloc[0]
    own, rest = row["n"], 100 - row["n"]
    hits = round(row["accuracy"] * own), round(row["rest"] * rest)
    expected = fisher_exact([[hits[0], own - hits[0]], [hits[1], rest - hits[1]]]).pvalue
    assert row["p"] == pytest.approx(expected, abs=0.01)
    assert row["p"] <= row["p_adjusted"]


def test_a_perfect_oracle_misclassifies_nothing(oracle, evaluate_block):
    result = evaluate_block(oracle("perfect"), {"things": replace(oracle("perfect"), targets=np.full(240, -1))})
    assert result.metrics["worst_slice"].value == result.metrics["mean_confidence"].value == 1
    assert result.metrics["worst_slice"].floor == 1
    assert result.metrics["std_confidence"].value == 0
    assert result.metrics["mean_confidence_incorrect"].value is None
    assert result.metrics["unbias"].value == pytest.approx(2 / 3)
    assert result.tables["slices"]["p_adjusted"].min() == 1
    assert set(result.tables["slices"]["most_common_error"]) == {""}


def test_a_uniform_oracle_has_no_bias_and_no_confidence(oracle, evaluate_block):
    predictions = oracle("uniform", n=600)
    result = evaluate_block(
        predictions, {"things": replace(oracle("uniform", n=600, seed=1), targets=np.full(600, -1))}
    )
    assert result.metrics["mean_confidence"].value == pytest.approx(1 / 3, abs=1e-3)
    assert result.metrics["unbias"].low <= 2 / 3
    assert result.metrics["unbias"].value == pytest.approx(result.metrics["unbias"].floor, abs=0.06)
    worst = result.metrics["worst_slice"]
    assert worst.value == pytest.approx(worst.floor, abs=0.1)
    assert worst.low < 1 / 3 < worst.high


def test_a_set_that_cannot_be_read_costs_unbias_alone(oracle, dataset_of, fake_run, tmp_path):
    given = oracle("noisy")

    def predictions(dataset):
        if dataset.name == "things":
            raise DataError("things/3.png: empty file.")
        return given

    run = fake_run(given, ood={"things": (dataset_of(given, "things"), given)})
    run.predictions = predictions
    result = ErrorBias(resamples=100).evaluate(run, dataset_of(given, **STORED))
    why = "The out-of-domain set things cannot be used: things/3.png: empty file."
    assert result.metrics["unbias"].reason == Reason("ood_set_unreadable", why=why)
    assert result.metrics["worst_slice"].value is not None
    result.save(tmp_path / "error_bias")


def test_small_slices_are_listed_but_never_the_weakest(oracle, evaluate_block, draw_saved):
    predictions = oracle("noisy")
    sources = predictions.sources.copy()
    wrong = np.flatnonzero(~predictions.correct)[:2]
    sources[wrong] = "odd"
    result = evaluate_block(replace(predictions, sources=sources))
    odd = result.tables["slices"].query("slice == 'odd'")
    assert (odd["accuracy"] == 0).all()
    assert odd["p"].isna().all()
    assert result.metrics["worst_slice"].value > 0
    none = evaluate_block(predictions, options={"minimum": 200})
    assert none.metrics["worst_slice"].value is None
    assert none.metrics["worst_slice"].reason == Reason("no_comparable_slice", n=200)
    assert set(draw_saved(none)) == {"bias_map", "confidence"}


def test_gaps_are_those_of_the_saved_images(slanted, evaluate_block):
    tone = np.array(["dark", "light", "medium"])[np.arange(480) // 3 % 3]  # each has all classes
    columns = {"other:skin_tone": tone, "other:rare": ["x"] + [""] * 479}
    result = evaluate_block(slanted, options={"slices": ["skin_tone", "rare"]}, **columns)
    images, gaps = result.tables["images"], result.tables["gaps"].set_index(["by", "target"])
    for target in ("", "drawing", "generated", "real"):
        image = images[(images["target"] == target) | (target == "")]
        means = image.groupby("skin_tone")["correct"].mean()
        row = gaps.loc[("skin_tone", target)]
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

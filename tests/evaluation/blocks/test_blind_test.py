"""Tests of the blind test, of the function that builds it, and of the alarm on class order."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.blocks.blind_test import BlindTest
from avatar_bench.metrics import paired_tests, stats
from avatar_bench.metrics.units import encode
from avatar_bench.results.predictions import Predictions, to_string_array
from avatar_bench.results.reasons import Reason, format_reason
from tests.evaluation.conftest import CLASSES, make


def predictions(targets, logits, groups=None, sources=None, **options) -> Predictions:
    given = {"groups": groups, "sources": sources}
    texts = {name: to_string_array(values) for name, values in given.items() if values is not None}
    return make(targets, logits, **texts | options)


def noisy(n=240, signal=2.0, classes=3, seed=0):
    """Return targets in turn, and logits that favour them."""
    targets = np.arange(n) % classes
    return targets, np.random.default_rng(seed).normal(size=(n, classes)) + signal * np.eye(classes)[targets]


def evaluate(given: Predictions, allow=(), **options):
    provides, allowed = frozenset({"predictions", "decisions"}), frozenset(allow)
    run = SimpleNamespace(classes=given.classes, allow=allowed, provides=provides, predictions=lambda dataset: given)
    shown = []
    frame = pd.DataFrame({"sha256": [f"{row:064x}" for row in range(len(given))]})
    grey = np.zeros((8, 6, 3), np.uint8)
    dataset = SimpleNamespace(name="test", frame=frame, image=lambda row: shown.append(row) or grey)
    result = BlindTest(**{"resamples": 200, **options}).evaluate(run, dataset)
    return result, shown


def test_a_perfect_oracle_scores_one():
    targets, _ = noisy()
    result, shown = evaluate(predictions(targets, 50 * np.eye(3)[targets]))
    names = [name for name in result.metrics if name not in ("chance", "majority_share", "detectable_difference")]
    assert len(names) == 5 + 4 * 3
    assert all(result.metrics[name].value == 1.0 for name in names)
    assert result.metrics["accuracy"].low == pytest.approx(stats.wilson(240, 240)[0])
    assert "gallery" not in result.arrays
    assert shown == []


def test_a_uniform_oracle_scores_chance():
    targets, _ = noisy(600)
    result, _ = evaluate(predictions(targets, np.random.default_rng(3).normal(0, 1e-4, (600, 3))))
    for name, chance in (("accuracy", 1 / 3), ("balanced_accuracy", 1 / 3), ("macro_f1", 1 / 3), ("mcc", 0)):
        assert result.metrics[name].low <= chance <= result.metrics[name].high
    assert result.metrics["chance"].value == pytest.approx(1 / 3)


def guessing_warnings(given: Predictions) -> list[str]:
    warnings = evaluate(given)[0].warnings
    return [format_reason(warning, "blind_test") for warning in warnings if warning.code == "guessing"]


def test_a_run_that_guesses_is_warned_of_and_one_that_sees_is_not():
    targets, logits = noisy()
    assert guessing_warnings(predictions(targets, logits)) == []
    (warning,) = guessing_warnings(predictions(targets, np.random.default_rng(3).normal(size=(240, 3))))
    assert warning.endswith("and guessing gives 0.333.")
    unbalanced = np.repeat(np.arange(3), [200, 20, 20])
    assert guessing_warnings(predictions(unbalanced, np.tile([1.0, 0, 0], (240, 1)))) == [
        "The run is not significantly better than guessing: its balanced accuracy is 0.333, and guessing gives 0.333."
    ]


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused_and_named(order):
    targets, logits = noisy(signal=3)
    wrong = predictions(targets, logits[:, list(order)])
    with pytest.raises(GuardError) as caught:
        evaluate(wrong)
    assert len(caught.value.lines) == 3
    for i, real in enumerate(order):
        assert (f"{CLASSES[i]!r} is {CLASSES[real]!r}" in caught.value.lines[1]) == (i != real)
    assert evaluate(wrong, allow={"permutation"})[0].metrics["accuracy"].value < 0.5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved Result of a calibrated network, groups of two, some targets unknown, read back as files."""
    targets, logits = noisy(signal=1.2)
    targets = np.where(np.arange(240) % 40 == 7, -1, targets)
    given = predictions(targets, logits, groups=[f"g{i // 2}" for i in range(240)], temperature=0.7)
    folder = tmp_path_factory.mktemp("blind") / "blind_test"
    evaluate(given)[0].save(folder)
    return folder, json.loads((folder / "metrics.json").read_text())["metrics"]


def test_every_metric_can_be_recomputed_from_the_saved_predictions(saved):
    folder, said = saved
    table = pd.read_csv(folder / "predictions.csv")
    true, guess = table["target"], table["prediction"]
    probabilities = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
    expected = {
        "accuracy": sk.accuracy_score(true, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(true, guess),
        "macro_precision": sk.precision_score(true, guess, average="macro"),
        "macro_f1": sk.f1_score(true, guess, average="macro"),
        "mcc": sk.matthews_corrcoef(true, guess),
    }
    by_class = sk.precision_recall_fscore_support(true, guess, labels=CLASSES)
    for index, name in enumerate(CLASSES):
        for kind, values in zip(("precision", "recall", "f1"), by_class, strict=False):
            expected[f"{kind}/{name}"] = values[index]
        expected[f"auroc/{name}"] = sk.roc_auc_score(true == name, probabilities[:, index])
    assert {name: said[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_saved_confusion_equals_sklearn(saved):
    table, predicted = pd.read_csv(saved[0] / "confusion.csv"), pd.read_csv(saved[0] / "predictions.csv")
    assert list(table["target"]) == list(CLASSES)
    expected = sk.confusion_matrix(predicted["target"], predicted["prediction"], labels=CLASSES)
    np.testing.assert_array_equal(table[list(CLASSES)], expected)


def test_saved_sources_have_their_own_recall_and_commonest_error(saved):
    table, predicted = pd.read_csv(saved[0] / "per_source.csv"), pd.read_csv(saved[0] / "predictions.csv")
    assert table["n"].sum() == len(predicted)
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    for row in table.itertuples():
        own = predicted[(predicted["source"] == row.source) & (predicted["target"] == row.target)]
        assert (row.n, row.groups) == (len(own), own["group"].nunique())
        assert row.accuracy == pytest.approx(own["correct"].mean())
        errors = own.loc[~own["correct"], "prediction"].value_counts()
        assert errors[row.most_common_error] == errors.max()


def test_intervals_are_wilson_for_single_images_and_by_group_for_repeated_ones():
    targets, logits = noisy()
    single, _ = evaluate(predictions(targets, logits))
    correct = int((logits.argmax(axis=1) == targets).sum())
    found = single.metrics["accuracy"]
    assert (found.low, found.high) == pytest.approx(stats.wilson(correct, 240))
    assert (found.interval, found.n) == ("wilson", 240)
    assert single.metrics["macro_f1"].interval == "bootstrap by group"
    repeated, _ = evaluate(
        predictions(np.repeat(targets, 4), np.repeat(logits, 4, axis=0), np.repeat(np.arange(240), 4).astype(str))
    )
    four = repeated.metrics["accuracy"]
    assert (four.value, four.interval, four.n, four.units) == (found.value, "bootstrap by group", 960, 240)
    assert four.high - four.low == pytest.approx(found.high - found.low, rel=0.2)


def test_on_new_sources_intervals_are_by_source_with_those_of_these_sources_beside():
    targets = np.arange(400) // 2 % 2
    sources = np.array([f"{target}{row // 50}" for row, target in enumerate(targets)])
    good = np.repeat(np.arange(8) % 4 > 0, 50)  # a source is recognised whole or not at all
    seen = predictions(targets, 5 * np.eye(3)[np.where(good, targets, 2)], sources=sources)
    new = replace(seen, origins=encode(sources))
    these, metrics = (evaluate(one)[0].metrics for one in (seen, new))
    assert metrics["accuracy"].value == these["accuracy"].value
    assert metrics["accuracy"].inference == {"unit": "source", "units": 16, "population": "new sources"}
    assert these["accuracy"].inference == {"unit": "image", "units": 400, "population": "these sources"}
    for name in ("accuracy", "macro_f1", "recall/drawing"):
        plain, beside = these[name], metrics[name].these_sources
        assert (beside["low"], beside["high"]) == (plain.low, plain.high)
        assert metrics[name].high - metrics[name].low > 2 * (plain.high - plain.low)
    assert metrics["balanced_accuracy"].low == pytest.approx(
        stats.balanced_interval_of_sources(new.correct, new.units).low
    )
    assert these["detectable_difference"].value < 0.2
    assert metrics["detectable_difference"].value is None  # the errors are those of four sources
    # a class of one source shows nothing of new ones
    single = replace(seen, origins=np.where(targets == 1, 0, encode(sources)))
    metrics = evaluate(single)[0].metrics
    assert metrics["accuracy"].reason == Reason("one_source")
    assert (metrics["accuracy"].low, metrics["accuracy"].population) == (these["accuracy"].low, "these sources")
    assert metrics["recall/drawing"].population == "new sources"


def test_an_absent_class_gives_null_and_means_are_over_the_others():
    targets, logits = noisy()
    present = targets != 1
    result, _ = evaluate(predictions(targets[present], logits[present]))
    for kind in ("precision", "recall", "f1", "auroc"):
        assert result.metrics[f"{kind}/generated"].value is None
    guess = logits[present].argmax(axis=1)
    expected = sk.f1_score(targets[present], guess, labels=[0, 2], average="macro")
    assert result.metrics["macro_f1"].value == pytest.approx(expected)
    expected = sk.precision_score(targets[present], guess, labels=[0, 2], average="macro")
    assert result.metrics["macro_precision"].value == pytest.approx(expected)
    assert Reason("no_images", name="generated") in result.warnings
    assert result.tables["confusion"].loc[1, list(CLASSES)].sum() == 0


def test_the_gallery_shows_the_most_confident_errors_of_the_right_images():
    targets, logits = noisy(signal=1.0)
    targets = np.where(np.arange(240) < 10, -1, targets)
    given = predictions(targets, logits)
    _, shown = evaluate(given, gallery=5)
    wrong = np.flatnonzero((targets >= 0) & ~given.correct)
    assert shown == sorted(wrong, key=lambda i: -given.confidence[i])[:5]
    assert "gallery" not in evaluate(given, gallery=0)[0].arrays


def test_detectable_difference_follows_the_discordance_given_or_that_of_independent_errors():
    targets, logits = noisy()
    given, _ = evaluate(predictions(targets, logits), discordance=0.2)
    assert given.metrics["detectable_difference"].value == paired_tests.detectable_difference(240, 0.2)
    alone, _ = evaluate(predictions(targets, logits))
    accuracy = alone.metrics["accuracy"].value
    expected = paired_tests.detectable_difference(240, 2 * accuracy * (1 - accuracy))
    assert alone.metrics["detectable_difference"].value == expected


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("blind_tets", {}, ["did you mean blind_test?", "There are: "]),
        ("blind_test", {"resample": 10}, ["block.blind_test.resample", "did you mean resamples?", "seed"]),
        ("blind_test", {"level": 95}, ["level=95", "below 1"]),
        ("blind_test", {"discordance": 0}, ["discordance=0", "up to 1"]),
    ],
)
def test_a_wrong_name_or_option_is_said_in_three_lines_at_most(name, options, words):
    with pytest.raises(ConfigError) as caught:
        build_block(name, options)
    assert len(str(caught.value).splitlines()) <= 3
    assert all(word in str(caught.value) for word in words)

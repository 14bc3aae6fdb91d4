"""Tests of blind_test: numbers by scikit-learn, intervals over images, groups and sources, and class order."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from avatar_bench.errors import GuardError
from avatar_bench.evaluation.blocks.blind_test import BlindTest
from avatar_bench.metrics import stats
from avatar_bench.metrics.units import encode
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result
from tests.evaluation.conftest import CLASSES, make

TARGETS = np.arange(240) % 3


def noisy(signal=2.0):
    """Return logits that favour TARGETS."""
    return np.random.default_rng(0).normal(size=(240, 3)) + signal * np.eye(3)[TARGETS]


@pytest.fixture(scope="module")
def evaluate(fake_run, dataset_of):
    """Run the block on Predictions; `shown` collects the rows whose images it reads."""

    def call(predictions, allow=(), shown=None, **options):
        dataset = dataset_of(predictions)
        if shown is not None:
            grey = np.zeros((8, 6, 3), np.uint8)
            dataset.image = lambda row: shown.append(row) or grey
        run = fake_run(predictions, allow=frozenset(allow))
        return BlindTest(**{"resamples": 200, **options}).evaluate(run, dataset)

    return call


def test_a_perfect_oracle_scores_one_and_a_uniform_one_chance_and_the_detectable_difference(evaluate, oracle):
    shown = []
    result = evaluate(oracle("perfect"), shown=shown)
    names = set(result.metrics) - {"chance", "majority_share", "detectable_difference"}
    assert len(names) == 5 + 4 * 3
    assert {result.metrics[name].value for name in names} == {1.0}
    assert result.metrics["accuracy"].low == pytest.approx(stats.wilson(240, 240)[0])
    assert "gallery" not in result.arrays
    assert shown == []
    metrics = evaluate(oracle("uniform", n=600, seed=3)).metrics
    for name, chance in (("accuracy", 1 / 3), ("balanced_accuracy", 1 / 3), ("macro_f1", 1 / 3), ("mcc", 0)):
        assert metrics[name].low <= chance <= metrics[name].high
    assert metrics["chance"].value == pytest.approx(1 / 3)
    accuracy = metrics["accuracy"].value  # errors of another run are taken to be independent, or as the option says
    expected = (norm.isf(0.025) + norm.isf(0.2)) * (2 * accuracy * (1 - accuracy) / 600) ** 0.5  # and the steps
    assert expected < metrics["detectable_difference"].value < 1.05 * expected
    stated = evaluate(oracle("noisy"), discordance=0.2).metrics["detectable_difference"]
    assert stated.value == pytest.approx((norm.isf(0.025) + norm.isf(0.2)) * (0.2 / 240) ** 0.5, rel=0.05)
    for count, least_p in ((5, 2 / 2**5), (6, 2 / 2**6)):
        few = replace(oracle("noisy"), groups=np.array([f"g{row % count}" for row in range(240)]))
        found = evaluate(few, discordance=0.2).metrics["detectable_difference"].value
        assert (found is None) == (least_p > 0.05)


def test_a_run_that_guesses_is_warned_of_and_one_that_sees_is_not(evaluate):
    drawn = make(TARGETS, np.random.default_rng(3).normal(size=(240, 3)))
    constant = make(np.repeat(np.arange(3), [200, 20, 20]), np.tile([1.0, 0, 0], (240, 1)))
    codes = [{warning.code: warning for warning in evaluate(of).warnings} for of in (make(TARGETS, noisy()), drawn)]
    assert ["guessing" in warnings for warnings in codes] == [False, True]
    (warning,) = [warning for warning in evaluate(constant).warnings if warning.code == "guessing"]
    assert format_reason(warning, "blind_test") == (
        "The run is not significantly better than guessing: its balanced accuracy is 0.333, and guessing gives 0.333."
    )


def test_a_wrong_order_of_classes_is_refused_and_named_unless_allowed(evaluate, oracle):
    wrong = oracle(("permuted", (0, 2, 1)))
    with pytest.raises(GuardError) as caught:
        evaluate(wrong)
    assert len(caught.value.lines) == 3
    named = ["'drawing' is 'drawing'", "'generated' is 'real'", "'real' is 'generated'"]
    assert [text in caught.value.lines[1] for text in named] == [False, True, True]
    assert evaluate(wrong, allow={"permutation"}).metrics["accuracy"].value < 0.5


def test_metrics_and_sources_can_be_recomputed_from_the_saved_predictions(evaluate, tmp_path):
    targets, groups = np.where(np.arange(240) % 40 == 7, -1, TARGETS), [f"g{i // 2}" for i in range(240)]
    calibrated = make(targets, noisy(1.2), groups=groups, temperature=0.7)
    saved = Result.load(evaluate(calibrated).save(tmp_path / "blind_test"))
    table = saved.tables["predictions"]
    true, predicted = table["target"], table["prediction"]
    expected = {
        "accuracy": sk.accuracy_score(true, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(true, predicted),
        "macro_precision": sk.precision_score(true, predicted, average="macro"),
        "macro_f1": sk.f1_score(true, predicted, average="macro"),
        "mcc": sk.matthews_corrcoef(true, predicted),
    }
    by_class = sk.precision_recall_fscore_support(true, predicted, labels=CLASSES)
    for index, name in enumerate(CLASSES):
        expected |= {f"{kind}/{name}": by_class[k][index] for k, kind in enumerate(("precision", "recall", "f1"))}
        expected[f"auroc/{name}"] = sk.roc_auc_score(true == name, table[f"prob_{name}"])
    assert {name: saved.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-6)
    confusion = saved.tables["confusion"]
    assert list(confusion["target"]) == list(CLASSES)
    np.testing.assert_array_equal(confusion[list(CLASSES)], sk.confusion_matrix(true, predicted, labels=CLASSES))
    table, predictions = saved.tables["per_source"], saved.tables["predictions"]
    assert table["n"].sum() == len(predictions)
    assert ((table["low"] <= table["accuracy"]) & (table["accuracy"] <= table["high"])).all()
    for row in table.itertuples():
        rows = predictions[(predictions["source"] == row.source) & (predictions["target"] == row.target)]
        assert (row.n, row.groups) == (len(rows), rows["group"].nunique())
        assert row.accuracy == pytest.approx(rows["correct"].mean())
        errors = rows.loc[~rows["correct"], "prediction"].value_counts()
        assert errors[row.most_common_error] == errors.max()


def test_intervals_are_wilson_for_single_images_by_group_for_repeated_ones_and_by_source_on_new_sources(evaluate):
    logits = noisy()
    metrics = evaluate(make(TARGETS, logits)).metrics
    single, correct = metrics["accuracy"], int((logits.argmax(axis=1) == TARGETS).sum())
    assert (single.low, single.high) == pytest.approx(stats.wilson(correct, 240))
    assert (single.interval, single.n) == ("wilson", 240)
    assert metrics["macro_f1"].interval == "bootstrap by group"
    targets, logits, groups = (np.repeat(part, 4, axis=0) for part in (TARGETS, logits, np.arange(240).astype(str)))
    four = evaluate(make(targets, logits, groups=groups)).metrics["accuracy"]
    assert (four.value, four.interval, four.n, four.units) == (single.value, "bootstrap by group", 960, 240)
    assert four.high - four.low == pytest.approx(single.high - single.low, rel=0.2)
    targets = np.arange(400) // 2 % 2
    sources = np.array([f"{target}{row // 50}" for row, target in enumerate(targets)])
    good = np.repeat(np.arange(8) % 4 > 0, 50)  # a source is recognised whole or not at all
    seen = make(targets, 5 * np.eye(3)[np.where(good, targets, 2)], sources=sources)
    new = replace(seen, origins=encode(sources))
    these, metrics = (evaluate(predictions).metrics for predictions in (seen, new))
    assert metrics["accuracy"].value == these["accuracy"].value
    assert metrics["accuracy"].inference == {"unit": "source", "units": 16, "population": "new sources"}
    assert these["accuracy"].inference == {"unit": "image", "units": 400, "population": "these sources"}
    for name in ("accuracy", "macro_f1", "recall/drawing"):
        plain, beside = these[name], metrics[name].these_sources
        assert (beside["low"], beside["high"]) == (plain.low, plain.high)
        assert metrics[name].high - metrics[name].low > 2 * (plain.high - plain.low)
    balanced = stats.balanced_interval_of_sources(new.correct, new.units)
    assert metrics["balanced_accuracy"].low == pytest.approx(balanced.low)
    assert these["detectable_difference"].value < 0.2
    assert metrics["detectable_difference"].value > 2 * these["detectable_difference"].value  # of four sources
    # a class of one source shows nothing of new ones
    metrics = evaluate(replace(seen, origins=np.where(targets == 1, 0, encode(sources)))).metrics
    assert metrics["accuracy"].reason == Reason("one_source")
    assert (metrics["accuracy"].low, metrics["accuracy"].population) == (these["accuracy"].low, "these sources")
    assert metrics["recall/drawing"].population == "new sources"
    assert metrics["detectable_difference"].reason == Reason("one_source_untested")


def test_an_absent_class_gives_null_and_the_gallery_shows_the_most_confident_errors(evaluate):
    present, logits = TARGETS != 1, noisy()
    result = evaluate(make(TARGETS[present], logits[present]))
    assert {result.metrics[f"{kind}/generated"].value for kind in ("precision", "recall", "f1", "auroc")} == {None}
    predicted, mean = logits[present].argmax(axis=1), {"labels": [0, 2], "average": "macro"}
    for name, score in (("macro_f1", sk.f1_score), ("macro_precision", sk.precision_score)):
        assert result.metrics[name].value == pytest.approx(score(TARGETS[present], predicted, **mean))
    assert Reason("no_images", name="generated") in result.warnings
    assert result.tables["confusion"].loc[1, list(CLASSES)].sum() == 0
    targets, shown = np.where(np.arange(240) < 10, -1, TARGETS), []
    predictions = make(targets, noisy(1.0))
    evaluate(predictions, gallery=5, shown=shown)
    wrong = np.flatnonzero((targets >= 0) & ~predictions.correct)
    assert shown == sorted(wrong, key=lambda i: -predictions.confidence[i])[:5]
    assert "gallery" not in evaluate(predictions, gallery=0).arrays

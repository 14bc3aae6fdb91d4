"""Probes: with informative properties, without any, and with too few images."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from avatar_bench.audit import probes
from avatar_bench.results.reasons import Reason

PLAN = probes.ProbeSettings(resamples=200)


def frame(n=240, groups=120, classes=3, seed=0):
    """Return images in groups of one class each, with a property that is noise."""
    group = np.arange(n) % groups
    label = np.array(["drawing", "generated", "real"])[group % classes]
    noise = np.random.default_rng(seed).normal(size=n)
    return pd.DataFrame({"label": label, "group": group.astype(str), "source": "s", "noise": noise})


def test_a_property_that_tells_the_class_is_found_and_one_that_never_varies_is_chance():
    data = frame()
    data["informative"] = data["label"].map({"drawing": 0.0, "generated": 1.0, "real": 2.0})
    result = probes.probe(data, ["noise", "informative"], PLAN)
    assert (result.auroc.value, result.balanced_accuracy.value) == (pytest.approx(1.0), pytest.approx(1.0))
    assert result.auroc.higher_is_better is False
    names = probes.probe_single_properties(data, ["noise", "informative"], PLAN)["property"]
    assert names.tolist() == ["informative", "noise"]
    data = frame()
    data["format"] = np.where(data["label"] == "real", "JPEG", "PNG")
    data["exif"] = data["label"] == "drawing"
    assert probes.probe(data, ["format", "exif"], PLAN).auroc.value == pytest.approx(1.0)
    result = probes.probe(frame().assign(same=1.0), ["same"], PLAN)
    assert (result.auroc.value, result.balanced_accuracy.value) == (0.5, pytest.approx(1 / 3))
    assert result.auroc.reason == Reason("no_spread")


def test_noise_is_at_chance_level_and_so_is_a_number_of_each_group():
    for classes in [2, 3]:
        result = probes.probe(frame(600, 300, classes), ["noise"], PLAN)
        assert result.auroc.low < 0.5 < result.auroc.high + 0.02
        assert (result.balanced_accuracy.value, result.auroc.n) == (pytest.approx(1 / classes, abs=0.08), 300)
    # a number that is the group's own would tell the class of every image, were its group split
    data = frame(400, 40)
    data["number"] = pd.Series(np.random.default_rng(0).permutation(40))[data["group"].astype(int)].to_numpy()
    assert probes.probe(data, ["number"], PLAN).auroc.value < 0.75
    data = frame()
    rare = pd.DataFrame({"label": "real", "group": ["x", "y", "y"], "source": "s", "noise": 0.0})
    data = pd.concat([data[data["label"] != "real"], rare], ignore_index=True)
    assert 0 <= probes.probe(data, ["noise"], PLAN).auroc.value <= 1


def test_figures_equal_those_of_sklearn_on_the_same_scores():
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 3, 90)
    scores = rng.dirichlet(np.ones(3), 90) + 0.3 * np.eye(3)[targets]
    groups = np.arange(90).astype(str)
    predictions = probes._score_predictions(scores, targets, groups, ["a", "b", "c"], PLAN)
    aurocs = [roc_auc_score(targets == index, scores[:, index]) for index in range(3)]
    assert predictions.auroc.value == pytest.approx(max(aurocs))
    assert [metric.value for metric in predictions.by_class.values()] == pytest.approx(aurocs)
    assert predictions.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(targets, scores.argmax(axis=1)))


def test_what_cannot_be_probed_has_a_reason():
    is_real = frame()["label"] == "real"
    one_group = frame().assign(group=frame()["group"].where(~is_real, "one"))
    reasons = Reason("fewer_than_two_classes"), Reason("one_group", name="real")
    for data, reason in zip((frame()[is_real], one_group), reasons, strict=True):
        auroc = probes.probe(data, ["noise"], PLAN).auroc
        assert (auroc.value, auroc.reason) == (None, reason)
        assert probes.probe_single_properties(data, ["noise"], PLAN)["auroc"].isna().all()


def test_a_source_of_one_class_tells_it_and_a_mixed_one_does_not():
    data = frame()
    assert probes.probe_source(data.assign(source=data["label"] + "s"), settings=PLAN).auroc.value == 1.0
    assert probes.probe_source(data, settings=PLAN).auroc.value == pytest.approx(0.5, abs=0.05)
    assert probes.probe_source(data.assign(source=""), settings=PLAN).auroc.reason == Reason("no_source")
    unknown_to_other_folds = probes.probe_source(data.assign(source=data["group"]), settings=PLAN)
    assert unknown_to_other_folds.auroc.value == pytest.approx(0.5)


def test_the_majority_is_counted_and_a_draw_keeps_the_shares_of_the_classes():
    accuracy, balanced = probes.score_majority_class(pd.DataFrame({"label": ["a", "a", "a", "b"]}))
    assert (accuracy.value, balanced.value) == (0.75, 0.5)
    data = pd.DataFrame({"label": ["a"] * 800 + ["b"] * 190 + ["c"] * 10})
    rows = probes.sample_rows(data, 100, seed=1)
    assert data["label"].iloc[rows].value_counts().to_dict() == {"a": 80, "b": 19, "c": 1}
    assert (np.diff(rows) > 0).all()
    assert (probes.sample_rows(data, 100, seed=1) == rows).all()
    assert (probes.sample_rows(data, 100, seed=2) != rows).any()
    assert len(probes.sample_rows(data, 1000)) == 1000


def test_a_property_of_sources_predicts_the_class_within_them_and_not_out_of_them():
    rng, source = np.random.default_rng(0), np.arange(420) % 14
    data = pd.DataFrame({"label": np.where(source < 7, "a", "b"), "group": np.arange(420).astype(str)})
    data = data.assign(source=np.char.add("s", source.astype(str)), width=rng.permutation(14)[source])
    within, out = probes.probe(data, ["width"], PLAN).auroc, probes.probe_out_of_sources(data, ["width"], PLAN).auroc
    assert within.value > 0.95
    assert out.low < 0.5
    assert (out.unit, out.units, out.population) == ("source", 14, "new sources")
    revealing = data.assign(width=np.where(source < 7, 100, 200))
    assert probes.probe_out_of_sources(revealing, ["width"], PLAN).auroc.value == pytest.approx(1)
    single = probes.probe_out_of_sources(data[(source < 7) | (source == 9)], ["width"], PLAN).auroc
    assert (single.value, single.reason) == (None, Reason("one_source", name="b"))
    unknown = probes.probe_out_of_sources(data.assign(source=""), ["width"], PLAN).auroc
    assert (unknown.value, unknown.n) == (pytest.approx(within.value), 420)

"""Tests of prior_shift: metrics under other class proportions, recomputed from the saved tables."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from avatar_bench.cli.app import main
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.blocks.prior_shift import PriorShift
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import Reason

CLASSES = ("drawing", "generated", "real")
COUNTS = {"drawing": 100, "generated": 300, "real": 200}
MIXES = {"50-25-25": 0.5, "70-15-15": 0.7, "80-10-10": 0.8}


@pytest.fixture
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions, with known counts of training images."""

    def build(predictions, run=None, **options):
        fields = {"record": {"split": {"train_counts": COUNTS}}} | (run or {})
        block = PriorShift(**{"resamples": 100, "shares": [0.2, 0.8]} | options)
        return block.evaluate(fake_run(predictions, **fields), dataset_of(predictions))

    return build


def noisy(make_predictions, n=240, **fields):
    rng = np.random.default_rng(5)
    targets = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return make_predictions(targets, rng.normal(size=(n, 3)) + 1.5 * np.eye(3)[targets], **fields)


def test_every_metric_can_be_recomputed_from_the_saved_tables(evaluate_block, make_predictions, tmp_path):
    predictions = noisy(make_predictions, groups=[f"g{i // 2}" for i in range(240)], temperature=0.7)
    folder = evaluate_block(predictions).save(tmp_path / "prior_shift")
    said = json.loads((folder / "metrics.json").read_text())["metrics"]
    table, priors = pd.read_csv(folder / "predictions.csv"), pd.read_csv(folder / "priors.csv")
    posteriors = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
    training = np.array([COUNTS[name] / 600 for name in CLASSES])
    counts = table["target"].value_counts()
    for mix, share in MIXES.items():
        rest = (1 - share) / 2
        prior = np.array([share, rest, rest])
        weights = table["target"].map(dict(zip(CLASSES, prior, strict=True))) / table["target"].map(counts)
        estimate = priors[priors["mix"] == mix].set_index("class")["estimated"][list(CLASSES)].to_numpy()
        shares = {"": training, "corrected/": prior, "estimated/": estimate}
        accuracy = {}
        for way, assumed in shares.items():
            answers = np.array(CLASSES)[(posteriors * assumed / training).argmax(axis=1)]
            accuracy[way] = sk.accuracy_score(table["target"], answers, sample_weight=weights)
            macro = sk.f1_score(table["target"], answers, sample_weight=weights, average="macro")
            assert said[f"{way}accuracy/{mix}"]["value"] == pytest.approx(accuracy[way], abs=1e-6)
            assert said[f"{way}macro_f1/{mix}"]["value"] == pytest.approx(macro, abs=1e-6)
            if way:
                assert said[f"{way}gain/{mix}"]["value"] == pytest.approx(accuracy[way] - accuracy[""], abs=1e-6)
        # the estimate is a fixed point: the mean of the posteriors that it corrects
        fixed = posteriors * estimate / training
        fixed = np.average(fixed / fixed.sum(axis=1, keepdims=True), axis=0, weights=weights)
        np.testing.assert_allclose(fixed, estimate, atol=1e-6)
        assert said[f"prior_error/{mix}"]["value"] == pytest.approx(np.abs(estimate - prior).sum() / 2, abs=1e-6)
    assert len(said) == 9 * len(MIXES)


def test_every_metric_has_an_interval_around_it_by_group_and_a_floor(evaluate_block, make_predictions):
    groups = [f"g{i // 2}" for i in range(240)]
    result = evaluate_block(noisy(make_predictions, groups=groups))
    for name, metric in result.metrics.items():
        assert metric.low <= metric.value <= metric.high, name
        assert (metric.n, metric.units, metric.interval) == (240, 120, "bootstrap by group")
    floors = {name: result.metrics[f"{name}/80-10-10"].floor for name in ("accuracy", "corrected/accuracy")}
    assert floors == pytest.approx({"accuracy": 1 / 3, "corrected/accuracy": 0.8})
    assert result.metrics["prior_error/80-10-10"].floor == pytest.approx(0.8 - 100 / 600)


def test_mixes_csv_gives_each_class_in_turn_each_share(evaluate_block, make_predictions, draw_saved):
    result = evaluate_block(noisy(make_predictions))
    table = result.tables["mixes"]
    assert list(table["mix"][:3]) == list(MIXES)
    turns = table[table["frequent"] != ""]
    assert list(turns["frequent"]) == [name for name in CLASSES for _ in range(2)]
    for row in turns.itertuples():
        shares = [getattr(row, f"share_{name}") for name in CLASSES]
        assert sum(shares) == pytest.approx(1)
        assert getattr(row, f"share_{row.frequent}") in (0.2, 0.8)
    np.testing.assert_allclose(table["accuracy"][:3], [result.metrics[f"accuracy/{mix}"].value for mix in MIXES])
    assert [name for name in table if name.startswith("share_")] == ["share_drawing", "share_real", "share_generated"]
    for row in table.itertuples():  # of a network that names the commonest class alone, by scikit-learn
        prior = [getattr(row, f"share_{name}") for name in CLASSES]
        always = np.full(3, np.argmax(prior))
        expected = sk.f1_score(range(3), always, sample_weight=prior, average="macro")
        assert row.majority_macro_f1 == pytest.approx(expected)
        assert row.majority_accuracy == pytest.approx(sk.accuracy_score(range(3), always, sample_weight=prior))
    assert set(draw_saved(result)) == {"mixes", "shares"}
    assert set(draw_saved(evaluate_block(noisy(make_predictions), shares=[]))) == {"mixes"}


def test_the_figures_say_which_class_is_the_frequent_one_and_draw_macro_f1(
    evaluate_block, make_predictions, draw_saved
):
    result = evaluate_block(noisy(make_predictions))
    figures = draw_saved(result)
    table = result.tables["mixes"].set_index("mix")
    for axes, measure in zip(figures["mixes"].axes, ("accuracy", "macro_f1"), strict=True):
        values = [line.get_xdata()[0] for line in axes.lines if line.get_color() == plots.get_colour(0)]
        np.testing.assert_allclose(values, table.loc[list(MIXES), measure])
    name = figures["mixes"].axes[0].get_yticklabels()[0].get_text()
    assert " ".join(name.split()) == "50-25-25, drawing 50, real 25, generated 25"
    upper, lower = figures["shares"].axes[:3], figures["shares"].axes[3:]
    training = [line.get_xdata()[0] for axes in upper for line in axes.lines if line.get_linestyle() == ":"]
    assert training == pytest.approx([COUNTS[name] / 600 for name in CLASSES])
    assert [axes.get_title() for axes in upper] == list(CLASSES)
    for axes, name in zip(lower, CLASSES, strict=True):
        np.testing.assert_allclose(axes.lines[0].get_ydata(), table.loc[table["frequent"] == name, "macro_f1"])


def test_a_perfect_oracle_is_right_under_every_mix(evaluate_block, oracle):
    result = evaluate_block(oracle("perfect"))
    for name, metric in result.metrics.items():
        right = 1.0 if "accuracy" in name or "macro_f1" in name else 0.0
        assert metric.value == pytest.approx(right, abs=1e-5)


def test_a_uniform_oracle_is_at_its_floors(evaluate_block, oracle):
    result = evaluate_block(oracle("uniform", n=900), run={"record": {"balance": "sampler"}})
    for name, metric in result.metrics.items():
        if not name.startswith(("estimated/", "prior_error")):  # noise has likeliest shares too, anywhere
            assert metric.value == pytest.approx(metric.floor, abs=0.06), name


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused(evaluate_block, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle(("permuted", order)))


@pytest.mark.parametrize(
    ("record", "options", "shares", "origin"),
    [
        ({"split": {"train_counts": COUNTS}}, {}, [1 / 6, 1 / 2, 1 / 3], "train split"),
        ({"split": {"train_counts": COUNTS}, "balance": "none"}, {}, [1 / 6, 1 / 2, 1 / 3], "train split"),
        ({"split": {"train_counts": COUNTS}, "balance": "loss"}, {}, [1 / 3] * 3, "balance"),
        ({}, {"training": {"real": 0.7, "drawing": 0.1, "generated": 0.2}}, [0.1, 0.2, 0.7], "option"),
    ],
)
def test_the_shares_of_training_are_what_the_network_met(evaluate_block, oracle, record, options, shares, origin):
    provenance = evaluate_block(oracle("noisy"), run={"record": record}, **options).provenance
    assert list(provenance["training_shares"].values()) == pytest.approx(shares)
    assert provenance["training_shares_from"] == origin


def test_the_shares_of_training_are_counted_where_the_record_lacks_them(evaluate_block, make_predictions, oracle):
    training = make_predictions([0, 1, 1, 2], np.zeros((4, 3)))
    provenance = evaluate_block(oracle("noisy"), run={"record": {}, "training": training}).provenance
    assert list(provenance["training_shares"].values()) == [0.25, 0.5, 0.25]
    with pytest.raises(BlockError):
        evaluate_block(oracle("noisy"), run={"record": {}})


def test_a_set_without_a_class_and_a_run_of_other_classes_are_refused(evaluate_block, make_predictions, oracle):
    with pytest.raises(BlockError, match="no image of class 'real'"):
        evaluate_block(make_predictions(np.arange(60) % 2, np.zeros((60, 3)), sources=[""] * 60))
    with pytest.raises(BlockError, match="no mix fits the classes of this run"):
        evaluate_block(oracle("noisy", classes=4))
    with pytest.raises(BlockError, match="known"):
        evaluate_block(make_predictions(np.full(5, -1), np.zeros((5, 3))))
    with pytest.raises(BlockError, match="training"):
        evaluate_block(oracle("noisy"), training={"drawing": 1.0})


def test_mixes_of_other_classes_are_left_out_and_named(evaluate_block, oracle):
    two = {"one": {"class0": 0.9, "class1": 0.1}, "other": {"cat": 1.0}, "gone": None}
    counts = {"record": {"split": {"train_counts": {"class0": 1, "class1": 3}}}}
    result = evaluate_block(oracle("noisy", classes=2), run=counts, mixes=two)
    assert "accuracy/one" in result.metrics
    assert len(result.metrics) == 9
    assert result.warnings == [Reason("mixes_of_other_classes", names=["other"])]


def test_images_of_unknown_class_are_left_out_and_said(evaluate_block, make_predictions):
    predictions = noisy(make_predictions)
    predictions.targets[:6] = -1
    result = evaluate_block(predictions)
    assert result.n == 234
    assert result.warnings == [Reason("unlabelled", n=6, all=240)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shares": [1.2]}, "block.prior_shift.shares="),
        ({"mixes": {"a": {"x": 0.5}}}, "block.prior_shift.mixes="),
        ({"training": {"a": 1.0, "b": 0.0}}, "block.prior_shift.training="),
        ({"resamples": 5}, "block.prior_shift.resamples=5"),
    ],
)
def test_a_wrong_option_is_named(options, told):
    with pytest.raises(ConfigError, match=told):
        PriorShift(**options)


def test_the_command_writes_the_tables_and_figures(tiny_run, tmp_path):
    words = ["evaluate", f"ckpt={tiny_run}", "block=prior_shift", f"out={tmp_path}", "block.prior_shift.resamples=100"]
    feed = "+block.prior_shift.mixes={feed: {real: .9, generated: .1}, 70-15-15: null}"
    assert main([*words, feed]) == 0
    folder = tmp_path / "evaluation" / "test" / "prior_shift"
    said = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {name.partition("/")[2] for name in said if name.startswith("accuracy/")} == {"50-25-25", "80-10-10", "feed"}
    found = {file.name for file in folder.iterdir()}
    assert {"metrics.json", "mixes.csv", "priors.csv", "predictions.csv", "mixes.png", "shares.png"} <= found

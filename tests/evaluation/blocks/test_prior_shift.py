"""Tests of prior_shift: metrics under other class proportions, recomputed from the saved tables."""

import numpy as np
import pytest
from sklearn import metrics as sk

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.prior_shift import PriorShift
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from tests.builders.commands import run_undrawn
from tests.evaluation.conftest import CLASSES

COUNTS = {"drawing": 100, "generated": 300, "real": 200}
MIXES = {"50-25-25": 0.5, "70-15-15": 0.7, "80-10-10": 0.8}


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions, with known counts of training images."""

    def build(predictions, run=None, **options):
        fields = {"record": {"split": {"train_counts": COUNTS}}} | (run or {})
        block = PriorShift(**{"resamples": 100, "shares": [0.2, 0.8]} | options)
        return block.evaluate(fake_run(predictions, **fields), dataset_of(predictions))

    return build


@pytest.fixture
def noisy(make_predictions):
    """Predictions with unequal classes and groups of two images."""
    rng = np.random.default_rng(5)
    targets = rng.choice(3, 240, p=[0.5, 0.3, 0.2])
    logits = rng.normal(size=(240, 3)) + 1.5 * np.eye(3)[targets]
    return make_predictions(targets, logits, groups=[f"g{i // 2}" for i in range(240)], temperature=0.7)


def test_every_metric_can_be_recomputed_from_the_saved_tables(evaluate_block, noisy, tmp_path):
    saved = Result.load(evaluate_block(noisy).save(tmp_path / "prior_shift"))
    value = {name: metric.value for name, metric in saved.metrics.items()}
    table, priors = saved.tables["predictions"], saved.tables["priors"]
    posteriors = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
    training = np.array([COUNTS[name] / 600 for name in CLASSES])
    counts = table["target"].value_counts()
    for mix, frequent in MIXES.items():
        rest = (1 - frequent) / 2
        prior = np.array([frequent, rest, rest])
        weights = table["target"].map(dict(zip(CLASSES, prior, strict=True))) / table["target"].map(counts)
        estimate = priors[priors["mix"] == mix].set_index("class")["estimated"][list(CLASSES)].to_numpy()
        expected = {f"prior_error/{mix}": np.abs(estimate - prior).sum() / 2}
        for way, assumed in {"": training, "corrected/": prior, "estimated/": estimate}.items():
            predicted = np.array(CLASSES)[(posteriors * assumed / training).argmax(axis=1)]
            accuracy = sk.accuracy_score(table["target"], predicted, sample_weight=weights)
            macro = sk.f1_score(table["target"], predicted, sample_weight=weights, average="macro")
            expected |= {f"{way}accuracy/{mix}": accuracy, f"{way}macro_f1/{mix}": macro}
            if way:
                expected[f"{way}gain/{mix}"] = accuracy - expected[f"accuracy/{mix}"]
        assert {name: value[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert len(value) == 9 * len(MIXES)
    for name, metric in saved.metrics.items():
        assert metric.low <= metric.value <= metric.high, name
        assert (metric.n, metric.units, metric.interval) == (240, 120, "bootstrap by group")
    floors = {"accuracy": 1 / 3, "corrected/accuracy": 0.8, "prior_error": 0.8 - 100 / 600}
    assert {name: saved.metrics[f"{name}/80-10-10"].floor for name in floors} == pytest.approx(floors)


def test_mixes_give_each_class_in_turn_each_share_and_figures_draw_them(evaluate_block, noisy, draw_saved):
    result = evaluate_block(noisy)
    table = result.tables["mixes"]
    columns = ["share_drawing", "share_real", "share_generated"]
    assert list(table["mix"][:3]) == list(MIXES)
    assert [name for name in table if name.startswith("share_")] == columns
    turns = table[table["frequent"] != ""]
    assert list(turns["frequent"]) == [name for name in CLASSES for _ in range(2)]
    assert all(row[f"share_{row['frequent']}"] in (0.2, 0.8) for row in turns.to_dict("records"))
    np.testing.assert_allclose(turns[columns].sum(axis=1), 1)
    np.testing.assert_allclose(table["accuracy"][:3], [result.metrics[f"accuracy/{mix}"].value for mix in MIXES])
    for row in table.to_dict("records"):  # of a network that names the commonest class alone, by scikit-learn
        prior = [row[f"share_{name}"] for name in CLASSES]
        majority = np.full(3, np.argmax(prior))
        macro = sk.f1_score(range(3), majority, sample_weight=prior, average="macro")
        accuracy = sk.accuracy_score(range(3), majority, sample_weight=prior)
        assert (row["majority_macro_f1"], row["majority_accuracy"]) == pytest.approx((macro, accuracy))
    assert set(draw_saved(evaluate_block(noisy, shares=[]))) == {"mixes"}
    figures, table = draw_saved(result), table.set_index("mix")
    assert set(figures) == {"mixes", "shares"}
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


def test_oracles_are_right_or_guess_and_sets_without_a_class_are_refused(evaluate_block, oracle, make_predictions):
    for name, metric in evaluate_block(oracle("perfect")).metrics.items():
        assert metric.value == pytest.approx(float("accuracy" in name or "macro_f1" in name), abs=1e-5)
    uniform = evaluate_block(oracle("uniform", n=900), run={"record": {"balance": "sampler"}})
    for name, metric in uniform.metrics.items():
        if not name.startswith(("estimated/", "prior_error")):  # noise has likeliest shares too, anywhere
            assert metric.value == pytest.approx(metric.floor, abs=0.06), name
    with pytest.raises(BlockError, match="no image of class 'real'"):
        evaluate_block(make_predictions(np.arange(60) % 2, np.zeros((60, 3)), sources=[""] * 60))
    with pytest.raises(BlockError, match="no mix fits the classes of this run"):
        evaluate_block(oracle("noisy", classes=4))
    with pytest.raises(BlockError, match="training"):
        evaluate_block(oracle("noisy"), training={"drawing": 1.0})


@pytest.mark.parametrize(
    ("record", "options", "shares", "origin"),
    [
        ({"split": {"train_counts": COUNTS}, "balance": "none"}, {}, [1 / 6, 1 / 2, 1 / 3], "train split"),
        ({"split": {"train_counts": COUNTS}, "balance": "loss"}, {}, [1 / 3] * 3, "balance"),
        ({}, {"training": {"real": 0.7, "drawing": 0.1, "generated": 0.2}}, [0.1, 0.2, 0.7], "option"),
    ],
)
def test_the_shares_of_training_are_what_the_network_met(evaluate_block, oracle, record, options, shares, origin):
    provenance = evaluate_block(oracle("noisy"), run={"record": record}, **options).provenance
    assert list(provenance["training_shares"].values()) == pytest.approx(shares)
    assert provenance["training_shares_from"] == origin


def test_shares_are_counted_and_what_cannot_be_counted_is_named(evaluate_block, make_predictions, oracle, noisy):
    training = make_predictions([0, 1, 1, 2], np.zeros((4, 3)))
    provenance = evaluate_block(oracle("noisy"), run={"record": {}, "training": training}).provenance
    assert list(provenance["training_shares"].values()) == [0.25, 0.5, 0.25]
    with pytest.raises(BlockError):
        evaluate_block(oracle("noisy"), run={"record": {}})
    mixes = {"one": {"class0": 0.9, "class1": 0.1}, "other": {"cat": 1.0}, "gone": None}
    counts = {"record": {"split": {"train_counts": {"class0": 1, "class1": 3}}}}
    result = evaluate_block(oracle("noisy", classes=2), run=counts, mixes=mixes)
    assert "accuracy/one" in result.metrics
    assert len(result.metrics) == 9
    assert result.warnings == [Reason("mixes_of_other_classes", names=["other"])]
    noisy.targets[:6] = -1
    result = evaluate_block(noisy)
    assert (result.n, result.warnings) == (234, [Reason("unlabelled", n=6, all=240)])


def test_the_command_adds_and_removes_mixes(tiny_run, tmp_path):
    words = ["evaluate", f"ckpt={tiny_run}", "block=prior_shift", f"out={tmp_path}", "block.prior_shift.resamples=100"]
    assert run_undrawn([*words, "+block.prior_shift.mixes={feed: {real: .9, generated: .1}, 70-15-15: null}"]) == 0
    saved = Result.load(tmp_path / "evaluation" / "test" / "prior_shift")
    mixes = {name.partition("/")[2] for name in saved.metrics if name.startswith("accuracy/")}
    assert mixes == {"50-25-25", "80-10-10", "feed"}

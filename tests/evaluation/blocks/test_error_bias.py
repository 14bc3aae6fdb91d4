"""Tests of error_bias: every metric recomputed from the saved tables, and edge cases."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact

from avatar_bench.data import image_slices
from avatar_bench.errors import BlockError, ConfigError, DataError, GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.blocks.error_bias import ErrorBias, describe_slice
from avatar_bench.i18n import use_language
from avatar_bench.metrics import stats
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import draw_figures

STORED = {"width": "200", "height": "300", "format": "PNG"}


@pytest.fixture
def evaluate_block(dataset_of, fake_run):
    """Run the block on predictions and out-of-domain sets."""

    def evaluate(predictions, ood=None, allow=(), options=None, **columns):
        sets = {name: (dataset_of(given, name), given) for name, given in (ood or {}).items()}
        run = fake_run(predictions, ood=sets, allow=frozenset(allow))
        block = ErrorBias(**{"resamples": 200, **(options or {})})
        return block.evaluate(run, dataset_of(predictions, **STORED | columns))

    return evaluate


@pytest.fixture
def slanted(oracle):
    """Predictions in which one source of "real", sreal-like, is mostly taken for "generated"; groups of two."""
    given = oracle("noisy", n=480)
    logits = given.logits.copy()
    logits[np.flatnonzero((given.sources == "s23") & (np.arange(480) % 7 > 1)), :] += (0, 9, 0)
    pairs = [f"g{i // 24 * 12 + i % 12}" for i in range(480)]  # images of one class and source
    return replace(
        given, logits=logits, groups=np.array(pairs), targets=np.where(np.arange(480) < 12, -1, given.targets)
    )


@pytest.fixture
def saved(slanted, oracle, evaluate_block, tmp_path):
    """A saved Result with two sets out of the domain, read back as files."""
    ood = {"things": oracle("uniform", n=60), "faces": oracle("noisy", n=50, seed=4)}
    ood = {name: replace(given, targets=np.full(len(given), -1)) for name, given in ood.items()}
    size = ["100" if i % 5 else "700" for i in range(480)]
    evaluate_block(slanted, ood, width=size).save(tmp_path / "error_bias", draw_figures)
    folder = tmp_path / "error_bias"
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


def test_the_weakest_slice_can_be_recomputed_from_the_saved_slices(saved):
    folder, said = saved
    table, worst = read(folder, "slices"), said["metrics"]["worst_slice"]
    tested = table[(table["n"] >= 20) & table["rest"].notna()]
    assert (tested["p"].notna()).all()
    assert table["p"].notna().sum() == len(tested)
    assert worst["value"] == pytest.approx(tested["accuracy"].min())
    assert (worst["low"], worst["high"]) == pytest.approx(
        (tested["low_joint"].min(), tested["high_joint"].astype(float).min())
    )
    first = tested.iloc[0]
    assert (first["by"], first["slice"], first["target"]) == ("source", "s23", "real")
    assert first["low_joint"] < first["low"]
    assert worst["interval"] == "Bonferroni by group"
    assert worst["value"] < worst["floor"] < 1
    (weakest,) = (Reason.parse(one) for one in said["warnings"] if one["code"] == "weakest")
    assert format_reason(weakest, "error_bias") == (
        f"The weakest of {len(tested)} slices is source s23 (real) with an accuracy of {worst['value']:.1%}; "
        f"by chance, the weakest would reach {worst['floor']:.1%}."
    )


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
    assert {file.stem for file in folder.glob("*.png")} == {"bias_map", "confidence", "weakest_slices"}


def test_a_slanted_source_is_told_from_chance_and_the_others_are_not(saved):
    folder, said = saved
    table = read(folder, "slices")
    found = table[table["p"].notna() & (table["p_adjusted"].replace("", "2").astype(float) < 0.05)]
    assert "s23" in set(found["slice"])
    assert (table["significant"] == table.index.isin(found.index)).all()
    assert {"code": "differing", "found": len(found), "n": int(table["p"].notna().sum())} in said["warnings"]


def test_the_p_value_of_a_source_of_single_images_is_close_to_fishers(oracle, evaluate_block):
    given = oracle("noisy", n=300)
    logits = given.logits.copy()
    logits[np.flatnonzero(given.sources == "s00")[:6], :] = (0, 9, 0)
    table = evaluate_block(replace(given, logits=logits), options={"resamples": 20_000}).tables["slices"]
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
    given = oracle("uniform", n=600)
    result = evaluate_block(given, {"things": replace(oracle("uniform", n=600, seed=1), targets=np.full(600, -1))})
    assert result.metrics["mean_confidence"].value == pytest.approx(1 / 3, abs=1e-3)
    assert result.metrics["unbias"].low <= 2 / 3
    assert result.metrics["unbias"].value == pytest.approx(result.metrics["unbias"].floor, abs=0.06)
    worst = result.metrics["worst_slice"]
    assert worst.value == pytest.approx(worst.floor, abs=0.1)
    assert worst.low < 1 / 3 < worst.high


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused(order, oracle, evaluate_block):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle(("permuted", order)))
    assert evaluate_block(oracle(("permuted", order)), allow={"permutation"}).metrics


def test_slices_that_do_not_differ_are_no_warning(oracle, evaluate_block):
    result = evaluate_block(oracle("noisy"))
    assert (result.tables["slices"]["p_adjusted"].dropna() >= 0.05).all()
    assert result.warnings == []


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


def test_a_guard_on_a_set_still_ends_the_block(oracle, dataset_of, fake_run):
    given = oracle("noisy")

    def predictions(dataset):
        raise GuardError("shared images")

    run = fake_run(given, ood={"things": (dataset_of(given, "things"), given)})
    run.predictions = predictions
    with pytest.raises(GuardError, match="shared images"):
        ErrorBias(resamples=100).evaluate(run, dataset_of(given, **STORED))


def test_the_figures_name_slices_in_the_language_asked_for(oracle, evaluate_block, draw_saved):
    with use_language("ru"):
        figure = draw_saved(evaluate_block(oracle("noisy")))["weakest_slices"]
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names
    assert all(name.startswith("источник ") for name in names)


def test_a_slice_of_a_range_bears_the_same_sign_in_each_language():
    (name,) = image_slices.name_ranges([64], image_slices.SIDE_EDGES, " px")
    with use_language("ru"):
        labels = [
            format_reason(describe_slice(pd.Series({"by": "size", "slice": name, "target": target})), "error_bias")
            for target in ("real", "")
        ]
    assert labels == ["размер < 128 px (real)", "размер < 128 px"]


def test_classes_and_sources_named_by_digits_are_drawn(oracle, evaluate_block, draw_saved):
    given = replace(oracle("noisy"), classes=("0", "1", "2"), sources=np.array([str(i % 4) for i in range(240)]))
    figures = draw_saved(evaluate_block(given))
    assert [label.get_text() for label in figures["bias_map"].axes[0].get_xticklabels()] == ["0", "1", "2"]
    rows = [label.get_text() for label in figures["weakest_slices"].axes[0].get_yticklabels()]
    assert "source 3 (0) (n = 20)" in rows


def test_confidence_is_in_percent_and_its_legend_beside_the_bars(oracle, evaluate_block, draw_saved):
    figure = draw_saved(evaluate_block(oracle("noisy")))["confidence"]
    (axes,) = figure.axes
    assert axes.get_legend() is None
    assert len(figure.legends) == 1
    assert axes.xaxis.get_major_formatter()(0.5) == "50%"


def test_without_sets_out_of_the_domain_unbias_is_null(oracle, evaluate_block, tmp_path):
    result = evaluate_block(oracle("noisy"))
    assert (result.metrics["unbias"].value, result.metrics["unbias"].reason) == (None, Reason("no_ood_set"))
    assert len(result.tables["ood_predictions"]) == 0
    result.save(tmp_path / "error_bias")


def test_small_slices_are_listed_but_never_the_weakest(oracle, evaluate_block, draw_saved):
    given = oracle("noisy")
    sources = given.sources.copy()
    wrong = np.flatnonzero(~given.correct)[:2]
    sources[wrong] = "odd"
    result = evaluate_block(replace(given, sources=sources))
    odd = result.tables["slices"].query("slice == 'odd'")
    assert (odd["accuracy"] == 0).all()
    assert odd["p"].isna().all()
    assert result.metrics["worst_slice"].value > 0
    none = evaluate_block(given, options={"minimum": 200})
    assert none.metrics["worst_slice"].value is None
    assert none.metrics["worst_slice"].reason == Reason("no_comparable_slice", n=200)
    assert set(draw_saved(none)) == {"bias_map", "confidence"}


def test_a_slice_that_holds_all_of_its_class_has_nothing_to_be_compared_with(oracle, evaluate_block):
    result = evaluate_block(oracle("noisy"))
    whole = result.tables["slices"].query("by == 'format'")
    assert len(whole) == 4
    assert whole[["rest", "p", "low_joint"]].isna().all(axis=None)


@pytest.mark.parametrize("n", [1, 2])
def test_one_image_or_one_class_and_no_sources_are_enough(n, make_predictions, evaluate_block, draw_saved):
    given = make_predictions([2] * n, [[5.0, 0, 0]] * n, sources=[""] * n)
    result = evaluate_block(given)
    assert result.metrics["mean_confidence_correct"].value is None
    assert result.metrics["worst_slice"].value is None
    assert set(draw_saved(result)) == {"bias_map", "confidence"}


def test_a_set_without_known_classes_is_refused(make_predictions, evaluate_block):
    with pytest.raises(BlockError, match="known class"):
        evaluate_block(make_predictions([-1, -1], np.zeros((2, 3))))


def test_a_wrong_option_is_said():
    with pytest.raises(ConfigError, match=r"block\.error_bias\.minimum=0: expected 1 or more"):
        registry.build_block("error_bias", {"minimum": 0})


def test_the_command_evaluates_a_trained_run(tiny_run, tmp_path):
    from avatar_bench.cli.app import main

    assert (
        main(["evaluate", f"ckpt={tiny_run}", "block=error_bias", "block.error_bias.minimum=3", f"out={tmp_path}"]) == 0
    )
    table = pd.read_csv(tmp_path / "evaluation" / "test" / "error_bias" / "slices.csv")
    assert {"source", "size", "format"} <= set(table["by"])


def test_gaps_are_those_of_the_saved_images(slanted, evaluate_block):
    tone = np.array(["dark", "light", "medium"])[np.arange(480) // 3 % 3]  # each has all classes
    columns = {"other:skin_tone": tone, "other:rare": ["x"] + [""] * 479}
    result = evaluate_block(slanted, options={"slices": ["skin_tone", "rare"]}, **columns)
    images, gaps = result.tables["images"], result.tables["gaps"].set_index(["by", "target"])
    for target in ("", "drawing", "generated", "real"):
        own = images[(images["target"] == target) | (target == "")]
        means = own.groupby("skin_tone")["correct"].mean()
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

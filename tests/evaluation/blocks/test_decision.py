"""Tests of decision: operating points and costs recomputed from the predictions, and sets that lack something."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from scipy.stats import beta
from sklearn import metrics as sk

from avatar_bench.data.corruptions import SLIGHT_CHANGES
from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.blocks.decision import Decision
from avatar_bench.i18n import use_language
from avatar_bench.metrics import stats
from avatar_bench.metrics.selective import AnsweringThreshold
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.runs.decisions import DecisionRule, explain_unmet
from tests.evaluation.conftest import CLASSES


@pytest.fixture
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions of the set, of the external test set and of out-of-domain sets."""

    def evaluate(predictions, blind=None, ood=None, run=None, columns=None, **options):
        fields = {"ood": {name: (dataset_of(outside, name), outside) for name, outside in (ood or {}).items()}}
        if blind is not None:
            fields["blind"] = (dataset_of(blind, "blind"), blind)
        dataset = dataset_of(predictions, **columns or {})
        return Decision(**{"resamples": 100} | options).evaluate(fake_run(predictions, **fields | (run or {})), dataset)

    return evaluate


def test_decisions_are_counted_from_the_predictions_and_sliced_by_columns(
    evaluate_block, oracle, calibrated, draw_saved, inside
):
    predictions, blind = oracle("noisy", n=300), oracle("noisy", n=120, seed=7)
    harder = replace(blind, logits=np.where(np.arange(120)[:, None] < 40, blind.logits[:, [1, 2, 0]], blind.logits))
    far = replace(
        oracle("uniform", n=30, seed=2), targets=np.full(30, -1), embeddings=np.full((30, 8), -50, np.float32)
    )
    run = calibrated(oracle("noisy", n=400, seed=5))
    result = evaluate_block(predictions, harder, {"things": far}, run, targets=[0.1])
    (fit,) = result.tables["thresholds"].to_dict("records")
    assert result.metrics["bound/0.1"].value == fit["bound"] <= 0.1
    assert fit["bound"] == pytest.approx(beta.ppf(0.9, fit["errors"] + 1, fit["answered"] - fit["errors"]))
    sets = result.tables["sets"].set_index(["set", "unlike_rule"])
    for name, evaluated in {"test": predictions, "blind": harder}.items():
        answered = evaluated.confidence >= fit["threshold"]
        incorrect = ~evaluated.correct[answered]
        row, ruled, end = sets.loc[(name, False)], sets.loc[(name, True)], "" if name == "test" else "/blind"
        assert (row["n"], row["answered"], row["errors"]) == (len(evaluated), answered.sum(), incorrect.sum())
        assert (row["coverage"], row["error"]) == pytest.approx((answered.mean(), incorrect.mean()))
        assert (row["error_low"], row["error_high"]) == pytest.approx(stats.wilson(incorrect.sum(), len(incorrect)))
        assert result.metrics[f"coverage/0.1{end}"].value == ruled["coverage"] <= row["coverage"]
        assert result.metrics[f"error/0.1{end}"].value == ruled["error"]
        assert result.metrics[f"saved/0.1{end}"].value == pytest.approx(row["error"] - ruled["error"])
        counts, slices = ["n", "answered", "errors"], result.tables["slices"].query("set == @name")
        for by in ("class", "prediction", "source"):  # each divides the set
            assert slices.loc[slices["by"] == by, counts].sum().tolist() == ruled[counts].tolist()
    assert (sets.loc[("test", True), "fails"], sets.loc[("blind", True), "fails"]) == (False, True)
    codes = {warning.code: warning for warning in result.warnings}
    assert codes["promise_broken"].values["name"] == "blind"
    assert format_reason(codes["promise_broken"], "decision").endswith("above the target of 10%.")
    things = codes["unlike_images_of_no_class"].values
    assert (things["name"], things["after"]) == ("things", 0.0)
    assert things["before"] == pytest.approx((far.confidence >= fit["threshold"]).mean())
    assert result.metrics["error/0.1/things"].reason == Reason("no_known_class")
    assert inside(draw_saved(result)["targets"])
    predictions, tone = oracle("noisy", n=300), np.array(["dark", "light"])[np.arange(300) % 2]
    run, blind = calibrated(oracle("noisy", n=400, seed=5)), oracle("noisy", n=60, seed=7)
    columns = {"other:skin_tone": tone}
    result = evaluate_block(predictions, blind, run=run, columns=columns, targets=[0.05], slices=["skin_tone"])
    slices = result.tables["slices"].query("by == 'skin_tone'").set_index("slice")
    assert set(slices["set"]) == {"test"}  # the further set has no such column
    assert slices["n"].to_dict() == {"dark": 150, "light": 150}
    gaps = result.tables["gaps"].query("by == 'skin_tone'").set_index("measure")
    for measure in ("coverage", "error"):
        row = gaps.loc[measure]
        assert row["gap"] == pytest.approx(abs(slices.loc["dark", measure] - slices.loc["light", measure]))
        assert row["low"] <= row["gap"] <= row["high"]


def test_unmet_targets_answer_nothing_and_say_how_many_images_are_needed(
    evaluate_block, oracle, calibrated, draw_saved
):
    predictions = oracle("noisy", n=90)
    unmet = evaluate_block(predictions, run=calibrated(oracle("uniform", n=400)), targets=[0.05])
    assert unmet.metrics["coverage/0.05"].value == 0
    assert unmet.metrics["error/0.05"].reason == Reason("nothing_answered")
    assert unmet.metrics["bound/0.05"].reason.code == "target_out_of_reach"
    assert "target_out_of_reach" in {warning.code for warning in unmet.warnings}
    assert "targets" in draw_saved(unmet)
    few = evaluate_block(predictions, run=calibrated(oracle("noisy", n=60)), targets=[0.05, 0.2])
    assert few.metrics["coverage/0.05"].reason.code == "no_rule"
    assert few.metrics["coverage/0.2"].value > 0
    assert set(few.tables["sets"]["target_error"]) == {0.2}
    none = evaluate_block(predictions)
    assert none.metrics["error/0.1"].reason == Reason("no_calibration")
    assert none.metrics["cost"].value is not None
    assert {"sets", "thresholds"}.isdisjoint(none.tables)
    fits = {"real": AnsweringThreshold(np.inf, 0, 0, 70, 9, 205), "drawing": AnsweringThreshold(np.inf, 0, 0, 70, 9)}
    rule = DecisionRule(("drawing", "real"), 0.5, None, 0.1, fits)
    more, none, *_ = rule.notes
    assert more.startswith("real: A target error of 0.1 cannot be shown to be met, so that nothing is answered")
    assert "9 of 70 calibration images" in more
    assert "about 270 more of new groups are needed, half of them for thresholds" in more
    assert none.endswith("more than the target: more images will not help.")
    with use_language("ru"):
        assert "нужно ещё около 270 изображений новых групп" in format_reason(explain_unmet(fits["real"], 0.1))
        assert "другие изображения не помогут" in format_reason(explain_unmet(fits["drawing"], 0.1))


def test_curves_and_points_are_those_of_scikit_learn_and_drawn(evaluate_block, oracle, draw_saved):
    predictions = oracle("noisy", n=900)
    result = evaluate_block(predictions, false_alarms=[0.01, 0.1])
    points = result.tables["operating_points"].set_index(["class", "false_alarms"])
    for index, name in enumerate(CLASSES):
        positive, scores = predictions.targets == index, predictions.probabilities[:, index]
        alarms, recalls, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
        for rate in (0.01, 0.1):
            metric, row = result.metrics[f"recall_at/{rate}/{name}"], points.loc[(name, rate)]
            assert metric.value == row["recall"] == pytest.approx(recalls[alarms <= rate + 1e-12].max())
            assert row["low"] == metric.low <= metric.value <= metric.high == row["high"]
            assert row["seen"] == pytest.approx((scores[~positive] >= row["threshold"]).mean())
            assert row["seen"] <= rate < row["seen_high"] + 1
            assert (row["n"], row["others"], row["other_units"]) == (300, 600, 600)
        curve = result.tables["roc"].query("`class` == @name")
        expected = [recalls[alarms <= rate + 1e-12].max() for rate in curve["false_alarms"]]
        np.testing.assert_allclose(curve["recall"], expected)
        precisions, recalls, _ = sk.precision_recall_curve(positive, scores)
        curve = result.tables["precision_recall"].query("`class` == @name")
        expected = [precisions[recalls >= recall - 1e-12][-1] for recall in curve["recall"]]
        np.testing.assert_allclose(curve["precision"], expected)
    drawn = draw_saved(result)  # whole, see test_figures.py
    assert set(drawn) == {"operating_points", "risk_coverage", "cost_curve"}
    recall = result.tables["roc"].query("`class` == 'real'")["recall"]
    np.testing.assert_allclose(drawn["operating_points"].axes[0].lines[2].get_ydata(), recall)


def test_the_rate_of_false_alarms_of_new_sources_is_the_mean_over_them_and_needs_enough_of_them(evaluate_block, oracle):
    predictions = oracle("noisy", n=1200)
    sources = np.where(np.arange(1200) < 900, np.arange(1200) % 60, 60 + np.arange(1200) % 3)  # three large ones
    unseen = replace(predictions, sources=np.char.add("s", sources.astype(str)), origins=sources)
    result = evaluate_block(unseen, false_alarms=[0.1, 0.01])
    points = result.tables["operating_points"].set_index(["class", "false_alarms"])
    for index, name in enumerate(CLASSES):
        positive, scores = unseen.targets == index, unseen.probabilities[:, index]
        row, metric = points.loc[(name, 0.1)], result.metrics[f"recall_at/0.1/{name}"]
        called = pd.Series(scores >= row["threshold"])
        alarms, hits = (called[side].groupby(sources[side]).mean().mean() for side in (~positive, positive))
        assert row["seen"] == pytest.approx(alarms)
        assert alarms <= 0.1 < row["seen_high"]
        for lower in np.unique(scores[positive & (scores < row["threshold"])])[-1:]:
            assert pd.Series(scores >= lower)[~positive].groupby(sources[~positive]).mean().mean() > 0.1
        assert (row["other_units"], row["n_required"], row["unit"], row["population"]) == (
            42,
            29,
            "source",
            "new sources",
        )
        assert metric.value == row["recall"] == pytest.approx(hits)
        assert (metric.low, metric.high, metric.units) == (row["low"], row["high"], 21)
        assert metric.these_sources["value"] == called[positive].mean()
        few = result.metrics[f"recall_at/0.01/{name}"]
        assert (few.value, few.reason.code, few.reason.values["required"]) == (None, "few_other_sources", 299)
        assert points.loc[(name, 0.01), "seen_high"] >= 1 - 0.025 ** (1 / 42) - 1e-9
        curve = result.tables["roc"].query("`class` == @name")
        assert ((curve["low"] <= curve["recall"] + 1e-9) & (curve["recall"] <= curve["high"] + 1e-9)).all()


def test_risk_cost_and_the_operating_curve_are_counted_from_the_predictions(evaluate_block, oracle):
    predictions, blind = oracle("noisy", n=240), oracle("noisy", n=90, seed=7)
    blind = replace(blind, targets=np.where(np.arange(90) < 10, -1, blind.targets))
    result = evaluate_block(predictions, blind, {"things": replace(blind, targets=np.full(90, -1))})
    assert {name for name in result.metrics if name.startswith("cost")} == {"cost", "cost/blind"}
    for name, evaluated in {"test": predictions, "blind": blind.take(blind.targets >= 0)}.items():
        confidence, incorrect, n = evaluated.confidence, ~evaluated.correct, len(evaluated)
        risk, costs = result.tables["risk_coverage"], result.tables["cost_curve"]
        risk, costs = risk[risk["set"] == name], costs[costs["set"] == name]
        running = incorrect[np.argsort(-confidence)].cumsum() / np.arange(1, n + 1)
        np.testing.assert_allclose(risk["error"], running[risk["answered"] - 1], atol=1e-12)
        assert ((risk["low"] <= risk["error"] + 1e-12) & (risk["error"] <= risk["high"] + 1e-12)).all()
        answered = 1 - confidence <= costs["abstain_cost"].to_numpy()[:, None]
        np.testing.assert_allclose(costs["coverage"], answered.mean(axis=1))
        assert (costs["best"] <= costs["cost"] + 1e-12).all()
        assert costs["answer_all"].iloc[-1] == pytest.approx(incorrect.mean())
    answered, incorrect = predictions.confidence >= 0.9, ~predictions.correct
    assert result.metrics["cost"].value == pytest.approx((incorrect & answered).mean() + 0.1 * (~answered).mean())
    assert result.metrics["cost"].floor == pytest.approx(min(0.1, incorrect.mean()))
    predictions, blind = oracle("noisy", n=300), oracle("noisy", n=90, seed=7)
    by_source = replace(blind, origins=blind.sources)
    curves = evaluate_block(predictions, by_source).tables["operating_curve"]
    points = curves.set_index(["set", "measure", "class", "threshold"]).sort_index()
    for name, evaluated in {"test": predictions, "blind": by_source}.items():
        answered, weights = evaluated.confidence >= 0.9, evaluated.units.weights  # of unseen sources: alike in a class
        row = points.loc[(name, "coverage", "", 0.9)]
        expected = pytest.approx(np.average(answered, weights=weights))
        assert (row["value"], row["n"], row["level"]) == (expected, len(evaluated), 0.95)
        expected = np.average(~evaluated.correct[answered], weights=weights[answered])
        assert points.loc[(name, "error", "", 0.9), "value"] == pytest.approx(expected)
        called, is_real = answered & (evaluated.predicted == 2), evaluated.targets == 2
        for measure, among in (("recall", is_real), ("false_alarms", ~is_real)):
            row = points.loc[(name, measure, "real", 0.9)]
            expected = pytest.approx(np.average(called[among], weights=weights[among]))
            assert (row["value"], row["n"], row["level"]) == (expected, among.sum(), 0.975)
            assert row["low"] <= row["value"] <= row["high"]
    recall = points.loc[("test", "recall", "real", 0.9)]
    assert (recall["low"], recall["high"]) == stats.wilson(recall["value"] * 100, 100, 0.975)
    none = curves.query("measure == 'false_alarms' and value == 0").groupby("set")[["units", "high"]].agg("min")
    assert none["units"].to_dict() == {"blind": 8, "test": 200}  # sources and images of other classes
    assert (none["high"] >= 1 - 0.0125 ** (1 / none["units"])).all()
    assert set(curves.query("set == 'blind' and value.notna()")["population"]) == {"new sources"}


def test_sets_too_small_or_without_a_class_have_reasons(evaluate_block, oracle, make_predictions, draw_saved):
    predictions = oracle("noisy", n=240)
    without = evaluate_block(predictions.take(predictions.targets != 2))
    assert without.metrics["recall_at/0.01/real"].reason == Reason("class_absent", name="real")
    assert set(without.tables["roc"]["class"]) == {"drawing", "generated"}
    alone = evaluate_block(predictions.take(predictions.targets == 2))
    assert alone.metrics["recall_at/0.01/real"].reason == Reason("only_class", name="real")
    assert "roc" not in alone.tables
    assert set(draw_saved(alone)) == {"risk_coverage", "cost_curve"}
    single = evaluate_block(predictions.take(np.arange(1)))
    assert single.tables["risk_coverage"]["answered"].eq(1).all()
    equal = evaluate_block(make_predictions(np.arange(90) % 3, np.zeros((90, 3)))).tables  # all or none are answered
    assert equal["risk_coverage"]["answered"].eq(90).all()
    assert equal["operating_points"][["recall", "seen"]].eq(0).all(axis=None)
    assert equal["operating_points"]["threshold"].isna().all()
    predictions = oracle("perfect", n=900)
    metrics = evaluate_block(predictions).metrics
    enough, few = (metrics[f"recall_at/{rate}/real"] for rate in (0.01, 0.001))
    assert (enough.value, enough.interval) == (1, "wilson")
    assert enough.low < 1
    assert (few.value, few.n) == (None, 600)
    assert format_reason(few.reason, "decision") == (
        "600 groups of other classes are too few to show false alarms of 0.10%; 2995 are required"
    )
    pairs = replace(predictions, groups=np.array([f"g{i // 6}" for i in range(900)]))  # as many images, fewer groups
    assert evaluate_block(pairs).metrics["recall_at/0.01/real"].reason.code == "few_others"


def test_images_of_the_thresholds_other_class_orders_and_tables_are_refused(evaluate_block, oracle, calibrated):
    held = oracle("noisy", n=200)
    with pytest.raises(GuardError, match="fitted on"):
        evaluate_block(replace(held, groups=np.char.add("held ", held.groups)), run=calibrated(held), targets=[0.1])
    with pytest.raises(GuardError):
        evaluate_block(oracle("noisy", n=90), oracle(("permuted", (1, 2, 0)), n=240))
    with pytest.raises(BlockError, match="a table of predictions"):
        evaluate_block(held, run={"provides": frozenset({"predictions", "decisions"})}, stability=True)


def test_stability_averaging_and_confidence_are_compared_at_equal_coverage(evaluate_block, oracle, draw_saved, inside):
    rng, clear = np.random.default_rng(3), oracle("noisy", n=120)
    predictions = replace(clear, logits=clear.logits + rng.normal(scale=2, size=(120, 3)))
    noise = {change.tier: rng.normal(scale=1.5, size=(120, 3)) for change in SLIGHT_CHANGES}

    def vary(change):
        return replace(predictions, logits=predictions.logits + noise[change.tier])

    result = evaluate_block(predictions, run={"variations": vary}, stability=True)
    versions = [predictions, *map(vary, SLIGHT_CHANGES)]
    answers = np.array([version.logits.argmax(axis=1) for version in versions])
    stays = [len(set(column)) == 1 for column in answers.T]
    mean = sum(softmax(version.logits, axis=1) for version in versions) / 4
    chances = softmax(predictions.logits, axis=1).max(axis=1)
    orders = {
        "confidence": (sorted(range(120), key=lambda k: -chances[k]), answers[0]),
        "stability": (sorted(range(120), key=lambda k: (not stays[k], -chances[k])), answers[0]),
        "averaging": (sorted(range(120), key=lambda k: -mean[k].max()), mean.argmax(axis=1)),
    }
    table = result.tables["stability"].set_index(["images", "order"])
    for images, n in {"half": 60, "stable": sum(stays), "all": 120}.items():
        wrong = {order: sum(said[k] != k % 3 for k in ranked[:n]) for order, (ranked, said) in orders.items()}
        for order in wrong if images != "all" else ("confidence", "averaging"):
            row = table.loc[(images, order)]
            assert (row["coverage"], row["errors"], row["error"]) == (n / 120, wrong[order], wrong[order] / n)
            if order != "confidence":
                assert row["saved"] == pytest.approx((wrong["confidence"] - wrong[order]) / n)
    assert 0 < sum(stays) < 120
    assert (table.loc["stable", "errors"] > 0).all()
    assert result.metrics["stable"].value == pytest.approx(np.mean(stays))
    kept = [np.isin(np.arange(120), orders[order][0][: sum(stays)]) for order in ("confidence", "stability")]

    def save(weights):
        by_order = [
            (weights * rows * (answers[0] != predictions.targets)).sum(axis=1) / weights[:, rows].sum(axis=1)
            for rows in kept
        ]
        return by_order[0] - by_order[1]

    metric = result.metrics["saved_by_stability"]
    ends = stats.bootstrap_interval(save, predictions.groups, 100)
    assert (metric.value, metric.low, metric.high) == pytest.approx((float(save(np.ones((1, 120)))[0]), *ends))
    assert inside(draw_saved(result)["stability"])
    perfect = oracle("perfect", n=30)
    turned = replace(perfect, logits=perfect.logits[:, [1, 2, 0]])
    none = evaluate_block(perfect, run={"variations": lambda change: turned}, stability=True)
    assert none.metrics["stable"].value == 0
    assert none.metrics["saved_by_stability"].reason == Reason("nothing_answered")
    every = evaluate_block(perfect, stability=True)
    assert every.metrics["stable"].value == 1
    assert (every.metrics["saved_by_stability"].value, every.metrics["saved_by_averaging"].value) == (0, 0)

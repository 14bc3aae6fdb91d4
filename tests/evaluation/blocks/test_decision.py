"""Tests of decision: operating points and costs recomputed from the predictions, and sets that lack something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as sk

from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.blocks.decision import Decision
from avatar_bench.results.reasons import Reason, format_reason

CLASSES = ("drawing", "generated", "real")


@pytest.fixture
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions of the set, of the external test set and of out-of-domain sets."""

    def evaluate(predictions, blind=None, ood=None, run=None, **options):
        further = {name: (dataset_of(one, name), one) for name, one in (ood or {}).items()}
        external = None if blind is None else (dataset_of(blind, "blind"), blind)
        of = fake_run(predictions, blind=external, ood=further, **(run or {}))
        return Decision(**{"resamples": 100} | options).evaluate(of, dataset_of(predictions))

    return evaluate


def test_curves_and_points_are_those_of_scikit_learn(evaluate_block, oracle):
    given = oracle("noisy", n=900)
    result = evaluate_block(given, false_alarms=[0.01, 0.1])
    points = result.tables["operating_points"].set_index(["class", "false_alarms"])
    for index, name in enumerate(CLASSES):
        positive, scores = given.targets == index, given.probabilities[:, index]
        alarms, recalls, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
        for rate in (0.01, 0.1):
            metric, row = result.metrics[f"recall_at/{rate}/{name}"], points.loc[(name, rate)]
            assert metric.value == row["recall"] == pytest.approx(recalls[alarms <= rate + 1e-12].max())
            assert metric.low <= metric.value <= metric.high
            assert (metric.low, metric.high) == (row["low"], row["high"])
            assert row["seen"] == pytest.approx((scores[~positive] >= row["threshold"]).mean())
            assert row["seen"] <= rate < row["seen_high"] + 1
            assert (row["n"], row["others"], row["other_groups"]) == (300, 600, 600)
        curve = result.tables["roc"].query("`class` == @name")
        expected = [recalls[alarms <= rate + 1e-12].max() for rate in curve["false_alarms"]]
        np.testing.assert_allclose(curve["recall"], expected)
        assert (curve["low"] <= curve["recall"] + 1e-9).all()
        precisions, at, _ = sk.precision_recall_curve(positive, scores)
        curve = result.tables["precision_recall"].query("`class` == @name")
        expected = [precisions[at >= recall - 1e-12][-1] for recall in curve["recall"]]
        np.testing.assert_allclose(curve["precision"], expected)


def test_few_false_alarms_are_claimed_only_with_enough_groups_of_other_classes(evaluate_block, oracle):
    given = oracle("perfect", n=900)
    result = evaluate_block(given)
    assert result.metrics["recall_at/0.01/real"].value == 1
    assert result.metrics["recall_at/0.01/real"].interval == "wilson by group"
    assert result.metrics["recall_at/0.01/real"].low < 1
    few = result.metrics["recall_at/0.001/real"]
    assert (few.value, few.n) == (None, 600)
    assert format_reason(few.reason, "decision") == (
        "600 groups of other classes are too few to show false alarms of 0.10%; 2995 are required"
    )
    pairs = replace(given, groups=np.array([f"g{i // 6}" for i in range(900)]))  # as many images, fewer groups
    assert evaluate_block(pairs).metrics["recall_at/0.01/real"].reason.code == "few_others"


def test_risk_and_cost_are_counted_from_the_predictions(evaluate_block, oracle):
    given, blind = oracle("noisy", n=240), oracle("noisy", n=90, seed=7)
    blind = replace(blind, targets=np.where(np.arange(90) < 10, -1, blind.targets))
    result = evaluate_block(given, blind, {"things": replace(blind, targets=np.full(90, -1))})
    assert {name for name in result.metrics if name.startswith("cost")} == {"cost", "cost/blind"}
    for name, one in {"test": given, "blind": blind.take(blind.targets >= 0)}.items():
        confidence, wrong = one.confidence, ~one.correct
        tables = [result.tables[table] for table in ("risk_coverage", "cost_curve")]
        risk, costs = (table[table["set"] == name] for table in tables)
        running = wrong[np.argsort(-confidence)].cumsum() / np.arange(1, len(one) + 1)
        np.testing.assert_array_equal(risk["answered"], np.ceil(risk["coverage"] * len(one) - 1e-9))
        np.testing.assert_allclose(risk["error"], running[risk["answered"] - 1], atol=1e-12)
        assert ((risk["low"] <= risk["error"] + 1e-12) & (risk["error"] <= risk["high"] + 1e-12)).all()
        for row in costs.itertuples():
            answered = 1 - confidence <= row.abstain_cost
            assert row.cost == pytest.approx((wrong & answered).mean() + row.abstain_cost * (~answered).mean())
            assert row.coverage == pytest.approx(answered.mean())
            assert row.best <= row.cost + 1e-12
        assert costs["answer_all"].iloc[-1] == pytest.approx(wrong.mean())
    cost = result.metrics["cost"]
    answered = given.confidence >= 0.9
    assert cost.value == pytest.approx((~given.correct & answered).mean() + 0.1 * (~answered).mean())
    assert cost.floor == pytest.approx(min(0.1, (~given.correct).mean()))


def test_a_set_without_a_class_or_of_one_class_has_reasons(evaluate_block, oracle, draw_saved):
    given = oracle("noisy", n=240)
    without = evaluate_block(given.take(given.targets != 2))
    assert without.metrics["recall_at/0.01/real"].reason == Reason("class_absent", name="real")
    assert set(without.tables["roc"]["class"]) == {"drawing", "generated"}
    alone = evaluate_block(given.take(given.targets == 2))
    assert alone.metrics["recall_at/0.01/real"].reason == Reason("only_class", name="real")
    assert "roc" not in alone.tables
    assert set(draw_saved(alone)) == {"risk_coverage", "cost_curve"}
    single = evaluate_block(given.take(np.arange(1)))
    assert single.tables["risk_coverage"]["answered"].eq(1).all()


def test_equal_probabilities_answer_all_or_none(evaluate_block, make_predictions):
    targets = np.arange(90) % 3
    result = evaluate_block(make_predictions(targets, np.zeros((90, 3))))
    assert result.tables["risk_coverage"]["answered"].eq(90).all()
    points = result.tables["operating_points"]
    assert points["recall"].eq(0).all()
    assert points["threshold"].isna().all()
    assert points["seen"].eq(0).all()


def test_the_block_refuses_what_it_cannot_evaluate(evaluate_block, oracle):
    given = oracle("noisy", n=90)
    with pytest.raises(BlockError):
        evaluate_block(replace(given, targets=np.full(90, -1)))
    with pytest.raises(GuardError):
        evaluate_block(oracle(("permuted", (1, 2, 0)), n=240))
    with pytest.raises(GuardError):
        evaluate_block(given, oracle(("permuted", (1, 2, 0)), n=240))


def test_figures_show_the_tables(evaluate_block, oracle, draw_saved, inside):
    result = evaluate_block(oracle("noisy", n=240), oracle("noisy", n=90, seed=7))
    drawn = draw_saved(result)
    assert set(drawn) == {"operating_points", "risk_coverage", "cost_curve"}
    assert all(inside(figure) for figure in drawn.values())
    (roc,) = (table for name, table in result.tables["roc"].groupby("class") if name == "real")
    np.testing.assert_allclose(drawn["operating_points"].axes[0].lines[2].get_ydata(), roc["recall"])

"""Tests of pairs of runs in the block ensemble: means and pairs, recomputed from what it saves, and at its edges."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import Table2x2

from avatar_bench.evaluation.blocks.ensemble import EnsembleBlock
from avatar_bench.metrics.agreement import MEASURES
from avatar_bench.results.reasons import Reason

FAST = {"resamples": 200}


@pytest.fixture(scope="module")
def compare(fake_run, dataset_of):
    """Run the block on the Predictions of several stand-ins."""

    def call(predictions, **options):
        labels = [f"run {number}" for number in range(len(predictions))]
        pairs = zip(predictions, labels, strict=True)
        runs = [fake_run(prediction, images=None, label=label, recipe=label) for prediction, label in pairs]
        return EnsembleBlock(**FAST | options).compare(runs, [dataset_of(prediction) for prediction in predictions])

    return call


@pytest.fixture(scope="module")
def noisy(make_predictions):
    """Build Predictions of several networks of different strength, groups of two images."""

    def build(count=3, n=240):
        rng = np.random.default_rng(4)
        targets = np.arange(n) % 3
        common = rng.normal(size=(n, 3))
        groups = [f"g{i // 2}" for i in range(n)]
        parts = [common + rng.normal(size=(n, 3)) + (1 + 0.3 * k) * np.eye(3)[targets] for k in range(count)]
        return [make_predictions(targets, logits, groups=groups) for logits in parts]

    return build


@pytest.fixture(scope="module")
def saved(compare, noisy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "ensemble"
    compare(noisy()).save(folder)
    return folder, json.loads((folder / "metrics.json").read_text())["metrics"]


def test_every_pair_is_recomputed_from_the_saved_answers(saved):
    folder, _ = saved
    table = pd.read_csv(folder / "pairs.csv").set_index(["a", "b"])
    runs = dict(list(pd.read_csv(folder / "answers.csv").groupby("run")))
    assert list(table.index) == list(combinations(runs, 2))
    for a, b in table.index:
        first, second, target = runs[a]["prediction"], runs[b]["prediction"], runs[a]["target"].to_numpy()
        right, other = first.to_numpy() == target, second.to_numpy() == target
        odds = Table2x2(sk.confusion_matrix(right, other)).oddsratio
        shares = [runs[name]["prob_target"] for name in (a, b)]
        expected = {
            "agreement": sk.accuracy_score(first, second),
            "kappa": sk.cohen_kappa_score(first, second),
            "disagreement": np.mean(right != other),
            "q_statistic": (odds - 1) / (odds + 1),
            "double_fault": np.mean(~right & ~other),
            "error_correlation": sk.matthews_corrcoef(right, other),
            "probability_correlation": np.corrcoef(*shares)[0, 1],
        }
        row = table.loc[(a, b)]
        assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-6)
        counts = row[["only_b_correct", "only_a_correct", "both_incorrect", "both_correct"]].tolist()
        assert counts == [sum(~right & other), sum(right & ~other), sum(~right & ~other), sum(right & other)]
        assert row["n"] == 240


def test_the_metrics_are_the_means_over_the_pairs_with_intervals_by_group(saved):
    folder, printed = saved
    table = pd.read_csv(folder / "pairs.csv")
    for name in (*MEASURES, "probability_correlation"):
        assert printed[name]["value"] == pytest.approx(table[name].mean(), abs=1e-6)
    for name in MEASURES:
        assert printed[name]["low"] < printed[name]["value"] < printed[name]["high"]
        assert (printed[name]["n"], printed[name]["units"], printed[name]["interval"]) == (
            240,
            120,
            "bootstrap by group",
        )


def test_two_perfect_runs_agree_and_have_no_q(compare, oracle, tmp_path):
    result = compare([oracle("perfect"), oracle("perfect")])
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert (values["agreement"], values["kappa"], values["disagreement"], values["double_fault"]) == (1, 1, 0, 0)
    assert values["q_statistic"] is values["error_correlation"] is values["probability_correlation"] is None
    assert result.metrics["q_statistic"].reason == Reason("undefined_for_all_pairs")
    assert result.metrics["probability_correlation"].reason == Reason("constant_probabilities")
    result.save(tmp_path / "block")


def test_guessing_runs_agree_by_chance(compare, oracle):
    result = compare([oracle("uniform", 900, seed=seed) for seed in range(3)], resamples=500)
    for name, chance in (("kappa", 0), ("q_statistic", 0), ("error_correlation", 0), ("agreement", 1 / 3)):
        assert result.metrics[name].low <= chance <= result.metrics[name].high

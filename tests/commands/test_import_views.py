"""Imported detectors with other classes than the data sets, in views that they can answer."""

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from statsmodels.stats.contingency_tables import mcnemar

from avatar_bench.data.dataset import read_manifest
from avatar_bench.reporting.leaderboard import build_leaderboards
from avatar_bench.reporting.study import read_study
from tests.builders.commands import copy_run, data_of, read_result, write_manifest

QUICK = ("block.blind_test.resamples=100", "block.significance.resamples=100", "data.workers=0")
QUICK_LOSSES = ("block.calibration.resamples=100", "block.calibration.corruptions=[]")


@pytest.fixture
def rows(images):
    return read_manifest(images / "blind.csv").frame


@pytest.fixture
def is_generated(rows):
    return (rows["label"] == "generated").to_numpy()


@pytest.fixture
def chance(is_generated):
    """Return probabilities that are right more often than not."""
    noise = np.random.default_rng(0).uniform(0, 0.7, len(is_generated))
    return np.where(is_generated, 0.3 + noise, 0.7 - noise)


@pytest.fixture
def import_scores(images, rows, command):
    """Return a function that imports probabilities of the blind images, by path."""

    def run(out, columns, classes):
        table = pd.DataFrame({"path": rows["path"], **columns})
        table.to_csv(out.with_suffix(".csv"), index=False, float_format="%.17g")
        words = [f"file={out.with_suffix('.csv')}", f"root={images}", f"out={out}", f"classes={classes}"]
        command("import", "kind=predictions", *words)

    return run


@pytest.fixture
def evaluate(images, command):
    """Return a function that evaluates runs on the blind set, and returns what is printed."""
    data = [*data_of(images / "blind.csv"), "data.name=new", QUICK[0], QUICK[-1]]
    return lambda ckpt, *words, code=0: command("evaluate", f"ckpt={ckpt}", *data, *words, code=code)


@pytest.mark.slow
def test_a_binary_detector_and_a_run_share_a_leaderboard_in_the_view_of_both(
    images, run_copy, tmp_path, is_generated, chance, import_scores, command
):
    runs, view = tmp_path / "runs", "blind--generated_or_not"
    copy_run(run_copy, runs / "three")
    columns = {"prob_artificial": chance, "prob_human": 1 - chance}
    import_scores(runs / "two", columns, "{artificial: generated, human: [drawing, real]}")
    table = pd.read_csv(images / "blind.csv").drop(columns=["group", "source"])  # each image alone: McNemar's test
    words = [*data_of(write_manifest(tmp_path / "blind.csv", table, images)), *QUICK, *QUICK_LOSSES]
    command("evaluate", f"ckpt={runs}", "block=[blind_test,significance,calibration]", *words)
    scores, truth, correct = {"two": chance}, is_generated, {}
    predictions = pd.read_csv(runs / "three" / "evaluation" / view / "blind_test" / "predictions.csv")
    paths = [str(images / path) for path in table["path"]]
    scores["three"] = predictions.set_index("path").loc[paths, "prob_generated"].to_numpy()
    for label, score in scores.items():
        predicted = score >= 0.5
        correct[label] = predicted == truth
        columns = np.column_stack([score, 1 - score])
        expected = {
            "accuracy": reference.accuracy_score(truth, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
            "macro_f1": reference.f1_score(truth, predicted, average="macro"),
            "mcc": reference.matthews_corrcoef(truth, predicted),
            "auroc/generated": reference.roc_auc_score(truth, score),
            "recall/generated": reference.recall_score(truth, predicted),
            "precision/not_generated": reference.precision_score(~truth, ~predicted),
            "scaled/nll": reference.log_loss(truth, score),
            "scaled/brier": ((columns - np.column_stack([truth, ~truth])) ** 2).sum(axis=1).mean(),
        }
        metrics = {}
        for block in ("blind_test", "calibration"):
            metrics |= read_result(runs / label, view, block)["metrics"]
        assert {name: metrics[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert not correct["two"].all()
    counts = [[(correct["three"] == a)[correct["two"] == b].sum() for b in (True, False)] for a in (True, False)]
    pair = pd.read_csv(runs / "evaluation" / view / "significance" / "pairs.csv").iloc[0]
    assert (pair["test"], pair["p"]) == ("exact McNemar", pytest.approx(mcnemar(counts).pvalue, abs=1e-9))
    (board,) = build_leaderboards(read_study(runs))
    assert board.ranked_by == "balanced_accuracy"
    values = [row.metrics["balanced_accuracy"].value for row in board.rows]
    assert values == sorted(values, reverse=True)
    assert {row.metrics["accuracy"].value for row in board.rows} == {float(hits.mean()) for hits in correct.values()}
    command("report", f"runs={runs}", f"out={tmp_path / 'report.html'}")
    assert "imported: predictions, training data: unknown" in (tmp_path / "report.html").read_text()
    command("evaluate", f"ckpt={runs / 'two'}", "view=all", *words, code=2)


def test_classes_that_exchange_their_names_do_not_mix(tmp_path, is_generated, chance, import_scores, evaluate):
    columns = {"prob_real": chance, "prob_generated": 1 - chance, "prob_drawing": np.zeros(len(chance))}
    import_scores(tmp_path / "odd", columns, "{real: generated, generated: real, drawing: drawing}")
    evaluate(tmp_path / "odd", "view=generated_or_not")
    accuracy = read_result(tmp_path / "odd", "new--generated_or_not")["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx(reference.accuracy_score(is_generated, chance > 0.5), abs=1e-9)

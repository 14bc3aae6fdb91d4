"""Views on the command line: evaluate, report and predict with merged classes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression
from statsmodels.stats.contingency_tables import mcnemar

from avatar_bench.cli.app import main
from avatar_bench.commands.evaluate import EvaluateConfig
from avatar_bench.data.dataset import read_manifest
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.evaluation.runner import BlockRunner
from avatar_bench.reporting.leaderboard import build_leaderboards
from avatar_bench.reporting.study import read_study
from avatar_bench.results.result import Result
from avatar_bench.results.view import read_views
from avatar_bench.runs.run import Run

QUICK = ("block.blind_test.resamples=100", "threads=1")
TWO = {"drawing": ["drawing", "real"], "generated": "generated", "real": ["drawing", "real"]}  # drawing, real: human


def evaluate(run, *words, code=0):
    assert main(["evaluate", f"ckpt={run}", *QUICK, *words]) == code


def read_table(run, name):
    return pd.read_csv(run / "evaluation" / name / "blind_test" / "predictions.csv").sort_values("path")


def copy_run(run, folder, *names):
    """Return a folder with copies of a run."""
    for name in names:
        shutil.copytree(run, folder / "runs" / name)
    return folder / "runs"


def make_binary(run):
    """State in a run's record that it does not tell drawings from photos."""
    record = json.loads((run / "run.json").read_text()) | {"class_map": TWO}
    (run / "run.json").write_text(json.dumps(record))


def test_a_view_merges_classes_without_another_pass(run_copy, capsys):
    evaluate(run_copy, "split=blind")
    cached = sorted((run_copy / "predictions").iterdir())
    evaluate(run_copy, "split=blind", "view=generated_or_not")
    assert sorted((run_copy / "predictions").iterdir()) == cached
    whole, merged = read_table(run_copy, "blind"), read_table(run_copy, "blind--generated_or_not")
    others = whole["prob_drawing"] + whole["prob_real"]
    np.testing.assert_allclose(merged["prob_generated"], whole["prob_generated"], rtol=1e-9)
    np.testing.assert_allclose(merged["prob_not_generated"], others, rtol=1e-9)
    is_generated = (whole["target"] == "generated").to_numpy()
    assert ((merged["target"] == "generated").to_numpy() == is_generated).all()
    assert (merged["confidence"].to_numpy() == merged[["prob_generated", "prob_not_generated"]].max(axis=1)).all()
    result = Result.load(run_copy / "evaluation" / "blind--generated_or_not" / "blind_test")
    assert result.classes == ("generated", "not_generated")
    assert result.metrics["balanced_accuracy"].floor == 0.5
    assert result.provenance["view"] == "generated_or_not"
    assert result.provenance["view_classes"] == {"generated": ["generated"], "not_generated": ["drawing", "real"]}
    assert result.provenance["seconds_of_passes"] == 0
    assert "on blind, view generated_or_not (n = 42)" in capsys.readouterr().out
    assert Result.load(run_copy / "evaluation" / "blind" / "blind_test").provenance["view"] == "all"


def test_images_of_other_classes_are_left_out_and_counted(run_copy, capsys):
    evaluate(run_copy, "split=blind", "view=photo_or_art")
    result = Result.load(run_copy / "evaluation" / "blind--photo_or_art" / "blind_test")
    assert (result.n, result.classes) == (28, ("photo", "art"))
    assert "14 of 42 images are of no class in the view photo_or_art and are left out" in capsys.readouterr().err
    table = read_table(run_copy, "blind--photo_or_art")
    np.testing.assert_allclose(table["prob_photo"] + table["prob_art"], 1)


def test_results_are_kept_until_the_view_changes(run_copy, capsys):
    view = ("split=blind", "view=generated_or_not")
    evaluate(run_copy, *view)
    evaluate(run_copy, *view)
    assert "already there" in capsys.readouterr().out
    evaluate(run_copy, *view, "view.classes.not_generated=[real]")
    assert "already there" not in capsys.readouterr().out
    assert Result.load(run_copy / "evaluation" / "blind--generated_or_not" / "blind_test").n == 28


def test_a_users_view_is_found_beside_their_other_yaml(run_copy, tmp_path):
    (tmp_path / "conf" / "view").mkdir(parents=True)
    text = "# drawings or not\nname: drawn_or_not\nclasses: {drawn: [drawing], not_drawn: [generated, real]}\n"
    (tmp_path / "conf" / "view" / "drawn_or_not.yaml").write_text(text)
    folder = ["-cd", str(tmp_path / "conf")]
    assert main(["evaluate", *folder, f"ckpt={run_copy}", *QUICK, "split=blind", "view=drawn_or_not"]) == 0
    assert (run_copy / "evaluation" / "blind--drawn_or_not" / "blind_test" / "metrics.json").is_file()


def test_proportions_of_merged_classes_are_summed(run_copy):
    words = ["split=blind", "view=generated_or_not", "block=prior_shift", "block.prior_shift.resamples=100"]
    assert main(["evaluate", f"ckpt={run_copy}", *words]) == 0
    folder = run_copy / "evaluation" / "blind--generated_or_not" / "prior_shift"
    result = Result.load(folder)
    shares = {"generated": pytest.approx(1 / 3), "not_generated": pytest.approx(2 / 3)}
    assert result.provenance["training_shares"] == shares  # trained on as many of each of three classes
    mixes = result.tables["mixes"].set_index("mix")
    assert mixes.loc["50-25-25", ["share_generated", "share_not_generated"]].tolist() == [0.25, 0.75]
    assert mixes.loc["80-10-10", "share_generated"] == pytest.approx(0.1)
    given = {"generated": 0.2, "not_generated": 0.8}
    stated = "block.prior_shift.training={generated: 0.2, not_generated: 0.8}"
    assert main(["evaluate", f"ckpt={run_copy}", *words, stated]) == 0
    assert Result.load(folder).provenance["training_shares"] == given


def test_ensembles_are_fitted_in_the_view_but_those_of_all_classes_stay(run_copy, tmp_path):
    runs = copy_run(run_copy, tmp_path, "first", "second")
    words = ["split=blind", "block=ensemble", "block.ensemble.soup=false", "block.ensemble.resamples=100"]
    assert main(["evaluate", f"ckpt={runs}", "threads=1", *words]) == 0
    saved = {file: file.read_bytes() for file in sorted(runs.glob("ensembles/*/ensemble.json"))}
    assert saved
    view, vote = ["split=blind", "view=generated_or_not"], runs / "ensembles" / "soft_vote"
    assert main(["evaluate", f"ckpt={runs}", "threads=1", *words, *view[1:]]) == 0
    assert {file: file.read_bytes() for file in sorted(runs.glob("ensembles/*/ensemble.json"))} == saved
    result = Result.load(runs / "evaluation" / "blind--generated_or_not" / "ensemble")
    assert result.classes == ("generated", "not_generated")
    evaluate(runs / "first", *view)
    evaluate(vote, *view)
    evaluate(vote, "split=blind")
    table = read_table(runs / "first", "blind--generated_or_not")  # the members are copies of one run
    assert result.metrics["accuracy/single"].value == pytest.approx(table["correct"].mean())
    voted, whole = (read_table(vote, name) for name in ("blind--generated_or_not", "blind"))
    np.testing.assert_allclose(voted["prob_not_generated"], whole["prob_drawing"] + whole["prob_real"], rtol=1e-9)


def test_a_result_in_a_view_is_compared_with_an_earlier_one_in_it(run_copy, tmp_path):
    words = ("split=blind", "view=generated_or_not")
    evaluate(run_copy, *words)
    shutil.copytree(run_copy, tmp_path / "earlier")
    evaluate(run_copy, *words, f"against={tmp_path / 'earlier'}", "again=true")
    place = run_copy / "evaluation" / "blind--generated_or_not" / "against"
    assert Result.load(place).provenance["view"] == "generated_or_not"
    evaluate(run_copy, "split=blind", f"against={place.parent / 'blind_test'}", code=3)  # of other classes


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["view=nope"], 2, "no such view"),
        (["view=all", "view.classes={a: [real]}"], 2, "Expected at least two"),
        (["view=generated_or_not", "block=gradcam"], 3, "this block needs those of the network"),
    ],
)
def test_what_cannot_be_is_said(words, code, message, run_copy, capsys):
    assert main(["evaluate", f"ckpt={run_copy}", "split=blind", *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert not (run_copy / "evaluation").exists()


def test_a_run_names_the_views_that_it_can_answer(run_copy, capsys):
    make_binary(run_copy)
    evaluate(run_copy, "split=blind", "view=all", code=2)
    error = capsys.readouterr().err
    assert "cannot answer it, since its class drawing is drawing or real." in error
    assert "It can answer view=generated_or_not." in error
    assert not (run_copy / "evaluation").exists()


def test_the_default_is_the_finest_view_that_every_run_can_answer(run_copy, tmp_path, capsys):
    runs = copy_run(run_copy, tmp_path, "binary", "whole")
    make_binary(runs / "binary")
    assert main(["evaluate", f"ckpt={runs}", "split=blind", *QUICK, "block=[blind_test,significance]"]) == 0
    assert "view=generated_or_not (the finest that every run can answer)" in capsys.readouterr().err
    found = {path.parents[1].relative_to(runs).as_posix() for path in runs.rglob("evaluation/*/*/metrics.json")}
    places = ["", "binary/", "whole/"]
    assert found == {f"{place}evaluation/blind--generated_or_not" for place in places}
    first, second = (read_table(runs / name, "blind--generated_or_not") for name in ("binary", "whole"))
    np.testing.assert_allclose(first["prob_generated"], second["prob_generated"], rtol=1e-9)


def test_a_report_shows_one_view_by_default_one_that_all_have(run_copy, tmp_path, capsys):
    runs = copy_run(run_copy, tmp_path, "first", "second")
    evaluate(runs, "split=blind", "view=generated_or_not")
    evaluate(runs / "first", "split=blind")
    assert main(["report", f"runs={runs}"]) == 0
    text = (runs / "report.md").read_text()
    assert "Leaderboard on blind--generated\\_or\\_not: 42 images" in text
    assert "merges classes: generated: generated; not\\_generated: drawing + real" in text
    assert main(["report", f"runs={runs}", "view=generated_or_not", "view.classes.not_generated=[real]"]) == 3
    assert "no run has been evaluated in view=generated_or_not" in capsys.readouterr().err
    assert main(["report", f"runs={runs}", "view=generated_or_not"]) == 0
    assert main(["report", f"runs={runs}", "view=all", "lang=ru"]) == 0
    assert "generated\\_or\\_not" not in (runs / "report.md").read_text()
    capsys.readouterr()
    assert main(["report", f"runs={runs}", "view=photo_or_art"]) == 3
    assert "There are results in view=all, view=generated_or_not." in capsys.readouterr().err


def test_predict_adds_up_the_probabilities_of_merged_classes(images, run_copy, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copytree(images / "blind", tmp_path / "in" / "blind")
    (tmp_path / "in" / "broken.png").write_bytes(b"none")
    words = ["predict", f"ckpt={run_copy}", f"input={tmp_path / 'in'}", "precision=32", "workers=0", "threads=1"]
    tables = {}
    for view in ("all", "generated_or_not", "photo_or_art"):
        assert main([*words, f"output={tmp_path / view}.csv", f"view={view}"]) == 3
        tables[view] = pd.read_csv(tmp_path / f"{view}.csv")
    whole = tables["all"]
    merged = tables["generated_or_not"]
    columns = ["path", "status", "reason", "prediction", "confidence", "prob_generated", "prob_not_generated"]
    assert merged.columns.tolist() == columns
    np.testing.assert_allclose(merged["prob_not_generated"], whole["prob_drawing"] + whole["prob_real"], rtol=1e-9)
    photos = whole["prob_real"] / (whole["prob_drawing"] + whole["prob_real"])
    np.testing.assert_allclose(tables["photo_or_art"]["prob_photo"], photos, rtol=1e-9)
    bad = merged[merged["status"] == "error"]
    assert bad["path"].str.endswith("broken.png").all()
    assert len(bad) == 1
    assert bad[["prediction", "confidence", "prob_generated"]].isna().all(axis=None)


def test_an_output_in_a_view_is_continued(images, run_copy, tmp_path):
    output = tmp_path / "out.csv"
    words = ["predict", f"ckpt={run_copy}", f"input={images / 'blind'}", f"output={output}", "view=photo_or_art"]
    words += ["precision=32", "workers=0", "threads=1", "batch_size=4"]
    assert main(words) == 0
    whole = output.read_text()
    output.write_text("".join(whole.splitlines(keepends=True)[:11]))
    assert main([*words, "update=true"]) == 0
    assert output.read_text() == whole
    output.write_text("".join(whole.splitlines(keepends=True)[:11]))
    assert main([*words, "update=true", "view=generated_or_not"]) == 2


class ColourDetector:
    """Binary detector of scikit-learn on the mean and spread of each colour, fitted on other images."""

    classes = ("artificial", "human")
    sha256 = "2" * 64

    def __init__(self, train):
        features = self.describe([train.image(row) for row in range(len(train))])
        is_human = (train.frame["label"] != "generated").to_numpy()
        flipped = is_human ^ (np.arange(len(train)) % 3 == 0)  # noise, so that it is not always correct
        self.model = LogisticRegression(C=0.1).fit(features, flipped)

    def describe(self, images):
        return np.array([[*image.mean(axis=(0, 1)), *image.std(axis=(0, 1))] for image in images]) / 255

    def predict(self, images):
        return np.asarray(self.model.predict_proba(self.describe(images)), dtype=np.float64)


def test_a_binary_detector_and_a_run_share_a_leaderboard(images, run_copy, tmp_path):
    manifest = pd.read_csv(images / "blind.csv").drop(columns="group")  # each image alone: the test is McNemar's
    manifest.assign(path=[str(images / path) for path in manifest["path"]]).to_csv(tmp_path / "set.csv", index=False)
    dataset = read_manifest(tmp_path / "set.csv", "blind")
    detector = ColourDetector(read_manifest(images / "all.csv"))
    folder = tmp_path / "runs"
    shutil.copytree(run_copy, folder / "three")
    shutil.copytree(run_copy, folder / "two", ignore=shutil.ignore_patterns("checkpoints", "split.csv"))
    record = json.loads((run_copy / "run.json").read_text())
    (folder / "two" / "run.json").write_text(json.dumps(record | {"checkpoint_sha256": detector.sha256, "seed": 2}))
    own = {"artificial": ["generated"], "human": ["drawing", "real"]}
    three = Run.open(folder / "three", label="three", recipe="three")
    two = Run.from_predictor(detector, folder / "two", class_map=own, label="two", recipe="two")
    for run in (three, two):
        run.view = read_views()["generated_or_not"]
    settings = EvaluateConfig()
    settings.data.kind, settings.data.manifest = "manifest", str(tmp_path / "set.csv")
    seen = dataset.apply_view(three.view)
    with ResultWriter("en") as writer:
        for run in (three, two):
            block = build_block("blind_test", {"resamples": 100})
            BlockRunner(settings, [run], [seen], folder / run.label / "evaluation")("blind_test", block, writer)
            block = build_block("calibration", {"resamples": 100, "corruptions": []})
            BlockRunner(settings, [run], [seen], folder / run.label / "evaluation")("calibration", block, writer)
        block = build_block("significance", {"resamples": 100})
        runner = BlockRunner(settings, [three, two], [seen, seen], folder / "evaluation")
        pairs = runner("significance", block, writer).tables["pairs"]
    pixels = [dataset.image(row) for row in range(len(dataset))]
    truth = (dataset.frame["label"] == "generated").to_numpy()
    whole = Run.open(folder / "three").predictions(dataset).probabilities
    scores = {"three": whole[:, 1], "two": detector.predict(pixels)[:, 0]}
    (board,) = build_leaderboards(read_study(folder))
    assert board.ranked_by == "balanced_accuracy"
    values = [metric.value for row in board.rows if (metric := row.metrics["balanced_accuracy"]) and metric.value]
    assert values == sorted(values, reverse=True)
    assert len(values) == 2
    assert {row.model.label.split()[0] for row in board.rows} == {"three", "two"} or len(board.rows) == 2
    correct = {}
    for label, score in scores.items():
        result = Result.load(folder / label / "evaluation" / "blind--generated_or_not" / "blind_test")
        predicted = score >= 0.5
        correct[label] = predicted == truth
        expected = {
            "accuracy": reference.accuracy_score(truth, predicted),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, predicted),
            "macro_f1": reference.f1_score(truth, predicted, average="macro"),
            "mcc": reference.matthews_corrcoef(truth, predicted),
            "auroc/generated": reference.roc_auc_score(truth, score),
            "recall/generated": reference.recall_score(truth, predicted),
            "precision/not_generated": reference.precision_score(~truth, ~predicted),
        }
        assert {name: result.metrics[name].value for name in expected} == pytest.approx(expected, abs=1e-9)
        losses = Result.load(folder / label / "evaluation" / "blind--generated_or_not" / "calibration").metrics
        assert losses["scaled/nll"].value == pytest.approx(reference.log_loss(truth, score), abs=1e-9)
        columns = np.column_stack([score, 1 - score])
        brier = ((columns - np.column_stack([truth, ~truth])) ** 2).sum(axis=1).mean()
        assert losses["scaled/brier"].value == pytest.approx(brier, abs=1e-9)
    assert not correct["two"].all()
    table = [[(correct["three"] == a)[correct["two"] == b].sum() for b in (True, False)] for a in (True, False)]
    assert pairs.loc[0, "test"] == "exact McNemar"
    assert pairs.loc[0, "p"] == pytest.approx(mcnemar(table, exact=True).pvalue, abs=1e-9)
    shown = {row.metrics["accuracy"].value for row in board.rows if row.metrics["accuracy"]}
    assert shown == {float(one.mean()) for one in correct.values()}

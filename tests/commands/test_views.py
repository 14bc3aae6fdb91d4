"""Views on the command line: evaluate, report and predict with merged classes."""

import shutil

import numpy as np
import pandas as pd
import pytest

from avatar_bench.results.result import Result
from tests.builders.commands import change_record, copy_run

VIEW = "view=generated_or_not"
SET = "blind--generated_or_not"
TWO = {"drawing": ["drawing", "real"], "generated": "generated", "real": ["drawing", "real"]}  # drawing, real: human


@pytest.fixture
def evaluate(command):
    """Return a function that evaluates runs on the blind set, and returns what is printed."""

    def run(ckpt, *words, code=0):
        is_other = any(word.startswith("block=") and "blind_test" not in word for word in words)
        few = [] if is_other else ["block.blind_test.resamples=100"]
        return command("evaluate", f"ckpt={ckpt}", "split=blind", "threads=1", *few, *words, code=code)

    return run


def read_table(run, name):
    return pd.read_csv(run / "evaluation" / name / "blind_test" / "predictions.csv").sort_values("path")


def load(folder, name, block="blind_test"):
    return Result.load(folder / "evaluation" / name / block)


def test_a_view_merges_classes_without_another_pass_and_is_compared_with_an_earlier_result_in_it(run_copy, evaluate):
    evaluate(run_copy)
    cached = sorted((run_copy / "predictions").iterdir())
    assert "on blind, view generated_or_not (n = 42)" in evaluate(run_copy, VIEW).out
    assert sorted((run_copy / "predictions").iterdir()) == cached
    whole, merged = read_table(run_copy, "blind"), read_table(run_copy, SET)
    others = whole["prob_drawing"] + whole["prob_real"]
    np.testing.assert_allclose(merged["prob_generated"], whole["prob_generated"], rtol=1e-9)
    np.testing.assert_allclose(merged["prob_not_generated"], others, rtol=1e-9)
    assert ((merged["target"] == "generated").to_numpy() == (whole["target"] == "generated").to_numpy()).all()
    assert (merged["confidence"] == merged[["prob_generated", "prob_not_generated"]].max(axis=1)).all()
    result = load(run_copy, SET)
    assert result.classes == ("generated", "not_generated")
    assert result.metrics["balanced_accuracy"].floor == 0.5
    view_classes = {"generated": ["generated"], "not_generated": ["drawing", "real"]}
    provenance = {"view": "generated_or_not", "view_classes": view_classes, "seconds_of_passes": 0}
    assert provenance.items() <= result.provenance.items()
    assert load(run_copy, "blind").provenance["view"] == "all"
    earlier = shutil.copytree(run_copy, run_copy.parent / "earlier")
    evaluate(run_copy, VIEW, f"against={earlier}", "again=true")
    assert load(run_copy, SET, "against").provenance["view"] == "generated_or_not"


def test_images_of_other_classes_are_left_out_and_a_changed_view_is_evaluated_again(run_copy, evaluate):
    err = evaluate(run_copy, "view=photo_or_art").err
    assert "14 of 42 images are of no class in the view photo_or_art and are left out" in err
    result, table = load(run_copy, "blind--photo_or_art"), read_table(run_copy, "blind--photo_or_art")
    assert (result.n, result.classes) == (28, ("photo", "art"))
    np.testing.assert_allclose(table["prob_photo"] + table["prob_art"], 1)
    evaluate(run_copy, VIEW)
    assert "already there" in evaluate(run_copy, VIEW).out
    assert "already there" not in evaluate(run_copy, VIEW, "view.classes.not_generated=[real]").out
    assert load(run_copy, SET).n == 28


@pytest.mark.slow
def test_ensembles_are_fitted_in_the_view_but_those_of_all_classes_stay(run_copy, tmp_path, evaluate):
    runs = tmp_path / "runs"
    copy_run(run_copy, runs / "first", runs / "second")
    words = ["block=ensemble", "block.ensemble.soup=false", "block.ensemble.resamples=100"]
    evaluate(runs, *words)
    saved = {file: file.read_bytes() for file in sorted(runs.glob("ensembles/*/ensemble.json"))}
    assert saved
    evaluate(runs, *words, VIEW)
    assert {file: file.read_bytes() for file in sorted(runs.glob("ensembles/*/ensemble.json"))} == saved
    result, vote = load(runs, SET, "ensemble"), runs / "ensembles" / "soft_vote"
    assert result.classes == ("generated", "not_generated")
    evaluate(runs / "first", VIEW)
    evaluate(vote, VIEW)
    evaluate(vote)
    table = read_table(runs / "first", SET)  # the members are copies of one run
    assert result.metrics["accuracy/single"].value == pytest.approx(table["correct"].mean())
    voted, whole = (read_table(vote, name) for name in (SET, "blind"))
    np.testing.assert_allclose(voted["prob_not_generated"], whole["prob_drawing"] + whole["prob_real"], rtol=1e-9)


def test_the_default_is_the_finest_view_that_every_run_can_answer(run_copy, tmp_path, evaluate):
    runs = tmp_path / "runs"
    copy_run(run_copy, runs / "binary", runs / "whole")
    change_record(runs / "binary", class_map=TWO)
    err = evaluate(runs / "binary", "view=all", code=2).err
    assert "cannot answer it, since its class drawing is drawing or real." in err
    assert "It can answer view=generated_or_not." in err
    assert not (runs / "binary" / "evaluation").exists()
    err = evaluate(runs, "block=[blind_test,significance]").err
    assert "view=generated_or_not (the finest that every run can answer)" in err
    folders = {path.parents[1].relative_to(runs).as_posix() for path in runs.rglob("evaluation/*/*/metrics.json")}
    assert folders == {f"{folder}evaluation/{SET}" for folder in ("", "binary/", "whole/")}
    first, second = (read_table(runs / name, SET) for name in ("binary", "whole"))
    np.testing.assert_allclose(first["prob_generated"], second["prob_generated"], rtol=1e-9)


@pytest.mark.slow
def test_a_report_shows_one_view_by_default_one_that_all_have(run_copy, tmp_path, evaluate, command):
    runs = tmp_path / "runs"
    copy_run(run_copy, runs / "first", runs / "second")
    evaluate(runs, VIEW)
    evaluate(runs / "first")
    command("report", f"runs={runs}")
    text = (runs / "report.md").read_text()
    assert "Leaderboard on blind--generated\\_or\\_not: 42 images" in text
    assert "merges classes: generated: generated; not\\_generated: drawing + real" in text
    err = command("report", f"runs={runs}", VIEW, "view.classes.not_generated=[real]", code=3).err
    assert "no run has been evaluated in view=generated_or_not" in err
    command("report", f"runs={runs}", "view=all", "lang=ru")
    assert "generated\\_or\\_not" not in (runs / "report.md").read_text()
    err = command("report", f"runs={runs}", "view=photo_or_art", code=3).err
    assert "There are results in view=all, view=generated_or_not." in err


def test_predict_adds_up_the_probabilities_of_merged_classes(images, run_copy, tmp_path, command):
    shutil.copytree(images / "blind", tmp_path / "in" / "blind")
    (tmp_path / "in" / "broken.png").write_bytes(b"none")
    words = ["predict", f"ckpt={run_copy}", f"input={tmp_path / 'in'}", "precision=32", "workers=0", "threads=1"]
    tables = []
    for view in ("all", "generated_or_not", "photo_or_art"):
        command(*words, f"output={tmp_path / view}.csv", f"view={view}", code=3)
        tables.append(pd.read_csv(tmp_path / f"{view}.csv"))
    whole, merged, photos = tables
    columns = ["path", "status", "reason", "prediction", "confidence", "prob_generated", "prob_not_generated"]
    assert merged.columns.tolist() == columns
    others = whole["prob_drawing"] + whole["prob_real"]
    np.testing.assert_allclose(merged["prob_not_generated"], others, rtol=1e-9)
    np.testing.assert_allclose(photos["prob_photo"], whole["prob_real"] / others, rtol=1e-9)
    (bad,) = merged[merged["status"] == "error"].to_dict("records")
    assert bad["path"].endswith("broken.png")
    assert pd.isna([bad[name] for name in columns[3:]]).all()

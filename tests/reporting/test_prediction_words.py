"""Words of pages: the question, predictions by their probability, and what the answers of the model were worth."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.i18n import use_language
from avatar_bench.reporting.prediction_words import (
    ask_question,
    describe_accuracy,
    describe_worth,
    find_measured_set,
    list_worth,
    phrase_prediction,
    translate_class,
)
from avatar_bench.runs.ensembles import open_run
from tests.builders.commands import data_of, write_manifest


def test_the_question_names_the_classes_of_the_run():
    questions = {
        ("drawing", "generated", "real"): "Is this avatar a real photo, a drawing, or AI-generated?",
        ("cat", "dog"): "Which class is this image of: cat or dog?",
        ("generated", "photo", "cat"): "Which class is this image of: AI-generated, photo or cat?",
        tuple("abcde"): "Which of 5 classes is this image of?",
    }
    assert {classes: ask_question(classes) for classes in questions} == questions


def test_a_prediction_is_worded_by_its_probability_and_classes_of_a_user_keep_their_names():
    words = {0.96: "Prediction: cat", 0.9: "Prediction: cat", 0.6: "Probably: cat", 0.595: "Not sure, perhaps: cat"}
    assert {probability: phrase_prediction("cat", probability) for probability in words} == words
    with use_language("ru"):
        assert [translate_class(name) for name in ("real", "cat")] == ["настоящее фото", "cat"]


def test_the_accuracy_is_that_on_external_images_or_else_on_those_of_training(run_copy):
    assert "set aside from its training sources" in describe_accuracy(open_run(run_copy))
    words = ["evaluate", f"ckpt={run_copy}", "split=blind", "block.blind_test.resamples=100", "data.workers=0"]
    assert main(words) == 0
    assert "Accuracy of this model on blind (n = 42): " in describe_accuracy(open_run(run_copy))
    (run_copy / "run.json").unlink()
    shutil.rmtree(run_copy / "evaluation")
    moved = open_run(run_copy / "checkpoints" / "best.ckpt")
    assert describe_accuracy(moved) == "The accuracy of this model is not measured."


def mean_over_sources(table, hits, among):
    """Return the mean of `hits` among some images, in which the sources of a class weigh alike."""
    weights = 1 / table.groupby(["label", "source"])["path"].transform("count")
    weights *= table.groupby("label")["path"].transform("count") / table.groupby("label")["source"].transform("nunique")
    return (weights * hits)[among].sum() / weights[among].sum()


def test_an_answer_is_worth_what_a_calibration_by_source_shows(run_copy, images, tmp_path):
    rows = pd.read_csv(images / "blind.csv").drop(columns="group")
    rows["source"] = [f"{label}, {'abc'[k % 3]}" for k, label in enumerate(rows["label"])]
    words = data_of(write_manifest(tmp_path / "elsewhere.csv", rows, images))
    assert main(["calibrate", f"ckpt={run_copy}", "unit=source", *words, "workers=0"]) == 0
    newest = find_measured_set(open_run(run_copy))
    assert (newest.set, newest.n, newest.metrics["accuracy"].population) == ("elsewhere", 42, "new sources")


def test_an_answer_is_worth_what_the_newest_external_images_show_those_of_a_calibration_too(
    run_copy, images, tmp_path, capsys
):
    assert describe_worth(open_run(run_copy)) == {}
    new = pd.read_csv(images / "blind.csv").drop(columns="group")
    new["source"] = [f"{label}, {'aaaabbc'[k % 7]}" for k, label in enumerate(new["label"])]  # of unequal sizes
    new["label"] = new["label"].mask(new.index % 8 == 3, "real")  # some errors
    blind = write_manifest(tmp_path / "blind.csv", new, images)
    few = write_manifest(tmp_path / "few.csv", new.groupby("label").head(2), images)
    assert main(["calibrate", f"ckpt={run_copy}", *data_of(blind), "workers=0"]) == 0
    file = run_copy / "calibration.json"
    saved = json.loads(file.read_text())["images"]
    table = pd.DataFrame(saved)
    predicted = np.array(["drawing", "generated", "real"])[np.array(table["probabilities"].tolist()).argmax(axis=1)]
    correct, run = predicted == table["label"], open_run(run_copy)
    found = find_measured_set(run)
    assert (found.set, found.n, found.metrics["accuracy"].population) == ("blind", 42, "new sources")
    assert found.metrics["accuracy"].value == pytest.approx(mean_over_sources(table, correct, correct.notna()))
    for name in run.classes:
        recall = mean_over_sources(table, correct, table["label"] == name)
        precision = mean_over_sources(table, correct, pd.Series(predicted == name))
        stated = [found.metrics[f"{kind}/{name}"] for kind in ("recall", "precision")]
        assert [metric.value for metric in stated] == pytest.approx([recall, precision])
        assert [metric.n for metric in stated] == [(table["label"] == name).sum(), (predicted == name).sum()]
        texts = [text for _, text in describe_worth(run)[name]]
        assert texts[1].startswith(f"{100 * recall:.0f}\N{NO-BREAK SPACE}% [")
        assert texts[1].endswith(f" (blind, new sources, n = {stated[0].n})")
    words = [f"ckpt={run_copy}", "block.blind_test.resamples=100", "allow=[overlap,near_duplicates]", "data.workers=0"]
    assert main(["evaluate", *words, *data_of(few)]) == 0
    assert find_measured_set(open_run(run_copy)).set == "blind"  # six images tell too little
    os.utime(file, (0, 0))
    assert main(["evaluate", *words, *data_of(blind), "data.name=later"]) == 0
    lines = list_worth(open_run(run_copy))
    assert "(later, n = 42)" in lines[0]
    assert [line.partition(":")[0] for line in lines[1:]] == ["drawing", "generated", "real"]
    capsys.readouterr()
    assert main(["predict", f"ckpt={run_copy}", f"input={images / 'blind'}", f"output={tmp_path / 'p.csv'}"]) == 0
    err = capsys.readouterr().err
    assert err.splitlines()[-5:-1] == lines

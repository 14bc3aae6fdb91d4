"""Words of pages: the question, predictions by their probability, and the accuracy of the model."""

import shutil

from avatar_bench.cli.app import main
from avatar_bench.i18n import use_language
from avatar_bench.reporting.prediction_words import ask_question, describe_accuracy, phrase_prediction, translate_class
from avatar_bench.runs.ensembles import open_run


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

"""Blocks on a predictor without a checkpoint, of which only probabilities, or embeddings too, are known."""

import numpy as np
import pandas as pd
import pytest

from avatar_bench.commands.evaluate import EvaluateConfig
from avatar_bench.config.catalogue import list_blocks
from avatar_bench.data.dataset import read_manifest
from avatar_bench.errors import BlockError, DataError
from avatar_bench.evaluation.block import build_block
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.evaluation.runner import BlockRunner
from avatar_bench.inference.predictor import FileOptions
from avatar_bench.runs.run import Run

QUICK = {"resamples": 100, "permutations": 20, "corruptions": ["noise"], "severities": [3], "delivery": ["web"]}
SHARES = {"training": dict.fromkeys(("drawing", "generated", "real"), 1 / 3)}  # of a training that is not known


class BrightnessPredictor:
    """Predictor of a class by the brightness of the image alone."""

    classes = ("drawing", "generated", "real")
    sha256 = "0" * 64

    def predict(self, images):
        brightness = np.array([image.mean() / 255 for image in images])
        odds = np.exp(-20 * (brightness[:, None] - np.array([0.7, 0.5, 0.3])) ** 2)
        return odds / odds.sum(axis=1, keepdims=True)


class ColourPredictor(BrightnessPredictor):
    """Predictor with the mean and spread of each colour as embedding."""

    sha256 = "1" * 64

    def embed(self, images):
        return np.array([[*image.mean(axis=(0, 1)), *image.std(axis=(0, 1))] for image in images]) / 255


def run_block(name, runs, images, folder):
    blind = read_manifest(images / "blind.csv", "blind")
    settings = EvaluateConfig()
    settings.data.kind, settings.data.manifest = "manifest", str(images / "blind.csv")
    known = vars(build_block(name))
    block = build_block(name, {option: value for option, value in (QUICK | SHARES).items() if option in known})
    with ResultWriter("en") as writer:
        return BlockRunner(settings, runs, [blind] * len(runs), folder)(name, block, writer)


def needs(kind, *allowed):
    return [name for name in list_blocks((kind,)) if set(getattr(build_block(name), "needs", ())) <= set(allowed)]


@pytest.mark.parametrize("name", needs("run", "predictions", "pixels"))
def test_a_predictor_goes_through_every_block_that_needs_predictions(name, images, tmp_path):
    other = {"other": str(images / "blind" / "real")}
    run = Run.from_predictor(BrightnessPredictor(), tmp_path / "run", others=other, label="brightness")
    result = run_block(name, [run], images, tmp_path)
    assert result.n > 0
    assert any(metric.value is not None for metric in result.metrics.values())
    assert "training_images_unknown" in {warning.code for warning in result.warnings}


def test_a_predictor_is_compared_with_a_run_which_predicts_decoded_images_like_its_data_set(tiny_run, images, tmp_path):
    fake = Run.from_predictor(BrightnessPredictor(), label="brightness", recipe="brightness")
    real = Run.open(tiny_run, label="tiny", recipe="tiny")
    result = run_block("significance", [real, fake], images, tmp_path)
    assert result.metrics["accuracy/tiny"].value > result.metrics["accuracy/brightness"].value > 0.5
    run = Run.open(tiny_run)
    test = run.dataset("test")
    probabilities = run.predictor.predict([test.image(row) for row in range(5)])
    np.testing.assert_allclose(probabilities, run.predictions(test).probabilities[:5], atol=1e-5)
    assert {"pixels", "embeddings", "module"} < run.predictor.provides


@pytest.mark.parametrize(("name", "lacks"), [("clusters", "embeddings"), ("gradcam", "single network")])
def test_a_block_is_left_out_where_the_predictor_lacks_what_it_needs(name, lacks, images, tmp_path):
    run = Run.from_predictor(BrightnessPredictor())
    with pytest.raises(BlockError, match=f"BrightnessPredictor has no {lacks}, which this block needs"):
        run_block(name, [run], images, tmp_path)


def test_data_sets_and_files_are_predicted_saved_and_clustered_and_broken_files_named(images, tmp_path):
    blind, predictor = read_manifest(images / "blind.csv", "blind"), ColourPredictor()
    run = Run.from_predictor(predictor, tmp_path / "run", batch_size=5)
    predictions, pixels = run.predictions(blind), [blind.image(row) for row in range(len(blind))]
    np.testing.assert_allclose(predictions.probabilities, predictor.predict(pixels), atol=1e-6)
    np.testing.assert_allclose(predictions.embeddings, predictor.embed(pixels), atol=1e-6)
    assert not predictions.has_logits
    again = Run.from_predictor(predictor, tmp_path / "run")
    predictor.predict = None  # saved predictions are used
    np.testing.assert_array_equal(again.predictions(blind).logits, predictions.logits)
    assert run_block("clusters", [again], images, tmp_path).metrics["silhouette"].value > 0.5
    predictor.predict = lambda images: np.ones((len(images), 3))
    with pytest.raises(DataError, match="rows sum to 1"):
        Run.from_predictor(predictor).predictions(blind)
    blind, broken = read_manifest(images / "blind.csv", "blind"), tmp_path / "broken.png"
    broken.write_bytes(b"none")
    run = Run.from_predictor(ColourPredictor(), batch_size=2)
    files = [str(file) for file in (blind.file(0), broken, broken, broken, blind.file(1))]
    table = pd.concat(run.predictor.predict_files(files, FileOptions(embedded=True)), ignore_index=True)
    assert table["status"].tolist() == ["ok", "error", "error", "error", "ok"]
    pixels, good = [blind.image(0), blind.image(1)], table[table["status"] == "ok"]
    assert table["embedding"].notna().tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(np.stack(list(good["embedding"])), ColourPredictor().embed(pixels))
    columns = ["prob_drawing", "prob_generated", "prob_real"]
    np.testing.assert_allclose(good[columns].astype(float), ColourPredictor().predict(pixels))
    assert run.predict(files)["status"].tolist() == table["status"].tolist()

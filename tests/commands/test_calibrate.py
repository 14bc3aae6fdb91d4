"""calibrate: temperature and threshold fitted on a user's images, and what then counts as out of date or seen."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss, roc_auc_score
from statsmodels.api import Logit

from avatar_bench.cli.app import main

CLASSES = ("drawing", "generated", "real")
COLUMNS = [f"prob_{name}" for name in CLASSES]
QUICK = ("data.workers=0", "block.blind_test.resamples=100")


@pytest.fixture(scope="module")
def sets(images, tmp_path_factory):
    """Return a folder with fit.csv, 24 images, and new.csv, 18 images of other groups; never write into it.

    One label in eight is wrong, so that the temperature has a minimum inside its range.
    """
    folder = tmp_path_factory.mktemp("sets")
    shutil.copytree(images / "blind", folder / "blind")
    table = pd.read_csv(images / "blind.csv")
    wrong = table.index % 8 == 3
    table.loc[wrong, "label"] = table.loc[wrong, "label"].map(
        dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True))
    )
    is_fit = table["group"].str.split(":").str[2].astype(int) < 4
    table[is_fit].to_csv(folder / "fit.csv", index=False)
    table[~is_fit].to_csv(folder / "new.csv", index=False)
    return folder


def calibrate(ckpt, manifest, *words, code=0):
    data = ["data=manifest", f"data.manifest={manifest}", "workers=0"]
    assert main(["calibrate", f"ckpt={ckpt}", *data, *words]) == code
    file = ckpt / "calibration.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if code == 0 else {}


def evaluate(ckpt, manifest, *words, code=0):
    block = [] if any(word.startswith("block=") for word in words) else ["block=blind_test", QUICK[1]]
    data = ["data=manifest", f"data.manifest={manifest}", QUICK[0]]
    assert main(["evaluate", f"ckpt={ckpt}", *data, *block, *words]) == code


def read_result(ckpt, name, block="blind_test"):
    return dict(json.loads((ckpt / "evaluation" / name / block / "metrics.json").read_text(encoding="utf-8")))


def predict(ckpt, manifest, output, *words):
    """Return the predictions of a manifest's images, with their labels."""
    table = pd.read_csv(manifest)
    files = output.with_suffix(".txt")
    files.write_text("\n".join(str(manifest.parent / path) for path in table["path"]))
    own = ["precision=32", "runtime=torch"] if (ckpt / "checkpoints").exists() else []
    assert main(["predict", f"ckpt={ckpt}", f"input=@{files}", f"output={output}", "workers=0", *own, *words]) == 0
    return pd.read_csv(output).assign(label=table["label"])


def test_a_calibration_wins_and_makes_results_out_of_date(sets, run_copy, tmp_path, capsys):
    evaluate(run_copy, sets / "new.csv")
    before = read_result(run_copy, "new")["provenance"]
    raw = predict(run_copy, sets / "fit.csv", tmp_path / "raw.csv", "calibrated=false")
    logits, targets = np.log(raw[COLUMNS]), raw["label"].map(CLASSES.index)
    saved = calibrate(run_copy, sets / "fit.csv")
    assert "fitted on 24 images of fit; view=all" in capsys.readouterr().out
    best = minimize_scalar(
        lambda t: log_loss(targets, softmax(logits.to_numpy() / np.exp(t), axis=1)), bounds=(-2.9, 2.9)
    )
    assert saved["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
    assert saved["temperature"] != pytest.approx(before["temperature"], rel=1e-3)
    assert saved["data"]["n"] == dict.fromkeys(CLASSES, 8)
    new = predict(run_copy, sets / "new.csv", tmp_path / "new.csv")
    plain = predict(run_copy, sets / "new.csv", tmp_path / "plain.csv", "calibrated=false")
    expected = log_softmax(np.log(plain[COLUMNS].to_numpy()) / saved["temperature"], axis=1)
    np.testing.assert_allclose(np.log(new[COLUMNS]), expected, atol=1e-6)
    evaluate(run_copy, sets / "new.csv")
    assert "already there" not in capsys.readouterr().out
    after = read_result(run_copy, "new")["provenance"]
    assert after["temperature"] == saved["temperature"]
    assert "calibration_sha256" not in before
    assert len(str(after["calibration_sha256"])) == 64
    evaluate(run_copy, sets / "new.csv")
    assert "already there" in capsys.readouterr().out
    table = pd.read_csv(run_copy / "evaluation" / "new" / "blind_test" / "predictions.csv")
    np.testing.assert_allclose(table[COLUMNS], new[COLUMNS], atol=1e-6)
    assert main(["report", f"runs={run_copy}"]) == 0
    assert "| fit (24 images), temperature " in (run_copy / "report.md").read_text(encoding="utf-8")
    (run_copy / "calibration.json").unlink()
    capsys.readouterr()
    assert main(["report", f"runs={run_copy}", "lang=ru"]) == 3
    assert "он получен с другой калибровкой" in capsys.readouterr().err
    evaluate(run_copy, sets / "new.csv")
    assert read_result(run_copy, "new")["provenance"]["temperature"] == before["temperature"]


def test_images_of_the_fit_are_refused_and_so_are_their_copies(sets, run_copy, tmp_path, capsys):
    calibrate(run_copy, sets / "fit.csv")
    evaluate(run_copy, sets / "fit.csv", code=3)
    assert "fit shares 24 of 24 images with the calibration data by image" in capsys.readouterr().err
    evaluate(run_copy, sets / "fit.csv", "allow=[overlap,near_duplicates]")
    table = pd.read_csv(sets / "fit.csv").drop(columns="group").groupby("label").head(1)
    for number, path in enumerate(table["path"]):
        image = Image.open(sets / path).convert("RGB")
        image.resize((image.width + 2, image.height + 2)).save(tmp_path / f"{number}.png")
    table.assign(path=[f"{number}.png" for number in range(3)]).to_csv(tmp_path / "copies.csv", index=False)
    evaluate(run_copy, tmp_path / "copies.csv", code=3)
    assert "near-duplicates of calibration images" in capsys.readouterr().err
    first = calibrate(run_copy, sets / "fit.csv")  # again on the same images
    assert first == json.loads((run_copy / "calibration.json").read_text())
    other = run_copy / "calibration.json"
    other.write_text(other.read_text().replace(str(first["checkpoint_sha256"]), "0" * 64))
    evaluate(run_copy, sets / "new.csv", code=4)
    assert "was fitted on another checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words", "code", "message"),
    [
        (lambda table: table.groupby("label").head(5), (), 3, "it lacks 5 images"),
        (lambda table: table[table["label"] != "real"], (), 3, "it lacks 4 images and images of real"),
        (lambda table: table, ("split=train",), 2, "more certain of the images"),
        (lambda table: table, ("view=nope",), 2, "no such view"),
        (lambda table: table.assign(label="photo"), (), 3, "has images of photo, but none of the classes of "),
        (lambda table: table.assign(label=""), (), 3, "has 0 labelled images"),
    ],
)
def test_what_cannot_be_fitted_is_said_and_nothing_is_written(rows, words, code, message, sets, tiny_run, capsys):
    manifest = sets / "some.csv"
    rows(pd.read_csv(sets / "fit.csv")).to_csv(manifest, index=False)
    calibrate(tiny_run, manifest, *words, code=code)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) <= 3
    assert not (tiny_run / "calibration.json").exists()


def test_a_blocks_own_fit_may_use_the_images_of_the_calibration(sets, run_copy, capsys):
    assert main(["calibrate", f"ckpt={run_copy}", "workers=0"]) == 0  # on the run's own calibration half of val
    words = ["block=calibration", "block.calibration.resamples=100"]
    evaluate(run_copy, sets / "new.csv", *words)
    assert read_result(run_copy, "new", "calibration")["metrics"]["coverage/lac"]["value"] is not None
    assert main(["evaluate", f"ckpt={run_copy}", "split=calibration", *QUICK]) == 3
    assert "with the calibration data by image" in capsys.readouterr().err


def test_an_ensemble_is_calibrated_like_a_run(sets, run_copy, tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(run_copy, runs / name)
    words = ["block.ensemble.soup=false", "block.ensemble.resamples=100"]
    evaluate(runs, sets / "new.csv", "block=ensemble", *words)
    ensemble = runs / "ensembles" / "soft_vote"
    evaluate(ensemble, sets / "new.csv")
    before = read_result(ensemble, "new")["provenance"]
    saved = calibrate(ensemble, sets / "fit.csv")
    evaluate(ensemble, sets / "new.csv")
    after = read_result(ensemble, "new")["provenance"]
    assert after["temperature"] == saved["temperature"] != before["temperature"]
    assert after["checkpoint_sha256"] == before["checkpoint_sha256"] == saved["checkpoint_sha256"]
    evaluate(ensemble, sets / "fit.csv", code=3)
    assert "with the calibration data by image" in capsys.readouterr().err


def test_training_images_cannot_calibrate(images, tiny_run, capsys):
    calibrate(tiny_run, images / "all.csv", code=3)
    assert "with the training data by image" in capsys.readouterr().err
    assert main(["calibrate", f"ckpt={tiny_run / 'checkpoints' / 'last.ckpt'}"]) == 4
    assert "is not the best checkpoint of a run folder" in capsys.readouterr().err


def test_a_temperature_whose_interval_contains_1_is_not_applied(sets, tmp_path, capsys):
    """The probabilities, .8 of a class that is correct in seven cases of eight, are about calibrated."""
    paths = pd.concat([pd.read_csv(sets / f"{name}.csv")["path"] for name in ("fit", "new")], ignore_index=True)
    own = paths.str.split("/").str[1]
    shares = {f"prob_{name}": np.where(own == name, 0.8, 0.1) for name in CLASSES}
    pd.DataFrame({"path": [str(sets / path) for path in paths], **shares}).to_csv(tmp_path / "table.csv", index=False)
    words = ["kind=predictions", f"file={tmp_path / 'table.csv'}", "root=."]
    assert main(["import", *words, f"out={tmp_path / 'run'}"]) == 0
    saved = calibrate(tmp_path / "run", sets / "fit.csv")
    fit = dict(saved["temperature_fit"])
    assert fit["low"] < fit["fitted"] < 1 < fit["high"]
    assert (saved["temperature"], fit["applied"], fit["why_not"]) == (1, False, "its interval contains 1")
    assert f"warning: temperature {fit['fitted']:.3g} [" in capsys.readouterr().err
    quick = ["block=calibration", "block.calibration.resamples=100"]
    evaluate(tmp_path / "run", sets / "new.csv", *quick)
    result = read_result(tmp_path / "run", "new", "calibration")
    (warning,) = (one for one in result["warnings"] if one["code"] == "temperature_near_1")
    assert (warning["fitted"], warning["n"]) == (fit["fitted"], 24)


def test_in_a_view_the_temperature_fits_the_merged_classes(sets, run_copy, tmp_path):
    saved = calibrate(run_copy, sets / "fit.csv", "view=generated_or_not")
    raw = predict(run_copy, sets / "fit.csv", tmp_path / "raw.csv", "calibrated=false", "view=all")
    logits, truth = np.log(raw[COLUMNS].to_numpy()), (raw["label"] == "generated").to_numpy()

    def loss(temperature):
        return float(log_loss(truth, softmax(logits / temperature, axis=1)[:, 1]))

    grid = np.geomspace(0.05, 20, 201)
    assert loss(float(saved["temperature"])) <= min(map(loss, grid)) + 1e-9
    assert saved["view"] == "generated_or_not"
    assert saved["data"]["n"] == {"generated": 8, "not_generated": 16}


def test_a_score_has_a_threshold_once_it_is_calibrated(sets, tiny_run, tmp_path, capsys):
    table = pd.concat([predict(tiny_run, sets / f"{name}.csv", tmp_path / "out.csv") for name in ("fit", "new")])
    scores = 4 * logit(table["prob_generated"].clip(1e-6, 1 - 1e-6)) + 7 + np.random.default_rng(0).normal(0, 9, 42)
    table[["path"]].assign(score=scores).to_csv(tmp_path / "scores.csv", index=False, float_format="%.17g")
    view = "view=generated_or_not"
    words = ["kind=predictions", f"file={tmp_path / 'scores.csv'}", "root=.", "score=higher_is_generated"]
    words.append("classes={generated: generated, not_generated: [drawing, real]}")
    is_generated = (table["label"] == "generated").to_numpy()
    for own in (None, 3.25):
        run = tmp_path / f"run {own}"
        assert main(["import", *words, f"out={run}", *([f"threshold={own}"] if own else [])]) == 0
        capsys.readouterr()
        evaluate(run, sets / "new.csv", view, "block=[blind_test,error_bias]", QUICK[1], code=0 if own else 3)
        assert ("this block needs decisions" in capsys.readouterr().err) == (own is None)
        metrics = read_result(run, f"new--{view[5:]}")["metrics"]
        expected = {"auroc/generated": roc_auc_score(is_generated[24:], scores[24:])}
        if own is None:
            expected["average_precision/generated"] = average_precision_score(is_generated[24:], scores[24:])
        collected = {name: metrics[name]["value"] for name in expected}
        assert collected == pytest.approx(expected, abs=1e-9)
        assert (metrics["accuracy"]["value"] is None) == (own is None)
        saved = calibrate(run, sets / "fit.csv", view)
        threshold = dict(saved["threshold"])
        intercept, slope = Logit(is_generated[:24], np.column_stack([np.ones(24), scores[:24]])).fit(disp=False).params
        assert threshold["value"] == pytest.approx(-intercept / slope, rel=1e-3)
        collected = balanced_accuracy_score(is_generated[:24], scores[:24] >= threshold["value"])
        assert threshold["balanced_accuracy"] == pytest.approx(collected, abs=1e-12)
        assert threshold["own"] == own
        evaluate(run, sets / "new.csv", view, "block=[blind_test,error_bias]", QUICK[1])
        metrics = read_result(run, f"new--{view[5:]}")["metrics"]
        expected = balanced_accuracy_score(is_generated[24:], scores[24:] >= threshold["value"])
        assert metrics["balanced_accuracy"]["value"] == pytest.approx(expected, abs=1e-12)
        predicted = predict(run, sets / "new.csv", tmp_path / "out.csv", view)
        assert ((predicted["prediction"] == "generated") == (scores[24:] >= threshold["value"])).all()
        np.testing.assert_allclose(predicted["prob_generated"], expit(slope * scores[24:] + intercept), atol=1e-3)
    for name, values, end in (("reversed", -scores, "the largest"), ("separated", is_generated * 3 - 1, "the least")):
        table[["path"]].assign(score=values).to_csv(tmp_path / "scores.csv", index=False)
        assert main(["import", *words, f"out={tmp_path / name}"]) == 0
        calibrate(tmp_path / name, sets / "fit.csv", view)
        assert f"warning: The temperature is at {end} that is tried" in capsys.readouterr().err

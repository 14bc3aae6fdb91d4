"""calibrate: temperature and threshold fitted on a user's images, and what then counts as out of date or seen."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss
from statsmodels.api import Logit

from avatar_bench.cli.app import main
from tests.builders.commands import data_of, read_result, write_manifest

CLASSES = ("drawing", "generated", "real")
COLUMNS = [f"prob_{name}" for name in CLASSES]
VIEW = "view=generated_or_not"
SEEN = "with the calibration data by image"


@pytest.fixture(scope="module")
def sets(images, tmp_path_factory):
    """Return a folder with fit.csv, 24 images, and new.csv, 18 images of other groups.

    One label in eight is wrong, so that the temperature has a minimum inside its range.
    """
    folder, table = tmp_path_factory.mktemp("sets"), pd.read_csv(images / "blind.csv")
    others = table["label"].map(dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True)))
    table["label"] = table["label"].mask(table.index % 8 == 3, others)
    is_fit = table["group"].str.split(":").str[2].astype(int) < 4
    write_manifest(folder / "fit.csv", table[is_fit], images)
    write_manifest(folder / "new.csv", table[~is_fit], images)
    return folder


@pytest.fixture
def calibrate(command):
    """Return a function that calibrates a run, and returns its calibration."""

    def run(ckpt, manifest, *words):
        command("calibrate", f"ckpt={ckpt}", *data_of(manifest), "workers=0", *words)
        return dict(json.loads((ckpt / "calibration.json").read_text(encoding="utf-8")))

    return run


@pytest.fixture
def evaluate(command):
    """Return a function that evaluates a run, and returns what is printed."""

    def run(ckpt, manifest, *words, block="blind_test", code=0):
        few = f"block.{block}.resamples=100"
        words = [f"block={block}", few, "data.workers=0", *words]
        return command("evaluate", f"ckpt={ckpt}", *data_of(manifest), *words, code=code)

    return run


def predict(ckpt, manifest, output, *words):
    """Return the predictions of a manifest's images, with their labels."""
    table = pd.read_csv(manifest)
    files = output.with_suffix(".txt")
    files.write_text("\n".join(table["path"]))
    exact = ["precision=32", "runtime=torch"] if (ckpt / "checkpoints").exists() else []
    assert main(["predict", f"ckpt={ckpt}", f"input=@{files}", f"output={output}", "workers=0", *exact, *words]) == 0
    return pd.read_csv(output).assign(label=table["label"])


@pytest.mark.slow
def test_a_calibration_counts_and_makes_results_out_of_date(sets, run_copy, calibrate, evaluate, command, tmp_path):
    new, out = sets / "new.csv", tmp_path / "out.csv"
    evaluate(run_copy, new)
    before, file = read_result(run_copy, "new")["provenance"], run_copy / "evaluation/new/blind_test/predictions.csv"
    plain = predict(run_copy, new, out, "calibrated=false")
    raw = predict(run_copy, sets / "fit.csv", out, "calibrated=false")
    logits, targets = np.log(raw[COLUMNS].to_numpy()), raw["label"].map(CLASSES.index)
    saved = calibrate(run_copy, sets / "fit.csv")
    best = minimize_scalar(lambda t: log_loss(targets, softmax(logits / np.exp(t), axis=1)), bounds=(-2.9, 2.9))
    assert saved["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
    assert saved["temperature"] != pytest.approx(before["temperature"], rel=1e-3)
    assert saved["data"]["n"] == dict.fromkeys(CLASSES, 8)
    calibrated = predict(run_copy, new, out)
    expected = log_softmax(np.log(plain[COLUMNS].to_numpy()) / saved["temperature"], axis=1)
    np.testing.assert_allclose(np.log(calibrated[COLUMNS]), expected, atol=1e-6)
    assert "already there" not in evaluate(run_copy, new).out
    after = read_result(run_copy, "new")["provenance"]
    assert after["temperature"] == saved["temperature"]
    assert "calibration_sha256" not in before
    assert len(str(after["calibration_sha256"])) == 64
    assert "already there" in evaluate(run_copy, new).out
    np.testing.assert_allclose(pd.read_csv(file)[COLUMNS], calibrated[COLUMNS], atol=1e-6)
    command("report", f"runs={run_copy}")
    assert "| fit (24 images), temperature " in (run_copy / "report.md").read_text(encoding="utf-8")
    (run_copy / "calibration.json").unlink()
    assert "он получен с другой калибровкой" in command("report", f"runs={run_copy}", "lang=ru", code=3).err
    evaluate(run_copy, new)
    assert read_result(run_copy, "new")["provenance"]["temperature"] == before["temperature"]


def test_images_of_the_fit_are_refused_and_so_are_their_copies(sets, run_copy, calibrate, evaluate, tmp_path, capsys):
    first = calibrate(run_copy, sets / "fit.csv")
    err = evaluate(run_copy, sets / "fit.csv", code=3).err
    assert f"fit shares 24 of 24 images {SEEN}" in err
    evaluate(run_copy, sets / "fit.csv", "allow=[overlap,near_duplicates]")
    table = pd.read_csv(sets / "fit.csv").drop(columns="group").groupby("label").head(1)
    for number, path in enumerate(table["path"]):
        image = Image.open(path).convert("RGB")
        image.resize((image.width + 2, image.height + 2)).save(tmp_path / f"{number}.png")
    table.assign(path=[f"{number}.png" for number in range(3)]).to_csv(tmp_path / "copies.csv", index=False)
    assert "near-duplicates of calibration images" in evaluate(run_copy, tmp_path / "copies.csv", code=3).err
    assert calibrate(run_copy, sets / "fit.csv") == first
    file = run_copy / "calibration.json"
    file.write_text(file.read_text().replace(first["checkpoint_sha256"], "0" * 64))
    assert "was fitted on another checkpoint" in evaluate(run_copy, sets / "new.csv", code=4).err
    with (run_copy / "checkpoints" / "best.ckpt").open("ab") as weights:
        weights.write(b"0")
    (
        run_copy / "checkpoints" / "best.ckpt.sha256"
    ).unlink()  # of changed weights, the weights are named, and not what was fitted on others
    assert main(["predict", f"ckpt={run_copy}", f"input={sets / 'new.csv'}", f"output={run_copy / 'p.csv'}"]) == 4
    assert "best.ckpt is damaged or belongs to another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words", "code", "message"),
    [
        (lambda table: table.groupby("label").head(5), (), 3, "it lacks 5 images"),
        (lambda table: table[table["label"] != "real"], (), 3, "it lacks 4 images and images of real"),
        (lambda table: table, ("split=train",), 2, "more certain of the images"),
        (lambda table: table.assign(label="photo"), (), 3, "has images of photo, but none of the classes of "),
        (lambda table: table.assign(label=""), (), 3, "has 0 labelled images"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, words, code, message, sets, images, tiny_run, tmp_path, command):
    manifest = write_manifest(tmp_path / "some.csv", change(pd.read_csv(sets / "fit.csv")), images)
    err = command("calibrate", f"ckpt={tiny_run}", *data_of(manifest), "workers=0", *words, code=code).err
    assert message in err
    assert len(err.strip().splitlines()) <= 3
    assert not (tiny_run / "calibration.json").exists()


@pytest.mark.slow
def test_the_calibration_half_of_val_serves_a_fit_and_training_images_do_not(sets, images, run_copy, evaluate, command):
    command("calibrate", f"ckpt={run_copy}", "workers=0")
    evaluate(run_copy, sets / "new.csv", block="calibration")
    assert read_result(run_copy, "new", "calibration")["metrics"]["coverage/lac"]["value"] is not None
    assert SEEN in command("evaluate", f"ckpt={run_copy}", "split=calibration", "data.workers=0", code=3).err
    err = command("calibrate", f"ckpt={run_copy}", *data_of(images / "all.csv"), "workers=0", code=3).err
    assert "with the training data by image" in err
    err = command("calibrate", f"ckpt={run_copy / 'checkpoints' / 'last.ckpt'}", code=4).err
    assert "is not the best checkpoint of a run folder" in err


def test_a_temperature_whose_interval_contains_1_is_not_applied(sets, evaluate, command, tmp_path):
    """The probabilities, .8 of a class that is correct in seven cases of eight, are about calibrated."""
    paths = pd.concat([pd.read_csv(sets / f"{name}.csv")["path"] for name in ("fit", "new")], ignore_index=True)
    folders = paths.str.split("/").str[-3]
    columns = {f"prob_{name}": np.where(folders == name, 0.8, 0.1) for name in CLASSES}
    pd.DataFrame({"path": paths, **columns}).to_csv(tmp_path / "table.csv", index=False)
    run = tmp_path / "run"
    command("import", "kind=predictions", f"file={tmp_path / 'table.csv'}", "root=.", f"out={run}")
    printed = command("calibrate", f"ckpt={run}", *data_of(sets / "fit.csv"), "workers=0")
    saved = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    fit = saved["temperature_fit"]
    assert fit["low"] < fit["fitted"] < 1 < fit["high"]
    assert (saved["temperature"], fit["applied"], fit["why_not"]) == (1, False, "its interval contains 1")
    assert "fitted on 24 images of fit; view=all" in printed.out
    assert f"warning: temperature {fit['fitted']:.3g} [" in printed.err
    evaluate(run, sets / "new.csv", block="calibration")
    warnings = read_result(run, "new", "calibration")["warnings"]
    (warning,) = (warning for warning in warnings if warning["code"] == "temperature_near_1")
    assert (warning["fitted"], warning["n"]) == (fit["fitted"], 24)


def test_in_a_view_the_temperature_fits_the_merged_classes(sets, run_copy, calibrate, tmp_path):
    saved = calibrate(run_copy, sets / "fit.csv", VIEW)
    raw = predict(run_copy, sets / "fit.csv", tmp_path / "raw.csv", "calibrated=false", "view=all")
    logits, truth = np.log(raw[COLUMNS].to_numpy()), (raw["label"] == "generated").to_numpy()

    def loss(temperature):
        return float(log_loss(truth, softmax(logits / temperature, axis=1)[:, 1]))

    assert loss(float(saved["temperature"])) <= min(map(loss, np.geomspace(0.05, 20, 201))) + 1e-9
    assert saved["view"] == "generated_or_not"
    assert saved["data"]["n"] == {"generated": 8, "not_generated": 16}


@pytest.mark.slow
def test_a_score_has_a_threshold_once_it_is_calibrated(sets, tiny_run, calibrate, evaluate, command, tmp_path):
    table = pd.concat([predict(tiny_run, sets / f"{name}.csv", tmp_path / "out.csv") for name in ("fit", "new")])
    scores = 4 * logit(table["prob_generated"].clip(1e-6, 1 - 1e-6)) + 7 + np.random.default_rng(0).normal(0, 9, 42)
    table[["path"]].assign(score=scores).to_csv(tmp_path / "scores.csv", index=False, float_format="%.17g")
    words = ["import", "kind=predictions", f"file={tmp_path / 'scores.csv'}", "root=.", "score=higher_is_generated"]
    words.append("classes={generated: generated, not_generated: [drawing, real]}")
    blocks = [VIEW, "block=[blind_test,error_bias]", "block.error_bias.resamples=100"]
    is_generated = (table["label"] == "generated").to_numpy()
    fit, new = slice(None, 24), slice(24, None)

    def read_metric(run, name):
        metric = read_result(run, f"new--{VIEW[5:]}")["metrics"][name]
        return metric.get("these_sources", metric)["value"]

    for threshold in (None, 3.25):
        run = tmp_path / f"run {threshold}"
        command(*words, f"out={run}", *([f"threshold={threshold}"] if threshold else []))
        err = evaluate(run, sets / "new.csv", *blocks, code=0 if threshold else 3).err
        assert ("this block needs decisions" in err) == (threshold is None)
        assert (read_metric(run, "accuracy") is None) == (threshold is None)
        if threshold is None:
            expected = average_precision_score(is_generated[new], scores[new])
            assert read_metric(run, "average_precision/generated") == pytest.approx(expected, abs=1e-9)
        fitted = calibrate(run, sets / "fit.csv", VIEW)["threshold"]
        features = np.column_stack([np.ones(24), scores[fit]])
        intercept, slope = Logit(is_generated[fit], features).fit(disp=False).params
        assert fitted["value"] == pytest.approx(-intercept / slope, rel=1e-3)
        is_above = scores >= fitted["value"]
        expected = balanced_accuracy_score(is_generated[fit], is_above[fit])
        assert (fitted["balanced_accuracy"], fitted["own"]) == (pytest.approx(expected, abs=1e-12), threshold)
        if threshold:  # the fitted one stands above it
            evaluate(run, sets / "new.csv", VIEW)
            expected = balanced_accuracy_score(is_generated[new], is_above[new])
            assert read_metric(run, "balanced_accuracy") == pytest.approx(expected, abs=1e-12)
            continue
        predicted = predict(run, sets / "new.csv", tmp_path / "out.csv", VIEW)
        assert ((predicted["prediction"] == "generated") == is_above[new]).all()
        np.testing.assert_allclose(predicted["prob_generated"], expit(slope * scores[new] + intercept), atol=1e-3)
    for name, values, end in (("reversed", -scores, "the largest"), ("separated", is_generated * 3 - 1, "the least")):
        table[["path"]].assign(score=values).to_csv(tmp_path / "scores.csv", index=False)
        command(*words, f"out={tmp_path / name}")
        err = command("calibrate", f"ckpt={tmp_path / name}", *data_of(sets / "fit.csv"), "workers=0", VIEW).err
        assert f"warning: The temperature is at {end} that is tried" in err


RENAMED = "data.classes={Foto: real, KI-Bild: generated, Zeichnung: drawing}"


def test_labels_of_another_language_and_missing_files_are_named_renamed_and_counted(
    sets, run_copy, calibrate, evaluate, command
):
    table = pd.read_csv(sets / "fit.csv")
    names = dict(zip(("real", "generated", "drawing"), ("Foto", "KI-Bild", "Zeichnung"), strict=True))
    broken = sets / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    lost = pd.DataFrame({"path": [*(f"lost{k}.png" for k in range(6)), str(broken)], "label": "real"})
    pd.concat([table, lost]).replace({"label": names}).to_csv(sets / "named.csv", index=False)
    shown = evaluate(run_copy, sets / "named.csv", code=3).err
    assert "line 26: lost0.png does not exist or is not a file (6 of 31 images)." in shown
    assert "The others: lost1.png, lost2.png, lost3.png, lost4.png and 1 more." in shown
    evaluate(run_copy, sets / "named.csv", "allow=[missing_files]", RENAMED)
    result = read_result(run_copy, "named")
    assert {"code": "missing_files", "set": "named", "n": 7} in result["warnings"]
    evaluate(run_copy, sets / "fit.csv")
    assert result["metrics"]["accuracy"] == read_result(run_copy, "fit")["metrics"]["accuracy"]
    command("evaluate", f"ckpt={run_copy}", *data_of(sets / "fit.csv"), RENAMED, "block=blind_test", code=2)
    calibration = calibrate(run_copy, sets / "named.csv", "allow=[missing_files]", RENAMED)
    assert calibration["temperature"] == calibrate(run_copy, sets / "fit.csv")["temperature"]

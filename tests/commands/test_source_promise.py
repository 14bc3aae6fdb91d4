"""A promise about new sources: calibrate, predict and evaluate with unit=source."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.metrics.selective import fit_source_threshold
from tests.conftest import SOURCES, draw_set

CLASSES = ["drawing", "generated", "real"]
PROBABILITIES = [f"prob_{name}" for name in CLASSES]
NEW = {"drawing": ("chalk", "brush", "pixel"), "generated": ("flow", "vae", "turbo"), "real": ("beach", "forest")}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Return the manifest of 8 sources of 20 or 30 images, which no run has seen; never change them."""
    root = tmp_path_factory.mktemp("new")
    draw_set(root, "new", 60, NEW, seed=5)
    return root / "new.csv"


@pytest.fixture(scope="module")
def calibrated(manifest, tiny_run, tmp_path_factory):
    """Return a copy of the tiny run that is calibrated by image and by source; never write into it."""
    left_out = shutil.ignore_patterns("evaluation", "predictions")
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "calibrated", ignore=left_out)
    draw_set(run.parent, "fit", 40, SOURCES, seed=7)
    words = ["calibrate", f"ckpt={run}", "data=manifest", f"data.manifest={run.parent / 'fit.csv'}", "workers=0"]
    assert main(words) == 0
    before = {name: (run / name).read_bytes() for name in ("calibration.json", "calibration.safetensors")}
    assert calibrate(run, manifest, "beta=.3") == 0
    assert before == {name: (run / name).read_bytes() for name in before}
    return run


def calibrate(run, manifest, *words):
    words = ["calibrate", f"ckpt={run}", "unit=source", f"data.manifest={manifest}", "workers=0", *words]
    return main([*words, "data=manifest"])


def predict(run, images, output, *words):
    assert main(["predict", f"ckpt={run}", f"input={images}", f"output={output}", "workers=0", *words]) == 0
    return pd.read_csv(output, keep_default_na=False)


def read_calibration(run):
    saved = json.loads((run / "source_calibration.json").read_text(encoding="utf-8"))
    return saved, pd.DataFrame(saved["images"])


def test_the_calibration_names_unit_sources_beta_and_confidence_and_fits_nothing(calibrated):
    saved, images = read_calibration(calibrated)
    sources = sorted(name for names in NEW.values() for name in names)
    terms = {"unit": "source", "beta": 0.3, "folds": 0, "confidence": 0.9, "sources": sources}
    assert saved["by_source"] == terms
    assert images["source"].value_counts().to_dict() == {name: 30 if name in NEW["real"] else 20 for name in sources}
    by_image = json.loads((calibrated / "calibration.json").read_text(encoding="utf-8"))
    assert saved["temperature"] == by_image["temperature"]


def test_predict_answers_from_the_threshold_on_and_says_what_is_promised(calibrated, images, tmp_path):
    __, known = read_calibration(calibrated)
    chances = np.array(known["probabilities"].tolist())
    scores = np.where(known["ood_percentile"] > 99, -np.inf, chances.max(axis=1))
    correct = chances.argmax(axis=1) == known["label"].map(CLASSES.index)
    for target in (0.1, 0.4):
        fit = fit_source_threshold(scores, correct, known["source"], target, 0.3)
        table = predict(
            calibrated, images / "blind", tmp_path / f"{target}.csv", f"target_error={target}", "unit=source"
        )
        is_sure = (table[PROBABILITIES].max(axis=1) >= fit.value) & (table["ood_percentile"].astype(float) <= 99)
        assert (table["decision"] == table["prediction"].where(is_sure, "abstain")).all()
        (promise,) = set(table["decision_guarantee"])
        assert f"at most 30 % of new sources have more than {100 * target:g} % of their answers incorrect" in promise
        assert "like the 8 of the calibration" in promise
    by_image = predict(calibrated, images / "blind", tmp_path / "image.csv", "target_error=.3")
    assert "for images of other sources nothing is promised" in by_image["decision_guarantee"][0]


def test_too_few_sources_answer_nothing_and_are_counted(manifest, run_copy, images, tmp_path, capsys):
    assert calibrate(run_copy, manifest, "target_error=.2") == 0  # beta=.1 needs 22
    err = " ".join(capsys.readouterr().err.split())
    assert "14 more of ten images or more are needed, first of class real" in err
    assert "of the 8 of the calibration (drawing 3, generated 3, real 2)" in err
    table = predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.2", "unit=source")
    assert set(table["decision"]) == {"abstain"}


def test_the_block_counts_the_sources_that_exceed_each_target(calibrated, tmp_path):
    run = shutil.copytree(calibrated, tmp_path / "run")
    words = [f"ckpt={run}", "split=blind", "block=decision", "data.workers=0"]
    options = ["block.decision.unit=source", "block.decision.targets=[.3]", "block.decision.resamples=100"]
    assert main(["evaluate", *words, *options]) == 0
    folder = run / "evaluation" / "blind" / "decision"
    table = pd.read_csv(folder / "new_sources.csv").set_index("rule")
    assert list(table.index) == ["source", "image"]
    assert (table["sources"] == 3).all()
    metric = json.loads((folder / "metrics.json").read_text())["metrics"]["broken/0.3"]
    if table.at["source", "counted"]:
        assert metric["value"] == table.at["source", "broken"] / table.at["source", "counted"]
    else:
        assert metric["reason"]["code"] == "no_source_counted"
    by_source = pd.read_csv(folder / "sources.csv")
    assert list(by_source["source"]) == ["new-drawing", "new-generated", "new-real"] * 2
    for rule, rows in by_source.groupby("rule"):
        assert rows[["counted", "breaks"]].sum().tolist() == table.loc[rule, ["counted", "broken"]].tolist()
        assert rows["answered"].sum() == pytest.approx(table.at[rule, "coverage"] * rows["n"].sum())
    trace = pd.read_csv(folder / "risk_by_source.csv")
    assert trace["coverage"].is_monotonic_increasing
    assert trace["fraction"].iloc[-1] == trace["broken"].iloc[-1] / 3
    page, notes = tmp_path / "report.html", json.loads((folder / "metrics.json").read_text())["notes"]
    assert [note["code"] for note in notes] == ["guarantee", "guarantee_of_sources"]
    assert main(["report", f"runs={run}", f"out={page}", "lang=ru"]) == 0
    assert "С уверенностью 90 % ошибочны не больше 30 % ответов" in " ".join(page.read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_folds_predict_the_sources_that_they_lack(train, run_copy, tmp_path):
    held_out = ("ink", "gan", "studio")
    for name in held_out:
        train(tmp_path / "sweep" / name, "data.split.by=source", f"data.split.held_out=[{name}]", "trainer=debug")
    words = ["calibrate", f"ckpt={run_copy}", "unit=source", f"folds={tmp_path / 'sweep'}", "beta=.6", "workers=0"]
    assert main([*words, "stability=true"]) == 0
    saved, known = read_calibration(run_copy)
    assert saved["by_source"]["folds"] == 3
    assert known["is_stable"].any()
    assert sorted(set(known["source"])) == sorted(held_out)
    assert len(known) == len(set(known["path"]))


def test_sources_that_are_known_or_unnamed_are_refused(images, manifest, run_copy, tmp_path, capsys):
    assert calibrate(run_copy, images / "all.csv") == 3
    assert "sources of all: crayon, diffusion, gan and 4 more" in capsys.readouterr().err
    table = pd.read_csv(manifest).drop(columns="source")
    table.assign(path=[str(manifest.parent / path) for path in table["path"]]).to_csv(tmp_path / "no.csv", index=False)
    assert calibrate(run_copy, tmp_path / "no.csv") == 3
    assert "the source of 180 images is unknown" in capsys.readouterr().err


def test_a_run_without_the_calibration_or_with_another_temperature_is_refused(
    manifest, run_copy, images, tmp_path, capsys
):
    words = ["predict", f"ckpt={run_copy}", f"input={images / 'blind'}", f"output={tmp_path / 'o.csv'}", "workers=0"]
    words += ["target_error=.2", "unit=source"]
    assert main(words) == 3
    assert "calibrate" in (err := capsys.readouterr().err)
    assert "unit=source" in err
    assert calibrate(run_copy, manifest) == 0
    file = run_copy / "source_calibration.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(saved | {"temperature": saved["temperature"] * 1.1}), encoding="utf-8")
    assert main(words) == 4
    assert "Calibrate by source again" in capsys.readouterr().err
    for beta in (0, math.inf, "x"):
        file.write_text(json.dumps(saved | {"by_source": saved["by_source"] | {"beta": beta}}), encoding="utf-8")
        assert main(words) == 4
        assert "cannot be read" in capsys.readouterr().err


def test_alarms_are_as_rare_as_asked_for_by_source_where_there_are_enough(calibrated, manifest, tmp_path, command):
    words = ["unit=source", "data=manifest", f"data.manifest={manifest}", "workers=0", "target=generated"]
    out, err = command("calibrate", f"ckpt={calibrated}", "beta=.3", "false_alarms=.2", *words)
    assert (
        "from a new source like the 5 of the calibration, is called generated with a probability of at most 20 %" in out
    )
    assert err == ""
    images = read_calibration(calibrated)[1]
    score = np.array(images["probabilities"].tolist())[:, CLASSES.index("generated")]
    is_other = (images["label"] != "generated").to_numpy()
    # six parts of equal weight, one of them infinite
    weights = 1 / (6 * images["source"].map(images["source"].value_counts()))[is_other]
    order = np.argsort(score[is_other])
    value = score[is_other][order][np.searchsorted(weights.iloc[order].cumsum() + 1e-9, 0.8)]
    alarms, caught = (score[is_other] > value).sum(), (score[~is_other] > value).sum()
    assert f"{alarms} of {is_other.sum()} of other classes are called generated" in out
    assert f"{caught} of {(~is_other).sum()} of generated are found" in out
    table = predict(
        calibrated, manifest.parent / "new", tmp_path / "out.csv", "false_alarms=.2", "target=generated", "unit=source"
    )
    table = table[(table["prob_generated"] - value).abs() > 1e-6]  # not the image that the threshold is made of
    is_alarm = table["prob_generated"] > value
    assert len(table) > 170
    assert (table["decision"] == "generated").tolist() == is_alarm.tolist()
    others = table[["prob_drawing", "prob_real"]].idxmax(axis=1).str.removeprefix("prob_")
    assert (table["decision"] == others)[~is_alarm].all()
    assert set(table["decision_reason"]) == {"false_alarms"}
    assert table["decision_guarantee"].str.contains(f"above a probability of {value:.3g}", regex=False).all()


def test_alarms_hold_for_known_sources_where_new_ones_are_too_few_and_say_so(calibrated, manifest, tmp_path, command):
    words = ["data=manifest", f"data.manifest={manifest}", "workers=0", "target=generated"]
    out, err = command("calibrate", f"ckpt={calibrated}", "unit=source", "beta=.3", "false_alarms=.05", *words)
    assert "of one of the 5 sources of the calibration, is called generated with a probability of at most 5 %" in out
    assert "for images of other sources nothing is promised" in out
    assert "for new ones, 14 sources lack" in err
    for options, message in (
        (["false_alarms=.05", "target=photo"], "target=photo: no class of"),
        (["false_alarms=.05"], "need each other"),
        (["target=real"], "need each other"),
        (["false_alarms=.05", "target=real", "target_error=.1"], "target_error and false_alarms exclude each other"),
        (["false_alarms=2", "target=real"], "false_alarms=2"),
    ):
        err = command("predict", f"ckpt={calibrated}", f"input={manifest.parent}", "output=-", *options, code=2).err
        assert message in err
    words = ["false_alarms=.001", "target=real", f"input={manifest.parent}", "output=-"]
    assert "needs 999 groups" in command("predict", f"ckpt={calibrated}", *words, code=3).err

"""Decisions of predict: thresholds fitted by train and calibrate, costs, and what cannot be decided."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_distances

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_dataset
from avatar_bench.metrics.selective import draw_of_groups
from avatar_bench.runs import saved_calibration
from avatar_bench.runs.run import Run
from tests.builders.commands import copy_run, data_of, read_record, read_result
from tests.conftest import SOURCES, draw_set

CLASSES = ["drawing", "generated", "real"]
PROBABILITIES = [f"prob_{name}" for name in CLASSES]
DECISIONS = ["decision", "decision_reason", "prediction_set", "ood_percentile", "decision_guarantee"]


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Return the manifest of 192 labelled images in 96 groups, which no run has seen; never change them.

    A quarter of the groups are mixtures with the next class, which a run confuses.
    """
    root = tmp_path_factory.mktemp("fit")
    draw_set(root, "fit", 64, SOURCES, seed=2)
    table = pd.read_csv(root / "fit.csv")
    for path, other, group in zip(table["path"], np.roll(table["path"], -64), table["group"], strict=True):
        if int(group.split(":")[-1]) % 4 == 0:
            with Image.open(root / path) as image, Image.open(root / other) as other_image:
                mixed = Image.blend(image.convert("RGB"), other_image.convert("RGB").resize(image.size), 0.5)
            mixed.save(root / path, quality=95)
    return root / "fit.csv"


@pytest.fixture(scope="module")
def calibrated(fit, tiny_run, tmp_path_factory):
    """Return a copy of the tiny run that is calibrated on `fit`; never write into it."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("runs") / "calibrated")
    assert calibrate(run, fit) == 0
    return run


def calibrate(run, manifest, *words):
    return main(["calibrate", f"ckpt={run}", *data_of(manifest), "workers=0", *words])


def predict(run, files, output, *words):
    return main(["predict", f"ckpt={run}", f"input={files}", f"output={output}", "workers=0", *words])


def read_fit(run):
    """Return the images of a calibration.json, their probabilities, and which are drawn for thresholds."""
    table = pd.DataFrame(json.loads((run / "calibration.json").read_text(encoding="utf-8"))["images"])
    drawn = draw_of_groups(table["group"]) & (table["part"] == "thresholds").to_numpy()
    return table, np.array(table["probabilities"].tolist()), drawn


def test_calibration_images_are_divided_by_group_and_keep_what_any_target_needs(fit, calibrated, tiny_run, tmp_path):
    table, probabilities, _ = read_fit(calibrated)
    assert (table.groupby("group")["part"].nunique() == 1).all()
    assert table["part"].value_counts().to_dict() == {"reference": 96, "thresholds": 96}
    (tmp_path / "files.txt").write_text("\n".join(str(fit.parent / path) for path in table["path"]))
    words = ["precision=32", "runtime=torch", "calibrated=false"]
    assert predict(tiny_run, f"@{tmp_path / 'files.txt'}", tmp_path / "raw.csv", *words) == 0
    logits = np.log(pd.read_csv(tmp_path / "raw.csv")[PROBABILITIES].to_numpy())
    is_reference, targets = (table["part"] == "reference").to_numpy(), table["label"].map(CLASSES.index).to_numpy()
    best = minimize_scalar(
        lambda t: log_loss(targets[is_reference], softmax(logits[is_reference] / np.exp(t), axis=1), labels=[0, 1, 2]),
        bounds=(-3, 3),
    )
    temperature = json.loads((calibrated / "calibration.json").read_text())["temperature"]
    assert np.clip(temperature, 0.0501, 19.99) == pytest.approx(np.clip(np.exp(best.x), 0.0501, 19.99), rel=1e-2)
    np.testing.assert_allclose(probabilities, softmax(logits / temperature, axis=1), atol=1e-5)
    tensors = load_file(calibrated / "calibration.safetensors")
    groups = table["group"].to_numpy()[is_reference]
    distances = np.sqrt(2 * cosine_distances(tensors["embeddings"].astype(np.float64)))
    distances[groups[:, None] == groups] = np.inf
    np.testing.assert_allclose(np.sort(distances, axis=1)[:, 4], tensors["distances"], atol=1e-6)


def test_decisions_follow_threshold_percentile_and_conformal_set_in_every_format(images, fit, calibrated, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in [*(images / "blind").rglob("*.*"), *(fit.parent / "fit" / "real").rglob("*.*")]:
        shutil.copy(file, mine / f"{file.parent.name}{file.name}")
    for name in ("lime", "black", "cyan"):  # unlike the images of any class
        Image.new("RGB", (60, 60), name).save(mine / f"{name}.png")
    (mine / "broken.png").write_bytes(b"no image")
    assert predict(calibrated, mine, tmp_path / "plain.csv", "runtime=torch", "precision=32") == 3
    for suffix in ("csv", "jsonl", "parquet"):
        assert predict(calibrated, mine, tmp_path / f"out.{suffix}", "target_error=.1", "alpha=.2") == 3
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(table) == [*pd.read_csv(tmp_path / "plain.csv"), *DECISIONS]
    decided, plain_rows = (list(csv.reader((tmp_path / name).open(newline=""))) for name in ("out.csv", "plain.csv"))
    assert [row[:-5] for row in decided] == plain_rows  # the other columns stay as they were
    (promise,) = set(table["decision_guarantee"]) - {""}
    assert "at most 10 % of the answers are incorrect, for new images of the sources of the calibration" in promise
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for other in (pd.DataFrame(rows), pd.read_parquet(tmp_path / "out.parquet")):
        assert list(other) == list(table)
        assert other[DECISIONS[:3]].fillna("").equals(table[DECISIONS[:3]])
        np.testing.assert_allclose(other["ood_percentile"].astype(float), pd.to_numeric(table["ood_percentile"]))
    assert table.set_index("path").loc[str(mine / "broken.png"), DECISIONS].tolist() == [""] * 5
    table = table[table["status"] == "ok"].astype({"ood_percentile": float, "confidence": float})
    assert table["decision_reason"].value_counts()["confident"] > 20
    unlike = table["ood_percentile"] > 99
    assert unlike[table["path"].str.contains("lime|black|cyan")].any()
    assert set(table.loc[unlike, "decision"]) == {"abstain"}
    assert set(table.loc[unlike, "decision_reason"]) == {"unlike_training_data"}
    dataset, tensors = read_dataset(images / "blind.csv"), load_file(calibrated / "calibration.safetensors")
    distances = cosine_distances(Run.open(calibrated).predictions(dataset).embeddings, tensors["embeddings"])
    ranks = (np.sqrt(2 * np.sort(distances, axis=1)[:, 4]) >= tensors["distances"][:, None]).mean(axis=0)
    names = [str(mine / f"{Path(path).parent.name}{Path(path).name}") for path in dataset.frame["path"]]
    np.testing.assert_allclose(table.set_index("path").loc[names, "ood_percentile"], 100 * ranks, atol=1.1)
    known = table[~unlike]
    sure = known["decision_reason"] == "confident"
    assert (known["decision"] == known["prediction"].where(sure, "abstain")).all()
    # a confidence between those that are answered and those that are not passes the exact test
    images_of_fit, probabilities, drawn = read_fit(calibrated)
    targets = images_of_fit["label"].map(CLASSES.index)
    alike = drawn & (images_of_fit["ood_percentile"] <= 99).to_numpy()
    is_answered = probabilities.max(axis=1)[alike] >= known.loc[sure, "confidence"].min()
    errors = int((probabilities.argmax(axis=1)[alike] != targets[alike])[is_answered].sum())
    assert 0 < is_answered.mean() < 1
    assert binomtest(errors, int(is_answered.sum()), 0.1, alternative="less").pvalue <= 0.1
    # sets by the quantile of split conformal prediction
    scores = np.sort(1 - probabilities[np.arange(192), targets][drawn])
    quantile = scores[int(np.ceil((drawn.sum() + 1) * 0.8)) - 1]
    chances = table[PROBABILITIES].astype(float).to_numpy()
    is_in = (1 - chances <= quantile) | (chances == chances.max(axis=1, keepdims=True))
    expected = ["|".join(name for name, kept in zip(CLASSES, row, strict=True) if kept) for row in is_in]
    assert table["prediction_set"].tolist() == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target_error=.01"], "needs 230 calibration images for thresholds, one of a group; missing are 18"),
        (["target_error=.05", "per_class=true"], "predicted as drawing"),
    ],
)
def test_too_few_calibration_images_are_counted_and_nothing_is_written(
    words, message, images, calibrated, tmp_path, capsys
):
    assert predict(calibrated, images / "blind", tmp_path / "out.csv", *words) == 3
    err = capsys.readouterr().err
    assert message in err
    assert f"avatar-bench calibrate ckpt={calibrated} data=..." in err
    assert len(err.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("wrong", "step"),
    [
        (0.15, "next: label more images (avatar-bench predict ckpt={run} input=FOLDER output=review.html), or set "),
        (1, "next: train"),
    ],
)
def test_a_target_that_is_missed_names_the_next_steps_and_abstains(
    wrong, step, images, fit, run_copy, tmp_path, capsys
):
    table = pd.read_csv(fit)
    is_wrong = table["group"].rank(method="dense", pct=True) <= wrong
    labels = table["label"].mask(is_wrong, np.roll(table["label"], 64))
    paths = [str(fit.parent / path) for path in table["path"]]
    table.assign(label=labels, path=paths).to_csv(tmp_path / "mistaken.csv", index=False)
    assert calibrate(run_copy, tmp_path / "mistaken.csv", "target_error=.05") == 0
    err = capsys.readouterr().err
    assert step.format(run=run_copy) in err
    if wrong == 1:
        assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.05") == 0
        err = capsys.readouterr().err
        assert "A target error of 0.05 cannot be met, so that nothing is answered: " in err
        assert set(pd.read_csv(tmp_path / "out.csv", keep_default_na=False)["decision_guarantee"]) == {""}
        assert "of the most confident ones more than the target: more images will not help" in err
        decided = pd.read_csv(tmp_path / "out.csv")
        assert set(decided["decision"]) == {"abstain"}
        assert set(decided["decision_reason"]) <= {"unsure", "unlike_training_data"}


@pytest.mark.slow
def test_too_few_images_end_with_3_in_predict_and_in_calibrate(images, fit, run_copy, tmp_path, command):
    fit_on = ["calibrate", f"ckpt={run_copy}", "workers=0"]
    decide = ["predict", f"ckpt={run_copy}", f"input={images / 'blind'}", f"output={tmp_path / 'out.csv'}", "workers=0"]
    few, target = data_of(images / "blind.csv"), "target_error=.05"  # 42 images in 21 groups
    assert "Calibrate it on 90 labelled images or more" in command(*decide, target, code=3).err
    assert "missing are 3" in command(*fit_on, *few, target, code=3).err
    assert not list(run_copy.glob("calibration*"))
    command(*fit_on, *few)
    assert "missing are 3" in command(*decide, target, code=3).err
    out = command(*fit_on, *data_of(fit), target).out
    assert "fitted on 96 of 192 images of fit" in out
    assert "target_error=0.05: " in out
    before = [file.read_bytes() for file in sorted(run_copy.glob("calibration*"))]
    command(*fit_on, *few, target, code=3)
    assert [file.read_bytes() for file in sorted(run_copy.glob("calibration*"))] == before
    per_class = ["target_error=.3", "per_class=true"]
    assert "target_error=0.3 of answers real: " in command(*fit_on, *data_of(fit), *per_class).out
    command(*decide, *per_class)
    assert set(pd.read_csv(tmp_path / "out.csv")["decision"]) >= set(CLASSES)


def test_costs_decide_as_by_hand(images, calibrated, tiny_run, tmp_path, capsys):
    costs = {
        "drawing": {"generated": 1.5, "real": 1},
        "generated": {"drawing": 4, "real": 20, "generated": 0.25},
        "real": {"drawing": 1, "generated": 9},
    }
    file, out = tmp_path / "costs.yaml", tmp_path / "out.csv"
    file.write_text(yaml.safe_dump({**costs, "abstain": 0.5}))
    for run in (calibrated, tiny_run):
        assert predict(run, images / "blind", out, f"costs={file}") == 0
        table = pd.read_csv(out, keep_default_na=False)
        losses = {name: sum(cost[true] * table[f"prob_{true}"] for true in cost) for name, cost in costs.items()}
        expected = pd.DataFrame({**losses, "abstain": 0.5}).idxmin(axis=1)
        assert table["decision"].tolist() == expected.tolist()
        assert expected.nunique() > 2
        assert set(table["decision_reason"]) == {"cost"}
    assert "prediction_set and ood_percentile are empty" in capsys.readouterr().err
    assert set(table["prediction_set"]) == {""}
    for change, message in (
        ({"drawing": {"generated": 1}}, "drawing: {real: ...} is missing"),
        ({"photo": {"real": 1}}, "photo is no class of the run"),
        ({"abstain": -1}, "abstain is -1"),
        ({"real": {"drawing": True, "generated": 9}}, "real: {drawing: ...} is True"),
    ):
        file.write_text(yaml.safe_dump({**costs, "abstain": 0.5, **change}))
        assert predict(calibrated, images / "blind", tmp_path / "other.csv", f"costs={file}") == 2
        assert message in capsys.readouterr().err
    binary = {"generated": {"not_generated": 3}, "not_generated": {"generated": 1}, "abstain": 0.2}
    file.write_text(yaml.safe_dump(binary))
    assert predict(calibrated, images / "blind", out, f"costs={file}", "view=generated_or_not") == 0
    table = pd.read_csv(out)
    losses = {"generated": 3 * (1 - table["prob_generated"]), "not_generated": table["prob_generated"], "abstain": 0.2}
    assert table["decision"].tolist() == pd.DataFrame(losses).idxmin(axis=1).tolist()


def test_an_output_of_decisions_is_continued_only_by_the_same_decisions(images, calibrated, tmp_path, command):
    file = tmp_path / "out.csv"
    words = ["predict", f"ckpt={calibrated}", f"input={images / 'blind'}", f"output={file}", "workers=0"]
    command(*words, "target_error=.05")
    whole, before = file.read_bytes(), pd.read_csv(file)
    file.write_bytes(whole[: len(whole) // 2])
    command(*words, "target_error=.05", "update=true")
    pd.testing.assert_frame_equal(before[DECISIONS], pd.read_csv(file)[DECISIONS])
    costs = {name: dict.fromkeys(CLASSES, 1) for name in CLASSES} | {"abstain": 0}
    (tmp_path / "costs.yaml").write_text(yaml.safe_dump(costs))
    err = command(*words, f"costs={tmp_path / 'costs.yaml'}", "update=true", code=2).err
    assert "the existing decisions were made with other options" in err
    assert "does not have the columns of this run" in command(*words, "update=true", code=2).err


def test_a_calibration_serves_the_views_that_it_knows(images, fit, calibrated, run_copy, tmp_path, capsys):
    words = [images / "blind", tmp_path / "out.csv", "target_error=.1"]
    assert predict(calibrated, *words, "view=generated_or_not") == 0
    assert set(pd.read_csv(tmp_path / "out.csv")["decision"]) <= {"generated", "not_generated", "abstain"}
    assert calibrate(run_copy, fit, "view=generated_or_not") == 0
    assert predict(run_copy, *words, "view=generated_or_not") == 0
    assert predict(run_copy, *words) == 3
    assert "was calibrated in view=generated_or_not" in capsys.readouterr().err


@pytest.mark.slow
def test_ensembles_and_imported_predictions_decide_too(images, fit, calibrated, tmp_path, capsys):
    runs, out = tmp_path / "runs", tmp_path / "out.csv"
    copy_run(calibrated, runs / "first", runs / "second")
    for run in runs.iterdir():
        (run / "calibration.json").unlink()
    words = ["block=ensemble", "block.ensemble.soup=false", "block.ensemble.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={runs}", *words, *data_of(images / "blind.csv")]) == 0
    ensemble, provenances = runs / "ensembles" / "soft_vote", []
    assert predict(ensemble, images / "blind", out, "target_error=.05") == 3
    words = ["evaluate", f"ckpt={ensemble}", "block.blind_test.resamples=100", "data.workers=0"]
    for is_calibrated in (False, True):
        assert not is_calibrated or calibrate(ensemble, fit, "target_error=.05") == 0
        assert main([*words, *data_of(images / "blind.csv")]) == 0
        provenances.append(read_result(ensemble, "blind")["provenance"])
    before, after = provenances
    calibration = json.loads((ensemble / "calibration.json").read_text())
    assert after["temperature"] == calibration["temperature"] != before["temperature"]
    assert after["checkpoint_sha256"] == before["checkpoint_sha256"] == calibration["checkpoint_sha256"]
    assert main([*words, *data_of(fit)]) == 3
    assert "with the calibration data by image" in capsys.readouterr().err
    assert predict(ensemble, images / "blind", out, "target_error=.05") == 0
    assert pd.read_csv(out)["ood_percentile"].between(0, 100).all()
    saved = load_file(ensemble / "calibration.safetensors")["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(saved, axis=1), np.sqrt(2), atol=1e-5)  # two members, each of length 1
    scores, names = tmp_path / "scores.csv", tmp_path / "both.txt"
    files = [*(fit.parent / path for path in pd.read_csv(fit)["path"]), *sorted((images / "blind").rglob("*.*"))]
    names.write_text("\n".join(map(str, files)))
    assert predict(calibrated, f"@{names}", scores, "precision=32", "runtime=torch") == 0
    pd.read_csv(scores)[["path", *PROBABILITIES]].to_csv(scores, index=False)
    assert main(["import", "kind=predictions", f"file={scores}", "root=.", f"out={tmp_path / 'foreign'}"]) == 0
    assert calibrate(tmp_path / "foreign", fit) == 0
    capsys.readouterr()
    assert predict(tmp_path / "foreign", images / "blind", out, "target_error=.1") == 0
    assert "no image is found unlike the training data" in capsys.readouterr().err
    decided = pd.read_csv(out)
    assert decided["ood_percentile"].isna().all()
    assert (decided["decision"] == decided["prediction"]).mean() > 0.5


def test_train_fits_thresholds_where_its_calibration_images_are_enough(large_run, tmp_path):
    draw_set(tmp_path, "new", 4, SOURCES, seed=6)
    run = copy_run(large_run, tmp_path / "run")
    saved, record = json.loads((run / "calibration.json").read_text()), read_record(run)
    assert (saved["by"], saved["temperature"]) == ("train", record["temperature"])
    assert saved["checkpoint_sha256"] == record["checkpoint_sha256"]
    assert predict(run, tmp_path / "new", tmp_path / "out.csv", "target_error=.2") == 0
    decided = pd.read_csv(tmp_path / "out.csv")
    assert (decided["decision"] == decided["prediction"]).mean() > 0.5
    words = ["block=blind_test", "block.blind_test.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={run}", "split=calibration", *words]) == 0  # no user's images are among these
    assert "calibration_sha256" not in read_result(run, "calibration")["provenance"]
    assert main(["calibrate", f"ckpt={run}", "workers=0"]) == 0
    again = json.loads((run / "calibration.json").read_text())
    assert again["by"] == "calibrate"
    assert again["temperature"] == pytest.approx(saved["temperature"], rel=1e-3)
    assert [row["part"] for row in again["images"]] == [row["part"] for row in saved["images"]]


@pytest.mark.parametrize("is_written", [False, True])
def test_a_calibration_that_is_killed_between_its_files_leaves_a_whole_one(
    is_written, fit, calibrated, tmp_path, monkeypatch
):
    run, fewer = Path(shutil.copytree(calibrated, tmp_path / "run")), fit.with_name("fewer.csv")
    pd.read_csv(fit).iloc[:-20].to_csv(fewer, index=False)
    write_text = saved_calibration.write_text

    def kill(file, text):
        if is_written:
            write_text(file, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved_calibration, "write_text", kill)
        assert calibrate(run, fewer) == 130
    left = saved_calibration.read_calibration(run, with_decisions=True)
    assert left.decisions.reference is not None
    assert (left.fingerprint != saved_calibration.read_calibration(calibrated).fingerprint) == is_written
    assert calibrate(run, fewer) == 0
    assert sorted(file.name for file in run.glob("calibration*")) == ["calibration.json", "calibration.safetensors"]


def test_a_changed_calibration_is_refused(images, calibrated, tmp_path, capsys):
    run = Path(shutil.copytree(calibrated, tmp_path / "run"))
    tensors = load_file(run / "calibration.safetensors")
    save_file({**tensors, "distances": tensors["distances"] * 9}, run / "calibration.safetensors")
    assert predict(run, images / "blind", tmp_path / "out.csv", "target_error=.05") == 4
    assert "calibration.safetensors is not the one that belongs to it" in capsys.readouterr().err
    shutil.copy(calibrated / "calibration.safetensors", run)
    text = (run / "calibration.json").read_text()
    for old, new in (('"part": "reference"', '"part": "all"'), ('"probabilities": [', '"probabilities": [1, ')):
        (run / "calibration.json").write_text(text.replace(old, new, 1))
        assert predict(run, images / "blind", tmp_path / "out.csv", "target_error=.05") == 4
        assert "cannot be read" in capsys.readouterr().err

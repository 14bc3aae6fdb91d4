"""Decisions of predict: thresholds fitted by train and calibrate, costs, and what cannot be decided."""

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
from tests.conftest import SOURCES, draw_set

CLASSES = ["drawing", "generated", "real"]
PROBABILITIES = [f"prob_{name}" for name in CLASSES]
DECISIONS = ["decision", "decision_reason", "prediction_set", "ood_percentile"]


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Return the manifest of 192 labelled images in 96 groups, which no run has seen; never change them.

    A quarter of the groups are mixtures with the next class, which a run confuses.
    """
    root = tmp_path_factory.mktemp("fit")
    draw_set(root, "fit", 64, SOURCES, seed=2)
    mix_some(root, pd.read_csv(root / "fit.csv"))
    return root / "fit.csv"


def mix_some(root, table):
    others = np.roll(table["path"], -64)
    for own, other, group in zip(table["path"], others, table["group"], strict=True):
        if int(group.split(":")[-1]) % 4 == 0:
            with Image.open(root / own) as one, Image.open(root / other) as two:
                mixed = Image.blend(one.convert("RGB"), two.convert("RGB").resize(one.size), 0.5)
            mixed.save(root / own, quality=95)


@pytest.fixture(scope="module")
def calibrated(fit, tiny_run, tmp_path_factory):
    """Return a copy of the tiny run that is calibrated on `fit`; never write into it."""
    found = shutil.ignore_patterns("evaluation", "predictions")
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "calibrated", ignore=found))
    assert calibrate(run, fit) == 0
    return run


def calibrate(run, manifest, *words):
    return main(["calibrate", f"ckpt={run}", "data=manifest", f"data.manifest={manifest}", "workers=0", *words])


def predict(run, given, output, *words):
    return main(["predict", f"ckpt={run}", f"input={given}", f"output={output}", "workers=0", *words])


def read_fit(run):
    """Return the images of a calibration.json, their probabilities, and which are drawn for thresholds."""
    table = pd.DataFrame(json.loads((run / "calibration.json").read_text(encoding="utf-8"))["images"])
    drawn = draw_of_groups(table["group"]) & (table["part"] == "thresholds").to_numpy()
    return table, np.array(table["probabilities"].tolist()), drawn


def test_calibration_images_are_divided_by_group_and_keep_what_any_target_needs(fit, calibrated, tiny_run, tmp_path):
    table, probabilities, _ = read_fit(calibrated)
    assert len(table) == 192
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
    images = Run.open(calibrated).decision_calibration
    assert images is not None
    groups = table["group"].to_numpy()[is_reference]
    distances = np.sqrt(2 * cosine_distances(tensors["embeddings"].astype(np.float64)))
    distances[groups[:, None] == groups] = np.inf
    np.testing.assert_allclose(np.sort(distances, axis=1)[:, 4], tensors["distances"], atol=1e-6)


def test_decisions_follow_threshold_percentile_and_conformal_set_in_every_format(images, fit, calibrated, tmp_path):
    (tmp_path / "mine").mkdir()
    for file in [*(images / "blind").rglob("*.*"), *(fit.parent / "fit" / "real").rglob("*.*")]:
        shutil.copy(file, tmp_path / "mine" / f"{file.parent.name}{file.name}")
    for name in ("lime", "black", "cyan"):  # unlike the images of any class
        Image.new("RGB", (60, 60), name).save(tmp_path / "mine" / f"{name}.png")
    (tmp_path / "mine" / "broken.png").write_bytes(b"no image")
    plain, given = ["runtime=torch", "precision=32"], tmp_path / "mine"
    assert predict(calibrated, given, tmp_path / "plain.csv", *plain) == 3
    for ending in ("csv", "jsonl", "parquet"):
        assert predict(calibrated, given, tmp_path / f"out.{ending}", "target_error=.1", "alpha=.2") == 3
    table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert list(table) == [*pd.read_csv(tmp_path / "plain.csv"), *DECISIONS]
    lines = [line.rsplit(",", 4)[0] for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert lines == (tmp_path / "plain.csv").read_text().splitlines()  # the other columns stay as they were
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    for other in (pd.DataFrame(rows), pd.read_parquet(tmp_path / "out.parquet")):
        assert list(other) == list(table)
        for name in DECISIONS[:3]:
            assert other[name].fillna("").tolist() == table[name].tolist()
        np.testing.assert_allclose(other["ood_percentile"].astype(float), pd.to_numeric(table["ood_percentile"]))
    assert table.set_index("path").loc[str(given / "broken.png"), DECISIONS].tolist() == [""] * 4
    table = table[table["status"] == "ok"].astype({"ood_percentile": float, "confidence": float})
    assert table["decision_reason"].value_counts()["confident"] > 20
    unlike = table["ood_percentile"] > 99
    assert unlike[table["path"].str.contains("lime|black|cyan")].any()
    assert (table["decision"] == "abstain")[unlike].all()
    assert set(table.loc[unlike, "decision_reason"]) == {"unlike_training_data"}
    dataset, tensors = read_dataset(images / "blind.csv"), load_file(calibrated / "calibration.safetensors")
    distances = cosine_distances(Run.open(calibrated).predictions(dataset).embeddings, tensors["embeddings"])
    ranks = (np.sqrt(2 * np.sort(distances, axis=1)[:, 4]) >= tensors["distances"][:, None]).mean(axis=0)
    names = [str(given / f"{Path(path).parent.name}{Path(path).name}") for path in dataset.frame["path"]]
    np.testing.assert_allclose(table.set_index("path").loc[names, "ood_percentile"], 100 * ranks, atol=1.1)
    known = table[~unlike]
    sure = known["decision_reason"] == "confident"
    assert (known.loc[sure, "decision"] == known.loc[sure, "prediction"]).all()
    assert (known.loc[~sure, "decision"] == "abstain").all()
    # a confidence between those that are answered and those that are not passes the exact test
    images_of_fit, probabilities, drawn = read_fit(calibrated)
    drawn &= (images_of_fit["ood_percentile"] <= 99).to_numpy()
    scores, truth = probabilities.max(axis=1)[drawn], images_of_fit["label"].map(CLASSES.index)[drawn]
    is_answered = scores >= known.loc[sure, "confidence"].min()
    errors = int((probabilities.argmax(axis=1)[drawn] != truth)[is_answered].sum())
    assert 0 < is_answered.mean() < 1
    assert binomtest(errors, int(is_answered.sum()), 0.1, alternative="less").pvalue <= 0.1
    # sets by the quantile of split conformal prediction
    _, probabilities, drawn = read_fit(calibrated)
    probability = probabilities[np.arange(192), images_of_fit["label"].map(CLASSES.index)][drawn]
    quantile = np.sort(1 - probability)[int(np.ceil((drawn.sum() + 1) * 0.8)) - 1]
    chances = table[PROBABILITIES].astype(float).to_numpy()
    is_in = (1 - chances <= quantile) | (chances == chances.max(axis=1, keepdims=True))
    expected = ["|".join(name for name, one in zip(CLASSES, row, strict=True) if one) for row in is_in]
    assert table["prediction_set"].tolist() == expected


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["target_error=.01"], 3, "needs 230 calibration images for thresholds, one of a group; missing are 18"),
        (["target_error=.05", "per_class=true"], 3, "predicted as drawing"),
        (["target_error=.01"], 3, "avatar-bench calibrate ckpt={run} data=..."),
        (["evidence=ture"], 2, "evidence.enabled: expected true or false, got ture"),
        (["target_error=1.5"], 2, "between 0 and 1"),
        (["target_error=.05", "costs=costs.yaml"], 2, "exclude each other"),
        (["target_error=.05", "runtime=onnx"], 2, "needs embeddings"),
        (["target_error=.05", "precision=bf16"], 2, "precision=bf16"),
        (["target_error=.05", "calibrated=false"], 2, "calibrated=False"),
        (["per_class=true"], 2, "requires target_error"),
        (["alpha=.2"], 2, "requires target_error or costs"),
        (["costs=nowhere.yaml"], 2, "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_decided_is_said_and_nothing_is_written(
    words, code, message, images, calibrated, tmp_path, capsys
):
    assert predict(calibrated, images / "blind", tmp_path / "out.csv", *words) == code
    error = capsys.readouterr().err
    assert message.format(run=calibrated) in error
    assert len(error.strip().splitlines()) <= 3
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("wrong", "steps"),
    [
        (0.15, "next: label more images (avatar-bench predict ckpt={run} input=FOLDER output=review.html), or set "),
        (1, "next: train"),
    ],
)
def test_a_target_that_is_missed_names_the_next_steps(wrong, steps, fit, run_copy, tmp_path, capsys):
    table = pd.read_csv(fit)
    others = np.roll(table["label"], 64)
    table["label"] = np.where(table["group"].rank(method="dense", pct=True) <= wrong, others, table["label"])
    table["path"] = [str(fit.parent / path) for path in table["path"]]
    table.to_csv(tmp_path / "mistaken.csv", index=False)
    assert calibrate(run_copy, tmp_path / "mistaken.csv", "target_error=.05") == 0
    out, notes = capsys.readouterr()
    assert "target_error=0.05: " in out
    assert steps.format(run=run_copy) in notes


def test_too_few_images_end_with_3_in_predict_and_in_calibrate(images, fit, run_copy, tmp_path, capsys):
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.05") == 3
    assert "Calibrate it on 90 labelled images or more" in capsys.readouterr().err
    assert calibrate(run_copy, images / "blind.csv", "target_error=.05") == 3  # 42 images in 21 groups
    assert "missing are 3" in capsys.readouterr().err
    assert not list(run_copy.glob("calibration*"))
    assert calibrate(run_copy, images / "blind.csv") == 0
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.05") == 3
    assert "missing are 3" in capsys.readouterr().err
    assert calibrate(run_copy, fit, "target_error=.05") == 0
    out = capsys.readouterr().out
    assert "fitted on 96 of 192 images of fit" in out
    assert "target_error=0.05: " in out
    assert calibrate(run_copy, fit, "target_error=.3", "per_class=true") == 0
    assert "target_error=0.3 of answers real: " in capsys.readouterr().out
    saved = [run_copy / name for name in ("calibration.json", "calibration.safetensors")]
    before = [file.read_bytes() for file in saved]
    assert calibrate(run_copy, images / "blind.csv", "target_error=.05") == 3
    assert [file.read_bytes() for file in saved] == before
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.3", "per_class=true") == 0
    assert set(pd.read_csv(tmp_path / "out.csv")["decision"]) >= set(CLASSES)


def test_a_target_that_cannot_be_met_abstains_from_everything_and_says_why(images, fit, run_copy, tmp_path, capsys):
    table = pd.read_csv(fit)
    table["label"] = np.roll(table["label"], 64)  # every label is wrong
    table.to_csv(fit.parent / "wrong.csv", index=False)
    assert calibrate(run_copy, fit.parent / "wrong.csv") == 0
    capsys.readouterr()
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.05") == 0
    error = capsys.readouterr().err
    assert "A target error of 0.05 cannot be met, so that nothing is answered: " in error
    assert "of the most confident ones more than the target: more images will not help" in error
    decided = pd.read_csv(tmp_path / "out.csv")
    assert set(decided["decision"]) == {"abstain"}
    assert set(decided["decision_reason"]) <= {"unsure", "unlike_training_data"}


def test_costs_decide_as_by_hand(images, calibrated, tiny_run, tmp_path, capsys):
    costs = {
        "drawing": {"generated": 1.5, "real": 1},
        "generated": {"drawing": 4, "real": 20, "generated": 0.25},
        "real": {"drawing": 1, "generated": 9},
    }
    file = tmp_path / "costs.yaml"
    file.write_text(yaml.safe_dump({**costs, "abstain": 0.5}))
    for run in (calibrated, tiny_run):
        assert predict(run, images / "blind", tmp_path / "out.csv", f"costs={file}") == 0
        table = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
        expected = []
        for row in table.to_dict("records"):
            own = {one: sum(costs[one].get(true, 0) * row[f"prob_{true}"] for true in CLASSES) for one in CLASSES}
            expected.append(min({**own, "abstain": 0.5}.items(), key=lambda pair: pair[1])[0])
        assert table["decision"].tolist() == expected
        assert len(set(expected)) > 2
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
    words = [f"costs={file}", "view=generated_or_not"]
    assert predict(calibrated, images / "blind", tmp_path / "out.csv", *words) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    chance = table["prob_generated"]
    answer = np.where(3 * (1 - chance) < chance, "generated", "not_generated")
    assert (
        table["decision"].tolist() == np.where(np.minimum(3 * (1 - chance), chance) <= 0.2, answer, "abstain").tolist()
    )


def test_an_output_of_decisions_is_continued_only_by_the_same_decisions(images, calibrated, tmp_path, capsys):
    file, given = tmp_path / "out.csv", images / "blind"
    assert predict(calibrated, given, file, "target_error=.05") == 0
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert predict(calibrated, given, file, "target_error=.05", "update=true") == 0
    (tmp_path / "whole.csv").write_bytes(whole)
    before, after = (pd.read_csv(tmp_path / name) for name in ("whole.csv", "out.csv"))
    pd.testing.assert_frame_equal(before[DECISIONS], after[DECISIONS])
    capsys.readouterr()
    (tmp_path / "costs.yaml").write_text(
        yaml.safe_dump({name: dict.fromkeys(CLASSES, 1) for name in CLASSES} | {"abstain": 0})
    )
    assert predict(calibrated, given, file, f"costs={tmp_path / 'costs.yaml'}", "update=true") == 2
    assert "the existing decisions were made with another target_error" in capsys.readouterr().err
    assert predict(calibrated, given, file, "update=true") == 2
    assert "does not have the columns of this run" in capsys.readouterr().err


def test_a_calibration_serves_the_views_that_it_knows(images, fit, calibrated, run_copy, tmp_path, capsys):
    words = ["target_error=.1", "view=generated_or_not"]
    assert predict(calibrated, images / "blind", tmp_path / "out.csv", *words) == 0
    assert set(pd.read_csv(tmp_path / "out.csv")["decision"]) <= {"generated", "not_generated", "abstain"}
    assert calibrate(run_copy, fit, "view=generated_or_not") == 0
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", *words) == 0
    capsys.readouterr()
    assert predict(run_copy, images / "blind", tmp_path / "out.csv", "target_error=.1") == 3
    assert "was calibrated in view=generated_or_not" in capsys.readouterr().err


def test_ensembles_and_imported_predictions_decide_too(images, fit, calibrated, tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(calibrated, runs / name)
        (runs / name / "calibration.json").unlink()
    words = ["block=ensemble", "block.ensemble.soup=false", "block.ensemble.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={runs}", *words, "data=manifest", f"data.manifest={images / 'blind.csv'}"]) == 0
    ensemble = runs / "ensembles" / "soft_vote"
    assert predict(ensemble, images / "blind", tmp_path / "out.csv", "target_error=.05") == 3
    assert calibrate(ensemble, fit, "target_error=.05") == 0
    assert predict(ensemble, images / "blind", tmp_path / "out.csv", "target_error=.05") == 0
    decided = pd.read_csv(tmp_path / "out.csv")
    assert decided["ood_percentile"].between(0, 100).all()
    saved = load_file(ensemble / "calibration.safetensors")["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(saved, axis=1), np.sqrt(2), atol=1e-5)  # two members, each of length 1
    given = tmp_path / "scores.csv"
    both = tmp_path / "both.txt"
    files = [*(fit.parent / path for path in pd.read_csv(fit)["path"]), *sorted((images / "blind").rglob("*.*"))]
    both.write_text("\n".join(map(str, files)))
    assert predict(calibrated, f"@{both}", given, "precision=32", "runtime=torch") == 0
    pd.read_csv(given)[["path", *PROBABILITIES]].to_csv(given, index=False)
    assert main(["import", "kind=predictions", f"file={given}", "root=.", f"out={tmp_path / 'foreign'}"]) == 0
    assert calibrate(tmp_path / "foreign", fit) == 0
    capsys.readouterr()
    assert predict(tmp_path / "foreign", images / "blind", tmp_path / "out.csv", "target_error=.1") == 0
    assert "no image is found unlike the training data" in capsys.readouterr().err
    decided = pd.read_csv(tmp_path / "out.csv")
    assert decided["ood_percentile"].isna().all()
    assert (decided["decision"] == decided["prediction"]).mean() > 0.5


def test_train_fits_thresholds_where_its_calibration_images_are_enough(train, tmp_path, capsys):
    draw_set(tmp_path, "all", 120, SOURCES, seed=5)
    draw_set(tmp_path, "new", 10, SOURCES, seed=6)
    words = [f"data.manifest={tmp_path / 'all.csv'}", "data.blind=null", "data.split.folds=3", "epochs=4"]
    run = train(tmp_path / "run", *words)
    saved = json.loads((run / "calibration.json").read_text())
    record = json.loads((run / "run.json").read_text())
    assert (saved["by"], saved["temperature"]) == ("train", record["temperature"])
    assert saved["checkpoint_sha256"] == record["checkpoint_sha256"]
    assert predict(run, tmp_path / "new", tmp_path / "out.csv", "target_error=.2") == 0
    decided = pd.read_csv(tmp_path / "out.csv")
    assert (decided["decision"] == decided["prediction"]).mean() > 0.5
    own = ["block=blind_test", "block.blind_test.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={run}", "split=calibration", *own]) == 0  # as before: no user's images
    result = json.loads((run / "evaluation" / "calibration" / "blind_test" / "metrics.json").read_text())
    assert "calibration_sha256" not in result["provenance"]
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
    earlier = saved_calibration.read_calibration(calibrated)
    assert left is not None
    assert left.decisions is not None
    assert left.decisions.reference is not None
    assert earlier is not None
    assert (left.fingerprint != earlier.fingerprint) == is_written
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

"""Answers that change when an image is re-encoded, reduced or mirrored: predict, calibrate and decisions."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from avatar_bench.cli.app import main
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.metrics.selective import draw_of_groups, fit_answering_threshold, fit_source_threshold
from avatar_bench.runs.ensembles import describe_ensemble, open_run, save_ensemble
from avatar_bench.runs.run import Run
from tests.builders.commands import copy_run, data_of
from tests.conftest import SOURCES, draw_set

CLASSES = ["drawing", "generated", "real"]
PROBABILITIES = [f"prob_{name}" for name in CLASSES]
NEW = {"drawing": ("chalk", "brush", "pixel"), "generated": ("flow", "vae", "turbo"), "real": ("beach", "forest")}
CHANGES = {  # as a person makes them with Pillow, and the format in which the file is kept
    "jpeg": (lambda image: image, ".jpg", {"quality": 70, "subsampling": "4:2:0"}),
    "resize": (
        lambda image: image.resize([round(0.75 * side) for side in image.size], Image.Resampling.BOX),
        ".png",
        {},
    ),
    "mirror": (ImageOps.mirror, ".png", {}),
}
TORCH = ["runtime=torch", "precision=32", "workers=0"]


@pytest.fixture(scope="module")
def images_of(tiny_run, tmp_path_factory):
    """Return a folder with fit.csv, of the sources of training, and new.csv, of others.

    Every third image is the mixture with one of another class of which the run is least sure.
    """
    root, network = tmp_path_factory.mktemp("mixed"), Run.open(tiny_run).predictor
    for name, a_class, sources, seed in (("fit", 60, SOURCES, 7), ("new", 60, NEW, 5)):
        draw_set(root, name, a_class, sources, seed)
        paths = pd.read_csv(root / f"{name}.csv")["path"]
        for path, other in zip(paths[::3], np.roll(paths, -a_class - 1)[::3], strict=True):
            with Image.open(root / path) as image, Image.open(root / other) as other_image:
                pair = image.convert("RGB"), other_image.convert("RGB").resize(image.size)
            mixed = [Image.blend(*pair, share) for share in np.linspace(0.2, 0.8, 9)]
            chances = np.sort(network.predict([np.asarray(image) for image in mixed]), axis=1)
            mixed[int((chances[:, -1] - chances[:, -2]).argmin())].save(root / path, quality=95)
    return root


@pytest.fixture(scope="module")
def manifest(images_of):
    return images_of / "new.csv"


@pytest.fixture(scope="module")
def calibrated(images_of, tiny_run, tmp_path_factory):
    """Return a copy of the tiny run that knows which images of its calibrations are stable; never write into it."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("runs") / "calibrated")
    calibrate(run, images_of / "fit.csv")
    calibrate(run, images_of / "new.csv", "unit=source", "beta=.3")
    return run


@pytest.fixture(scope="module")
def table(calibrated, manifest, tmp_path_factory):
    """Return the predictions of the calibrated run on images of new sources, with their stability."""
    return predict(calibrated, manifest.parent / "new", tmp_path_factory.mktemp("out") / "table.csv", "stability=true")


def calibrate(run, manifest, *words):
    line = ["calibrate", f"ckpt={run}", *data_of(manifest), "workers=0", "stability=true", *words]
    assert main(line) == 0


def predict(run, images, output, *words):
    assert main(["predict", f"ckpt={run}", f"input={images}", f"output={output}", *TORCH, *words]) == 0
    return pd.read_csv(output, keep_default_na=False)


def change_files(files, folder):
    """Write each file under each change, and return the folder of each by name."""
    for name, (change, ending, options) in CHANGES.items():
        (folder / name).mkdir()
        for number, file in enumerate(files):
            with Image.open(file) as image:
                change(image.convert("RGB")).save(folder / name / f"{number:04}{ending}", **options)
    return {name: folder / name for name in CHANGES}


def test_columns_are_those_of_predictions_on_files_that_were_changed_by_hand(calibrated, manifest, table, tmp_path):
    plain = predict(calibrated, manifest.parent / "new", tmp_path / "plain.csv")
    assert list(table) == [*plain, "stability", "flips_on"]
    assert table[list(plain)].equals(plain)  # to the last digit
    folders = change_files(plain["path"], tmp_path)
    changed = {name: predict(calibrated, folder, tmp_path / f"{name}.csv") for name, folder in folders.items()}
    best = np.sort(changed["resize"][PROBABILITIES].to_numpy(), axis=1)
    is_clear = best[:, -1] - best[:, -2] > 0.1  # Pillow rounds the mean of pixels otherwise
    flips = pd.DataFrame({name: other["prediction"] != plain["prediction"] for name, other in changed.items()})
    expected = ["|".join(name for name in flips if row[name]) for _, row in flips.iterrows()]
    assert table["flips_on"][is_clear].tolist() == pd.Series(expected)[is_clear].tolist()
    np.testing.assert_array_equal(table["stability"][is_clear], 1 - flips.sum(axis=1)[is_clear] / 4)
    assert is_clear.mean() > 0.7
    assert table["flips_on"].nunique() > 3


@pytest.mark.parametrize(("target", "words"), [(0.2, []), (0.3, ["per_class=true"]), (0.3, ["unit=source"])])
def test_thresholds_are_fitted_on_stable_images_and_no_other_is_answered(
    target, words, calibrated, images_of, tmp_path
):
    by_source = "unit=source" in words
    name = "source_calibration.json" if by_source else "calibration.json"
    known = pd.DataFrame(json.loads((calibrated / name).read_text(encoding="utf-8"))["images"])
    (tmp_path / "files.txt").write_text("\n".join(str(images_of / path) for path in known["path"]), encoding="utf-8")
    files = f"@{tmp_path / 'files.txt'}"
    decided = predict(calibrated, files, tmp_path / "out.csv", *words, f"target_error={target}", "stability=true")
    stays = decided["flips_on"] == ""
    assert known["is_stable"].tolist() == stays.tolist()
    assert 0.5 < stays.mean() < 0.95
    chances = np.array(known["probabilities"].tolist())
    score, said = chances.max(axis=1), chances.argmax(axis=1)
    correct, counts = said == known["label"].map(CLASSES.index), (stays & (known["ood_percentile"] <= 99)).to_numpy()
    drawn, is_reference = draw_of_groups(known["group"]), (known["part"] == "reference").to_numpy()

    def fit(part):
        pilot, new = (part & drawn & side for side in (is_reference, ~is_reference))
        return fit_answering_threshold(score[pilot], correct[pilot], score[new], correct[new], target).value

    if by_source:
        least = 3 * [
            fit_source_threshold(np.where(counts, score, -np.inf), correct, known["source"], target, 0.3).value
        ]
    elif "per_class=true" in words:
        least = [fit(counts & (said == k)) for k in range(3)]
    else:
        least = 3 * [fit(counts)]
    sure = decided["confidence"] >= np.array(least)[decided["prediction"].map(CLASSES.index)]
    is_like = decided["ood_percentile"] <= 99
    assert (decided["decision"] == decided["prediction"].where(sure & is_like & stays, "abstain")).all()
    assert ((decided["decision_reason"] == "unstable") == ~stays).all()
    assert 0 < (decided["decision_reason"] == "confident").sum() <= stays.sum()
    assert " incorrect" in decided["decision_guarantee"][0]


@pytest.mark.parametrize("unit", ["image", "source"])
def test_without_known_stability_it_abstains_all_the_same_and_promises_nothing(
    unit, calibrated, manifest, table, tmp_path, capsys
):
    run = copy_run(calibrated, tmp_path / "run")
    for file in run.glob("*calibration.json"):  # as earlier versions wrote them
        saved = json.loads(file.read_text(encoding="utf-8"))
        for image in saved["images"]:
            del image["is_stable"]
        file.write_text(json.dumps(saved), encoding="utf-8")
    words = ["target_error=.3", f"unit={unit}"]
    decided = predict(run, manifest.parent / "new", tmp_path / "out.csv", *words, "stability=true")
    assert set(decided["decision_guarantee"]) == {""}
    command = f"avatar-bench calibrate ckpt=RUN data=... stability=true{' unit=source' * (unit == 'source')}\n"
    assert command in capsys.readouterr().err
    assert ((decided["decision_reason"] == "unstable") == (table["flips_on"] != "")).all()
    usual = predict(run, manifest.parent / "new", tmp_path / "usual.csv", *words)
    assert "unstable" not in set(usual["decision_reason"])
    assert decided["decision"].equals(usual["decision"].where(table["flips_on"] == "", "abstain"))
    assert set(usual["decision_guarantee"]) != {""}


def test_costs_and_a_view_decide_on_stable_answers_alone(calibrated, manifest, table, tmp_path, capsys):
    (tmp_path / "costs.yaml").write_text(
        "{generated: {other: 1}, other: {generated: 1}, abstain: .4}".replace("other", "not_generated")
    )
    words = [f"costs={tmp_path / 'costs.yaml'}", "view=generated_or_not", "stability=true"]
    decided = predict(calibrated, manifest.parent / "new", tmp_path / "out.csv", *words)
    assert ((decided["decision_reason"] == "unstable") == (decided["stability"] < 1)).all()
    merged = table["flips_on"] != ""
    assert 0 < (decided["stability"] < 1).sum() != merged.sum()  # a change from drawing to real is none here
    words = ["target_error=.3", "view=generated_or_not", "stability=true"]
    assert set(predict(calibrated, manifest.parent / "new", tmp_path / "out.csv", *words)["decision_guarantee"]) == {""}


class Sides:
    """Detector that finds "left" where the left half of an image is brighter, and "wide" beyond 60 pixels."""

    classes = ("left", "right", "wide")

    def predict(self, images):
        said = [2 if image.shape[1] > 60 else int(image[:, :10].mean() <= image[:, -10:].mean()) for image in images]
        return np.eye(3)[said]


def test_a_foreign_detector_answers_each_change_of_the_image_as_it_was_decoded(tmp_path):
    fade = np.linspace(200, 50, 70).astype(np.uint8)
    for name, row in {"fade": fade[:40], "flat": np.full(40, 90, np.uint8), "wide": fade}.items():
        Image.fromarray(np.tile(row[None, :, None], (20, 1, 3))).save(tmp_path / f"{name}.png")
    (tmp_path / "none.png").write_bytes(b"none")
    files = [str(tmp_path / f"{name}.png") for name in ("fade", "flat", "none", "wide")]
    run = Run.from_predictor(Sides())
    table = pd.concat(run.predict_files(files, stability=True), ignore_index=True)
    assert table["prediction"].fillna("").tolist() == ["left", "right", "", "wide"]
    assert table["flips_on"].fillna("no image").tolist() == ["mirror", "", "no image", "resize"]
    assert table["stability"].fillna(-1).tolist() == [0.75, 1, -1, 0.75]


def test_an_ensemble_of_networks_that_see_images_differently_answers_as_on_changed_files(run_pair, manifest, tmp_path):
    members = [Run.open(path) for path in run_pair]
    mix = AveragingWeights(np.array([0.5, 0.5]), np.ones(2))
    run = open_run(
        save_ensemble(tmp_path / "both", describe_ensemble("ensemble", members, mix, 1.0, members[0].classes))
    )
    first = run.members[0].predictor
    first.preprocessings = (replace(first.preprocessings[0], resize="pad"),)
    assert len(run.predictor.preprocessings) == 2
    files = [str(manifest.parent / path) for path in pd.read_csv(manifest)["path"][::3]]
    table = pd.concat(run.predict_files(files, stability=True), ignore_index=True)
    plain = run.predict(files, precision="32")["prediction"]
    folder = change_files(files, tmp_path)["mirror"]
    mirrored = run.predict(sorted(map(str, folder.iterdir())), precision="32")["prediction"]
    assert table["flips_on"].str.contains("mirror").tolist() == (plain != mirrored).tolist()
    assert (plain != mirrored).sum() > 0


def test_the_block_counts_the_same_stable_answers_on_each_set(calibrated, images, tmp_path):
    words = [f"ckpt={calibrated}", "block=decision", f"out={tmp_path}", "data.workers=0", "split=blind"]
    options = ["stability=true", "resamples=100", "targets=[.3]"]
    assert main(["evaluate", *words, *(f"block.decision.{option}" for option in options)]) == 0
    (folder,) = tmp_path.rglob("decision")
    table = predict(calibrated, images / "blind", tmp_path / "out.csv", "stability=true")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["stable"]["value"] == (table["stability"] == 1).mean()
    saved = pd.read_csv(folder / "stability.csv").set_index(["images", "order"])
    assert saved.loc[("stable", "stability"), "coverage"] == metrics["stable"]["value"]
    assert list(saved.loc["all"].index) == ["confidence", "averaging"]

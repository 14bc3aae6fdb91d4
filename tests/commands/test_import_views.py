"""Imported detectors with other classes than the data sets, in views that they can answer."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest

QUICK = ("block.blind_test.resamples=100", "data.workers=0")


def import_scores(images, out, columns, classes):
    """Import probabilities of the blind images, by path."""
    frame = read_manifest(images / "blind.csv").frame
    pd.DataFrame({"path": frame["path"], **columns}).to_csv(out.with_suffix(".csv"), index=False, float_format="%.17g")
    words = [f"file={out.with_suffix('.csv')}", f"root={images}", f"out={out}", f"classes={classes}"]
    assert main(["import", "kind=predictions", *words]) == 0


@pytest.fixture
def is_generated(images):
    return (read_manifest(images / "blind.csv").frame["label"] == "generated").to_numpy()


@pytest.fixture
def chance(is_generated):
    """Return probabilities that are right more often than not."""
    noise = np.random.default_rng(0).uniform(0, 0.7, len(is_generated))
    return np.where(is_generated, 0.3 + noise, 0.7 - noise)


def test_a_binary_detector_is_compared_with_a_run_in_the_view_of_both(images, run_copy, tmp_path, is_generated, chance):
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copytree(run_copy, runs / "own")
    columns = {"prob_artificial": chance, "prob_human": 1 - chance}
    import_scores(images, runs / "binary", columns, "{artificial: generated, human: [drawing, real]}")
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new"]
    assert main(["evaluate", f"ckpt={runs}", "block=[blind_test,significance]", *data, *QUICK]) == 0
    folder = runs / "binary" / "evaluation" / "new--generated_or_not" / "blind_test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(is_generated, chance > 0.5), abs=1e-9)
    assert metrics["auroc/generated"]["value"] == pytest.approx(roc_auc_score(is_generated, chance), abs=1e-9)
    assert (runs / "evaluation" / "new--generated_or_not" / "significance" / "metrics.json").is_file()
    assert main(["report", f"runs={runs}", f"out={tmp_path / 'report.html'}"]) == 0
    assert "imported: predictions, training data: unknown" in (tmp_path / "report.html").read_text()
    assert main(["evaluate", f"ckpt={runs / 'binary'}", "view=all", *data, *QUICK]) == 2


def test_classes_that_exchange_their_names_do_not_mix(images, tmp_path, is_generated, chance):
    third = np.zeros(len(chance))
    columns = {"prob_real": chance, "prob_generated": 1 - chance, "prob_drawing": third}
    import_scores(images, tmp_path / "odd", columns, "{real: generated, generated: real, drawing: drawing}")
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new"]
    assert main(["evaluate", f"ckpt={tmp_path / 'odd'}", "view=generated_or_not", *data, *QUICK]) == 0
    saved = tmp_path / "odd" / "evaluation" / "new--generated_or_not" / "blind_test" / "metrics.json"
    metrics = json.loads(saved.read_text())["metrics"]
    assert metrics["accuracy"]["value"] == pytest.approx(accuracy_score(is_generated, chance > 0.5), abs=1e-9)


def test_two_classes_that_stand_for_one_are_added_up(images, tmp_path, chance):
    columns = {"prob_gan": chance / 4, "prob_diffusion": chance * 3 / 4, "prob_human": 1 - chance}
    classes = "{gan: generated, diffusion: generated, human: [drawing, real]}"
    import_scores(images, tmp_path / "fine", columns, classes)
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new"]
    assert main(["evaluate", f"ckpt={tmp_path / 'fine'}", *data, *QUICK]) == 0
    folder = tmp_path / "fine" / "evaluation" / "new--generated_or_not" / "blind_test"
    table = pd.read_csv(folder / "predictions.csv").set_index("path")
    expected = pd.Series(chance, read_manifest(images / "blind.csv").frame["path"])
    np.testing.assert_allclose(table["prob_generated"], expected.loc[table.index], atol=1e-9)


def test_runs_of_other_classes_are_compared_in_a_view_by_default(images, run_copy, tmp_path, capsys):
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copytree(run_copy, runs / "three")
    likely = np.linspace(1, 0, 42)
    import_scores(images, runs / "two", {"prob_drawing": likely, "prob_real": 1 - likely}, "{}")
    table = pd.read_csv(images / "blind.csv").query("label != 'generated'")
    table.assign(path=[str(images / path) for path in table["path"]]).to_csv(tmp_path / "photos.csv", index=False)
    data = ["data=manifest", f"data.manifest={tmp_path / 'photos.csv'}", "data.name=blind"]
    assert main(["evaluate", f"ckpt={runs}", "block=[blind_test,significance]", *data, *QUICK]) == 0
    assert "view=photo_or_art (the finest that every run can answer)" in capsys.readouterr().err
    assert (runs / "evaluation" / "blind--photo_or_art" / "significance" / "metrics.json").is_file()

"""Tests of training on the answers of a teacher."""

import numpy as np
import pandas as pd
import pytest

from avatar_bench import load
from avatar_bench.cli.app import main
from avatar_bench.training.module import Learner
from tests.builders.commands import read_record


@pytest.fixture(scope="module")
def manifest(tiny_run, images, tmp_path_factory):
    """The images of the tiny run with its split, every second training image without its label."""
    rows = pd.read_csv(tiny_run / "split.csv").replace({"split": {"calibration": "val"}})
    rows["path"] = [str(images / path) for path in rows["path"]]
    rows.loc[rows.index[rows["split"] == "train"][::2], "label"] = ""
    file = tmp_path_factory.mktemp("student") / "student.csv"
    rows[["path", "label", "source", "group", "split"]].to_csv(file, index=False)
    return file


@pytest.fixture
def teach(small, tiny_run):
    def run(out, manifest, *words, teacher=tiny_run, code=0):
        kept = [word for word in small if word.partition("=")[0] not in ("data.split.folds", "data.manifest")]
        options = [f"data.manifest={manifest}", f"teacher={teacher}", f"out={out}", *words]
        assert main(["train", *kept, *options]) == code
        return out

    return run


@pytest.mark.slow
def test_a_student_learns_answers_without_labels_too(tiny_run, manifest, teach, tmp_path, monkeypatch, capfd):
    seen, learn_from = [], Learner._learn_from

    def spy(learner, batch):
        seen.append((batch["row"].numpy(), batch["target"].numpy()))
        return learn_from(learner, batch)

    monkeypatch.setattr(Learner, "_learn_from", spy)
    student = teach(tmp_path / "student", manifest, "epochs=6")
    used = pd.read_csv(manifest)
    used = used[used["split"] == "train"].reset_index(drop=True)
    error = capfd.readouterr().err
    assert f"on {len(used)} images, {int(used['label'].isna().sum())} of them without a label" in error
    assert "val images overlap" not in error  # those of the teacher: no cause for a warning
    answers = load(tiny_run).predict(used["path"], precision="32")
    expected = answers[[f"prob_{name}" for name in ("drawing", "generated", "real")]].to_numpy()
    rows, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    assert set(rows) == set(range(len(used)))
    np.testing.assert_allclose(targets, expected[rows], atol=1e-5)
    record = read_record(student)
    assert record["metrics"]["val/accuracy"] > 0.8
    assert record["init"]["teacher"]["sha256"] == read_record(tiny_run)["checkpoint_sha256"]
    assert main(["evaluate", f"ckpt={student}", "block=blind_test", "split=test", "data.workers=0"]) == 0
    assert main(["report", f"runs={student}"]) == 0
    assert f"teacher: {tiny_run.parent.name}/{tiny_run.name}" in (student / "report.html").read_text(encoding="utf-8")


def swap_splits(manifest, file):
    """Write a manifest whose test images are those that the teacher has learned from."""
    swapped = pd.read_csv(manifest).dropna(subset="label").replace({"split": {"train": "test", "test": "train"}})
    swapped.to_csv(file, index=False)
    return file


def test_what_trained_or_chose_a_teacher_is_no_test_set_of_its_student(manifest, teach, tiny_run, tmp_path, capfd):
    teach(tmp_path / "refused", swap_splits(manifest, tmp_path / "swapped.csv"), code=3)
    assert "test images overlap with the pretraining data of" in capfd.readouterr().err
    used = pd.read_csv(tiny_run / "split.csv")
    swapped = pd.read_csv(manifest).dropna(subset="label").query("split != 'test'")
    swapped.loc[used["split"].iloc[swapped.index].eq("calibration"), "split"] = "test"
    swapped.to_csv(tmp_path / "swapped.csv", index=False)
    teach(tmp_path / "refused", tmp_path / "swapped.csv", code=3)
    assert "24 of 24 test images overlap with the pretraining data of" in capfd.readouterr().err


@pytest.mark.slow
def test_what_trained_a_shared_teacher_is_no_test_set_of_its_student(manifest, teach, tiny_run, tmp_path, capfd):
    swap_splits(manifest, tmp_path / "swapped.csv")
    shared = tmp_path / "shared"
    assert main(["push", str(tiny_run), f"to={shared}", "licence=mit"]) == 0
    teach(tmp_path / "refused", tmp_path / "swapped.csv", teacher=shared, code=3)
    assert "48 of 48 test images overlap" in capfd.readouterr().err
    student = teach(tmp_path / "allowed", tmp_path / "swapped.csv", "allow=[pretraining]", teacher=shared)
    assert read_record(student)["init"]["teacher"]["licence"] == "mit"
    assert main(["evaluate", f"ckpt={student}", "block=blind_test", "split=test", "data.workers=0"]) == 3
    assert "pretraining" in capfd.readouterr().err


def test_a_teacher_of_other_classes_is_refused(images, teach, tmp_path, capfd):
    rows = pd.read_csv(images / "all.csv").query("label != 'real'")
    rows["path"] = [str(images / path) for path in rows["path"]]
    rows.to_csv(tmp_path / "two.csv", index=False)
    teach(tmp_path / "run", tmp_path / "two.csv", "data.split.folds=4", code=2)
    assert "has the classes drawing, generated, real, the data set drawing, generated." in capfd.readouterr().err

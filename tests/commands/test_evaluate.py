"""Evaluation as a user types it: figures, the label contract, guards and places."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from avatar_bench.cli.app import main
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run

CLASSES = ["drawing", "generated", "real"]
FEW = "block.blind_test.resamples=100"


def evaluate(run: Path, *words: str) -> int:
    return main(["evaluate", f"ckpt={run}", FEW, "data.workers=0", *words])


def result(run: Path, name: str) -> Result:
    return Result.load(run / "evaluation" / name / "blind_test")


def manifest(file: Path, table: pd.DataFrame, root: Path) -> Path:
    """Write a manifest whose images lie below another folder."""
    table.assign(path=[str(root / path) for path in table["path"]]).to_csv(file, index=False)
    return file


def namesakes(images: Path, folder: Path) -> tuple[Path, Path]:
    """Write two manifests of one file name, the second without the first three images."""
    rows = pd.read_csv(images / "blind.csv")
    first, other = (folder / place / "images.csv" for place in "ab")
    for table, part in ((first, rows), (other, rows.iloc[3:])):
        table.parent.mkdir()
        manifest(table, part, images)
    return first, other


@pytest.fixture(scope="module")
def weak_run(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is often incorrect, so that its metrics distinguish formulas."""
    return train(tmp_path_factory.mktemp("weak") / "run", "trainer.limit_batches=3", "lr=1e-3", "seed=3")


@pytest.fixture(scope="module")
def other_split(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test images are not those of the tiny run."""
    return train(tmp_path_factory.mktemp("split") / "run", "data.split.seed=5")


@pytest.fixture
def permuted(run_copy: Path, reseal: Callable[[Path], None]) -> Callable[[list[int]], Path]:
    """Reorder the outputs of a copied run's network, and leave its class names as they are."""

    def reorder(order: list[int]) -> Path:
        file = run_copy / "checkpoints" / "best.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        for name in ("net.fc.weight", "net.fc.bias"):
            checkpoint["state_dict"][name] = checkpoint["state_dict"][name][order]
        torch.save(checkpoint, file)
        reseal(file)
        return run_copy

    return reorder


@pytest.mark.parametrize("name", ["test", "blind"])
def test_figures_equal_those_that_sklearn_computes_from_the_written_predictions(
    name: str, weak_run: Path, images: Path
) -> None:
    words = [] if name == "test" else ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(weak_run, "allow=[permutation]", *words) == 0
    folder = weak_run / "evaluation" / name / "blind_test"
    figures = json.loads((folder / "metrics.json").read_text())["metrics"]
    table = pd.read_csv(folder / "predictions.csv")
    truth, guess = table["target"], table["prediction"]
    scores = table[[f"prob_{label}" for label in CLASSES]].to_numpy()
    assert 0.2 < (truth == guess).mean() < 0.99
    assert (np.array(CLASSES)[scores.argmax(axis=1)] == guess).all()
    expected = {
        "accuracy": sk.accuracy_score(truth, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, guess),
        "macro_f1": sk.f1_score(truth, guess, average="macro"),
        "mcc": sk.matthews_corrcoef(truth, guess),
    }
    for label, f1 in zip(CLASSES, sk.f1_score(truth, guess, labels=CLASSES, average=None), strict=True):
        expected[f"f1/{label}"] = f1
        expected[f"auroc/{label}"] = sk.roc_auc_score(truth == label, table[f"prob_{label}"])
    assert {key: figures[key]["value"] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_the_test_set_is_that_of_the_split_in_its_order(weak_run: Path) -> None:
    assert evaluate(weak_run, "allow=[permutation]") == 0
    split = pd.read_csv(weak_run / "split.csv")
    own = split[split["split"] == "test"].reset_index(drop=True)
    table = pd.read_csv(weak_run / "evaluation" / "test" / "blind_test" / "predictions.csv")
    assert table["path"].tolist() == own["path"].tolist()
    assert table["target"].tolist() == own["label"].tolist()


@pytest.mark.parametrize("split", ["val", "calibration", "blind"])
def test_another_set_of_the_run_is_evaluated_by_its_name(split: str, tiny_run: Path) -> None:
    assert evaluate(tiny_run, f"split={split}") == 0
    counts = json.loads((tiny_run / "run.json").read_text())["split"]["counts"] | {"blind": 42}
    assert result(tiny_run, split).n == counts[split]


def test_the_training_images_are_no_set_to_evaluate_on(tiny_run: Path, capsys: Any) -> None:
    assert evaluate(tiny_run, "split=train") == 2
    assert "do not estimate performance on new ones" in capsys.readouterr().err


def test_a_saved_result_says_where_it_comes_from(tiny_run: Path) -> None:
    assert evaluate(tiny_run) == 0
    said = json.loads((tiny_run / "evaluation" / "test" / "blind_test" / "metrics.json").read_text())
    record = json.loads((tiny_run / "run.json").read_text())
    assert (said["block"], said["schema"], said["set"], said["classes"]) == ("blind_test", 3, "test", CLASSES)
    assert said["n"] == record["split"]["counts"]["test"]
    provenance = said["provenance"]
    assert provenance["checkpoint_sha256"] == record["checkpoint_sha256"]
    assert (provenance["split"], provenance["seed"], provenance["allow"]) == ("test", 42, [])
    assert provenance["overlap_checked"] is True
    assert {"data_fingerprint", "version", "torch", "run"} <= provenance.keys()


def test_classes_are_matched_by_name_whatever_the_order_of_rows(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={images / 'blind.csv'}") == 0
    table = pd.read_csv(images / "blind.csv").sort_values("label", ascending=False, kind="stable")
    other = manifest(tmp_path / "other.csv", table, images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={other}") == 0
    given, turned = (result(tiny_run, name) for name in ("blind", "other"))
    assert given.metrics["accuracy"].value == turned.metrics["accuracy"].value > 0.9
    for name in given.metrics:
        assert turned.metrics[name].value == pytest.approx(given.metrics[name].value, abs=1e-9)


def test_a_folder_of_class_folders_gives_what_its_manifest_gives(tiny_run: Path, images: Path) -> None:
    words = ["data=folder", f"data.root={images / 'blind'}", "data.name=by_folder"]
    assert evaluate(tiny_run, *words) == 0
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={images / 'blind.csv'}") == 0
    names = ("accuracy", "macro_f1", "recall/real")
    by_folder, by_manifest = (result(tiny_run, name).metrics for name in ("by_folder", "blind"))
    assert [by_folder[name].value for name in names] == [by_manifest[name].value for name in names]


def test_a_missing_class_gives_null_figures_and_a_warning(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    table = pd.read_csv(images / "blind.csv")
    two = manifest(tmp_path / "two.csv", table[table["label"] != "generated"], images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={two}") == 0
    assert "no image of class 'generated'" in capsys.readouterr().err
    found = result(tiny_run, "two").metrics
    assert found["recall/generated"].value is None
    assert found["recall/real"].value > 0.9


def test_an_unknown_class_is_refused_by_name(tiny_run: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    table = pd.read_csv(images / "blind.csv").replace({"label": {"real": "photo"}})
    other = manifest(tmp_path / "photo.csv", table, images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={other}") == 3
    err = capsys.readouterr().err.splitlines()
    assert "'photo'" in err[0]
    assert "drawing, generated, real" in err[1]
    assert len(err) <= 3
    assert not (tiny_run / "evaluation" / "photo").exists()


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1]])
def test_a_permuted_network_raises_the_alarm_that_names_the_order(
    order: list[int], permuted: Callable[[list[int]], Path], images: Path, capsys: Any
) -> None:
    run = permuted(order)
    words = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(run, *words) == 3
    err = capsys.readouterr().err.splitlines()
    for output, row in enumerate(order):
        assert (f"{CLASSES[output]!r} is {CLASSES[row]!r}" in err[1]) == (output != row)
    assert len(err) == 3
    assert not (run / "evaluation").exists()


def test_the_alarm_can_be_passed_and_that_is_written_down(permuted: Callable[[list[int]], Path], images: Path) -> None:
    run = permuted([1, 2, 0])
    words = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(run, *words, "allow=[permutation]") == 0
    passed = result(run, "blind")
    assert passed.metrics["accuracy"].value < 0.2
    assert passed.provenance["allow"] == ["permutation"]


def test_images_seen_in_training_are_refused_by_their_bytes(tiny_run: Path, images: Path, capsys: Any) -> None:
    words = ["data=folder", f"data.root={images / 'all'}"]  # groups are the images' own hashes
    assert evaluate(tiny_run, *words) == 3
    err = capsys.readouterr().err
    assert "96 of 192 images with the training data by image" in err
    assert evaluate(tiny_run, *words, "allow=[overlap]") == 0
    passed = result(tiny_run, "all").provenance
    assert (passed["allow"], passed["overlap_checked"]) == (["overlap"], False)


@pytest.mark.parametrize("name", ["train", "val", "calibration"])
def test_what_a_folder_is_called_passes_no_guard(
    name: str, tiny_run: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    shutil.copytree(images / "all", tmp_path / name)
    assert evaluate(tiny_run, "data=folder", f"data.root={tmp_path / name}") == 3
    assert f"{name} shares 96 of 192 images with the training data by image" in capsys.readouterr().err


def test_other_images_called_like_the_runs_own_leave_its_results_alone(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    assert evaluate(tiny_run) == 0
    file = tiny_run / "evaluation" / "test" / "blind_test" / "metrics.json"
    before = file.read_bytes()
    table = tmp_path / "test.csv"
    rows = pd.read_csv(images / "blind.csv")
    rows.assign(path=[str(images / path) for path in rows["path"]]).to_csv(table, index=False)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={table}") == 0
    assert "the data set is renamed other_test" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert result(tiny_run, "other_test").n == len(rows)


def test_the_results_of_another_table_of_one_name_are_never_replaced(
    run_copy: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = pd.read_csv(images / "blind.csv")
    tables = []
    for place, part in (("a", rows), ("b", rows.iloc[3:]), ("c", rows.iloc[::-1])):
        (tmp_path / place).mkdir()
        tables.append(manifest(tmp_path / place / "images.csv", part, images))
    first, other, copy = (["data=manifest", f"data.manifest={table}"] for table in tables)
    assert evaluate(run_copy, *first) == 0
    file = run_copy / "evaluation" / "images" / "blind_test" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for words in ([], ["again=true"], ["block=prior_shift"]):  # nor do two blocks of one name tell of two sets
        assert main(["evaluate", f"ckpt={run_copy}", "data.workers=0", *other, *words]) == 2
        err = capsys.readouterr().err.splitlines()
        assert f"{file.parent.parent} already contains results for other images, from {tables[0]}." in err[0]
        assert len(err) == 3
        assert "data.name=NAME" in err[1]
    assert file.read_bytes() == before
    assert {folder.name for folder in file.parent.parent.iterdir()} == {"blind_test"}
    assert evaluate(run_copy, *other, "data.name=images_b") == 0
    assert (result(run_copy, "images").n, result(run_copy, "images_b").n) == (len(rows), len(rows) - 3)
    assert evaluate(run_copy, *copy) == 0  # the same images, wherever their table lies
    manifest(tables[2], rows.iloc[5:], images)
    assert evaluate(run_copy, *copy) == 0  # one table that has changed is the same set
    assert result(run_copy, "images").n == len(rows) - 5


def test_another_blind_set_in_place_of_the_runs_own_replaces_nothing(
    run_copy: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = pd.read_csv(images / "blind.csv")
    other = f"data.blind={manifest(tmp_path / 'other.csv', rows.iloc[3:], images)}"
    assert evaluate(run_copy, "split=blind") == 0
    assert evaluate(run_copy, "split=blind", other) == 2
    assert "out=DIR" in capsys.readouterr().err
    assert evaluate(run_copy, "split=blind", other, f"out={tmp_path / 'out'}") == 0
    assert result(run_copy, "blind").n == len(rows)


def test_the_results_of_another_split_are_never_replaced(
    run_copy: Path, weak_run: Path, other_split: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["allow=[permutation]", f"out={tmp_path / 'out'}"]
    assert evaluate(run_copy, *words) == 0
    file = tmp_path / "out" / "evaluation" / "test" / "blind_test" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for more in ([], ["block=prior_shift"]):
        assert main(["evaluate", f"ckpt={other_split}", "data.workers=0", *words, *more]) == 2
        err = capsys.readouterr().err.splitlines()
        assert err[0].endswith(f"{file.parent.parent} already contains results for other images, from {run_copy}.")
        assert (len(err), "out=DIR" in err[1]) == (3, True)
    assert file.read_bytes() == before
    assert [folder.name for folder in file.parent.parent.iterdir()] == ["blind_test"]
    assert evaluate(other_split, words[0]) == 0
    assert evaluate(weak_run, *words) == 0  # of the same split


def test_a_run_retrained_on_another_split_is_evaluated_in_its_folder(run_copy: Path, other_split: Path) -> None:
    assert evaluate(run_copy) == 0
    first = result(run_copy, "test").provenance
    shutil.copytree(other_split, run_copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("evaluation"))
    assert evaluate(run_copy, "allow=[permutation]") == 0
    assert result(run_copy, "test").provenance["data_fingerprint"] != first["data_fingerprint"]


def test_one_table_that_was_moved_or_is_named_in_another_way_is_the_same_set(
    run_copy: Path, images: Path, tmp_path: Path
) -> None:
    rows = pd.read_csv(images / "blind.csv")
    (tmp_path / "a").mkdir()
    table = manifest(tmp_path / "a" / "images.csv", rows, images)
    assert evaluate(run_copy, "data=manifest", f"data.manifest={table}") == 0
    (tmp_path / "a").rename(tmp_path / "b")
    table = tmp_path / "b" / "images.csv"
    assert evaluate(run_copy, "data=manifest", f"data.manifest={table}") == 0
    other = manifest(tmp_path / "images.csv", rows.iloc[9:], images)
    assert evaluate(run_copy, "data=manifest", f"data.manifest={other}") == 2  # it is known where they lie now
    os.symlink(tmp_path / "b", tmp_path / "c")
    ways = [table, tmp_path / "b" / ".." / "b" / "images.csv", tmp_path / "c" / "images.csv"]
    for left, way in enumerate(ways, start=1):
        manifest(table, rows.iloc[left:], images)
        assert evaluate(run_copy, "data=manifest", f"data.manifest={way}") == 0
        assert result(run_copy, "images").n == len(rows) - left


@pytest.mark.parametrize(
    "said",
    [
        {"data_places": None},
        {"compared": 3},
        {"compared": [3]},
        {"data_fingerprint": ["x"]},
        {"data_places": [3]},
        {"sets": 3},
        None,
    ],
)
def test_a_result_that_does_not_tell_its_images_stands_in_no_ones_way(
    said: dict[str, Any] | None, run_copy: Path, images: Path, tmp_path: Path
) -> None:
    first, other = namesakes(images, tmp_path)
    assert evaluate(run_copy, "data=manifest", f"data.manifest={first}") == 0
    file = run_copy / "evaluation" / "images" / "blind_test" / "metrics.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    changed = {**text["provenance"], **(said or {})}
    provenance = {key: value for key, value in changed.items() if value is not None} if said else [3]
    file.write_text(json.dumps({**text, "provenance": provenance}), encoding="utf-8")
    if said == {"sets": 3}:
        other = first
    assert evaluate(run_copy, "data=manifest", f"data.manifest={other}") == 0
    assert isinstance(result(run_copy, "images").provenance["sets"], dict)


def test_a_half_written_result_is_none(run_copy: Path, images: Path, tmp_path: Path) -> None:
    first, other = namesakes(images, tmp_path)
    assert evaluate(run_copy, "data=manifest", f"data.manifest={first}") == 0
    place = run_copy / "evaluation" / "images"
    (place / "blind_test").rename(place / ".blind_test.abc.part")
    assert Run.open(run_copy).hash_results("images") == {}
    assert evaluate(run_copy, "data=manifest", f"data.manifest={other}") == 0


def test_of_many_runs_a_refusal_comes_before_the_first_evaluation(
    run_copy: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    second = Path(shutil.copytree(run_copy, run_copy.parent / "second"))
    rows = pd.read_csv(images / "blind.csv")
    for place in "ab":
        (tmp_path / place).mkdir()
        manifest(tmp_path / place / "images.csv", rows.iloc[ord(place) - ord("a") :], images)
    assert evaluate(second, "data=manifest", f"data.manifest={tmp_path / 'a' / 'images.csv'}") == 0
    capsys.readouterr()
    both = f"[{run_copy},{second}]"
    assert main(["evaluate", f"ckpt={both}", "data=manifest", f"data.manifest={tmp_path / 'b' / 'images.csv'}"]) == 2
    assert str(second) in capsys.readouterr().err
    assert not (run_copy / "evaluation").exists()


def test_an_audit_of_another_table_of_one_name_replaces_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pd.read_csv(images / "blind.csv")
    words = ["evaluate", "block=data_audit", "data=manifest", "allow=[shortcut]"]
    for place in "ab":
        (tmp_path / place).mkdir()
        manifest(tmp_path / place / "images.csv", rows.iloc[ord(place) - ord("a") :], images)
    assert main([*words, "data.manifest=a/images.csv"]) == 0
    assert main([*words, "data.manifest=b/images.csv"]) == 2
    assert "a/images.csv" in capsys.readouterr().err
    assert Result.load(Path("runs/evaluation/images/data_audit")).n == len(rows)


def test_images_of_a_group_seen_in_training_are_refused(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    split = pd.read_csv(tiny_run / "split.csv")
    seen = split[split["split"] == "train"].iloc[0]
    with Image.open(images / seen["path"]) as image:
        image.rotate(90).save(tmp_path / "turned.png")
    table = pd.read_csv(images / "blind.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    table.loc[len(table)] = ["turned.png", seen["label"], seen["source"], seen["group"]]
    table.to_csv(tmp_path / "near.csv", index=False)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={tmp_path / 'near.csv'}") == 3
    assert "1 of 43 images with the training data by group, first turned.png" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["data.image_size=64", "data.resize=pad"])
def test_another_preprocessing_is_refused(word: str, tiny_run: Path, capsys: Any) -> None:
    assert evaluate(tiny_run, word) == 3
    assert word in capsys.readouterr().err
    assert evaluate(tiny_run, "data.image_size=32", "data.resize=squash") == 0


def test_predictions_are_kept_and_used_again(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, reseal: Callable[[Path], None]
) -> None:
    assert evaluate(run_copy) == 0
    first = result(run_copy, "test")
    calls = []
    compute = NetworkPredictor.compute_outputs
    monkeypatch.setattr(NetworkPredictor, "compute_outputs", lambda *given: calls.append(1) or compute(*given))
    assert evaluate(run_copy) == 0
    assert calls == []
    assert result(run_copy, "test").metrics == first.metrics
    file = run_copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["state_dict"]["net.fc.bias"] += 0.01
    torch.save(checkpoint, file)
    reseal(file)
    assert evaluate(run_copy) == 0
    assert calls != []  # another checkpoint, other predictions


def test_several_runs_and_a_folder_of_runs_are_evaluated_one_by_one(
    tiny_run: Path, weak_run: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["evaluate", FEW, "allow=[permutation]", "data.workers=0"]
    assert main([*words, f"ckpt=[{tiny_run},{weak_run}]", f"out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 2
    for name, run in (("a", tiny_run), ("b", weak_run)):
        shutil.copytree(run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("evaluation", "predictions"))
    assert main([*words, f"ckpt={tmp_path / 'runs'}"]) == 0
    found = {file.relative_to(tmp_path / "runs").parts[0] for file in (tmp_path / "runs").rglob("metrics.json")}
    assert found == {"a", "b"}


def test_without_ckpt_the_newest_run_is_taken_and_named(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 4
    assert "no run with a checkpoint" in capsys.readouterr().err
    for name, started in (("old", "2020"), ("new", "2021"), ("unfinished", "2022")):
        shutil.copytree(tiny_run, tmp_path / "runs" / "x" / name)
        record = json.loads((tmp_path / "runs" / "x" / name / "run.json").read_text()) | {"started": started}
        (tmp_path / "runs" / "x" / name / "run.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "runs" / "x" / "unfinished" / "checkpoints")
    assert main(["evaluate", FEW, "data.workers=0"]) == 0
    out, err = capsys.readouterr()
    assert "ckpt=runs/x/new (the newest run)" in err
    assert "runs/x/new/evaluation/test/blind_test: accuracy " in out


def test_a_checkpoint_outside_its_run_is_evaluated_on_given_data(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    bare = Path(shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt"))
    assert evaluate(bare) == 2
    assert "data=folder data.root=DIR" in capsys.readouterr().err
    words = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(bare, *words, f"out={tmp_path / 'out'}") == 0
    assert evaluate(tiny_run, *words) == 0
    alone, own = Result.load(tmp_path / "out" / "evaluation" / "blind" / "blind_test"), result(tiny_run, "blind")
    assert alone.metrics == own.metrics
    assert alone.provenance["overlap_checked"] is False


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["ckpt=nowhere"], 4, "ckpt=nowhere does not exist"),
        (["ckpt=."], 4, "is not a run and contains none"),
        (["ckpt=[RUN,RUN]", "block=significance"], 2, "is given twice"),
        (["ckpt=RUN", "block=robustnes"], 2, "block=robustnes: no such block"),
        (["ckpt=RUN", "split=blnd"], 2, "split=blnd"),
        (["ckpt=RUN", "data=folder", "data.root=nowhere"], 3, "nowhere is not a folder"),
        (["ckpt=RUN", "allow=[overlop]"], 2, "overlop"),
    ],
)
def test_a_mistake_is_told_in_three_lines_at_most(
    words: list[str], code: int, told: str, tiny_run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *(word.replace("RUN", str(tiny_run)) for word in words)]) == code
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3


def test_out_says_that_earlier_results_are_left_aside(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", f"ckpt={run_copy}", "block=error_bias", "block.error_bias.resamples=100", "data.workers=0"]
    assert main([*words, f"out={tmp_path / 'first'}"]) == 0
    assert "left aside" not in capsys.readouterr().err
    assert main(words) == 0
    for _ in range(2):  # into a new folder, and again into that
        assert main([*words, f"out={tmp_path / 'out'}"]) == 0
        assert f"out=: 1 earlier result, such as in {run_copy / 'evaluation'}, left aside" in capsys.readouterr().err


def test_a_set_with_an_awkward_name_gets_a_plain_folder(run_copy: Path, images: Path, tmp_path: Path) -> None:
    name = "мой набор, x=1"
    shutil.copytree(images / "blind", tmp_path / name)
    words = ["data=folder", f"data.root={tmp_path / name}", "block.blind_test.resamples=100"]
    assert main(["evaluate", f"ckpt={run_copy}", *words]) == 0
    assert (run_copy / "evaluation" / "мой_набор_x_1" / "blind_test" / "metrics.json").is_file()
    assert Run.open(run_copy).results("blind_test", name).set == name


AUDIT = ("block.data_audit.resamples=100", "block.data_audit.label_errors=false", "block.data_audit.equalised=false")


@pytest.fixture
def told_by_format(tmp_path: Path) -> Path:
    """A folder of class folders whose file formats reveal the classes."""
    rng = np.random.default_rng(0)
    for label, ending in (("drawing", "png"), ("real", "jpg")):
        for number in range(20):
            file = tmp_path / "told" / label / f"{number}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return tmp_path / "told"


def test_data_is_audited_without_a_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no runs
    words = ["block=data_audit", *AUDIT, "data=manifest", f"data.manifest={images / 'all.csv'}", "allow=[shortcut]"]
    assert main(["evaluate", *words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("runs/evaluation/all/data_audit: metadata_auroc ")
    assert "is this set suitable for evaluating classifiers?" in err
    found = Result.load(tmp_path / "runs" / "evaluation" / "all" / "data_audit")
    assert found.n == 192
    assert found.provenance["allow"] == ["shortcut"]
    assert {"assessment", "data_fingerprint", "version"} <= found.provenance.keys()
    assert not {"run", "checkpoint_sha256"} & found.provenance.keys()


def test_an_audit_that_says_no_is_saved_and_then_fails(
    told_by_format: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "block=data_audit", *AUDIT, "data=folder", f"data.root={told_by_format}"]
    assert main([*words, f"out={tmp_path / 'out'}"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "told is unsuitable for evaluation: the file alone" in lines[-3]
    assert "allow=[shortcut]" in lines[-1]
    folder = tmp_path / "out" / "evaluation" / "told" / "data_audit"
    assert Result.load(folder).provenance["assessment"]["suitable"] == "no"
    assert main([*words, f"out={tmp_path / 'out'}", "allow=[shortcut]"]) == 0
    assert Result.load(folder).provenance["allow"] == ["shortcut"]


def test_an_audit_without_sources_says_what_it_could_not_check(
    told_by_format: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (told_by_format / "drawing").iterdir():
        Image.open(file).convert("L").convert("RGB").save(file.with_suffix(".jpg"))
        file.unlink()
    words = ["evaluate", "block=data_audit", *AUDIT, "data=folder", f"data.root={told_by_format}"]
    assert main([*words, f"out={tmp_path / 'out'}"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "classifiers? with care: not checked: no source of drawing, real is known" in told


def test_run_blocks_and_data_blocks_run_together(
    run_copy: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["block=[blind_test,data_audit]", *AUDIT, "allow=[shortcut,near_duplicates]"]
    assert evaluate(run_copy, *words, "data=manifest", f"data.manifest={images / 'blind.csv'}") == 0
    evaluated = Result.load(run_copy / "evaluation" / "blind" / "blind_test")
    audited = Result.load(tmp_path / "runs" / "evaluation" / "blind" / "data_audit")
    assert evaluated.n == audited.n == 42
    assert "checkpoint_sha256" in evaluated.provenance


def test_a_data_block_takes_the_runs_own_data_where_no_other_is_named(run_copy: Path) -> None:
    words = ["block=data_audit", *AUDIT, "split=val", "allow=[shortcut]"]
    assert main(["evaluate", f"ckpt={run_copy}", *words]) == 0
    found = Result.load(run_copy / "evaluation" / "val" / "data_audit")
    assert found.provenance["split"] == "val"


CONSTANT = """
from dataclasses import dataclass
from avatar_bench.evaluation.block import RunBlock
from avatar_bench.results.result import Metric, Result

@dataclass(kw_only=True)
class Constant(RunBlock):
    version = 1
    number: float = 2.0

    def evaluate(self, run, dataset):
        result = Result("constant", dataset.name, len(dataset), run.classes)
        result.metrics = {"number": Metric(self.number, len(run.predictions(dataset)))}
        return result
"""


@pytest.fixture
def own_block(tmp_path: Path) -> Path:
    """A user's folder with a block of its own."""
    return write_block(tmp_path / "own" / "block" / "constant", CONSTANT).parent


def write_block(folder: Path, code: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(code)
    (folder / "about.yaml").write_text("title: a number\nkind: run\n")
    return folder


@pytest.mark.parametrize("way", ["-cd", "variable"])
def test_a_block_of_a_user_is_a_folder_of_code_and_about_yaml(
    way: str, own_block: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-cd", str(own_block.parent)] if way == "-cd" else []
    if way == "variable":
        monkeypatch.setenv("AVATAR_BENCH_CONF", str(own_block.parent))
    asked = ["block=constant", "block.constant.number=3", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", *words, f"ckpt={tiny_run}", *asked]) == 0
    assert Result.load(tmp_path / "out" / "evaluation" / "test" / "constant").metrics["number"].value == 3


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("x = (", "SyntaxError"),
        ("x = 1", "must define one public dataclass"),
    ],
)
def test_a_users_block_that_cannot_be_used_is_told_in_lines(
    body: str, told: str, own_block: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_block(own_block / "constant", body)
    assert main(["evaluate", "-cd", str(own_block.parent), f"ckpt={tiny_run}", "block=constant"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert str(Path("constant", "__init__.py")) in lines[0]
    assert told in lines[0]


def test_a_result_that_would_come_out_the_same_is_kept(
    run_copy: Path, own_block: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "-cd", str(own_block.parent), f"ckpt={run_copy}", "block=constant"]
    file = run_copy / "evaluation" / "test" / "constant" / "metrics.json"

    def evaluated(*more: str) -> bool:
        before = file.stat().st_mtime_ns if file.exists() else 0
        assert main([*words, *more]) == 0
        kept = "already there" in capsys.readouterr().out
        assert kept == (before == file.stat().st_mtime_ns)
        return not kept

    assert evaluated()
    assert not evaluated()
    assert evaluated("again=true")
    assert evaluated("block.constant.number=4")
    assert not evaluated("block.constant.number=4", "lang=ru")
    write_block(own_block / "constant", CONSTANT.replace("self.number, len", "-self.number, len"))
    assert evaluated("block.constant.number=4", "lang=ru")
    assert Result.load(file.parent).metrics["number"].value == -4
    file.write_text("{")
    assert evaluated("block.constant.number=4", "lang=ru")


def test_a_result_that_lacks_a_file_is_made_again(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run_copy) == 0
    folder = run_copy / "evaluation" / "test" / "blind_test"
    for name, is_drawn_alone in (("confusion.csv", False), ("confusion.png", True)):
        (folder / name).unlink()
        capsys.readouterr()
        assert evaluate(run_copy) == 0
        assert ("already there" in capsys.readouterr().out) == is_drawn_alone
        assert (folder / name).is_file()


def test_a_slice_of_the_images_is_evaluated_alone(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run_copy) == 0
    table = result(run_copy, "test").tables["predictions"]
    source = table["source"].iat[0]
    assert evaluate(run_copy, f"where.source={source}") == 0
    sliced = result(run_copy, f"test_source_{source}")
    own = table[table["source"] == source]
    assert sliced.n == len(own)
    assert sliced.metrics["accuracy"].value == pytest.approx(own["correct"].mean())
    assert evaluate(run_copy, "where.source=nobody") == 2
    assert "Available: " in capsys.readouterr().err


def test_a_block_that_cannot_be_used_ends_the_command_where_it_was_asked_for(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"ckpt={run_copy}", "block=out_of_domain"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert "out" in lines[0]


def test_a_list_of_blocks_runs_to_its_end_and_then_ends_with_three(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "block=[out_of_domain,significance,ensemble,architecture]"
    assert main(["evaluate", f"ckpt={run_copy}", words, "data.workers=0"]) == 3
    out, err = capsys.readouterr()
    place = run_copy / "evaluation" / "test"
    assert Result.load_if_complete(place / "architecture")
    assert out.splitlines()[-1] == f"results: 1 written, 3 skipped, in {place}"
    lines = err.splitlines()
    assert len(lines) == 2  # a line for each reason
    assert lines[0].startswith(f"{place / 'out_of_domain'}: ")
    both = f"{run_copy.parent / 'evaluation' / 'test' / 'significance'}, "
    assert lines[1].startswith(both + str(run_copy.parent / "evaluation" / "test" / "ensemble: This block compares"))


def test_of_several_runs_all_that_can_be_had_is_written_whatever_cannot(
    run_copy: Path, weak_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both, out = f"ckpt=[{run_copy},{weak_run}]", tmp_path / "out"
    assert main(["evaluate", both, "block=[out_of_domain,architecture,overview]", f"out={out}", "data.workers=0"]) == 3
    err = capsys.readouterr().err.splitlines()
    reason, *advice = (line for line in err if "warning" not in line and not line.startswith("out=: "))
    assert len(advice) < 3
    assert reason.count("evaluation/test/out_of_domain") == 2
    assert sorted(file.parent.name for file in out.rglob("metrics.json")) == [
        "architecture",
        "architecture",
        "overview",
    ]


def test_a_warning_is_told_once_with_the_runs_and_blocks_that_it_is_of(
    run_copy: Path, weak_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"ckpt=[{run_copy},{weak_run}]", "split=blind", f"out={tmp_path / 'out'}", FEW, "data.workers=0"]
    assert main(["evaluate", *words, "allow=[permutation]"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "14 images of class 'real'" in line]
    (line,) = told
    assert line.startswith(f"warning: {run_copy}, {weak_run}: blind_test: The set has only 14 images")


def test_out_mirrors_the_folders_of_the_runs_and_the_report_finds_what_is_there(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / place for place in ("x/run", "y/x/run")]
    for run in runs:  # of one name, in folders of one name
        shutil.copytree(run_copy, run)
    out = tmp_path / "out"
    words = [f"ckpt=[{runs[0]},{runs[1]}]", "block=[architecture,overview]", f"out={out}", "data.workers=0"]
    assert main(["evaluate", *words]) == 0
    places = {str(file.parent.relative_to(out)) for file in out.rglob("metrics.json")}
    assert places == {
        *("x/run/evaluation/test/architecture", "y/x/run/evaluation/test/architecture"),
        "evaluation/test/overview",
    }
    assert main(["evaluate", f"ckpt={runs[0]}", "block=architecture", f"out={tmp_path / 'one'}"]) == 0
    assert (tmp_path / "one" / "evaluation" / "test" / "architecture" / "metrics.json").is_file()
    capsys.readouterr()
    for place, told in ((out, "2 runs, nothing missing"), (tmp_path / "one", "1 run, nothing missing")):
        assert main(["report", f"runs={place}"]) == 0
        assert told in capsys.readouterr().out


def test_two_checkpoints_of_one_run_are_refused_where_they_would_write_to_one_folder(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ["evaluate", f"ckpt=[{run_copy},{run_copy / 'checkpoints' / 'last.ckpt'}]", "block=architecture"]
    assert main(two) == 2
    err = capsys.readouterr().err
    assert f"last.ckpt would both write to {run_copy / 'evaluation'}" in err
    assert "out=DIR" in err
    assert main([*two, f"out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 2
    assert main(["evaluate", f"ckpt=[{run_copy},{run_copy.parent / '.' / run_copy.name}/]"]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_block_all_goes_on_without_the_blocks_that_cannot_be_used(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "faces" / "real"
    images.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(images / f"{number}.png")
    words = ["block=[blind_test,out_of_domain]", "skip_unusable=true", FEW]
    shutil.move(run_copy / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt")
    asked = ["data=folder", f"data.root={images.parent}", f"out={tmp_path / 'out'}", "data.workers=0"]
    assert main(["evaluate", f"ckpt={tmp_path / 'bare.ckpt'}", *words, *asked]) == 0
    told = capsys.readouterr()
    left_out = [line for line in told.err.splitlines() if line.startswith("skipped: ")]
    assert [Path(line.split(": ")[1]).name for line in left_out] == ["out_of_domain"]
    assert told.out.splitlines()[-1] == f"results: 1 written, 1 skipped, in {tmp_path / 'out' / 'evaluation' / 'faces'}"
    assert Result.load(tmp_path / "out" / "evaluation" / "faces" / "blind_test").n == 4


def test_block_all_takes_in_the_blocks_of_users(
    run_copy: Path, own_block: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "-cd", str(own_block.parent), f"ckpt={run_copy}"]
    monkeypatch.setattr(
        "avatar_bench.evaluation.runner.BlockRunner.__call__", lambda runner, name, block, writer: named.append(name)
    )
    monkeypatch.setattr("avatar_bench.commands.evaluate._refuse_failed_audits", lambda *_: None)
    named: list[str] = []
    assert main([*words, "block=all"]) == 0
    assert {"constant", "blind_test", "architecture"} <= set(named)
    assert named.count("constant") == 1
    named.clear()
    assert main([*words, "block=blind_test"]) == 0
    assert named == ["blind_test"]


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("clusters", CONSTANT, "avatar_bench already has a block clusters"),
        ("lonely", None, "block=lonely: no such block"),
        ("constant", CONSTANT.replace("self.number, len", "1 / 0, len"), "ZeroDivisionError"),
        ("constant", CONSTANT.replace("return result", "return 3"), "it returned int, not a Result"),
    ],
)
def test_what_is_wrong_with_a_users_block_is_told_by_its_name(
    name: str,
    body: str | None,
    told: str,
    own_block: Path,
    tiny_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = write_block(own_block / name, body or "") / "__init__.py"
    if body is None:
        code.unlink()
    words = ["-cd", str(own_block.parent), f"ckpt={tiny_run}", f"block={name}", "again=true"]
    assert main(["evaluate", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert name in lines[0]
    assert told in lines[0]


def test_a_mistyped_block_of_a_user_is_suggested(
    own_block: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "-cd", str(own_block.parent), f"ckpt={tiny_run}", "block=constnat"]) == 2
    told, there_are = capsys.readouterr().err.splitlines()
    assert told == "block=constnat: no such block; did you mean constant?"
    assert {"constant", "blind_test"} <= set(there_are.split())


def test_a_checkpoint_without_its_run_is_evaluated_with_a_warning(
    tiny_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt")
    asked = ["data=manifest", f"data.manifest={images / 'blind.csv'}", f"out={tmp_path / 'out'}"]
    assert evaluate(Path(bare), *asked) == 0
    found = Result.load(tmp_path / "out" / "evaluation" / "blind" / "blind_test")
    assert Reason("training_images_unknown", file="bare.ckpt") in found.warnings
    assert "bare.ckpt is not in a run folder" in capsys.readouterr().err


def test_a_copied_run_keeps_its_results(run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run_copy) == 0
    other = shutil.copytree(run_copy, tmp_path / "other place")
    assert evaluate(other) == 0
    assert "already there" in capsys.readouterr().out.splitlines()[-1]


def test_damaged_predictions_are_made_again(run_copy: Path) -> None:
    assert evaluate(run_copy) == 0
    before = result(run_copy, "test").metrics["accuracy"]
    for file in (run_copy / "predictions").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert evaluate(run_copy, "again=true") == 0
    assert result(run_copy, "test").metrics["accuracy"] == before


@pytest.mark.parametrize(
    ("given", "code", "told"),
    [
        ("{my cats: x}", 2, "'my cats'"),
        ("{x}", 2, "'x'"),
        ('{"cats": /no/such}', 3, "data.ood.cats: /no/such does not exist"),
        ("{test: x}", 2, "data.ood.test"),
    ],
)
def test_a_set_that_cannot_be_read_is_told_by_its_name(
    given: str, code: int, told: str, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"ckpt={tiny_run}", "block=out_of_domain", f"data.ood={given}"]) == code
    assert told in capsys.readouterr().err


def test_each_folder_in_one_is_an_out_of_domain_set(tiny_run: Path, images: Path, tmp_path: Path) -> None:
    for name in ("obj", "simpsons", ".hidden"):
        shutil.copytree(images / "blind" / "drawing" / "new-drawing", tmp_path / "sets" / name)
    words = ["block=out_of_domain", f"data.ood_root={tmp_path / 'sets'}", f"out={tmp_path / 'out'}", "data.workers=0"]
    assert main(["evaluate", f"ckpt={tiny_run}", *words]) == 0
    table = pd.read_csv(tmp_path / "out" / "evaluation" / "test" / "out_of_domain" / "sets.csv", keep_default_na=False)
    assert table[["set", "kind"]].values.tolist() == [["test", "in_domain"], ["obj", "far"], ["simpsons", "shifted"]]


@pytest.mark.parametrize(
    ("name", "code", "told"), [("my cats", 2, "'my cats' is not a valid name"), ("test", 2, "'test'")]
)
def test_a_folder_that_cannot_name_a_set_is_told(
    name: str, code: int, told: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).mkdir()
    assert main(["evaluate", f"ckpt={tiny_run}", "block=out_of_domain", f"data.ood_root={tmp_path}"]) == code
    assert told in capsys.readouterr().err


def test_an_ood_root_that_is_missing_is_told(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", f"ckpt={tiny_run}", "block=out_of_domain", "data.ood_root=/no/such"]) == 3
    assert "/no/such: cannot be read" in capsys.readouterr().err


def test_an_unknown_block_in_a_list_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "block=[calibration,robustnes]"]) == 2
    assert "did you mean robustness?" in capsys.readouterr().err


def test_a_kept_result_does_not_hide_that_a_set_has_gone(run_copy: Path, tmp_path: Path, capsys: Any) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    rng = np.random.default_rng(3)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(faces / f"{number}.png")
    words = ["block=[out_of_domain,architecture]", "skip_unusable=true", f"data.ood={{faces: {faces}}}"]
    few = ["block.out_of_domain.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={run_copy}", *words, *few]) == 0
    shutil.rmtree(faces)
    assert main(["evaluate", f"ckpt={run_copy}", *words, *few]) == 0
    told = capsys.readouterr()
    assert "skipped" in told.err
    assert "faces" in told.err


def test_a_renamed_source_is_evaluated_again(run_copy: Path, images: Path, tmp_path: Path) -> None:
    table = pd.read_csv(images / "blind.csv")
    words = ["data=manifest", f"data.manifest={tmp_path / 'ours.csv'}", f"out={tmp_path / 'out'}"]
    for source in ("one", "other"):
        manifest(tmp_path / "ours.csv", table.assign(source=source), images)
        assert evaluate(run_copy, *words) == 0
        found = Result.load(tmp_path / "out" / "evaluation" / "ours" / "blind_test")
        assert set(found.tables["per_source"]["source"]) == {source}

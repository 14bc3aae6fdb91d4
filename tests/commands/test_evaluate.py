"""Evaluation as a user types it: figures, the label contract, guards and places."""

import json
import os
import shutil
from pathlib import Path

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


def evaluate(run, *words):
    return main(["evaluate", f"ckpt={run}", FEW, "data.workers=0", *words])


def count(run, *words):
    """Evaluate by the quickest block, which returns the number of images."""
    return main(["evaluate", f"ckpt={run}", "block=constant", "data.workers=0", *words])


def result(run, name, block="blind_test"):
    return Result.load(run / "evaluation" / name / block)


def manifest(file, table, root):
    """Write a manifest whose images lie below another folder."""
    table.assign(path=[str(root / path) for path in table["path"]]).to_csv(file, index=False)
    return file


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
SIZE = """
from dataclasses import dataclass
from avatar_bench.evaluation.block import DatasetBlock
from avatar_bench.results.result import Metric, Result

@dataclass(kw_only=True)
class Size(DatasetBlock):
    version = 1

    def audit(self, dataset):
        result = Result("size", dataset.name, len(dataset), dataset.classes)
        result.metrics = {"number": Metric(float(len(dataset)), len(dataset))}
        return result
"""


def write_block(conf, name, code, kind="run"):
    folder = conf / "block" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(code)
    (folder / "about.yaml").write_text(f"title: a number\nkind: {kind}\n")
    return conf


@pytest.fixture(scope="module", autouse=True)
def quick_blocks(tmp_path_factory):
    """A user's folder with two blocks that take no time: constant reads a run, size a data set."""
    conf = tmp_path_factory.mktemp("conf")
    write_block(conf, "constant", CONSTANT)
    write_block(conf, "size", SIZE, "dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_BENCH_CONF", str(conf))
        yield


def namesakes(images, folder):
    """Write two manifests of one file name, the second without the first three images."""
    rows = pd.read_csv(images / "blind.csv")
    first, other = (folder / place / "images.csv" for place in "ab")
    for table, part in ((first, rows), (other, rows.iloc[3:])):
        table.parent.mkdir()
        manifest(table, part, images)
    return first, other


@pytest.fixture(scope="module")
def weak_run(train, tmp_path_factory):
    """A run that is often incorrect, so that its metrics distinguish formulas."""
    return train(tmp_path_factory.mktemp("weak") / "run", "trainer.limit_batches=3", "lr=1e-3", "seed=3")


@pytest.fixture(scope="module")
def other_split(train, tmp_path_factory):
    """A run whose test images are not those of the tiny run."""
    return train(tmp_path_factory.mktemp("split") / "run", "data.split.seed=5")


@pytest.fixture
def permuted(run_copy, reseal):
    """Reorder the outputs of a copied run's network, and leave its class names as they are."""

    def reorder(order):
        file = run_copy / "checkpoints" / "best.ckpt"
        checkpoint = torch.load(file, weights_only=True)
        for name in ("net.fc.weight", "net.fc.bias"):
            checkpoint["state_dict"][name] = checkpoint["state_dict"][name][order]
        torch.save(checkpoint, file)
        reseal(file)
        return run_copy

    return reorder


def test_figures_equal_those_that_sklearn_computes_from_the_written_predictions(weak_run):
    assert evaluate(weak_run, "allow=[permutation]") == 0
    folder = weak_run / "evaluation" / "test" / "blind_test"
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
    split = pd.read_csv(weak_run / "split.csv")
    own = split[split["split"] == "test"]  # in this order
    assert table["path"].tolist() == own["path"].tolist()
    assert table["target"].tolist() == own["label"].tolist()


def test_another_set_of_the_run_is_evaluated_by_its_name(tiny_run):
    counts = json.loads((tiny_run / "run.json").read_text())["split"]["counts"] | {"blind": 42}
    for split in ("val", "calibration", "blind"):
        assert count(tiny_run, f"split={split}") == 0
        assert result(tiny_run, split, "constant").n == counts[split]


def test_a_saved_result_says_where_it_comes_from(tiny_run):
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


def test_rows_in_another_order_and_class_folders_give_the_same_figures(tiny_run, images, tmp_path):
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={images / 'blind.csv'}") == 0
    table = pd.read_csv(images / "blind.csv").sort_values("label", ascending=False, kind="stable")
    other = manifest(tmp_path / "other.csv", table, images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={other}") == 0
    assert evaluate(tiny_run, "data=folder", f"data.root={images / 'blind'}", "data.name=by_folder") == 0
    given, turned, by_folder = (result(tiny_run, name) for name in ("blind", "other", "by_folder"))
    assert given.metrics["accuracy"].value == turned.metrics["accuracy"].value > 0.9
    for name in given.metrics:
        assert turned.metrics[name].value == pytest.approx(given.metrics[name].value, abs=1e-9)
    for name in ("accuracy", "macro_f1", "recall/real"):
        assert by_folder.metrics[name].value == given.metrics[name].value


def test_a_missing_class_gives_null_figures_and_a_warning(tiny_run, images, tmp_path, capsys):
    table = pd.read_csv(images / "blind.csv")
    two = manifest(tmp_path / "two.csv", table[table["label"] != "generated"], images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={two}") == 0
    assert "no image of class 'generated'" in capsys.readouterr().err
    metrics = result(tiny_run, "two").metrics
    assert metrics["recall/generated"].value is None
    assert metrics["recall/real"].value > 0.9


def test_an_unknown_class_is_refused_by_name(tiny_run, images, tmp_path, capsys):
    table = pd.read_csv(images / "blind.csv").replace({"label": {"real": "photo"}})
    other = manifest(tmp_path / "photo.csv", table, images)
    assert evaluate(tiny_run, "data=manifest", f"data.manifest={other}") == 3
    err = capsys.readouterr().err.splitlines()
    assert "'photo'" in err[0]
    assert "drawing, generated, real" in err[1]
    assert len(err) <= 3
    assert not (tiny_run / "evaluation" / "photo").exists()


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]])
def test_a_permuted_network_raises_the_alarm_that_names_the_order_until_it_is_allowed(order, permuted, images, capsys):
    run = permuted(order)
    words = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(run, *words) == 3
    err = capsys.readouterr().err.splitlines()
    for output, row in enumerate(order):
        assert (f"{CLASSES[output]!r} is {CLASSES[row]!r}" in err[1]) == (output != row)
    assert len(err) == 3
    assert not (run / "evaluation").exists()
    assert evaluate(run, *words, "allow=[permutation]") == 0
    passed = result(run, "blind")
    kept = sum(output == row for output, row in enumerate(order))
    assert passed.metrics["accuracy"].value < 0.2 + kept / 3
    assert passed.provenance["allow"] == ["permutation"]


@pytest.mark.parametrize("name", ["all", "val"])  # what a folder is called passes no guard
def test_images_seen_in_training_are_refused_by_their_bytes(name, run_copy, images, tmp_path, capsys):
    (tmp_path / name).symlink_to(images / "all")
    words = ["data=folder", f"data.root={tmp_path / name}"]  # groups are the images' own hashes
    assert count(run_copy, *words) == 3
    assert f"{name} shares 96 of 192 images with the training data by image" in capsys.readouterr().err
    assert count(run_copy, *words, "allow=[overlap]") == 0
    (saved,) = (run_copy / "evaluation").rglob("metrics.json")
    passed = Result.load(saved.parent).provenance
    assert (passed["allow"], passed["overlap_checked"]) == (["overlap"], False)


def test_other_images_called_like_the_runs_own_leave_its_results_alone(tiny_run, images, tmp_path, capsys):
    assert count(tiny_run) == 0
    file = tiny_run / "evaluation" / "test" / "constant" / "metrics.json"
    before = file.read_bytes()
    table = tmp_path / "test.csv"
    rows = pd.read_csv(images / "blind.csv")
    rows.assign(path=[str(images / path) for path in rows["path"]]).to_csv(table, index=False)
    assert count(tiny_run, "data=manifest", f"data.manifest={table}") == 0
    assert "the data set is renamed other_test" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert result(tiny_run, "other_test", "constant").n == len(rows)


def test_the_results_of_another_table_of_one_name_are_never_replaced(run_copy, images, tmp_path, capsys):
    rows = pd.read_csv(images / "blind.csv")
    tables = []
    for place, part in (("a", rows), ("b", rows.iloc[3:]), ("c", rows.iloc[::-1])):
        (tmp_path / place).mkdir()
        tables.append(manifest(tmp_path / place / "images.csv", part, images))
    first, other, copy = (["data=manifest", f"data.manifest={table}"] for table in tables)
    assert count(run_copy, *first) == 0
    file = run_copy / "evaluation" / "images" / "constant" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for words in ([], ["again=true"], ["block=prior_shift"]):  # nor do two blocks of one name tell of two sets
        assert main(["evaluate", f"ckpt={run_copy}", "data.workers=0", *other, *words]) == 2
        err = capsys.readouterr().err.splitlines()
        assert f"{file.parent.parent} already contains results for other images, from {tables[0]}." in err[0]
        assert len(err) == 3
        assert "data.name=NAME" in err[1]
    assert file.read_bytes() == before
    assert {folder.name for folder in file.parent.parent.iterdir()} == {"constant"}
    assert count(run_copy, *other, "data.name=images_b") == 0
    assert (result(run_copy, "images", "constant").n, result(run_copy, "images_b", "constant").n) == (
        len(rows),
        len(rows) - 3,
    )
    assert count(run_copy, *copy) == 0  # the same images, wherever their table lies
    manifest(tables[2], rows.iloc[5:], images)
    assert count(run_copy, *copy) == 0  # one table that has changed is the same set
    assert result(run_copy, "images", "constant").n == len(rows) - 5


def test_the_results_of_another_split_are_never_replaced(run_copy, weak_run, other_split, tmp_path, capsys):
    words = ["allow=[permutation]", f"out={tmp_path / 'out'}"]
    assert count(run_copy, *words) == 0
    file = tmp_path / "out" / "evaluation" / "test" / "constant" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for more in ([], ["block=prior_shift"]):
        assert main(["evaluate", f"ckpt={other_split}", "data.workers=0", *words, *more]) == 2
        err = capsys.readouterr().err.splitlines()
        assert err[0].endswith(f"{file.parent.parent} already contains results for other images, from {run_copy}.")
        assert (len(err), "out=DIR" in err[1]) == (3, True)
    assert file.read_bytes() == before
    assert [folder.name for folder in file.parent.parent.iterdir()] == ["constant"]
    assert count(other_split, words[0]) == 0
    assert count(weak_run, *words) == 0  # of the same split


def test_one_table_that_was_moved_or_is_named_in_another_way_is_the_same_set(run_copy, images, tmp_path):
    rows = pd.read_csv(images / "blind.csv")
    (tmp_path / "a").mkdir()
    table = manifest(tmp_path / "a" / "images.csv", rows, images)
    assert count(run_copy, "data=manifest", f"data.manifest={table}") == 0
    (tmp_path / "a").rename(tmp_path / "b")
    table = tmp_path / "b" / "images.csv"
    assert count(run_copy, "data=manifest", f"data.manifest={table}") == 0
    other = manifest(tmp_path / "images.csv", rows.iloc[9:], images)
    assert count(run_copy, "data=manifest", f"data.manifest={other}") == 2  # it is known where they lie now
    os.symlink(tmp_path / "b", tmp_path / "c")
    ways = [table, tmp_path / "b" / ".." / "b" / "images.csv", tmp_path / "c" / "images.csv"]
    for left, way in enumerate(ways, start=1):
        manifest(table, rows.iloc[left:], images)
        assert count(run_copy, "data=manifest", f"data.manifest={way}") == 0
        assert result(run_copy, "images", "constant").n == len(rows) - left


@pytest.mark.parametrize("said", [{"data_places": None}, {"compared": [3]}, {"sets": 3}, None])
def test_a_result_that_does_not_tell_its_images_stands_in_no_ones_way(said, run_copy, images, tmp_path):
    first, other = namesakes(images, tmp_path)
    assert count(run_copy, "data=manifest", f"data.manifest={first}") == 0
    file = run_copy / "evaluation" / "images" / "constant" / "metrics.json"
    text = json.loads(file.read_text(encoding="utf-8"))
    changed = {**text["provenance"], **(said or {})}
    provenance = {key: value for key, value in changed.items() if value is not None} if said else [3]
    file.write_text(json.dumps({**text, "provenance": provenance}), encoding="utf-8")
    if said == {"sets": 3}:
        other = first
    assert count(run_copy, "data=manifest", f"data.manifest={other}") == 0
    assert isinstance(result(run_copy, "images", "constant").provenance["sets"], dict)


def test_images_of_a_group_seen_in_training_are_refused(tiny_run, images, tmp_path, capsys):
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


def test_another_preprocessing_is_refused(tiny_run, capsys):
    for word in ("data.image_size=64", "data.resize=pad"):
        assert count(tiny_run, word) == 3
        assert word in capsys.readouterr().err
    assert count(tiny_run, "data.image_size=32", "data.resize=squash") == 0


def test_predictions_are_kept_and_used_again(run_copy, monkeypatch, reseal):
    assert evaluate(run_copy) == 0
    first = result(run_copy, "test")
    calls = []
    compute = NetworkPredictor.compute_outputs

    def count(*given, **options):
        calls.append(1)
        return compute(*given, **options)

    monkeypatch.setattr(NetworkPredictor, "compute_outputs", count)
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


def test_several_runs_and_a_folder_of_runs_are_evaluated_one_by_one(tiny_run, weak_run, tmp_path, capsys):
    words = ["evaluate", "block=constant", "allow=[permutation]", "data.workers=0"]
    assert main([*words, f"ckpt=[{tiny_run},{weak_run}]", f"out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 2
    for name, run in (("a", tiny_run), ("b", weak_run)):
        shutil.copytree(run, tmp_path / "runs" / name, ignore=shutil.ignore_patterns("evaluation", "predictions"))
    assert main([*words, f"ckpt={tmp_path / 'runs'}"]) == 0
    parts = {file.relative_to(tmp_path / "runs").parts[0] for file in (tmp_path / "runs").rglob("metrics.json")}
    assert parts == {"a", "b"}


def test_without_ckpt_the_newest_run_is_taken_and_named(tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 4
    assert "no run with a checkpoint" in capsys.readouterr().err
    for name, started in (("old", "2020"), ("new", "2021"), ("unfinished", "2022")):
        shutil.copytree(tiny_run, tmp_path / "runs" / "x" / name)
        record = json.loads((tmp_path / "runs" / "x" / name / "run.json").read_text()) | {"started": started}
        (tmp_path / "runs" / "x" / name / "run.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "runs" / "x" / "unfinished" / "checkpoints")
    assert main(["evaluate", "block=constant", "data.workers=0"]) == 0
    out, err = capsys.readouterr()
    assert "ckpt=runs/x/new (the newest run)" in err
    assert "runs/x/new/evaluation/test/constant: number " in out


def test_a_checkpoint_outside_its_run_is_evaluated_on_given_data(tiny_run, images, tmp_path, capsys):
    bare = Path(shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt"))
    assert evaluate(bare) == 2
    assert "data=folder data.root=DIR" in capsys.readouterr().err
    words = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert evaluate(bare, *words, f"out={tmp_path / 'out'}") == 0
    assert evaluate(tiny_run, *words) == 0
    alone, own = Result.load(tmp_path / "out" / "evaluation" / "blind" / "blind_test"), result(tiny_run, "blind")
    assert alone.metrics == own.metrics
    assert alone.provenance["overlap_checked"] is False
    assert Reason("training_images_unknown", file="bare.ckpt") in alone.warnings
    assert "bare.ckpt is not in a run folder" in capsys.readouterr().err


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
        (["ckpt=RUN", "split=train"], 2, "do not estimate performance on new ones"),
        (["ckpt=RUN", "where.source=nobody"], 2, "Available: "),
        (["block=[calibration,robustnes]"], 2, "did you mean robustness?"),
        (["ckpt=RUN", "block=constnat"], 2, "block=constnat: no such block; did you mean constant?"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood={my cats: x}"], 2, "'my cats'"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood={x}"], 2, "'x'"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood={cats: /no}"], 3, "data.ood.cats: /no does not exist"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood={test: x}"], 2, "data.ood={'test': 'x'}: expected names"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood_root=odd"], 2, "'my cats' is not a valid name"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood_root=taken"], 2, "'test'"),
        (["ckpt=RUN", "block=out_of_domain", "data.ood_root=/no"], 3, "/no: cannot be read"),
    ],
)
def test_a_mistake_is_told_in_three_lines_at_most(words, code, told, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd" / "my cats").mkdir(parents=True)
    (tmp_path / "taken" / "test").mkdir(parents=True)
    assert main(["evaluate", *(word.replace("RUN", str(tiny_run)) for word in words)]) == code
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3


def test_out_says_that_earlier_results_are_left_aside(run_copy, tmp_path, capsys):
    words = ["evaluate", f"ckpt={run_copy}", "block=constant", "data.workers=0"]
    assert main([*words, f"out={tmp_path / 'first'}"]) == 0
    assert "left aside" not in capsys.readouterr().err
    assert main(words) == 0
    for _ in range(2):  # into a new folder, and again into that
        assert main([*words, f"out={tmp_path / 'out'}"]) == 0
        assert f"out=: 1 earlier result, such as in {run_copy / 'evaluation'}, left aside" in capsys.readouterr().err


def test_a_set_with_an_awkward_name_gets_a_plain_folder(run_copy, images, tmp_path):
    name = "мой набор, x=1"
    shutil.copytree(images / "blind", tmp_path / name)
    words = ["data=folder", f"data.root={tmp_path / name}", "block=constant"]
    assert main(["evaluate", f"ckpt={run_copy}", *words]) == 0
    assert (run_copy / "evaluation" / "мой_набор_x_1" / "constant" / "metrics.json").is_file()
    assert Run.open(run_copy).results("constant", name).set == name


AUDIT = [
    *("block=data_audit", "block.data_audit.resamples=100", "block.data_audit.folds=2"),
    *("block.data_audit.label_errors=false", "block.data_audit.equalised=false"),
]


@pytest.fixture
def told_by_format(tmp_path):
    """A folder of class folders whose file formats reveal the classes."""
    rng = np.random.default_rng(0)
    for label, ending in (("drawing", "png"), ("real", "jpg")):
        for number in range(20):
            file = tmp_path / "told" / label / f"{number}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return tmp_path / "told"


def test_data_is_audited_without_a_run(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where there are no runs
    words = [*AUDIT, "data=manifest", f"data.manifest={images / 'blind.csv'}", "allow=[shortcut]"]
    assert main(["evaluate", *words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("runs/evaluation/blind/data_audit: metadata_auroc ")
    assert "is this set suitable for evaluating classifiers?" in err
    found = Result.load(tmp_path / "runs" / "evaluation" / "blind" / "data_audit")
    assert found.n == 42
    assert found.provenance["allow"] == ["shortcut"]
    assert {"assessment", "data_fingerprint", "version"} <= found.provenance.keys()
    assert not {"run", "checkpoint_sha256"} & found.provenance.keys()


def test_an_audit_that_says_no_is_saved_and_then_fails(told_by_format, tmp_path, capsys):
    words = ["evaluate", *AUDIT, "data=folder", f"data.root={told_by_format}"]
    assert main([*words, f"out={tmp_path / 'out'}"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "told is unsuitable for evaluation: the file alone" in lines[-3]
    assert "allow=[shortcut]" in lines[-1]
    folder = tmp_path / "out" / "evaluation" / "told" / "data_audit"
    assert Result.load(folder).provenance["assessment"]["suitable"] == "no"
    assert main([*words, f"out={tmp_path / 'out'}", "allow=[shortcut]"]) == 0
    assert Result.load(folder).provenance["allow"] == ["shortcut"]


def test_run_blocks_and_data_blocks_run_together(run_copy, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["block=[constant,size]", "data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert main(["evaluate", f"ckpt={run_copy}", "data.workers=0", *words]) == 0
    evaluated = Result.load(run_copy / "evaluation" / "blind" / "constant")
    audited = Result.load(tmp_path / "runs" / "evaluation" / "blind" / "size")
    assert evaluated.n == audited.n == 42
    assert "checkpoint_sha256" in evaluated.provenance


def test_a_data_block_takes_the_runs_own_data_where_no_other_is_named(run_copy):
    words = ["block=size", "split=val"]
    assert main(["evaluate", f"ckpt={run_copy}", *words]) == 0
    found = Result.load(run_copy / "evaluation" / "val" / "size")
    assert found.provenance["split"] == "val"


def test_a_block_of_a_user_is_a_folder_of_code_and_about_yaml(tiny_run, tmp_path):
    conf = write_block(tmp_path / "own", "mine", CONSTANT)  # the other way is AVATAR_BENCH_CONF, as all tests here
    words = ["-cd", str(conf), f"ckpt={tiny_run}", "block=mine", "block.mine.number=3", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", *words]) == 0
    assert Result.load(tmp_path / "out" / "evaluation" / "test" / "mine").metrics["number"].value == 3


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("broken", "import nowhere_to_be_found", "ModuleNotFoundError"),
        ("broken", "x = (", "SyntaxError"),
        ("broken", "x = 1", "must define one public dataclass"),
        ("clusters", CONSTANT, "avatar_bench already has a block clusters"),
        ("lonely", None, "block=lonely: no such block"),
        ("broken", CONSTANT.replace("self.number, len", "1 / 0, len"), "ZeroDivisionError"),
        ("broken", CONSTANT.replace("return result", "return 3"), "it returned int, not a Result"),
    ],
)
def test_what_is_wrong_with_a_users_block_is_told_by_its_name(name, body, told, tiny_run, tmp_path, capsys):
    conf = write_block(tmp_path / "own", name, body or "")
    if body is None:
        (conf / "block" / name / "__init__.py").unlink()
    words = ["-cd", str(conf), f"ckpt={tiny_run}", f"block={name}", "again=true"]
    assert main(["evaluate", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert name in lines[0]
    assert told in lines[0]


def test_a_result_that_would_come_out_the_same_is_kept(run_copy, tmp_path, capsys):
    conf = write_block(tmp_path / "own", "mine", CONSTANT)
    words = ["evaluate", "-cd", str(conf), f"ckpt={run_copy}", "block=mine"]
    file = run_copy / "evaluation" / "test" / "mine" / "metrics.json"

    def evaluated(*more):
        before = file.stat().st_mtime_ns if file.exists() else 0
        assert main([*words, *more]) == 0
        kept = "already there" in capsys.readouterr().out
        assert kept == (before == file.stat().st_mtime_ns)
        return not kept

    assert evaluated()
    assert not evaluated()
    assert evaluated("again=true")
    assert evaluated("block.mine.number=4")
    assert not evaluated("block.mine.number=4", "lang=ru")
    write_block(conf, "mine", CONSTANT.replace("self.number, len", "-self.number, len"))
    assert evaluated("block.mine.number=4", "lang=ru")
    assert Result.load(file.parent).metrics["number"].value == -4
    file.write_text("{")
    assert evaluated("block.mine.number=4", "lang=ru")


def test_a_result_that_lacks_a_file_is_made_again(run_copy, capsys):
    assert evaluate(run_copy) == 0
    folder = run_copy / "evaluation" / "test" / "blind_test"
    for name, is_drawn_alone in (("confusion.csv", False), ("confusion.png", True)):
        (folder / name).unlink()
        capsys.readouterr()
        assert evaluate(run_copy) == 0
        assert ("already there" in capsys.readouterr().out) == is_drawn_alone
        assert (folder / name).is_file()


def test_a_slice_of_the_images_is_evaluated_alone(run_copy):
    assert evaluate(run_copy) == 0
    table = result(run_copy, "test").tables["predictions"]
    source = table["source"].iat[0]
    assert evaluate(run_copy, f"where.source={source}") == 0
    sliced = result(run_copy, f"test_source_{source}")
    own = table[table["source"] == source]
    assert sliced.n == len(own)
    assert sliced.metrics["accuracy"].value == pytest.approx(own["correct"].mean())


def test_a_list_of_blocks_runs_to_its_end_and_then_ends_with_three(run_copy, capsys):
    assert main(["evaluate", f"ckpt={run_copy}", "block=out_of_domain"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert "out" in lines[0]
    words = "block=[out_of_domain,significance,ensemble,constant]"
    assert main(["evaluate", f"ckpt={run_copy}", words, "data.workers=0"]) == 3
    out, err = capsys.readouterr()
    place = run_copy / "evaluation" / "test"
    assert Result.load_if_complete(place / "constant")
    assert out.splitlines()[-1] == f"results: 1 written, 3 skipped, in {place}"
    lines = err.splitlines()
    assert len(lines) == 2  # a line for each reason
    assert lines[0].startswith(f"{place / 'out_of_domain'}: ")
    both = f"{run_copy.parent / 'evaluation' / 'test' / 'significance'}, "
    assert lines[1].startswith(both + str(run_copy.parent / "evaluation" / "test" / "ensemble: This block compares"))


def test_a_warning_is_told_once_with_the_runs_and_blocks_that_it_is_of(run_copy, weak_run, tmp_path, capsys):
    words = [f"ckpt=[{run_copy},{weak_run}]", "split=blind", f"out={tmp_path / 'out'}", FEW, "data.workers=0"]
    assert main(["evaluate", *words, "allow=[permutation]"]) == 0
    err = [line for line in capsys.readouterr().err.splitlines() if "14 images of class 'real'" in line]
    (line,) = err
    assert line.startswith(f"warning: {run_copy}, {weak_run}: blind_test: The set has only 14 images")


def test_out_mirrors_the_folders_of_the_runs_and_the_report_finds_what_is_there(run_copy, tmp_path, capsys):
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
    for place, printed in ((out, "2 runs, nothing missing"), (tmp_path / "one", "1 run, nothing missing")):
        assert main(["report", f"runs={place}"]) == 0
        assert printed in capsys.readouterr().out


def test_two_checkpoints_of_one_run_are_refused_where_they_would_write_to_one_folder(run_copy, tmp_path, capsys):
    two = ["evaluate", f"ckpt=[{run_copy},{run_copy / 'checkpoints' / 'last.ckpt'}]", "block=constant"]
    assert main(two) == 2
    err = capsys.readouterr().err
    assert f"last.ckpt would both write to {run_copy / 'evaluation'}" in err
    assert "out=DIR" in err
    assert main([*two, f"out={tmp_path / 'out'}"]) == 0
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 2
    assert main(["evaluate", f"ckpt=[{run_copy},{run_copy.parent / '.' / run_copy.name}/]"]) == 2
    assert "is given twice" in capsys.readouterr().err


def test_block_all_takes_in_the_blocks_of_users(run_copy, monkeypatch):
    words = ["evaluate", f"ckpt={run_copy}"]
    monkeypatch.setattr(
        "avatar_bench.evaluation.runner.BlockRunner.__call__", lambda runner, name, block, writer: named.append(name)
    )
    monkeypatch.setattr("avatar_bench.evaluation.evaluate._refuse_failed_audits", lambda *_: None)
    named: list[str] = []
    assert main([*words, "block=all"]) == 0
    assert {"constant", "blind_test", "architecture"} <= set(named)
    assert named.count("constant") == 1
    named.clear()
    assert main([*words, "block=blind_test"]) == 0
    assert named == ["blind_test"]


def test_a_copied_run_keeps_its_results(run_copy, tmp_path, capsys):
    assert count(run_copy) == 0
    other = shutil.copytree(run_copy, tmp_path / "other place")
    assert count(other) == 0
    assert "already there" in capsys.readouterr().out.splitlines()[-1]


def test_damaged_predictions_are_made_again(run_copy):
    assert evaluate(run_copy) == 0
    before = result(run_copy, "test").metrics["accuracy"]
    for file in (run_copy / "predictions").iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert evaluate(run_copy, "again=true") == 0
    assert result(run_copy, "test").metrics["accuracy"] == before


def test_each_folder_in_one_is_an_out_of_domain_set(tiny_run, images, tmp_path):
    for name in ("obj", "simpsons", ".hidden"):
        shutil.copytree(images / "blind" / "drawing" / "new-drawing", tmp_path / "sets" / name)
    words = ["block=out_of_domain", f"data.ood_root={tmp_path / 'sets'}", f"out={tmp_path / 'out'}"]
    words += ["data.workers=0", "block.out_of_domain.resamples=100"]
    assert main(["evaluate", f"ckpt={tiny_run}", *words]) == 0
    table = pd.read_csv(tmp_path / "out" / "evaluation" / "test" / "out_of_domain" / "sets.csv", keep_default_na=False)
    assert table[["set", "kind"]].values.tolist() == [["test", "in_domain"], ["obj", "far"], ["simpsons", "shifted"]]


def test_a_kept_result_does_not_hide_that_a_set_has_gone(run_copy, tmp_path, capsys):
    faces = tmp_path / "faces"
    faces.mkdir()
    rng = np.random.default_rng(3)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(faces / f"{number}.png")
    words = ["block=[out_of_domain,constant]", "skip_unusable=true", f"data.ood={{faces: {faces}}}"]
    few = ["block.out_of_domain.resamples=100", "data.workers=0"]
    assert main(["evaluate", f"ckpt={run_copy}", *words, *few]) == 0
    shutil.rmtree(faces)
    assert main(["evaluate", f"ckpt={run_copy}", *words, *few]) == 0
    printed = capsys.readouterr()
    assert "skipped" in printed.err
    assert "faces" in printed.err


def test_a_renamed_source_is_evaluated_again(run_copy, images, tmp_path):
    table = pd.read_csv(images / "blind.csv")
    words = ["data=manifest", f"data.manifest={tmp_path / 'ours.csv'}", f"out={tmp_path / 'out'}"]
    for source in ("one", "other"):
        manifest(tmp_path / "ours.csv", table.assign(source=source), images)
        assert evaluate(run_copy, *words) == 0
        found = Result.load(tmp_path / "out" / "evaluation" / "ours" / "blind_test")
        assert set(found.tables["per_source"]["source"]) == {source}

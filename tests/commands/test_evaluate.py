"""Evaluation as a user types it: metrics, the label contract, guards, and where results go."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.builders.commands import (
    change_record,
    copy_run,
    data_of,
    read_record,
    read_result,
    weaken_run,
    write_manifest,
)

CLASSES = ["drawing", "generated", "real"]
FEW = "block.blind_test.resamples=100"
CONSTANT = """
from dataclasses import dataclass
from avatar_bench.evaluation.block import RunBlock
from avatar_bench.results.result import Metric, Result

@dataclass(kw_only=True)
class Constant(RunBlock):
    version = 1
    number: float = 2.0
    predicts: bool = False

    def evaluate(self, run, dataset):
        result = Result("constant", dataset.name, len(dataset), run.classes)
        images = run.predictions(dataset) if self.predicts else dataset
        result.metrics = {"number": Metric(self.number, len(images))}
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


def evaluate(run, *words):
    return main(["evaluate", f"ckpt={run}", FEW, "data.workers=0", *words])


def count(run, *words):
    """Evaluate by the quickest block, which counts images, and needs their predictions if told so."""
    return main(["evaluate", f"ckpt={run}", "block=constant", "data.workers=0", *words])


def result(folder, name, block="blind_test"):
    return Result.load(folder / "evaluation" / name / block)


def write_block(conf, name, code, kind="run"):
    folder = conf / "block" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(code)
    former = "former_names: [sum_of_images, tally]\n" if name == "constant" else ""
    (folder / "about.yaml").write_text(f"title: Plain number\nsummary: a number\nkind: {kind}\n{former}")
    return conf


@pytest.fixture(scope="module", autouse=True)
def quick_blocks(tmp_path_factory):
    """A user's folder with two blocks that take no time: constant reads a run, size a data set."""
    conf = write_block(tmp_path_factory.mktemp("conf"), "constant", CONSTANT)
    write_block(conf, "size", SIZE, "dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATAR_BENCH_CONF", str(conf))
        yield


@pytest.fixture(scope="module")
def weak_run(tiny_run, tmp_path_factory):
    """A run that is often incorrect, so that its metrics distinguish formulas."""
    return weaken_run(tiny_run, tmp_path_factory.mktemp("weak") / "run")


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A run with its predictions and the result of blind_test; tests change copies of it."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    assert evaluate(run) == 0
    return run


@pytest.fixture(scope="module")
def blind(images):
    """The rows of the blind set."""
    return pd.read_csv(images / "blind.csv")


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


def test_a_result_states_its_origin_and_its_images_in_the_order_of_the_split(weak_run):
    assert evaluate(weak_run, "allow=[permutation]") == 0
    saved, record = read_result(weak_run, "test"), read_record(weak_run)
    table = pd.read_csv(weak_run / "evaluation" / "test" / "blind_test" / "predictions.csv")
    assert 0.2 < table["correct"].mean() < 0.99
    assert saved["metrics"]["accuracy"]["value"] == pytest.approx((table["target"] == table["prediction"]).mean())
    test = pd.read_csv(weak_run / "split.csv").query("split == 'test'")  # in this order
    assert table[["path", "target"]].values.tolist() == test[["path", "label"]].values.tolist()
    assert (saved["block"], saved["schema"], saved["set"], saved["classes"]) == ("blind_test", 3, "test", CLASSES)
    assert saved["n"] == record["split"]["counts"]["test"]
    provenance = {"checkpoint_sha256": record["checkpoint_sha256"], "split": "test", "seed": record["seed"]}
    provenance |= {"allow": ["permutation"], "overlap_checked": True}
    assert provenance.items() <= saved["provenance"].items()
    assert {"data_fingerprint", "version", "torch", "run"} <= saved["provenance"].keys()


def test_another_set_of_the_run_is_evaluated_by_its_name(tiny_run):
    counts = read_record(tiny_run)["split"]["counts"] | {"blind": 42}
    for split in ("val", "calibration", "blind"):  # its own preprocessing may be stated
        assert count(tiny_run, f"split={split}", "data.image_size=32", "data.resize=squash") == 0
        assert result(tiny_run, split, "constant").n == counts[split]


def test_rows_in_another_order_and_class_folders_give_the_same_metrics(tiny_run, images, blind, tmp_path):
    rows = blind.sort_values("label", ascending=False, kind="stable")
    for manifest in (images / "blind.csv", write_manifest(tmp_path / "other.csv", rows, images)):
        assert evaluate(tiny_run, *data_of(manifest)) == 0
    assert evaluate(tiny_run, "data=folder", f"data.root={images / 'blind'}", "data.name=by_folder") == 0
    metrics, reordered, by_folder = (result(tiny_run, name).metrics for name in ("blind", "other", "by_folder"))
    assert metrics["accuracy"].value > 0.9
    values = {name: metric.value for name, metric in metrics.items()}
    assert {name: metric.value for name, metric in reordered.items()} == pytest.approx(values, abs=1e-9)
    for name in ("accuracy", "macro_f1", "recall/real"):
        assert by_folder[name].value == values[name]


def test_permuted_outputs_are_refused_with_their_order_until_that_is_allowed(permuted, images, capsys):
    order = [1, 2, 0]
    run, words = permuted(order), data_of(images / "blind.csv")
    assert evaluate(run, *words) == 3
    assert "'drawing' is 'generated'" in capsys.readouterr().err
    assert not (run / "evaluation").exists()
    assert evaluate(run, *words, "allow=[permutation]") == 0
    assert result(run, "blind").provenance["allow"] == ["permutation"]


def test_images_seen_in_training_are_refused_whatever_their_folder_is_called(run_copy, images, tmp_path, capsys):
    predicts = "block.constant.predicts=true"
    for name in ("all", "val"):  # what a folder is called passes no guard
        (tmp_path / name).symlink_to(images / "all")
        words = ["data=folder", f"data.root={tmp_path / name}", predicts]  # groups are the images' own hashes
        assert count(run_copy, *words) == 3
        assert f"{name} shares 96 of 192 images with the training data by image" in capsys.readouterr().err
    assert count(run_copy, *words, "allow=[overlap]") == 0
    provenance = result(run_copy, "other_val", "constant").provenance
    assert (provenance["allow"], provenance["overlap_checked"]) == (["overlap"], False)


def test_other_images_called_like_the_runs_own_leave_its_results_alone(run_copy, images, blind, tmp_path, capsys):
    assert count(run_copy) == 0
    file = run_copy / "evaluation" / "test" / "constant" / "metrics.json"
    before = file.read_bytes()
    assert count(run_copy, *data_of(write_manifest(tmp_path / "test.csv", blind, images))) == 0
    assert "the data set is renamed other_test" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert result(run_copy, "other_test", "constant").n == len(blind)


def test_results_of_another_table_of_one_name_are_never_replaced(run_copy, images, blind, tmp_path, capsys):
    parts = {"a": blind, "b": blind.iloc[3:], "c": blind.iloc[::-1]}
    tables = {name: write_manifest(tmp_path / name / "images.csv", rows, images) for name, rows in parts.items()}
    first, other, reordered = (data_of(table) for table in tables.values())
    assert count(run_copy, *first) == 0
    file = run_copy / "evaluation" / "images" / "constant" / "metrics.json"
    before = file.read_bytes()
    capsys.readouterr()
    for words in ([], ["again=true"], ["block=prior_shift"]):  # nor do two blocks of one name tell of two sets
        assert main(["evaluate", f"ckpt={run_copy}", "data.workers=0", *other, *words]) == 2
        err = capsys.readouterr().err.splitlines()
        assert f"{file.parents[1]} already contains results for other images, from {tables['a']}." in err[0]
        assert (len(err), "data.name=NAME" in err[1]) == (3, True)
    assert file.read_bytes() == before
    assert [folder.name for folder in file.parents[1].iterdir()] == ["constant"]
    assert count(run_copy, *other, "data.name=images_b") == 0
    assert [result(run_copy, name, "constant").n for name in ("images", "images_b")] == [42, 39]
    assert count(run_copy, *reordered) == 0  # the same images, wherever their table lies
    write_manifest(tables["c"], blind.iloc[5:], images)
    assert count(run_copy, *reordered) == 3  # one table that has changed is the same set
    assert count(run_copy, *reordered, "update=true") == 0
    assert result(run_copy, "images", "constant").n == 37


def test_a_table_that_was_moved_or_is_named_in_another_way_is_the_same_set(run_copy, images, blind, tmp_path, command):
    table = write_manifest(tmp_path / "a" / "images.csv", blind, images)
    assert count(run_copy, *data_of(table)) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    table = tmp_path / "b" / "images.csv"
    assert count(run_copy, *data_of(table)) == 0
    other = write_manifest(tmp_path / "images.csv", blind.iloc[9:], images)
    assert count(run_copy, *data_of(other)) == 2  # it is known where they lie now
    os.symlink(tmp_path / "b", tmp_path / "c")
    for left, way in enumerate((table, tmp_path / "b" / ".." / "b" / "images.csv", tmp_path / "c" / "images.csv"), 1):
        write_manifest(table, blind.iloc[left:], images)
        assert count(run_copy, *data_of(way), "update=true") == 0
        assert result(run_copy, "images", "constant").n == 42 - left
    copy = shutil.copytree(run_copy, tmp_path / "other folder")
    assert "already there" in command("evaluate", f"ckpt={copy}", "block=constant", *data_of(table), "update=true").out


def test_a_result_that_does_not_tell_its_images_is_replaced(run_copy, images, blind, tmp_path):
    first = write_manifest(tmp_path / "a" / "images.csv", blind, images)
    other = write_manifest(tmp_path / "b" / "images.csv", blind.iloc[3:], images)
    assert count(run_copy, *data_of(first)) == 0
    file = run_copy / "evaluation" / "images" / "constant" / "metrics.json"
    saved = read_result(run_copy, "images", "constant")
    known = saved["provenance"]
    without_places = {key: value for key, value in known.items() if key != "data_places"}
    for provenance in (without_places, known | {"compared": [3]}, known | {"sets": 3}, [3]):
        file.write_text(json.dumps(saved | {"provenance": provenance}), encoding="utf-8")
        assert (
            count(
                run_copy, *data_of(first if "sets" in provenance and provenance["sets"] == 3 else other), "update=true"
            )
            == 0
        )
        assert isinstance(result(run_copy, "images", "constant").provenance["sets"], dict)


def test_without_ckpt_the_newest_run_is_taken_and_named(tiny_run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    assert "no run with a checkpoint" in command("evaluate", code=4).err
    for name, started in (("old", "2020"), ("new", "2021"), ("unfinished", "2022")):
        change_record(copy_run(tiny_run, tmp_path / "runs" / "x" / name), started=started)
    shutil.rmtree(tmp_path / "runs" / "x" / "unfinished" / "checkpoints")
    (tmp_path / "runs" / "damaged").mkdir()
    (tmp_path / "runs" / "damaged" / "run.json").write_text('{"status": "finis')
    out, err = command("evaluate", "block=constant", "data.workers=0")
    assert "skipped: runs/damaged/run.json cannot be read: " in err
    assert "ckpt=runs/x/new (the newest run)" in err
    assert "runs/x/new/evaluation/test/constant: number " in out


def test_a_checkpoint_outside_its_run_is_evaluated_on_data_that_is_named(tiny_run, images, tmp_path, command):
    bare = shutil.copy(tiny_run / "checkpoints" / "best.ckpt", tmp_path / "bare.ckpt")
    words = ["evaluate", FEW, "data.workers=0"]
    assert "data=folder data.root=DIR" in command(*words, f"ckpt={bare}", code=2).err
    words += data_of(images / "blind.csv")
    assert "bare.ckpt is not in a run folder" in command(*words, f"ckpt={bare}", f"out={tmp_path / 'out'}").err
    command(*words, f"ckpt={tiny_run}")
    alone = result(tmp_path / "out", "blind")
    assert alone.metrics == result(tiny_run, "blind").metrics
    assert alone.provenance["overlap_checked"] is False
    assert Reason("training_images_unknown", file="bare.ckpt") in alone.warnings


def test_out_says_that_earlier_results_are_left_aside(run_copy, tmp_path, command):
    words = ["evaluate", f"ckpt={run_copy}", "block=constant", "data.workers=0"]
    assert "left aside" not in command(*words, f"out={tmp_path / 'first'}").err
    command(*words)
    line = f"out=: 1 earlier result, such as in {run_copy / 'evaluation'}, left aside"
    for _ in range(2):  # into a new folder, and again into that
        assert line in command(*words, f"out={tmp_path / 'out'}").err


def test_a_set_with_an_awkward_name_gets_a_plain_folder(run_copy, images, tmp_path):
    name = "мой набор, x=1"
    shutil.copytree(images / "blind", tmp_path / name)
    assert count(run_copy, "data=folder", f"data.root={tmp_path / name}") == 0
    assert (run_copy / "evaluation" / "мой_набор_x_1" / "constant" / "metrics.json").is_file()
    assert Run.open(run_copy).results("constant", name).set == name


def test_data_is_audited_without_a_run_and_an_audit_that_says_no_is_saved_and_fails(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)  # where there are no runs
    options = ("resamples=100", "folds=2", *(f"{name}=false" for name in ("label_errors", "equalised", "marks")))
    words = ["evaluate", "block=data_audit", *(f"block.data_audit.{option}" for option in options)]
    rng = np.random.default_rng(0)
    for label, suffix in (("drawing", "png"), ("real", "jpg")):  # file formats reveal the classes
        folder = tmp_path / "revealed" / label
        folder.mkdir(parents=True)
        for number in range(14):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.{suffix}")
    words += ["data=folder", f"data.root={tmp_path / 'revealed'}"]
    lines = command(*words, f"out={tmp_path / 'out'}", code=3).err.splitlines()
    assert "revealed is unsuitable for evaluation: the file alone" in lines[-3]
    assert "allow=[shortcut]" in lines[-1]
    assert result(tmp_path / "out", "revealed", "data_audit").provenance["assessment"]["suitable"] == "no"
    out, err = command(*words, "allow=[shortcut]")
    assert out.startswith("runs/evaluation/revealed/data_audit: metadata_auroc ")
    assert "is this set suitable for evaluating classifiers?" in err
    audit = result(tmp_path / "runs", "revealed", "data_audit")
    assert (audit.n, audit.provenance["allow"]) == (28, ["shortcut"])
    assert {"assessment", "data_fingerprint", "version"} <= audit.provenance.keys()
    assert not {"run", "checkpoint_sha256"} & audit.provenance.keys()


def test_blocks_of_runs_and_of_data_sets_run_together(run_copy, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert count(run_copy, "block=[constant,size]", *data_of(images / "blind.csv")) == 0
    evaluated, audited = result(run_copy, "blind", "constant"), result(tmp_path / "runs", "blind", "size")
    assert evaluated.n == audited.n == 42
    assert "checkpoint_sha256" in evaluated.provenance
    assert main(["evaluate", f"ckpt={run_copy}", "block=size", "split=val"]) == 0  # the run's own data by default
    assert result(run_copy, "val", "size").provenance["split"] == "val"


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("broken", "x = (", "SyntaxError"),
        ("lonely", None, "block=lonely: no such block"),
        ("broken", CONSTANT.replace("self.number, len", "1 / 0, len"), "ZeroDivisionError"),
        ("broken", CONSTANT.replace("return result", "return 3"), "it returned int, not a Result"),
    ],
)
def test_what_is_wrong_with_a_users_block_is_said_with_its_name(name, body, message, tiny_run, tmp_path, command):
    conf = write_block(tmp_path / "own", name, body or "")
    if body is None:
        (conf / "block" / name / "__init__.py").unlink()
    lines = command("evaluate", "-cd", conf, f"ckpt={tiny_run}", f"block={name}", "again=true", code=2).err.splitlines()
    assert len(lines) <= 3
    assert name in lines[0]
    assert message in lines[0]


def test_a_result_of_a_users_block_is_kept_until_it_would_change(run_copy, tmp_path, command):
    conf = write_block(tmp_path / "own", "mine", CONSTANT)  # by -cd, not by the variable as in the other tests
    file = run_copy / "evaluation" / "test" / "mine" / "metrics.json"

    def is_evaluated(*words):
        before = file.stat().st_mtime_ns if file.exists() else 0
        printed = command("evaluate", "-cd", conf, f"ckpt={run_copy}", "block=mine", *words)
        is_kept = "already there" in printed.out
        assert is_kept == (before == file.stat().st_mtime_ns)
        return not is_kept

    assert [is_evaluated(), is_evaluated(), is_evaluated("again=true")] == [True, False, True]
    assert is_evaluated("block.mine.number=4")
    words = ("block.mine.number=4", "lang=ru")
    assert not is_evaluated(*words)
    write_block(conf, "mine", CONSTANT.replace("self.number, len", "-self.number, len"))
    assert is_evaluated(*words)
    assert Result.load(file.parent).metrics["number"].value == -4
    file.write_text("{")
    assert is_evaluated(*words)


def test_a_former_name_runs_the_block_once_and_names_it(run_copy, command):
    words = ["evaluate", f"ckpt={run_copy}"]
    err = command(*words, "block=[tally, constant,sum_of_images]", "block.constant.number=2").err.splitlines()
    assert [line for line in err if "is now" in line] == [
        f"warning: block '{name}' is now 'constant'" for name in ("tally", "sum_of_images")
    ]
    assert [folder.name for folder in (run_copy / "evaluation" / "test").iterdir()] == ["constant"]
    assert command(*words, "block=tally", "block.tally.number=2", code=2).err.splitlines()[-2:] == [
        "block.tally.number: block 'tally' is now 'constant'",
        "its options: avatar-bench evaluate block=constant --help",
    ]


def test_a_result_under_a_former_name_is_reported_and_compared(run_copy, tmp_path, command):
    assert count(run_copy) == 0
    other, folder = shutil.copytree(run_copy, tmp_path / "other"), run_copy / "evaluation" / "test"
    saved = read_result(run_copy, "test", "constant") | {"block": "tally"}
    ((folder / "constant").rename(folder / "tally") / "metrics.json").write_text(json.dumps(saved), encoding="utf-8")
    command("report", f"runs={run_copy}", f"out={tmp_path / 'report.html'}")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Plain number" in page
    assert "This block is not installed here" not in page
    assert count(other, "block.constant.number=5", f"against={run_copy}") == 0
    differences = result(other, "test", "against").tables["differences"]
    assert differences.loc[0, ["block", "metric", "difference"]].tolist() == ["constant", "number", 3.0]


def test_a_result_that_lacks_a_file_is_made_again(evaluated, tmp_path, capsys):
    run = Path(shutil.copytree(evaluated, tmp_path / "run"))
    folder = run / "evaluation" / "test" / "blind_test"
    for name, is_drawn_alone in (("confusion.csv", False), ("confusion.png", True)):
        (folder / name).unlink()
        capsys.readouterr()
        assert evaluate(run) == 0
        assert ("already there" in capsys.readouterr().out) == is_drawn_alone
        assert (folder / name).is_file()


def test_a_slice_of_the_images_is_evaluated_alone(evaluated):
    table = result(evaluated, "test").tables["predictions"]
    source = table["source"].iat[0]
    assert evaluate(evaluated, f"where.source={source}") == 0
    sliced, rows = result(evaluated, f"test_source_{source}"), table[table["source"] == source]
    assert sliced.n == len(rows)
    assert sliced.metrics["accuracy"].value == pytest.approx(rows["correct"].mean())


def test_a_list_of_blocks_runs_to_its_end_and_then_ends_with_three(run_copy, command):
    words = "block=[out_of_domain,significance,ensemble,constant]"
    out, err = command("evaluate", f"ckpt={run_copy}", words, "data.workers=0", code=3)
    folder, shared = run_copy / "evaluation" / "test", run_copy.parent / "evaluation" / "test"
    assert Result.load_if_complete(folder / "constant")
    assert out.splitlines()[-1] == f"results: 1 written, 3 skipped, in {folder}"
    first, second = err.splitlines()  # a line for each reason
    assert first.startswith(f"{folder / 'out_of_domain'}: ")
    assert second.startswith(f"{shared / 'significance'}, {shared / 'ensemble'}: This block compares")
    words = ["block=constant,significance", "skip_unusable=true"]  # as block=all: no comparison is tried of one run
    assert "significance" not in command("evaluate", f"ckpt={run_copy}", *words).err


def test_a_warning_is_said_once_with_its_runs_and_block(run_copy, weak_run, tmp_path, command):
    words = [f"ckpt=[{run_copy},{weak_run}]", "split=blind", f"out={tmp_path / 'out'}", FEW, "data.workers=0"]
    err = command("evaluate", *words, "allow=[permutation]").err.splitlines()
    (line,) = (line for line in err if "14 images of class 'real'" in line)
    assert line.startswith(f"warning: {run_copy}, {weak_run}: blind_test: The set has only 14 images")


def test_out_mirrors_the_folders_of_the_runs_and_the_report_finds_what_is_there(run_copy, tmp_path, command):
    runs, out = [tmp_path / "x" / "run", tmp_path / "y" / "x" / "run"], tmp_path / "out"
    copy_run(run_copy, *runs)  # of one name, in folders of one name
    command("evaluate", f"ckpt=[{runs[0]},{runs[1]}]", "block=[constant,overview]", f"out={out}", "data.workers=0")
    folders = {str(file.parent.relative_to(out)) for file in out.rglob("metrics.json")}
    test = "evaluation/test"
    assert folders == {f"x/run/{test}/constant", f"y/x/run/{test}/constant", f"{test}/overview"}
    command("evaluate", f"ckpt={runs[0]}", "block=constant", f"out={tmp_path / 'one'}")
    assert (tmp_path / "one" / test / "constant" / "metrics.json").is_file()
    assert "2 runs, nothing missing" in command("report", f"runs={out}").out
    assert "1 run, nothing missing" in command("report", f"runs={tmp_path / 'one'}").out


def test_two_checkpoints_of_one_run_do_not_write_to_one_folder(run_copy, tmp_path, command):
    words = ["evaluate", f"ckpt=[{run_copy},{run_copy / 'checkpoints' / 'last.ckpt'}]", "block=constant"]
    err = command(*words, code=2).err
    assert f"last.ckpt would both write to {run_copy / 'evaluation'}" in err
    assert "out=DIR" in err
    command(*words, f"out={tmp_path / 'out'}")
    assert len(list((tmp_path / "out").rglob("metrics.json"))) == 2


def test_a_kept_result_does_not_hide_that_a_set_has_gone(run_copy, images, tmp_path, command):
    faces = Path(shutil.copytree(images / "blind" / "real" / "new-real", tmp_path / "faces"))
    words = ["block=[out_of_domain,constant]", "skip_unusable=true", f"data.ood={{faces: {faces}}}"]
    words += ["block.out_of_domain.resamples=100", "data.workers=0"]
    command("evaluate", f"ckpt={run_copy}", *words)
    shutil.rmtree(faces)
    err = command("evaluate", f"ckpt={run_copy}", *words).err
    assert "skipped" in err
    assert "faces" in err


def test_a_renamed_source_is_evaluated_again(run_copy, images, blind, tmp_path, command):
    for source in ("one", "other", "one"):
        manifest = write_manifest(tmp_path / "ours.csv", blind.assign(source=source), images)
        out = command("evaluate", f"ckpt={run_copy}", "block=constant", *data_of(manifest), "update=true").out
    assert "already there" not in out

"""import: predictions of detectors made elsewhere, as runs that are evaluated like any other."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.runs.imported import hash_detector
from avatar_bench.runs.record import RunRecord
from tests.builders.commands import change_record, copy_run, data_of, read_record, read_result

CLASSES = ("drawing", "generated", "real")
COLUMNS = [f"prob_{name}" for name in CLASSES]
BLOCKS = ("blind_test", "calibration")
ALL_BLOCKS = f"block=[{','.join(BLOCKS)}]"
QUICK = [*(f"block.{name}.resamples=100" for name in BLOCKS), "block.calibration.corruptions=[]"]
BLIND_TEST = ("block=blind_test", QUICK[0])
FEW_PAIRS = "block.significance.resamples=100"
HIGHER = "score=higher_is_generated"


@pytest.fixture
def evaluate(images, command):
    """Return a function that evaluates a run on the blind set, and returns what is printed."""
    data = [*data_of(images / "blind.csv"), "data.name=new", "data.workers=0"]
    return lambda ckpt, *words, code=0: command("evaluate", f"ckpt={ckpt}", *data, *words, code=code)


@pytest.fixture(scope="module")
def exported(tiny_run, images, tmp_path_factory):
    """Return the predictions of the tiny run on the blind set, calibrated or not, with paths relative to `images`."""
    tables = {}
    for calibrated in (True, False):
        file = tmp_path_factory.mktemp("exported") / "predictions.parquet"
        words = [f"input={images / 'blind'}", f"output={file}", "precision=32", f"calibrated={calibrated}"]
        assert main(["predict", f"ckpt={tiny_run}", *words, "workers=0"]) == 0
        table = pd.read_parquet(file)
        tables[calibrated] = table.assign(path=[str(Path(path).relative_to(images)) for path in table["path"]])
    return tables


@pytest.fixture(scope="module")
def source(tiny_run, images, tmp_path_factory):
    """Return a run evaluated on the blind set; never write into it."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("source") / "source")
    words = [*data_of(images / "blind.csv"), "data.name=new", "data.workers=0", ALL_BLOCKS, *QUICK]
    assert main(["evaluate", f"ckpt={run}", *words]) == 0
    return run


@pytest.fixture
def run(exported, images, tmp_path):
    """Return a function that imports the predictions, as changed by a function, and returns the run folder."""

    def make(change=lambda table: table, *more, code=0):
        out, file = tmp_path / "imported", tmp_path / "scores.csv"
        change(exported[True]).to_csv(file, index=False, float_format="%.17g")
        assert main(["import", "kind=predictions", f"file={file}", f"root={images}", f"out={out}", *more]) == code
        assert [path.name for path in tmp_path.iterdir() if "imported" in path.name] == ["imported"] * (code == 0)
        return out

    return make


def assert_equal_metrics(expected, metrics, before=""):
    """Compare values and intervals; those expected have a name that starts with `before`."""
    names = [name for name in metrics if not before or before + name in expected]
    assert len(names) > 3
    for name in names:
        for key in ("value", "low", "high"):
            value = expected[before + name].get(key)
            assert metrics[name].get(key) == (None if value is None else pytest.approx(value, abs=1e-6)), (name, key)


@pytest.mark.parametrize(
    ("is_hashed", "calibrated", "blocks"),
    [(False, True, BLOCKS), (False, False, BLOCKS[-1:]), (True, True, BLOCKS[:1])],
)
def test_imported_predictions_have_the_metrics_of_their_run(
    is_hashed, calibrated, blocks, source, exported, images, evaluate, command, tmp_path
):
    table, out = exported[calibrated], tmp_path / "imported"
    file = tmp_path / ("scores.parquet" if is_hashed else "scores.csv")
    if is_hashed:
        hashes = read_manifest(images / "blind.csv").frame.set_index("path")["sha256"]
        table.assign(sha256=table["path"].map(hashes)).drop(columns="path").to_parquet(file, index=False)
    else:
        rows = table if calibrated else table.assign(path=[images / path for path in table["path"]])  # needs no root=
        rows.to_csv(file, index=False, float_format="%.17g")
    root = [f"root={images}"] if calibrated and not is_hashed else []
    known = f"trained_on={source / 'split.csv'}"
    command("import", "kind=predictions", f"file={file}", *root, f"out={out}", known)
    evaluate(out, f"block=[{','.join(blocks)}]", *(word for word in QUICK if word.split(".")[1] in blocks))
    for block in blocks:
        expected, metrics = (read_result(folder, "new", block)["metrics"] for folder in (source, out))
        if block == "calibration":
            unscaled = {name: value for name, value in metrics.items() if "/" not in name and name != "temperature"}
            assert_equal_metrics(expected, unscaled, "scaled/" if calibrated else "")
        else:
            assert_equal_metrics(expected, metrics)


@pytest.mark.slow
def test_an_imported_run_is_compared_combined_and_reported(source, images, evaluate, command, tmp_path):
    runs, everything = tmp_path / "runs", tmp_path / "everything.jsonl"
    shutil.copytree(source, runs / "own")
    command("predict", f"ckpt={source}", f"input={images}", f"output={everything}", "workers=0", code=3)  # manifests
    words = [f"file={everything}", "root=.", "allow=[missing_rows]", "licence=MIT", f"out={runs / 'theirs'}"]
    command("import", "kind=predictions", *words)
    few = [QUICK[0], FEW_PAIRS, "block.ensemble.resamples=100"]
    evaluate(runs, "block=[blind_test,significance,ensemble]", "block.ensemble.soup=false", *few)
    pairs = pd.read_csv(runs / "evaluation" / "new" / "significance" / "pairs.csv")
    assert pairs[["only_a_correct", "only_b_correct", "difference"]].to_numpy().tolist() == [[0, 0, 0]]
    ensemble, output = runs / "ensembles" / "soft_vote", tmp_path / "ensemble.csv"
    command("predict", f"ckpt={ensemble}", f"input={images / 'blind'}", f"output={output}", "workers=0")
    saved = pd.read_csv(ensemble / "evaluation" / "new" / "blind_test" / "predictions.csv").sort_values("path")
    np.testing.assert_allclose(pd.read_csv(output).sort_values("path")[COLUMNS], saved[COLUMNS], atol=1e-5)
    command("report", f"runs={runs}")
    report = (runs / "report.md").read_text(encoding="utf-8")
    assert "Training data unknown: theirs may have been trained on " in report
    assert "\n| theirs | imported: predictions | MIT | unknown |" in report


def test_predictions_of_files_are_those_imported_and_of_no_changed_image(run, exported, images, tmp_path, command):
    other, folder = min((images / "all" / "real" / "street").iterdir()), run()
    (tmp_path / "list.txt").write_text(f"{images / 'blind.csv'}\n{other}\n{images / exported[True]['path'][0]}\n")
    words = ["predict", f"ckpt={folder}", f"input=@{tmp_path / 'list.txt'}", f"output={tmp_path / 'out.csv'}"]
    assert "Computed with the imported detector." in command(*words, code=3).err
    table = pd.read_csv(tmp_path / "out.csv")
    assert table["reason"].tolist()[:2] == ["not among the imported predictions"] * 2
    np.testing.assert_allclose(table[COLUMNS].iloc[2], exported[True][COLUMNS].iloc[0].astype(float), atol=1e-7)
    message = "is an imported detector, which has a runtime of its own"
    assert message in command(*words, "runtime=onnx", code=2).err
    message = "is a table of predictions, which has none of images that are changed"
    for line in (words, ["calibrate", f"ckpt={folder}", *data_of(images / "blind.csv")]):
        assert message in command(*line, "stability=true", code=2).err


def test_missing_rows_are_refused_or_counted(run, source, evaluate, tmp_path):
    half, runs = run(lambda table: table.iloc[::2]), tmp_path / "runs"
    assert "has no predictions of 21 of 42 images" in evaluate(half, "block=blind_test", code=3).err
    shutil.copytree(source, runs / "own")
    shutil.copytree(half, runs / "half")
    evaluate(runs, "block=[blind_test,significance]", "allow=[missing_rows]", QUICK[0], FEW_PAIRS)
    for folder, n in ((runs / "half", 21), (runs / "own", 42), (runs, 21)):
        saved = read_result(folder, "new", "significance" if folder == runs else "blind_test")
        assert saved["n"] == n
        missing = [warning["n"] for warning in saved["warnings"] if warning["code"] == "missing_rows"]
        assert missing == [21] * (n == 21)
    evaluate(runs, "block=significance", "allow=[missing_rows]", "view=photo_or_art", FEW_PAIRS)
    warnings = read_result(runs, "new--photo_or_art", "significance")["warnings"]
    left_out = [warning for warning in warnings if warning["code"] == "left_out_of_view"]
    assert left_out == [{"code": "left_out_of_view", "n": 7, "all": 21, "view": "photo_or_art"}]


def test_training_images_of_a_detector_are_guarded(run, images, evaluate, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(read_manifest(images / "blind.csv").frame["sha256"][:3]))
    known = run(lambda table: table, f"trained_on={tmp_path / 'list.txt'}")
    evaluate(known, "block=blind_test", code=3)
    evaluate(known, "block=blind_test", "allow=[overlap]")
    codes = {warning["code"] for warning in read_result(known, "new")["warnings"]}
    assert "training_data_unknown" not in codes
    (known / "trained_on.csv").write_text("path,sha256\n")
    evaluate(known, "block=blind_test", code=4)


def disagree(table):
    return pd.concat([table, table.head(2).assign(prob_real=0.0, prob_drawing=0.5, prob_generated=0.5)])


@pytest.mark.parametrize(
    ("change", "words", "code", "message"),
    [
        (lambda table: table.assign(prob_real=0.5), (), 3, "are no probabilities, first row 1"),
        (lambda table: table.assign(prob_real=float("nan")), (), 3, "42 of 42 rows have no finite number"),
        (lambda table: table.assign(path="no/" + table["path"]), (), 3, "42 of 42 rows without an image"),
        (lambda table: table.assign(path="no/" + table["path"]), ("allow=[missing_rows]",), 3, "without an image"),
        (disagree, (), 3, "2 images with rows that disagree"),
        (lambda table: table[["path"]].assign(score=1.0), (), 2, "which class is a high score"),
        (lambda table: table[["path"]], (), 3, "neither columns prob_<class> nor a column score"),
        (lambda table: table[COLUMNS], (), 3, "expected rows with a column path or sha256"),
        (lambda table: table, ("root=null",), 2, "root=DIR is needed"),
        (lambda table: table, ("classes={real: photo}",), 2, "'drawing' maps to nothing"),
        (lambda table: table, ("classes={photo: real}",), 2, "the detector has no class 'photo'"),
        (lambda table: table, ("options={layout: NCHW}",), 2, "detector.predictions.layout: there is no such option"),
        (lambda table: table, ("file=scores.pickle",), 2, "expected a file that ends in .csv"),
        (lambda table: table, ("columns={pth: path}",), 2, "columns: there is no pth; did you mean path?"),
        (lambda table: table, ("columns={path: paths}",), 2, "has no column paths; did you mean path?"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_nothing_written(change, words, code, message, run, capsys):
    run(change, *words, code=code)
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) <= 3


def test_rows_that_disagree_are_left_out_if_allowed(run):
    detector = read_record(run(disagree, "allow=[missing_rows]"))["detector"]
    assert detector == {"classes": list(CLASSES), "rows": 40, "unmatched": 0, "contradictory": 2}


def test_classes_and_columns_of_somebody_elses_table_are_renamed(run, evaluate, capsys):
    names = {"artificial": "generated", "drawing": "drawing", "real": "real"}
    words = "classes={artificial: generated, drawing: drawing, real: real}"
    folder = run(lambda table: table.rename(columns={"prob_generated": "prob_artificial"}), words)
    record = read_record(folder)
    assert record["classes"] == ["drawing", "generated", "real"]
    assert record["class_map"] == names
    evaluate(folder, "block=blind_test")
    shutil.rmtree(folder)
    theirs = {"path": "filename", "prob_generated": "fake_prob"}
    folder = run(
        lambda table: table[list(theirs)].rename(columns=theirs).assign(path="their own"),
        *(HIGHER, "columns={path: filename, score: fake_prob}"),
    )
    assert "classes generated, not_generated (drawing, real)" in capsys.readouterr().out


def test_a_score_is_evaluated_in_its_view_and_without_threshold_warned_of(run, exported, images, command, tmp_path):
    table = pd.read_csv(images / "blind.csv").query("label != 'drawing'")
    paths = [os.path.relpath(images / path, tmp_path) for path in table["path"]]
    table.assign(path=paths).to_csv(tmp_path / "two.csv", index=False)
    scores = exported[True].set_index("path")["prob_generated"]
    words = [HIGHER, "classes={generated: generated, not_generated: real}"]
    folder = run(lambda table: table[["path"]].assign(score=scores.to_numpy() * 10 - 3), *words)
    data = [*data_of(tmp_path / "two.csv"), "data.workers=0"]
    command("evaluate", f"ckpt={folder}", *BLIND_TEST, *data)
    saved = read_result(folder, "two")
    assert "no_threshold" in {warning["code"] for warning in saved["warnings"]}
    expected = roc_auc_score(table["label"] == "generated", scores[table["path"]])
    assert saved["metrics"]["auroc/generated"]["value"] == pytest.approx(expected, abs=1e-9)
    output = tmp_path / "out.csv"
    err = command("predict", f"ckpt={folder}", f"input={images / 'blind'}", f"output={output}").err
    assert "Fit one on labelled images: avatar-bench calibrate" in err
    written = pd.read_csv(output)
    assert written[["prediction", "confidence"]].isna().all(axis=None)
    assert written["prob_generated"].notna().all()


def test_a_score_with_a_threshold_is_evaluated_in_the_view_of_its_classes(run, exported, evaluate):
    scores = exported[True].set_index("path")["prob_generated"]
    folder = run(lambda table: table[["path"]].assign(score=scores.to_numpy()), HIGHER, "threshold=0.5")
    evaluate(folder, *BLIND_TEST)
    expected = (scores.index.str.contains("/generated/") == (scores >= 0.5)).mean()
    accuracy = read_result(folder, "new--generated_or_not")["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx(expected, abs=1e-9)


def test_a_damaged_folder_is_refused(run, evaluate):
    folder = run()
    table = pd.read_parquet(folder / "detector" / "predictions.parquet")
    table.iloc[1:].to_parquet(folder / "detector" / "predictions.parquet")
    evaluate(folder, "block=blind_test", code=4)
    shutil.rmtree(folder / "detector")  # as in a repository of the hub, which holds no folders
    record = RunRecord(**read_record(folder))
    change_record(folder, checkpoint_sha256=hash_detector(folder / "detector", record))
    message = f"{folder} has no detector/, where the detector is."
    assert message in evaluate(folder, "block=blind_test", code=4).err


def test_an_imported_run_is_not_exported_or_trained(run, tmp_path, command):
    folder = run()
    command("export", f"ckpt={folder}", f"out={tmp_path / 'net.onnx'}", code=3)
    command("train", f"init_from={folder}", f"out={tmp_path / 'new'}", "model=resnet18", "mode=full", code=4)
    command("import", "kind=predictions", "file=x.csv", f"out={folder}", code=3)

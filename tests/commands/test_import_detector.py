"""import: detectors made elsewhere as runs that are evaluated like any other."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from sklearn.metrics import roc_auc_score

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.inference.detectors import import_files
from avatar_bench.runs.imported import hash_detector
from avatar_bench.runs.record import RunRecord

CLASSES = ("drawing", "generated", "real")
COLUMNS = [f"prob_{name}" for name in CLASSES]
BLOCKS = ("blind_test", "error_bias", "prior_shift", "calibration")
QUICK = [*(f"block.{name}.resamples=100" for name in BLOCKS), "block.calibration.corruptions=[]"]


def evaluate(images, ckpt, *words, code=0):
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.name=new", "data.workers=0"]
    assert main(["evaluate", f"ckpt={ckpt}", *data, *words]) == code


def read_metrics(folder, block):
    text = (folder / "evaluation" / "new" / block / "metrics.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["metrics"])


def assert_same(ours, theirs, tolerance, before=""):
    """Compare values and intervals; those of `ours` have a name that starts with `before`."""
    compared = [name for name in theirs if not before or before + name in ours]
    assert len(compared) > 3
    for name in compared:
        for key in ("value", "low", "high"):
            one, other = ours[before + name].get(key), theirs[name].get(key)
            assert (one is None) == (other is None), name
            assert one is None or one == pytest.approx(other, abs=tolerance), (name, key)


@pytest.fixture(scope="module")
def exported(tiny_run, images, tmp_path_factory):
    """Return the predictions of the tiny run on the blind set, calibrated or not, with paths relative to `images`."""
    collected = {}
    for calibrated in (True, False):
        file = tmp_path_factory.mktemp("exported") / "predictions.parquet"
        words = [f"input={images / 'blind'}", f"output={file}", "precision=32", f"calibrated={calibrated}"]
        assert main(["predict", f"ckpt={tiny_run}", *words, "workers=0"]) == 0
        table = pd.read_parquet(file)
        collected[calibrated] = table.assign(path=[str(Path(path).relative_to(images)) for path in table["path"]])
    return collected


@pytest.fixture(scope="module")
def own(tiny_run, images, tmp_path_factory):
    """Return a run evaluated on the blind set; never write into it."""
    left_out = shutil.ignore_patterns("evaluation", "predictions")
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("own") / "own", ignore=left_out))
    evaluate(images, str(run), f"block=[{','.join(BLOCKS)}]", *QUICK)
    return run


def write(table, file):
    if file.suffix == ".csv":
        table.to_csv(file, index=False, float_format="%.17g")
    elif file.suffix == ".jsonl":
        lines = [json.dumps(row) for row in table.astype(object).where(table.notna(), None).to_dict("records")]
        file.write_text("\n".join(lines), encoding="utf-8")
    else:
        table.to_parquet(file, index=False)
    return file


def by_hash(table, images):
    blind = read_manifest(images / "blind.csv").frame.set_index("path")["sha256"]
    return table.assign(sha256=[blind[path] for path in table["path"]]).drop(columns=["path"])


@pytest.fixture
def run(exported, images, tmp_path):
    """Return a function that imports the predictions, as changed by a function, and returns the run folder."""

    def make(change=lambda table: table, *words, code=0):
        file, out = write(change(exported[True]), tmp_path / "scores.csv"), tmp_path / "imported"
        given = ["kind=predictions", f"file={file}", f"root={images}", f"out={out}", *words]
        assert main(["import", *given]) == code
        if code:
            assert not out.exists()
            assert sorted(path.name for path in tmp_path.iterdir() if "imported" in path.name) == []
        return out

    return make


@pytest.mark.parametrize(("suffix", "hashed"), [(".csv", False), (".parquet", True)])
def test_imported_predictions_have_the_metrics_of_their_run(suffix, hashed, own, exported, images, tmp_path):
    for calibrated, before in ((True, "scaled/"), (False, "")):
        table = by_hash(exported[calibrated], images) if hashed else exported[calibrated]
        file, out = write(table, tmp_path / f"scores{suffix}"), tmp_path / f"imported {calibrated}"
        place = [] if hashed else [f"root={images}"]
        known = f"trained_on={own / 'split.csv'}"
        assert main(["import", "kind=predictions", f"file={file}", *place, f"out={out}", known]) == 0
        evaluate(images, str(out), f"block=[{','.join(BLOCKS)}]", *QUICK)
        ours, theirs = (read_metrics(folder, "calibration") for folder in (own, out))
        unscaled = {name: value for name, value in theirs.items() if "/" not in name and name != "temperature"}
        assert_same(ours, unscaled, 1e-6, before)
        for block in BLOCKS[:3] if calibrated else BLOCKS[:1]:
            if calibrated:
                assert_same(read_metrics(own, block), read_metrics(out, block), 1e-6)
        counts = [pd.read_csv(folder / "evaluation" / "new" / "blind_test" / "confusion.csv") for folder in (own, out)]
        pd.testing.assert_frame_equal(*counts)


def test_an_imported_run_is_compared_combined_and_reported(own, images, tmp_path):
    runs, everything = tmp_path / "runs", tmp_path / "everything.jsonl"
    shutil.copytree(own, runs / "own")
    assert (
        main(["predict", f"ckpt={own}", f"input={images}", f"output={everything}", "workers=0"]) == 3
    )  # the manifests
    words = [f"file={everything}", "root=.", "allow=[missing_rows]", "licence=MIT", f"out={runs / 'theirs'}"]
    assert main(["import", "kind=predictions", *words]) == 0
    evaluate(images, str(runs), "block=[blind_test,significance,ensemble]", *QUICK[:1])
    pairs = pd.read_csv(runs / "evaluation" / "new" / "significance" / "pairs.csv")
    assert pairs[["only_a_correct", "only_b_correct", "difference"]].to_numpy().tolist() == [[0, 0, 0]]
    ensemble = runs / "ensembles" / "soft_vote"
    table = tmp_path / "ensemble.csv"
    assert main(["predict", f"ckpt={ensemble}", f"input={images / 'blind'}", f"output={table}", "workers=0"]) == 0
    saved = pd.read_csv(ensemble / "evaluation" / "new" / "blind_test" / "predictions.csv").sort_values("path")
    np.testing.assert_allclose(pd.read_csv(table).sort_values("path")[COLUMNS], saved[COLUMNS], atol=1e-5)
    assert main(["report", f"runs={runs}", "lang=ru"]) == 0
    page = (runs / "report.md").read_text(encoding="utf-8")
    assert "Обучающие данные неизвестны: theirs, возможно" in page
    assert main(["report", f"runs={runs}", "lang=en"]) == 0
    page = (runs / "report.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| theirs | imported: predictions | MIT | unknown |")]
    assert len(rows) == 1


def test_predictions_of_files_are_those_imported(run, exported, images, tmp_path):
    output, other = tmp_path / "out.csv", sorted((images / "all" / "real" / "street").iterdir())[0]
    (tmp_path / "list.txt").write_text(f"{images / 'blind.csv'}\n{other}\n{images / exported[True]['path'][0]}\n")
    words = [f"ckpt={run()}", f"input=@{tmp_path / 'list.txt'}", f"output={output}"]
    assert main(["predict", *words]) == 3
    table = pd.read_csv(output)
    assert table["reason"].tolist()[:2] == ["not among the imported predictions"] * 2
    np.testing.assert_allclose(table[COLUMNS].iloc[2], exported[True][COLUMNS].iloc[0].astype(float), atol=1e-7)


def test_missing_rows_are_refused_or_counted(run, own, images, tmp_path, capsys):
    half = run(lambda table: table.iloc[::2])
    evaluate(images, str(half), "block=blind_test", code=3)
    assert "has no predictions of 21 of 42 images" in capsys.readouterr().err
    runs = tmp_path / "runs"
    shutil.copytree(own, runs / "own")
    shutil.copytree(half, runs / "half")
    evaluate(images, str(runs), "block=[blind_test,significance]", "allow=[missing_rows]", *QUICK[:1])
    for folder, n in ((runs / "half", 21), (runs / "own", 42), (runs, 21)):
        block = "significance" if folder == runs else "blind_test"
        values = json.loads((folder / "evaluation" / "new" / block / "metrics.json").read_text())
        assert values["n"] == n
        assert any(warning["code"] == "missing_rows" and warning["n"] == 21 for warning in values["warnings"]) == (
            n == 21
        )
    evaluate(images, str(runs), "block=significance", "allow=[missing_rows]", "view=photo_or_art")
    values = json.loads((runs / "evaluation" / "new--photo_or_art" / "significance" / "metrics.json").read_text())
    left_out = [warning for warning in values["warnings"] if warning["code"] == "left_out_of_view"]
    assert left_out == [{"code": "left_out_of_view", "n": 7, "all": 21, "view": "photo_or_art"}]


def test_training_images_of_a_detector_are_guarded(run, images, tmp_path):
    (tmp_path / "list.txt").write_text("\n".join(read_manifest(images / "blind.csv").frame["sha256"][:3]))
    known = run(lambda table: table, f"trained_on={tmp_path / 'list.txt'}")
    evaluate(images, str(known), "block=blind_test", code=3)
    evaluate(images, str(known), "block=blind_test", "allow=[overlap]")
    saved = json.loads((known / "evaluation" / "new" / "blind_test" / "metrics.json").read_text())
    assert "training_data_unknown" not in {warning["code"] for warning in saved["warnings"]}
    (known / "trained_on.csv").write_text("path,sha256\n")
    evaluate(images, str(known), "block=blind_test", code=4)


def disagree(table):
    again = table.head(2).assign(prob_real=0.0, prob_drawing=0.5, prob_generated=0.5)
    return pd.concat([table, again])


@pytest.mark.parametrize(
    ("change", "words", "code", "reason"),
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
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_nothing_written(change, words, code, reason, run, capsys):
    run(change, *words, code=code)
    error = capsys.readouterr().err
    assert reason in error
    assert len(error.strip().splitlines()) <= 3


def test_rows_that_disagree_are_left_out_if_allowed(run):
    record = json.loads((run(disagree, "allow=[missing_rows]") / "run.json").read_text())
    assert record["detector"] == {"classes": list(CLASSES), "rows": 40, "unmatched": 0, "contradictory": 2}


def test_classes_are_renamed_by_a_map(run, images):
    def rename(table):
        return table.rename(columns={"prob_generated": "prob_artificial"})

    folder = run(rename, "classes={artificial: generated, drawing: drawing, real: real}")
    record = json.loads((folder / "run.json").read_text())
    assert record["classes"] == ["drawing", "generated", "real"]
    assert record["class_map"] == {"artificial": "generated", "drawing": "drawing", "real": "real"}
    evaluate(images, str(folder), "block=blind_test")


@pytest.mark.parametrize(("scale", "words"), [(1, ()), (40, ("threshold=20",))])
def test_scores_keep_their_order_and_threshold(scale, words, run, exported):
    scores = exported[True]["prob_generated"].to_numpy() * scale
    folder = run(lambda table: table[["path"]].assign(score=scores), "score=higher_is_generated", *words)
    table = pd.read_parquet(folder / "detector" / "predictions.parquet")
    assert table["prob_generated"].nunique() == len(np.unique(scores))
    assert (table["prob_generated"] >= 0.5).sum() == (scores >= scale / 2).sum()
    if not words:
        np.testing.assert_array_equal(np.sort(table["prob_generated"]), np.sort(scores))


def test_a_score_without_threshold_is_warned_of(run, exported, images, tmp_path, capsys):
    table = pd.read_csv(images / "blind.csv").query("label != 'drawing'")
    paths = [os.path.relpath(images / path, tmp_path) for path in table["path"]]
    table.assign(path=paths).to_csv(tmp_path / "two.csv", index=False)
    scores = exported[True]["prob_generated"].to_numpy() * 10 - 3
    words = ["score=higher_is_generated", "classes={generated: generated, not_generated: real}"]
    folder = run(lambda table: table[["path"]].assign(score=scores), *words)
    data = ["data=manifest", f"data.manifest={tmp_path / 'two.csv'}", "data.workers=0"]
    assert main(["evaluate", f"ckpt={folder}", "block=blind_test", *QUICK[:1], *data]) == 0
    saved = json.loads((folder / "evaluation" / "two" / "blind_test" / "metrics.json").read_text())
    assert "no_threshold" in {warning["code"] for warning in saved["warnings"]}
    frame = exported[True].set_index("path").loc[pd.read_csv(images / "blind.csv").query("label != 'drawing'")["path"]]
    is_generated = [path.split("/")[1] == "generated" for path in frame.index]
    assert saved["metrics"]["auroc/generated"]["value"] == pytest.approx(
        roc_auc_score(is_generated, frame["prob_generated"]), abs=1e-9
    )
    capsys.readouterr()
    assert main(["predict", f"ckpt={folder}", f"input={images / 'blind'}", f"output={tmp_path / 'out.csv'}"]) == 0
    assert "Fit one on labelled images: avatar-bench calibrate" in capsys.readouterr().err
    written = pd.read_csv(tmp_path / "out.csv")
    assert written[["prediction", "confidence"]].isna().all(axis=None)
    assert written["prob_generated"].notna().all()


def test_the_classes_of_a_score_are_those_of_the_view_with_their_names(run, exported, images, capsys):
    scores = exported[True]["prob_generated"].to_numpy()
    words = ["score=higher_is_generated", "threshold=0.5"]
    folder = run(lambda table: table[["path"]].assign(score=scores), *words)
    assert "classes generated, not_generated (drawing, real)" in capsys.readouterr().out
    evaluate(images, str(folder), "block=blind_test", *QUICK[:1])
    saved = folder / "evaluation" / "new--generated_or_not" / "blind_test" / "metrics.json"
    expected = np.mean([path.split("/")[1] == "generated" for path in exported[True]["path"]] == (scores >= 0.5))
    assert json.loads(saved.read_text())["metrics"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-9)


def test_a_damaged_folder_is_refused(run, images, capsys):
    folder = run()
    table = pd.read_parquet(folder / "detector" / "predictions.parquet")
    table.iloc[1:].to_parquet(folder / "detector" / "predictions.parquet")
    evaluate(images, str(folder), "block=blind_test", code=4)
    shutil.rmtree(folder / "detector")  # as in a repository of the hub, which holds no folders
    record = json.loads((folder / "run.json").read_text())
    record["checkpoint_sha256"] = hash_detector(folder / "detector", RunRecord(**record))
    (folder / "run.json").write_text(json.dumps(record))
    capsys.readouterr()
    evaluate(images, str(folder), "block=blind_test", code=4)
    assert f"{folder} has no detector/, where the detector is." in capsys.readouterr().err


@pytest.fixture
def words(exported, images, tmp_path):
    """Return the words of an import of tmp_path/scores.csv, without its folder."""
    file = write(exported[True], tmp_path / "scores.csv")
    return ["import", "kind=predictions", f"file={file}", f"root={images}"]


def test_a_second_import_into_one_folder_is_refused_and_the_first_goes_on(words, tmp_path, monkeypatch, capsys):
    codes: list[int] = []

    def import_twice(*given):
        if not codes:
            codes.append(0)
            GlobalHydra.instance().clear()
            codes.append(main([*words, f"out={tmp_path / 'imported'}"]))
        return import_files(*given)

    monkeypatch.setattr("avatar_bench.inference.detectors.import_files", import_twice)
    assert main([*words, f"out={tmp_path / 'imported'}"]) == 0
    assert codes[1] == 5
    assert "another process is writing it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["imported", "scores.csv"]


def test_the_working_folder_cannot_become_a_run(words, tmp_path, monkeypatch, capsys):
    words = [*words, "out=."]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 3
    assert "out=. holds other files" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(words) == 2
    assert "out= is the working folder." in capsys.readouterr().err


def test_an_imported_run_is_not_exported_or_trained(run, tmp_path):
    folder = run()
    assert main(["export", f"ckpt={folder}", f"out={tmp_path / 'net.onnx'}"]) == 3
    assert main(["train", f"init_from={folder}", f"out={tmp_path / 'new'}", "model=resnet18", "mode=full"]) == 4
    assert main(["import", "kind=predictions", "file=x.csv", f"out={folder}"]) == 3


def test_predict_takes_no_runtime_for_an_imported_detector(run, images, tmp_path, capsys):
    words = ["predict", f"ckpt={run(lambda table: table)}", f"input={images / 'blind'}", f"output={tmp_path / 'o.csv'}"]
    assert main([*words, "runtime=onnx"]) == 2
    assert "is an imported detector, which has a runtime of its own" in capsys.readouterr().err
    assert main(words) == 0
    assert "Computed with the imported detector." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "code", "said"),
    [
        ("{path: filename, score: fake_prob}", 0, "classes generated, not_generated"),
        ("{pth: filename}", 2, "columns: there is no pth; did you mean path?"),
        ("{path: file_name}", 2, "has no column file_name; did you mean filename?"),
    ],
)
def test_the_columns_of_somebody_elses_table_are_named(columns, code, said, images, tmp_path, capsys):
    rows = read_manifest(images / "blind.csv").frame["path"]
    theirs = pd.DataFrame({"filename": rows, "fake_prob": np.linspace(0, 1, len(rows)), "path": "their own"})
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    words = ["import", "kind=predictions", f"file={tmp_path / 'theirs.csv'}", "score=higher_is_generated"]
    assert main([*words, f"root={images}", f"out={tmp_path / 'run'}", f"columns={columns}"]) == code
    assert said in "".join(capsys.readouterr())
    assert (tmp_path / "run").exists() == (code == 0)

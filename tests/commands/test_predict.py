"""predict: every kind of input and output, bad files, and outputs that are continued or replaced."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference.input_files import find_input_files
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.runs.ensembles import describe_ensemble, save_ensemble
from avatar_bench.runs.run import Run

COLUMNS = ["path", "status", "reason", "prediction", "confidence", "prob_drawing", "prob_generated", "prob_real"]
PROBABILITIES = COLUMNS[-3:]


def read(file):
    return read_csv(file, keep_default_na=False, dtype={"reason": str})


def read_probabilities(file):
    return read(file)[PROBABILITIES].to_numpy(float)


@pytest.fixture
def predict(tiny_run):
    def run(files, output, *words):
        return main(["predict", f"ckpt={tiny_run}", f"input={files}", f"output={output}", "workers=0", *words])

    return run


@pytest.fixture
def folder(images, tmp_path):
    """Five images of each class and two files that are none."""
    mine = tmp_path / "mine"
    for label in ("drawing", "generated", "real"):
        (mine / label).mkdir(parents=True)
        for file in sorted((images / "blind" / label).rglob("*.*"))[:5]:
            shutil.copy(file, mine / label / file.name)
    (mine / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (mine / "note.txt").write_text("not an image")
    return mine


def test_every_file_has_a_row_and_a_bad_one_costs_its_row_alone(predict, folder, tmp_path, capsys):
    output = tmp_path / "new" / "folder" / "out.csv"
    assert predict(folder, output) == 3
    out, err = capsys.readouterr()
    table, files = read(output), sorted(folder.rglob("*.*"), key=lambda file: (file.parent != folder, file))
    assert list(table) == COLUMNS
    assert table["path"].tolist() == [str(file) for file in files]
    bad, good = (table[table["status"] == status] for status in ("error", "ok"))
    assert {Path(path).name for path in bad["path"]} == {"broken.jpg", "note.txt"}
    assert (bad["reason"] != "").all()
    assert (bad[COLUMNS[3:]] == "").all(axis=None)
    assert (good["reason"] == "").all()
    assert (good["prediction"] == [Path(path).parent.name for path in good["path"]]).mean() > 0.9
    probabilities = good[PROBABILITIES].astype(float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(probabilities.max(axis=1), good["confidence"].astype(float))
    assert ("prob_" + good["prediction"]).tolist() == probabilities.idxmax(axis=1).tolist()
    assert out == f"{output}: 15 predictions, 2 files that could not be read\n"
    lines = [line for line in err.splitlines() if "Such predictions that were right" not in line]
    assert len(lines) == 4  # runtime, accuracy, caution, unreadable files; beside them a line for each class, if any


def test_all_outputs_and_python_say_the_same(predict, folder, tiny_run, tmp_path, capsys):
    for suffix in ("csv", "jsonl", "parquet"):
        assert predict(folder, tmp_path / f"out.{suffix}") == 3
    capsys.readouterr()
    assert predict(folder, "-") == 3
    assert capsys.readouterr().out == (tmp_path / "out.csv").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "out.csv", dtype={"reason": str}).fillna({"reason": ""})
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(list(line) == COLUMNS for line in lines)
    run, files = avatar_bench.load(tiny_run), find_input_files(str(folder))
    others = {"jsonl": pd.DataFrame(lines), "parquet": pd.read_parquet(tmp_path / "out.parquet")}
    for name, other in {**others, "python": run.predict(files)}.items():
        assert list(other) == COLUMNS
        columns = COLUMNS[:2] if name == "python" else COLUMNS[:3]
        assert other[columns].to_numpy().tolist() == table[columns].to_numpy().tolist()
        assert other["prediction"].fillna("").tolist() == table["prediction"].fillna("").tolist()
        tolerance = 1e-7 if name == "python" else 1e-14
        values = (frame[COLUMNS[4:]].astype(float) for frame in (other, table))
        np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance)
    assert run.predict([]).columns.tolist() == COLUMNS


def test_batches_and_workers_change_no_prediction_and_a_lower_precision_little(predict, images, tmp_path):
    ways = {"a": [], "b": ["batch_size=1"], "c": ["batch_size=5", "workers=2"], "32": ["precision=32"]}
    for name, words in {**ways, "16": ["precision=bf16"]}.items():
        assert predict(images / "blind", tmp_path / f"{name}.csv", *words) == 0
    tables = [read(tmp_path / f"{name}.csv") for name in "abc"]
    for table in tables[1:]:
        assert table["path"].tolist() == tables[0]["path"].tolist()
        np.testing.assert_allclose(table[PROBABILITIES], tables[0][PROBABILITIES], atol=1e-6)
    full, half = (read_probabilities(tmp_path / f"{name}.csv") for name in ("32", "16"))
    assert 0 < np.abs(full - half).max() < 0.1


def test_the_temperature_scales_the_probabilities_unless_turned_off(images, tiny_run, tmp_path, capsys):
    run, weights = Run.open(tiny_run), AveragingWeights(np.ones(1), np.ones(1))
    soup = save_ensemble(tmp_path / "soup", describe_ensemble("soup", [run], weights, 0.5, run.classes))
    words = ["predict", f"ckpt={soup}", f"input={images / 'blind'}", "workers=0"]
    assert main([*words, f"output={tmp_path / 'scaled.csv'}"]) == 0
    assert "Probabilities are not calibrated" not in capsys.readouterr().err
    assert main([*words, f"output={tmp_path / 'raw.csv'}", "calibrated=false"]) == 0
    assert "Probabilities are not calibrated" in capsys.readouterr().err
    scaled, raw = (read_probabilities(tmp_path / f"{name}.csv") for name in ("scaled", "raw"))
    sharpened = raw**2
    np.testing.assert_allclose(scaled, sharpened / sharpened.sum(axis=1, keepdims=True), atol=1e-6)
    assert np.abs(scaled - raw).max() > 1e-4


@pytest.mark.parametrize("name", ['it\'s "фото" x=1 (2), [c] ~.jpg', "@d.jpg"])
def test_any_name_works_as_input_and_as_output(name, predict, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(min((images / "blind" / "real").rglob("*.jpg")), name)
    (tmp_path / f"in {name}").mkdir()
    shutil.copy(name, tmp_path / f"in {name}" / name)
    assert predict(name, f"{name}.csv") == 0
    assert read(tmp_path / f"{name}.csv")["path"].tolist() == [name]
    assert predict(f"in {name}", f"{name}.jsonl") == 0
    assert json.loads((tmp_path / f"{name}.jsonl").read_text(encoding="utf-8"))["path"] == f"in {name}/{name}"


def test_a_glob_a_list_and_standard_input_name_files(predict, folder, tmp_path, monkeypatch):
    files = sorted((str(file) for file in (folder / "real").iterdir()), reverse=True)
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n\n", encoding="utf-8")
    (tmp_path / "windows.txt").write_text("\r\n".join(files), encoding="utf-16")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(files).encode())))
    names = {f"{folder}/real/*": files[::-1], f"@{tmp_path / 'list.txt'}": files, "-": files}
    for name, expected in names.items():
        assert predict(name, tmp_path / "out.csv") == 0
        assert read(tmp_path / "out.csv")["path"].tolist() == expected
    assert find_input_files(f"@{tmp_path / 'windows.txt'}") == files
    for name in (".hidden/a.png", ".b.png", "x/y/z/c.png"):
        (tmp_path / "deep" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "deep" / name).touch()
    assert find_input_files(str(tmp_path / "deep")) == [str(tmp_path / "deep/x/y/z/c.png")]


def test_a_score_that_is_not_finite_costs_its_row_alone(tiny_run, images, tmp_path, monkeypatch):
    shutil.copytree(images / "blind" / "real" / "new-real", tmp_path / "in")
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "05.png")
    words = ["predict", str(tmp_path / "in"), f"ckpt={tiny_run}", "workers=0", "runtime=torch"]
    assert main([*words, f"output={tmp_path / 'whole.csv'}"]) == 0
    files, run = [str(file) for file in sorted((tmp_path / "in").iterdir())], Run.open(tiny_run)
    before = pd.concat(run.predict_files(files, embedded=True))["embedding"]
    compute = NetworkPredictor.compute_outputs

    def spoil_black(self, images, precision="32", embedded=True):
        logits, embeddings = compute(self, images, precision)
        logits[images[0].amax(dim=(1, 2, 3)).numpy() == 0, 1] = np.nan
        return logits, embeddings

    monkeypatch.setattr(NetworkPredictor, "compute_outputs", spoil_black)
    assert main([*words, f"output={tmp_path / 'out.csv'}"]) == 3
    whole, table = read(tmp_path / "whole.csv"), read(tmp_path / "out.csv")
    bad = table["path"].str.endswith("05.png")
    errors = [["error", "the network returned a score that is not finite"]]
    assert table.loc[bad, ["status", "reason"]].to_numpy().tolist() == errors
    assert table[~bad].astype(str).equals(whole[~bad].astype(str))
    after = pd.concat(run.predict_files(files, embedded=True))["embedding"]
    assert after.isna().tolist() == bad.tolist()
    np.testing.assert_array_equal(np.stack(after.to_numpy()[~bad]), np.stack(before.to_numpy()[~bad]))


@pytest.mark.parametrize(("suffix", "share"), [("csv", 0.03), ("csv", 0.5), ("jsonl", 0.999)])
def test_an_output_cut_short_is_continued_and_repeats_nothing(suffix, share, predict, folder, tmp_path, capsys):
    def parse(content):
        return pd.read_csv(io.BytesIO(content)) if suffix == "csv" else pd.read_json(io.BytesIO(content), lines=True)

    file = tmp_path / f"out.{suffix}"
    assert predict(folder, file) == 3
    whole = file.read_bytes()
    part = whole[: int(share * len(whole))]
    file.write_bytes(part)
    kept = max(0, part.count(b"\n") - (suffix == "csv"))
    capsys.readouterr()
    predict(folder, file, "update=true")
    assert (f"{kept} rows kept from before" in capsys.readouterr().out) == (kept > 0)
    once = file.read_bytes()
    assert once.splitlines()[:kept] == whole.splitlines()[:kept]
    before, after = parse(whole), parse(once)
    assert after["path"].tolist() == before["path"].tolist()
    # another batch around an image moves its last digits
    np.testing.assert_allclose(after[PROBABILITIES].astype(float), before[PROBABILITIES].astype(float), atol=1e-6)
    assert predict(folder, file, "update=true") == 3  # the rows that are kept have errors
    assert file.read_bytes() == once


def test_an_earlier_output_is_extended_or_replaced_and_another_table_refused(predict, folder, tmp_path, capsys):
    assert predict(folder / "real", tmp_path / "out.parquet") == 0
    assert predict(folder, tmp_path / "out.parquet", "update=true") == 3
    paths = pd.read_parquet(tmp_path / "out.parquet")["path"]
    assert sorted(paths) == sorted(find_input_files(str(folder)))
    assert predict(folder, tmp_path / "out.csv") == 3
    assert predict(folder / "real", tmp_path / "out.csv") == 0
    assert len(read(tmp_path / "out.csv")) == 5
    assert {file.name for file in tmp_path.glob("out*")} == {"out.csv", "out.parquet"}
    (tmp_path / "table.csv").write_text("path,label\na,b\n")
    assert predict(folder, tmp_path / "table.csv", "update=true") == 2
    assert "does not have the columns of this run" in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text() == "path,label\na,b\n"

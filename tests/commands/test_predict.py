"""Tests of predict: every kind of input and output, bad files and interrupted outputs."""

import io
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference.input_files import find_input_files
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.runs.ensembles import describe_ensemble, save_ensemble
from avatar_bench.runs.run import Run

COLUMNS = ["path", "status", "reason", "prediction", "confidence", "prob_drawing", "prob_generated", "prob_real"]
PROBABILITIES = COLUMNS[-3:]
RAW = Path(__file__).parents[3] / "shared" / "data" / "raw"
BROKEN = {
    "drawing-langflow__People Avatar-01-23.svg",
    "drawing-langflow__People Avatar-02-13.svg",
    "pillow__hopper.ico",
    "pillow__hopper.ppm",
    "pillow__hopper_1bit.pbm",
    "pillow__truncated_image.png",
    "pillow__truncated_jpeg.jpg",
}


def read(file):
    return read_csv(file, keep_default_na=False, dtype={"reason": str})


def table_of(content, ending):
    stream = io.BytesIO(content)
    return pd.read_csv(stream) if ending == "csv" else pd.read_json(stream, lines=True)


@pytest.fixture
def predict(tiny_run):
    def run(given, output, *words):
        return main(["predict", f"ckpt={tiny_run}", f"input={given}", f"output={output}", "workers=0", *words])

    return run


@pytest.fixture
def folder(images, tmp_path):
    """Five images of each class and two files that are none."""
    place = tmp_path / "mine"
    for label in ("drawing", "generated", "real"):
        for file in sorted((images / "blind" / label).rglob("*.*"))[:5]:
            (place / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / label / file.name)
    (place / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    (place / "note.txt").write_text("not an image")
    return place


def test_every_file_has_a_row_and_a_bad_one_costs_its_row_alone(predict, folder, tmp_path, capsys):
    assert predict(folder, tmp_path / "out.csv") == 3
    out, err = capsys.readouterr()
    table = read(tmp_path / "out.csv")
    assert list(table) == COLUMNS
    assert table["path"].tolist() == [
        str(file) for file in sorted(folder.rglob("*.*"), key=lambda f: (f.parent != folder, f))
    ]
    bad = table[table["status"] == "error"]
    assert {Path(path).name for path in bad["path"]} == {"broken.jpg", "note.txt"}
    assert (bad["reason"] != "").all()
    assert (bad[COLUMNS[3:]] == "").all(axis=None)
    good = table[table["status"] == "ok"]
    assert (good["reason"] == "").all()
    assert (good["prediction"] == [Path(path).parent.name for path in good["path"]]).mean() > 0.9
    assert out == f"{tmp_path / 'out.csv'}: 15 predictions, 2 files that could not be read\n"
    assert len(err.splitlines()) <= 3


def test_probabilities_are_a_distribution_whose_top_is_the_prediction(predict, images, tmp_path):
    assert predict(images / "blind", tmp_path / "new" / "folder" / "out.csv") == 0
    table = read(tmp_path / "new" / "folder" / "out.csv")
    probabilities = table[PROBABILITIES].to_numpy(float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(probabilities.max(axis=1), table["confidence"].astype(float))
    tops = [PROBABILITIES[k].removeprefix("prob_") for k in probabilities.argmax(axis=1)]
    assert tops == table["prediction"].tolist()


def test_all_outputs_say_the_same(predict, folder, tmp_path, capsys):
    for ending in ("csv", "jsonl", "parquet"):
        assert predict(folder, tmp_path / f"out.{ending}") == 3
    capsys.readouterr()
    assert predict(folder, "-") == 3
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out.csv").read_text(encoding="utf-8")
    table = pd.read_csv(tmp_path / "out.csv", dtype={"reason": str}).fillna({"reason": ""})
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(list(line) == COLUMNS for line in lines)
    for other in (pd.DataFrame(lines), pd.read_parquet(tmp_path / "out.parquet")):
        assert list(other) == COLUMNS
        for column in COLUMNS[:3]:
            assert other[column].tolist() == table[column].tolist()
        assert other["prediction"].fillna("").tolist() == table["prediction"].fillna("").tolist()
        numbers = COLUMNS[4:]
        np.testing.assert_allclose(other[numbers].astype(float), table[numbers].astype(float), atol=1e-14)


def test_a_run_under_python_gives_what_the_command_gives(predict, folder, tiny_run, tmp_path):
    import avatar_bench

    predict(folder, tmp_path / "out.csv")
    files = find_input_files(str(folder))
    table = avatar_bench.load(tiny_run).predict(files)
    assert list(table) == COLUMNS
    assert table["path"].tolist() == files
    kept = pd.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(table[PROBABILITIES].astype(float), kept[PROBABILITIES])
    assert avatar_bench.load(tiny_run).predict([]).columns.tolist() == COLUMNS


def test_the_same_image_in_other_clothes_has_the_same_probabilities(predict, images, tmp_path):
    drawn = sorted((images / "blind" / "real").rglob("*.png"))[0]
    place = tmp_path / "clothes"
    place.mkdir()
    with Image.open(drawn) as image:
        image.load()
        image.save(place / "a.png")
        image.save(place / "b.webp", lossless=True)
        image.convert("RGBA").save(place / "c.png")
        image.save(place / "d.BMP")
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
        image.transpose(Image.Transpose.ROTATE_90).save(place / "e.png", exif=exif)
        hidden = Image.new("RGBA", (image.width, image.height), (255, 0, 0, 0))  # shown on white
        hidden.paste(image.crop((0, 0, 20, 20)), (0, 0))
        hidden.save(place / "f.png")
        white = Image.new("RGB", image.size, "white")
        white.paste(image.crop((0, 0, 20, 20)), (0, 0))
        white.save(place / "g.png")
    assert predict(place, tmp_path / "out.csv") == 0
    probabilities = read(tmp_path / "out.csv")[PROBABILITIES].to_numpy(float)
    assert np.abs(probabilities[:5] - probabilities[0]).max() <= 1e-4
    assert np.abs(probabilities[5] - probabilities[6]).max() <= 1e-4


def test_batches_and_workers_change_no_prediction(predict, images, tmp_path):
    for name, words in {"a": [], "b": ["batch_size=1"], "c": ["batch_size=5", "workers=2"]}.items():
        assert predict(images / "blind", tmp_path / f"{name}.csv", *words) == 0
    tables = [read(tmp_path / f"{name}.csv") for name in "abc"]
    for table in tables[1:]:
        assert table["path"].tolist() == tables[0]["path"].tolist()
        np.testing.assert_allclose(table[PROBABILITIES], tables[0][PROBABILITIES], atol=1e-6)


def test_the_temperature_scales_the_probabilities_unless_turned_off(images, tiny_run, tmp_path):
    run, alone = Run.open(tiny_run), AveragingWeights(np.ones(1), np.ones(1))
    soup = save_ensemble(tmp_path / "soup", describe_ensemble("soup", [run], alone, 0.5, run.classes))
    words = ["predict", f"ckpt={soup}", f"input={images / 'blind'}", "workers=0"]
    assert main([*words, f"output={tmp_path / 'scaled.csv'}"]) == 0
    assert main([*words, f"output={tmp_path / 'raw.csv'}", "calibrated=false"]) == 0
    scaled, raw = (read(tmp_path / f"{name}.csv")[PROBABILITIES].to_numpy(float) for name in ("scaled", "raw"))
    sharpened = raw**2
    np.testing.assert_allclose(scaled, sharpened / sharpened.sum(axis=1, keepdims=True), atol=1e-6)
    assert np.abs(scaled - raw).max() > 1e-4


def test_lower_precision_is_close(predict, images, tmp_path):
    assert predict(images / "blind", tmp_path / "32.csv", "precision=32") == 0
    assert predict(images / "blind", tmp_path / "16.csv", "precision=bf16") == 0
    full, half = (read(tmp_path / f"{name}.csv")[PROBABILITIES].to_numpy(float) for name in ("32", "16"))
    assert 0 < np.abs(full - half).max() < 0.1


@pytest.mark.parametrize("name", ['it\'s "фото" x=1 (2), [c] ~.jpg', "@d.jpg"])
def test_any_name_works_as_input_and_as_output(name, predict, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(sorted((images / "blind" / "real").rglob("*.jpg"))[0], tmp_path / name)
    (tmp_path / f"in {name}").mkdir()
    shutil.copy(name, tmp_path / f"in {name}" / name)
    assert predict(name, f"{name}.csv") == 0
    assert read(tmp_path / f"{name}.csv")["path"].tolist() == [name]
    assert predict(f"in {name}", f"{name}.jsonl") == 0
    assert json.loads((tmp_path / f"{name}.jsonl").read_text(encoding="utf-8"))["path"] == f"in {name}/{name}"


def test_a_glob_a_list_and_standard_input_name_files(predict, folder, tmp_path, monkeypatch):
    files = [str(file) for file in sorted((folder / "real").iterdir())][::-1]
    (tmp_path / "list.txt").write_text("\n".join(files) + "\n\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(files).encode())))
    assert predict(f"{folder}/real/*", tmp_path / "glob.csv") == 0
    assert predict(f"@{tmp_path / 'list.txt'}", tmp_path / "list.csv") == 0
    assert predict("-", tmp_path / "stdin.csv") == 0
    assert read(tmp_path / "glob.csv")["path"].tolist() == files[::-1]
    assert read(tmp_path / "list.csv")["path"].tolist() == files
    assert read(tmp_path / "stdin.csv")["path"].tolist() == files
    (tmp_path / "windows.txt").write_text("\r\n".join(files), encoding="utf-16")
    assert predict(f"@{tmp_path / 'windows.txt'}", tmp_path / "windows.csv") == 0
    assert read(tmp_path / "windows.csv")["path"].tolist() == files


def test_hidden_files_are_left_out_of_folders_and_deep_ones_are_not(tmp_path):
    for name in (".hidden/a.png", ".b.png", "x/y/z/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_input_files(str(tmp_path)) == [str(tmp_path / "x/y/z/c.png")]


def spoil(monkeypatch):
    """Let networks return a score of an image without a grey below 1 that is not finite."""
    compute = NetworkPredictor.compute_outputs

    def compute_outputs(self, images, precision="32", embedded=True):
        logits, embeddings = compute(self, images, precision)
        logits[images[0].amax(dim=(1, 2, 3)).numpy() == 0, 1] = np.nan
        return logits, embeddings

    monkeypatch.setattr(NetworkPredictor, "compute_outputs", compute_outputs)


def test_a_score_that_is_not_finite_costs_its_row_alone(tiny_run, images, tmp_path, monkeypatch):
    shutil.copytree(images / "blind" / "real" / "new-real", tmp_path / "in")
    Image.new("RGB", (40, 40)).save(tmp_path / "in" / "05.png")
    given = ["predict", str(tmp_path / "in"), f"ckpt={tiny_run}", "workers=0", "runtime=torch"]
    assert main([*given, f"output={tmp_path / 'whole.csv'}"]) == 0
    files, run = [str(file) for file in sorted((tmp_path / "in").iterdir())], Run.open(tiny_run)
    embedded = pd.concat(run.predict_files(files, embedded=True))["embedding"]
    spoil(monkeypatch)
    assert main([*given, f"output={tmp_path / 'out.csv'}"]) == 3
    whole, table = read(tmp_path / "whole.csv"), read(tmp_path / "out.csv")
    bad = table["path"].str.endswith("05.png")
    assert bad.sum() == 1
    assert table.loc[bad, ["status", "reason"]].to_numpy().tolist() == [
        ["error", "the network returned a score that is not finite"]
    ]
    assert table[~bad].astype(str).equals(whole[~bad].astype(str))
    again = pd.concat(run.predict_files(files, embedded=True))["embedding"]
    assert [
        collected is None or np.array_equal(collected, one) for collected, one in zip(again, embedded, strict=True)
    ] == [True] * len(files)
    assert again.isna().tolist() == bad.tolist()


def test_a_download_that_was_cut_short_costs_its_row(predict, folder, tmp_path):
    (tmp_path / "cut").mkdir()
    image = Image.open(next((folder / "real").iterdir()))
    for name in ("a.webp", "b.avif", "c.webp"):
        image.save(file := tmp_path / "cut" / name)
        if name != "c.webp":
            data = file.read_bytes()
            file.write_bytes(data[:-200] + bytes(200))
    assert predict(str(tmp_path / "cut"), tmp_path / "out.csv") == 3
    table = read(tmp_path / "out.csv")
    assert table["status"].tolist() == ["error", "error", "ok"]
    assert table["reason"][:2].str.contains("it is truncated: it ends in 64 zeros").all()


@pytest.mark.parametrize(("ending", "keep"), [("csv", 0.03), ("csv", 0.5), ("jsonl", 0.999)])
def test_an_output_cut_short_is_gone_on_with_and_repeats_nothing(ending, keep, predict, folder, tmp_path, capsys):
    file = tmp_path / f"out.{ending}"
    assert predict(folder, file) == 3
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    kept = max(0, whole[: int(keep * len(whole))].count(b"\n") - (ending == "csv"))
    capsys.readouterr()
    predict(folder, file, "update=true")
    assert (f"{kept} rows kept from before" in capsys.readouterr().out) == (kept > 0)
    once = file.read_bytes()
    assert once.splitlines()[:kept] == whole.splitlines()[:kept]
    before, after = (table_of(content, ending) for content in (whole, once))
    assert after["path"].tolist() == before["path"].tolist()
    # another batch around an image moves its last digits
    np.testing.assert_allclose(after[PROBABILITIES].astype(float), before[PROBABILITIES].astype(float), atol=1e-6)
    predict(folder, file, "update=true")
    assert file.read_bytes() == once


def test_update_adds_new_files_to_parquet_too(predict, folder, tmp_path):
    assert predict(folder / "real", tmp_path / "out.parquet") == 0
    assert predict(folder, tmp_path / "out.parquet", "update=true") == 3
    paths = pd.read_parquet(tmp_path / "out.parquet")["path"]
    assert sorted(paths) == sorted(find_input_files(str(folder)))


def test_update_refuses_the_output_of_another_kind_of_run(predict, folder, tmp_path, capsys):
    (tmp_path / "out.csv").write_text("path,label\na,b\n")
    assert predict(folder, tmp_path / "out.csv", "update=true") == 2
    assert "does not have the columns of this run" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "path,label\na,b\n"


def test_without_update_an_earlier_output_is_replaced_when_all_is_done(predict, folder, tmp_path):
    assert predict(folder, tmp_path / "out.csv") == 3
    assert predict(folder / "real", tmp_path / "out.csv") == 0
    assert len(read(tmp_path / "out.csv")) == 5
    assert [file.name for file in tmp_path.glob("out*")] == ["out.csv"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["ckpt=nowhere", "input=a.jpg", "output=o.csv"], 4, "ckpt=nowhere does not exist"),
        (["ckpt=RUN", "input=nothing*", "output=o.csv"], 3, "matches no file"),
        (["ckpt=RUN", "input=@nothing", "output=o.csv"], 3, "@nothing"),
        (["ckpt=RUN", "input=empty", "output=o.csv"], 3, "contains no files"),
        (["a.jpg", "RUN", "output=o.csv"], 2, "is a run, not a folder of images"),
        (["ckpt=RUN", "input=.", "output=a.jpg/o.csv"], 5, "its folder cannot be created"),
        (["ckpt=RUN", "input=.", "output=empty"], 2, ".parquet"),
        (["ckpt=RUN", "input=.", "output=o.xls"], 2, ".parquet"),
        (["ckpt=RUN", "input=.", "output=o.csv", "precision=8"], 2, "precision=8"),
        (["ckpt=RUN", "input=.", "output=o.csv", "engine.actors=2"], 2, "requires engine=ray"),
        (["ckpt=RUN", "input=s3://b/k", "output=o.csv"], 2, "remote files are for engine=ray"),
        (["ckpt=RUN", "input=@list", "output=o.csv"], 2, "there is engine=ray"),
        (["ckpt=RUN", "input=.", "output=o.csv", "engine=ray"], 2, "ends in .parquet"),
        (["ckpt=RUN", "input=.", "output=o.parquet", "engine=ray", "workers=2"], 2, "remove workers"),
        (["ckpt=RUN", "input=.", "output=o.parquet", "engine=ray", "engine.actors=[3,2]"], 2, "[LEAST,MOST]"),
        (["ckpt=RUN", "input=.", "output=o.parquet", "engine=ray"], 2, "avatar-bench[ray]"),
    ],
)
def test_a_mistake_is_told_in_three_lines_at_most(words, code, told, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list").write_text("a.jpg\ns3://bucket/b.jpg\n")
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert main(["predict", *(word.replace("RUN", str(tiny_run)) for word in words)]) == code
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_ends_with_5(predict, folder, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert predict(folder, tmp_path / "locked" / "out.csv") == 5


@pytest.mark.shared
@pytest.mark.skipif(not RAW.is_dir(), reason="there is no ../shared/data/raw")
def test_the_raw_originals_give_69_rows_of_which_seven_say_why_they_failed(predict, tmp_path):
    assert predict(RAW, tmp_path / "out.csv") == 3
    table = read(tmp_path / "out.csv")
    bad = table[table["status"] == "error"]
    assert len(table) == 69
    assert {Path(path).name for path in bad["path"]} == BROKEN
    assert (bad["reason"] != "").all()


def test_predict_says_where_probabilities_are_not_calibrated(run_copy, images, tmp_path, capsys):
    words = ["predict", str(images / "blind" / "real"), f"output={tmp_path / 'rows.csv'}", "workers=0"]
    assert main([*words, f"ckpt={run_copy}", "calibrated=false"]) == 0
    assert "Probabilities are not calibrated" in capsys.readouterr().err

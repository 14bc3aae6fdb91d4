"""Dates as a user meets them: read by prepare, split by train, evaluated by over_time."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from avatar_bench.sources.build import DatasetRecipe, build_dataset
from tests.conftest import draw


@pytest.fixture(scope="module")
def dated(images, tmp_path_factory):
    """A manifest of the tiny images: drawings of 1900, others by number from 2022-01, a few without a date."""
    table = pd.read_csv(images / "all.csv")
    number = table.groupby("label").cumcount()
    table["date"] = [f"202{2 + k // 24}-{k % 24 // 2 + 1:02}" for k in number]
    table.loc[(table["label"] == "drawing") & (number < 20), "date"] = "1900"
    is_generated = table["label"] == "generated"
    table["released"] = np.where(is_generated & (number >= 60), "2024-09", "")
    table.loc[number >= 60, "date"] = ""
    table["path"] = [str(images / path) for path in table["path"]]
    file = tmp_path_factory.mktemp("dated") / "dated.csv"
    table.to_csv(file, index=False)
    return file, table


@pytest.fixture(scope="module")
def run(train, dated, tmp_path_factory):
    out = tmp_path_factory.mktemp("until") / "run"
    return train(out, f"data.manifest={dated[0]}", "data.split.by=date", "data.split.until=2023-06")


def test_train_learns_from_images_until_a_date_and_records_it(run, dated):
    table = dated[1].set_index("path")
    split = pd.read_csv(run / "split.csv", dtype=str, keep_default_na=False)
    dates = split["date"]
    assert (dates[split["split"] != "test"] <= "2023-06").all()
    assert ((dates > "2023-06") | (split["released"] == "2024-09"))[split["split"] == "test"].all()
    n_known = (table["date"] != "").sum() + (table["released"] != "").sum()
    assert n_known - 6 <= len(split) <= n_known  # fewer where copies are of two times
    record = json.loads((run / "run.json").read_text())
    assert (record["split"]["by"], record["split"]["until"]) == ("date", "2023-06")
    assert Run.open(run).card.trained_until == "2023-06"


def test_the_end_of_training_is_drawn_and_false_alarms_of_old_works_counted(run, dated, command):
    command(
        "evaluate", f"ckpt={run}", "block=over_time", "block.over_time.resamples=100", "block.over_time.period=half"
    )
    folder = run / "evaluation" / "test" / "over_time"
    result = Result.load(folder)
    split = pd.read_csv(run / "split.csv", dtype=str, keep_default_na=False)
    test = split[split["split"] == "test"]
    assert result.provenance["training_cut"] == "2023-06"
    assert result.metrics["accuracy/after_cut"].n == len(test)
    assert result.tables["periods"]["period"].tolist() == ["2023-H2", "2024-H1", "2024-H2", "after_cut"]
    assert (folder / "periods.png").is_file()
    assert result.metrics["false_alarms/before_2021"].reason.code == "none_older"


def test_works_older_than_generators_are_evaluated_by_one_command(tiny_run, tmp_path, command, monkeypatch):
    rng = np.random.default_rng(3)
    (tmp_path / "old").mkdir()
    for number in range(6):
        Image.fromarray(draw("drawing", rng)).save(tmp_path / "old" / f"{number}.png")
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    about = "kind: folder, label: drawing, licence: '', author: '', generator: '', homepage: ''"
    source = f"{{{about}, date: 1900, root: {tmp_path / 'old'}}}"
    words = ("~data.sources.voteview_engraved", "~data.sources.facerecognition", f"+data.sources.mine={source}")
    out = command(
        "evaluate",
        f"ckpt={tiny_run.absolute()}",
        "data=human_work",
        "block=over_time",
        *words,
        f"out={tmp_path / 'out'}",
    )
    result = Result.load(tmp_path / "out" / "evaluation" / "human_work" / "over_time")
    metric = result.metrics["false_alarms/before_2021"]
    assert metric.n == 6
    assert metric.low <= metric.value <= metric.high
    assert "dates: 6 of 6 images have one (the source's yaml 6)" in out.err
    assert (tmp_path / "cache" / "human_work" / "manifest.csv").is_file()


def test_prepare_fills_dates_and_says_for_how_many_and_from_where(tmp_path, capsys):
    rng = np.random.default_rng(4)
    packet = b'<x:xmpmeta><rdf:RDF><rdf:Description xmp:CreateDate="2016-07-01"/></rdf:RDF></x:xmpmeta>'
    tags, unset = Image.Exif(), Image.Exif()
    tags.get_ifd(34665)[36867], unset.get_ifd(34665)[36867] = "2014:05:03 12:00:00", "1980:01:01 00:00:00"
    stated = [{"exif": tags}, {"exif": tags}, {"xmp": packet}, {"exif": unset}, {}, {}]
    rows = []
    for number in range(24):
        label = ("drawing", "real")[number % 2]
        Image.fromarray(draw(label, rng)).save(tmp_path / f"{number}.jpg", quality=95, **stated[number // 4])
        rows.append((f"{number}.jpg", label, "2020-03" if number < 3 else "", "2022" if number == 20 else ""))
    pd.DataFrame(rows, columns=["path", "label", "date", "released"]).to_csv(tmp_path / "list.csv", index=False)
    about = dict.fromkeys(("label", "licence", "author", "generator", "homepage"), "")
    source = about | {"kind": "manifest", "file": str(tmp_path / "list.csv")}
    build_dataset(DatasetRecipe(sources={"mine": source}), tmp_path / "out")
    err = capsys.readouterr().err
    assert "dates: 12 of 24 images have one (a table 3, EXIF 5, XMP 4)" in err
    assert "not taken: 4" in err
    assert "release of the generator: known of 1 image" in err
    manifest = pd.read_csv(tmp_path / "out" / "manifest.csv", dtype=str, keep_default_na=False)
    counts = manifest[["date", "date_from"]].value_counts().to_dict()
    assert counts == {("2020-03", "table"): 3, ("2014-05-03", "EXIF"): 5, ("2016-07-01", "XMP"): 4, ("", ""): 12}

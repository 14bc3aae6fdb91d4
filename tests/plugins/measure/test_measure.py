"""The command measure: shares from predictions, images for review, and what it refuses."""

import csv
import json
import os
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyarrow.fs import LocalFileSystem
from scipy.special import softmax

import avatar_bench
from avatar_bench.cli.app import main
from avatar_bench.errors import OutputError
from avatar_bench.files import remote
from avatar_bench.metrics.prior_shift import estimate_prior
from avatar_bench.plugins.measure.estimators import Share, invert_confusion
from avatar_bench.plugins.measure.population import PredictionReader
from avatar_bench.plugins.measure.shares import compare, count_required, maximise_likelihood, plan_review
from avatar_bench.runs.run import Run
from tests.builders.parsed_page import Page
from tests.conftest import draw

CLASSES = ("drawing", "generated", "real")
N, BAD = 900, 3


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The working folder: predictions of images whose class is in their names, and a manifest of all but one."""
    folder, rng = tmp_path_factory.mktemp("population"), np.random.default_rng(0)
    Image.fromarray(draw("generated", rng)).save(folder / "drawn.png")
    truth = rng.choice(3, N, p=(0.3, 0.1, 0.6))
    logits = rng.normal(size=(N, 3)) + 3 * np.eye(3)[truth]
    chances = softmax(logits, axis=1)
    paths = [f"{CLASSES[k]}_{row:03}.png" for row, k in enumerate(truth)]
    for path in paths:
        (folder / path).hardlink_to(folder / "drawn.png")
    predicted = np.array(CLASSES)[chances.argmax(1)]
    table = pd.DataFrame({"path": paths, "status": "ok", "prediction": predicted, "label": "of somebody"})
    table[[f"prob_{name}" for name in CLASSES]] = chances
    bad = pd.DataFrame({"path": [f"bad{row}.png" for row in range(BAD)], "status": "error"})
    pd.concat([table, bad]).to_csv(folder / "predictions.csv", index=False)
    late = rng.random(N) < np.where(truth == 1, 0.8, 0.3)
    dates = np.where(late, "2024-03-01", np.where(rng.random(N) < 0.5, "2024-01-09", "2024-02-28"))
    pd.DataFrame({"path": paths, "date": dates})[:-1].to_csv(folder / "all.csv", index=False)
    with chdir(folder):  # so that paths, by which images are drawn, are the same in each run of the tests
        yield


def measure(*words, code=0):
    assert main(["measure", *map(str, words)]) == code


def list_cards(page):
    """Return the rows that the page writes for its images, and their columns."""
    tags = [attributes for _tag, attributes in Page(page).tags]
    (columns,) = [attributes["data-columns"] for attributes in tags if "data-columns" in attributes]
    rows = csv.reader([attributes["data-start"] for attributes in tags if attributes.get("class") == "card"])
    return pd.DataFrame(rows, columns=columns.split(","))


@pytest.fixture(scope="module")
def review(tmp_path_factory):
    """A page of 150 images, and beside it labels.csv with the truth of each."""
    out = tmp_path_factory.mktemp("review") / "review.html"
    measure("predictions.csv", "review=150", f"out={out}")
    table = list_cards(out)
    names = table["path"].str.extract(r"(\w+)_\d+\.png")[0]
    table.assign(label=names, sampled="random").to_csv(out.with_name("labels.csv"), index=False)
    return out


@pytest.fixture(scope="module")
def measured(review):
    """The page of a measurement by months, from the labels."""
    out = review.with_name("shares.html")
    more = ["by=month", "manifest=all.csv", "width=.1"]
    measure("predictions.csv", f"labels={review.with_name('labels.csv')}", *more, f"out={out}")
    return out


def test_a_page_for_review_states_how_each_image_was_drawn(review):
    table = list_cards(review)
    scores = pd.read_csv("predictions.csv").set_index("path").loc[table["path"], "prob_generated"].to_numpy()
    low, high, rate = table[["score_low", "score_high", "inclusion_probability"]].astype(float).to_numpy().T
    assert len(table) == 150
    assert ((low <= scores) & (scores < high)).all()
    assert (1 / rate).sum() == pytest.approx(N)
    assert len(set(rate)) == 4
    assert "Label every image by what you see" in review.read_text(encoding="utf-8")


def test_shares_are_weighted_by_hand_and_the_truth_is_inside(measured, review):
    saved = json.loads(measured.with_suffix(".measure.json").read_text(encoding="utf-8"))
    assert (saved["n"], saved["errors"], saved["reviewed"]) == (N, BAD, 150)
    shares = pd.DataFrame(saved["shares"]).set_index(["estimator", "class"])
    predictions = pd.read_csv("predictions.csv")
    assert shares.loc[("counting", "real"), "value"] == pytest.approx((predictions["prediction"] == "real").sum() / N)
    truth = predictions["path"].str.extract(r"(\w+)_\d+\.png")[0].value_counts() / N
    labels = pd.read_csv(review.with_name("labels.csv"))
    for name in CLASSES:
        share = shares.loc[("reviewed", name)]
        assert share["low"] <= truth[name] <= share["high"]
        weighted = ((labels["label"] == name) / labels["inclusion_probability"]).sum() / N
        assert share["value"] == pytest.approx(weighted, abs=0.02)  # which the scores make more exact
    strata = pd.read_csv(measured.with_suffix(".strata.csv"))
    assert (strata["n"].sum(), strata["reviewed"].sum()) == (N, 150)
    assert strata["positives"].sum() == (labels["label"] == "generated").sum()


def test_months_of_a_manifest_have_shares_a_trend_and_false_discovery_rates(measured):
    groups = pd.read_csv(measured.with_suffix(".groups.csv")).set_index("group")
    dates = pd.read_csv("all.csv")
    months = dates["date"].str[:7]
    assert groups["n"].to_dict() == months.value_counts().to_dict()  # the image without a date is left out
    truth = dates["path"].str.contains("generated").groupby(months).mean()
    assert ((groups["low"] <= truth) & (truth <= groups["high"])).all()
    p = groups["p"].sort_values()
    adjusted = (p * 3 / np.arange(1, 4))[::-1].cummin()[::-1]
    assert groups.loc[p.index, "p_fdr"].tolist() == pytest.approx(adjusted.tolist())
    (about,) = json.loads(measured.with_suffix(".measure.json").read_text(encoding="utf-8"))["columns"]
    assert about["left_out"] == [""]
    assert about["slope"] > 0
    assert about["p_trend"] < 0.05


def test_two_shares_are_compared_as_by_a_normal_test():
    first, second = Share(0.3, 0.3 - 0.0392, 0.3 + 0.0392), Share(0.2, 0.2 - 0.0294, 0.2 + 0.0294)
    assert compare(first, second) == pytest.approx(6.334e-5, rel=1e-3)  # of z = 4
    assert compare(first, first) == 1


def test_pages_state_the_share_in_both_languages_and_ask_for_labels(measured, review, tmp_path, capsys):
    text, out = measured.read_text(encoding="utf-8"), tmp_path / "m.html"
    assert "of 900 images are generated (95 %; 150 reviewed images)" in text
    assert "3 files without a prediction are left out" in text
    measure("predictions.csv", f"labels={review.with_name('labels.csv')}", "lang=ru", f"out={out}")
    assert "Доля класса «создано ИИ» среди 900 изображений" in out.read_text(encoding="utf-8")
    assert "reviewed images" not in out.read_text(encoding="utf-8")
    assert "of 900 images are generated" in capsys.readouterr().out
    measure("predictions.csv", f"out={out}", "width=.03")
    said = capsys.readouterr()
    assert "only reviewed images show: review=200 out=review.html" in said.out
    assert "width=0.03: about" in said.out
    assert "Without ckpt, nothing is known of the errors" in said.err


def test_errors_are_those_of_the_calibration_images_of_the_run(tiny_run, images, tmp_path):
    words = [f"ckpt={tiny_run}", f"input={images / 'blind'}", "workers=0", "runtime=torch", "precision=32"]
    assert main(["predict", *words, f"output={tmp_path / 'p.csv'}"]) == 0
    measure(tmp_path / "p.csv", f"ckpt={tiny_run}", f"out={tmp_path / 'm.html'}", "target=real")
    shares = pd.read_csv(tmp_path / "m.shares.csv").set_index(["estimator", "class"])
    run = Run.open(tiny_run)
    known = run.predictions(run.dataset("calibration"))
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (known.targets, known.predicted), 1)
    counts = pd.read_csv(tmp_path / "p.csv")["prediction"].value_counts().reindex(run.classes, fill_value=0)
    for name, share in zip(run.classes, invert_confusion(counts, confusion), strict=True):
        assert tuple(shares.loc[("adjusted", name), ["value", "low", "high"]]) == pytest.approx(share[:3])
    assert shares.loc["em", "value"].sum() == pytest.approx(1, abs=1e-6)


def test_parts_of_parquet_are_measured_like_the_table_and_python_returns_the_shares(tmp_path):
    table = pd.read_csv("predictions.csv")
    (tmp_path / "parts.parquet").mkdir()
    for part, rows in enumerate(np.array_split(np.arange(len(table)), 3)):
        table.iloc[rows].to_parquet(tmp_path / "parts.parquet" / f"{part}.parquet")
    addresses = "predictions.csv", tmp_path / "parts.parquet", f"file://{tmp_path / 'parts.parquet'}"
    first, *others = (avatar_bench.measure(address, out=tmp_path / "m.html") for address in addresses)
    for other in others:
        pd.testing.assert_frame_equal(first, other)
    drawn = avatar_bench.measure(addresses[1], review=40, out=tmp_path / "r.html")
    assert sorted(drawn["path"]) == sorted(list_cards(tmp_path / "r.html")["path"])


def test_a_narrower_interval_needs_more_images():
    population = PredictionReader("predictions.csv").scan("generated")
    wide, narrow = (count_required(population, "generated", width) for width in (0.1, 0.04))
    expected = plan_review(population, "generated", wide)[1]
    assert wide < narrow < N
    assert expected.high - expected.low <= 0.1
    assert count_required(population, "generated", 1e-6) == N


def test_cells_of_alike_probabilities_are_as_good_as_rows_for_em():
    population, training = PredictionReader("predictions.csv").scan("generated"), np.array([0.4, 0.3, 0.3])
    chances = pd.read_csv("predictions.csv").filter(like="prob_").dropna().to_numpy()
    expected = estimate_prior(chances, training, np.ones((1, N)), training, 1e-9, 2000)[0]
    values = [share.value for share in maximise_likelihood(population, training)]
    assert values == pytest.approx(expected, abs=1e-4)


def change(column, value, rows=slice(None)):
    def apply(table):
        table.loc[table.index[rows], column] = value
        return table

    return apply


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change("path_hash", "h0", slice(1)), "1 of 150 images were not drawn from these predictions"),
        (lambda table: table.drop(columns="inclusion_probability"), "has no column inclusion_probability"),
        (lambda table: table[:29], "29 reviewed images are too few"),
        (change("sampled", "selected", slice(125, None)), "25 labels are left out"),
        (lambda table: table[:100], "50 of the images drawn have no label"),
        (change("label", "fake", slice(1)), "label 'fake' is none of the predictions' classes"),
        (lambda table: pd.concat([table, *(table[:1].assign(label=name) for name in CLASSES)]), "two labels"),
        (change("score_low", 0.0), "are not as the page has them"),
        (change("path_hash", "drawing_000.png", slice(1)), "are not as the page has them"),
        (change("path_hash", f"h1{16 * '0'}", slice(1)), "are not as the page has them"),
        (change("seed", 7), "were not drawn from these predictions"),
    ],
)
def test_labels_that_cannot_be_weighted_are_refused(review, tmp_path, capsys, alter, message):
    table = alter(pd.read_csv(review.with_name("labels.csv")))
    table.to_csv(tmp_path / "labels.csv", index=False)
    is_warning = "left out" in message or "have no label" in message
    words = [f"labels={tmp_path / 'labels.csv'}", f"out={tmp_path / 'm.html'}"]
    measure("predictions.csv", *words, code=0 if is_warning else 3)
    assert message in capsys.readouterr().err


def test_predictions_of_two_detectors_are_refused(tmp_path, capsys):
    table = pd.read_csv("predictions.csv")
    table.to_parquet(tmp_path / "0.parquet")
    table.rename(columns={"prob_real": "prob_photo"}).to_parquet(tmp_path / "1.parquet")
    measure(tmp_path, code=3)
    assert "holds predictions of two detectors: 0.parquet has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alter", "words", "code", "message"),
    [
        (lambda table: pd.concat([table, table[:2]]), [], 3, "2 rows repeat the path of another, such as"),
        (change("prediction", "real"), [], 0, "No image is predicted as generated"),
        (change("prediction", np.nan, slice(1)), [], 3, "the prediction is none of the classes (drawing, gene"),
        (lambda table: table[["path"]], [], 3, "holds no predictions"),
        (
            lambda table: table.astype(object).replace("bad0.png", "not utf-8 \udcff.png"),
            [],
            0,
            "3 files without a prediction",
        ),
        (change("status", "error"), [], 3, "has no row of an image that was read"),
        (lambda table: table, ["target=fake"], 2, "Expected one of drawing, generated, real"),
        (lambda table: table, ["by=month"], 2, "by=month: there is no such column"),
        (lambda table: table, ["review=50", "labels=x.csv"], 2, "review draws new images"),
        (lambda table: table.assign(path=table.index.astype(str)), ["review=50"], 3, "images drawn can be read"),
    ],
)
def test_predictions_and_options_that_make_no_sense(tmp_path, capsys, alter, words, code, message):
    alter(pd.read_csv("predictions.csv")).to_csv(tmp_path / "p.csv", index=False, errors="surrogateescape")
    measure(tmp_path / "p.csv", *words, f"out={tmp_path / 'm.html'}", code=code)
    err = capsys.readouterr().err
    assert message in err
    assert code == 0 or err.count("\n") <= 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("numbers", "words"),
    [((-5, 3, 3), []), ((9, 9, 9), ["review=40"]), ((0.5, 0.3, 0.1), []), ((np.nan, 0.5, 0.5), ["review=40"])],
)
def test_impossible_probabilities_are_refused_with_their_line(tmp_path, capsys, suffix, numbers, words):
    table = pd.read_csv("predictions.csv").astype(object)
    table.iloc[7, -3:] = numbers
    table.iloc[-1, -3:] = 9  # of a file that failed
    table.loc[2, "path"] = "two\nlines.png"
    if suffix == "csv":
        table.to_csv(tmp_path / "p.csv", index=False)
    elif suffix == "jsonl":
        table.to_json(tmp_path / "p.jsonl", orient="records", lines=True)
    else:
        table.astype({f"prob_{name}": float for name in CLASSES}).to_parquet(tmp_path / "p.parquet")
    measure(tmp_path / f"p.{suffix}", *words, f"out={tmp_path / 'm.html'}", code=3)
    place = {"csv": "line 10", "jsonl": "line 8", "parquet": "row 8"}[suffix]
    err = capsys.readouterr().err
    assert f"p.{suffix}, {place} ({table.loc[7, 'path']}): " in err
    assert "are no probabilities of drawing, generated, real: from 0 to 1, whose sum is 1 within 0.02" in err
    assert err.count("\n") <= 3
    assert not (tmp_path / "m.html").exists()


def test_texts_for_probabilities_are_refused_and_rounded_ones_are_not(tmp_path, capsys):
    table = pd.read_csv("predictions.csv")
    names = [f"prob_{name}" for name in CLASSES]
    table.assign(**{names[0]: "=1+1"}).to_parquet(tmp_path / "p.parquet")
    measure(tmp_path / "p.parquet", f"out={tmp_path / 'm.html'}", code=3)
    assert "row 1 (" in capsys.readouterr().err
    table.round(dict.fromkeys(names, 4)).to_csv(tmp_path / "p.csv", index=False)
    measure(tmp_path / "p.csv", f"out={tmp_path / 'm.html'}")


@pytest.fixture
def requests(monkeypatch):
    """Addresses that were opened, instead of which an answer depends on the host."""
    addresses = []

    def open_remote(address):
        addresses.append(address)
        if "//silent/" in address:
            raise OutputError(f"{address} cannot be read: timeout.", "Go on later.")
        return LocalFileSystem(), os.path.abspath(Path("drawn.png" if "//there/" in address else "none"))

    monkeypatch.setattr(remote, "open_remote", open_remote)
    return addresses


def test_a_bad_row_costs_its_row_and_addresses_are_asked_with_the_users_word_alone(tmp_path, capsys, requests):
    table = pd.read_csv("predictions.csv")[:40].astype({"path": object})
    private = tmp_path / "own"
    private.mkdir()
    paths = {
        0: "s3://there/secret/a.png",
        1: "s3://silent/b.png",
        2: "s3://silent/c.png",
        3: "s3://gone/d.png",
        4: str(private / "here.png"),
        5: str(private / "missing.png"),
        6: "nul\0.png",
        7: "x" * 5000,
        8: "not utf-8 \udcff.png",
        9: str(private),
    }
    (private / "here.png").hardlink_to("drawn.png")
    (private / "text.png").write_text("no image")
    table.loc[list(paths), "path"] = list(paths.values())
    table.loc[10, "path"] = str(private / "text.png")
    table.to_csv(tmp_path / "p.csv", index=False, errors="surrogateescape")
    for allow, shown, reason in (("[]", 30, "only asked with allow=[addresses]"), ("[addresses]", 31, "timeout")):
        requests.clear()
        measure(tmp_path / "p.csv", "review=40", f"allow={allow}", f"out={tmp_path / 'review.html'}")
        page = (tmp_path / "review.html").read_text(encoding="utf-8")
        assert requests == ([] if allow == "[]" else [paths[row] for row in (0, 1, 3)])  # a silent host is asked once
        assert reason in page
        assert page.count('<li class="card"') == len(list_cards(tmp_path / "review.html")) == shown
        assert str(tmp_path) not in page
        assert "secret" not in page
        for name in ("here.png", "missing.png", "text.png", "b.png"):
            assert name in page
        said = capsys.readouterr()
        assert f"{shown} images of 40" in said.out
        assert f"{40 - shown} of 40 images drawn cannot be read; the page says why" in said.err
    labels = list_cards(tmp_path / "review.html").assign(label="real", sampled="random")
    labels.to_csv(tmp_path / "reviewed.csv", index=False)
    measure(tmp_path / "p.csv", f"labels={tmp_path / 'reviewed.csv'}", f"out={tmp_path / 'm.html'}")
    assert "31 reviewed images" in (tmp_path / "m.html").read_text(encoding="utf-8")
    assert "9 of the images drawn have no label" in capsys.readouterr().err


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "mine.html").write_text("my page")
    for words in (["review=40"], []):
        measure("predictions.csv", *words, f"out={tmp_path / 'mine.html'}", code=5)
    assert (tmp_path / "mine.html").read_text() == "my page"
    measure("predictions.csv", "review=40", f"out={tmp_path / 'review.html'}")
    measure("predictions.csv", f"out={tmp_path / 'review.html'}", code=5)
    (tmp_path / "ours.groups.csv").write_text("mine")
    measure("predictions.csv", f"out={tmp_path / 'ours.html'}", code=5)
    assert (tmp_path / "ours.groups.csv").read_text() == "mine"
    for _again in range(2):
        measure("predictions.csv", f"out={tmp_path / 'shares.html'}")


@pytest.mark.slow
def test_labels_come_back_from_a_browser(visit, tmp_path):
    measure("predictions.csv", "review=32", f"out={tmp_path / 'review.html'}")
    opened = visit(tmp_path / "review.html")
    opened.get_by_role("button", name="Start with a random sample of 32").press("Enter")
    for _ in range(32):
        path = str(opened.locator(":focus").get_attribute("data-start")).split(",")[0]
        opened.keyboard.press(str(1 + next(k for k, name in enumerate(CLASSES) if path.startswith(name))))
    assert "Random sample: 32 of 32. The random sample is complete." in opened.locator(".progress").inner_text()
    with opened.expect_download() as waiting:
        opened.get_by_role("button", name="Download the manifest").press("Enter")
    waiting.value.save_as(tmp_path / "reviewed.csv")
    shares = avatar_bench.measure("predictions.csv", labels=tmp_path / "reviewed.csv", out=tmp_path / "m.html")
    assert set(shares["estimator"]) == {"counting", "reviewed"}
    assert "32 reviewed images" in (tmp_path / "m.html").read_text(encoding="utf-8")

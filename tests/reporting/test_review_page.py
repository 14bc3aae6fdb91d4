"""The page for review as predict writes it, in a browser, and its manifest as calibrate reads it."""

import csv
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from avatar_bench.cli.app import main
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.inference.prediction_writer import MAX_PAGE_IMAGES
from avatar_bench.reporting.prediction_outputs.html import NEAREST
from tests.builders.commands import copy_run, data_of
from tests.builders.parsed_page import Page
from tests.commands.test_languages import KEPT, WORD, Texts
from tests.conftest import SOURCES, draw_set

CLASSES = ("drawing", "generated", "real")
ODD = "<img src=x onerror=alert(1)>;=1+1, 'q' \"d\" Ёж.png"
GENERATOR = "a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, Model: sd"
SPOKEN = (
    *("aria-label", "alt", "title", "placeholder", "data-words", "data-progress", "data-done"),
    *(f"data-{name}" for name in ("confirmed", "corrected", "skipped", "sure", "unsaved")),
)
QUICK = "workers=0"


def read_cards(file):
    return [attrs for _tag, attrs in Page(file).tags if attrs.get("class") == "card"]


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """Return a copy of the tiny run that decides; never write into it."""
    root = tmp_path_factory.mktemp("calibrated")
    draw_set(root, "fit", 64, SOURCES, seed=2)
    copy = copy_run(tiny_run, root / "run")
    calibrate(copy, root / "fit.csv", "stability=true")
    return copy


@pytest.fixture(scope="module")
def batch(images, tmp_path_factory):
    """Return a folder of 42 images, of which one has an odd name and one names its generator, and a broken file."""
    folder = tmp_path_factory.mktemp("batch") / "mine & yours"
    shutil.copytree(images / "blind", folder)
    first, second, *_others = sorted((folder / "real").rglob("0*.png"))
    first.rename(first.with_name(ODD))
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", GENERATOR)
    with Image.open(second) as image:
        image.save(second, pnginfo=info)
    (folder / "broken.png").write_bytes(b"\x89PNG no more")
    return folder


@pytest.fixture(scope="module")
def page(run, batch, tmp_path_factory):
    """Return a page with everything on it, and the table of the same predictions beside it."""
    folder = tmp_path_factory.mktemp("page")
    words = [f"ckpt={run}", f"input={batch}", "target_error=.2", "evidence=true", "stability=true", QUICK]
    more = [f"explain={folder / 'cams'}", "neighbours=true"]
    assert main(["predict", *words, *more, f"output={folder / 'page.html'}"]) == 3  # one file is broken
    assert main(["predict", *words, f"output={folder / 'page.csv'}"]) == 3
    return folder / "page.html"


def test_the_page_shows_each_image_in_order_of_need_and_loads_nothing(page):
    cards, table = read_cards(page), pd.read_csv(page.with_suffix(".csv"), keep_default_na=False)
    good = table[table["status"] == "ok"]
    assert len(cards) == len(good) == 42
    ranks = {"abstained": 0, "unlike": 1, "unstable": 2, "contradicted": 3, "": 4}
    order = [(ranks[card["data-needs"].split(" ")[0]], float(card["data-confidence"])) for card in cards]
    assert order == sorted(order)
    contradicted = (good["evidence_says"] != "") & (good["evidence_says"] != good["prediction"])
    needs = {"abstained": good["decision"] == "abstain", "unstable": good["flips_on"] != ""}
    for need, holds in (needs | {"contradicted": contradicted}).items():
        assert sum(need in card["data-needs"].split() for card in cards) == holds.sum()
    assert contradicted.sum() == 1
    assert sorted(int(card["data-draw"]) for card in cards) == list(range(1, 43))
    parsed = Page(page)
    stable = parsed.text.count("<dt>Answer after slight changes</dt><dd>the same</dd>")
    assert stable == (good["stability"] == "1.0").sum()
    addresses = [address for name in ("src", "href", "srcset", "poster") for address in parsed.list_values(name)]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src 'none'" in parsed.text
    assert parsed.text.count('<figure class="cam">') == 42
    assert parsed.text.count('alt="training image: ') == 42 * NEAREST
    assert "broken.png" in parsed.text
    assert parsed.text.count("at most 20 % of the answers are incorrect, for new images") == 1
    for caution in ("does not prove its origin", "can be far less accurate", "metadata can be forged or stripped"):
        assert parsed.text.count(caution) == 1


def test_rows_begin_with_path_and_sha256_and_another_page_keeps_their_random_order(page, run, batch, tmp_path):
    rows = list(csv.reader([card["data-start"] for card in read_cards(page)]))
    assert {Path(path) for path, _ in rows if "'" not in path} <= set(batch.rglob("*.*"))
    assert all(sha256_of_file(Path(path)) == digest for path, digest in rows if Path(path).exists())
    (odd,) = [path for path, _ in rows if "onerror" in path]
    assert odd == str(batch / "real" / "new-real" / ODD)  # a formula inside of a text is none
    plain = tmp_path / "plain.html"
    assert main(["predict", f"ckpt={run}", f"input={batch}", f"output={plain}", QUICK]) == 3
    first, second = ({card["data-start"]: card["data-draw"] for card in read_cards(file)} for file in (page, plain))
    assert first == second
    assert "Nearest training images" not in plain.read_text(encoding="utf-8")
    assert "No decisions were asked for" in plain.read_text(encoding="utf-8")


def test_a_russian_page_holds_no_english(run, batch, page, tmp_path):
    table = pd.read_csv(page.with_suffix(".csv"))
    (reason,) = table.loc[table["status"] == "error", "reason"]
    russian, shown = tmp_path / "page.html", Texts()
    words = [f"ckpt={run}", f"input={batch}", f"output={russian}", QUICK, "lang=ru"]
    more = ["target_error=.2", "evidence=true", "stability=true", f"explain={tmp_path}", "neighbours=true"]
    assert main(["predict", *words, *more]) == 3
    names = [str(batch), batch.name, ODD, "calibrated0/run", "Enter"]
    names += [name for label in CLASSES for name in (f"new-{label}", f"{label}/", *SOURCES[label])]
    parsed = Page(russian)
    shown.feed(parsed.text)
    texts, english = {*shown.found, *(text for name in SPOKEN for text in parsed.list_values(name))}, []
    for text in texts:
        plain = text
        for name in names:
            plain = plain.replace(name, " ")
        plain = re.sub(r"{\w+}|\S+\.(?:png|jpg|webp)", " ", plain)
        english += [text] if {*WORD.findall(plain)} - {*KEPT} else []
    # evidence is what a file says, and the reason of a failure is that of the table
    assert [text for text in english if "parameters" not in text and not reason.endswith(text)] == []
    assert len(texts) > 60


def test_more_images_than_a_page_holds_are_refused_before_anything_is_computed(run, batch, tmp_path, capsys):
    listed, file = tmp_path / "list.txt", tmp_path / "page.html"
    listed.write_text(f"{batch / 'broken.png'}\n" * (MAX_PAGE_IMAGES + 1))
    assert main(["predict", f"ckpt={run}", f"input=@{listed}", f"output={file}"]) == 2
    err = capsys.readouterr().err
    assert "2,001 files, but a page for review has at most 2,000" in err
    assert "input=@list.txt" in err
    assert len(err.splitlines()) <= 3
    assert not file.exists()


def test_an_interrupted_page_leaves_the_earlier_one(run, batch, tmp_path, monkeypatch, capsys):
    from avatar_bench.inference.network_predictor import NetworkPredictor

    def stop_late(self, files, *options):
        if any("new-real" in path for path, _ in files):
            raise KeyboardInterrupt
        return tabulate(self, files, *options)

    tabulate, file = NetworkPredictor.tabulate, tmp_path / "page.html"
    file.write_text(earlier := '<ol class="cards" data-key="1">')
    monkeypatch.setattr(NetworkPredictor, "tabulate", stop_late)
    assert main(["predict", f"ckpt={run}", f"input={batch}", f"output={file}", QUICK, "batch_size=8"]) == 130
    assert "no page is written" in capsys.readouterr().err
    assert [written.name for written in tmp_path.iterdir()] == ["page.html"]
    assert file.read_text() == earlier


def calibrate(run, manifest, *words, code=0):
    assert main(["calibrate", f"ckpt={run}", *data_of(manifest), QUICK, *words]) == code
    return dict(json.loads((run / "calibration.json").read_text(encoding="utf-8"))) if code == 0 else {}


def test_calibrate_takes_the_random_images_alone_unless_it_is_allowed(run_copy, images, tmp_path, capsys):
    table = pd.read_csv(images / "blind.csv").sample(frac=1, random_state=0)
    table["path"] = [str(images / path) for path in table["path"]]
    table["sha256"] = [sha256_of_file(Path(path)) for path in table["path"]]
    table["sampled"] = ["random"] * 30 + ["selected"] * 12
    manifest = tmp_path / "reviewed.csv"
    table[["path", "sha256", "label", "sampled"]].to_csv(manifest, index=False)
    saved = calibrate(run_copy, manifest)
    assert (len(saved["images"]), saved["allow"]) == (30, [])
    assert "12 images of reviewed selected for review left out" in capsys.readouterr().err
    saved = calibrate(run_copy, manifest, "allow=[selected]")
    assert (len(saved["images"]), saved["allow"]) == (42, ["selected"])
    text = manifest.read_text(encoding="utf-8")
    for changed, message in (
        (text.replace(",random", ",selected"), "none of its 42 images was drawn at random"),
        (text.replace(",random", ",by hand", 1), r"\.(png|jpg|webp): sampled is 'by hand'"),
    ):
        manifest.write_text(changed, encoding="utf-8")
        calibrate(run_copy, manifest, code=3)
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_images_are_labelled_by_keyboard_and_calibrate_reads_the_manifest(page, run_copy, visit, tmp_path):
    opened = visit(page)
    assert opened.locator(".labels:visible").count() == 42
    opened.get_by_role("button", name="Start with a random sample of 42").press("Enter")
    truths = {}
    for number in range(40):
        card = opened.locator(":focus")
        path = next(csv.reader([str(card.get_attribute("data-start"))]))[0]
        truth = next(name for name in CLASSES if f"/{name}/" in path)
        predicted = card.get_attribute("data-prediction")
        key = "s" if number == 3 else "c" if truth == predicted else str(CLASSES.index(truth) + 1)
        opened.keyboard.press(key)
        if key != "s":
            truths[path] = truth
    opened.keyboard.press("u")
    opened.keyboard.press(key)
    status = "Labelled: 39; skipped: 1. Random sample: 40 of 42."
    assert opened.locator(".progress").inner_text() == status
    opened.reload()
    assert opened.locator(".progress").inner_text() == status
    with opened.expect_download() as waiting:
        opened.get_by_role("button", name="Download the manifest").press("Enter")
    saved = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(saved)
    table = pd.read_csv(saved)
    assert dict(zip(table["path"], table["label"], strict=True)) == truths
    assert set(table["sampled"]) == {"random"}
    assert len(calibrate(run_copy, saved)["images"]) == 39


@pytest.mark.slow
def test_filters_order_odd_names_and_gaps_in_a_random_beginning(page, visit, tmp_path):
    opened = visit(page)
    needs, search = opened.get_by_label("Why review is needed"), opened.get_by_role("searchbox")
    shown = opened.locator(".card:visible")
    needs.select_option("contradicted")
    assert shown.count() == 1
    assert "1 of 42 images shown" in opened.locator(".controls [role=status]").inner_text()
    needs.select_option("")
    search.fill("onerror")
    assert shown.count() == 1
    assert ODD in shown.text_content()  # what is out of sight may not be laid out yet
    assert opened.locator("img[onerror], main script").count() == 0
    search.fill("")
    opened.locator("select[name=order]").select_option("confidence")
    values = [float(card.get_attribute("data-confidence")) for card in opened.locator(".card").all()]
    assert values == sorted(values)
    opened.get_by_label("Grad-CAM").check()
    assert opened.locator("figure.cam:visible").count() == 42
    opened.get_by_role("button", name="Start with a random sample of 42").click()
    for key in ("1", "1", "ArrowRight", "1"):  # the third is left out
        opened.keyboard.press(key)
    assert "Random sample: 2 of 42." in opened.locator(".progress").inner_text()
    with opened.expect_download() as waiting:
        opened.get_by_role("button", name="Download the manifest").click()
    waiting.value.save_as(tmp_path / "saved.csv")
    assert pd.read_csv(tmp_path / "saved.csv")["sampled"].tolist() == ["random", "random", "selected"]


@pytest.mark.slow
def test_axe_finds_no_serious_violation(page, visit, axe):
    opened = visit(page)
    opened.evaluate(f"() => {{ {axe}\n }}")
    for width, theme in ((390, "light"), (1400, "dark")):
        opened.set_viewport_size({"width": width, "height": 900})
        opened.emulate_media(color_scheme=theme)
        assert opened.evaluate("document.scrollingElement.scrollWidth") <= width
        opened.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        if theme == "light":
            opened.get_by_role("button", name="Start with a random sample of 42").click()
            for key in "c1s":
                opened.keyboard.press(key)
        violations = opened.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [rule for rule in violations if rule["impact"] in ("serious", "critical")]
        assert [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in serious] == []

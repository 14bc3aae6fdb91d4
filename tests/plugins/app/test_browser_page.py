"""The page that classifies in a browser: what it contains, and that it predicts and decides as `predict` does."""

import base64
import gzip
import html
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.data.equalise import resize_to_square
from avatar_bench.data.mask import Mask
from avatar_bench.errors import DataError
from avatar_bench.inference import runtimes
from avatar_bench.plugins.app import browser_page
from avatar_bench.plugins.app.web_runtime import BINARY, SCRIPT, load_web_runtime
from tests.builders.commands import copy_run, data_of

pytestmark = pytest.mark.skipif(bool(runtimes.find_missing_package("onnx")), reason="the extra export is not installed")
SHARED = Path(__file__).parents[4] / "shared" / "data"
RESAMPLING = Path(browser_page.__file__).parent / "templates" / "resampling.js"
KINDS = ("settings", "words")
DECODED = "text => Uint8ClampedArray.from(atob(text), (letter) => letter.charCodeAt(0))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with files that are named as those of the runtime, for pages that no browser opens."""
    root = tmp_path_factory.mktemp("runtime")
    (root / SCRIPT).write_text("var a=1;export{a as env};\n", encoding="utf-8")
    (root / BINARY).write_bytes(b"\0asm")
    return root


@pytest.fixture(scope="module")
def calibrated(tiny_run, images, tmp_path_factory):
    """A copy of the tiny run, calibrated on the external test set."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("run") / "copy")
    assert main(["calibrate", f"ckpt={run}", *data_of(images / "blind.csv"), "workers=0"]) == 0
    return run


@pytest.fixture(scope="module")
def plain(calibrated, folder, tmp_path_factory):
    """A Russian page with the folder's runtime."""
    file = tmp_path_factory.mktemp("page") / "checker.html"
    assert main(["export", f"ckpt={calibrated}", f"out={file}", f"web_runtime={folder}", "lang=ru"]) == 0
    return file


def test_the_page_contains_network_runtime_cautions_and_licence(plain):
    import onnx

    page = plain.read_text(encoding="utf-8")
    packed = dict(re.findall(r'<script type="text/plain" id="(\w+)">([^<]*)', page))
    assert gzip.decompress(base64.b64decode(packed["binary"])) == b"\0asm"
    network = onnx.load_model_from_string(gzip.decompress(base64.b64decode(packed["network"])))
    assert [output.name for output in network.graph.output] == ["logits", "probabilities", "embeddings"]
    texts = html.unescape(page)
    assert "происхождения оно не доказывает" in texts
    assert "она может ошибаться гораздо чаще" in texts
    assert "Permission is hereby granted, free of charge" in texts
    assert 'lang="ru"' in page
    assert "<dd>рисунок, создано ИИ, настоящее фото</dd>" in texts
    assert "Доля верных ответов этой модели" in texts
    settings, words = (json.loads(html.unescape(re.findall(rf'id="{name}">([^<]*)', page)[0])) for name in KINDS)
    assert settings["classes"] == ["drawing", "generated", "real"]  # those of the CSV
    assert words["percentile"].endswith("дальше, чем {percent} % из них друг от друга.")


def test_the_page_may_load_nothing(plain):
    page = plain.read_text(encoding="utf-8")
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0])
    rules = {name: words for name, *words in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["connect-src"] == ["'none'"]
    assert rules["img-src"] == ["blob:", "data:"]
    assert [word for word in rules["script-src"] if not word.startswith("'sha256-")] == ["'wasm-unsafe-eval'"]
    assert not re.search(r'\b(?:src|href)="(?!data:|#)', page)


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["out=net.onnx", "lang=ru"], 2, "lang=ru: for a page"),
        (["out=net.onnx", "allow=[large_page]"], 2, "for a page"),
        (["out=net.html", "web_runtime=nowhere"], 2, "does not contain the runtime"),
        (["out=net.html", "target_error=.05", "costs=costs.yaml"], 2, "exclude each other"),
        (["out=net.html", "target_error=.001"], 3, "needs"),
        pytest.param(["out=net.html"], 2, "allow=[large_page]", marks=pytest.mark.slow),
    ],
)
def test_a_mistake_is_one_error_and_leaves_nothing(
    words, code, named, calibrated, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(browser_page, "MAX_PAGE_MB", 0.1)
    runtime = [] if "out=net.onnx" in words or "web_runtime=nowhere" in words else [f"web_runtime={folder}"]
    assert main(["export", f"ckpt={calibrated}", *words, *runtime]) == code
    err = capsys.readouterr().err
    assert named in err
    assert len(err.splitlines()) <= 4  # with a note on decisions
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [{"equalise": "jpeg"}, {"mask": Mask(corners=0.1).to_dict()}])
def test_a_run_that_changes_images_for_its_network_is_refused(change, run_copy, reseal, folder, tmp_path, capsys):
    file = run_copy / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["avatar_bench"]["preprocessing"] |= change
    torch.save(checkpoint, file)
    reseal(file)
    assert main(["export", f"ckpt={run_copy}", f"out={tmp_path / 'page.html'}", f"web_runtime={folder}"]) == 2
    assert "which a page cannot do" in capsys.readouterr().err


@pytest.mark.slow
def test_images_are_resized_as_by_the_package(chromium):
    rng = np.random.default_rng(0)
    window = chromium.new_page()
    window.add_script_tag(content=RESAMPLING.read_text(encoding="utf-8"))
    sizes = ((32, 32), (96, 96), (64, 45), (15, 90), (1, 200), (300, 3), (33, 31))
    for (height, width), resize in product(sizes, ("squash", "crop", "pad")):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        data = base64.b64encode(image.tobytes()).decode()
        values = window.evaluate(
            f"([text, width, height, resize]) => [...resizeToSquare({{data: ({DECODED})(text), width, height}}, 32, "
            "resize).data]",
            [data, width, height, resize],
        )
        difference = np.abs(np.reshape(values, (32, 32, 3)) - resize_to_square(image, 32, resize).astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.1  # of noise, whose means often lie halfway between two shades
    window.close()


@pytest.fixture(scope="module")
def web_runtime():
    """Get the runtime; skip where npm or the network is missing."""
    try:
        load_web_runtime(None)
    except DataError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("npm cannot fetch the runtime")


def classify(visit, page, files):
    """Open a page without a network, drop files on it, and return what the card of each states."""
    window = visit(page, offline=True)
    window.wait_for_selector("#files:enabled", state="attached")
    window.set_input_files("#files", files)
    window.wait_for_function("n => document.querySelectorAll('.card[data-state]').length === n", arg=len(files))
    return list(
        window.evaluate(
            "[...document.querySelectorAll('.card')].map((card) => ({ ...card.dataset, text: card.innerText }))"
        )
    )


def predict(run, files, folder, *words):
    (folder / "files.txt").write_text("\n".join(map(str, files)) + "\n", encoding="utf-8")
    options = [f"ckpt={run}", f"input=@{folder / 'files.txt'}", f"output={folder / 'out.csv'}"]
    assert main(["predict", *options, "precision=32", "workers=0", *words]) in (0, 3)
    return pd.read_csv(folder / "out.csv", keep_default_na=False)


def count_different(table, cards):
    """Return how many decisions differ from those of `predict`; fail where a probability does by more than 2e-2."""
    expected = table[[name for name in table if name.startswith("prob_")]].to_numpy(dtype=float)
    values = np.array([json.loads(card["probabilities"]) for card in cards])
    assert np.abs(values - expected).max() <= 2e-2
    columns = {"decision": "decision", "decision_reason": "reason", "prediction_set": "set"}
    stated = pd.DataFrame([{name: card[key].replace(",", "|") for name, key in columns.items()} for card in cards])
    return int((stated != table[list(columns)]).any(axis=1).sum())


def save_odd_images(folder):
    """Write an image in all the ways that the package reads and browsers may not."""
    rng = np.random.default_rng(3)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = small.resize((80, 60), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[274] = 6
    faded = image.copy()
    faded.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "turned.jpg", exif=exif, quality=95)
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    image.convert("L").save(folder / "grey.jpg", quality=95)
    faded.save(folder / "faded.png")
    faded.save(folder / "faded.webp", lossless=True)
    image.convert("P").save(folder / "palette.gif", save_all=True, append_images=[faded.convert("P")])
    Image.fromarray(rng.integers(0, 2**16, (40, 50), dtype=np.uint16)).save(folder / "deep.png")
    image.save(folder / "plain.bmp")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def checker(web_runtime, calibrated, tmp_path_factory):
    """A page that decides, with the real runtime."""
    page = tmp_path_factory.mktemp("checker") / "checker.html"
    assert main(["export", f"ckpt={calibrated}", f"out={page}", "target_error=.3"]) == 0
    return page


@pytest.mark.slow
def test_the_table_is_sorted_and_saved_with_the_columns_of_predict(visit, checker, calibrated, images, tmp_path):
    odd = tmp_path / '=1,"a".png'
    files = sorted((images / "blind").rglob("*.png"))[:8]
    odd.write_bytes(files[0].read_bytes())
    (tmp_path / "note.txt").write_text("no image")
    window = visit(checker, offline=True)
    window.wait_for_selector("#files:enabled", state="attached")
    window.set_input_files("#files", [*files, odd, tmp_path / "note.txt"])
    window.wait_for_selector(".results tbody tr:nth-child(10)")
    window.get_by_role("button", name="confidence").click()
    with window.expect_download() as saved:
        window.click("#save")
    table = pd.read_csv(saved.value.path())
    expected = predict(calibrated, files, tmp_path, "target_error=.3")
    assert list(table) == list(expected)
    assert table["confidence"].dropna().is_monotonic_decreasing
    assert table["status"].iloc[-1] == "error"
    assert "'" + odd.name in set(table["path"])
    cards = window.locator(".card figcaption").all_inner_texts()
    assert cards == [name.removeprefix("'") for name in table["path"]]


@pytest.mark.slow
def test_odd_images_are_decoded_and_decided_as_by_predict(visit, checker, calibrated, tmp_path):
    (tmp_path / "images").mkdir()
    files = save_odd_images(tmp_path / "images")
    table = predict(calibrated, files, tmp_path, "target_error=.3")
    bad = tmp_path / "<img src=x onerror=alert(1)>.jpg"
    bad.write_text("<svg onload=alert(1)>", encoding="utf-8")
    Image.new("RGB", (9, 9)).save(tmp_path / "scan.tif")
    *cards, foreign, scan = classify(visit, checker, [*files, bad, tmp_path / "scan.tif"])
    assert count_different(table, cards) == 0
    assert foreign["state"] == scan["state"] == "failed"
    assert bad.name in foreign["text"]
    assert "SVG is not supported" in foreign["text"]
    assert "this browser cannot read TIFF" in scan["text"]


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.usefixtures("web_runtime")
@pytest.mark.skipif(not SHARED.is_dir(), reason="there are no shared images")
def test_fifty_images_are_decided_as_by_predict(visit, tmp_path):
    rows = pd.read_csv(SHARED / "blind.csv")
    rows["path"] = [str(SHARED / path) for path in rows["path"]]
    rows.iloc[::3].to_csv(tmp_path / "calibration.csv", index=False)
    run, page = tmp_path / "run", tmp_path / "checker.html"
    data = [*data_of(SHARED / "avatars.csv"), "data.limit=150", "data.workers=0"]
    assert main(["train", "model=efficientnet_lite0", "mode=probe", *data, "logger=none", f"out={run}"]) == 0
    assert main(["calibrate", f"ckpt={run}", *data_of(tmp_path / "calibration.csv"), "workers=0"]) == 0
    assert main(["export", f"ckpt={run}", f"out={page}", "target_error=.45"]) == 0
    assert page.stat().st_size < 35e6
    files = [Path(path) for path in rows["path"].iloc[5::6][:50]]
    table = predict(run, files, tmp_path, "target_error=.45")
    assert len(files) == 50
    assert count_different(table, classify(visit, page, files)) <= 2

"""Results: strict JSON, atomic folders, and reading back."""

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avatar_bench.i18n import _, use_language
from avatar_bench.metrics.plots import draw_training_curves
from avatar_bench.reporting.saved_result import SavedResult, read_saved
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import METRICS_FILE, Metric, Result, has_figures, redraw

matplotlib.use("Agg")


def draw(saved):
    """Draw a figure with a text of the current language, from the saved arrays."""
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot(saved.arrays["maps"]["first"])
    figure.text(0, 0, _("accuracy"))
    return {"curve": figure}


def result():
    metrics = {"accuracy": Metric(2 / 3, 3, 0.2, 0.9, "wilson"), "chance": Metric(0.5, 3, higher_is_better=None)}
    metrics |= {"f1/б": Metric(None, 0, reason=Reason("no_images_of_class"))}
    metrics |= {"nll": Metric(0.7, 3, higher_is_better=False)}
    tables = {"scores": pd.DataFrame({"path": ["a, b.png", "я.png"], "value": [1 / 3, 1e-17]})}
    made = Result("blind_test", "blind", 3, ("a", "б"), metrics, tables, {"maps": {"first": np.eye(2)}})
    made.warnings, made.provenance = [Reason("few_images", name="б", n=3)], {"seed": 42}
    return made


def test_a_saved_result_is_read_back_with_texts_of_digits_and_empty_ones_as_text(tmp_path):
    made = result()
    read = Result.load(made.save(tmp_path / "deep" / "blind_test"))
    assert (read.block, read.set, read.n, read.classes) == ("blind_test", "blind", 3, ("a", "б"))
    assert read.metrics == made.metrics
    assert read.warnings == [Reason("few_images", name="б", n=3)]
    assert read.provenance == {"seed": 42}
    assert read.arrays == {}
    pd.testing.assert_frame_equal(read.tables["scores"], made.tables["scores"], check_exact=True)
    columns = {"target": ["0", "NA"], "source": ["", ""], "group": ["1.0", ""], "n": [1, 2], "sure": [True, None]}
    saved = Result("block", "test", 2, ("0", "NA"), tables={"images": pd.DataFrame(columns)})
    table = Result.load(saved.save(tmp_path / "block")).tables["images"]
    texts = table[["target", "source", "group"]].fillna("")
    assert texts.to_dict("list") == {name: columns[name] for name in texts}
    assert table["n"].tolist() == [1, 2]


def test_files_have_names_of_their_content_and_figures_of_another_language_are_drawn_from_them(tmp_path):
    folder = result().save(tmp_path / "blind_test", draw)
    assert {file.name for file in folder.iterdir()} == {
        "metrics.json",
        "scores.csv",
        "maps.npz",
        "curve.png",
        "curve.svg",
    }
    np.testing.assert_array_equal(np.load(folder / "maps.npz")["first"], np.eye(2))
    before = (folder / METRICS_FILE).read_bytes()
    assert has_figures(folder, ["curve"], "en")
    assert not has_figures(folder, ["curve"], "ru")
    with use_language("ru"):
        redraw(folder, draw, "ru")
    assert has_figures(folder, ["curve"], "ru")
    assert "доля верных ответов" in (folder / "ru" / "curve.svg").read_text(encoding="utf-8")
    assert "accuracy" in (folder / "curve.svg").read_text(encoding="utf-8")
    assert (folder / METRICS_FILE).read_bytes() == before
    assert [file.name for file in folder.iterdir() if file.is_dir()] == ["ru"]


def test_images_are_no_figures_which_are_saved_as_matplotlib_draws_them(tmp_path):
    made, image = result(), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    made.images["overlays/0001_я"] = image
    folder = made.save(tmp_path / "blind_test", draw)
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "overlays" / "0001_я.png")), image)
    saved = read_saved(folder)
    assert isinstance(saved, SavedResult)
    assert saved.result.figures == ["curve"]
    assert saved.image_folders == {"overlays": 1}
    assert Result.load_if_complete(folder) is not None
    (folder / "overlays" / "0001_я.png").unlink()
    assert Result.load_if_complete(folder) is None
    table = pd.DataFrame({"epoch": [0, 1], "val/loss": [0.9, 0.4], "val/accuracy": [0.5, 0.8]})
    draw_training_curves(table).savefig(tmp_path / "plain.png")
    saved = Result("confusion", "blind", 3, ("a", "b"))
    once, again = (
        saved.save(tmp_path / name, lambda _: {"confusion": draw_training_curves(table)}) for name in ("once", "again")
    )
    files = (tmp_path / "plain.png", once / "confusion.png")
    np.testing.assert_array_equal(*(np.asarray(Image.open(file).convert("RGB")) for file in files))
    vectors = (once / "confusion.svg").read_text(encoding="utf-8")
    assert "epoch" in re.findall(r"<text[^>]*>([^<]*)", vectors)
    assert vectors == (again / "confusion.svg").read_text(encoding="utf-8")


def test_the_json_is_strict_and_of_the_schema_and_another_schema_is_not_read(tmp_path):
    def refuse(word):
        raise AssertionError(word)

    text = (result().save(tmp_path / "x") / "metrics.json").read_text(encoding="utf-8")
    body = json.loads(text, parse_constant=refuse)
    assert list(body)[:5] == ["block", "schema", "set", "n", "classes"]
    assert body["schema"] == 3
    assert body["metrics"]["accuracy"] == {
        "value": 2 / 3, "low": 0.2, "high": 0.9, "n": 3, "interval": "wilson", "higher_is_better": True,
        "unit": "image", "units": 3, "population": "these sources",
    }  # fmt: skip
    assert body["metrics"]["f1/б"]["value"] is None
    assert body["metrics"]["f1/б"]["reason"] == {"code": "no_images_of_class"}
    assert "б" in text
    (tmp_path / "x" / "metrics.json").write_text(text.replace('"schema": 3', '"schema": 99'), encoding="utf-8")
    assert Result.load_if_complete(tmp_path / "x") is None
    with pytest.raises(ValueError, match="schema is 99; expected 3"):
        Result.load(tmp_path / "x")


def test_metrics_state_what_they_count_and_must_be_finite_or_have_a_reason(tmp_path):
    for number, field in product((np.nan, np.inf, -np.inf), ("value", "low", "high")):
        with pytest.raises(ValueError, match=f"{field} must be finite"):
            Metric(**{"value": 0.5, "n": 1, field: number})
    with pytest.raises(ValueError, match="reason"):
        Metric(None, 0)
    with pytest.raises(TypeError, match="must be a Reason"):
        Metric(None, 0, reason="a sentence")
    result().save(tmp_path / "x")
    other = result()
    other.provenance = {"loss": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        other.save(tmp_path / "x")
    assert Result.load(tmp_path / "x").provenance == {"seed": 42}  # the earlier result stays
    units = {None: "image", "wilson": "image", "wilson by group": "group", "paired bootstrap by group": "group"}
    units |= {"bootstrap by source": "source", "bootstrap by pass": "pass"}
    metrics = {str(interval): Metric(0.5, 10, 0.4, 0.6, interval) for interval in units}
    folder = Result("block", "set", 20, ("a",), metrics=metrics).save(tmp_path / "block")
    saved = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert [metric.unit for metric in metrics.values()] == list(units.values())
    assert [saved[str(interval)].get("unit") for interval in units] == [None, *list(units.values())[1:]]
    assert Result.load(folder).metrics == metrics


def test_writers_at_once_do_no_harm_and_saving_again_leaves_nothing_of_the_earlier_result(tmp_path):
    def write(number):
        for __ in range(25):
            made = Result("block", "test", number, ("a",), tables={"numbers": pd.DataFrame({"x": range(200)})})
            made.save(tmp_path / "test" / "block")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert Result.load_if_complete(tmp_path / "test" / "block") is not None
    assert [file.name for file in (tmp_path / "test").iterdir()] == ["block"]
    result().save(tmp_path / "x")
    left = tmp_path / ".x.1234.part"  # as a killed process leaves it
    left.mkdir()
    (left / "stale.csv").touch()
    os.utime(left, (0, 0))
    Result("blind_test", "blind", 0, ("a",)).save(tmp_path / "x")
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["metrics.json"]
    assert not left.exists()


def test_a_result_that_cannot_take_its_place_leaves_the_earlier_one(tmp_path, monkeypatch):
    (tmp_path / "block").write_text("no folder")
    folder = result().save(tmp_path / "block")  # in place of a file
    before = (folder / "metrics.json").read_text()
    rename = Path.rename

    def refused(self, target):
        if self.suffix == ".part":
            raise PermissionError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(PermissionError):
        result().save(folder)
    assert (folder / "metrics.json").read_text() == before
    assert list(tmp_path.iterdir()) == [folder]

    def refuse_layer(self, target):  # as of a container
        if self == folder:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_layer)
    Result("block", "test", 4, ("a",)).save(folder)
    assert Result.load(folder).n == 4
    assert list(tmp_path.iterdir()) == [folder]

"""Predictions whose figures are known beforehand, and a stand-in for the Run that made them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import Leakage
from avatar_bench.errors import BlockError
from avatar_bench.i18n import use_language
from avatar_bench.results.predictions import Predictions, to_string_array
from avatar_bench.results.result import Result, draw_figures
from avatar_bench.results.view import View
from avatar_bench.runs.decisions import NEIGHBOURS
from avatar_bench.runs.record import RunRecord
from avatar_bench.runs.saved_calibration import DecisionImages, OodReference, SavedCalibration

CLASSES = ("drawing", "generated", "real")


def make(targets, logits, **fields):
    """Return Predictions with groups of one image, four sources a class and two empty features, or these fields."""
    n = len(targets)
    classes = fields.pop("classes", CLASSES)
    plain = {
        "embeddings": np.zeros((n, 2), np.float32),
        "paths": to_string_array(f"{i}.png" for i in range(n)),
        "groups": to_string_array(f"g{i}" for i in range(n)),
        "sources": to_string_array(f"s{target}{i % 4}" for i, target in enumerate(targets)),
    }
    others = {key: to_string_array(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Predictions(classes, np.asarray(logits, np.float32), targets=np.asarray(targets, np.int64), **plain | others)


@pytest.fixture
def draw_saved(tmp_path):
    """Draw the figures of a Result as they are drawn from its files, in the current language."""

    def draw(result):
        return draw_figures(Result.load(result.save(tmp_path / "drawn" / result.block), arrays=True))

    return draw


@pytest.fixture
def drawn_whole(inside):
    """Assert that the figures of a saved Result have these names and lie inside their pages, in both languages."""

    def check(folder, names):
        result, figures = Result.load(folder, arrays=True), []
        for language in ("en", "ru"):
            with use_language(language):
                drawn = draw_figures(result)
            assert set(drawn) == names
            assert [name for name, figure in drawn.items() if not inside(figure)] == []
            figures += drawn.values()
        return figures

    return check


@pytest.fixture(scope="session")
def make_predictions():
    return make


@pytest.fixture(scope="session")
def oracle():
    """Build Predictions of `n` images, targets in turn, of a network of one kind.

    "perfect": right with confidence 1. "uniform": all probabilities nearly equal, ties broken at random. "noisy": right
    mostly. ("permuted", order): noisy, its outputs in another order. Embeddings (N, 8) lean to the target as logits do.
    """

    def build(kind, n=240, classes=3, seed=0):
        rng = np.random.default_rng(seed)
        targets = np.arange(n) % classes
        names = CLASSES if classes == len(CLASSES) else tuple(f"class{index}" for index in range(classes))
        signal = {"perfect": 1000.0, "uniform": 0.0}.get(str(kind), 3.0)
        spread = {"perfect": 0.0, "uniform": 1e-4}.get(str(kind), 1.0)
        logits = spread * rng.normal(size=(n, classes)) + signal * np.eye(classes)[targets]
        if isinstance(kind, tuple):
            logits = logits[:, list(kind[1])]
        embeddings = rng.normal(size=(n, 8)) + min(signal, 4) * np.eye(8)[targets]
        return make(targets, logits, classes=names, embeddings=embeddings.astype(np.float32))

    return build


@pytest.fixture(scope="session")
def dataset_of():
    """Build a stand-in for the Dataset of some Predictions: frame, image(row) and name, of grey images."""

    def build(predictions, name="test", **columns):
        labels = [predictions.classes[target] if target >= 0 else "" for target in predictions.targets]
        plain = {"path": predictions.paths, "label": labels, "source": predictions.sources, "group": predictions.groups}
        blank = dict.fromkeys(
            ("generator", "split", "width", "height", "format", "jpeg_quality", "date", "released"), ""
        )
        frame = pd.DataFrame(plain | {"sha256": [f"{i:064x}" for i in range(len(labels))]} | blank | columns)
        grey = np.full((8, 6, 3), 128, np.uint8)
        shape = {"__len__": lambda self: len(labels)}
        fields = {"frame": frame, "image": lambda self, row: grey, "name": name, "fingerprint": name, "digest": name}
        return type("Dataset", (), shape | fields)()

    return build


@pytest.fixture(scope="session")
def calibrated(dataset_of):
    """Build the field of a run that was calibrated on Predictions, the even ones of them as reference.

    The distance of a reference image is that to its fifth nearest among the others.
    """

    def build(held, **columns):
        is_reference = np.arange(len(held)) % 2 == 0
        unit = held.embeddings / np.linalg.norm(held.embeddings, axis=1, keepdims=True)
        gaps = np.linalg.norm(unit[:, None] - unit[None, is_reference], axis=2)
        gaps[np.flatnonzero(is_reference), np.arange(is_reference.sum())] = np.inf
        distances = np.sort(gaps, axis=1)[:, NEIGHBOURS - 1]
        reference = OodReference(held.embeddings[is_reference], distances[is_reference])
        lower = np.searchsorted(np.sort(reference.distances), distances, side="right") / len(reference.distances)
        percentiles = np.where(is_reference, 50.0, 100 * lower)
        decisions = DecisionImages(held.classes, held.probabilities, is_reference, percentiles, reference)
        keys = [f"{i + 10**6:064x}" for i in range(len(held))]
        other = {"sha256": keys, "group": np.char.add("held ", held.groups)} | columns
        images = Dataset("held", Path(), dataset_of(held).frame.assign(**other))
        return {"decision_calibration": SavedCalibration("", "all", 1.0, None, {}, images, "", decisions=decisions)}

    return build


@pytest.fixture(scope="session")
def fake_run():
    """Build a stand-in for a Run from the Predictions of its sets.

    `variations` maps a Variation to Predictions; `blind` and `ood` are (dataset, Predictions) and a mapping of names to
    such pairs. What is left out raises BlockError, or is not there, as on a Run that lacks it.
    """

    def build(predictions, calibration=None, training=None, variations=None, blind=None, ood=None, **fields):
        known = {name: pair[1] for name, pair in (ood or {}).items()} | ({"blind": blind[1]} if blind else {})

        def require(of_images):
            if of_images is None:
                raise BlockError("the run does not know these images.")
            return of_images

        def vary(dataset, wanted):
            return [variations(variation) if variations else predictions for variation in wanted]

        plain = dict.fromkeys(("decision_calibration", "folder", "temperature_fit", "history"))
        plain |= {"seed": 0, "name": "a/run", "label": "run", "recipe": "run", "config": {}, "allow": frozenset()}
        plain |= {"classes": predictions.classes, "temperature": predictions.temperature, "view": View()}
        plain |= {
            "merged_classes": {name: (name,) for name in predictions.classes},
            "leakage": Leakage([], [], ()),
            "saved": lambda block, name: None,
            "predictions": lambda dataset: known.get(dataset.name, predictions),
            "variations": vary,
            "calibration": lambda dataset: require(calibration),
            "training": lambda: require(training),
            "blind": blind[0] if blind else None,
            "predictor": SimpleNamespace(prepare=fields.get("preprocessing")),
            "provides": frozenset(
                ["predictions", "pixels", "variations", "embeddings", "module", "own_classes", "decisions"]
            ),
            "ood": {name: pair[0] for name, pair in (ood or {}).items()},
        }
        run = SimpleNamespace(**plain | fields)
        run.record = RunRecord(**fields.get("record", {}))
        run.dataset = lambda name: run.images.select_split(name)
        return run

    return build


@pytest.fixture(scope="session")
def colour_finder():
    """Build a Classifier for 64 pixels whose evidence is known: class k looks at one colour, cell by cell.

    `colours` are those of the classes, 0 to 2. The map of a class has side `cells` and is its colour's mean in each
    cell, above a mean of `above`; empty where its `weight` is negative.
    """
    import torch
    from torch import nn

    from avatar_bench.models.classifier import Classifier
    from avatar_bench.models.model_card import Card

    class Finder(nn.Module):
        def __init__(self, colours, cells, above, weight):
            super().__init__()
            side = 64 // cells
            self.feature_info = [{"module": "cells", "num_chs": 3, "reduction": side}]
            self.cells, self.head = nn.Conv2d(3, 3, side, side), nn.Linear(3, len(colours))
            with torch.no_grad():
                self.cells.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, side, side) / side**2)
                self.cells.bias.fill_(2 - 4 * above)  # a pixel of 0..1 arrives as 4 x - 2
                self.head.weight.copy_(weight * torch.eye(3)[list(colours)])

        def forward_features(self, images):
            return self.cells(images).relu()

        def forward_head(self, features, pre_logits=False):
            return features.mean(dim=(2, 3))

        def get_classifier(self):
            return self.head

        def group_matcher(self, coarse=False):
            return {"stem": "cells", "blocks": "head"}

    def build(colours=(0, 1, 2), cells=8, above=0.0, weight=80.0):
        card = Card(CLASSES, "colours", {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
        return Classifier(card, Finder(colours, cells, above, weight)).eval()

    return build


@pytest.fixture(scope="session")
def noise():
    """Draw uint8 images (n, 3, 64, 64) of 8 x 8 cells; no two cells of an image have as much of a colour."""
    import torch

    def draw(n, seed=0):
        levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (n, 3, 256))
        small = np.random.default_rng(seed).permuted(levels, axis=2)[:, :, :64].reshape(n, 3, 8, 8)
        return torch.from_numpy(small.repeat(8, axis=2).repeat(8, axis=3))

    return draw

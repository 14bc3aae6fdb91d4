"""Predictions whose figures are known beforehand, and a stand-in for the Run that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avatar_bench.errors import BlockError
from avatar_bench.predictions import Predictions, strings

CLASSES = ("drawing", "generated", "real")


def make(targets: Any, logits: Any, **fields: Any) -> Predictions:
    """Give Predictions with groups of one picture, four sources a class and two empty features, or what is given."""
    n = len(targets)
    classes = fields.pop("classes", CLASSES)
    plain = {
        "embeddings": np.zeros((n, 2), np.float32),
        "paths": strings(f"{i}.png" for i in range(n)),
        "groups": strings(f"g{i}" for i in range(n)),
        "sources": strings(f"s{target}{i % 4}" for i, target in enumerate(targets)),
    }
    given = {key: strings(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Predictions(classes, np.asarray(logits, np.float32), targets=np.asarray(targets, np.int64), **plain | given)


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., Predictions]:
    return make


@pytest.fixture(scope="session")
def oracle() -> Callable[..., Predictions]:
    """Build Predictions of `n` pictures, targets in turn, of a network of one kind.

    "perfect": right with confidence 1. "uniform": all probabilities nearly equal, ties broken at random. "noisy": right
    mostly. ("permuted", order): noisy, its outputs in another order. Embeddings (N, 8) lean to the target as logits do.
    """

    def build(kind: str | tuple[str, Sequence[int]], n: int = 240, classes: int = 3, seed: int = 0) -> Predictions:
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
def dataset_of() -> Callable[..., Any]:
    """Build a stand-in for the Dataset of some Predictions: frame, image(row) and name, of grey pictures."""

    def build(predictions: Predictions, name: str = "test", **columns: Any) -> Any:
        labels = [predictions.classes[target] if target >= 0 else "" for target in predictions.targets]
        plain = {"path": predictions.paths, "label": labels, "source": predictions.sources, "group": predictions.groups}
        blank = dict.fromkeys(("generator", "split", "width", "height", "format", "jpeg_quality"), "")
        frame = pd.DataFrame(plain | {"sha256": [f"{i:064x}" for i in range(len(labels))]} | blank | columns)
        grey = np.full((8, 6, 3), 128, np.uint8)
        shape = {"__len__": lambda self: len(labels)}
        fields = {"frame": frame, "image": lambda self, row: grey, "name": name, "fingerprint": name, "digest": name}
        return type("Dataset", (), shape | fields)()

    return build


@pytest.fixture(scope="session")
def fake_run() -> Callable[..., Any]:
    """Build a stand-in for a Run from the Predictions of its sets.

    `variations` maps a Variation to Predictions; `blind` and `ood` are (dataset, Predictions) and a mapping of names to
    such pairs. What is not given raises BlockError, or is not there, as on a Run that lacks it.
    """

    def build(
        predictions: Predictions,
        calibration: Predictions | None = None,
        training: Predictions | None = None,
        variations: Callable[[Any], Predictions] | None = None,
        blind: tuple[Any, Predictions] | None = None,
        ood: Mapping[str, tuple[Any, Predictions]] | None = None,
        **fields: Any,
    ) -> Any:
        known = {name: pair[1] for name, pair in (ood or {}).items()} | ({"blind": blind[1]} if blind else {})

        def have(found: Predictions | None) -> Predictions:
            if found is None:
                raise BlockError("the run does not know these pictures.")
            return found

        def vary(dataset: Any, wanted: Sequence[Any]) -> list[Predictions]:
            return [variations(variation) if variations else predictions for variation in wanted]

        plain = {
            "classes": predictions.classes,
            "temperature": predictions.temperature,
            "allow": frozenset(),
            "seed": 0,
            "record": {},
            "name": "a/run",
            "predictions": lambda dataset: known.get(dataset.name, predictions),
            "variations": vary,
            "calibration": lambda dataset: have(calibration),
            "training": lambda: have(training),
            "blind": blind[0] if blind else None,
            "ood": {name: pair[0] for name, pair in (ood or {}).items()},
        }
        return SimpleNamespace(**plain | fields)

    return build

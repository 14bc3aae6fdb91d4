"""Cache of the predictions of one network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.errors import CheckpointError
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.inference.predictor import DatasetPredictor
from avatar_bench.results.predictions import Predictions, to_string_array

_VARIATIONS_PER_PASS = 8  # variations of a batch in memory at once: 39 MB for 32 images of 224 px


class PredictionCache:
    """Predictions of a predictor, each computed once and saved in a folder or, without one, kept in memory.

    They are saved as they are computed, so that a calibration leaves them valid, and returned calibrated.
    `sha256` identifies the predictor's weights, `preprocessing` is the one on its card.
    """

    def __init__(
        self, predictor: DatasetPredictor, folder: Path | None, sha256: str, preprocessing: Mapping[str, Any]
    ) -> None:
        self.predictor = predictor
        self.folder = folder
        self._identity = [sha256, json.dumps(preprocessing, sort_keys=True)]
        self._memory: dict[str, Predictions] = {}

    def predict(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of a dataset, loaded or computed."""
        key = self._build_key(dataset)
        cached = self._load(key, dataset)
        return self.predictor.adjust(cached or self._save(key, self.predictor.predict_dataset(dataset)))

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Return the Predictions of a dataset under each variation, loaded or computed."""
        keys = {variation.key: self._build_key(dataset, variation.key) for variation in variations}
        results = {name: cached for name, key in keys.items() if (cached := self._load(key, dataset))}
        missing = [variation for variation in dict.fromkeys(variations) if variation.key not in results]
        for first in range(0, len(missing), _VARIATIONS_PER_PASS):
            chunk = missing[first : first + _VARIATIONS_PER_PASS]
            for variation, predictions in zip(chunk, self.predictor.predict_variations(dataset, chunk), strict=True):
                results[variation.key] = self._save(keys[variation.key], predictions)
        return [self.predictor.adjust(results[variation.key]) for variation in variations]

    def _build_key(self, dataset: Dataset, variation: str = "") -> str:
        """Build the key of Predictions: a hash of everything on which they depend."""
        columns = dataset.frame[["path", "label", "group", "source"]].to_csv(index=False)
        sha256, preprocessing = self._identity
        key = [sha256, dataset.fingerprint, preprocessing, columns, *([variation] if variation else [])]
        return sha256_of_text(repr(key))[:24]

    def _load(self, key: str, dataset: Dataset) -> Predictions | None:
        if self.folder is None:
            return self._memory.get(key)
        try:
            cached = Predictions.load(self.folder / f"{key}.npz")
        except CheckpointError:  # missing or damaged: computed again
            return None
        paths = to_string_array(dataset.frame["path"])
        ours = cached.classes == tuple(self.predictor.classes) and np.array_equal(cached.paths, paths)
        return cached if ours else None

    def _save(self, key: str, predictions: Predictions) -> Predictions:
        if self.folder is None:
            self._memory[key] = predictions
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            predictions.save(self.folder / f"{key}.npz")
        return predictions

"""Prediction by a table of saved probabilities."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.decoding import read_content
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.errors import BlockError, DataError
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.inference.predictor import DatasetPredictor, compute_logarithms
from avatar_bench.results.predictions import Predictions


@dataclass(eq=False, kw_only=True)
class TablePredictor(DatasetPredictor):
    """Saved probabilities (N, C) of images by the SHA-256 of their files, `hashes` (N,).

    `varied` has those of varied images: by the key of the variation, the row of each image, by its SHA-256.
    """

    hashes: pd.Index
    probabilities: NDArray[np.float64]
    varied: Mapping[str, pd.Series] = field(default_factory=dict)
    provides: frozenset[str] = frozenset({"predictions"})

    def __post_init__(self) -> None:
        if self.varied:
            self.provides = self.provides | {"variations"}

    @property
    def computes_logits(self) -> bool:
        """Return False: images are looked up by their files."""
        return False

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset are in the table, (N,)."""
        return np.asarray(dataset.frame["sha256"].isin(self.hashes))

    def predict_dataset(self, dataset: Dataset) -> Predictions:
        """Look up the Predictions of a dataset; raise BlockError if an image is not in the table."""
        refuse_changed_files(dataset)
        return self._look_up(dataset, self.hashes.get_indexer(pd.Index(dataset.frame["sha256"])))

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Look up the Predictions under each variation; raise BlockError if one was not imported."""
        refuse_changed_files(dataset)
        found = []
        for variation in variations:
            if variation.key not in self.varied:
                raise BlockError(
                    f"{self.name} has no predictions of images with {variation.key}, which were not imported.",
                    "Choose the corruptions, severities and resolution (at) with which vary made them.",
                )
            rows = self.varied[variation.key].reindex(dataset.frame["sha256"], fill_value=-1)
            found.append(self._look_up(dataset, rows.to_numpy()))
        return found

    def _look_up(self, dataset: Dataset, rows: NDArray[np.integer]) -> Predictions:
        """Return the Predictions in some rows, -1 for an image without one; raise BlockError if there is such a one."""
        if (rows < 0).any():
            path = dataset.frame["path"].iat[int(np.flatnonzero(rows < 0)[0])]
            raise BlockError(f"{self.name} has no prediction of {path}, an image of {dataset.name}.")
        none = np.zeros((len(dataset), 0), dtype=np.float32)
        return self.describe(dataset, compute_logarithms(self.probabilities[rows]), none, has_logits=False)

    def predict_files(
        self, paths: Sequence[str], calibrated: bool = True, precision: str = "32", embedded: bool = False
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch, in order."""
        for first in range(0, len(paths), self.batch_size):
            seen, found = [], []
            for path in paths[first : first + self.batch_size]:
                try:
                    row = self.hashes.get_indexer(pd.Index([sha256_of_bytes(read_content(path, path))]))[0]
                    reason = "" if row >= 0 else "not among the imported predictions"
                except DataError as error:
                    reason = error.lines[0]
                seen.append((path, reason))
                found += [] if reason else [row]
            yield self.tabulate(seen, compute_logarithms(self.probabilities[found]), calibrated)

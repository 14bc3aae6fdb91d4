"""Prediction by several networks, whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.inference.prediction_table import EMBEDDING
from avatar_bench.inference.predictor import DatasetPredictor, PredictionCache
from avatar_bench.inference.probabilities import compute_logarithms
from avatar_bench.metrics.averaging import AveragingWeights, average_logits
from avatar_bench.results.predictions import Predictions


@dataclass(eq=False, kw_only=True)
class EnsemblePredictor(DatasetPredictor):
    """Weighted mean of the probabilities of members and of their energies, see `average_logits`.

    Members may have their classes in another order. Their Predictions of data sets are taken from their caches.
    """

    members: Sequence[PredictionCache]
    mix: AveragingWeights

    def __post_init__(self) -> None:
        predictors = [member.predictor for member in self.members]
        self.provides = frozenset.intersection(*(each.provides for each in predictors)) - {"module"}
        self.computes_logits = all(each.computes_logits for each in predictors)

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset every member has predictions of, (N,)."""
        return np.asarray(np.all([member.predictor.mark_answered(dataset) for member in self.members], axis=0))

    @property
    def seconds(self) -> float:
        """Return the total time of all passes of all networks so far."""
        return sum(member.predictor.seconds for member in self.members)

    @property
    def device(self) -> str:
        """Return the device, the same for all members."""
        return self.members[0].predictor.device

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Average the members' Predictions of a dataset under each variation."""
        varied = [member.predict_variations(dataset, variations) for member in self.members]
        ordered = [[one.reorder(self.classes) for one in each] for each in zip(*varied, strict=True)]
        return [combine_predictions(each, self.mix, self.temperature) for each in ordered]

    def compute_logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.floating]:
        """Compute the average of the members' logits, (n, C), see `average_logits`."""
        pairs = self._iterate_inputs(images)
        return self._average([predictor.compute_logits(inputs, precision) for predictor, inputs in pairs])

    def compute_outputs(
        self, images: Sequence[torch.Tensor], precision: str = "32", embedded: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Compute the average of the members' logits, (n, C), and their embeddings side by side, (n, D)."""
        outputs = [predictor.compute_outputs(inputs, precision) for predictor, inputs in self._iterate_inputs(images)]
        logits, embeddings = zip(*outputs, strict=True)
        return self._average(logits), join_embeddings(embeddings)

    def predict_files(
        self, paths: Sequence[str], calibrated: bool = True, precision: str = "32", embedded: bool = False
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch; a file that any member fails on is an error."""
        if self.computes_logits:
            yield from super().predict_files(paths, calibrated, precision, embedded)
            return
        parts = [member.predictor.predict_files(paths, False, precision, embedded) for member in self.members]
        for tables in zip(*parts, strict=True):
            failed = zip(*(table["reason"] for table in tables), strict=True)
            reasons = [next(filter(None, row), "") for row in failed]
            good = [not reason for reason in reasons]
            columns = [f"prob_{name}" for name in self.classes]
            logits = [compute_logarithms(table.loc[good, columns].to_numpy(np.float64)) for table in tables]
            averaged = average_logits(np.stack(logits), self.mix).astype(np.float32)
            seen = list(zip(tables[0]["path"], reasons, strict=True))
            embeddings = None
            if embedded and any(good):
                embeddings = join_embeddings([np.stack(list(table.loc[good, EMBEDDING])) for table in tables])
            yield self.tabulate(seen, averaged, calibrated, embeddings)

    def resolve_precision(self, asked: str) -> str:
        """Resolve "auto" as the members do, which have the same runtime and device."""
        return self.members[0].predictor.resolve_precision(asked)

    def load(self, precision: str = "32") -> list[str]:
        """Load every member's network and return notices to print."""
        return [note for member in self.members for note in member.predictor.load(precision)]

    def unload(self) -> None:
        """Release every network from memory."""
        for member in self.members:
            member.predictor.unload()

    def _iterate_inputs(self, images: Sequence[torch.Tensor]) -> Iterator[tuple[DatasetPredictor, list[torch.Tensor]]]:
        """Yield each member's predictor with its own inputs."""
        inputs = dict(zip(self.preprocessings, images, strict=True))
        for predictor in (member.predictor for member in self.members):
            yield predictor, [inputs[one] for one in predictor.preprocessings]

    def _average(self, logits: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
        """Return the average of the members' logits, each (n, C) in the member's order of classes."""
        orders = [[member.predictor.classes.index(name) for name in self.classes] for member in self.members]
        reordered = [own[:, order] for own, order in zip(logits, orders, strict=True)]
        return average_logits(np.stack(reordered), self.mix).astype(np.float32)


def combine_predictions(members: Sequence[Predictions], mix: AveragingWeights, temperature: float) -> Predictions:
    """Average the Predictions of members on the same images with the same order of classes.

    Logits are those of `average_logits`; `has_logits` requires them of every member with positive weight. Embeddings
    are the members' concatenated, each scaled to unit length, so that no member dominates by the scale of its features.
    """
    weighted = [member for member, weight in zip(members, mix.weights, strict=True) if weight > 0]
    return replace(
        members[0],
        logits=average_logits(np.stack([member.logits for member in members]), mix).astype(np.float32),
        embeddings=join_embeddings([member.embeddings for member in members]),
        temperature=temperature,
        has_logits=all(member.has_logits for member in weighted),
        unscaled=None,
    )


def join_embeddings(members: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the members' embeddings, each scaled to unit length, side by side, (N, D)."""
    scaled = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in members]
    return np.concatenate(scaled, axis=1).astype(np.float32)

"""Prediction by what is made elsewhere: any class with `predict`, and detectors that are asked for no image twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.data.corruptions import Variation, apply_variation, derive_seed
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.decoding import try_decode
from avatar_bench.data.equalise import hash_pixels
from avatar_bench.errors import BlockError, DataError
from avatar_bench.inference.predictor import (
    DEFAULT_OPTIONS,
    DatasetPredictor,
    DecodedImages,
    FileOptions,
    ImproperError,
    Predictor,
    compute_logarithms,
    normalise_rows,
)

MAX_FAILURES = 20  # images in a row
_AT_ONCE = 500  # keys in one query; SQLite allows 999

Answer = NDArray[np.float64] | str  # probabilities (C,), or the reason for a failure


@dataclass(eq=False, kw_only=True)
class ForeignPredictor(DatasetPredictor):
    """Predictor of data sets by any Predictor, of which only probabilities are known, see `Predictions.has_logits`.

    With a method `predict_each(images) -> [row of probabilities or reason]`, it also accepts images that fail. With
    `predict_logits(images) -> (N, C)`, which the temperature divides, logits are known. With `preprocessing`, images
    are resized by that first.
    """

    predictor: Predictor
    computes_logits: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not hasattr(self.predictor, "embed"):
            self.provides = self.provides - {"embeddings"}
        if hasattr(self.predictor, "preprocessing"):
            self.preprocessings = (self.predictor.preprocessing,)
        self.has_logits = hasattr(self.predictor, "predict_logits")

    def predict(self, images: DecodedImages) -> NDArray[np.float64]:
        """Compute the probabilities (N, C) of decoded images; raise DataError if they are none."""
        probabilities = np.asarray(self.predictor.predict(images), dtype=np.float64)
        shape = len(images), len(self.classes)
        try:
            if probabilities.shape == shape:
                return normalise_rows(probabilities)
        except ImproperError:
            pass
        raise DataError(f"{self.name}: expected probabilities of shape {shape} whose rows sum to 1.")

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset the detector does not fail on, (N,), asking it for all of them."""
        predict_each = getattr(self.predictor, "predict_each", None)
        if predict_each is None:
            return super().mark_answered(dataset)
        answers: list[Answer] = []
        for first in track(range(0, len(dataset), self.batch_size), dataset.name, unit="batch"):
            rows = range(first, min(first + self.batch_size, len(dataset)))
            answers += predict_each([dataset.image(row) for row in rows])
        return np.array([not isinstance(answer, str) for answer in answers], dtype=bool)

    def iterate_images(
        self, dataset: Dataset, variations: Sequence[Variation | None]
    ) -> Iterator[tuple[int, Iterable[DecodedImages]]]:
        """Yield the size of each batch of a dataset, and its decoded images under each variation."""
        for first in range(0, len(dataset), self.batch_size):
            rows = range(first, min(first + self.batch_size, len(dataset)))
            images = [dataset.image(row) for row in rows]
            seeds = [derive_seed(str(dataset.frame["sha256"].iat[row])) for row in rows]
            # one variation in memory at a time: the images are of any size
            yield len(rows), (self._vary(images, seeds, variation) for variation in variations)

    def _vary(self, images: DecodedImages, seeds: Sequence[int], variation: Variation | None) -> DecodedImages:
        if variation is None:
            return images
        pairs = zip(images, seeds, strict=True)
        return [apply_variation(variation, image, self.prepare, seed) for image, seed in pairs]

    def compute_outputs(
        self, images: DecodedImages, precision: str = "32", embedded: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Compute the logits (n, C) of decoded images, and their embeddings (n, D) if they are wanted and known."""
        embed = getattr(self.predictor, "embed", None) if embedded else None
        return self._compute_log(images), np.asarray(embed(images)) if embed else np.zeros((len(images), 0))

    def predict_files(
        self, paths: Sequence[str], options: FileOptions = DEFAULT_OPTIONS
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch, in order."""
        for first in range(0, len(paths), self.batch_size):
            batch = paths[first : first + self.batch_size]
            decoded = [try_decode(path) for path in batch]
            tables = []
            for variation in (None, *options.variations):  # one in memory at a time: the images are of any size
                images = [image for image, _ in decoded if image is not None]
                images = images if variation is None else [variation(image, 0) for image in images]
                answers = iter(self._compute_each(images) if images else [])
                outcomes = [reason if image is None else next(answers) for image, reason in decoded]
                reasons = [outcome if isinstance(outcome, str) else "" for outcome in outcomes]
                logits = [outcome for outcome in outcomes if not isinstance(outcome, str)]
                embeddings = None
                if options.embedded and logits:
                    known = [reason for (image, _), reason in zip(decoded, reasons, strict=True) if image is not None]
                    answered = [image for image, reason in zip(images, known, strict=True) if not reason]
                    embeddings = np.asarray(self.predictor.embed(answered))  # type: ignore[attr-defined]
                rows = np.reshape(logits, (len(logits), len(self.classes)))
                tables.append(
                    self.tabulate(list(zip(batch, reasons, strict=True)), rows, options.calibrated, embeddings)
                )
            yield pd.concat(tables, ignore_index=True)

    def _compute_each(self, images: DecodedImages) -> list[NDArray[np.floating] | str]:
        """Return the logits (C,) of each image, or the reason why there are none."""
        predict_each = getattr(self.predictor, "predict_each", None)
        if predict_each is not None:
            answers = predict_each(images)
            return [answer if isinstance(answer, str) else compute_logarithms(answer) for answer in answers]
        try:
            return list(self._compute_log(images))
        except DataError as error:  # of one of them
            if len(images) == 1:
                return [error.lines[0]]
            return [answer for image in images for answer in self._compute_each([image])]

    def _compute_log(self, images: DecodedImages) -> NDArray[np.floating]:
        predict_logits = getattr(self.predictor, "predict_logits", None)
        if predict_logits is None:
            return compute_logarithms(self.predict(images))
        return np.asarray(predict_logits(images), dtype=np.float32)


class AskedPredictor:
    """Predictor that passes on to a detector the images that are not in its store of answers.

    It is asked for one image at a time, or for its `batch_size`, so that an answer is kept as soon as it is there.
    """

    def __init__(self, name: str, detector: Any, store: AnswerStore) -> None:
        self.name = name
        self.classes = tuple(detector.classes)
        self.detector = detector
        self.store = store
        self._failures: dict[str, str] = {}  # reasons by image; such an image is not asked for again in this process
        self._failed_in_a_row = 0
        if hasattr(detector, "embed"):
            self.embed = detector.embed

    def predict(self, images: DecodedImages) -> NDArray[np.float64]:
        """Return the probabilities (N, C) of decoded images; raise BlockError if the detector fails on one."""
        answers = self.predict_each(images)
        reasons = [answer for answer in answers if isinstance(answer, str)]
        if reasons:
            raise BlockError(f"{self.name} failed on {len(reasons)} of {len(images)} images, first: {reasons[0]}")
        return np.stack([answer for answer in answers if not isinstance(answer, str)])

    def predict_each(self, images: DecodedImages) -> list[Answer]:
        """Return the probabilities of each decoded image, or the reason why there are none.

        Raise DataError if the detector fails on MAX_FAILURES images in a row.
        """
        keys = [hash_pixels(image) for image in images]
        answers: dict[str, Answer] = {**self._failures, **self.store.read(keys)}
        new = [(key, image) for key, image in dict(zip(keys, images, strict=True)).items() if key not in answers]
        size = max(1, int(getattr(self.detector, "batch_size", 1)))
        for first in range(0, len(new), size):
            batch = new[first : first + size]
            answer = self._ask([image for _, image in batch])
            if len(batch) > 1 and isinstance(answer, str):  # which image it failed on is not known
                for key, image in batch:
                    answers |= self._keep([key], self._ask([image]))
            else:
                answers |= self._keep([key for key, _ in batch], answer)
        return [answers[key] for key in keys]

    def _keep(self, keys: Sequence[str], answer: NDArray[np.float64] | str) -> dict[str, Answer]:
        """Keep the probabilities of images, or the reason for a failure, and return them by image."""
        if not isinstance(answer, str):
            rows = dict(zip(keys, answer, strict=True))
            self.store.write(rows)
            self._failed_in_a_row = 0
            return dict(rows)
        self._failures |= dict.fromkeys(keys, answer)
        self._failed_in_a_row += len(keys)
        if self._failed_in_a_row >= MAX_FAILURES:
            raise DataError(
                f"{self.name} failed on {self._failed_in_a_row} images in a row, the last time: {answer}.",
                "Its answers so far are kept: once it works again, run the same command to go on.",
            )
        return dict.fromkeys(keys, answer)

    def _ask(self, images: DecodedImages) -> NDArray[np.float64] | str:
        try:
            probabilities = np.asarray(self.detector.predict(images), dtype=np.float64)
        except Exception as error:  # a user's class may raise anything
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        shape = len(images), len(self.classes)
        if probabilities.shape != shape:
            return f"it returned an array of shape {probabilities.shape}, expected {shape}"
        try:
            return normalise_rows(probabilities)
        except ImproperError as error:
            return f"it returned no probabilities: their sum is {error.total:.6g}"


class AnswerStore:
    """Rows of probabilities by the hash of an image, in an SQLite file that is created with the first answer."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self, keys: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the known answers among the keys."""
        if not self.file.is_file():
            return {}
        answers: dict[str, NDArray[np.float64]] = {}
        with closing(self._connect()) as connection:
            for first in range(0, len(keys), _AT_ONCE):
                batch = keys[first : first + _AT_ONCE]
                query = f"SELECT image, probabilities FROM answers WHERE image IN ({','.join('?' * len(batch))})"
                answers |= {key: np.frombuffer(row, dtype="<f8") for key, row in connection.execute(query, batch)}
        return answers

    def write(self, answers: dict[str, NDArray[np.float64]]) -> None:
        """Add answers; they are on disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (image TEXT PRIMARY KEY, probabilities BLOB)")
            rows = [(key, np.asarray(row, dtype="<f8").tobytes()) for key, row in answers.items()]
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=60)

"""Prediction by a user's detector, which is asked for no image twice and may fail on some."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.equalise import hash_pixels
from avatar_bench.errors import BlockError, DataError
from avatar_bench.inference.predictor import DecodedImages
from avatar_bench.inference.probabilities import ImproperError, normalise_rows

MAX_FAILURES = 20  # images in a row
_AT_ONCE = 500  # keys in one query; SQLite allows 999

Answer = NDArray[np.float64] | str  # probabilities (C,), or the reason for a failure


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
            some = new[first : first + size]
            found = self._ask([image for _, image in some])
            if len(some) > 1 and isinstance(found, str):  # which image it failed on is not known
                for key, image in some:
                    answers |= self._keep([key], self._ask([image]))
            else:
                answers |= self._keep([key for key, _ in some], found)
        return [answers[key] for key in keys]

    def _keep(self, keys: Sequence[str], found: NDArray[np.float64] | str) -> dict[str, Answer]:
        """Keep the probabilities of images, or the reason for a failure, and return them by image."""
        if not isinstance(found, str):
            rows = dict(zip(keys, found, strict=True))
            self.store.write(rows)
            self._failed_in_a_row = 0
            return dict(rows)
        self._failures |= dict.fromkeys(keys, found)
        self._failed_in_a_row += len(keys)
        if self._failed_in_a_row >= MAX_FAILURES:
            raise DataError(
                f"{self.name} failed on {self._failed_in_a_row} images in a row, the last time: {found}.",
                "Its answers so far are kept: once it works again, run the same command to go on.",
            )
        return dict.fromkeys(keys, found)

    def _ask(self, images: DecodedImages) -> NDArray[np.float64] | str:
        try:
            found = np.asarray(self.detector.predict(images), dtype=np.float64)
        except Exception as error:  # a user's class may raise anything
            return f"{type(error).__name__}: {' '.join(str(error).split())}"
        shape = len(images), len(self.classes)
        if found.shape != shape:
            return f"it returned an array of shape {found.shape}, expected {shape}"
        try:
            return normalise_rows(found)
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
        found: dict[str, NDArray[np.float64]] = {}
        with closing(self._connect()) as connection:
            for first in range(0, len(keys), _AT_ONCE):
                some = keys[first : first + _AT_ONCE]
                query = f"SELECT image, probabilities FROM answers WHERE image IN ({','.join('?' * len(some))})"
                found |= {key: np.frombuffer(row, dtype="<f8") for key, row in connection.execute(query, some)}
        return found

    def write(self, answers: dict[str, NDArray[np.float64]]) -> None:
        """Add answers; they are on disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (image TEXT PRIMARY KEY, probabilities BLOB)")
            rows = [(key, np.asarray(row, dtype="<f8").tobytes()) for key, row in answers.items()]
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=60)

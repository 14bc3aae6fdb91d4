"""Prediction by a user's detector, which is asked for no image twice and may fail on some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.data.equalise import hash_pixels
from avatar_bench.errors import BlockError, DataError
from avatar_bench.inference.answer_store import AnswerStore
from avatar_bench.inference.predictor import DecodedImages
from avatar_bench.inference.probabilities import ImproperError, normalise_rows

MAX_FAILURES = 20  # images in a row

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
        known = self.store.read(keys)
        new = {
            key: image
            for key, image in zip(keys, images, strict=True)
            if key not in known and key not in self._failures
        }
        size = max(1, int(getattr(self.detector, "batch_size", 1)))
        for first in range(0, len(new), size):
            some = dict(list(new.items())[first : first + size])
            answers = self._ask(list(some.values()))
            if len(some) > 1 and isinstance(answers, str):  # which image it failed on is not known
                for key, image in some.items():
                    self._keep([key], self._ask([image]), known)
            else:
                self._keep(list(some), answers, known)
        return [known[key] if key in known else self._failures[key] for key in keys]

    def _keep(
        self, keys: Sequence[str], answers: NDArray[np.float64] | str, known: dict[str, NDArray[np.float64]]
    ) -> None:
        if not isinstance(answers, str):
            rows = dict(zip(keys, answers, strict=True))
            self.store.write(rows)
            known |= rows
            self._failed_in_a_row = 0
            return
        self._failures |= dict.fromkeys(keys, answers)
        self._failed_in_a_row += len(keys)
        if self._failed_in_a_row >= MAX_FAILURES:
            raise DataError(
                f"{self.name} failed on {self._failed_in_a_row} images in a row, the last time: {answers}.",
                "Its answers so far are kept: once it works again, run the same command to go on.",
            )

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

"""Predictions of one network for one set of images, in the class order of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from avatar_bench.errors import CheckpointError, DivergedError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.checkpoint_container import open_stored_archive
from avatar_bench.metrics.units import Units, encode
from avatar_bench.results.display import format_predictions

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images, C classes and D features.

    `logits` (N, C) and `embeddings` (N, D) are float32, or float64; `targets` (N,) are class indices, -1 if the true
    class is unknown; `paths`, `groups`, `sources` (N,) are strings; `temperature` divides the logits. If
    `has_logits` is False, only probabilities are known: `logits` are their logarithms up to a constant for each image,
    so that softmax and log loss are correct, but scores that depend on the level of the logits, such as energy, are
    not. Those of merged classes are scaled by `temperature` before they are summed; `unscaled` (N, C) are their logits
    at temperature 1. `origins` (N,) are the sources, those of one publisher joined, if the run has not seen them: the
    images are then a sample of sources.
    """

    classes: tuple[str, ...]
    logits: FloatArray
    embeddings: FloatArray
    targets: NDArray[np.int64]
    paths: NDArray[np.str_]
    groups: NDArray[np.str_]
    sources: NDArray[np.str_]
    temperature: float = 1.0
    has_logits: bool = True
    unscaled: FloatArray | None = None
    origins: NDArray[np.intp] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.logits).all():
            bad = int(np.flatnonzero(~np.isfinite(self.logits).all(axis=1))[0])
            raise DivergedError(
                f"The network returned a non-finite logit, first for {self.paths[bad]}.",
                "Metrics would be meaningless: train again with a smaller lr, or without mixed precision.",
            )

    def __len__(self) -> int:
        return len(self.logits)

    def _repr_html_(self) -> str:
        names = np.array([*self.classes, ""], dtype=object)
        table = pd.DataFrame(self.probabilities, columns=[f"prob_{name}" for name in self.classes])
        table.insert(0, "path", self.paths)
        table.insert(1, "target", names[self.targets])
        table.insert(2, "prediction", names[self.predicted])
        return format_predictions(table)

    @property
    def probabilities(self) -> FloatArray:
        """Return the softmax of logits / temperature, (N, C) float64; each row sums to 1."""
        return np.asarray(softmax(self.logits.astype(np.float64) / self.temperature, axis=1))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the index of the most probable class, (N,); the first among equals."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def confidence(self) -> FloatArray:
        """Return the largest probability of each image, (N,), from 1/C to 1."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Return whether each predicted class is the true one, (N,); False if the true class is unknown."""
        return np.asarray(self.predicted == self.targets)

    @property
    def uncalibrated(self) -> Predictions:
        """Return the Predictions at temperature 1."""
        logits = self.logits if self.unscaled is None else self.unscaled
        return replace(self, logits=logits, temperature=1.0, unscaled=None)

    @cached_property
    def group_codes(self) -> NDArray[np.intp]:
        """Return the place of each group among the sorted names, (N,): statistics need less memory than for names."""
        return encode(self.groups)

    @cached_property
    def units(self) -> Units:
        """Return the units of inference: groups, and sources within each true class if these are a sample of more."""
        is_known = bool((self.sources != "").any())
        strata = None if self.origins is None else self.targets
        return Units(self.group_codes, self.origins, strata, is_known)

    def find_stable(self, versions: Sequence[Predictions]) -> NDArray[np.bool_]:
        """Return which images, (N,), have in all versions of them the predicted class that they have here."""
        return np.asarray((np.stack([version.predicted for version in versions]) == self.predicted).all(axis=0))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Predictions:
        """Return the Predictions of some rows, by index or mask; without a copy where they are all rows, in order."""
        everything = np.arange(len(self))
        if np.array_equal(everything[rows], everything):
            return self
        names = [*_ARRAYS, *(name for name in ("unscaled", "origins") if getattr(self, name) is not None)]
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def merge(self, classes: Mapping[str, Sequence[str]], targets: NDArray[np.int64]) -> Predictions:
        """Return the Predictions of new classes, each with those that it merges, for their `targets` (N,).

        Probabilities are summed, and divided by the sum over all new classes where some classes are in none.
        """
        places = [[self.classes.index(name) for name in merged] for merged in classes.values()]

        def add(temperature: float) -> FloatArray:
            scaled = self.logits.astype(np.float64) / temperature
            return np.stack([temperature * logsumexp(scaled[:, columns], axis=1) for columns in places], axis=1)

        if all(len(columns) == 1 for columns in places) and len(places) == len(self.classes):  # only renamed
            return replace(self, classes=tuple(classes), logits=self.logits[:, np.ravel(places)], targets=targets)
        scaled, unscaled = add(self.temperature), add(1.0)
        return replace(self, classes=tuple(classes), logits=scaled, unscaled=unscaled, targets=targets)

    def reorder(self, classes: Sequence[str]) -> Predictions:
        """Return the Predictions with the same classes in another order, by name."""
        if tuple(classes) == self.classes:
            return self
        order = [self.classes.index(name) for name in classes]
        moved = np.append(np.argsort(order), -1)  # keeps -1, an unknown target
        unscaled = None if self.unscaled is None else self.unscaled[:, order]
        return replace(
            self, classes=tuple(classes), logits=self.logits[:, order], targets=moved[self.targets], unscaled=unscaled
        )

    def save(self, file: Path) -> None:
        """Write one .npz without pickle, atomically."""
        with atomic_write(file, alone=False) as part, part.open("wb") as stream:
            np.savez(
                stream,
                classes=np.array(self.classes, dtype=np.str_),
                temperature=np.float64(self.temperature),
                has_logits=np.bool_(self.has_logits),
                **{name: getattr(self, name) for name in _ARRAYS},
            )

    @classmethod
    def load(cls, file: Path) -> Predictions:
        """Read a file of `save` without unpickling; raise CheckpointError if it is missing or invalid."""
        try:
            with file.open("rb") as stream, open_stored_archive(stream):
                stream.seek(0)
                with np.load(stream, allow_pickle=False) as stored:
                    classes, temperature = tuple(map(str, stored["classes"])), float(stored["temperature"])
                    arrays = {name: stored[name] for name in _ARRAYS}
                    has_logits = bool(stored.get("has_logits", True))  # older files are all of networks
            known = all((arrays[name].dtype.kind, arrays[name].ndim) == kind for name, kind in _ARRAYS.items())
            if not known or len({len(array) for array in arrays.values()}) != 1 or not 0 < temperature < np.inf:
                raise ValueError("the arrays have other shapes or types")
            targets, n = arrays["targets"], len(classes)
            if arrays["logits"].shape[1] != n or ((targets < -1) | (targets >= n)).any():
                raise ValueError("the arrays have other classes")
            return cls(classes=classes, temperature=temperature, has_logits=has_logits, **arrays)
        except Exception as error:  # zip, header and number errors of many types
            reason = f"{file} does not contain predictions ({type(error).__name__})."
            raise CheckpointError(reason, "Delete it.") from error


# type and number of axes of each array
_ARRAYS = {"logits": ("f", 2), "embeddings": ("f", 2), "targets": ("i", 1)}
_ARRAYS |= dict.fromkeys(("paths", "groups", "sources"), ("U", 1))


def to_string_array(values: Iterable[str]) -> NDArray[np.str_]:
    """Return a fixed-width string array, which numpy stores without pickle."""
    return np.array(list(values), dtype=np.str_)

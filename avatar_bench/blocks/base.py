"""Block: a dataclass whose fields are its yaml and whose method turns a Dataset, or a Run on one, into a Result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from avatar_bench import metrics, stats
from avatar_bench.errors import GuardError

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.predictions import Predictions
    from avatar_bench.results import Result
    from avatar_bench.runs import Run


@dataclass(kw_only=True)
class RunBlock:
    """Judge one Run on one Dataset; a subclass adds its options as fields and touches no disk, path or config."""

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Give the Result of this block; `run.predictions(dataset)` is cached, so ask for it freely."""
        raise NotImplementedError


@dataclass(kw_only=True)
class DatasetBlock:
    """Judge one Dataset, without a network; else as a RunBlock."""

    def audit(self, dataset: Dataset) -> Result:
        """Give the Result of this block."""
        raise NotImplementedError


Block = RunBlock | DatasetBlock


def check_class_order(predictions: Predictions, allow: Collection[str] = ()) -> None:
    """Raise GuardError where another order of the class names explains the predictions significantly better.

    Images without a known class are left out; "permutation" in `allow` passes the guard. See
    `stats.permutation_alarm` for the test.
    """
    if "permutation" in allow:
        return
    known = predictions.targets >= 0
    confusion = metrics.confusion_matrix(
        predictions.targets[known], predictions.predicted[known], len(predictions.classes)
    )
    order = stats.permutation_alarm(confusion)
    if order is not None:
        raise GuardError(*_order_alarm(predictions.classes, order, confusion))


def _order_alarm(classes: tuple[str, ...], order: tuple[int, ...], confusion: NDArray[np.float64]) -> list[str]:
    total = confusion.sum()
    named, reordered = confusion.trace() / total, confusion[list(order), range(len(order))].sum() / total
    moved = [f"{classes[i]!r} is {classes[real]!r}" for i, real in enumerate(order) if i != real]
    return [
        f"The class names are in the wrong order: accuracy is {named:.1%} as they stand, {reordered:.1%} reordered.",
        f"What the network calls {', '.join(moved)}.",
        "Check the labels of this set and the class order of the checkpoint; allow=[permutation] passes this guard.",
    ]

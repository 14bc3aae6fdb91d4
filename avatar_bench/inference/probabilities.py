"""Check of rows of probabilities that others have computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_SUM_ERROR = 1e-3  # of the probabilities of an image, which are then divided by their sum


class ImproperError(ValueError):
    """Rows that are no probabilities: the number of them, the position of the first and its sum."""

    def __init__(self, n: int, row: int, total: float) -> None:
        super().__init__(f"{n} rows are no probabilities, first row {row}, whose sum is {total:.6g}")
        self.n, self.row, self.total = n, row, total


def normalise_rows(values: ArrayLike) -> NDArray[np.float64]:
    """Divide each row of probabilities (N, C) by its sum.

    Raise ImproperError if one has a number below 0 or none, or a sum that is not 1 within MAX_SUM_ERROR.
    """
    rows = np.asarray(values, dtype=np.float64)
    sums = rows.sum(axis=1)
    bad = np.flatnonzero((rows < 0).any(axis=1) | ~(np.abs(sums - 1) <= MAX_SUM_ERROR))
    if len(bad):
        raise ImproperError(len(bad), int(bad[0]), float(sums[bad[0]]))
    return np.asarray(rows / sums[:, None])

"""Units of inference: what intervals and tests of N images resample, and the population for which they then speak."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

UnitCodes = NDArray[np.intp]

GROUP, IMAGE, SOURCE = "group", "image", "source"
LEAST_UNITS = 6  # for a statement beyond the value: the sign-flip test of five finds nothing
NEW_SOURCES, THESE_SOURCES, THESE_IMAGES = "new sources", "these sources", "these images"


@dataclass(frozen=True)
class Units:
    """Units of inference of N images.

    `groups` (N,) are labels of images that belong together. Where the images are a sample of sources, `sources` (N,)
    are the labels of their sources and `strata` (N,) those of their classes, within which sources are drawn: statistics
    then speak for new sources. `is_known` is False if no source is known, so that they speak for these images alone.
    """

    groups: NDArray[Any]
    sources: NDArray[Any] | None = None
    strata: NDArray[Any] | None = None
    is_known: bool = True

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def population(self) -> str:
        """Return the population for which statistics speak."""
        return NEW_SOURCES if self.sources is not None else THESE_SOURCES if self.is_known else THESE_IMAGES

    @cached_property
    def codes(self) -> UnitCodes:
        """Return the unit of each image, (N,), from 0: its source within its class, or else its group."""
        if self.sources is None:
            return encode(self.groups)
        strata, sources = encode(self.strata), encode(self.sources)
        return encode(strata * (int(sources.max(initial=0)) + 1) + sources)

    @cached_property
    def count(self) -> int:
        """Return the number of units."""
        return int(self.codes.max(initial=-1)) + 1

    @property
    def name(self) -> str:
        """Return what the units are: sources, groups, or images where each is a group of its own."""
        return SOURCE if self.sources is not None else IMAGE if self.count == len(self) else GROUP

    @property
    def drawn(self) -> str:
        """Return what a bootstrap draws: sources, or else groups, also where these are single images."""
        return GROUP if self.sources is None else SOURCE

    @property
    def inference(self) -> dict[str, Any]:
        """Return the units, their number and the population, by column of a table."""
        return {"unit": self.name, "units": self.count, "population": self.population}

    @cached_property
    def strata_of_units(self) -> UnitCodes | None:
        """Return the stratum of each unit, (U,), within which units are drawn; None if they are drawn from all."""
        if self.sources is None:
            return None
        strata = np.empty(self.count, dtype=np.intp)
        strata[self.codes] = encode(self.strata)
        return strata

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Return the weight of each image, (N,), with sum 1: sources of a class weigh alike, classes as in the set."""
        if self.strata_of_units is None:
            return np.full(len(self), 1 / max(1, len(self)))
        stratum = self.strata_of_units[self.codes]
        sources = np.bincount(self.strata_of_units)[stratum]
        return np.bincount(stratum)[stratum] / len(self) / sources / np.bincount(self.codes)[self.codes]

    @property
    def strata_count(self) -> int:
        """Return the number of strata, 1 if units are drawn from all."""
        return 1 if self.strata_of_units is None else int(self.strata_of_units.max(initial=0)) + 1

    @property
    def fewest(self) -> int:
        """Return the number of units in the stratum that has the fewest."""
        return self.count if self.strata_of_units is None else int(np.bincount(self.strata_of_units).min())

    @property
    def degrees_of_freedom(self) -> int:
        """Return the number of units less that of strata."""
        return self.count - self.strata_count

    @cached_property
    def is_single(self) -> NDArray[np.bool_]:
        """Return whether each image's class has only one source, (N,), which shows nothing of new ones."""
        if self.strata_of_units is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray((np.bincount(self.strata_of_units) == 1)[self.strata_of_units[self.codes]])

    @cached_property
    def usable(self) -> Units:
        """Return the units, or the groups where a class has only one source."""
        return self.these if self.is_single.any() else self

    @cached_property
    def these(self) -> Units:
        """Return the groups, which speak for these sources."""
        return Units(self.groups, is_known=self.is_known)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.integer]) -> Units:
        """Return the units of some images, by mask or index."""
        sources, strata = (None if part is None else part[rows] for part in (self.sources, self.strata))
        return Units(self.groups[rows], sources, strata, self.is_known)


def as_units(units: Units | ArrayLike) -> Units:
    """Return units, or those of labels of groups."""
    return units if isinstance(units, Units) else Units(np.asarray(units))


def encode(labels: ArrayLike | None) -> UnitCodes:
    """Return the place of each label among the sorted ones, (N,)."""
    values = np.asarray(labels)
    # half of the memory of np.unique
    return pd.factorize(values if values.dtype.kind in "iub" else values.astype(object), sort=True)[0]

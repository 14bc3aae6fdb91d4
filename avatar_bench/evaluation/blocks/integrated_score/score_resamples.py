"""Resamples of the qualities of several runs, with the same images and seeds for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.integrated_score.score_inputs import ResampledQuality, RunQualities
from avatar_bench.metrics import integrated_score

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB


def resample_qualities(readings: Sequence[RunQualities], qualities: Sequence[str], resamples: int, seed: int) -> Floats:
    """Compute the qualities of each run, (B, R, Q), with groups drawn with replacement within each set of images.

    All runs share the draws, so that they are compared in pairs. A quality without images is constant, a missing one
    NaN.
    """
    found = np.stack([np.full((resamples, len(qualities)), _list_values(one, qualities)) for one in readings], axis=1)
    samples = [
        ((run, column), one.samples[key])
        for run, one in enumerate(readings)
        for column, key in enumerate(qualities)
        if key in one.samples
    ]
    if samples:
        _fill_resamples(found, samples, seed)
    return found


def average_over_seeds(values: Floats, members: Sequence[Sequence[int]], seed: int) -> Floats:
    """Compute the mean over runs of each model, (B, M, Q), drawing its runs with replacement from values (B, R, Q)."""
    generator = np.random.default_rng((seed, 1))
    columns = []
    for own in members:
        counts = integrated_score.draw_counts(len(own), len(values), generator)
        columns.append(np.einsum("bs,bsq->bq", counts / len(own), values[:, list(own)]))
    return np.stack(columns, axis=1)


def count_units(readings: Sequence[RunQualities], name: str) -> int:
    """Count the resampled groups of the set `name`."""
    drawn = {unit for one in readings for sample in one.samples.values() for unit in sample.units.unique()}
    return sum(of == name for of, _ in drawn)


def _list_values(reading: RunQualities, qualities: Sequence[str]) -> list[float]:
    return [reading.values.get(key, np.nan) for key in qualities]


def _fill_resamples(found: Floats, samples: Sequence[tuple[tuple[int, int], ResampledQuality]], seed: int) -> None:
    units = samples[0][1].units.unique()
    for _, sample in samples[1:]:
        units = units.union(sample.units.unique())
    places = [units.get_indexer(sample.units) for _, sample in samples]
    step = max(1, _CHUNK_ELEMENTS // max(map(len, places)))
    values = found[0].copy()
    for rows, counts in _draw_counts(units, len(found), step, seed):
        for (where, sample), place in zip(samples, places, strict=True):
            found[(rows, *where)] = sample.statistic(counts[:, place])
    for where, sample in samples:
        if sample.centred:
            drawn = found[(slice(None), *where)]
            found[(slice(None), *where)] = np.maximum(0.0, drawn - drawn.mean() + values[where])


def _draw_counts(units: pd.Index, resamples: int, step: int, seed: int) -> Iterator[tuple[slice, Floats]]:
    """Yield chunks of rows with the number of draws of each unit (set and group), (rows, U)."""
    generator = np.random.default_rng(seed)
    sets = units.get_level_values(0)
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        counts = np.empty((rows.stop - start, len(units)))
        for name in sets.unique():
            own = np.flatnonzero(sets == name)
            counts[:, own] = integrated_score.draw_counts(len(own), len(counts), generator)
        yield rows, counts

"""Resamples of the qualities of several runs, with the same images and seeds for all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.integrated_score.score_inputs import Reading
from avatar_bench.metrics import integrated_score

Floats = NDArray[np.float64]
_CHUNK_ELEMENTS = 4_000_000  # weights in memory at once: 32 MB


def resample_qualities(readings: Sequence[Reading], qualities: Sequence[str], resamples: int, seed: int) -> Floats:
    """Compute the qualities of each run, (B, R, Q), with groups drawn with replacement within each set of images.

    All runs share the draws, so that they are compared in pairs. A quality without images is constant, a missing one
    NaN.
    """
    values = np.array([[reading[key].value for key in qualities] for reading in readings])
    found = np.repeat(values[None], resamples, axis=0)
    samples = {
        (run, column): resampled
        for run, reading in enumerate(readings)
        for column, key in enumerate(qualities)
        if (resampled := reading[key].resampled)
    }
    if not samples:
        return found
    units = reduce(pd.Index.union, (sample.units.unique() for sample in samples.values()))
    places = {where: units.get_indexer(sample.units) for where, sample in samples.items()}
    sets = units.get_level_values(0)
    members = [np.flatnonzero(sets == name) for name in sets.unique()]
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ELEMENTS // max(map(len, places.values())))
    for start in range(0, resamples, step):
        rows = slice(start, min(start + step, resamples))
        counts = np.empty((rows.stop - start, len(units)))  # how often each unit is drawn
        for own in members:
            counts[:, own] = integrated_score.draw_counts(len(own), len(counts), generator)
        for where, sample in samples.items():
            found[(rows, *where)] = sample.statistic(counts[:, places[where]])
    for where, sample in samples.items():
        if sample.centred:
            drawn = found[(slice(None), *where)]
            found[(slice(None), *where)] = np.maximum(0.0, drawn - drawn.mean() + values[where])
    return found


def average_over_seeds(values: Floats, members: Sequence[Sequence[int]], seed: int) -> Floats:
    """Compute the mean over runs of each model, (B, M, Q), drawing its runs with replacement from values (B, R, Q)."""
    generator = np.random.default_rng((seed, 1))
    columns = []
    for own in members:
        counts = integrated_score.draw_counts(len(own), len(values), generator)
        columns.append(np.einsum("bs,bsq->bq", counts / len(own), values[:, list(own)]))
    return np.stack(columns, axis=1)


def count_units(readings: Sequence[Reading], name: str) -> int:
    """Count the resampled groups of the set `name`."""
    samples = (each.resampled for reading in readings for each in reading.values() if each.resampled)
    return len({group for sample in samples for of, group in sample.units if of == name})

"""Simulate operating points: what new sources have of a rate of false alarms, and whether its high end holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import norm
from simulate_slices import draw_sizes

from avatar_bench.evaluation.blocks.decision.decision_tables import find_operating_point
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.metrics.units import Units

RATES = (0.01, 0.05, 0.1)
SPREADS = (0.6, 1.2)  # between the mean scores of sources, where images of a source have 1
POSITIVE = 2.2  # mean score of the class


def simulate_alarms(draws: int, counts: tuple[int, ...] = (8, 14, 30, 60)) -> Iterator[dict[str, Any]]:
    """Yield, for sources of two other classes, the rate that new ones have at the threshold, and how often it holds.

    Rows are of images as units and of sources.
    """
    block = IntervalOptions(resamples=100)
    for sources, spread, rate in product(counts, SPREADS, RATES):
        seen = []
        for seed in range(draws):
            rng = np.random.default_rng(seed)
            source = np.repeat(np.arange(sources + 6), draw_sizes(rng, sources + 6, "53"))
            positive, means = source >= sources, rng.normal(0, spread, sources + 6)
            scores = (means[source] + POSITIVE * positive) + rng.normal(size=len(source))
            by_image = Units(np.arange(len(source)))
            by_source = Units(by_image.groups, source, np.where(positive, 2, source % 2))
            for units in (by_image, by_source):
                threshold, _, alarms = find_operating_point(block, scores, positive, units, rate)
                true = norm.sf(threshold / np.hypot(1, spread))
                seen.append((true, true <= alarms.high, alarms.high))
        for name, of in zip(("image", "source"), np.reshape(seen, (draws, 2, 3)).mean(axis=0), strict=True):
            rates = dict(zip(("of new sources", "high end holds", "high end"), of, strict=True))
            yield {"sources": sources, "spread": spread, "rate": rate, "by": name, **rates}

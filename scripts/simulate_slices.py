"""Simulate slices: how often error_bias finds a difference in sets where only sources differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.evaluation.blocks.error_bias import ErrorBias, cut_slices
from avatar_bench.results.predictions import Predictions, to_string_array

CLASSES = ("drawing", "generated", "real")
# images of the 53 sources of a collection
SIZES = (
    *(1, 2, 3, 3, 7, 12, 22, 26, 28, 29, 30, 30, 30, 30, 30, 34, 35, 35, 36, 38, 40, 40, 42, 45, 45, 45, 46, 52, 53),
    *(55, 56, 57, 58, 58, 58, 58, 60, 60, 64, 66, 66, 70, 100, 102, 118, 168, 200, 200, 201, 213, 226, 235, 240),
)
KINDS = {"format": (3, 0.0), "size": (4, 0.3), "generator": (6, 0.0)}  # values; images that differ from their source


def simulate_slices(draws: int, counts: tuple[int, ...] = (3, 8, 20)) -> Iterator[dict[str, Any]]:
    """Yield of sets of each number of sources a class in how many a slice has a star, by image and source, or a gap."""
    for sources, sizes, mean in product(counts, ("equal", "53", "log-normal"), (0.75, 0.9)):
        found = np.zeros(3)
        for seed in range(draws):
            predictions, kinds = draw_set(np.random.default_rng(seed), sources, sizes, mean)
            block, parts = ErrorBias(resamples=400, seed=seed), list(cut_slices(predictions, kinds))
            table, gaps, _ = block.test_slices(predictions, parts)
            alone = replace(predictions, sources=np.full_like(predictions.sources, ""), origins=None)
            by_image = block.test_slices(alone, parts)[0]  # as before, where no source was asked for
            found += by_image["significant"].any(), table["significant"].any(), gaps["significant"].any()
        rates = dict(zip(("star by image", "star", "gap"), found / draws, strict=True))
        yield {"sources a class": sources, "sizes": sizes, "mean": mean, **rates}


def draw_sizes(rng: np.random.Generator, count: int, sizes: str) -> Any:
    """Return numbers of images (count,) of sources: equal, as those of real ones, or log-normal."""
    if sizes == "equal":
        return np.full(count, 20)
    return rng.choice(SIZES, count) if sizes == "53" else np.ceil(20 * np.exp(1.1 * rng.normal(size=count))).astype(int)


def draw_set(rng: np.random.Generator, sources: int, sizes: str, mean: float) -> tuple[Predictions, pd.DataFrame]:
    """Return predictions of sources with accuracies of a beta distribution (sd .2), and slices that belong to them."""
    count = sources * len(CLASSES)
    source = np.repeat(np.arange(count), draw_sizes(rng, count, sizes))
    targets, odds = source % len(CLASSES), mean * (1 - mean) / 0.2**2 - 1
    correct = rng.random(len(source)) < rng.beta(mean * odds, (1 - mean) * odds, count)[source]
    logits = np.eye(len(CLASSES))[np.where(correct, targets, (targets + 1) % len(CLASSES))]
    names, groups = to_string_array(map(str, source)), to_string_array(map(str, range(len(source))))
    kinds = {}
    for name, (values, share) in KINDS.items():
        of_source, of_image = rng.integers(0, values, count)[source], rng.integers(0, values, len(source))
        kinds[name] = np.where(rng.random(len(source)) < share, of_image, of_source).astype(str)
    return Predictions(CLASSES, logits, logits[:, :0], targets, groups, groups, names, origins=source), pd.DataFrame(
        kinds
    )

"""Simulate paired comparisons over sources: levels and power of tests, planned numbers of sources, and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avatar_bench.metrics import paired_tests
from avatar_bench.metrics.units import Units

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Row = dict[str, Any]
CLASSES, IMAGES, ALPHA, POWER = 3, 20, 0.05, 0.8
FLIPS = 1023
KINDS = ("equal", "53 sizes", "log-normal")
# images of the sources of a collection of avatars
SIZES_OF_53 = [
    *(
        1,
        2,
        3,
        3,
        7,
        12,
        22,
        26,
        28,
        29,
        30,
        30,
        30,
        30,
        30,
        34,
        35,
        35,
        36,
        38,
        40,
        40,
        42,
        45,
        45,
        45,
        46,
        52,
        53,
        55,
    ),
    *(56, 57, 58, 58, 58, 58, 60, 60, 64, 66, 66, 70, 100, 102, 118, 168, 200, 200, 201, 213, 226, 235, 240),
]
NULLS = ("equal recipes", "symmetric, sd .1", "symmetric, sd .2", "skewed", "a sixth differ")
EFFECTS = ("alike everywhere", "in one class of three")


def draw_sizes(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Counts:
    """Draw numbers of images of sources; the logarithms of log-normal ones have a standard deviation of 1.1."""
    if kind == "equal":
        return np.full(shape, IMAGES)
    if kind == "53 sizes":
        return rng.choice(SIZES_OF_53, shape)
    return np.maximum(1, np.rint(IMAGES * np.exp(1.1 * rng.normal(size=shape)))).astype(np.int64)


def draw_effects(rng: np.random.Generator, case: str, shape: tuple[int, int]) -> Floats:
    """Draw by how much the first of two recipes is better on each source, (D, U); its mean is 0, or .1 of EFFECTS."""
    kinds = np.arange(shape[1]) % CLASSES
    if case == "skewed":
        return 0.12 * (rng.exponential(1, shape) - 1)
    if case == "a sixth differ":
        return np.where(rng.random(shape) < 1 / 6, 0.4, 0.0) - 0.4 / 6
    if case == "alike everywhere":
        return 0.1 + 0.07 * rng.normal(size=shape)
    if case == "in one class of three":
        return np.where(kinds == 0, 0.3, 0.0) + 0.05 * rng.normal(size=shape)
    return {"equal recipes": 0.0, "symmetric, sd .1": 0.1, "symmetric, sd .2": 0.2}[case] * rng.normal(size=shape)


def draw_gains(rng: np.random.Generator, sizes: Counts, effects: Floats) -> tuple[Counts, Counts]:
    """Draw on how many images of each source, (D, U), only the first and only the second recipe is correct."""
    level = np.clip(rng.normal(0.7, 0.08, sizes.shape), 0.55, 0.85)
    first, second = np.clip(level + effects / 2, 0, 1), np.clip(level - effects / 2, 0, 1)
    only_first = rng.binomial(sizes, first * (1 - second))
    chance = second * (1 - first) / np.maximum(1 - first * (1 - second), 1e-9)
    return only_first, rng.binomial(sizes - only_first, np.clip(chance, 0, 1))


def weigh(means: Floats, sizes: Counts) -> Floats:
    """Return the parts (D, U) of the mean over new sources: classes weigh as their images do, their sources alike."""
    kinds = np.arange(sizes.shape[1]) % CLASSES
    member = (kinds[:, None] == np.arange(CLASSES)).astype(np.float64)
    return means * (sizes @ member / sizes.sum(axis=1, keepdims=True) / member.sum(axis=0))[:, kinds]


def test_by_signs(parts: Floats, rng: np.random.Generator) -> Floats:
    """Return p-values (D,) of sums of parts (D, U), each of which may change its sign."""
    signs = np.array(list(product((-1.0, 1.0), repeat=parts.shape[1])) if parts.shape[1] < 11 else [])
    drawn = signs if len(signs) else rng.choice([-1.0, 1.0], (FLIPS, parts.shape[1]))
    reached = (np.abs(parts @ drawn.T) >= np.abs(parts.sum(axis=1))[:, None] - 1e-9).sum(axis=1)
    return reached / len(signs) if len(signs) else (reached + 1) / (FLIPS + 1)


def simulate_tests(draws: int) -> Iterator[Row]:
    """Yield how often three tests find a difference at .05: levels where there is none, and power where it is .1."""
    for case, kind, count in product((*NULLS, *EFFECTS), KINDS, (6, 9, 15, 30)):
        rng = np.random.default_rng(0)
        sizes = draw_sizes(rng, kind, (draws, count))
        only_first, only_second = draw_gains(rng, sizes, draw_effects(rng, case, sizes.shape))
        parts = weigh((only_first - only_second) / sizes, sizes)
        test = paired_tests.stratified_t_test(parts, np.arange(count) % CLASSES)
        yield {
            "case": case,
            "sizes": kind,
            "sources": count,
            "signs of sums (before)": (test_by_signs((only_first - only_second).astype(float), rng) < ALPHA).mean(),
            "signs of means": (test_by_signs(parts, rng) < ALPHA).mean(),
            "stratified t (now)": (test.p < ALPHA).mean(),
            "of these, above 0": (test.low > 0).mean(),
        }


def simulate_plans(draws: int) -> Iterator[Row]:
    """Yield the power that the planned difference, and the planned number of sources, have on further sets."""
    for spread, kind, count in product((0.0, 0.1, 0.2), KINDS, (9, 15, 30)):
        rng = np.random.default_rng(0)
        stated, needed, found = [], [], []
        for _ in range(draws):
            noise = measure_pilot(rng, draw_sizes(rng, kind, (1, count)), spread)
            stated.append(np.quantile(paired_tests.simulate_least_sums(noise, ALPHA), POWER))
            needed.append(paired_tests.find_required_units(noise, 0.1, POWER, ALPHA))
            found.append(find(rng, draw_sizes(rng, kind, (1, needed[-1])), spread, np.array([[0.1]])))
        sizes = draw_sizes(rng, kind, (draws, count))
        yield {
            "sd": spread,
            "sizes": kind,
            "sources": count,
            "detectable difference": np.mean(stated),
            "its power": find(rng, sizes, spread, np.minimum(stated, 0.5)[:, None]),
            "sources for .10": np.median(needed),
            "their power": np.mean(found),
        }


def measure_pilot(rng: np.random.Generator, sizes: Counts, spread: float) -> paired_tests.Noise:
    """Return the noise of the difference between two equal recipes, as measured on the images of one set."""
    counts = draw_gains(rng, sizes, spread * rng.normal(size=sizes.shape))
    source = np.repeat(np.arange(sizes.size), sizes[0])
    place = np.concatenate([np.arange(size) for size in sizes[0]])  # of an image in its source
    first, second = (count[0][source] for count in counts)
    gains = np.where(place < first, 1.0, np.where(place < first + second, -1.0, 0.0))
    return paired_tests.measure_noise(gains, Units(np.arange(len(source)), source, source % CLASSES))


def find(rng: np.random.Generator, sizes: Counts, spread: float, difference: Floats) -> float:
    """Return how often, on new sets of these sizes (D, U), a difference is found."""
    only_first, only_second = draw_gains(rng, sizes, difference + spread * rng.normal(size=sizes.shape))
    parts = weigh((only_first - only_second) / sizes, sizes)
    return float((paired_tests.stratified_t_test(parts, np.arange(sizes.shape[1]) % CLASSES).low > 0).mean())


def simulate_ranks(draws: int) -> Iterator[Row]:
    """Yield how often the true ranks of four recipes, all of them, are between the stated ends; before: resamples."""
    truths = {"equal": (0.7,) * 4, "close": (0.74, 0.72, 0.7, 0.62), "apart": (0.85, 0.75, 0.65, 0.55)}
    for (name, truth), kind, count in product(truths.items(), KINDS, (6, 9, 15, 30)):
        rng, inside, width = np.random.default_rng(0), np.zeros(2), 0.0
        true_ranks = paired_tests.ranks(truth)
        for _ in range(draws):
            sizes = draw_sizes(rng, kind, (1, count))
            level = rng.normal(0, 0.08, count) + rng.normal(0, 0.08, (4, count)) + np.array(truth)[:, None]
            hits = rng.binomial(sizes, np.clip(level, 0, 1))
            ends = bound_ranks(hits / sizes, sizes), resample_ranks(rng, hits, sizes)
            inside += [((low <= true_ranks) & (true_ranks <= high)).all() for low, high in ends]
            width += float((ends[0][1] - ends[0][0] + 1).mean())
        rates = {"resamples (before)": inside[1] / draws, "significant pairs (now)": inside[0] / draws}
        yield {"recipes": name, "sizes": kind, "sources": count, **rates, "ranks in an interval": width / draws}


def bound_ranks(means: Floats, sizes: Counts) -> tuple[Counts, Counts]:
    """Return the ends of the ranks of recipes by their means (R, U) on sources: of pairs, after Holm."""
    pairs = np.array(list(combinations(range(len(means)), 2)))
    parts = weigh(means[pairs[:, 0]] - means[pairs[:, 1]], np.broadcast_to(sizes, (len(pairs), sizes.shape[1])))
    test = paired_tests.stratified_t_test(parts, np.arange(sizes.shape[1]) % CLASSES)
    better = np.zeros((len(means), len(means)), dtype=bool)
    for (a, b), is_found, value in zip(pairs, paired_tests.holm(test.p) < ALPHA, test.value, strict=True):
        better[(a, b) if value > 0 else (b, a)] = is_found
    return paired_tests.bound_ranks(better)


def resample_ranks(rng: np.random.Generator, hits: Counts, sizes: Counts) -> tuple[Floats, Floats]:
    """Return the ends of the ranks by images in resamples of the sources of each class."""
    places = [np.flatnonzero(np.arange(sizes.shape[1]) % CLASSES == kind) for kind in range(CLASSES)]
    drawn = np.hstack([rng.choice(place, (200, len(place))) for place in places])
    ranks = paired_tests.ranks((hits[:, drawn].sum(axis=2) / sizes[0][drawn].sum(axis=1)).T)
    low, high = np.quantile(ranks, [0.025, 0.975], axis=0, method="inverted_cdf")
    return low, high

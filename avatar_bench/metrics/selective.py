"""Selective prediction: risk and coverage when doubtful images are not answered, and thresholds that bound the risk.

The bound is that of Learn-then-Test by fixed-sequence testing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from avatar_bench.metrics.stats import OrderStatistic, ratio

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
Counts = NDArray[np.int64]
Trace = Callable[[Floats], tuple[Floats, Floats]]  # from weights to coverage and risk

CONFIDENCE = 0.9  # that the error among answered images is at most the target
_GRID_SIZE = 60  # thresholds that are tested at most
_SIMULATIONS = 200  # of the sequence, to choose its start
_PRIOR_ERRORS = 5.0  # pseudo-count of the error rate of the pilot, so that none seen is not none
_NEAR_BEST = 0.98  # of the largest expected coverage: a start with that much is as good
_POWER = 0.8  # of the test for which required images are estimated
_LEAST_ANSWERED = 10  # images whose error rate is an estimate
MIN_ANSWERS = 10  # answered images of a source whose error rate counts
_ROUNDING = 1e-9  # of a target times a number of images
# confidences from strict to lax, fixed before any image of a source is seen, .99995 to .27; the last answers everything
_SOURCE_GRID = np.append(expit(np.arange(9.9, -1.05, -0.1)), 0.0)
_COUNTS = np.unique(np.geomspace(1, 1e5, 400).astype(np.int64))  # of answered images, in steps of 3 %


def risk_coverage(confidence: Reals, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Compute coverage and risk (N,) with each image's confidence as the threshold, most confident first.

    Coverage is the fraction of images with a prediction, risk the error rate among them, 0 to 1; ties in confidence are
    predicted together. `confidence` and `correct` are (N,).
    """
    order, trace = _rank(confidence, correct)
    return trace(np.ones(len(order)))


def build_aurc_statistic(confidence: Reals, correct: ArrayLike) -> OrderStatistic:
    """Return the area under the risk-coverage curve as a statistic (B,), 0 to 1: the mean risk over each confidence.

    Uninformative confidence yields the error rate. Geifman and El-Yaniv, NeurIPS 2017; ties as in risk_coverage.
    """
    order, trace = _rank(confidence, correct)

    def compute(drawn: Floats) -> Floats:
        return np.asarray((drawn * np.nan_to_num(trace(drawn)[1])).sum(axis=-1) / drawn.sum(axis=-1))

    return OrderStatistic(order, compute)


def thresholds(coverages: ArrayLike, confidence: Reals) -> Floats:
    """Return the confidence thresholds (K,) that reach each of the K coverages, above 0 to 1."""
    wanted = np.ceil(np.asarray(coverages, dtype=np.float64) * len(confidence) - 1e-9).astype(int)
    return np.asarray(np.sort(confidence)[::-1][wanted - 1], dtype=np.float64)


def abstention_losses(confidence: Reals, correct: ArrayLike, costs: ArrayLike) -> Floats:
    """Compute the loss (N, K) of each image where an error costs 1 and an abstention each of K costs, 0 to 1.

    An image is answered if its expected loss, 1 - confidence, is at most the cost of abstaining. Chow, IEEE Trans. Inf.
    Theory 16 (1970) 41.
    """
    cost = np.asarray(costs, dtype=np.float64)
    wrong = ~np.asarray(correct, dtype=bool)[:, None]
    return np.asarray(np.where(1 - np.asarray(confidence)[:, None] <= cost, wrong, cost), dtype=np.float64)


def best_abstention_costs(confidence: Reals, correct: ArrayLike, costs: ArrayLike) -> Floats:
    """Compute the lowest mean loss (K,) that any threshold of confidence has on these images, at each of K costs."""
    coverage, risk = risk_coverage(confidence, correct)
    cost = np.asarray(costs, dtype=np.float64)
    answered = (coverage * risk)[:, None] + cost * (1 - coverage)[:, None]
    return np.asarray(np.minimum(cost, answered.min(axis=0)))


@dataclass(frozen=True)
class AnsweringThreshold:
    """Confidence from which images are answered, inf for none, with the answered images and errors of its fit.

    `n` are all images of the fit, `n_errors` the incorrect ones among them. Where none is answered, `n_required` is the
    estimate of `estimate_required`.
    """

    value: float
    answered: int
    errors: int
    n: int
    n_errors: int
    n_required: int | None = None

    @property
    def coverage(self) -> float:
        """Return the fraction of the images of the fit that are answered, 0 to 1."""
        return self.answered / self.n if self.n else 0.0

    @property
    def bound(self) -> float:
        """Return the upper bound of the error rate among answered images by which the threshold passed its test.

        The promise is that of the target: the same images chose the threshold, so that a lower bound may be too low.
        """
        return upper_bound(self.errors, self.answered)

    @property
    def n_missing(self) -> int | None:
        """Return how many more images, half of them for the fit, are estimated to be required; None if none help."""
        return None if self.n_required is None else 2 * max(1, self.n_required - self.n)


@dataclass(frozen=True)
class SourceThreshold:
    """Confidence from which images are answered, inf for none, so that few sources exceed an error rate.

    Of `n` sources, `counted` have MIN_ANSWERS answered images or more, of which `broken` have a larger error rate than
    the target; `coverage` is the mean over the n of the fraction answered. Where none is answered, `counted` and
    `broken` are those of answering every image. `required` counted sources, none of which breaks, would show `beta`.
    """

    value: float
    n: int
    counted: int
    broken: int
    coverage: float
    required: int


class SourceTrace(NamedTuple):
    """Of n sources, at each of the fixed thresholds (G,) from strict to lax: those that are counted, and that break.

    `coverage` is the mean over the sources of the fraction of their images that is answered.
    """

    thresholds: Floats
    n: int
    coverage: Floats
    counted: Counts
    broken: Counts


def count_required(target: float, confidence: float = CONFIDENCE) -> int:
    """Return how many independent images without an event show that its rate is at most a target, between 0 and 1.

    The smallest n with (1 - target)^n <= 1 - confidence, by the exact binomial bound: 45 for .05 at confidence .9.
    """
    return max(1, math.ceil(math.log(1 - confidence) / math.log1p(-target) - 1e-9))


def upper_bound(errors: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Compute the one-sided upper bound of an error rate, by Clopper and Pearson, of `errors` in `n` images."""
    return float(scipy.stats.beta.ppf(confidence, errors + 1, n - errors)) if errors < n else 1.0


def count_allowed(n: ArrayLike, target: float, confidence: float = CONFIDENCE) -> Counts:
    """Return the largest number of errors in n images, (...), whose upper bound is at most the target; -1 for none.

    The bound of k errors is at most the target exactly where P(Binomial(n, target) <= k) <= 1 - confidence.
    """
    size = np.asarray(n, dtype=np.int64)
    # the first that reaches the level
    most = np.asarray(scipy.stats.binom.ppf(1 - confidence, size, target), dtype=np.int64)
    passes = (scipy.stats.binom.cdf(most, size, target) <= 1 - confidence + 1e-12) & (size > 0)
    return np.where(passes, most, most - 1)


@cache
def _tabulate_allowed(n: int, target: float) -> Counts:
    """Return `count_allowed` of 0 to n images, (n + 1,)."""
    return count_allowed(np.arange(n + 1), target)


def fit_answering_threshold(
    pilot_scores: Reals, pilot_correct: ArrayLike, scores: Reals, correct: ArrayLike, target: float
) -> AnsweringThreshold:
    """Return the lowest confidence threshold whose error rate among answered images is shown to meet a target.

    Thresholds are those of the pilot's images, from strict to lax, and their sequence starts at the laxest for which a
    simulation on the pilot promises nearly the largest coverage: both are fixed before the images of the fit are seen,
    so that any rule for them keeps the level. A start that answers too few of them for any test is passed over; fewer
    confident images than expected leave more errors among the next ones, so that the level is kept where errors do not
    rise with confidence. Each is tested with the exact binomial bound, and the last one before the first failure is
    returned. With probability CONFIDENCE its error rate is at most `target`, if the N images of the fit are independent
    draws from those to be answered. The M images of the pilot must be others. Angelopoulos et al., Learn then Test,
    Ann. Appl. Stat. 19 (2025) 1641.
    """
    grid = _make_grid(pilot_scores)
    n, errors = _count_answered(scores, correct, grid)
    allowed = _tabulate_allowed(len(scores), target)[n]
    passes = errors <= allowed
    start = _choose_start(pilot_scores, pilot_correct, grid, len(scores), target)
    start += int((allowed[start:] >= 0).argmax())
    failed = np.flatnonzero(~passes[start:])
    last = start + (int(failed[0]) if len(failed) else len(grid) - start) - 1
    if last < start:
        images = np.append(pilot_scores, scores), np.append(pilot_correct, correct)
        return AnsweringThreshold(math.inf, 0, 0, len(scores), int(errors[-1]), estimate_required(*images, target))
    return AnsweringThreshold(float(grid[last]), int(n[last]), int(errors[last]), len(scores), int(errors[-1]))


def fit_source_threshold(
    scores: Reals, correct: ArrayLike, sources: ArrayLike, target: float, beta: float
) -> SourceThreshold:
    """Return the lowest confidence threshold at which few sources are shown to exceed a target error.

    A source *breaks* where the observed error rate among its answered images is above `target`. Sources (N,) are the
    units: a fixed sequence of thresholds is tested from strict to lax, from the first at which half of the sources, and
    enough for a test, are counted; the last one before the first failure is returned. With probability CONFIDENCE at
    most a fraction `beta` of new sources breaks, of those with MIN_ANSWERS answered images or more, if the sources are
    independent draws from those to come, with their sizes and classes. An image of score -inf is answered by no
    threshold. Angelopoulos et al., as for
    `fit_answering_threshold`.
    """
    trace = trace_sources(scores, correct, sources, target)
    allowed = count_allowed(trace.counted, beta)
    last = len(trace.thresholds) - 1
    counts, required = (trace.n, int(trace.counted[last]), int(trace.broken[last])), count_required(beta)
    passes = trace.broken <= allowed
    # where few are counted, one that breaks ends the sequence: see `scripts/simulate sources`
    first = int(((allowed >= 0) & (2 * trace.counted >= trace.counted[last])).argmax())
    if allowed[first] < 0 or not passes[first]:
        return SourceThreshold(math.inf, *counts, 0.0, required)
    failed = np.flatnonzero(~passes[first:])
    place = first + int(failed[0]) - 1 if len(failed) else last
    counts = trace.n, int(trace.counted[place]), int(trace.broken[place])
    return SourceThreshold(float(trace.thresholds[place]), *counts, float(trace.coverage[place]), required)


def trace_sources(scores: Reals, correct: ArrayLike, sources: ArrayLike, target: float) -> SourceTrace:
    """Return how many sources are counted and break at each of the fixed thresholds, see `fit_source_threshold`."""
    answered, errors, sizes = _count_by_source(scores, correct, sources)
    counted = answered >= MIN_ANSWERS
    exceeds = errors > target * answered + _ROUNDING
    coverage = (answered / sizes[:, None]).sum(axis=0) / max(1, len(sizes))
    return SourceTrace(_SOURCE_GRID, len(sizes), coverage, counted.sum(axis=0), (counted & exceeds).sum(axis=0))


def find_broken_sources(
    answered: ArrayLike, correct: ArrayLike, sources: ArrayLike, target: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which sources, (S,) in alphabetical order, are counted, and which of these exceed a target error.

    `answered` states of each image, (N,), whether it is answered.
    """
    scores = np.where(np.asarray(answered, dtype=bool), 1.0, -np.inf)
    counts, errors, __ = _count_by_source(scores, correct, sources)
    counted = counts[:, -1] >= MIN_ANSWERS
    return counted, counted & (errors[:, -1] > target * counts[:, -1] + _ROUNDING)


def _count_by_source(scores: Reals, correct: ArrayLike, sources: ArrayLike) -> tuple[Counts, Counts, Counts]:
    """Count answered images and errors among them at each threshold of _SOURCE_GRID, (S, G), and all images, (S,)."""
    codes = np.unique(np.asarray(sources), return_inverse=True)[1]
    shape = int(codes.max(initial=-1)) + 1, len(_SOURCE_GRID) + 1
    places = np.searchsorted(-_SOURCE_GRID, -np.asarray(scores))  # the strictest threshold that answers the image
    cells = codes * shape[1] + places
    wrong = ~np.asarray(correct, dtype=bool)
    counted = [np.bincount(part, minlength=shape[0] * shape[1]).reshape(shape) for part in (cells, cells[wrong])]
    answered, errors = (np.cumsum(part[:, :-1], axis=1) for part in counted)
    return answered, errors, counted[0].sum(axis=1)


def estimate_required(scores: Reals, correct: ArrayLike, target: float) -> int | None:
    """Estimate how many images of the fit let a threshold pass its test in 8 of 10 draws; None if no number does.

    `scores` (N,) and `correct` (N,) are all images that are known. The error rate at each threshold is the observed
    one, drawn to the target by half an error; thresholds that answer fewer than 10 images are not considered.
    """
    grid = _make_grid(scores)
    answered, errors = _count_answered(scores, correct, grid)
    rates = (errors + 0.5) / (answered + 0.5 / target)
    power = scipy.stats.binom.cdf(count_allowed(_COUNTS, target), _COUNTS, rates[:, None])
    is_enough = (power >= _POWER) & ((answered >= _LEAST_ANSWERED) & (rates < target))[:, None]
    required = np.ceil(_COUNTS[is_enough.argmax(axis=1)] * len(scores) / np.maximum(answered, 1))
    return int(required[is_enough.any(axis=1)].min()) if is_enough.any() else None


def draw_of_groups(groups: ArrayLike) -> NDArray[np.bool_]:
    """Return which images, (N,), are the one drawn at random of each of the groups (N,), always the same.

    So drawn, images of different groups are independent, and the error rate is that of a random image of a new group.
    """
    names = np.asarray(groups)
    order = np.random.default_rng(0).permutation(len(names))
    first = order[np.unique(names[order], return_index=True)[1]]
    return np.isin(np.arange(len(names)), first)


def _make_grid(scores: Reals) -> Floats:
    """Return thresholds from strict to lax, quantiles of the scores; the last answers every image."""
    known = np.unique(scores)[::-1]
    places = np.unique(np.linspace(0, len(known) - 1, min(_GRID_SIZE, len(known))).round().astype(int))
    return np.append(known[places], 0.0).astype(np.float64)


def _count_answered(scores: Reals, correct: ArrayLike, grid: Floats) -> tuple[Counts, Counts]:
    """Count the answered images and the errors among them at each threshold, from strict to lax."""
    order = np.argsort(-scores, kind="stable")
    errors = np.append(0, np.cumsum(~np.asarray(correct, dtype=bool)[order]))
    answered = np.searchsorted(-scores[order], -grid, side="right")
    return answered, errors[answered]


def _choose_start(scores: Reals, correct: ArrayLike, grid: Floats, n: int, target: float) -> int:
    """Return the last place in the grid from which the sequence has nearly the largest expected coverage.

    Of starts that are as good, the laxest tests most images at once: one error that is more confident than the
    simulation expects does not end its sequence.
    """
    if not len(scores):
        return 0
    expected = _expect_coverage(scores, correct, grid, n, target)
    return int(np.flatnonzero(expected >= _NEAR_BEST * expected.max())[-1]) if expected.any() else 0


def _expect_coverage(scores: Reals, correct: ArrayLike, grid: Floats, n: int, target: float) -> Floats:
    """Simulate the mean number of images that the sequence answers from each place in the grid on, of n.

    Of n simulated images as many are answered as of the pilot's, and their error rate falls with the confidence as that
    of calibrated probabilities, times the ratio of the pilot's errors to those.
    """
    answered, errors = _count_answered(scores, correct, grid)
    doubts = 1 - np.sort(scores)[::-1]
    ratio = (errors[-1] + _PRIOR_ERRORS) / (doubts.sum() + _PRIOR_ERRORS)
    rates = np.minimum(ratio * doubts[np.arange(n) * len(doubts) // n], 1.0)
    wrong = np.random.default_rng(0).random((_SIMULATIONS, n)) < rates
    drawn = answered * n // len(scores)
    counts = np.pad(wrong.cumsum(axis=1), ((0, 0), (1, 0)))[:, drawn]
    passes = counts <= _tabulate_allowed(n, target)[drawn]
    places = np.where(passes, len(grid), np.arange(len(grid)))
    stops = np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]  # the first failure from each place on
    coverage = np.append(0, drawn)
    return np.asarray(np.where(passes, coverage[stops], 0).mean(axis=0))


def _rank(confidence: Reals, correct: ArrayLike) -> tuple[NDArray[np.intp], Trace]:
    """Return the images by confidence, highest first, and coverage and risk of weights (..., N) in this order.

    Risk is NaN at coverage 0.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, wrong = -confidence[order], ~np.asarray(correct, dtype=bool)[order]
    last = np.searchsorted(ranked, ranked, side="right") - 1  # of the images as confident as each

    def trace(drawn: Floats) -> tuple[Floats, Floats]:
        answered, errors = (column.cumsum(axis=-1).take(last, axis=-1) for column in (drawn, drawn * wrong))
        return answered / drawn.sum(axis=-1, keepdims=True), ratio(errors, answered)

    return order, trace

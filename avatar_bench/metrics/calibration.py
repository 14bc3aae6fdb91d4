"""Calibration of probabilities and scores: losses, calibration errors, noise floor, temperature and Platt scaling.

The tests compare the calibration errors with scikit-learn and torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax

from avatar_bench.files.document import OpenDocument, parse
from avatar_bench.metrics.stats import SumStatistic, bootstrap_interval, ratio
from avatar_bench.metrics.units import Units, as_units

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
TEMPERATURE_RANGE = (0.05, 20.0)
ECE_KINDS = ("ece_10", "ece_15", "ece_adaptive", "ece_classwise")
ECE_BINS = 15  # of every kind but ece_10; Guo et al.
_TEMPERATURE_GRID = np.geomspace(*TEMPERATURE_RANGE, 161)  # steps of 3.8 %: locally a parabola
_LIKELIHOOD_RATIO = 3.841  # 95 % quantile of chi-squared with one degree of freedom
_FAR_OUT = 3.0  # interquartile ranges from a quartile to its fence; Tukey, Exploratory Data Analysis (1977)
_CHUNK_ELEMENTS = 4_000_000  # values in memory at once: 32 MB


def nll(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Compute the mean negative log-likelihood in nats of targets (N,) under logits (N, C) / temperature."""
    return float(image_losses(logits, targets, temperature).mean())


def fit_temperature(logits: ArrayLike, targets: NDArray[np.integer]) -> float:
    """Fit the temperature, .05 to 20, that minimises the negative log-likelihood of targets (N,) under logits (N, C).

    Returns an end of the range if there is no minimum inside, for example if every image is correct. Raises ValueError
    without images. Guo et al., ICML 2017.
    """
    if len(targets) == 0:
        raise ValueError("a temperature cannot be fitted without images")
    return _find_minimum(lambda temperature: nll(logits, targets, temperature), *TEMPERATURE_RANGE)


def _find_minimum(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return the temperature between two with the least loss."""
    from scipy.optimize import minimize_scalar  # imported here, since predicting does not need it

    optimum = minimize_scalar(
        lambda log_t: loss(float(np.exp(log_t))),
        bounds=(float(np.log(low)), float(np.log(high))),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.clip(np.exp(optimum.x), *TEMPERATURE_RANGE))


@dataclass(frozen=True)
class TemperatureFit(OpenDocument):
    """Temperature of the least loss on `n` images, with its 95 % interval."""

    fitted: float
    low: float
    high: float
    n: int

    @property
    def is_applied(self) -> bool:
        """Return whether the interval excludes 1, that is, whether the images show that logits need a temperature."""
        return not self.low <= 1 <= self.high

    @property
    def value(self) -> float:
        """Return the temperature to apply, 1 where the fitted one is not."""
        return self.fitted if self.is_applied else 1.0

    @property
    def why_not(self) -> str:
        """Return why the fitted temperature is not applied, "" if it is."""
        return "" if self.is_applied else "its interval contains 1"

    @property
    def plain(self) -> dict[str, Any]:
        """Return the fit in plain types, as it is saved."""
        return asdict(self) | {"applied": self.is_applied, "why_not": self.why_not}

    @classmethod
    def parse(cls, saved: Any) -> TemperatureFit | None:
        """Return a saved fit, None where there is none or if it is damaged."""
        try:
            return parse(cls, saved)
        except ValueError:
            return None

    def __str__(self) -> str:
        """Return the fitted temperature with its interval, and why it is not applied."""
        left_out = f", not applied: {self.why_not}" if self.why_not else ""
        return f"{self.fitted:.3g} [{self.low:.3g}, {self.high:.3g}], fitted on {self.n} images{left_out}"


def fit_temperature_of_logits(logits: ArrayLike, targets: NDArray[np.integer], groups: ArrayLike) -> TemperatureFit:
    """Fit the temperature of `fit_temperature` with its interval, which decides whether to apply it."""
    return fit_temperature_of_losses(lambda temperature: image_losses(logits, targets, temperature), groups)


def fit_temperature_of_losses(losses: Callable[[float], Floats], groups: ArrayLike) -> TemperatureFit:
    """Fit the temperature, .05 to 20, of the least mean loss, with its interval, which decides whether to apply it.

    `losses` returns the loss of each image (N,) at a temperature. Their mean may have several minima, as that of merged
    classes: the best of a grid is refined. The interval is that of refits on resampled groups (N,), widened to the
    temperatures whose likelihood ratio, a group counting once, is not significant: where no image is incorrect, all
    resamples agree.
    """
    columns = [losses(float(temperature)) for temperature in _TEMPERATURE_GRID]
    best = int(np.argmin([column.mean() for column in columns]))
    ends = _TEMPERATURE_GRID[[max(best - 1, 0), min(best + 1, len(columns) - 1)]]
    fitted = _find_minimum(lambda temperature: float(losses(temperature).mean()), *ends.tolist())
    grid = np.column_stack(columns)
    low, high = bootstrap_interval(SumStatistic(grid, _locate_minima), groups, bounds=TEMPERATURE_RANGE)
    means = grid.mean(axis=0)
    likely = _TEMPERATURE_GRID[2 * len(np.unique(groups)) * (means - means.min()) <= _LIKELIHOOD_RATIO]
    return TemperatureFit(fitted, float(min(low, likely[0])), float(max(high, likely[-1])), len(grid))


def build_temperature_statistic(logits: ArrayLike, targets: NDArray[np.integer]) -> SumStatistic:
    """Return the fitted temperature as a statistic (B, 1), to 1 % inside its range.

    The losses on a grid of temperatures are one matrix product; a parabola through the best three locates the minimum.
    """
    losses = np.column_stack([image_losses(logits, targets, t) for t in _TEMPERATURE_GRID])
    return SumStatistic(losses, lambda sums: _locate_minima(sums)[:, None])


def _locate_minima(losses: Floats) -> Floats:
    """Return the temperature (B,) with the least of the losses (B, T) at those of the grid."""
    best = np.clip(losses.argmin(axis=1), 1, len(_TEMPERATURE_GRID) - 2)
    left, middle, right = (losses[np.arange(len(losses)), best + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    step = np.log(_TEMPERATURE_GRID[1] / _TEMPERATURE_GRID[0])
    return np.asarray(np.exp(np.log(_TEMPERATURE_GRID[best]) + step * np.clip(shift, -1, 1)))


def image_losses(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> Floats:
    """Compute each image's negative log-likelihood in nats, (N,), under logits (N, C) / temperature."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return np.asarray(-log_probabilities[np.arange(len(targets)), targets])


def brier_scores(probabilities: Reals, targets: NDArray[np.integer]) -> Floats:
    """Compute each image's squared distance of probabilities (N, C) from the one-hot target, 0 to 2.

    Brier, Mon. Weather Rev. 78 (1950) 1.
    """
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1))


def equal_width_edges(bins: int) -> Floats:
    """Return the edges (bins + 1,) of equal-width bins from 0 to 1; a bin includes its upper edge."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass_edges(confidence: Reals, bins: int = ECE_BINS) -> Floats:
    """Return the edges of equal-mass bins of the confidences (N,); fewer bins if many are equal."""
    return np.unique(np.quantile(confidence, np.linspace(0.0, 1.0, bins + 1)))


def assign_bins(confidence: Reals, edges: Reals) -> NDArray[np.intp]:
    """Return the bin index (N,) of each confidence; the lowest edge belongs to the first bin."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, max(0, len(edges) - 2))


def ece(confidence: Reals, correct: ArrayLike) -> Floats:
    """Compute the expected calibration error, 0 to 1: the mean absolute gap of confidence and accuracy over the bins.

    The bins are 15 of equal width. `confidence` is (N,); the result has the leading shape of `correct` (..., N).
    Naeini et al., AAAI 2015.
    """
    return np.asarray(np.abs(_bin_gaps(confidence, correct, equal_width_edges(ECE_BINS))).sum(axis=-1))


def bin_gaps(probabilities: Reals, targets: NDArray[np.integer], weights: Floats | None = None) -> list[Floats]:
    """Compute the gap of each bin, accuracy minus confidence times its fraction of images, for each of ECE_KINDS.

    Each array is (..., bins) for targets (..., N), its absolute values sum to the error. The bins are 10 and 15
    equal-width and 15 equal-mass bins (Nguyen and O'Connor, EMNLP 2015) of the predicted class, and 15 equal-width
    bins of each class's probability, divided by the number of classes (Kull et al., NeurIPS 2019). Images have
    `weights` (N,) with sum 1, by default equal ones.
    """
    gaps = [_bin_gaps(*kind, weights) for kind in _list_bins(probabilities, targets)]
    top, by_class = gaps[: len(ECE_KINDS) - 1], gaps[len(ECE_KINDS) - 1 :]
    return [*top, np.concatenate(by_class, axis=-1) / len(by_class)]


def _list_bins(probabilities: Reals, targets: NDArray[np.integer]) -> list[tuple[Reals, NDArray[np.bool_], Floats]]:
    """Return the confidence, its correctness and the edges of each kind of bins, those of each class last."""
    confidence, correct = probabilities.max(axis=1), targets == probabilities.argmax(axis=1)
    kinds = (equal_width_edges(10), equal_width_edges(ECE_BINS), equal_mass_edges(confidence))
    by_class = [
        (probability, targets == index, equal_width_edges(ECE_BINS))
        for index, probability in enumerate(probabilities.T)
    ]
    return [*((confidence, correct, edges) for edges in kinds), *by_class]


def calibration_errors(probabilities: Reals, targets: NDArray[np.integer], weights: Floats | None = None) -> Floats:
    """Compute the errors of ECE_KINDS, (..., 4), from `bin_gaps`, for targets (..., N)."""
    return np.stack([np.abs(gaps).sum(axis=-1) for gaps in bin_gaps(probabilities, targets, weights)], axis=-1)


def make_deviation_statistic(
    probabilities: Reals, targets: NDArray[np.integer], units: Units | ArrayLike
) -> SumStatistic:
    """Return a function from weights (B, N) to sampling deviations of the errors of ECE_KINDS, (B, 16), 4 columns each.

    The columns are the error that noise produces without any gap; the increase of the error if gaps are one standard
    error (by group) smaller than observed; and the increase and decrease if gaps are too large to change sign. Noise
    increases small gaps most and decreases large gaps most, so the second column bounds the upward deviation of an
    error, and the last two the downward deviation.
    """
    sampled, n, classes = as_units(units), len(targets), probabilities.shape[1]
    seen = bin_gaps(probabilities, targets, sampled.weights)
    placed = [_place_gaps(*kind) for kind in _list_bins(probabilities, targets)]
    placed[-classes:] = [gaps / classes for gaps in placed[-classes:]]
    columns = scipy.sparse.hstack([*placed, scipy.sparse.csr_array(np.ones((n, 1)))], format="csr")
    columns = scipy.sparse.diags_array(sampled.weights * n) @ columns
    ends = np.cumsum([len(gaps) for gaps in seen])[:-1]
    # the standard error of each bin's gap under resampling of groups
    sums = SumStatistic(columns, np.asarray).by_group(sampled.codes).columns
    errors = np.split(np.sqrt(sums.power(2).sum(axis=0)[:-1]) / n, ends)
    pairs = zip(seen, errors, strict=True)
    smaller = [np.sign(gaps) * np.maximum(0.0, np.abs(gaps) - error) for gaps, error in pairs]

    def deviations(sums: Floats) -> Floats:
        drawn = np.split(sums[:, :-1] / sums[:, -1:], ends, axis=1)
        noise = [moved - gaps for moved, gaps in zip(drawn, seen, strict=True)]
        alone = [np.abs(moved) for moved in noise]
        added = [np.abs(gaps + moved) - np.abs(gaps) for gaps, moved in zip(smaller, noise, strict=True)]
        signed = [np.sign(gaps) * moved for gaps, moved in zip(seen, noise, strict=True)]
        return np.stack([part.sum(axis=1) for part in (*alone, *added, *signed, *(-s for s in signed))], axis=1)

    return SumStatistic(columns, deviations)


def simulate_noise_floor(
    probabilities: Reals, draws: int = 2000, seed: int = 0, units: Units | None = None, correlation: float = 0.0
) -> Floats:
    """Simulate the errors of ECE_KINDS, (draws, 4), of a perfectly calibrated network with the same confidences.

    The true classes are drawn from the probabilities (N, C) themselves, so that the errors are sampling noise;
    Vaicenavicius et al., AISTATS 2019. Two images of one of the `units` share the same draw with probability
    `correlation`, 0 to 1.
    """
    generator, n = np.random.default_rng(seed), len(probabilities)
    sampled = units or Units(np.arange(n))
    member = sampled.codes if correlation > 0 else None
    # sort classes by probability, so that one random number makes a whole group correct or incorrect
    order = np.argsort(-probabilities, axis=1, kind="stable")
    below = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)[:, :-1]
    errors = []
    for start in range(0, draws, step := max(1, _CHUNK_ELEMENTS // n)):
        uniform = generator.random((min(step, draws - start), n))
        if member is not None:
            shared = generator.random((len(uniform), int(member.max()) + 1))[:, member]
            uniform = np.where(generator.random(uniform.shape) < np.sqrt(correlation), shared, uniform)
        rank = (uniform[..., None] >= below).sum(axis=-1)
        errors.append(calibration_errors(probabilities, order[np.arange(n), rank], sampled.weights))
    return np.concatenate(errors)


def group_correlation(gaps: ArrayLike, groups: ArrayLike) -> float:
    """Compute the intra-group correlation, 0 to 1, of the gaps (N,) of correctness and confidence, about 0.

    It is the mean product over all pairs within groups, divided by the mean square; 0 if no group has two images. The
    mean of a calibrated network's gaps is 0; about that of few groups, their correlation would seem lower.
    """
    _, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    seen = np.asarray(gaps, dtype=np.float64)
    pairs, square = float((sizes * (sizes - 1)).sum()), float((seen**2).mean())
    if pairs == 0 or square == 0:
        return 0.0
    products = (np.bincount(member, weights=seen) ** 2).sum() - (seen**2).sum()
    return float(np.clip(products / pairs / square, 0.0, 1.0))


def reliability_bins(confidence: Reals, correct: NDArray[np.bool_], edges: Reals) -> dict[str, NDArray[np.generic]]:
    """Return the bins of a reliability diagram: bin, low, high, count, mean confidence and accuracy (NaN if empty)."""
    bins, size = assign_bins(confidence, edges), len(edges) - 1
    count = np.bincount(bins, minlength=size)
    sums = (np.bincount(bins, weights=values, minlength=size) for values in (confidence, correct))
    means = [ratio(total, count) for total in sums]
    keys = ("bin", "low", "high", "count", "confidence", "accuracy")
    return dict(zip(keys, (np.arange(size), edges[:-1], edges[1:], count, *means), strict=True))


def _bin_gaps(confidence: Reals, correct: ArrayLike, edges: Reals, weights: Floats | None = None) -> Floats:
    """Compute each bin's weighted mean over all images of correctness minus confidence, (..., bins)."""
    share = np.full(len(confidence), 1 / len(confidence)) if weights is None else weights
    if np.ndim(correct) > 1:
        bins = assign_bins(confidence, edges)
        member = np.eye(int(bins.max()) + 1)[bins] * share[:, None]
        return np.asarray((np.asarray(correct, dtype=np.float64) - confidence) @ member)
    return np.asarray(share @ _place_gaps(confidence, correct, edges))


def _place_gaps(confidence: Reals, correct: ArrayLike, edges: Reals) -> Any:
    """Return correctness minus confidence of each image in the column of its bin, sparse (N, bins)."""
    bins, gap = assign_bins(confidence, edges), np.asarray(correct, dtype=np.float64) - confidence
    return scipy.sparse.csr_array((gap, bins, np.arange(len(bins) + 1)), shape=(len(bins), int(bins.max()) + 1))


class PlattScaling(NamedTuple):
    """Log-odds `slope` * score + `intercept`; `steepness` is the slope for an interquartile range of the scores."""

    slope: float
    intercept: float
    steepness: float


def fit_platt(scores: ArrayLike, positive: ArrayLike) -> PlattScaling:
    """Fit the scaling of scores (N,) with the largest likelihood of which images are positive, (N,) bool.

    Outliers count as scores at the fences. The steepness has the range of 1 / temperature, so that it ends there where
    all images are separated, or where higher scores are no likelier positive. Raise ValueError if all scores are equal
    or if one kind of image is absent. Platt, Advances in Large Margin Classifiers (1999) 61.
    """
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if len(np.unique(score)) < 2 or mask.all() or not mask.any():
        raise ValueError("a scaling needs two scores, and images of both kinds")
    from scipy.optimize import minimize  # imported here, since predicting does not need it

    middle, quarters = np.median(score), np.quantile(score, [0.25, 0.75])
    unit = float(quarters[1] - quarters[0]) or float(score.std())
    scaled = (np.clip(score, *find_fences(score)) - middle) / unit

    def compute_loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_odds = parameters[0] * scaled + parameters[1]
        losses, gaps = np.logaddexp(0, log_odds) - mask * log_odds, expit(log_odds) - mask
        return float(losses.mean()), np.array([(gaps * scaled).mean(), gaps.mean()])

    least, most = TEMPERATURE_RANGE
    steepness, level = minimize(
        compute_loss,
        np.array([1.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(1 / most, 1 / least), (None, None)],
        options={"ftol": 1e-15, "gtol": 1e-9},
    ).x
    return PlattScaling(float(steepness / unit), float(level - steepness * middle / unit), float(steepness))


def find_fences(scores: ArrayLike) -> tuple[float, float]:
    """Return the ends beyond which scores are outliers; the least and the largest if half of all are equal."""
    score = np.asarray(scores, dtype=np.float64)
    low, high = np.quantile(score, [0.25, 0.75])
    if low == high:
        return float(score.min()), float(score.max())
    return float(low - _FAR_OUT * (high - low)), float(high + _FAR_OUT * (high - low))


def compute_balanced_accuracy(scores: ArrayLike, positive: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """Compute the balanced accuracy, 0 to 1, of scores (N,) for positive (N,) bool images at thresholds (T,)."""
    score, mask = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    inside, outside = np.sort(score[mask]), np.sort(score[~mask])
    recall = 1 - np.searchsorted(inside, thresholds, "left") / len(inside)
    specificity = np.searchsorted(outside, thresholds, "left") / len(outside)
    return np.asarray((recall + specificity) / 2)

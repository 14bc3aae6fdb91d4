"""Multinomial logistic regression on the features of a frozen network, and the choice of its regularisation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from avatar_bench.metrics.classification import balanced_accuracy, confusion_matrix

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Fold = tuple[Rows, Rows]  # rows to fit, rows held out
MAX_FOLDS = 5
CHOICE_COLUMNS = ("C", "cv/loss", "cv/loss_se", "cv/balanced_accuracy", "cv/balanced_accuracy_se")
_MAX_ITERATIONS = 10_000
# largest element of the gradient of the mean loss, in coordinates of similar curvature
_TOLERANCE = 1e-9  # probabilities agree with those of the optimum to 1e-6
_ROUNDING = 1e-5  # of the mean of a feature
_CHOICE_TOLERANCE = 1e-4  # to 1e-3, of fits in single precision that are only compared with each other


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier of features: `weight` (C, D) and `bias` (C,)."""

    weight: Floats
    bias: Floats

    def compute_logits(self, features: NDArray[np.floating]) -> Floats:
        """Compute the logits (N, C) of features (N, D)."""
        return np.asarray(features.astype(np.float64) @ self.weight.T + self.bias)


class LogisticProblem:
    """Logistic regression on the standardised features of labelled images, for any strength and subset of images.

    The objective is that of scikit-learn's LogisticRegression with a softmax: C * sum(weight * loss) + |W|^2 / 2, the
    bias unpenalised. `features` are (N, D), `targets` (N,) class indices below `n_classes`, `weights` (N,) sample
    weights. Features are standardised once, over all images, which uses no label, and rotated to their principal axes,
    which changes neither the penalty nor the optimum. Along these axes the curvature is known well enough for L-BFGS to
    need a fraction of the steps, and there are at most N of them.
    """

    def __init__(self, features: NDArray[np.floating], targets: Rows, weights: Floats, n_classes: int) -> None:
        scaler: Any = StandardScaler()  # type: ignore[no-untyped-call]
        self.scaled: Floats = scaler.fit_transform(features.astype(np.float64))
        # float32 features that differ by rounding alone; a network in another runtime would round otherwise
        constant = scaler.scale_ <= _ROUNDING * np.abs(scaler.mean_)
        self.scaled[:, constant], scaler.scale_[constant] = 0, 1
        self.scaler, self.targets, self.weights, self.n_classes = scaler, targets, weights, n_classes
        # beside other programs, the threads of an eigenproblem wait for each other: more than ten times as long
        with threadpool_limits(1, "blas"):  # type: ignore[no-untyped-call]
            if len(features) >= features.shape[1]:
                variances, axes = np.linalg.eigh(self.scaled.T @ self.scaled)
                rotated = self.scaled @ axes
            else:
                variances, axes = np.linalg.eigh(self.scaled @ self.scaled.T)
                rotated = axes * np.sqrt(np.maximum(variances, 0))
        self.rotated = np.column_stack([rotated, np.ones(len(features))])  # the last column is the bias's
        self.variances = np.append(np.maximum(variances, 0) / len(features), 1)

    def cross_validate(self, strengths: Sequence[float], folds: Sequence[Fold]) -> pd.DataFrame:
        """Return a row for each C, ascending, with CHOICE_COLUMNS: metrics of held-out images, NaN without folds.

        `cv/loss` is the mean log loss over all held-out images by their sample weights, `cv/loss_se` the standard error
        of its mean over folds. `cv/balanced_accuracy_se` is the standard error of the difference from the highest one.
        """
        table = pd.DataFrame({"C": sorted(strengths)}).reindex(columns=CHOICE_COLUMNS).astype(float)
        losses = np.zeros((len(table), len(folds)))
        confusions = np.zeros((len(table), len(folds), self.n_classes, self.n_classes))
        rotated = self.rotated.astype(np.float32)
        for fold, (rows, held_out) in enumerate(folds):
            solution = None
            for row, strength in enumerate(table["C"]):
                solution = self._solve(strength, rotated[rows], rows, _CHOICE_TOLERANCE, solution)
                logs = log_softmax(rotated[held_out] @ solution, axis=1)
                lost = -logs[np.arange(len(held_out)), self.targets[held_out]]
                losses[row, fold] = np.average(lost, weights=self.weights[held_out])
                confusions[row, fold] = confusion_matrix(self.targets[held_out], logs.argmax(axis=1), self.n_classes)
        if folds:
            shares = np.array([self.weights[held_out].sum() for _, held_out in folds])
            table["cv/loss"] = np.average(losses, axis=1, weights=shares)
            table["cv/loss_se"] = losses.std(axis=1, ddof=1) / np.sqrt(len(folds))
            table["cv/balanced_accuracy"] = balanced_accuracy(confusions.sum(axis=1))
            table["cv/balanced_accuracy_se"] = _compute_difference_se(confusions)
        return table

    def fit_head(self, strength: float) -> LinearHead:
        """Fit the head to all images with C = `strength`; it takes features as they are, without standardisation."""
        solution = self._solve(strength, self.rotated, np.arange(len(self.targets)), _TOLERANCE)
        residuals = _subtract_targets(log_softmax(self.rotated @ solution, axis=1), self.targets)
        # where the gradient is zero, the weights are this sum over the images, whatever the axes
        weight = -strength * (residuals * self.weights[:, None]).T @ self.scaled / self.scaler.scale_
        return LinearHead(weight, solution[-1] - weight @ self.scaler.mean_)

    def _solve(
        self, strength: float, inputs: NDArray[Any], rows: Rows, tolerance: float, start: Floats | None = None
    ) -> Floats:
        """Return the optimum (M, C) for some rows, with their `inputs` (n, M); `start` is that for another C."""
        targets, total = self.targets[rows], self.weights[rows].sum()
        weights = self.weights[rows] / total
        penalty = np.append(np.full(inputs.shape[1] - 1, 1 / (strength * total)), 0)[:, None]
        scale = 1 / np.sqrt(self.variances[:, None] / 4 + penalty)  # a probability's variance is at most 1/4
        shape = (inputs.shape[1], self.n_classes)

        def compute_loss(flat: Floats) -> tuple[float, Floats]:
            solution = flat.reshape(shape) * scale
            logs = log_softmax((inputs @ solution.astype(inputs.dtype)).astype(np.float64), axis=1)
            loss = -(weights @ logs[np.arange(len(rows)), targets]) + (penalty * solution**2).sum() / 2
            errors = _subtract_targets(logs, targets) * weights[:, None]
            gradient = inputs.T @ errors.astype(inputs.dtype) + penalty * solution
            return float(loss), (gradient * scale).ravel()

        begin = np.zeros(shape) if start is None else start / scale
        limits = {"maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS, "gtol": tolerance, "ftol": 0, "maxcor": 20}
        # products with so few columns are bound by memory, where threads only wait for each other
        with threadpool_limits(1, "blas"):  # type: ignore[no-untyped-call]
            found: Any = minimize(compute_loss, begin.ravel(), jac=True, method="L-BFGS-B", options=limits)  # type: ignore[call-overload]
        solution: Floats = found.x.reshape(shape) * scale
        return solution


def choose_strength(table: pd.DataFrame) -> float:
    """Return the smallest C whose cross-validated balanced accuracy is within one standard error of the highest.

    The standard error is that of the difference from the highest one, in the same folds. That of a score by itself
    measures how much folds differ in difficulty, for every C alike, and so would accept any C.

    Not the C with the lowest log loss, which on images of unknown sources mainly measures how confident the errors
    are, and so prefers heads that hardly depend on the image. The confidence is scaled afterwards, by the temperature;
    docs/commands/train.md has the measurement.
    """
    scores, errors = (table[f"cv/balanced_accuracy{name}"].fillna(0).to_numpy() for name in ("", "_se"))
    return float(table["C"].to_numpy()[scores + errors >= scores.max()][0])


def divide_images(targets: Rows, sources: Iterable[str], groups: Iterable[str], seed: int) -> tuple[str, list[Fold]]:
    """Divide images into folds by source, or by group where a class has too few sources; return the unit and the folds.

    There are five folds, or fewer where only then each fold has images, and each class some in the others. Images of an
    unknown source, "", are divided by their group. Returns no folds where a class has a single group.
    """
    by_source = [source or f"group:{group}" for source, group in zip(sources, groups, strict=True)]
    for unit, names in (("source", by_source), ("group", list(groups))):
        codes = pd.factorize(np.asarray(names, dtype=object))[0]
        for count in range(MAX_FOLDS, 1, -1):
            if codes.max() + 1 < count or np.bincount(targets).max() < count:  # scikit-learn would refuse it
                continue
            divider: Any = StratifiedGroupKFold(count, shuffle=True, random_state=seed)  # type: ignore[no-untyped-call]
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The least populated class")  # below, each fold is checked
                division = list(divider.split(codes, targets, codes))
            folds = [(rows, held_out) for rows, held_out in division if len(held_out)]
            complete = all(len(np.unique(targets[rows])) == len(np.unique(targets)) for rows, _ in folds)
            if len(folds) == count and complete:
                return unit, folds
    return "group", []


def _compute_difference_se(confusions: Floats) -> Floats:
    """Return the standard error of each balanced accuracy (R,) minus the highest one, by a jackknife over the folds.

    `confusions` are (R, folds, C, C). A fold need not have all classes, so that scores are not averaged over folds.
    """
    total, folds = confusions.sum(axis=1), confusions.shape[1]
    without = balanced_accuracy(total[:, None] - confusions)
    differences = without - without[balanced_accuracy(total).argmax()]
    return np.asarray(differences.std(axis=1) * np.sqrt(folds - 1))


def _subtract_targets(logs: Floats, targets: Rows) -> Floats:
    """Return probabilities minus one-hot targets, (N, C): the gradient of the log loss by the logits."""
    errors: Floats = np.exp(logs)
    errors[np.arange(len(targets)), targets] -= 1
    return errors

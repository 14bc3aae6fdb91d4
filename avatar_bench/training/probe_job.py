"""Fit of a linear probe: the features of a frozen network, the choice of its regularisation, and the head."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.linalg import block_diag, eigh
from scipy.optimize import minimize
from scipy.sparse import eye_array
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import encode_targets
from avatar_bench.data.training_batches import weigh_classes, weigh_sources
from avatar_bench.errors import ConfigError, DivergedError, GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.inference.predictor import DatasetPredictor
from avatar_bench.metrics.classification import accuracy, balanced_accuracy, confusion_matrix, macro_f1
from avatar_bench.models.checkpoint import CARD_KEY, write_checkpoint
from avatar_bench.models.stages import Stage
from avatar_bench.models.wrapped_networks import LAST_EMBEDDING, POOLED_OPTION
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.record import METRIC
from avatar_bench.training.classifier_job import ClassifierJob
from avatar_bench.training.environment import read_versions
from avatar_bench.training.features import compute_features
from avatar_bench.training.trainer import build_loggers, end_loaders

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Fold = tuple[Rows, Rows]  # rows to fit, rows held out
MAX_FOLDS = 5
CHOICE_COLUMNS = ("C", "cv/loss", "cv/loss_se", "cv/balanced_accuracy")
_MAX_ITERATIONS = 10_000
# largest element of the gradient of the mean loss, in coordinates of similar curvature
_TOLERANCE = 1e-9  # probabilities agree with those of the optimum to 1e-6
_ROUNDING = 1e-5  # of the mean of a feature
_CHOICE_TOLERANCE = 2e-5  # losses to 1 %, of fits in single precision that are only compared with each other


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
    weights. Features are standardised once, over all images, which uses no label. The search goes along their principal
    axes, which changes neither the penalty nor the optimum. Along these axes the curvature is known well enough for
    L-BFGS to need a fraction of the steps, and there are at most N of them.
    """

    def __init__(self, features: NDArray[np.floating], targets: Rows, weights: Floats, n_classes: int) -> None:
        scaler: Any = StandardScaler()  # type: ignore[no-untyped-call]
        self.scaled: Floats = scaler.fit_transform(features.astype(np.float64))
        # float32 features that differ by rounding alone; a network in another runtime would round otherwise
        constant = scaler.scale_ <= _ROUNDING * np.abs(scaler.mean_)
        self.scaled[:, constant], scaler.scale_[constant] = 0, 1
        self.scaler, self.targets, self.weights, self.n_classes = scaler, targets, weights, n_classes
        ones = np.ones((len(features), 1))  # the last column is the bias's
        if len(features) >= features.shape[1]:  # in single precision, as axes need not be exact: half the time
            single = self.scaled.astype(np.float32)
            variances, axes = eigh(single.T @ single, driver="evd", check_finite=False)
            inputs, rotated = self.scaled, single @ axes
            self.axes: Any = block_diag(axes.astype(np.float64), ones[:1])
        else:
            variances, vectors = eigh(self.scaled @ self.scaled.T, driver="evd", check_finite=False)
            inputs = rotated = vectors * np.sqrt(np.maximum(variances, 0))
            self.axes = eye_array(len(variances) + 1)
        self.inputs, self.rotated = np.hstack([inputs, ones]), np.hstack([rotated, ones]).astype(np.float32)
        self.variances = np.append(np.maximum(variances, 0) / len(features), 1)
        self.starts: dict[float, Floats] = {}  # the head of each C, nearly, along the axes

    def cross_validate(self, strengths: Sequence[float], folds: Sequence[Fold]) -> pd.DataFrame:
        """Return a row for each C, ascending, with CHOICE_COLUMNS: metrics of held-out images, NaN without folds.

        `cv/loss` is the mean log loss over all held-out images by their sample weights, `cv/loss_se` the standard error
        of its difference from the lowest one, in the same folds.
        """
        table = pd.DataFrame({"C": sorted(strengths)}).reindex(columns=CHOICE_COLUMNS).astype(float)
        losses = np.zeros((len(table), len(folds)))
        confusions = np.zeros((len(table), len(folds), self.n_classes, self.n_classes))
        weights = np.tile(self.weights, (len(folds) + 1, 1))  # of each fold's images to fit, and of all
        for fold, (_, held_out) in enumerate(folds):
            weights[fold, held_out] = 0
        solutions, unturned = None, eye_array(len(self.variances))
        for row, strength in enumerate(table["C"] if folds else ()):
            solutions = self._solve(strength, self.rotated, unturned, weights, _CHOICE_TOLERANCE, solutions)
            self.starts[strength] = solutions[:, -self.n_classes :]
            logs = self._compute_log_probabilities(self.rotated, solutions)
            for fold, (_, held_out) in enumerate(folds):
                targets, predicted = self.targets[held_out], logs[:, held_out, fold].argmax(axis=0)
                losses[row, fold] = -np.average(logs[targets, held_out, fold], weights=self.weights[held_out])
                confusions[row, fold] = confusion_matrix(targets, predicted, self.n_classes)
        if folds:
            shares = np.array([self.weights[held_out].sum() for _, held_out in folds])
            table["cv/loss"] = np.average(losses, axis=1, weights=shares)
            differences = losses - losses[table["cv/loss"].argmin()]
            table["cv/loss_se"] = differences.std(axis=1, ddof=1) / np.sqrt(len(folds))
            table["cv/balanced_accuracy"] = balanced_accuracy(confusions.sum(axis=1))
        return table

    def fit_head(self, strength: float) -> LinearHead:
        """Fit the head to all images with C = `strength`; it takes features as they are, without standardisation."""
        start = self.starts.get(strength)
        solution = self._solve(strength, self.inputs, self.axes, self.weights[None], _TOLERANCE, start)
        residuals = self._subtract_targets(self._compute_log_probabilities(self.inputs, solution))[:, :, 0]
        # where the gradient is zero, the weights are this sum over the images, whatever the axes
        weight = -strength * (residuals * self.weights) @ self.scaled / self.scaler.scale_
        return LinearHead(weight, solution[-1] - weight @ self.scaler.mean_)

    def _solve(
        self, strength: float, inputs: NDArray[Any], axes: Any, weights: Floats, tolerance: float, start: Floats | None
    ) -> Floats:
        """Return the optimum (M, F * C) for each of the sample weights (F, N), by inputs (N, M).

        All are searched at once, along `axes` (M, M) and from a `start` along them: most of the time reads the inputs.
        """
        totals = weights.sum(axis=1)
        penalty = np.append(np.full(inputs.shape[1] - 1, 1 / strength), 0)[:, None] / np.repeat(totals, self.n_classes)
        scale = 1 / np.sqrt(self.variances[:, None] / 4 + penalty)  # a probability's variance is at most 1/4
        shares = (weights / totals[:, None]).T

        def compute_loss(flat: Floats) -> tuple[float, Floats]:
            solution = axes @ (flat.reshape(scale.shape) * scale)
            logs = self._compute_log_probabilities(inputs, solution)
            loss = -(shares * logs[self.targets, np.arange(len(inputs))]).sum() + (penalty * solution**2).sum() / 2
            errors = np.moveaxis(self._subtract_targets(logs) * shares, 0, 2).reshape(len(inputs), -1)
            gradient = axes.T @ (inputs.T @ errors.astype(inputs.dtype) + penalty * solution)
            return float(loss), (gradient * scale).ravel()

        begin = np.zeros(scale.shape) if start is None else start / scale
        limits = {"maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS, "gtol": tolerance, "ftol": 0, "maxcor": 20}
        optimum: Any = minimize(compute_loss, begin.ravel(), jac=True, method="L-BFGS-B", options=limits)  # type: ignore[call-overload]
        solution: Floats = axes @ (optimum.x.reshape(scale.shape) * scale)
        return solution

    def _compute_log_probabilities(self, inputs: NDArray[Any], solutions: Floats) -> Floats:
        """Compute the logs of the probabilities, (C, N, F), of inputs (N, M) by solutions (M, F * C)."""
        logits = (inputs @ solutions.astype(inputs.dtype)).reshape(len(inputs), -1, self.n_classes)
        # summed along the first axis, which is many times as fast as along the last one, a few numbers long
        logs: Floats = log_softmax(np.moveaxis(logits, 2, 0).astype(np.float64, order="C"), axis=0)
        return logs

    def _subtract_targets(self, logs: Floats) -> Floats:
        """Return probabilities minus one-hot targets, (C, N, F): the gradient of the log loss by the logits."""
        errors: Floats = np.exp(logs)
        errors[self.targets, np.arange(len(self.targets))] -= 1
        return errors


def choose_strength(table: pd.DataFrame) -> float:
    """Return the C with the lowest cross-validated log loss, the smallest of equals.

    By balanced accuracy many C are ties, of which the smallest answers nearly nothing with confidence;
    docs/trust.md has the measurement.
    """
    return float(table["C"].to_numpy()[np.argmin(table["cv/loss"].fillna(0))])


def find_better_end(table: pd.DataFrame) -> float | None:
    """Return a C beyond those of the table, ascending, where one may be better: the loss still falls towards an end.

    None if the chosen C is inside, or if its neighbour's loss is no more than one standard error higher, a tie.
    """
    strengths, loss, error = (table[name].to_numpy() for name in ("C", "cv/loss", "cv/loss_se"))
    chosen = strengths.tolist().index(choose_strength(table))
    for end, neighbour, factor in ((0, 1, 0.1), (len(strengths) - 1, len(strengths) - 2, 10)):
        if len(strengths) > 1 and chosen == end and loss[neighbour] - loss[end] > error[neighbour]:
            return float(strengths[end] * factor)
    return None


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


VAL_COLUMNS = ("val/loss", "val/accuracy", METRIC)


class ProbeJob(ClassifierJob):
    """Fit of a linear head to the features of a frozen network, in place of the stages of other modes."""

    def fit(self) -> None:
        """Choose C by cross-validation, fit the head to all training images, and write a row of metrics.csv per C."""
        record, learner = self.record, self.learner
        classifier = learner.net.get_classifier()  # type: ignore[operator]
        if not isinstance(classifier, nn.Linear):
            raise ConfigError(
                f"model.backbone={learner.card.backbone}: its classifier is {type(classifier).__name__}, not linear.",
                "mode=probe fits a linear layer: choose mode=frozen, or add a stage to mode.layers.",
            )
        train = self._select_training_images()
        folds = self._divide(train)
        with record.add_duration("train_seconds"), end_loaders(self.dataset):
            learner.begin(Stage("classifier", 1, 0.0))
            copies = (self.data.augmented_copies or 1) if self.data.augmentation.is_active else 0
            features = self._compute(train, copies)
            # Beside other programs, the threads of an eigenproblem wait for each other: more than ten times as long.
            # With one, the last digits do not depend on their number either.
            with threadpool_limits(1, "blas"):  # type: ignore[no-untyped-call]
                table, head = self._solve(train, features, folds)
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(head.weight))
            classifier.bias.copy_(torch.from_numpy(head.bias))
        self._write_metrics(table, head)
        checkpoint = {
            "state_dict": learner.state_dict(),
            CARD_KEY: learner.card.plain(),
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": read_versions()["pytorch_lightning"],
        }
        write_checkpoint(checkpoint, self.best)
        record.write(self.folder)

    def find_best_row(self, history: pd.DataFrame) -> pd.Series[Any]:
        """Return the row of metrics.csv of the chosen C."""
        row: pd.Series[Any] = history[history["C"] == self.record.probe["C"]].iloc[0]
        return row

    def describe_choice(self) -> str:
        """Return the number of val images, which choose nothing."""
        return f"n = {len(self.data.val_set)}"

    def predict_calibration(self, calibration: Dataset) -> Predictions:
        """Return the Predictions of the calibration images at temperature 1, by their cached features."""
        classifier, features = self.learner.net.get_classifier(), self._compute(calibration)[0]  # type: ignore[operator]
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(features).to(classifier.weight.device)).double().cpu().numpy()
        return DatasetPredictor(name="probe", classes=self.data.classes).describe(calibration, logits, features)

    def _select_training_images(self) -> Dataset:
        """Return the training images; with trainer.limit_batches, the first of each class, as many as such batches."""
        train, limit = self.data.train_set, self.settings.trainer.limit_batches
        if limit is None:
            return train
        first = train.frame.groupby("label").cumcount().sort_values(kind="stable").index
        kept = first[: max(limit * self.data.batch_size, len(self.data.classes))]
        return train.take(train.frame.index.isin(kept))

    def _compute(self, images: Dataset, copies: int = 0) -> NDArray[np.float32]:
        """Return the features (V, N, D) of images; raise DivergedError if one is not finite."""
        features, computed = compute_features(self.learner, self.data, images, self.settings, copies)
        if not (finite := np.isfinite(features).all(axis=(0, 2))).all():
            raise DivergedError(
                f"The features of {format_count(int((~finite).sum()), 'image')} are not finite numbers, "
                f"first {images.frame['path'].iloc[int(finite.argmin())]}.",
                "Use other weights, or trainer.precision=32.",
            )
        what = f"{format_count(len(images), 'image')}{f' in {copies} augmented copies' if copies else ''}"
        print_note(f"  features of {what}: {computed} computed, the others cached")
        self.record.probe["computed"] = self.record.probe.get("computed", 0) + computed
        return features

    def _divide(self, train: Dataset) -> list[Fold]:
        """Return the folds for the choice of C; raise GuardError if there is a choice, but no folds."""
        targets, frame = encode_targets(train, self.data.classes), train.frame
        units, folds = divide_images(targets, frame["source"], frame["group"], self.settings.seed)
        self.record.probe |= {"folds": len(folds), "folds_by": units}
        if len(self.settings.mode.C) == 1:
            return []
        if not folds:
            groups = frame.groupby("label")["group"].nunique()
            few = ", ".join(f"{label!r} has {count}" for label, count in groups[groups < 2].items())
            raise GuardError(
                "mode.C: its choice by cross-validation needs two groups of training images or more of each class"
                f"{f': {few}' if few else ''}.",
                "Correct the labels, use more images, or a single value such as 'mode.C=[0.01]'.",
            )
        if units == "group":
            few = "a class has too few sources to hold some out"
            print_note(f"warning: C is chosen by cross-validation over groups: {few}")
        return folds

    def _solve(
        self, train: Dataset, features: NDArray[np.float32], folds: Sequence[Fold]
    ) -> tuple[pd.DataFrame, LinearHead]:
        """Return the table of the cross-validation and the head of the chosen C; describe both in the record."""
        mode, classes, views = self.settings.mode, self.data.classes, len(features)
        targets = encode_targets(train, classes)
        # the copies of an image share its weight and its fold
        problem = LogisticProblem(
            features.reshape(-1, features.shape[2]),
            np.tile(targets, views),
            np.tile(self._weigh(train, targets), views) / views,
            len(classes),
        )

        def repeat(rows: Rows) -> Rows:  # of all copies, which stand one copy of all images after another
            return (rows + len(targets) * np.arange(views)[:, None]).ravel()

        copied = [(repeat(rows), repeat(held_out)) for rows, held_out in folds]
        table = problem.cross_validate(mode.C, copied)
        chosen = choose_strength(table)
        if other := find_better_end(table):
            end = "smallest" if other < chosen else "largest"
            print_note(f"warning: C={chosen:g} is the {end} of mode.C: add a value beyond, such as {other:g}")
        head = problem.fit_head(chosen)
        self.record.stages = [
            {"stage": 1, "unfreeze": "classifier", "trained_parameters": head.weight.size + head.bias.size}
        ]
        self.record.probe |= {
            "C": chosen,
            "layers": self.learner.card.options.get(POOLED_OPTION, [LAST_EMBEDDING]),
            "features": features.shape[2],
            "copies": views,
        }
        return table, head

    def _weigh(self, train: Dataset, targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the sample weights (N,) of training images of these classes, by mode.balance."""
        if self.data.balance == "source":
            return weigh_sources(targets, train.frame["source"])
        counts = np.bincount(targets, minlength=len(self.data.classes))
        return weigh_classes(counts)[targets] if self.data.balance == "loss" else np.ones(len(targets))

    def _write_metrics(self, table: pd.DataFrame, head: LinearHead) -> None:
        """Write metrics.csv, with the metrics of val for the chosen C, and log its rows."""
        val = self.data.val_set
        targets = encode_targets(val, self.data.classes)
        logs = log_softmax(head.compute_logits(self._compute(val)[0]), axis=1)
        confusion = confusion_matrix(targets, logs.argmax(axis=1), len(self.data.classes))
        loss = -logs[np.arange(len(targets)), targets].mean()
        chosen = table["C"] == self.record.probe["C"]
        table.loc[chosen, list(VAL_COLUMNS)] = [loss, float(accuracy(confusion)), float(macro_f1(confusion))]
        with atomic_write(self.folder / "metrics.csv") as part:
            table.to_csv(part, index=False)
        rows: Any = table.to_dict("records")
        if self.settings.callbacks.progress:
            for row, is_chosen in zip(rows, chosen, strict=True):
                values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if value == value)
                print_note(f"{values}  (chosen)" if is_chosen else values)
        for logger in build_loggers(self.folder, self.settings):
            for step, row in enumerate(rows):
                logger.log_metrics({name: value for name, value in row.items() if value == value}, step)
            logger.finalize("success")

"""Fit of a linear probe: the features of a frozen network, the choice of C, and the head."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import nn

from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import encode_targets
from avatar_bench.data.training_batches import weigh_classes, weigh_sources
from avatar_bench.errors import ConfigError, DivergedError, GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.inference.predictor import DatasetPredictor
from avatar_bench.metrics.classification import accuracy, confusion_matrix, macro_f1
from avatar_bench.models.checkpoint import CARD_KEY, write_checkpoint
from avatar_bench.models.stages import Stage
from avatar_bench.models.wrapped_networks import LAST_EMBEDDING, POOLED_OPTION
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.record import METRIC
from avatar_bench.training.classifier_job import ClassifierJob
from avatar_bench.training.environment import read_versions
from avatar_bench.training.features import compute_features
from avatar_bench.training.probe import Fold, LinearHead, LogisticProblem, Rows, choose_strength, divide_images
from avatar_bench.training.trainer import build_loggers, end_loaders

if TYPE_CHECKING:
    pass

FEATURES_FOLDER = "features"  # in the cache
VAL_COLUMNS = ("val/loss", "val/accuracy", METRIC)


class ProbeJob(ClassifierJob):
    """Fit of a linear head to the features of a frozen network, in place of the stages of other modes."""

    def fit(self) -> None:
        """Compute the features, choose C by cross-validation, and fit the head to all training images.

        Writes checkpoints/best.ckpt, and metrics.csv with a row for each C; that of the chosen one has metrics of val.
        """
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
        print_line(f"  features of {what}: {computed} computed, the others cached", file=sys.stderr)
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
            fewest = "a class has too few sources to hold some out"
            print_line(f"warning: C is chosen by cross-validation over groups: {fewest}", file=sys.stderr)
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
        copied = [(_repeat(rows, targets, views), _repeat(held_out, targets, views)) for rows, held_out in folds]
        table = problem.cross_validate(mode.C, copied)
        chosen = choose_strength(table)
        strengths = table["C"].tolist()
        if len(strengths) > 1 and chosen in (strengths[0], strengths[-1]):
            end, other = ("smallest", chosen / 10) if chosen == strengths[0] else ("largest", chosen * 10)
            warning = f"C={chosen:g} is the {end} of mode.C: add a value beyond, such as {other:g}"
            print_line(f"warning: {warning}", file=sys.stderr)
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
        if self.data.balance != "loss":
            return np.ones(len(targets))
        return weigh_classes(counts)[targets]

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
                print_line(f"{values}  (chosen)" if is_chosen else values, file=sys.stderr)
        for logger in build_loggers(self.folder, self.settings):
            for step, row in enumerate(rows):
                logger.log_metrics({name: value for name, value in row.items() if value == value}, step)
            logger.finalize("success")


def _repeat(rows: Rows, targets: NDArray[np.int64], views: int) -> Rows:
    """Return the rows of all copies of images, which stand one copy of all images after another."""
    return (rows + len(targets) * np.arange(views)[:, None]).ravel()

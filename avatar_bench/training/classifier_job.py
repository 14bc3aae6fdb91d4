"""Training of a classifier, stage by stage: its network, its stages and its temperature."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.mask import read_mask
from avatar_bench.data.selection import MIN_SELECTION_IMAGES
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import CheckpointError, ConfigError, DataError
from avatar_bench.models.checkpoint import BEST_CHECKPOINT
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.stages import Stage
from avatar_bench.runs.calibration_fit import fit_temperature
from avatar_bench.runs.record import METRIC, RunRecord
from avatar_bench.runs.run import Run
from avatar_bench.training import environment, trainer
from avatar_bench.training.checkpoints import (
    BestCheckpoint,
    check_disk_space,
    find_newest_checkpoint,
    finish_checkpoint,
)
from avatar_bench.training.features import keep_features
from avatar_bench.training.network import build_data, build_learner, build_network
from avatar_bench.training.origin import open_origin
from avatar_bench.training.run_folder import describe_data, format_next_command, keep_split, report_counts

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from avatar_bench.commands.train import TrainConfig
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.training.checkpoints import CheckpointProgress
    from avatar_bench.training.module import Learner


LAST_EPOCH = "last epoch"  # the choice of a checkpoint in a record


class ClassifierJob:
    """Training of all stages of a mode on `dataset`, a subset of `whole` with a split."""

    def __init__(self, settings: TrainConfig, folder: Path, record: RunRecord, whole: Dataset, dataset: Dataset):
        self.settings, self.folder, self.record, self.whole, self.dataset = settings, folder, record, whole, dataset
        self.best = folder / "checkpoints" / BEST_CHECKPOINT

    def build(self) -> None:
        """Build the learner and its batches from the initial weights, and describe the training in the record."""
        settings, folder, record, dataset = self.settings, self.folder, self.record, self.dataset
        environment.seed_training(settings)
        keep_split(dataset, folder, record)
        origin = open_origin(settings, dataset, self.whole.classes, folder)
        record.init = origin.entry
        self.stages, self.done = plan_stages(settings, origin.earlier)
        mask = read_mask(settings.data.mask, self.whole)
        network = build_network(settings, origin, mask, record.split["fingerprint"], dataset.fingerprint)
        self.data = build_data(settings, dataset, origin.teacher, network.card)
        self.learner = build_learner(settings, network, self.data)
        environment.choose_precision(settings, network.net, self.data.preprocessing.size, record)
        self._describe(origin.earlier)
        environment.describe_environment(settings, record)
        check_disk_space(folder, self.learner, self.stages)

    def _describe(self, earlier: Run | None) -> None:
        """Complete the record's description of the training, and print the counts of its images."""
        settings, record, data = self.settings, self.record, self.data
        report_counts(self.dataset, data.classes, settings)
        inherited = earlier.record.resembles if earlier else []
        record.resembles = None if inherited is None else sorted({*inherited, *data.augmentation.resembles})
        record.data = describe_data(settings, self.whole, self.dataset)
        record.classes = list(data.classes)
        record.split |= {
            "counts": {split: int(n) for split, n in self.dataset.frame["split"].value_counts().items()},
            "train_counts": dict(zip(data.classes, data.counts.tolist(), strict=True)),
        }
        record.balance, record.batch_size = settings.mode.balance, data.batch_size
        record.passes_per_step, record.stages = self.learner.passes_per_step, record.stages or []

    def fit(self) -> None:
        """Train the stages after the first `done`, each from the best checkpoint of the previous one.

        best.ckpt is the best by val macro-F1, or the last if val is too small; metrics.csv numbers epochs across
        stages.
        """
        settings, folder, data = self.settings, self.folder, self.data
        n_val = len(data.val_set)
        self.record.chosen_by = {"by": METRIC if n_val >= MIN_SELECTION_IMAGES else LAST_EPOCH, "n": n_val}
        done, first_epoch, history = self.done, 1, folder / "metrics.csv"
        progress = find_newest_checkpoint(folder / "checkpoints") if settings.resume else None
        if progress:
            done = progress.stage - 1
            epochs = (row["epoch"] for row in trainer.read_history(history) if row["stage"] <= done)
            first_epoch += int(max(epochs, default=0))
            # features are computed with these weights
            self.learner.net.load_state_dict(Classifier.load(progress.file).net.state_dict())
        loggers = trainer.build_loggers(folder, settings)
        with trainer.end_loaders(self.dataset):
            for number, stage in enumerate(self.stages[done:], start=done + 1):
                self._fit_stage(number, stage, first_epoch, loggers, progress)
                if not self.best.is_file():
                    reason = "No checkpoint was saved: val macro-F1 was never computed."
                    raise DataError(reason, "Check that val has images.")
                if not (rows := list(trainer.read_history(history))):  # of a resumed run
                    raise CheckpointError(f"{history} is missing, or holds no epoch.", "Restore it, or train again.")
                first_epoch = 1 + int(max(row["epoch"] for row in rows))
                progress = None
                self.learner.net.load_state_dict(Classifier.load(self.best).net.state_dict())

    def _fit_stage(
        self,
        number: int,
        stage: Stage,
        first_epoch: int,
        loggers: Sequence[Logger],
        progress: CheckpointProgress | None,
    ) -> None:
        """Train a stage, or the rest of it after a checkpoint."""
        settings, folder, record, learner, data = self.settings, self.folder, self.record, self.learner, self.data
        learner.card = replace(learner.card, stage=number)
        entry = {"stage": number, **asdict(stage), **_begin_stage(learner, stage)}
        record.stages = [other for other in record.stages or () if other["stage"] != number] + [entry]
        record.write(folder)
        if progress and progress.is_stopped:
            return
        # Lightning monitors the epoch's number too
        monitor = "epoch" if record.chosen_by["by"] == LAST_EPOCH else METRIC
        with record.add_duration("train_seconds"):
            entry["cached_views"] = keep_features(learner, data, settings)
            record.write(folder)
            rows = trainer.MetricsHistory(folder, first_epoch, settings.callbacks.progress)
            callbacks = [rows, BestCheckpoint(self.best.parent, monitor)]
            trainer.run_trainer(
                learner, learner.net, data, folder, settings, stage.epochs, callbacks, loggers, progress
            )

    def finish(self) -> str:
        """Fit the temperature, complete the best checkpoint, draw the curves, and return a summary."""
        settings, record = self.settings, self.record
        fit, calibration = fit_temperature(
            self.dataset, SplitPlan.from_options(settings.data), self.predict_calibration
        )
        record.temperature, record.temperature_fit = (fit.value, fit.plain) if fit else (1.0, {})
        record.checkpoint_sha256, record.weights_sha256 = finish_checkpoint(self.best, record.temperature)
        if calibration is not None:
            replace(calibration, checkpoint_sha256=record.checkpoint_sha256).write(self.folder)
        history = pd.read_csv(self.folder / "metrics.csv")
        row = self.find_best_row(history)
        record.metrics = {name: float(row[name]) for name in ("val/loss", "val/accuracy", METRIC)}
        trainer.write_curves(history, record.best_epoch, self.folder, settings.lang)
        return (
            f"{self.folder}: val accuracy {record.metrics['val/accuracy']:.3f}, macro-F1 {record.metrics[METRIC]:.3f} "
            f"({self.describe_choice()}); "
            f"next: {format_next_command(self.folder)}"
        )

    def describe_choice(self) -> str:
        """Describe how the epoch was chosen, and on how many images."""
        images = format_count(self.record.chosen_by["n"], "image")
        if self.record.chosen_by["by"] == LAST_EPOCH:
            return f"last epoch kept: val has {images}, too few to choose"
        return f"epoch {self.record.best_epoch} chosen on {images}"

    def predict_calibration(self, calibration: Dataset) -> Predictions:
        """Return the Predictions of the calibration images at temperature 1, by the best checkpoint."""
        settings = self.settings
        run = Run(self.best, accelerator=settings.trainer.accelerator, workers=settings.data.workers)
        return run.predictions(calibration)

    def find_best_row(self, history: pd.DataFrame) -> pd.Series[Any]:
        """Return the row of metrics.csv whose weights are best.ckpt: the best epoch, set in the record too."""
        rows = history[history["stage"] == history["stage"].max()]
        is_last = self.record.chosen_by["by"] == LAST_EPOCH
        row: pd.Series[Any] = rows.iloc[-1] if is_last else rows.loc[rows[METRIC].idxmax()]
        self.record.best_epoch = int(row["epoch"])
        return row


def plan_stages(settings: TrainConfig, earlier: Run | None) -> tuple[list[Stage], int]:
    """Return the stages of the mode, and how many of them `init_from` has completed: 0 unless stage= is set."""
    cap, stages = settings.trainer.max_epochs or sys.maxsize, settings.mode.stages[: settings.stage]
    epochs = [min(settings.epochs or stage.epochs, cap) for stage in stages]
    planned = [Stage(stated.unfreeze, n, settings.lr or stated.lr) for stated, n in zip(stages, epochs, strict=True)]
    if earlier is None or settings.stage is None or earlier.card.mode != settings.mode.name:
        return planned, 0
    if earlier.card.stage >= len(planned):
        reason = f"init_from={settings.init_from} has already completed stage {earlier.card.stage}."
        raise ConfigError(reason, f"Expected stage={earlier.card.stage + 1} or more.")
    return planned, earlier.card.stage


def _begin_stage(learner: Learner, stage: Stage) -> dict[str, Any]:
    """Freeze what a stage does not train; print what it trains, and return it for the record."""
    names, net = learner.begin(stage), learner.net
    count = sum(net.get_parameter(name).numel() for name in names)
    total = sum(parameter.numel() for parameter in net.parameters())
    trained = f"{count:,} of {total:,} parameters trained ({names[0]} to {names[-1]})"
    how = f"{format_count(stage.epochs, 'epoch')}, lr {stage.lr:g}"
    print_note(f"stage {learner.card.stage}: unfreeze={stage.unfreeze}, {trained}, {how}")
    return {"trained_parameters": count, "first": names[0], "last": names[-1]}

"""Training of a classifier, stage by stage: its network, its stages and its temperature."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.cache import open_image_cache
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, tabulate_split
from avatar_bench.data.selection import MIN_CALIBRATION_IMAGES, MIN_SELECTION_IMAGES, suggest_calibration_options
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.data.training_batches import DataModule
from avatar_bench.data.transforms import Augmentation
from avatar_bench.errors import ConfigError, DataError, GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.table_io import write_table
from avatar_bench.i18n import use_language
from avatar_bench.metrics.calibration import TemperatureFit, fit_temperature_of_logits
from avatar_bench.metrics.plots import CHART, draw_training_curves
from avatar_bench.models.checkpoint import BEST_CHECKPOINT
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.models.stages import Stage
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.view import View
from avatar_bench.runs.calibration_fit import describe_images, mark_reference
from avatar_bench.runs.record import METRIC, RunRecord
from avatar_bench.runs.run import Run
from avatar_bench.runs.saved_calibration import BY_TRAIN, DecisionImages, SavedCalibration
from avatar_bench.sources.dataset_kinds import list_further_sets
from avatar_bench.training import environment
from avatar_bench.training.builders import load_optimization
from avatar_bench.training.checkpoints import (
    BestCheckpoint,
    check_disk_space,
    find_newest_checkpoint,
    finish_checkpoint,
)
from avatar_bench.training.distillation import ask_teacher, open_teacher, record_teacher
from avatar_bench.training.initial_weights import create_network, record_initial_weights, resolve_weights
from avatar_bench.training.module import Learner
from avatar_bench.training.optimization import TrainingOptions
from avatar_bench.training.preparation import build_split_plan
from avatar_bench.training.standard_callbacks import MetricsHistory, read_history
from avatar_bench.training.trainer import build_logger, end_loaders, run_trainer

if TYPE_CHECKING:
    from avatar_bench.config.schema import TrainConfig


MAX_FEATURE_BYTES = 2**30  # bytes of cached features
LAST_EPOCH = "last epoch"  # the choice of a checkpoint in a record
FEW_TRAINING_IMAGES = 500  # below, a probe was mostly more accurate where measured (docs/commands/train.md)


class ClassifierJob:
    """Training of all stages of a mode on `dataset`, a subset of `whole` with a split."""

    def __init__(self, settings: TrainConfig, folder: Path, record: RunRecord, whole: Dataset, dataset: Dataset):
        self.settings, self.folder, self.record, self.whole, self.dataset = settings, folder, record, whole, dataset
        self.best = folder / "checkpoints" / BEST_CHECKPOINT

    def build(self) -> None:
        """Build the learner and its batches from the initial weights, and describe the training in the record."""
        settings, folder, record, dataset = self.settings, self.folder, self.record, self.dataset
        environment.seed_training(settings)
        earlier = Run.open(settings.init_from) if settings.init_from else None
        classes = earlier.classes if earlier else self.whole.classes
        fingerprint = fingerprint_split(dataset)
        if record.split.get("fingerprint", fingerprint) != fingerprint:
            raise GuardError(
                f"resume={folder}: the images or their split have changed since the run was started.",
                "Restore them, or start a new run.",
            )
        write_table(tabulate_split(dataset), folder / "split.csv")
        weights = "none" if earlier else resolve_weights(settings.model.weights)
        record.init = record_initial_weights(settings, dataset, folder, earlier, weights)
        teacher = open_teacher(settings.teacher, classes, workers=settings.data.workers) if settings.teacher else None
        if teacher is not None:
            allowed = "pretraining" in settings.allow
            record.init = record_teacher(teacher, str(settings.teacher), dataset, folder, record.init, allowed)
        self.stages = _resolve_stages(settings)
        net, shape, preprocessing = create_network(settings, len(classes), earlier, weights)
        del weights  # the network has its own copy
        options, augment = settings.data, settings.data.augment
        steps = {name: value for name, value in asdict(augment).items() if name not in ("mixup", "cutmix")}
        augmentation = Augmentation(**{**steps, "jitter": tuple(augment.jitter)})
        inherited = earlier.record.get("resembles") if earlier else []
        record.resembles = None if inherited is None else sorted({*inherited, *augmentation.resembles})
        used = dataset.frame.loc[dataset.frame["split"].isin(["train", "val"]), "sha256"]
        self.data = DataModule(
            dataset,
            classes,
            preprocessing,
            augmentation,
            seed=settings.seed,
            batch_size=environment.resolve_batch_size(settings),
            workers=options.workers,
            balance=settings.mode.balance,
            views=options.augmented_copies,
            cache=open_image_cache(used, preprocessing, options.cache_gb),
            answers=ask_teacher(teacher, dataset.select_split("train"), classes) if teacher else None,
            shuffle_shards=options.shuffle_shards,
        )
        card = Card(
            classes=classes,
            backbone=settings.model.backbone,
            options=shape,
            preprocessing=preprocessing.to_dict(),
            weights=earlier.card.weights if earlier else settings.model.weights,
            mode=settings.mode.name,
            seed=settings.seed,
            split_fingerprint=fingerprint,
            data_fingerprint=dataset.fingerprint,
            versions=environment.read_versions(),
        )
        training = TrainingOptions(
            seed=settings.seed,
            **load_optimization(asdict(settings.optimizer)),
            label_smoothing=settings.label_smoothing,
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            class_weights=self.data.class_weights,
        )
        self.learner = Learner(card, net, training)
        environment.choose_precision(settings, net, preprocessing.size, record)
        _report_counts(dataset, classes, settings)
        environment.describe_environment(settings, record)
        # absolute paths, so that `evaluate` finds the sets from any folder
        sets = {name: str(path.absolute()) for name, path in list_further_sets(options, dataset.root).items()}
        record.data = {
            "kind": options.kind,
            "blind": sets.pop("blind", None),
            "ood": sets,
            "root": str(dataset.root.absolute()),
            "fingerprint": self.whole.fingerprint,
        }
        record.classes = list(classes)
        record.split |= {
            "fingerprint": fingerprint,
            "counts": {split: int(n) for split, n in dataset.frame["split"].value_counts().items()},
            "train_counts": dict(zip(classes, self.data.counts.tolist(), strict=True)),
        }
        record.balance, record.batch_size = settings.mode.balance, self.data.batch_size
        record.passes_per_step, record.stages = self.learner.passes_per_step, record.stages or []
        record.write(folder)
        self.done = _count_finished_stages(settings, earlier, self.stages)
        check_disk_space(folder, self.learner, self.stages)

    def fit(self) -> None:
        """Train the stages after the first `done`, each from the best checkpoint of the previous one.

        Writes checkpoints/best.ckpt, the best by val macro-F1 or, if val is too small to choose, the last, last.ckpt,
        and metrics.csv with epochs numbered across all stages.
        """
        settings, folder, record, learner, data = self.settings, self.folder, self.record, self.learner, self.data
        n_val = len(data.val_set)
        # Lightning monitors the epoch's number too
        monitor, by = (METRIC, METRIC) if n_val >= MIN_SELECTION_IMAGES else ("epoch", LAST_EPOCH)
        record.chosen_by = {"by": by, "n": n_val}
        if len(data.train_set) < FEW_TRAINING_IMAGES and learner.card.weights != "none" and not settings.init_from:
            few = format_count(len(data.train_set), "training image")
            print_line(f"note: on {few} mode=probe is mostly more accurate on new sources, and faster", file=sys.stderr)
        done, history = self.done, folder / "metrics.csv"
        first_epoch = 1 + sum(stage.epochs for stage in self.stages[:done]) * (not settings.init_from)
        resume, at = find_newest_checkpoint(folder / "checkpoints") if settings.resume else (None, None)
        if resume and at:
            done = at.stage - 1
            first_epoch = 1 + int(
                max((row["epoch"] for row in read_history(history) if row["stage"] <= done), default=0)
            )
            # features are computed with these weights
            learner.net.load_state_dict(Classifier.load(resume).net.state_dict())
        logger = build_logger(folder, settings)
        with end_loaders(self.dataset):
            for number, stage in enumerate(self.stages[done:], start=done + 1):
                learner.card = replace(learner.card, stage=number)
                about = {"stage": number, **asdict(stage), **_begin_stage(learner, stage)}
                record.stages = [other for other in record.stages or () if other["stage"] != number] + [about]
                record.write(folder)
                if not (at and at.is_stopped):
                    data.position = (at.epochs, at.batches) if at else (0, 0)
                    with record.add_duration("train_seconds"):
                        about["cached_views"] = _compute_features(learner, data, settings)
                        record.write(folder)
                        rows = MetricsHistory(folder, first_epoch, settings.callbacks.progress)
                        own = [rows, BestCheckpoint(self.best.parent, monitor)]
                        run_trainer(learner, learner.net, data, folder, settings, stage.epochs, own, logger, resume)
                if not self.best.is_file():
                    raise DataError(
                        "No checkpoint was saved: val macro-F1 was never computed.", "Check that val has images."
                    )
                first_epoch = 1 + int(max(row["epoch"] for row in read_history(history)))
                resume = at = None
                learner.net.load_state_dict(Classifier.load(self.best).net.state_dict())

    def finish(self) -> str:
        """Fit the temperature, complete the best checkpoint, draw the curves, and return a summary."""
        settings, record = self.settings, self.record
        fit, decisions = self._calibrate()
        record.temperature, record.temperature_fit = (fit.value, fit.plain) if fit else (1.0, {})
        record.checkpoint_sha256, record.weights_sha256 = finish_checkpoint(self.best, record.temperature)
        if fit is not None and decisions is not None:
            self._write_calibration(fit, record.checkpoint_sha256, decisions)
        history = pd.read_csv(self.folder / "metrics.csv")
        row = self.find_best_row(history)
        record.metrics = {name: float(row[name]) for name in ("val/loss", "val/accuracy", METRIC)}
        with use_language(settings.lang), atomic_write(self.folder / "curves.png") as part:
            draw_training_curves(history, record.best_epoch).savefig(part, format="png", metadata=CHART)
        return (
            f"{self.folder}: val accuracy {record.metrics['val/accuracy']:.3f}, macro-F1 {record.metrics[METRIC]:.3f} "
            f"({self.describe_choice()}); "
            f"next: avatar-bench evaluate {shlex.quote(f'ckpt={self.folder}')}"
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

    def _calibrate(self) -> tuple[TemperatureFit | None, DecisionImages | None]:
        """Fit the temperature on the calibration images; warn if they are too few, or if it is not applied.

        If they are enough to be divided, return what decisions are made of too.
        """
        calibration = self.dataset.select_split("calibration")
        if len(calibration) >= MIN_CALIBRATION_IMAGES and len(calibration.classes) > 1:
            found = self.predict_calibration(calibration)
            is_reference = mark_reference(calibration.frame)
            fitted = found if is_reference is None else found.take(np.flatnonzero(is_reference))
            fit = fit_temperature_of_logits(fitted.logits, fitted.targets, fitted.groups)
            if not fit.is_applied:
                print_line(f"warning: temperature {fit}", file=sys.stderr)
            if is_reference is None:
                return fit, None
            return fit, describe_images(replace(found, temperature=fit.value), is_reference, found.groups)
        few = format_count(len(calibration), "calibration image")
        if not len(calibration):
            val = format_count(len(self.data.val_set), "val image")
            few = f"half of {val} is fewer than {MIN_CALIBRATION_IMAGES}"
        more = suggest_calibration_options(self.dataset, build_split_plan(self.settings.data))
        warning = f"too few images to fit a temperature ({few}); it stays 1. To fit one, {more}"
        print_line(f"warning: {warning}", file=sys.stderr)
        return None, None

    def _write_calibration(self, fit: TemperatureFit, checkpoint_sha256: str, decisions: DecisionImages) -> None:
        images = self.dataset.select_split("calibration")
        SavedCalibration(
            checkpoint_sha256=checkpoint_sha256,
            view=View().name,
            temperature=fit.value,
            threshold=None,
            n={name: int((images.frame["label"] == name).sum()) for name in self.data.classes},
            images=images,
            fingerprint=images.fingerprint,
            by=BY_TRAIN,
            fit=fit,
            decisions=decisions,
        ).write(self.folder)


def _resolve_stages(settings: TrainConfig) -> list[Stage]:
    cap = settings.trainer.max_epochs or sys.maxsize
    return [
        Stage(stage.unfreeze, min(settings.epochs or stage.epochs, cap), settings.lr or stage.lr)
        for stage in settings.mode.stages[: settings.stage]
    ]


def _count_finished_stages(settings: TrainConfig, earlier: Run | None, stages: list[Stage]) -> int:
    """Return the number of stages that `init_from` has completed in the same mode; 0 unless stage= is set."""
    if earlier is None or settings.stage is None or earlier.card.mode != settings.mode.name:
        return 0
    if earlier.card.stage >= len(stages):
        raise ConfigError(
            f"init_from={settings.init_from} has already completed stage {earlier.card.stage}.",
            f"Expected stage={earlier.card.stage + 1} or more.",
        )
    return earlier.card.stage


def _begin_stage(learner: Learner, stage: Stage) -> dict[str, Any]:
    """Freeze what a stage does not train; print what it trains, and return it for the record."""
    names, net = learner.begin(stage), learner.net
    count = sum(net.get_parameter(name).numel() for name in names)
    total = sum(parameter.numel() for parameter in net.parameters())
    trained = f"{count:,} of {total:,} parameters trained ({names[0]} to {names[-1]})"
    how = f"{format_count(stage.epochs, 'epoch')}, lr {stage.lr:g}"
    print_line(f"stage {learner.card.stage}: unfreeze={stage.unfreeze}, {trained}, {how}", file=sys.stderr)
    return {"trained_parameters": count, "first": names[0], "last": names[-1]}


def _compute_features(learner: Learner, data: DataModule, settings: TrainConfig) -> int:
    """Add its features to the data of a stage; return for how many augmented copies of each image, 0 for none."""
    data.embeddings = None
    views = min(data.augmented_copies or 0, learner.stage.epochs) if data.augmentation.is_active else 1
    if not learner.is_trained_on_embeddings or not views or settings.trainer.limit_batches is not None:
        return 0
    if views * len(data.train_set) * learner.embedding_bytes > MAX_FEATURE_BYTES:
        warning = f"features of {views} augmented copies do not fit in memory and are computed in each epoch"
        print_line(f"warning: {warning}", file=sys.stderr)
        return 0
    batches = data.fixed_copies_loader(views) if data.augmentation.is_active else data.plain(data.train_set)
    train = embed(learner, batches, settings).reshape(views, len(data.train_set), -1)
    data.embeddings = {"train": train, "val": embed(learner, data.plain(data.val_set), settings)[None]}
    what = format_count(len(data.train_set), "image") + f", in {views} augmented copies each," * (views > 1)
    print_line(f"  the features of {what} are computed once for all epochs", file=sys.stderr)
    return views


def embed(learner: Learner, batches: Iterable[dict[str, Any]], settings: TrainConfig) -> NDArray[np.float32]:
    """Compute the embeddings (N, D) of batches of images with the learner in eval mode."""
    return np.concatenate(list(iterate_embeddings(learner, batches, settings)))


@torch.inference_mode()
def iterate_embeddings(
    learner: Learner, batches: Iterable[dict[str, Any]], settings: TrainConfig
) -> Iterator[NDArray[np.float32]]:
    """Yield the embeddings (n, D) of each batch of images with the learner in eval mode."""
    options = settings.trainer
    learner.eval().to(environment.resolve_torch_device(options.accelerator))
    if options.channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reduced = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(environment.resolve_precision(options))
    with torch.autocast(learner.device.type, reduced or torch.bfloat16, enabled=reduced is not None):
        for batch in track(batches, "features", unit="batch"):
            yield learner(batch["image"].to(learner.device))[1].float().cpu().numpy()


def _report_counts(dataset: Dataset, classes: tuple[str, ...], settings: TrainConfig) -> None:
    table = pd.crosstab(dataset.frame["label"], dataset.frame["split"]).reindex(classes).fillna(0).astype(int)
    count = format_count(len(dataset), "image")
    print_line(f"{count} of {dataset.name} by class (balance: {settings.mode.balance})", file=sys.stderr)
    for split in (split for split in DATASET_SPLITS if split in table):
        counts = ", ".join(f"{name} {n}" for name, n in table[split].items())
        print_line(f"  {split}: {counts}", file=sys.stderr)
    shots = settings.mode.shots
    if shots and (fewest := int(table["train"].min())) < shots:
        print_line(f"warning: {format_count(fewest, 'shot')} per class instead of {shots}", file=sys.stderr)
    for split in ("val", "calibration", "test"):
        if split == "calibration" and split not in table:
            continue  # the temperature has a warning of its own
        missing = [name for name in classes if split not in table or table.at[name, split] == 0]
        if missing:
            print_line(
                f"warning: no {split} image of {', '.join(missing)}: add some, or split again: data.split.by=group "
                "data.split.folds=3",
                file=sys.stderr,
            )

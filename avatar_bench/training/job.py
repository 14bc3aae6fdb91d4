"""Training of one run: its stages, its record and its folder."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn

import avatar_bench
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.cache import ImageCache
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, write_split
from avatar_bench.data.file_names import format_names
from avatar_bench.data.selection import MIN_CALIBRATION_IMAGES, suggest_calibration_options
from avatar_bench.data.splits import SplitPlan, fingerprint_split
from avatar_bench.data.training_batches import DataModule
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.data.worker_processes import ManagedLoader
from avatar_bench.errors import ConfigError, DivergedError, GuardError, OutputError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.i18n import use_language
from avatar_bench.inference.precision_autotune import tune_inference, tune_training
from avatar_bench.metrics.calibration import fit_temperature
from avatar_bench.metrics.plots import draw_training_curves
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.checkpoint import BEST_CHECKPOINT
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import PretrainedWeights, refuse_other_options
from avatar_bench.models.stages import Stage
from avatar_bench.runs.record import METRIC, write_record
from avatar_bench.runs.run import Run, set_threads
from avatar_bench.sources.dataset_kinds import list_further_sets
from avatar_bench.training.builders import load_callbacks, load_optimization
from avatar_bench.training.checkpoint_progress import find_newest_checkpoint
from avatar_bench.training.initial_weights import build_preprocessing, record_initial_weights, resolve_weights
from avatar_bench.training.module import Learner
from avatar_bench.training.optimization import TrainingOptions
from avatar_bench.training.recording import record_duration
from avatar_bench.training.stage_trainer import (
    build_logger,
    embed,
    finish_checkpoint,
    fit_stage,
    resolve_device,
    resolve_precision,
)
from avatar_bench.training.standard_callbacks import read_history

if TYPE_CHECKING:
    from avatar_bench.config.schema import PretrainConfig, SplitDataConfig, TrainConfig

MAX_FEATURE_BYTES = 2**30  # bytes of cached features


def fit(settings: TrainConfig, folder: Path, record: dict[str, Any], whole: Dataset, dataset: Dataset) -> None:
    """Train all stages on `dataset`, a subset of `whole` with a split, and complete the run folder and the record."""
    pl.seed_everything(settings.seed, verbose=False)
    set_threads(settings.trainer.threads)
    earlier = Run.open(settings.init_from) if settings.init_from else None
    classes = earlier.classes if earlier else whole.classes
    if record["split"].get("fingerprint", fingerprint_split(dataset)) != fingerprint_split(dataset):
        raise GuardError(
            f"resume={folder}: the images or their split have changed since the run was started.",
            "Restore them, or start a new run.",
        )
    write_split(dataset, folder / "split.csv")
    weights = "none" if earlier else resolve_weights(settings.model.weights)
    record["init"] = record_initial_weights(settings, dataset, folder, earlier, weights)
    stages = _resolve_stages(settings)
    learner, data = _build_learner(settings, dataset, classes, earlier, weights)
    del weights  # the network has its own copy
    choose_precision(settings, learner.net, learner.card.preprocessing["size"], record)
    _report_counts(dataset, classes, settings)
    record |= {
        "classes": list(classes),
        "versions": read_versions(),
        "device": report_device(settings),
        "data": {
            **_locate_data(settings, dataset),
            "root": str(dataset.root.absolute()),
            "fingerprint": whole.fingerprint,
        },
        "split": {
            **record["split"],
            "fingerprint": fingerprint_split(dataset),
            "counts": {split: int(n) for split, n in dataset.frame["split"].value_counts().items()},
            "train_counts": dict(zip(classes, data.counts.tolist(), strict=True)),
        },
        "balance": settings.mode.balance,
        "batch_size": resolve_batch_size(settings),
        "passes_per_step": learner.passes_per_step,
        "stages": record.get("stages", []),
    }
    write_record(folder, record)
    done = _count_finished_stages(settings, earlier, stages)
    _check_disk_space(folder, learner, stages)
    with end_loaders(dataset):
        best = _fit_stages(settings, folder, record, learner, data, stages, done)
    _complete_run(settings, folder, record, best, dataset)


@contextmanager
def end_loaders(dataset: Dataset) -> Iterator[None]:
    """End the loader processes after the `with`; name the images of a batch whose loss is not finite."""
    try:
        yield
    except DivergedError as error:
        if not error.rows:
            raise
        paths = list(dataset.select_split(error.split).frame["path"].iloc[list(error.rows)])
        images = f"Images of that batch: {format_names(paths, 4)}."
        raise DivergedError(error.lines[0], images, *error.lines[1:]) from error
    finally:
        ManagedLoader.end()  # the traceback keeps the loader alive, and the next job of a sweep may need its memory


def _fit_stages(
    settings: TrainConfig,
    folder: Path,
    record: dict[str, Any],
    learner: Learner,
    data: DataModule,
    stages: list[Stage],
    done: int,
) -> Path:
    """Train the stages after the first `done`, each from the best checkpoint of the previous one; return the last."""
    resume, at = find_newest_checkpoint(folder / "checkpoints") if settings.resume else (None, None)
    done = at.stage - 1 if at else done
    callbacks = list(load_callbacks(asdict(settings.callbacks)))
    best = folder / "checkpoints" / BEST_CHECKPOINT
    logger = build_logger(folder, to_plain_values(settings))
    first_epoch = 1 + sum(stage.epochs for stage in stages[:done]) * (not settings.init_from)
    if resume and at:
        earlier = [row["epoch"] for row in read_history(folder / "metrics.csv") if row["stage"] < at.stage]
        first_epoch = 1 + int(max(earlier, default=0))
        # features are computed with these weights
        learner.net.load_state_dict(Classifier.load(resume).net.state_dict())
    for number, stage in enumerate(stages[done:], start=done + 1):
        learner.card = replace(learner.card, stage=number)
        names = learner.begin(stage)
        record["stages"] = [other for other in record["stages"] if other["stage"] != number]
        record["stages"].append({"stage": number, **asdict(stage), **_report_stage(learner, number, names)})
        write_record(folder, record)
        if not (at and at.is_stopped):
            data.position = (at.epochs, at.batches) if at else (0, 0)
            with record_duration(record, "train_seconds"):
                data.embeddings = _compute_embeddings(learner, data, settings)
                _report_features(data, record["stages"][-1])
                write_record(folder, record)
                best = fit_stage(learner, data, folder, settings, callbacks, logger, first_epoch, resume)
        first_epoch = 1 + int(max(row["epoch"] for row in read_history(folder / "metrics.csv")))
        resume = at = None
        learner.net.load_state_dict(Classifier.load(best).net.state_dict())
    return best


def _check_disk_space(folder: Path, learner: Learner, stages: list[Stage]) -> None:
    """Raise OutputError before training if the disk has no room for the checkpoints."""
    net = learner.net
    weights = sum(value.nbytes for value in net.state_dict().values())
    learning = max(sum(net.get_parameter(name).nbytes for name in learner.begin(stage)) for stage in stages)
    # best, last, previous and next checkpoint, each with two optimizer moments per trained parameter
    needed, free = 4 * (weights + 2 * learning) + 2**24, shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"out={folder}: {free / 2**20:.0f} MiB are free; the checkpoints of this run need {needed / 2**20:.0f}.",
            "Free some space, or choose a folder on another disk: out=DIR",
        )


def _compute_embeddings(learner: Learner, data: DataModule, settings: TrainConfig) -> dict[str, Any] | None:
    """Compute the embeddings of train and val once if all epochs of the stage would repeat them; else return None."""
    views = min(data.augmented_copies or 0, learner.stage.epochs) if data.augmentation.is_active else 1
    if not learner.is_trained_on_embeddings or not views or settings.trainer.limit_batches is not None:
        return None
    if views * len(data.train_set) * learner.embedding_bytes > MAX_FEATURE_BYTES:
        warning = f"features of {views} augmented copies do not fit in memory and are computed in each epoch"
        print_line(f"warning: {warning}", file=sys.stderr)
        return None
    batches = data.fixed_copies_loader(views) if data.augmentation.is_active else data.plain(data.train_set)
    train = embed(learner, batches, settings).reshape(views, len(data.train_set), -1)
    return {"train": train, "val": embed(learner, data.plain(data.val_set), settings)[None]}


def _report_features(data: DataModule, stage: dict[str, Any]) -> None:
    """Record in `stage` how many augmented copies of each image have cached features (0: none), and print it."""
    stage["cached_views"] = views = len(data.embeddings["train"]) if data.embeddings else 0
    if views:
        what = format_count(len(data.train_set), "image") + f", in {views} augmented copies each," * (views > 1)
        print_line(f"  the features of {what} are computed once for all epochs", file=sys.stderr)


def _report_stage(learner: Learner, number: int, names: list[str]) -> dict[str, Any]:
    """Print the parameters trained in a stage, and return them for the record."""
    net, stage = learner.net, learner.stage
    count = sum(net.get_parameter(name).numel() for name in names)
    total = sum(parameter.numel() for parameter in net.parameters())
    trained = f"{count:,} of {total:,} parameters trained ({names[0]} to {names[-1]})"
    how = f"{format_count(stage.epochs, 'epoch')}, lr {stage.lr:g}"
    print_line(f"stage {number}: unfreeze={stage.unfreeze}, {trained}, {how}", file=sys.stderr)
    return {"trained_parameters": count, "first": names[0], "last": names[-1]}


def _complete_run(settings: TrainConfig, folder: Path, record: dict[str, Any], best: Path, dataset: Dataset) -> None:
    """Fit the temperature, complete the checkpoint and the record, and draw the curves."""
    run = Run(best, record=record, accelerator=settings.trainer.accelerator, workers=settings.data.workers)
    calibration = dataset.select_split("calibration")
    temperature = 1.0
    if len(calibration) >= MIN_CALIBRATION_IMAGES and len(calibration.classes) > 1:
        held_out = run.predictions(calibration)
        temperature = fit_temperature(held_out.logits, held_out.targets)
    else:
        few = format_count(len(calibration), "calibration image")
        more = suggest_calibration_options(dataset, build_split_plan(settings.data))
        warning = f"too few images to fit a temperature ({few}); it stays 1. To fit one, {more}"
        print_line(f"warning: {warning}", file=sys.stderr)
    checkpoint_sha256, weights_sha256 = finish_checkpoint(best, temperature)
    history = pd.read_csv(folder / "metrics.csv")
    rows = history[history["stage"] == history["stage"].max()]
    row = rows.loc[rows[METRIC].idxmax()]
    with use_language(settings.lang), atomic_write(folder / "curves.png") as part:
        draw_training_curves(history, int(row["epoch"])).savefig(part, format="png")
    record |= {
        "temperature": temperature,
        "checkpoint_sha256": checkpoint_sha256,
        "weights_sha256": weights_sha256,
        "best_epoch": int(row["epoch"]),
        "metrics": {name: float(row[name]) for name in ("val/loss", "val/accuracy", METRIC)},
    }


def _build_learner(
    settings: TrainConfig,
    dataset: Dataset,
    classes: tuple[str, ...],
    earlier: Run | None,
    weights: str | PretrainedWeights,
) -> tuple[Learner, DataModule]:
    model = settings.model
    shape = resolve_options(model.backbone, model.options, settings.data.image_size or 224)
    net = create_backbone(model.backbone, len(classes), weights, model.package, shape)
    if earlier:
        if earlier.card.backbone != model.backbone:
            raise ConfigError(
                f"init_from={settings.init_from} has backbone {earlier.card.backbone}, not {model.backbone}.",
                "Choose the same model.",
            )
        refuse_other_options(f"init_from={settings.init_from}", earlier.card.options, shape)
        try:
            net.load_state_dict(earlier.predictor.module.net.state_dict())
        except RuntimeError as error:
            raise ConfigError(
                f"init_from={settings.init_from} has a network of another image size or with other model.options.",
                f"Use the same: data.image_size={earlier.card.preprocessing['size']}, {earlier.card.options}.",
            ) from error
    options, augment = settings.data, settings.data.augment
    used = dataset.frame.loc[dataset.frame["split"].isin(["train", "val"]), "sha256"]
    begun = earlier.card if earlier else weights.card if isinstance(weights, PretrainedWeights) else None
    preprocessing = build_preprocessing(net, options, begun)
    if earlier:
        _warn_of_other_preprocessing(settings, preprocessing, earlier)
    data = DataModule(
        dataset,
        classes,
        preprocessing,
        Augmentation(augment.flip, tuple(augment.jitter), augment.rotation, augment.noise, augment.others),  # type: ignore[arg-type]
        seed=settings.seed,
        batch_size=resolve_batch_size(settings),
        workers=settings.data.workers,
        balance=settings.mode.balance,
        views=options.augmented_copies,
        cache=open_image_cache(used, preprocessing, options.cache_gb),
    )
    card = Card(
        classes=classes,
        backbone=model.backbone,
        options=shape,
        preprocessing=preprocessing.to_dict(),
        weights=model.weights if not earlier else earlier.card.weights,
        mode=settings.mode.name,
        seed=settings.seed,
        split_fingerprint=fingerprint_split(dataset),
        data_fingerprint=dataset.fingerprint,
        versions=read_versions(),
    )
    training = TrainingOptions(
        seed=settings.seed,
        **load_optimization(asdict(settings.optimizer)),
        label_smoothing=settings.label_smoothing,
        mixup=augment.mixup,
        class_weights=data.class_weights,
    )
    return Learner(card, net, training), data


def _warn_of_other_preprocessing(settings: TrainConfig, preprocessing: Preprocessing, earlier: Run) -> None:
    """Warn if the preprocessing differs from the earlier run's: larger images are common practice, the rest is not."""
    names = {"image_size": "size", "resize": "resize", "equalise": "equalise"}
    before, now = earlier.preprocessing.to_dict(), preprocessing.to_dict()
    pairs = {option: (now[name], before[name]) for option, name in names.items() if now[name] != before[name]}
    if pairs:
        changes = ", ".join(f"data.{option}={value} instead of {other}" for option, (value, other) in pairs.items())
        print_line(f"warning: init_from={settings.init_from} used other preprocessing: {changes}", file=sys.stderr)


def choose_precision(settings: TrainConfig | PretrainConfig, net: nn.Module, size: int, record: dict[str, Any]) -> None:
    """Replace trainer.precision=auto by the fastest precision here, or by the recorded one of a resumed run."""
    trainer = settings.trainer
    if trainer.precision != "auto":
        return
    if "device" in record:
        trainer.precision, trainer.threads = record["device"]["precision"], record["device"]["threads"]
    else:
        device = "cuda" if resolve_device(trainer.accelerator) == "cuda" else "cpu"
        found = tune_training(net, settings.model.backbone, size, device)
        trainer.precision = "32-true" if found == "32" else f"{found}-mixed"
        trainer.threads = trainer.threads or tune_inference(device).threads
    set_threads(trainer.threads)


def report_device(settings: TrainConfig | PretrainConfig) -> dict[str, Any]:
    """Print accelerator, precision, threads and workers, and return them for the record."""
    device = {
        "accelerator": resolve_device(settings.trainer.accelerator),
        "precision": resolve_precision(settings.trainer),
        "threads": torch.get_num_threads(),
        "workers": settings.data.workers,
    }
    print_line("  " + ", ".join(f"{what} {value}" for what, value in device.items()), file=sys.stderr)
    return device


def open_image_cache(hashes: pd.Series, preprocessing: Preprocessing, gigabytes: float) -> ImageCache | None:
    """Open the cache of preprocessed images; warn and return None if it has no room for the images of these SHA-256."""
    if not gigabytes:
        return None
    cache = ImageCache(preprocessing)
    if reason := cache.reserve(hashes, int(gigabytes * 2**30)):
        print_line(f"warning: preprocessed images are not cached ({reason}); see data.cache_gb", file=sys.stderr)
        return None
    return cache


def _resolve_stages(settings: TrainConfig) -> list[Stage]:
    wanted = settings.mode.stages[: settings.stage]
    cap = settings.trainer.max_epochs
    epochs = [min(settings.epochs or stage.epochs, cap or sys.maxsize) for stage in wanted]
    return [Stage(stage.unfreeze, count, settings.lr or stage.lr) for stage, count in zip(wanted, epochs, strict=True)]


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
        missing = [name for name in classes if split not in table or table.at[name, split] == 0]
        if missing:
            print_line(f"warning: no {split} image of {', '.join(missing)}", file=sys.stderr)


def resolve_batch_size(settings: TrainConfig | PretrainConfig) -> int:
    """Return the batch size for the device that the run uses."""
    size = settings.data.batch_size
    device = "cuda" if resolve_device(settings.trainer.accelerator) == "cuda" else "cpu"
    return int(size[device] if isinstance(size, dict) else size)


def _locate_data(settings: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Return the absolute paths of the run's further sets, so that `evaluate` finds them from any folder."""
    sets = {name: str(path.absolute()) for name, path in list_further_sets(settings.data, dataset.root).items()}
    return {"kind": settings.data.kind, "blind": sets.pop("blind", None), "ood": sets}


def to_plain_values(settings: TrainConfig | PretrainConfig) -> dict[str, Any]:
    """Convert all options to plain Python values."""
    return OmegaConf.to_container(OmegaConf.structured(settings), resolve=True)  # type: ignore[return-value]


def read_versions() -> dict[str, str]:
    """Return the versions of this package, Python and the training libraries."""
    return {
        "avatar_bench": avatar_bench.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        "timm": metadata.version("timm"),
    }


def build_split_plan(data: SplitDataConfig, **draw: Any) -> SplitPlan:
    """Build the split plan from the data options; `draw` holds the few-shot options, if any."""
    return SplitPlan(
        seed=data.split.seed,
        folds=data.split.folds,
        fold=data.fold,
        by=data.split.by,
        held_out=tuple(data.split.held_out),
        fraction=data.fraction,
        val_fraction=data.val_fraction,
        limit=data.limit,
        **draw,
    )

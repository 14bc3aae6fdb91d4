"""Pretraining: train a backbone by one method, and complete its folder."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytorch_lightning as pl

from avatar_bench.console.terminal import counted, tell
from avatar_bench.data.dataset import Dataset, write_split
from avatar_bench.data.transforms import Preprocessing, Views
from avatar_bench.data.worker_processes import Loader
from avatar_bench.errors import DivergedError, GuardError
from avatar_bench.files.atomic_write import whole
from avatar_bench.files.checkpoint_container import BACKBONE
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.i18n import use_language
from avatar_bench.metrics.plots import pretraining_curves
from avatar_bench.models.backbones import create_backbone, options_for
from avatar_bench.models.pretrained_backbone import IMAGES, Pretraining, Weights, write_backbone
from avatar_bench.runs.record import write_record
from avatar_bench.runs.run import set_threads
from avatar_bench.training.checkpoint_progress import newest
from avatar_bench.training.initial_weights import images_seen, origin_of, preprocessing_for, refuse_taught, weights_of
from avatar_bench.training.job import (
    batch_size,
    choose_precision,
    device_record,
    image_cache,
    plain,
    trainer_options,
    versions,
    with_images,
)
from avatar_bench.training.optimizers import TrainingOptions
from avatar_bench.training.recording import clocked
from avatar_bench.training.ssl.augmented_copies import ViewModule
from avatar_bench.training.ssl.methods import MethodOptions, create_method, local_size, shape_options, views_of
from avatar_bench.training.ssl.pretrainer import KNN, Pretrainer, Probe, fit_pretraining
from avatar_bench.training.stage_trainer import build_logger

if TYPE_CHECKING:
    from avatar_bench.config.schema import PretrainConfig


def fit(settings: PretrainConfig, folder: Path, record: dict[str, Any], sides: Dataset, learning: Dataset) -> str:
    """Pretrain on `learning`, a part of `sides`, complete the folder and the record, and give the last words."""
    pl.seed_everything(settings.seed, verbose=False)
    set_threads(settings.trainer.threads)
    weights = weights_of(settings.model.weights)
    _begin_from(settings, record, sides, weights)
    taught = Dataset(learning.name, learning.root, learning.frame.assign(split="train"))
    seen = images_seen(sides, taught, weights)
    if len(seen) > len(taught):
        record["images"]["earlier"] = len(seen) - len(taught)
    write_split(seen, folder / IMAGES)
    images_sha256 = sha256_of_file(folder / IMAGES)
    if record.setdefault("images_sha256", images_sha256) != images_sha256:
        raise GuardError(
            f"resume={folder}: the images, or their split, are not what they were when it began.",
            "Restore them, or start a new pretraining.",
        )
    module, preprocessing = _build(settings, record, weights)
    del weights  # the network has its own
    data = _data(settings, preprocessing, sides, learning)
    probe = _probe(settings, data, sides, learning)
    options = trainer_options(settings)
    record |= {
        "versions": versions(),
        "device": device_record(settings, options),
        "data": {"kind": settings.data.kind, "root": str(learning.root.absolute()), "fingerprint": sides.fingerprint},
    }
    write_record(folder, record)
    tell("  " + ", ".join(f"{what} {value}" for what, value in record["device"].items()), file=sys.stderr)
    resume, at = newest(folder / "checkpoints", staged=False) if settings.resume else (None, None)
    data.position = (at.epochs, at.batches) if at else (0, 0)
    logging = settings.logger
    logger = build_logger(logging.name, folder, folder.name, logging.project, logging.offline, plain(settings))
    try:
        with clocked(record, "train_seconds"):
            fit_pretraining(module, data, folder, options, logger, probe, resume)
    except DivergedError as error:
        raise with_images(error, taught) from error
    finally:
        Loader.end()
    return _finish(settings, folder, record, module, preprocessing)


def _begin_from(settings: PretrainConfig, record: dict[str, Any], sides: Dataset, weights: str | Weights) -> None:
    """Put on record what the weights come from; raise GuardError where they know too much, or have changed since."""
    file = Path(settings.model.weights)
    init = origin_of(weights)
    if record.setdefault("init", init).get("sha256") != init.get("sha256"):
        raise GuardError(
            f"model.weights={file}: these are not the weights that it began with.",
            "Restore them, or start a new pretraining.",
        )
    same = "the same data= and data.split= options as that run had"
    refuse_taught(sides, init, file, "pretraining" in settings.allow, same)


def _build(
    settings: PretrainConfig, record: dict[str, Any], weights: str | Weights
) -> tuple[Pretrainer, Preprocessing]:
    model, data = settings.model, settings.data
    given = asdict(settings.method)
    known = {item.name for item in fields(MethodOptions)}
    options = MethodOptions(**{name: value for name, value in given.items() if name in known and value is not None})
    shape = dict(model.options) | shape_options(options, model.backbone)
    shape = options_for(model.backbone, shape, data.image_size or 224)
    net = create_backbone(model.backbone, 0, weights, model.package, shape)
    preprocessing = preprocessing_for(net, data, weights.card if isinstance(weights, Weights) else None)
    choose_precision(settings, net, preprocessing.size, record)
    method = create_method(net, preprocessing.size, options, pretrained=weights != "none")
    optimizer, schedule = settings.optimizer, settings.optimizer.schedule
    training = TrainingOptions(
        seed=settings.seed,
        optimizer=optimizer.name,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        layer_decay=optimizer.layer_decay,
        decay_norms=optimizer.decay_norms,
        schedule=schedule.name,
        warmup_epochs=schedule.warmup_epochs,
    )
    epochs = min(settings.epochs, settings.trainer.max_epochs or sys.maxsize)
    rate = settings.lr or settings.method.lr
    return Pretrainer(method, preprocessing.mean, preprocessing.std, training, rate, epochs), preprocessing


def _data(settings: PretrainConfig, preprocessing: Preprocessing, sides: Dataset, learning: Dataset) -> ViewModule:
    how, size = settings.method, preprocessing.size
    large, small = views_of(MethodOptions(how.name, local_views=how.local_views or 0))
    views = Views(
        size,
        how.crop_scale,
        large,
        small,
        local_size(size),
        flip=how.flip,
        jitter=how.jitter,
        grey=how.grey,
        blur=how.blur,
    )
    hashes = pd.concat([learning.frame["sha256"], _labelled(sides, ("val", "calibration")).frame["sha256"]])
    return ViewModule(
        learning,
        views,
        preprocessing,
        seed=settings.seed,
        batch_size=batch_size(settings),
        workers=settings.data.workers,
        cache=image_cache(hashes, preprocessing, settings.data.cache_gb),
    )


def _probe(settings: PretrainConfig, data: ViewModule, sides: Dataset, learning: Dataset) -> Probe | None:
    """Give the probe of the labelled images of val among those of train; None, and say so, where there are none."""
    train, val = _labelled(learning, ("train",)), _labelled(sides, ("val", "calibration"))
    if len(train.classes) < 2 or not len(val):
        tell("no k-NN probe: train and val need images with labels of two classes or more", file=sys.stderr)
        return None
    return Probe(
        known=data.plain(train),
        asked=data.plain(val),
        labels=train.frame["label"].to_numpy(str),
        targets=val.frame["label"].to_numpy(str),
        groups=val.frame["group"].to_numpy(str),
        every=settings.probe.every,
        k=settings.probe.k,
    )


def _labelled(dataset: Dataset, splits: tuple[str, ...]) -> Dataset:
    return dataset.take(dataset.frame["split"].isin(splits) & (dataset.frame["label"] != ""))


def _finish(
    settings: PretrainConfig, folder: Path, record: dict[str, Any], module: Pretrainer, preprocessing: Preprocessing
) -> str:
    """Write the backbone with its card and the curves, complete the record, and give the last words."""
    card = Pretraining(
        backbone=settings.model.backbone,
        method=settings.method.name,
        preprocessing=preprocessing.to_dict(),
        options=dict(settings.model.options),
        weights=settings.model.weights,
        epochs=module.epochs,
        seed=settings.seed,
        split_fingerprint=record["split"]["fingerprint"],
        data_fingerprint=record["data"]["fingerprint"],
        root=record["data"]["root"],
        images=record["images"]["learned_from"] + record["images"].get("earlier", 0),
        images_sha256=record["images_sha256"],
        ancestors=record["init"].get("ancestors", []),
        versions=record["versions"],
    )
    write_backbone(module.method.backbone, card, folder / BACKBONE)
    history = pd.read_csv(folder / "metrics.csv")
    with use_language(settings.lang):
        figure = pretraining_curves(history)
    with whole(folder / "curves.png") as part:
        figure.savefig(part, format="png")
    probed = history[history[KNN].notna()]
    last = history.iloc[-1]
    record["weights_sha256"] = sha256_of_file(folder / BACKBONE)
    record["metrics"] = {"train/loss": float(last["train/loss"])}
    learned_from = record["images"]["learned_from"]
    learned = f"{counted(learned_from, 'image')}, {counted(card.epochs, 'epoch')}"
    said = f"{folder / BACKBONE}: {learned}, loss {last['train/loss']:.4f}"
    if len(probed):
        first, final = probed.iloc[0], probed.iloc[-1]
        record["metrics"] |= {name: float(final[name]) for name in (KNN, "probe/knn_low", "probe/knn_high", "probe/n")}
        record["before"] = {name: float(first[name]) for name in (KNN, "probe/knn_low", "probe/knn_high", "probe/n")}
        said += f"; k-NN accuracy {_share(final)}, before training {_share(first)} (n = {final['probe/n']:.0f})"
    model = record["model"] + f" model.backbone={card.backbone}" * (record["model"] == "timm")
    shape = ", ".join(f"{name}: {value}" for name, value in settings.model.options.items())
    model += f" 'model.options={{{shape}}}'" * bool(shape)
    labelled = ", of the images that have a label" * ("unlabelled" in record["images"])
    return (
        f"{said}; next, with the same data= options{labelled}: "
        f"avatar-bench train model={model} model.weights={folder / BACKBONE}"
    )


def _share(row: pd.Series) -> str:
    return f"{row[KNN]:.3f} ({row['probe/knn_low']:.3f} to {row['probe/knn_high']:.3f})"

"""Self-supervised pretraining of one backbone: its training, its record and its folder."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytorch_lightning as pl

from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.dataset import Dataset, write_split
from avatar_bench.data.transforms import Preprocessing, RandomViews
from avatar_bench.errors import GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.checkpoint_container import BACKBONE_FILE
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.i18n import use_language
from avatar_bench.metrics.plots import draw_pretraining_curves
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.pretrained_backbone import IMAGES_FILE, PretrainedWeights, Pretraining, write_backbone
from avatar_bench.runs.record import RunRecord
from avatar_bench.runs.run import set_threads
from avatar_bench.training.builders import load_optimization
from avatar_bench.training.checkpoint_progress import find_newest_checkpoint
from avatar_bench.training.initial_weights import (
    build_preprocessing,
    describe_weights,
    list_pretraining_images,
    refuse_labelled_pretraining,
    resolve_weights,
)
from avatar_bench.training.job import (
    choose_precision,
    end_loaders,
    open_image_cache,
    read_versions,
    report_device,
    resolve_batch_size,
    to_plain_values,
)
from avatar_bench.training.optimization import TrainingOptions
from avatar_bench.training.ssl.methods import MethodOptions, choose_shape_options, compute_local_size, create_method
from avatar_bench.training.ssl.multi_view_data import MultiViewDataModule
from avatar_bench.training.ssl.pretrainer import KNN_ACCURACY, PROBE_COLUMNS, KnnProbe, Pretrainer, PretrainingHistory
from avatar_bench.training.stage_trainer import build_logger, run_trainer

if TYPE_CHECKING:
    from avatar_bench.config.schema import PretrainConfig


def fit(settings: PretrainConfig, folder: Path, record: RunRecord, sides: Dataset, learning: Dataset) -> str:
    """Pretrain on `learning`, a subset of `sides`, and complete the folder and the record; return the final message."""
    pl.seed_everything(settings.seed, verbose=False)
    set_threads(settings.trainer.threads)
    weights = resolve_weights(settings.model.weights)
    _record_initial_weights(settings, record, sides, weights)
    own_images = Dataset(learning.name, learning.root, learning.frame.assign(split="train"))
    all_images = list_pretraining_images(sides, own_images, weights)
    if len(all_images) > len(own_images):
        record.images["earlier"] = len(all_images) - len(own_images)
    write_split(all_images, folder / IMAGES_FILE)
    images_sha256 = sha256_of_file(folder / IMAGES_FILE)
    record.images_sha256 = record.images_sha256 or images_sha256
    if record.images_sha256 != images_sha256:
        raise GuardError(
            f"resume={folder}: the images or their split have changed since the pretraining was started.",
            "Restore them, or start a new pretraining.",
        )
    module, preprocessing = _build(settings, record, weights)
    del weights  # the network has its own copy
    data = _build_data(settings, preprocessing, sides, learning)
    probe = _build_probe(settings, data, sides, learning)
    record.versions, record.device = read_versions(), report_device(settings)
    place = {"root": str(learning.root.absolute()), "fingerprint": sides.fingerprint}
    record.data = {"kind": settings.data.kind, **place}
    record.write(folder)
    resume, at = find_newest_checkpoint(folder / "checkpoints", staged=False) if settings.resume else (None, None)
    data.position = (at.epochs, at.batches) if at else (0, 0)
    logger = build_logger(folder, to_plain_values(settings))
    history = PretrainingHistory(folder, probe, settings.callbacks.progress)
    with end_loaders(own_images), record.add_duration("train_seconds"):
        run_trainer(module, module.method, data, folder, settings, module.epochs, [history], logger, resume)
    return _complete_folder(settings, folder, record, module, preprocessing)


def _record_initial_weights(
    settings: PretrainConfig, record: RunRecord, sides: Dataset, weights: str | PretrainedWeights
) -> None:
    """Record the origin of the initial weights; raise GuardError if they have changed or used labels of other data."""
    file = Path(settings.model.weights)
    init = describe_weights(weights)
    record.init = record.init or init
    if record.init.get("sha256") != init.get("sha256"):
        raise GuardError(
            f"model.weights={file}: the weights have changed since the pretraining was started.",
            "Restore them, or start a new pretraining.",
        )
    same = "the same data= and data.split= options as that run had"
    refuse_labelled_pretraining(sides, init, file, "pretraining" in settings.allow, same)


def _build(
    settings: PretrainConfig, record: RunRecord, weights: str | PretrainedWeights
) -> tuple[Pretrainer, Preprocessing]:
    model, data = settings.model, settings.data
    given = asdict(settings.method)
    known = {item.name for item in fields(MethodOptions)}
    options = MethodOptions(**{name: value for name, value in given.items() if name in known and value is not None})
    shape = dict(model.options) | choose_shape_options(options, model.backbone)
    shape = resolve_options(model.backbone, shape, data.image_size or 224)
    net = create_backbone(model.backbone, 0, weights, model.package, shape)
    preprocessing = build_preprocessing(net, data, weights.card if isinstance(weights, PretrainedWeights) else None)
    choose_precision(settings, net, preprocessing.size, record)
    method = create_method(net, preprocessing.size, options, pretrained=weights != "none")
    training = TrainingOptions(seed=settings.seed, **load_optimization(asdict(settings.optimizer)))
    epochs = min(settings.epochs, settings.trainer.max_epochs or sys.maxsize)
    rate = settings.lr or settings.method.lr
    return Pretrainer(method, preprocessing, training, rate, epochs), preprocessing


def _build_data(
    settings: PretrainConfig, preprocessing: Preprocessing, sides: Dataset, learning: Dataset
) -> MultiViewDataModule:
    how, size = settings.method, preprocessing.size
    large, small = 1 if how.name == "mae" else 2, how.local_views or 0
    chances = {name: getattr(how, name) for name in ("flip", "jitter", "grey", "blur")}
    views = RandomViews(size, how.crop_scale, large, small, compute_local_size(size), **chances)
    hashes = pd.concat([learning.frame["sha256"], _select_labelled(sides, ("val", "calibration")).frame["sha256"]])
    return MultiViewDataModule(
        learning,
        views,
        preprocessing,
        seed=settings.seed,
        batch_size=resolve_batch_size(settings),
        workers=settings.data.workers,
        cache=open_image_cache(hashes, preprocessing, settings.data.cache_gb),
    )


def _build_probe(
    settings: PretrainConfig, data: MultiViewDataModule, sides: Dataset, learning: Dataset
) -> KnnProbe | None:
    """Build the k-NN probe from the labelled images of train and val; print a notice and return None without labels."""
    train, val = _select_labelled(learning, ("train",)), _select_labelled(sides, ("val", "calibration"))
    if len(train.classes) < 2 or not len(val):
        needs = "labelled images in val, and of two or more classes in train"
        print_line(f"no k-NN probe: it needs {needs}", file=sys.stderr)
        return None
    return KnnProbe(
        train_batches=data.plain_loader(train),
        val_batches=data.plain_loader(val),
        labels=train.frame["label"].to_numpy(str),
        targets=val.frame["label"].to_numpy(str),
        groups=val.frame["group"].to_numpy(str),
        every=settings.probe.every,
        k=settings.probe.k,
    )


def _select_labelled(dataset: Dataset, splits: tuple[str, ...]) -> Dataset:
    return dataset.take(dataset.frame["split"].isin(splits) & (dataset.frame["label"] != ""))


def _complete_folder(
    settings: PretrainConfig, folder: Path, record: RunRecord, module: Pretrainer, preprocessing: Preprocessing
) -> str:
    """Write the backbone with its card and the curves, and complete the record; return the final message."""
    card = Pretraining(
        backbone=settings.model.backbone,
        method=settings.method.name,
        preprocessing=preprocessing.to_dict(),
        options=dict(settings.model.options),
        weights=settings.model.weights,
        epochs=module.epochs,
        seed=settings.seed,
        split_fingerprint=record.split["fingerprint"],
        data_fingerprint=record.data["fingerprint"],
        root=record.data["root"],
        images=record.images["learned_from"] + record.images.get("earlier", 0),
        images_sha256=record.images_sha256 or "",
        ancestors=record.init.get("ancestors", []),
        versions=record.versions,
    )
    write_backbone(module.method.backbone, card, folder / BACKBONE_FILE)
    history = pd.read_csv(folder / "metrics.csv")
    with use_language(settings.lang), atomic_write(folder / "curves.png") as part:
        draw_pretraining_curves(history).savefig(part, format="png")
    probed = history[history[KNN_ACCURACY].notna()]
    last = history.iloc[-1]
    record.weights_sha256 = sha256_of_file(folder / BACKBONE_FILE)
    record.metrics = {"train/loss": float(last["train/loss"])}
    budget = f"{format_count(record.images['learned_from'], 'image')}, {format_count(card.epochs, 'epoch')}"
    summary = f"{folder / BACKBONE_FILE}: {budget}, loss {last['train/loss']:.4f}"
    if len(probed):
        first, final = probed.iloc[0], probed.iloc[-1]
        record.metrics |= {name: float(final[name]) for name in PROBE_COLUMNS}
        record.before = {name: float(first[name]) for name in PROBE_COLUMNS}
        before, after = _format_accuracy(first), _format_accuracy(final)
        summary += f"; k-NN accuracy {after}, before training {before} (n = {final['probe/n']:.0f})"
    model = f"{record.model}" + f" model.backbone={card.backbone}" * (record.model == "timm")
    shape = ", ".join(f"{name}: {value}" for name, value in settings.model.options.items())
    model += f" 'model.options={{{shape}}}'" * bool(shape)
    labelled = " and labelled images only" * ("unlabelled" in record.images)
    return (
        f"{summary}; next, with the same data= options{labelled}: "
        f"avatar-bench train model={model} model.weights={folder / BACKBONE_FILE}"
    )


def _format_accuracy(row: pd.Series) -> str:
    return f"{row[KNN_ACCURACY]:.3f} ({row['probe/knn_low']:.3f} to {row['probe/knn_high']:.3f})"

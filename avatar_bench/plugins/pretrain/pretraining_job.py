"""Self-supervised pretraining of one backbone."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.cache import open_image_cache
from avatar_bench.data.dataset import Dataset, read_split, write_split
from avatar_bench.data.mask import read_mask
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.checkpoint_container import BACKBONE_FILE
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.i18n import _, use_language
from avatar_bench.metrics.plots import GREY, create_figure, encode_png, format_percent_axis, get_colour, use_style
from avatar_bench.models.backbones import create_backbone, resolve_options
from avatar_bench.models.pretrained_backbone import IMAGES_FILE, PretrainedWeights, Pretraining, write_backbone
from avatar_bench.plugins.pretrain.methods import MethodOptions, choose_shape_options, compute_local_size, create_method
from avatar_bench.plugins.pretrain.multi_view_data import MultiViewDataModule, RandomViews
from avatar_bench.plugins.pretrain.pretrainer import (
    KNN_ACCURACY,
    PROBE_COLUMNS,
    KnnProbe,
    Pretrainer,
    PretrainingHistory,
)
from avatar_bench.runs.record import RunRecord
from avatar_bench.training import environment
from avatar_bench.training.checkpoints import find_newest_checkpoint
from avatar_bench.training.network import build_preprocessing
from avatar_bench.training.optimization import TrainingOptions
from avatar_bench.training.origin import (
    check_pretraining_overlap,
    describe_weights,
    refuse_labelled_pretraining,
    resolve_weights,
)
from avatar_bench.training.trainer import build_loggers, end_loaders, run_trainer

if TYPE_CHECKING:
    from avatar_bench.plugins.pretrain.command.pretrain import PretrainConfig


class PretrainingJob:
    """Pretraining on `learning`, a subset of `sides`, all images with their splits."""

    def __init__(self, settings: PretrainConfig, folder: Path, record: RunRecord, sides: Dataset, learning: Dataset):
        self.settings, self.folder, self.record, self.sides, self.learning = settings, folder, record, sides, learning
        self.images = Dataset(learning.name, learning.root, learning.frame.assign(split="train"))  # as the list says

    def build(self) -> None:
        """Build the method, its views and the probe, and describe the pretraining in the record."""
        settings, record, sides, folder = self.settings, self.record, self.sides, self.folder
        environment.seed_training(settings)
        weights = resolve_weights(settings.model.weights)
        file, init = Path(settings.model.weights), describe_weights(weights)
        record.init = record.init or init
        if record.init.get("sha256") != init.get("sha256"):
            raise GuardError(
                f"model.weights={file}: the weights have changed since the pretraining was started.",
                "Restore them, or start a new pretraining.",
            )
        if isinstance(weights, PretrainedWeights):
            same = "the same data= and data.split= options as that run had"
            refuse_labelled_pretraining(sides, weights, "pretraining" in settings.allow, same)
        all_images = _list_pretraining_images(sides, self.images, weights)
        if len(all_images) > len(self.images):
            record.images["earlier"] = len(all_images) - len(self.images)
        write_split(all_images, folder / IMAGES_FILE)
        images_sha256 = sha256_of_file(folder / IMAGES_FILE)
        if record.images_sha256 not in (None, images_sha256):
            raise GuardError(
                f"resume={folder}: the images or their split have changed since the pretraining was started.",
                "Restore them, or start a new pretraining.",
            )
        record.images_sha256 = images_sha256
        self.module, self.preprocessing = self._build_module(weights)
        del weights  # the network has its own copy
        how, size = settings.method, self.preprocessing.size
        large, small = 1 if how.name == "mae" else 2, how.local_views or 0
        chances = {name: getattr(how, name) for name in ("flip", "jitter", "grey", "blur")}
        hashes = [self.images.frame["sha256"], _select_labelled(sides, ("val", "calibration")).frame["sha256"]]
        self.data = MultiViewDataModule(
            self.images,
            RandomViews(size, how.crop_scale, large, small, compute_local_size(size), **chances),
            self.preprocessing,
            seed=settings.seed,
            batch_size=environment.resolve_batch_size(settings),
            workers=settings.data.workers,
            cache=open_image_cache(pd.concat(hashes), self.preprocessing, settings.data.cache_gb),
        )
        self.probe = _build_probe(settings, self.data, sides, self.learning)
        environment.describe_environment(settings, record)
        origin = {"root": str(self.images.root.absolute()), "fingerprint": sides.fingerprint}
        record.data = {"kind": settings.data.kind, **origin}

    def fit(self) -> None:
        """Train the backbone in one stage; write checkpoints/last.ckpt and metrics.csv."""
        settings, folder, module = self.settings, self.folder, self.module
        progress = find_newest_checkpoint(folder / "checkpoints") if settings.resume else None
        loggers = build_loggers(folder, settings)
        history = PretrainingHistory(folder, self.probe, settings.callbacks.progress)
        with end_loaders(self.images), self.record.add_duration("train_seconds"):
            run_trainer(module, module.method, self.data, folder, settings, module.epochs, [history], loggers, progress)

    def finish(self) -> str:
        """Write the backbone with its card and the curves, complete the record, and return a summary."""
        settings, record, folder = self.settings, self.record, self.folder
        card = Pretraining(
            backbone=settings.model.backbone,
            method=settings.method.name,
            preprocessing=self.preprocessing.to_dict(),
            options=dict(settings.model.options),
            weights=settings.model.weights,
            epochs=self.module.epochs,
            seed=settings.seed,
            split_fingerprint=record.split["fingerprint"],
            data_fingerprint=record.data["fingerprint"],
            root=record.data["root"],
            images=record.images["learned_from"] + record.images.get("earlier", 0),
            images_sha256=record.images_sha256 or "",
            ancestors=record.init.get("ancestors", []),
            versions=record.versions,
        )
        write_backbone(self.module.method.backbone, card, folder / BACKBONE_FILE)
        history = pd.read_csv(folder / "metrics.csv")
        with use_language(settings.lang), atomic_write(folder / "curves.png") as part:
            part.write_bytes(encode_png(_draw_pretraining_curves(history)))
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

    def _build_module(self, weights: str | PretrainedWeights) -> tuple[Pretrainer, Preprocessing]:
        settings = self.settings
        model, data = settings.model, settings.data
        stated = asdict(settings.method)
        known = {item.name for item in fields(MethodOptions)}
        options = MethodOptions(
            **{name: value for name, value in stated.items() if name in known and value is not None}
        )
        shape = dict(model.options) | choose_shape_options(options, model.backbone)
        shape = resolve_options(model.backbone, shape, data.image_size or 224)
        net = create_backbone(model.backbone, 0, weights, model.package, shape)
        preprocessing = build_preprocessing(net, data, weights, read_mask(data.mask, self.sides))
        environment.choose_precision(settings, net, preprocessing.size, self.record)
        method = create_method(net, preprocessing.size, options, pretrained=weights != "none")
        epochs = min(settings.epochs, settings.trainer.max_epochs or sys.maxsize)
        rate = settings.lr or settings.method.lr
        return Pretrainer(method, preprocessing, TrainingOptions.read(settings), rate, epochs), preprocessing


def _list_pretraining_images(sides: Dataset, learning: Dataset, weights: str | PretrainedWeights) -> Dataset:
    """Return all images that a pretraining from these weights will have used: its own and those of earlier trainings.

    Images under another root get absolute paths. Raises GuardError if the image list of the weights is missing.
    """
    if isinstance(weights, str) or weights.card is None:
        return learning
    card, file, root = weights.card, weights.file, learning.root.absolute()
    if isinstance(card, Pretraining):
        earlier = read_split(card.find_image_list(file), Path(card.root))
        # only a warning here: `train` refuses an overlap, since the list stays with the weights
        check_pretraining_overlap(sides, earlier, file, allowed=True)
    else:  # an exported run of the same split; others were refused
        earlier = sides.select_split("train")
    frame = earlier.frame if earlier.root.absolute() == root else earlier.absolute_frame
    rows = pd.concat([learning.frame, frame.assign(split="earlier")], ignore_index=True).fillna("")
    duplicates = rows.duplicated(["path", "sha256", "group", "stated_group"])
    return Dataset(learning.name, learning.root, rows[~duplicates].reset_index(drop=True))


@use_style()
def _draw_pretraining_curves(table: pd.DataFrame) -> Figure:
    """Draw a pretraining's metrics.csv: loss on the left, k-NN probe accuracy with 95 % intervals on the right.

    The dashed line and its band are the network before training, epoch 0; without a probe the right half is omitted.
    """
    probed = table[table["probe/knn_accuracy"].notna()]
    figure = create_figure(8.4 if len(probed) else 4.6, 3.3)
    left, *rest = figure.subplots(1, 2 if len(probed) else 1, squeeze=False)[0]
    left.plot(table["epoch"], table["train/loss"], "o-", color=get_colour(0), markersize=3)
    left.set(xlabel=_("epoch"), ylabel=_("loss of the method"), title=_("Loss"))
    left.grid(True)
    for right in rest:
        value, low, high = (probed[f"probe/knn_{name}"] for name in ("accuracy", "low", "high"))
        right.axhspan(low.iat[0], high.iat[0], color=GREY, alpha=0.15, linewidth=0)
        before = _("before training (band: 95 % interval)")
        right.axhline(value.iat[0], color=GREY, linestyle="--", linewidth=1, label=before)
        errors = np.maximum(0, [value - low, high - value])
        line: dict[str, Any] = {"color": get_colour(1), "markersize": 3, "capsize": 2, "label": _("pretrained")}
        right.errorbar(probed["epoch"], value, errors, fmt="o-", **line)
        label = _("accuracy on {n} val images (%)", n=f"{probed['probe/n'].max():.0f}")
        right.set(xlabel=_("epoch"), ylabel=label, title=_("Accuracy of the nearest neighbours"), ylim=(0, 1.02))
        format_percent_axis(right.yaxis)
        right.grid(True)
        right.legend(loc="best")
    for axes in (left, *rest):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(-0.5, table["epoch"].max() + 0.5)
    return figure


def _build_probe(
    settings: PretrainConfig, data: MultiViewDataModule, sides: Dataset, learning: Dataset
) -> KnnProbe | None:
    """Build the k-NN probe from the labelled images of train and val; print a notice and return None without labels."""
    train, val = _select_labelled(learning, ("train",)), _select_labelled(sides, ("val", "calibration"))
    if len(train.classes) < 2 or not len(val):
        needs = "labelled images in val, and of two or more classes in train"
        print_note(f"no k-NN probe: it needs {needs}")
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


def _format_accuracy(row: pd.Series) -> str:
    return f"{row[KNN_ACCURACY]:.3f} ({row['probe/knn_low']:.3f} to {row['probe/knn_high']:.3f})"

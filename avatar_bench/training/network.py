"""Network of a training with its initial weights, the batches for it, and the module that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from avatar_bench.console.terminal import format_count, print_note
from avatar_bench.data.cache import open_image_cache
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.mask import Mask
from avatar_bench.data.training_batches import DataModule
from avatar_bench.data.transforms import Augmentation, Preprocessing
from avatar_bench.errors import ConfigError
from avatar_bench.models.backbones import create_backbone, get_normalisation, resolve_options
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import PretrainedWeights, refuse_other_options
from avatar_bench.models.wrapped_networks import LAST_EMBEDDING, POOLED_OPTION, sort_layers
from avatar_bench.runs.run import Run
from avatar_bench.training.environment import read_versions, resolve_batch_size
from avatar_bench.training.module import Learner
from avatar_bench.training.optimization import TrainingOptions
from avatar_bench.training.origin import Origin

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainConfig
    from avatar_bench.config.schema import ImagesConfig


def build_network(
    settings: TrainConfig, origin: Origin, mask: Mask | None, split_fingerprint: str, data_fingerprint: str
) -> Classifier:
    """Build the network with initial weights and card; raise ConfigError if that of `init_from` is another one."""
    model, earlier, weights = settings.model, origin.earlier, origin.weights
    options = model.options | _choose_layers(settings, earlier)
    shape = resolve_options(model.backbone, options, settings.data.image_size or 224)
    net = create_backbone(model.backbone, len(origin.classes), weights, model.package, shape)
    if earlier is None:
        preprocessing = build_preprocessing(net, settings.data, weights, mask)
    else:
        _load_earlier_weights(net, earlier, settings, shape)
        preprocessing = build_preprocessing(net, settings.data, earlier.card, mask)
        _warn_of_other_preprocessing(earlier, preprocessing, settings)
    card = Card(
        classes=origin.classes,
        backbone=model.backbone,
        options=shape,
        preprocessing=preprocessing.to_dict(),
        weights=earlier.card.weights if earlier else model.weights,
        mode=settings.mode.name,
        seed=settings.seed,
        split_fingerprint=split_fingerprint,
        data_fingerprint=data_fingerprint,
        trained_until=settings.data.split.until or "",
        versions=read_versions(),
    )
    return Classifier(card, net)


def _load_earlier_weights(net: nn.Module, earlier: Run, settings: TrainConfig, shape: Mapping[str, Any]) -> None:
    if earlier.card.backbone != settings.model.backbone:
        reason = f"init_from={settings.init_from} has backbone {earlier.card.backbone}, not {settings.model.backbone}."
        raise ConfigError(reason, "Choose the same model.")
    refuse_other_options(f"init_from={settings.init_from}", earlier.card.options, shape)
    try:
        net.load_state_dict(earlier.predictor.module.net.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"init_from={settings.init_from} has a network of another image size or with other model.options.",
            f"Use the same: data.image_size={earlier.card.preprocessing['size']}, {earlier.card.options}.",
        ) from error


def _warn_of_other_preprocessing(earlier: Run, preprocessing: Preprocessing, settings: TrainConfig) -> None:
    """Warn of preprocessing that differs from the earlier run's; larger images alone are common practice."""
    before, now = earlier.preprocessing, preprocessing
    names = {"image_size": "size", "resize": "resize", "equalise": "equalise", "mask": "mask"}
    changes = [
        f"data.{option}={getattr(now, name)} instead of {getattr(before, name)}"
        for option, name in names.items()
        if getattr(now, name) != getattr(before, name)
    ]
    if changes:
        print_note(f"warning: init_from={settings.init_from} used other preprocessing: {', '.join(changes)}")


def _choose_layers(settings: TrainConfig, earlier: Run | None) -> dict[str, list[int]]:
    """Return the option of a network that pools several layers: those of mode.layers, or of the run in `init_from`."""
    layers = sort_layers(settings.mode.layers)
    before = earlier.card.options.get(POOLED_OPTION, [LAST_EMBEDDING]) if earlier else layers
    if layers not in ([LAST_EMBEDDING], before):
        reason = f"init_from={settings.init_from} classifies features of mode.layers={before}, not {layers}."
        raise ConfigError(reason, "Remove mode.layers, or probe the network itself, without init_from.")
    return {} if before == [LAST_EMBEDDING] else {POOLED_OPTION: list(before)}


def build_preprocessing(
    net: nn.Module, data: ImagesConfig, source: str | PretrainedWeights | Card, mask: Mask | None
) -> Preprocessing:
    """Build the preprocessing, with the normalisation of the weights' card, if they have one, else timm's."""
    card = source if isinstance(source, Card) else getattr(source, "card", None)
    stated = (card.preprocessing["mean"], card.preprocessing["std"]) if card else get_normalisation(net)
    mean, std = (tuple(map(float, values)) for values in stated)
    size, resize = data.image_size or 224, data.resize or "squash"
    return Preprocessing(size, resize, mean, std, data.equalise, mask)  # type: ignore[arg-type]


def build_data(settings: TrainConfig, dataset: Dataset, teacher: Run | None, card: Card) -> DataModule:
    """Build the batches of a training, with the answers of the teacher, if there is one, for its training images."""
    options, augment, classes = settings.data, settings.data.augment, card.classes
    preprocessing = Preprocessing.from_dict(card.preprocessing)
    steps = {name: value for name, value in asdict(augment).items() if name not in ("mixup", "cutmix")}
    used = dataset.frame.loc[dataset.frame["split"].isin(["train", "val"]), "sha256"]
    return DataModule(
        dataset,
        classes,
        preprocessing,
        Augmentation(**{**steps, "jitter": tuple(augment.jitter)}),
        seed=settings.seed,
        batch_size=resolve_batch_size(settings),
        workers=options.workers,
        balance=settings.mode.balance,
        augmented_copies=options.augmented_copies,
        cache=open_image_cache(used, preprocessing, options.cache_gb),
        answers=_ask_teacher(teacher, dataset.select_split("train"), classes) if teacher else None,
        shuffle_shards=options.shuffle_shards,
    )


def _ask_teacher(teacher: Run, images: Dataset, classes: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the calibrated probabilities (N, C) of a teacher for images, labelled or not, by class in `classes`."""
    unlabelled = int((images.frame["label"] == "").sum())
    some = f", {unlabelled} of them without a label" * bool(unlabelled)
    print_note(f"learning the answers of {teacher.name} on {format_count(len(images), 'image')}{some}")
    return teacher.predictions(images).reorder(classes).probabilities.astype(np.float32)


def build_learner(settings: TrainConfig, network: Classifier, data: DataModule) -> Learner:
    training = TrainingOptions.read(
        settings,
        label_smoothing=settings.label_smoothing,
        mixup=settings.data.augment.mixup,
        cutmix=settings.data.augment.cutmix,
        class_weights=data.class_weights,
    )
    return Learner(network.card, network.net, training)

"""Initial weights of a training, and checks that their training data do not overlap with its test images."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from avatar_bench.config.catalogue import WEIGHTS_CHOICES
from avatar_bench.console.terminal import print_line
from avatar_bench.data.dataset import Dataset, read_split
from avatar_bench.data.leakage import mark_shared_images
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.models.backbones import create_backbone, find_licence, get_normalisation, resolve_options
from avatar_bench.models.model_card import Card, describe_training, has_outside_labels
from avatar_bench.models.pooled_stages import LAST_EMBEDDING, POOLED_OPTION, sort_layers
from avatar_bench.models.pretrained_backbone import (
    PretrainedWeights,
    Pretraining,
    read_weights,
    refuse_other_options,
)
from avatar_bench.runs.run import PRETRAINING_LIST, Run

if TYPE_CHECKING:
    from avatar_bench.config.schema import ImagesConfig, TrainConfig


def resolve_weights(given: str) -> str | PretrainedWeights:
    """Read the file named by model.weights, once; return keywords such as `hub` or `none` unchanged."""
    return given if given in WEIGHTS_CHOICES else read_weights(Path(given))


def record_initial_weights(
    settings: TrainConfig, dataset: Dataset, folder: Path, earlier: Run | None, weights: str | PretrainedWeights
) -> dict[str, Any]:
    """Return the record entry on the origin of the initial weights; raise GuardError on overlap with test images.

    The list of images used in pretraining is copied into the run folder, where `evaluate` looks for it.
    """
    if earlier is not None:
        return _inherit_origin(earlier, folder)
    init = describe_weights(weights)
    if isinstance(weights, str):
        licence = find_licence(settings.model.backbone, weights, settings.model.package)
        return init | ({"licence": licence} if licence else {})
    file, card, allowed = weights.file, weights.card, "pretraining" in settings.allow
    same = "the same data=, data.split= and mode.shots= options as that run had, or init_from=RUN"
    refuse_labelled_pretraining(dataset, init, file, allowed, same)
    if not isinstance(card, Pretraining):
        return init
    images = card.find_image_list(file)
    check_pretraining_overlap(dataset, read_split(images, Path(card.root)), file, allowed)
    shutil.copyfile(images, folder / PRETRAINING_LIST)
    return init | {name: getattr(card, name) for name in ("method", "epochs", "images", "images_sha256", "root")}


def create_network(
    settings: TrainConfig, n_classes: int, earlier: Run | None, weights: str | PretrainedWeights
) -> tuple[nn.Module, dict[str, Any], Preprocessing]:
    """Create the network with its initial weights; return it, the options of its shape and its preprocessing.

    Raises ConfigError if the network of the run in `init_from` is another one.
    """
    model = settings.model
    options = model.options | _choose_layers(settings, earlier)
    shape = resolve_options(model.backbone, options, settings.data.image_size or 224)
    net = create_backbone(model.backbone, n_classes, weights, model.package, shape)
    if earlier is None:
        card = weights.card if isinstance(weights, PretrainedWeights) else None
        return net, shape, build_preprocessing(net, settings.data, card)
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
    preprocessing = build_preprocessing(net, settings.data, earlier.card)
    # larger images are common practice, other differences are not
    before, now = earlier.preprocessing.to_dict(), preprocessing.to_dict()
    names = {"image_size": "size", "resize": "resize", "equalise": "equalise"}
    changes = [
        f"data.{option}={now[name]} instead of {before[name]}"
        for option, name in names.items()
        if now[name] != before[name]
    ]
    if changes:
        warning = f"init_from={settings.init_from} used other preprocessing: {', '.join(changes)}"
        print_line(f"warning: {warning}", file=sys.stderr)
    return net, shape, preprocessing


def _choose_layers(settings: TrainConfig, earlier: Run | None) -> dict[str, list[int]]:
    """Return the option of a network that pools several layers: those of mode.layers, or of the run in `init_from`."""
    layers = sort_layers(settings.mode.layers)
    before = earlier.card.options.get(POOLED_OPTION, [LAST_EMBEDDING]) if earlier else layers
    if layers not in ([LAST_EMBEDDING], before):
        raise ConfigError(
            f"init_from={settings.init_from} classifies features of mode.layers={before}, not {layers}.",
            "Remove mode.layers, or probe the network itself, without init_from.",
        )
    return {} if before == [LAST_EMBEDDING] else {POOLED_OPTION: list(before)}


def describe_weights(weights: str | PretrainedWeights) -> dict[str, Any]:
    """Return the record entry of the weights: file, SHA-256 and, if known, the trainings that produced them."""
    if isinstance(weights, str):
        return {"weights": weights}
    origin = {"weights": str(weights.file.absolute()), "sha256": weights.sha256}
    return origin | ({"ancestors": list(weights.ancestors)} if weights.ancestors else {})


def refuse_labelled_pretraining(
    dataset: Dataset, origin: Mapping[str, Any], file: Path, allowed: bool, same: str
) -> None:
    """Raise GuardError if the weights were pretrained with labels on other data, whose images are not listed.

    `same` names the options that give the command the images and the split of the earlier run.
    """
    ancestors = origin.get("ancestors", [])
    if not has_outside_labels(ancestors, fingerprint_split(dataset), dataset.fingerprint):
        return
    message = (
        f"{file} was trained with labels on data other than {dataset.name}, on another split of it, or from such "
        "weights: the test images may be among its training data."
    )
    if not allowed:
        raise GuardError(message, f"Use {same},", "or set allow=[pretraining], which is recorded in the run.")
    print_line(f"warning: {message}", file=sys.stderr)


def _inherit_origin(earlier: Run, folder: Path) -> dict[str, Any]:
    """Return the origin of an earlier run's weights, plus its own training if that had allow=[pretraining]."""
    if earlier.pretraining is not None and earlier.folder is not None:
        shutil.copyfile(earlier.folder / PRETRAINING_LIST, folder / PRETRAINING_LIST)
    init = dict(earlier.record.get("init") or {"weights": earlier.card.weights})
    allow = earlier.record.get("allow") or []
    if "pretraining" not in allow:
        return init
    return init | {"ancestors": [*earlier.ancestors, describe_training(earlier.card, earlier.checkpoint_sha256, allow)]}


def build_preprocessing(net: nn.Module, data: ImagesConfig, card: Card | Pretraining | None) -> Preprocessing:
    """Build the preprocessing from the options, with the normalisation that the weights expect.

    `card` is the card of the weights, if they come from this package; otherwise timm's normalisation is used.
    """
    stated = (card.preprocessing["mean"], card.preprocessing["std"]) if card else get_normalisation(net)
    mean, std = (tuple(map(float, values)) for values in stated)
    return Preprocessing(data.image_size or 224, data.resize or "squash", mean, std, data.equalise)  # type: ignore[arg-type]


def check_pretraining_overlap(
    dataset: Dataset, seen: Dataset, file: Path, allowed: bool, learned: Dataset | None = None
) -> None:
    """Raise GuardError if test images overlap with a pretraining's images; warn if val images do.

    `learned` are those of the images that weights were fitted on, all by default: val images are compared with these.
    """
    if missing := len(seen) - len(seen.available):
        what = f"{missing} of {len(seen)} pretraining images of {file} are missing"
        print_line(f"warning: {what}: their near-duplicates cannot be found", file=sys.stderr)
    for sides in (("test",), ("val", "calibration")):
        part = dataset.take(dataset.frame["split"].isin(sides), name=sides[0])
        shared = mark_shared_images(part, seen if learned is None or sides[0] == "test" else learned)
        if not shared.any():
            continue
        message = (
            f"{int(shared.sum())} of {len(part)} {sides[0]} images overlap with the pretraining data of {file} "
            f"(same image, near-duplicate or group), first {part.frame.loc[shared, 'path'].iat[0]}."
        )
        if sides[0] == "test" and not allowed:
            raise GuardError(
                message,
                "Metrics on images used in training do not carry over to new ones: pretrain with the same data= and",
                "data.split= options, or set allow=[pretraining] (recorded); evaluate then needs allow=[overlap].",
            )
        print_line(f"warning: {message}", file=sys.stderr)

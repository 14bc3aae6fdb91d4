"""What a training starts from, and that its test images were not seen there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from avatar_bench.config.catalogue import WEIGHTS_CHOICES
from avatar_bench.console.terminal import print_line
from avatar_bench.data.dataset import Dataset, read_split
from avatar_bench.data.leakage import mark_shared_images
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import GuardError
from avatar_bench.models.backbones import get_normalisation
from avatar_bench.models.model_card import Card, describe_training, has_outside_labels
from avatar_bench.models.pretrained_backbone import PretrainedWeights, Pretraining, read_weights
from avatar_bench.runs.run import PRETRAINING_LIST, Run

if TYPE_CHECKING:
    from avatar_bench.config.schema import ImagesConfig, TrainConfig


def resolve_weights(given: str) -> str | PretrainedWeights:
    """Give the file that model.weights names, read now and not again, or the word that it is."""
    return given if given in WEIGHTS_CHOICES else read_weights(Path(given))


def record_initial_weights(
    settings: TrainConfig, dataset: Dataset, folder: Path, earlier: Run | None, weights: str | PretrainedWeights
) -> dict[str, Any]:
    """Give for the record what the weights come from; raise GuardError where they have seen test images.

    The list of the images that they have seen is copied into the run folder, where evaluate looks for it.
    """
    if earlier is not None:
        return _inherit_origin(earlier, folder)
    init = describe_weights(weights)
    if isinstance(weights, str):
        return init
    file, card, allowed = weights.file, weights.card, "pretraining" in settings.allow
    same = "the same data=, data.split= and mode.shots= options as that run had, or init_from=RUN"
    refuse_labelled_pretraining(dataset, init, file, allowed, same)
    if not isinstance(card, Pretraining):
        return init
    images = card.find_image_list(file)
    check_pretraining_overlap(dataset, read_split(images, Path(card.root)), file, allowed)
    shutil.copyfile(images, folder / PRETRAINING_LIST)
    return init | {
        "method": card.method,
        "epochs": card.epochs,
        "images": card.images,
        "images_sha256": card.images_sha256,
        "root": card.root,
    }


def describe_weights(weights: str | PretrainedWeights) -> dict[str, Any]:
    """Give for a record what weights are, and what they have been through where their file has a card of ours."""
    if isinstance(weights, str):
        return {"weights": weights}
    origin = {"weights": str(weights.file.absolute()), "sha256": weights.sha256}
    return origin | ({"ancestors": list(weights.ancestors)} if weights.ancestors else {})


def list_pretraining_images(sides: Dataset, learning: Dataset, weights: str | PretrainedWeights) -> Dataset:
    """Give what a pretraining from weights will have seen: the images to learn from, and earlier ones.

    Those of another root have absolute paths. Raises GuardError where the list of what the weights have seen is gone.
    """
    if isinstance(weights, str) or weights.card is None:
        return learning
    card, file, root = weights.card, weights.file, learning.root.absolute()
    if isinstance(card, Pretraining):
        earlier = read_split(card.find_image_list(file), Path(card.root))
        check_pretraining_overlap(
            sides, earlier, file, allowed=True
        )  # it is for train to refuse: the list goes with the weights
    else:  # exported, of the same split, else it was refused
        earlier = sides.select_split("train")
    frame = earlier.frame
    if earlier.root.absolute() != root:
        frame = frame.assign(path=[(earlier.root.absolute() / path).as_posix() for path in frame["path"]])
    rows = pd.concat([learning.frame, frame.assign(split="earlier")], ignore_index=True).fillna("")
    again = rows.duplicated(["path", "sha256", "group", "stated_group"])
    return Dataset(learning.name, learning.root, rows[~again].reset_index(drop=True))


def refuse_labelled_pretraining(
    dataset: Dataset, origin: Mapping[str, Any], file: Path, allowed: bool, same: str
) -> None:
    """Raise GuardError where weights were taught with labels elsewhere: what they have seen there is not listed.

    `same` names the options by which the command gets the images and the split of another run.
    """
    ancestors = origin.get("ancestors", [])
    if not has_outside_labels(ancestors, fingerprint_split(dataset), dataset.fingerprint):
        return
    told = (
        f"{file} was trained with labels on other images than {dataset.name}, on another split of them, or from "
        "weights that were: it may know the test images."
    )
    if not allowed:
        raise GuardError(
            told,
            f"Give {same},",
            "or say allow=[pretraining], which stays on record.",
        )
    print_line(f"warning: {told}", file=sys.stderr)


def _inherit_origin(earlier: Run, folder: Path) -> dict[str, Any]:
    """Give what an earlier run's weights came from, with its own training where that was allowed to know too much."""
    if earlier.pretraining is not None and earlier.folder is not None:
        shutil.copyfile(earlier.folder / PRETRAINING_LIST, folder / PRETRAINING_LIST)
    init = dict(earlier.record.get("init") or {"weights": earlier.card.weights})
    allow = earlier.record.get("allow") or []
    if "pretraining" not in allow:
        return init
    return init | {"ancestors": [*earlier.ancestors, describe_training(earlier.card, earlier.checkpoint_sha256, allow)]}


def build_preprocessing(net: nn.Module, data: ImagesConfig, card: Card | Pretraining | None) -> Preprocessing:
    """Give how images are prepared: as the options say, normalised as the weights expect.

    `card` is that of the weights, which says how images were when these learned, where they have one of ours.
    """
    stated = (card.preprocessing["mean"], card.preprocessing["std"]) if card else get_normalisation(net)
    mean, std = (tuple(map(float, values)) for values in stated)
    return Preprocessing(data.image_size or 224, data.resize or "squash", mean, std, data.equalise)  # type: ignore[arg-type]


def check_pretraining_overlap(dataset: Dataset, seen: Dataset, file: Path, allowed: bool) -> None:
    """Raise GuardError where test images are among those of a pretraining; warn where images of val are."""
    if gone := len(seen) - len(seen.available):
        print_line(
            f"warning: {gone} of {len(seen)} images that {file} has seen are gone: near-duplicates of them are not "
            "looked for",
            file=sys.stderr,
        )
    for sides in (("test",), ("val", "calibration")):
        part = dataset.take(dataset.frame["split"].isin(sides), name=sides[0])
        shared = mark_shared_images(part, seen)
        if not shared.any():
            continue
        told = (
            f"{int(shared.sum())} of {len(part)} {sides[0]} images, their near-duplicates or others of their groups "
            f"were in the pretraining of {file}, first {part.frame.loc[shared, 'path'].iat[0]}."
        )
        if sides[0] == "test" and not allowed:
            raise GuardError(
                told,
                "Figures on images that the network has seen say nothing of new ones: pretrain with the same data=",
                "and data.split= options, or say allow=[pretraining], on record; evaluate then wants allow=[overlap].",
            )
        print_line(f"warning: {told}", file=sys.stderr)

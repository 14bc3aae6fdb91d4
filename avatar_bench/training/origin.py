"""Origin of a training's weights and of the answers that it learns: checked against its test images, and recorded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from avatar_bench.config.catalogue import WEIGHTS_CHOICES
from avatar_bench.console.terminal import print_note
from avatar_bench.data.dataset import Dataset, read_split, write_split
from avatar_bench.data.leakage import mark_shared_images
from avatar_bench.data.splits import fingerprint_split
from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.backbones import find_licence
from avatar_bench.models.model_card import describe_training, has_outside_labels
from avatar_bench.models.pretrained_backbone import PretrainedWeights, Pretraining, read_weights
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.record import list_licences
from avatar_bench.runs.run import Run
from avatar_bench.runs.run_images import PRETRAINING_LIST

if TYPE_CHECKING:
    from avatar_bench.commands.train import TrainConfig


@dataclass(frozen=True)
class Origin:
    """Where the weights of a training come from, and the teacher whose answers it learns; `entry` is for run.json.

    `earlier` is the run of init_from; without it, `weights` are the tensors of a file, or a keyword such as hub.
    """

    classes: tuple[str, ...]  # of the network, in its order
    earlier: Run | None
    weights: str | PretrainedWeights
    teacher: Run | None
    entry: dict[str, Any]


def resolve_weights(weights: str) -> str | PretrainedWeights:
    """Read the file named by model.weights, once; return keywords such as `hub` or `none` unchanged."""
    return weights if weights in WEIGHTS_CHOICES else read_weights(Path(weights))


def open_origin(settings: TrainConfig, dataset: Dataset, classes: tuple[str, ...], folder: Path) -> Origin:
    """Open the run of init_from, or the file of weights, and the teacher; raise GuardError on overlap with test images.

    The list of images used in pretraining and by the teacher is written into the run folder, for `evaluate`.
    """
    if settings.init_from:
        earlier = Run.open(settings.init_from)
        origin = Origin(earlier.classes, earlier, "none", None, _inherit_origin(earlier, folder))
    else:
        weights = resolve_weights(settings.model.weights)
        origin = Origin(classes, None, weights, None, _check_weights(weights, settings, dataset, folder))
    return _add_teacher(origin, settings, dataset, folder) if settings.teacher else origin


def _check_weights(
    weights: str | PretrainedWeights, settings: TrainConfig, dataset: Dataset, folder: Path
) -> dict[str, Any]:
    """Return the record entry of the weights; copy the list of the images that they were pretrained on."""
    entry = describe_weights(weights)
    if isinstance(weights, str):
        licence = find_licence(settings.model.backbone, weights, settings.model.package)
        return entry | ({"licence": licence} if licence else {})
    card, allowed = weights.card, "pretraining" in settings.allow
    same = "the same data=, data.split= and mode.shots= options as that run had, or init_from=RUN"
    refuse_labelled_pretraining(dataset, weights, allowed, same)
    if not isinstance(card, Pretraining):
        return entry
    images = card.find_image_list(weights.file)
    check_pretraining_overlap(dataset, read_split(images, Path(card.root)), weights.file, allowed)
    shutil.copyfile(images, folder / PRETRAINING_LIST)
    return entry | {name: getattr(card, name) for name in ("method", "epochs", "images", "images_sha256", "root")}


def describe_weights(weights: str | PretrainedWeights) -> dict[str, Any]:
    """Return the record entry of the weights: file, SHA-256 and, if known, the trainings that produced them."""
    if isinstance(weights, str):
        return {"weights": weights}
    origin = {"weights": str(weights.file.absolute()), "sha256": weights.sha256}
    return origin | ({"ancestors": list(weights.ancestors)} if weights.ancestors else {})


def refuse_labelled_pretraining(dataset: Dataset, weights: PretrainedWeights, allowed: bool, same: str) -> None:
    """Raise GuardError if the weights were pretrained with labels on other data, whose images are not listed.

    `same` names the options that give the command the images and the split of the earlier run.
    """
    if not has_outside_labels(weights.ancestors, fingerprint_split(dataset), dataset.fingerprint):
        return
    message = (
        f"{weights.file} was trained with labels on data other than {dataset.name}, on another split of it, or from "
        "such weights: the test images may be among its training data."
    )
    if not allowed:
        raise GuardError(message, f"Use {same},", "or set allow=[pretraining], which is recorded in the run.")
    print_note(f"warning: {message}")


def _inherit_origin(earlier: Run, folder: Path) -> dict[str, Any]:
    """Return the origin of an earlier run's weights, plus its own training if that had allow=[pretraining]."""
    if earlier.pretraining is not None and earlier.folder is not None:
        shutil.copyfile(earlier.folder / PRETRAINING_LIST, folder / PRETRAINING_LIST)
    entry = dict(earlier.record.init or {"weights": earlier.card.weights})
    allow = earlier.record.allow or []
    if "pretraining" in allow:
        entry["ancestors"] = [*earlier.ancestors, describe_training(earlier.card, earlier.checkpoint_sha256, allow)]
    return entry


def check_pretraining_overlap(
    dataset: Dataset, seen: Dataset, file: Path, allowed: bool, learned: Dataset | None = None
) -> None:
    """Raise GuardError if test images overlap with a pretraining's images; warn if val images do.

    `learned` are those of the images that weights were fitted on, all by default: val images are compared with these.
    """
    if missing := len(seen) - len(seen.available):
        missing_images = f"{missing} of {len(seen)} pretraining images of {file} are missing"
        print_note(f"warning: {missing_images}: their near-duplicates cannot be found")
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
        print_note(f"warning: {message}")


def _add_teacher(origin: Origin, settings: TrainConfig, dataset: Dataset, folder: Path) -> Origin:
    """Open the teacher, a run or an ensemble; raise ConfigError for other classes, GuardError on overlap.

    What the teacher has seen of test images passes on to the network: images that it learned from, that chose its epoch
    and that it was calibrated on. They join those that were used to pretrain the initial weights.
    """
    path = str(settings.teacher)
    # its answers on the images that it was itself trained on are wanted too
    teacher = open_run(path, allow=frozenset(("overlap", "near_duplicates")), workers=settings.data.workers)
    if set(teacher.classes) != set(origin.classes):
        raise ConfigError(
            f"teacher={path} has the classes {', '.join(teacher.classes)}, the data set {', '.join(origin.classes)}.",
            "A network learns from a teacher of the same classes.",
        )
    described = {"run": path, "sha256": teacher.checkpoint_sha256}
    networks = getattr(teacher, "members", ()) or (teacher,)
    if licences := dict.fromkeys(licence for network in networks for licence in list_licences(network.record)):
        described["licence"] = ", ".join(licences)
    entry = origin.entry | {"teacher": described}
    learned, held_out = _list_seen_images(teacher, path)
    if learned or held_out:
        if "images_sha256" in entry:
            learned.append(read_split(folder / PRETRAINING_LIST, Path(str(entry["root"]))))
        images = _join(dataset, [*learned, *held_out])
        # its val images may be those of the network, which chose an epoch in both
        allowed = "pretraining" in settings.allow
        check_pretraining_overlap(dataset, images, Path(path), allowed, learned=_join(dataset, learned))
        write_split(images, folder / PRETRAINING_LIST)
        digest = sha256_of_file(folder / PRETRAINING_LIST)
        entry |= {"root": str(images.root), "images": len(images), "images_sha256": digest}
    return replace(origin, teacher=teacher, entry=entry)


def _list_seen_images(teacher: Run, path: str) -> tuple[list[Dataset], list[Dataset]]:
    """Return the sets that a teacher was fitted on, and those that chose its epoch or calibrated it."""
    if any(used.images is None and used.foreign is None for used in teacher.leakage.used):
        unknown = f"the images that teacher={path} was trained on are unknown"
        print_note(f"warning: {unknown}: overlap with test images is not found")
    learned = [
        images
        for used in teacher.leakage.used
        for images in (used.images and used.images.select_split("train"), used.pretraining, used.foreign)
        if images is not None
    ]
    known = [used.images for used in teacher.leakage.used if used.images is not None]
    held_out = [images.take(images.frame["split"].isin(["val", "calibration"])) for images in known]
    calibrations = [network.decision_calibration for network in (teacher, *getattr(teacher, "members", ()))]
    held_out += [calibration.images for calibration in calibrations if calibration is not None]
    return learned, held_out


def _join(dataset: Dataset, parts: Sequence[Dataset]) -> Dataset:
    """Return the images of several data sets, each once; of a shared run, hashes alone are known."""
    frames = [dataset.frame[:0], *(part.absolute_frame for part in parts)]
    table = pd.concat(frames, ignore_index=True).fillna("").drop_duplicates(["path", "sha256"], ignore_index=True)
    return Dataset("teacher", dataset.root.absolute(), table)

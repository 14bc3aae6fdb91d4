"""Origin of a training's weights and of the answers that it learns: checked against its test images, and recorded."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from avatar_bench.config.catalogue import WEIGHTS_CHOICES
from avatar_bench.console.terminal import print_line
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


def resolve_weights(given: str) -> str | PretrainedWeights:
    """Read the file named by model.weights, once; return keywords such as `hub` or `none` unchanged."""
    return given if given in WEIGHTS_CHOICES else read_weights(Path(given))


def open_origin(settings: TrainConfig, dataset: Dataset, classes: tuple[str, ...], folder: Path) -> Origin:
    """Open the run of init_from, or the file of weights, and the teacher; check what they have seen.

    `classes` are those of the data set. Raises GuardError on overlap with test images. The list of images used in
    pretraining and by the teacher is written into the run folder, where `evaluate` looks for it.
    """
    earlier = Run.open(settings.init_from) if settings.init_from else None
    classes = earlier.classes if earlier else classes
    weights = "none" if earlier else resolve_weights(settings.model.weights)
    if earlier:
        entry = _inherit_origin(earlier, folder)
    else:
        entry = _describe_initial_weights(settings, dataset, folder, weights)
    teacher = None
    if settings.teacher:
        teacher = _open_teacher(settings.teacher, classes, settings.data.workers)
        allowed = "pretraining" in settings.allow
        entry = _record_teacher(teacher, str(settings.teacher), dataset, folder, entry, allowed)
    return Origin(classes, earlier, weights, teacher, entry)


def _describe_initial_weights(
    settings: TrainConfig, dataset: Dataset, folder: Path, weights: str | PretrainedWeights
) -> dict[str, Any]:
    """Return the record entry of the weights; copy the list of the images that they were pretrained on."""
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
    init = dict(earlier.record.init or {"weights": earlier.card.weights})
    allow = earlier.record.allow or []
    if "pretraining" not in allow:
        return init
    return init | {"ancestors": [*earlier.ancestors, describe_training(earlier.card, earlier.checkpoint_sha256, allow)]}


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


def _open_teacher(path: str, classes: tuple[str, ...], workers: int) -> Run:
    """Open a run or an ensemble whose answers are to be learned; raise ConfigError if its classes are others.

    Its answers on the images that it was itself trained on are wanted too.
    """
    teacher = open_run(path, allow=frozenset(("overlap", "near_duplicates")), workers=workers)
    if set(teacher.classes) != set(classes):
        raise ConfigError(
            f"teacher={path} has the classes {', '.join(teacher.classes)}, the data set {', '.join(classes)}.",
            "A network learns from a teacher of the same classes.",
        )
    return teacher


def _record_teacher(
    teacher: Run, path: str, dataset: Dataset, folder: Path, init: dict[str, Any], allowed: bool
) -> dict[str, Any]:
    """Return the record entry on the origin of a network, `init`, with its teacher; raise GuardError on overlap.

    What the teacher has seen of test images passes on to the network: images that it learned from, that chose its epoch
    and that it was calibrated on. They join those that were used to pretrain the initial weights, in the run folder,
    where `evaluate` looks for them.
    """
    entry = {"run": path, "sha256": teacher.checkpoint_sha256}
    networks = getattr(teacher, "members", ()) or (teacher,)
    if licences := dict.fromkeys(licence for one in networks for licence in list_licences(one.record)):
        entry["licence"] = ", ".join(licences)
    origin = init | {"teacher": entry}
    if any(used.images is None and used.foreign is None for used in teacher.leakage.used):
        warning = f"the images that teacher={path} was trained on are unknown: overlap with test images is not found"
        print_line(f"warning: {warning}", file=sys.stderr)
    learned = [
        images
        for used in teacher.leakage.used
        for images in (used.images and used.images.select_split("train"), used.pretraining, used.foreign)
        if images is not None
    ]
    known = [used.images for used in teacher.leakage.used if used.images is not None]
    held_out = [images.take(images.frame["split"].isin(["val", "calibration"])) for images in known]
    calibrations = [one.decision_calibration for one in (teacher, *getattr(teacher, "members", ()))]
    held_out += [calibration.images for calibration in calibrations if calibration is not None]
    if not learned and not held_out:
        return origin
    if "images_sha256" in init:
        learned.append(read_split(folder / PRETRAINING_LIST, Path(str(init["root"]))))
    images = _join(dataset, [*learned, *held_out])
    # its val images may be those of the network, which chose an epoch in both
    check_pretraining_overlap(dataset, images, Path(path), allowed, learned=_join(dataset, learned))
    write_split(images, folder / PRETRAINING_LIST)
    digest = sha256_of_file(folder / PRETRAINING_LIST)
    return origin | {"root": str(images.root), "images": len(images), "images_sha256": digest}


def _join(dataset: Dataset, parts: Sequence[Dataset]) -> Dataset:
    """Return the images of several data sets, each once; of a shared run, hashes alone are known."""
    frames = [dataset.frame[:0], *(part.absolute_frame for part in parts)]
    table = pd.concat(frames, ignore_index=True).fillna("").drop_duplicates(["path", "sha256"], ignore_index=True)
    return Dataset("teacher", dataset.root.absolute(), table)

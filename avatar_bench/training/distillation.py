"""Answers of a teacher, from which a network learns instead of labels (knowledge distillation, Hinton et al. 2015)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.dataset import Dataset, read_split, write_split
from avatar_bench.errors import ConfigError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.record import list_licences
from avatar_bench.runs.run import PRETRAINING_LIST, Run
from avatar_bench.training.initial_weights import check_pretraining_overlap


def open_teacher(path: str, classes: tuple[str, ...], **options: Any) -> Run:
    """Open a run or an ensemble whose answers are to be learned; raise ConfigError if its classes are others.

    Its answers on the images that it was itself trained on are wanted too.
    """
    teacher = open_run(path, allow=frozenset(("overlap", "near_duplicates")), **options)
    if set(teacher.classes) != set(classes):
        raise ConfigError(
            f"teacher={path} has the classes {', '.join(teacher.classes)}, the data set {', '.join(classes)}.",
            "A network learns from a teacher of the same classes.",
        )
    return teacher


def ask_teacher(teacher: Run, images: Dataset, classes: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the calibrated probabilities (N, C) of a teacher for images, labelled or not, by class in `classes`."""
    unlabelled = int((images.frame["label"] == "").sum())
    some = f", {unlabelled} of them without a label" * bool(unlabelled)
    print_line(f"learning the answers of {teacher.name} on {format_count(len(images), 'image')}{some}", file=sys.stderr)
    return teacher.predictions(images).reorder(classes).probabilities.astype(np.float32)


def record_teacher(
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
